"""Bounds on how long things may take, by our own clock, and with one timer for all that share a bound."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mintmark.errors import MintmarkError
from mintmark.ports.clock import Clock

T = TypeVar("T")


class Expiry:
    """Calls back whatever is still waiting ``span`` seconds after it began to.

    The span is one for all, so what began first is due first: one task sleeps for it, and what ends in
    time costs an entry in a dictionary.
    """

    def __init__(self, clock: Clock, span: float) -> None:
        self._clock = clock
        self._span = span
        # A dictionary for its order: what ends in time leaves it from the middle.
        self._waiting: dict[Waiting, None] = {}
        self._sweeper: asyncio.Task[None] | None = None

    def begin(self, expire: Callable[[], None]) -> "Waiting":
        """Have ``expire`` called in ``span`` seconds, unless :meth:`end` comes first."""
        waiting = Waiting(expire, self._clock.monotonic() + self._span)
        self._waiting[waiting] = None
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())
        return waiting

    def end(self, waiting: "Waiting") -> None:
        """It ended in time, or has expired already."""
        self._waiting.pop(waiting, None)

    async def _sweep(self) -> None:
        try:
            while self._waiting:
                first = next(iter(self._waiting))
                left = first.due - self._clock.monotonic()
                if left > 0:
                    await self._clock.sleep(left)
                else:
                    del self._waiting[first]
                    first.expire()
        finally:
            self._sweeper = None


class Waiting:
    """Something that must end by ``due``."""

    __slots__ = ("due", "expire")

    def __init__(self, expire: Callable[[], None], due: float) -> None:
        self.expire = expire
        self.due = due


class Deadline:
    """Ends work that takes longer than ``span`` seconds, and raises ``otherwise()`` in its place."""

    def __init__(self, clock: Clock, span: float, otherwise: Callable[[], MintmarkError]) -> None:
        self._expiry = Expiry(clock, span)
        self._otherwise = otherwise

    async def hold(self, work: Awaitable[T]) -> T:
        """What ``work`` comes to. Past the deadline it is cancelled; cancelling this cancels it too."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be held to a deadline")
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            task.cancel()

        waiting = self._expiry.begin(expire)
        try:
            return await work
        except asyncio.CancelledError:
            # Only our own cancelling is answered; one from outside goes on outwards.
            if expired and task.uncancel() == 0:
                raise self._otherwise() from None
            raise
        finally:
            self._expiry.end(waiting)
