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

from mintmark.errors import VerifierUnavailable
from mintmark.verifier.event import LOGGER

_STOP_PATIENCE: Final = 5.0
PREPARING: Final = threading.RLock()
"""Held while modules are imported for an engine and its clients are made, and across a fork.

A child that inherited a half-done import, or a lock of OpenSSL's that reading certificates takes, would
wait for ever for the thread that was at it, which it does not have.
"""


class Engine:
    """Runs ``main()`` on an event loop in a daemon thread.

    ``lock`` guards what callers and the loop share; it is held for moments only, and never across I/O.
    ``prepare()`` is called on the starting thread, before the engine's, and imports what that one needs.
    ``ended()`` is called, without the lock, whenever the loop does no more for whoever waits for it.
    ``forked()`` is called in a child process, where the thread does not exist any more.
    """

    def __init__(
        self,
        main: Callable[[], Coroutine[Any, Any, None]],
        forked: Callable[[], None],
        *,
        prepare: Callable[[], None] = lambda: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.lock = threading.Lock()
        self._main = main
        self._prepare = prepare
        self._ended = ended
        self._forked = forked
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self.running = False
        """Whether the thread was started in this process; read without the lock on every verification."""
        self.closed = False
        _ENGINES.add(self)

    def start(self) -> None:
        """Start the thread unless it runs; returns at once.

        Raises VerifierUnavailable (``internal``) where that cannot be done now; the next call tries again.
        """
        if self.running or self.closed:
            return
        try:
            with PREPARING:
                self._prepare()
            with self.lock:
                self._start()
        except Exception:  # noqa: BLE001 - no memory, no thread, no descriptor, no module
            LOGGER.exception("a verifier's thread could not be started")
            raise VerifierUnavailable("internal", "the verifier could not be started") from None

    def _start(self) -> None:
        if self.running or self.closed:
            return
        # The loop is made here, so that a failure to make it is the caller's to see.
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._run, args=(loop,), name="mintmark-verifier", daemon=True)
        self._loop, self._thread, self.running = loop, thread, True
        try:
            thread.start()
        except Exception:
            self._loop, self._thread, self.running = None, None, False
            loop.close()
            raise

    def is_current(self) -> bool:
        """Whether the caller is the engine's own thread, which must wait for nothing that it does itself."""
        return self._thread is threading.current_thread()

    def call(self, function: Callable[[], object]) -> None:
        """Have ``function`` run on the loop soon, unless it was closed; must be called without the lock.

        Raises as :meth:`start` does.
        """
        self.start()
        with self.lock:
            # Under the lock, so that the loop cannot close between the question and the call.
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)

    def stop(self) -> None:
        """End the thread and wait for it; nothing can be started any more."""
        with self.lock:
            self.closed = True
            self.running = False
            loop, thread = self._loop, self._thread
            if loop is not None:
                loop.call_soon_threadsafe(self._cancel)
        # Here too: the thread may be busy, or end before it began.
        self._ended()
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

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            main = loop.create_task(self._main())
            self._task = main
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
            # Not in main: a task that is cancelled before its first step runs none of its own clean-up.
            self._ended()

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
    PREPARING.acquire()
    # With every lock held no thread is halfway through a change that the child would inherit.
    _held[:] = list(_ENGINES)
    for engine in _held:
        engine.lock.acquire()


def _after_fork_in_parent() -> None:
    for engine in _held:
        engine.lock.release()
    _held.clear()
    PREPARING.release()


def _after_fork_in_child() -> None:
    for engine in _held:
        engine.reset_after_fork()
    _held.clear()
    PREPARING.release()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
