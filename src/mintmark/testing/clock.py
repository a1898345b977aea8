"""A clock that stands still until a test moves it.

Code that waits on it arms a *timer*; a test that wants to see what happens five minutes later first
waits until the timer that it means is armed, and only then moves time. Nothing sleeps, and nothing
depends on how fast the machine is::

    clock = FakeClock(1_800_000_000)
    task = asyncio.create_task(rotation(clock))     # sleeps 300 s somewhere inside
    await clock.armed(within=300)                   # until it does
    clock.advance(300)
    await task

Both waits exist for threads too, for code that runs its own event loop in one.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from mintmark.units import NumericDate

_PATIENCE: Final = 20.0
"""Real seconds after which a wait for a timer fails: a mistake in a test ends, it does not hang."""


class FakeClock:
    """:class:`mintmark.ports.clock.Clock` that a test moves by hand; safe to share between threads.

    Also a plain callable that gives the time in seconds, for code that takes one.
    """

    def __init__(self, start: int = 1_800_000_000) -> None:
        self._start = start
        self._elapsed = 0.0
        self._timers: list[_Timer] = []
        self._watchers: list[_Watcher] = []
        self._listeners: list[Callable[[], None]] = []
        self._changed = threading.Condition()

    def __call__(self) -> NumericDate:
        """The time, as :meth:`now` gives it."""
        return self.now()

    def now(self) -> NumericDate:
        """Wall-clock time, whole seconds, rounded down."""
        return NumericDate(int(self._start + self._elapsed))

    def monotonic(self) -> float:
        """Seconds that this clock has been moved since it was made; a :meth:`step` does not count."""
        return self._elapsed

    async def sleep(self, span: float) -> None:
        """Arm a timer and wait until a test has moved time past it."""
        if span <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        with self._changed:
            timer = _Timer(self._elapsed + span, loop, loop.create_future())
            self._timers.append(timer)
            self._tell_watchers()
            self._changed.notify_all()
        try:
            await timer.done
        finally:
            with self._changed:
                self._timers.remove(timer)

    def advance(self, span: float) -> None:
        """Move time ``span`` seconds on, at once, and wake whatever was armed for then or before.

        What it wakes runs later, on its own loop: wait for what it does, not for this call.
        """
        if span < 0:
            raise ValueError("time does not go back; step() moves the wall clock alone")
        with self._changed:
            self._elapsed += span
            due = sorted((t for t in self._timers if t.deadline <= self._elapsed), key=lambda t: t.deadline)
            listeners = tuple(self._listeners)
        for timer in due:
            timer.wake()
        for listener in listeners:
            listener()

    def step(self, seconds: int) -> None:
        """Move the wall clock alone, either way, as a correction of the machine's clock does."""
        with self._changed:
            self._start += seconds

    def wait_armed(self, *, within: float, beyond: float = 0.0, count: int = 1) -> None:
        """Block this thread until ``count`` timers are due more than ``beyond``, at most ``within`` s ahead.

        Raises TimeoutError after 20 real seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._count(beyond, within) >= count, _PATIENCE):
                raise TimeoutError(self._nothing_armed(beyond, within))

    async def armed(self, *, within: float, beyond: float = 0.0, count: int = 1) -> None:
        """Wait as :meth:`wait_armed` does, in asyncio."""
        loop = asyncio.get_running_loop()
        watcher = _Watcher(within, beyond, count, loop, loop.create_future())
        with self._changed:
            self._watchers.append(watcher)
            self._tell_watchers()
        try:
            await asyncio.wait_for(watcher.seen, _PATIENCE)
        except TimeoutError:
            raise TimeoutError(self._nothing_armed(beyond, within)) from None
        finally:
            with self._changed:
                self._watchers.remove(watcher)

    def armed_spans(self) -> list[float]:
        """Seconds from now until each armed timer, the first one first."""
        with self._changed:
            return sorted(round(t.deadline - self._elapsed, 3) for t in self._timers)

    def pass_armed(self, span: float) -> None:
        """Block until a timer is due within ``span``, then move time ``span`` on."""
        self.wait_armed(within=span)
        self.advance(span)

    async def pass_time(self, span: float) -> None:
        """Wait until a timer is due within ``span``, then move time ``span`` on."""
        await self.armed(within=span)
        self.advance(span)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """What ends the calls that ``listener`` gets after each :meth:`advance`, on the advancing thread."""
        with self._changed:
            self._listeners.append(listener)

        def end() -> None:
            with self._changed:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    def _nothing_armed(self, beyond: float, within: float) -> str:
        return f"no timer was armed {beyond}-{within} s ahead; armed: {self.armed_spans()}"

    def _count(self, beyond: float, within: float) -> int:
        # A timer that has been woken but has not run yet is over, not armed.
        left = (t.deadline - self._elapsed for t in self._timers)
        return sum(1 for span in left if span > 0 and beyond < span <= within + 1e-6)

    def _tell_watchers(self) -> None:
        for watcher in self._watchers:
            if self._count(watcher.beyond, watcher.within) >= watcher.count:
                watcher.tell()


class _Timer:
    __slots__ = ("deadline", "done", "loop")

    def __init__(
        self, deadline: float, loop: asyncio.AbstractEventLoop, done: "asyncio.Future[None]"
    ) -> None:
        self.deadline = deadline
        self.loop = loop
        self.done = done

    def wake(self) -> None:
        _settle(self.loop, self.done)


class _Watcher:
    __slots__ = ("beyond", "count", "loop", "seen", "within")

    def __init__(
        self,
        within: float,
        beyond: float,
        count: int,
        loop: asyncio.AbstractEventLoop,
        seen: "asyncio.Future[None]",
    ) -> None:
        self.within = within
        self.beyond = beyond
        self.count = count
        self.loop = loop
        self.seen = seen

    def tell(self) -> None:
        _settle(self.loop, self.seen)


def _settle(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[None]") -> None:
    if loop.is_closed():
        return  # its sleeper died with it

    def finish() -> None:
        if not future.done():
            future.set_result(None)

    # A loop may close between the question and the call; then nobody waits any more.
    try:
        loop.call_soon_threadsafe(finish)
    except RuntimeError:
        return
