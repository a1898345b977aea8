"""The thread that does a verifier's I/O: an event loop of its own, started on demand, again after a fork.

Callers, in threads or in other event loops, never run any I/O themselves. They hand a function to the
loop, or wait for a future that the loop resolves; when one of them gives up, the work goes on.
"""

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final

_STOP_PATIENCE: Final = 5.0


class Engine:
    """Runs ``main()`` on an event loop in a daemon thread.

    ``lock`` guards what callers and the loop share; it is held for moments only, and never across I/O.
    ``forked()`` is called in a child process, where the thread does not exist any more.
    """

    def __init__(self, main: Callable[[], Coroutine[Any, Any, None]], forked: Callable[[], None]) -> None:
        self.lock = threading.Lock()
        self._main = main
        self._forked = forked
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: list[Callable[[], object]] = []
        self.running = False
        """Whether the thread was started in this process; read without the lock on every verification."""
        self.closed = False
        _ENGINES.add(self)

    def start(self) -> None:
        """Start the thread unless it runs; returns at once."""
        with self.lock:
            if self.running or self.closed:
                return
            self.running = True
            self._thread = threading.Thread(target=self._run, name="mintmark-verifier", daemon=True)
            thread = self._thread
        thread.start()

    def call(self, function: Callable[[], object]) -> None:
        """Have ``function`` run on the loop soon; what is handed over before it runs is not lost.

        Must be called without the lock.
        """
        self.start()
        with self.lock:
            loop = self._loop
            if loop is None:
                self._waiting.append(function)
                return
            # Under the lock, so that the loop cannot close between the question and the call.
            loop.call_soon_threadsafe(function)

    def stop(self) -> None:
        """End the thread and wait for it; nothing can be started any more."""
        with self.lock:
            self.closed = True
            self.running = False
            loop, thread = self._loop, self._thread
            self._waiting.clear()
            if loop is not None:
                loop.call_soon_threadsafe(self._cancel)
        if thread is not None and thread is not threading.current_thread() and thread.is_alive():
            thread.join(_STOP_PATIENCE)

    def abandon(self) -> None:
        """End the thread without waiting or locking: the garbage collector calls this at any moment."""
        self.closed = True
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it was closed meanwhile
                loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _run(self) -> None:
        loop = asyncio.new_event_loop()
        try:
            main = loop.create_task(self._main())
            self._task = main
            with self.lock:
                if self.closed:
                    main.cancel()
                self._loop = loop
                for function in self._waiting:
                    loop.call_soon(function)
                self._waiting.clear()
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(main)
            loop.run_until_complete(_end_others())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            with self.lock:
                self._loop = None
                self._task = None
                self.running = False
            loop.close()

    def reset_after_fork(self) -> None:
        """Forget the parent's thread and loop.

        They are kept, not closed: the loop's selector is the same kernel object as the parent's, and
        taking anything out of it would take it out there too.
        """
        _ABANDONED.append((self._loop, self._thread, self._task))
        self.lock = threading.Lock()
        self._loop = None
        self._thread = None
        self._task = None
        self._waiting = []
        self.running = False
        self._forked()


async def _end_others() -> None:
    """Cancel and await what main left behind, as asyncio.run does."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


_ENGINES: Final["weakref.WeakSet[Engine]"] = weakref.WeakSet()
_ABANDONED: Final[list[object]] = []
_held: list[Engine] = []


def _before_fork() -> None:
    # With every lock held no thread is halfway through a change that the child would inherit.
    _held[:] = list(_ENGINES)
    for engine in _held:
        engine.lock.acquire()


def _after_fork_in_parent() -> None:
    for engine in _held:
        engine.lock.release()
    _held.clear()


def _after_fork_in_child() -> None:
    for engine in _held:
        engine.reset_after_fork()
    _held.clear()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
