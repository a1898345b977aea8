"""How many notices to clients wait, counted now and then: metrics ask nothing of the store."""

from typing import Final

from mintmark.errors import Unavailable
from mintmark.ports.clock import Clock
from mintmark.ports.outbox import LogoutOutbox
from mintmark.units import Issuer

COUNT_EVERY: Final = 10.0


class Backlog:
    """The logout notices of one issuer that wait: ``notices``, which is None while nobody knows."""

    def __init__(self, issuer: Issuer, *, outbox: LogoutOutbox, clock: Clock) -> None:
        self._issuer = issuer
        self._outbox = outbox
        self._clock = clock
        self.notices: int | None = None

    async def run(self) -> None:
        """Count until cancelled."""
        while True:
            try:
                self.notices = await self._outbox.pending(self._issuer)
            except Unavailable:
                self.notices = None
            await self._clock.sleep(COUNT_EVERY)
