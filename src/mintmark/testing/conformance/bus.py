"""The clauses of :mod:`mintmark.ports.bus`, one test each; every bus runs all of them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from mintmark.ports.bus import Bus
from mintmark.testing.clock import FakeClock

LONG = 600.0
"""Longer than any test moves its clock: a wait that ends sooner was ended by something."""


@dataclass(frozen=True, slots=True)
class BusRig:
    """An open bus, and the clock that it goes by."""

    bus: Bus
    clock: FakeClock
    peer: Callable[[], Awaitable[Bus]]
    """Another open bus of the same cluster, as another process has one."""
    commit: Callable[[], Awaitable[None]]
    """Make a change that the others can read from the store."""
    breakdown: Callable[[], Awaitable[None]]
    """Break what the bus runs on."""
    mend: Callable[[], Awaitable[None]] | None
    """Undo that; None for a bus that cannot break."""


async def _settled(task: "asyncio.Future[bool]") -> bool:
    # Real seconds, and only for a test that fails: what passes never waits for them.
    return await asyncio.wait_for(asyncio.shield(task), 20)


class BusConformance:
    """BUS-1 to BUS-6."""

    async def test_announcement_wakes_every_subscription_of_the_process(self, rig: BusRig) -> None:
        """BUS-1: all that wait return True, without any time passing, as often as something is announced."""
        subscriptions = [rig.bus.subscribe() for _ in range(3)]
        for _ in range(3):
            waiting = [asyncio.ensure_future(s.wait(LONG)) for s in subscriptions]
            await rig.clock.armed(within=LONG, beyond=1, count=3)
            await rig.bus.announce()
            assert [await _settled(task) for task in waiting] == [True, True, True]

    async def test_subscription_of_another_process_wakes_within_250_ms(self, rig: BusRig) -> None:
        """BUS-2, BUS-5: a quarter of a second after the commit every other bus has heard of it."""
        peer = await rig.peer()
        subscription = peer.subscribe()
        for _ in range(3):
            waiting = asyncio.ensure_future(subscription.wait(LONG))
            await rig.clock.armed(within=LONG, beyond=1)
            await rig.commit()
            await rig.bus.announce()
            rig.clock.advance(0.25)
            assert await _settled(waiting) is True

    async def test_wait_ends_after_its_timeout(self, rig: BusRig) -> None:
        """BUS-3: with nothing announced the answer is False, once the clock has moved that far."""
        subscription = rig.bus.subscribe()
        waiting = asyncio.ensure_future(subscription.wait(30))
        await rig.clock.armed(within=30, beyond=29)
        rig.clock.advance(29)
        await asyncio.sleep(0)
        assert not waiting.done()
        rig.clock.advance(1)
        assert await _settled(waiting) is False
        assert await subscription.wait(0) is False

    async def test_announcement_between_two_waits_is_not_lost(self, rig: BusRig) -> None:
        """BUS-4: the next wait returns at once, and the one after it waits again."""
        subscription = rig.bus.subscribe()
        await rig.bus.announce()
        await rig.bus.announce()
        assert await _settled(asyncio.ensure_future(subscription.wait(LONG))) is True
        waiting = asyncio.ensure_future(subscription.wait(LONG))
        await rig.clock.armed(within=LONG, beyond=1)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    async def test_cancelled_wait_loses_nothing(self, rig: BusRig) -> None:
        """BUS-4: what is announced while a wait is being cancelled ends the next one."""
        subscription = rig.bus.subscribe()
        waiting = asyncio.ensure_future(subscription.wait(LONG))
        await rig.clock.armed(within=LONG, beyond=1)
        waiting.cancel()
        await rig.bus.announce()
        await asyncio.gather(waiting, return_exceptions=True)
        if waiting.cancelled():
            assert await _settled(asyncio.ensure_future(subscription.wait(LONG))) is True
        else:
            assert waiting.result() is True

    async def test_closed_subscription_wakes_and_hears_nothing_more(self, rig: BusRig) -> None:
        """BUS-3: closing the subscription, or the bus, ends a waiting call with False."""
        closed, other = rig.bus.subscribe(), rig.bus.subscribe()
        waiting = [asyncio.ensure_future(s.wait(LONG)) for s in (closed, other)]
        await rig.clock.armed(within=LONG, beyond=1, count=2)
        closed.close()
        assert await _settled(waiting[0]) is False
        await rig.bus.announce()
        assert await closed.wait(LONG) is False
        unread = rig.bus.subscribe()
        await rig.bus.announce()
        unread.close()
        assert await unread.wait(LONG) is False
        assert await _settled(waiting[1]) is True
        last = asyncio.ensure_future(other.wait(LONG))
        await rig.clock.armed(within=LONG, beyond=1)
        await rig.bus.close()
        await rig.bus.close()
        assert await _settled(last) is False

    async def test_broken_bus_raises_nothing(self, rig: BusRig) -> None:
        """BUS-5: announcing goes on to work, and a wait ends by its timeout at the latest."""
        subscription = rig.bus.subscribe()
        await rig.breakdown()
        for _ in range(4):
            rig.clock.advance(0.25)
            await asyncio.sleep(0)
        await rig.bus.announce()
        waiting = asyncio.ensure_future(subscription.wait(5))
        assert await _settled(waiting) is True
        # The loss wakes as well, whenever it is noticed.
        waiting = asyncio.ensure_future(subscription.wait(5))
        await _passing(rig, waiting.done)
        assert waiting.result() in {True, False}

    async def test_bus_says_whether_it_hears(self, rig: BusRig) -> None:
        """BUS-6: its loss has a reason and wakes, and so does its return, after which it hears as before."""
        assert (rig.bus.state.is_up, rig.bus.state.reason) == (True, "")
        assert rig.bus.state.place
        if rig.mend is None:
            return
        subscription = rig.bus.subscribe()
        await rig.breakdown()
        await _passing(rig, lambda: bool(rig.bus.state.reason))
        assert not rig.bus.state.is_up
        assert await _settled(asyncio.ensure_future(subscription.wait(LONG))) is True
        await rig.mend()
        await _passing(rig, lambda: rig.bus.state.is_up)
        assert rig.bus.state.reason == ""
        assert await _settled(asyncio.ensure_future(subscription.wait(LONG))) is True
        peer = await rig.peer()
        elsewhere = peer.subscribe()
        waiting = asyncio.ensure_future(elsewhere.wait(LONG))
        await rig.commit()
        await rig.bus.announce()
        await _passing(rig, waiting.done)
        assert waiting.result() is True


async def _passing(rig: BusRig, condition: Callable[[], bool]) -> None:
    """Let time pass until ``condition`` holds; slowly, for servers and networks need real time."""
    async with asyncio.timeout(60):
        while not condition():
            rig.clock.advance(0.05)
            await asyncio.sleep(0.01)
