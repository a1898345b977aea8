"""A bound on how long something may take, by our own clock."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mintmark.errors import MintmarkError
from mintmark.ports.clock import Clock

T = TypeVar("T")


async def within(clock: Clock, span: float, work: Awaitable[T], otherwise: Callable[[], MintmarkError]) -> T:
    """What ``work`` comes to, or ``otherwise()`` raised after ``span`` seconds, with ``work`` cancelled.

    Cancelling this cancels ``work`` too.
    """
    task = asyncio.ensure_future(work)
    timer = asyncio.ensure_future(clock.sleep(span))
    try:
        await asyncio.wait((task, timer), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise otherwise()
        return task.result()
    finally:
        timer.cancel()
        task.cancel()
