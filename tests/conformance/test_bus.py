"""Every bus keeps every clause of its port, also where announcements are repeated and come late."""

import asyncio

import pytest
from tests.http.surface import until

from mintmark.server.ring import POLL
from mintmark.testing.conformance.bus import BusConformance, BusRig
from mintmark.testing.faults import FaultyBus


@pytest.fixture
def rig(bus: BusRig) -> BusRig:
    return bus


class TestBus(BusConformance):
    """The suite, within one process; between processes see tests/adapters/test_sqlite_processes.py."""


async def lose(faulty: FaultyBus, _: BusRig) -> None:
    """Announcements reach nobody."""
    faulty.losing = True


async def repeat(faulty: FaultyBus, _: BusRig) -> None:
    """Each announcement comes three times."""
    faulty.copies = 3


async def delay(faulty: FaultyBus, _: BusRig) -> None:
    """Announcements come late, and so in another order."""
    faulty.lateness = [7.0, 3.5, 0.2]


async def break_down(_: FaultyBus, rig: BusRig) -> None:
    """What carries them is away."""
    await rig.breakdown()


@pytest.mark.parametrize("fault", [lose, repeat, delay, break_down])
async def test_reader_misses_nothing_and_waits_for_a_poll_at_most(bus: BusRig, fault):
    """F20, F25: whatever becomes of announcements, who reads at each wake-up, and after a second without one,
    knows of each change a second later at the most, and of each once more at no other's cost."""
    peer = FaultyBus(await bus.peer(), clock=bus.clock)
    truth, known = [0], [-1]
    subscription = bus.bus.subscribe()

    async def read():
        while True:
            known[0] = truth[0]
            await subscription.wait(POLL)

    reading = asyncio.create_task(read())
    await fault(peer, bus)
    for change in range(1, 6):
        # Its pause begins behind the last change.
        await bus.clock.armed(within=POLL, beyond=POLL / 2)
        truth[0] = change
        await peer.announce()
        # Not a moment more passes: what does not wake it by then never would.
        bus.clock.advance(POLL)
        await until(lambda: known[0] == change)  # noqa: B023
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await peer.close()
