"""Callers that wait for news: each has a deadline, and giving up disturbs nobody else."""

import asyncio
import contextlib
import heapq
from concurrent.futures import Future, InvalidStateError
from typing import Final

from mintmark.ports.clock import Clock

MAX_WAITING: Final = 4096


async def sleep_until(clock: Clock, deadline: float, event: asyncio.Event) -> bool:
    """Whether ``event`` was set before monotonic ``deadline``; it is cleared then."""
    span = deadline - clock.monotonic()
    if not event.is_set() and span > 0:
        timer = asyncio.ensure_future(clock.sleep(span))
        waiting = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({timer, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            waiting.cancel()
            await asyncio.gather(timer, waiting, return_exceptions=True)
    seen = event.is_set()
    event.clear()
    return seen


class Waiters:
    """Futures that the next news, or their deadline, resolves; the engine's lock guards them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Future[None]]] = []
        self._count = 0

    def add(self, deadline: float) -> tuple["Future[None]", bool] | None:
        """A future, and whether its deadline is now the first; None when too many wait already."""
        if len(self._heap) >= MAX_WAITING:
            return None
        future: Future[None] = Future()
        self._count += 1
        heapq.heappush(self._heap, (deadline, self._count, future))
        return future, self._heap[0][2] is future

    def first(self) -> float | None:
        """The first deadline (monotonic)."""
        return self._heap[0][0] if self._heap else None

    def take_expired(self) -> list["Future[None]"]:
        """Those whose deadline has passed; the caller settles them, without the lock."""
        expired = []
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            expired.append(heapq.heappop(self._heap)[2])
        return expired

    def take_all(self) -> list["Future[None]"]:
        """Everyone who waits; the caller settles them, without the lock."""
        taken = [entry[2] for entry in self._heap]
        self._heap.clear()
        return taken


def settle(futures: list["Future[None]"]) -> None:
    """Wake whoever waits for ``futures``."""
    for future in futures:
        # A caller in asyncio that was cancelled has cancelled its own future, and only that.
        with contextlib.suppress(InvalidStateError):
            future.set_result(None)
