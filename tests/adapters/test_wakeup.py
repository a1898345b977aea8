"""Subscriptions within one event loop."""

import asyncio

from mintmark.adapters.wakeup import Subscriptions
from mintmark.testing.clock import FakeClock


async def test_end_of_one_wait_wakes_no_later_one():
    """A wait that follows at once on one that was woken waits: else a loop that reads quickly never rests."""
    clock = FakeClock()
    subscriptions = Subscriptions(clock)
    subscription = subscriptions.add()
    first = asyncio.ensure_future(subscription.wait(1.0))
    await clock.armed(within=1.0)
    subscriptions.notify()

    async def again() -> bool:
        assert await first
        return await subscription.wait(1.0)

    second = asyncio.ensure_future(again())
    await asyncio.gather(first)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not second.done()
    clock.advance(1.0)
    assert await second is False
