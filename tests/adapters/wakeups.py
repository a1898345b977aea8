"""What tests of every bus over a server share: buses by a clock of the test's own, and waiting for them."""

import asyncio
import contextlib

from mintmark.adapters.line import LONGEST, PAUSE
from mintmark.system import SYSTEM_CLOCK

PATIENT = 100.0
"""Real seconds for what another process does; a test that passes does not wait for them."""
LONG = 600.0


@contextlib.asynccontextmanager
async def opened(bus):
    """``bus``, open for the length of a block."""
    await bus.open()
    try:
        yield bus
    finally:
        await bus.close()


async def until(condition, what, passing=None):
    """Return once ``condition`` holds; ``passing`` is a clock on which time passes meanwhile.

    Again and again: a pause that has not begun yet would miss a single step.
    """
    deadline = SYSTEM_CLOCK.monotonic() + PATIENT
    due = SYSTEM_CLOCK.monotonic()
    while not condition():
        assert SYSTEM_CLOCK.monotonic() < deadline, what
        # Slowly: a clock that runs away has the bus take its server for silent.
        if passing is not None and SYSTEM_CLOCK.monotonic() >= due:
            passing.advance(PAUSE)
            due = SYSTEM_CLOCK.monotonic() + 1
        await asyncio.sleep(0.01)


async def listening(bus):
    """A subscription of a bus that is connected, has told everybody so, and may wake them again at once."""

    def connected():
        if not bus._line._connecting:
            bus._clock.advance(LONGEST)
        elif bus._line._connected and bus._waking._asked.is_set():
            # Woken by another that connected just now.
            bus._clock.advance(PAUSE)
        return bus._line._connected and not bus._waking._asked.is_set()

    await until(connected, "the bus connected")
    bus._clock.advance(PAUSE)
    return bus.subscribe()


async def missed(*buses):
    """The reasons of ``buses`` once each of them has lost its server."""
    await until(lambda: all(bus.state.reason for bus in buses), "it was missed")
    return [bus.state.reason for bus in buses]


def counting(bus):
    """A list that grows by one with each notification of another process, which go their way as before."""
    line, heard = bus._line, []
    pass_on = line._heard

    def count():
        heard.append(1)
        pass_on()

    line._heard = count
    return heard


async def hears(subscription):
    """Whether the subscription is woken."""
    return await asyncio.wait_for(subscription.wait(LONG), PATIENT)


async def heard(subscription, *buses):
    """Return once the subscription is woken; ``buses`` have time pass meanwhile, for one that was woken just
    now wakes again after a pause."""
    waiting = asyncio.ensure_future(subscription.wait(LONG))
    deadline = SYSTEM_CLOCK.monotonic() + PATIENT
    while not waiting.done():
        assert SYSTEM_CLOCK.monotonic() < deadline, "it was heard"
        for clock in {bus._clock for bus in buses}:
            clock.advance(PAUSE)
        await asyncio.wait({waiting}, timeout=0.05)
    assert waiting.result()
