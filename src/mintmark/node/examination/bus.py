"""Looks at what carries wake-ups: connects as a node does, listens, and announces once for nothing."""

from typing import Final

from mintmark.adapters.registry import make_bus
from mintmark.errors import ConfigurationError
from mintmark.ports.bus import BusState
from mintmark.ports.clock import Clock
from mintmark.server.diagnosis import bus as judged
from mintmark.server.diagnosis.finding import Finding
from mintmark.server.setting import NONE
from mintmark.server.settings import Settings

PATIENCE: Final = 5.0
"""Seconds for a first attempt to come to an end."""
_LOOK: Final = 0.05


async def look_at_bus(settings: Settings, *, clock: Clock) -> tuple[Finding, ...]:
    """Whether a process here would hear the others."""
    if settings.bus == NONE:
        return (judged.of_store_bus(),)
    try:
        bus = make_bus(settings.bus, store=settings.store, clock=clock)
    except ConfigurationError as mistake:
        return (judged.of_missing(settings.bus.partition(":")[0], mistake.reason),)
    await bus.open()
    try:
        ends_at = clock.monotonic() + PATIENCE
        while not _is_decided(bus.state) and clock.monotonic() < ends_at:
            await clock.sleep(_LOOK)
        return (judged.of_bus(bus.state),)
    finally:
        await bus.close()


def _is_decided(state: BusState) -> bool:
    return state.is_up or bool(state.reason)
