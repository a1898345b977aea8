"""A process says once that it no longer hears the others, and once that it does again."""

import asyncio
import contextlib

from tests.http.surface import until

from mintmark.adapters.memory_bus import MemoryBus
from mintmark.core.events import WARNINGS, EventName
from mintmark.server.audit import Audit
from mintmark.server.bus_watch import BusWatch
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import FaultyBus


@contextlib.asynccontextmanager
async def watched():
    """A bus that is not open yet and fails on demand, and the events about it."""
    clock, audit = FakeClock(), Audit()
    bus = FaultyBus(MemoryBus(clock=clock), clock=clock)
    watching = asyncio.create_task(BusWatch(bus, audit=audit).run())
    await clock.armed(within=1)
    try:
        yield bus, audit.counts
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await bus.close()


async def test_loss_and_return_are_told_once_each():
    """However often it is looked at, and whatever is announced meanwhile; the loss is a warning."""
    async with watched() as (bus, counts):
        await bus.open()
        for times in (1, 2):
            await bus.cut("nothing listens there")
            await until(lambda: counts[EventName.BUS_LOST] == times)  # noqa: B023
            await bus.cut("the server did not answer in time")
            await bus.announce()
            assert counts[EventName.BUS_RESTORED] == times - 1
            await bus.mend()
            await until(lambda: counts[EventName.BUS_RESTORED] == times)  # noqa: B023
            assert counts[EventName.BUS_LOST] == times
    assert EventName.BUS_LOST in WARNINGS


async def test_bus_that_has_not_connected_yet_is_no_loss():
    """Only an attempt that failed is."""
    async with watched() as (bus, counts):
        for _ in range(3):
            await bus.announce()
            await asyncio.sleep(0)
        assert not bus.state.is_up
        assert not counts
        await bus.open()
        await bus.announce()
        await asyncio.sleep(0)
        assert bus.state.is_up
        assert not counts
