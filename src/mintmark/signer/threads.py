"""Threads for arithmetic that releases the interpreter's lock, and its results back in the event loop.

A thread pool of the standard library spends as long on its futures as P-256 on a signature; here a job
is a pair of functions, and results that are ready together come back in one turn of the loop.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Threads(Generic[T]):
    """``count`` threads that run jobs in the order in which they came.

    ``done`` gets each job's result, or the exception that it raised, in the loop that was running when
    this was made. The threads end with the process; :meth:`close` ends them earlier.
    """

    def __init__(self, count: int, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Callable[[], T], Callable[[T | Exception], None]] | None] = (
            SimpleQueue()
        )
        self._finished: deque[tuple[Callable[[T | Exception], None], T | Exception]] = deque()
        self._waking = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Run ``job`` in a thread, then ``done`` in the loop."""
        self._jobs.put((job, done))

    def close(self) -> None:
        """Let the threads end once they have run what was submitted; its results are dropped."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._finished.clear()

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            self._finished.append((done, attempt(job)))
            # Set before the result is taken, read after it was put: a result is never left lying.
            if not self._waking:
                self._waking = True
                try:
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:  # The loop is closed, so nobody waits any more.
                    return
            del item, job, done

    def _deliver(self) -> None:
        self._waking = False
        while self._finished:
            done, result = self._finished.popleft()
            done(result)


def attempt(job: Callable[[], Any]) -> Any:
    """What ``job`` returns, or the exception that it raised."""
    try:
        return job()
    except Exception as error:  # noqa: BLE001  Whatever it is, its caller is told, and no thread dies of it.
        return error
