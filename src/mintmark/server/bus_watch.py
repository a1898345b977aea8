"""Reports that a process no longer hears the others, and that it hears them again."""

from mintmark.core.events import EventName
from mintmark.ports.bus import Bus
from mintmark.server.audit import Audit
from mintmark.server.ring import POLL


class BusWatch:
    """Records the loss of the bus once, with the reason, and its return once.

    Nothing is lost with it: until it is back, whoever follows the store asks each second.
    """

    def __init__(self, bus: Bus, *, audit: Audit) -> None:
        self._bus = bus
        self._audit = audit
        self._is_lost = False

    async def run(self) -> None:
        """Watch until cancelled."""
        subscription = self._bus.subscribe()
        try:
            while True:
                self._look()
                # The bus wakes us when it goes and when it comes (BUS-6).
                await subscription.wait(POLL)
        finally:
            subscription.close()

    def _look(self) -> None:
        state = self._bus.state
        if not self._is_lost and state.reason:
            self._is_lost = True
            self._audit.record(EventName.BUS_LOST, bus=state.place, reason=state.reason)
        elif self._is_lost and state.is_up:
            self._is_lost = False
            self._audit.record(EventName.BUS_RESTORED, bus=state.place)
