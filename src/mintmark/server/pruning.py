"""Removing what can matter to nobody any more: expired revocations and dead sessions (design 6.1)."""

from typing import Final

from mintmark.core import membership
from mintmark.core.events import EventName
from mintmark.core.timing import Timing
from mintmark.errors import Unavailable
from mintmark.ports.clock import Clock
from mintmark.ports.store import Store
from mintmark.server.audit import Audit
from mintmark.units import Issuer

EVERY: Final = 60.0
"""Seconds between two rounds. Readers leave out what has expired, so nothing hangs on when it goes."""


async def prune(issuer: Issuer, *, store: Store, clock: Clock, timing: Timing, audit: Audit) -> None:
    """Prune once a minute until cancelled; a store that is away is tried again a minute later.

    Nothing is removed by a store's clock that this machine's does not bear out: should it have jumped
    ahead, revocations would be gone that are still needed once it is right again.
    """
    while True:
        await clock.sleep(EVERY)
        try:
            before = clock.now()
            offset = membership.offset(before, await store.now(), clock.now())
            if abs(offset) > timing.clock_skew:
                continue
            revocations = await store.revocations.prune(issuer)
            sessions = await store.sessions.prune(issuer)
        except Unavailable:
            # Who needs the store at once has said so already.
            continue
        if revocations or sessions:
            audit.record(EventName.ROWS_PRUNED, revocations=revocations, sessions=sessions)
