"""Revocation by time: one event, whatever the number of the tokens and sessions that it ends (design 6.1)."""

import contextlib
from dataclasses import dataclass
from typing import Final

from mintmark.core.directory import check_client_id
from mintmark.core.events import EventName
from mintmark.core.log import not_before
from mintmark.core.minting import BACKDATED
from mintmark.core.sessions import EndCause
from mintmark.core.timing import Timing
from mintmark.errors import NotFound, Unavailable
from mintmark.ports.bus import Bus
from mintmark.ports.clock import Clock
from mintmark.ports.store import Store
from mintmark.server.audit import Audit
from mintmark.server.setting import shown
from mintmark.units import ClientId, Issuer, NumericDate, Seconds

_ROUND: Final = 5.0
"""Seconds between two looks where nobody announces anything."""
_PAUSE: Final = 0.5
"""Seconds between two looks at the least: each log-in is announced."""
_BREATH: Final = 0.02


@dataclass(frozen=True, slots=True)
class Recall:
    """What was revoked: tokens with an ``iat`` up to ``not_before``, at the store's time ``at``."""

    not_before: NumericDate
    at: NumericDate

    @property
    def mints_from(self) -> NumericDate:
        """From when on tokens are minted again: the first second whose ``iat`` is behind ``not_before``."""
        return NumericDate(max(self.at, self.not_before + BACKDATED + 1))

    @property
    def pause(self) -> Seconds:
        """How long nothing is minted; zero where ``not_before`` lies far enough back."""
        return Seconds(self.mints_from - self.at)


async def foresee(store: Store, *, timing: Timing, before: NumericDate | None) -> Recall:
    """What a revocation now would come to; changes nothing."""
    now = await store.now()
    return Recall(not_before(now, timing, before=before), now)


async def revoke_everything(
    store: Store, issuer: Issuer, *, timing: Timing, audit: Audit, before: NumericDate | None = None
) -> Recall:
    """Every token issued until now, or until ``before``, is refused, and every session that began by then
    has ended: at once, though nodes write so into the rows bit by bit."""
    denied = await store.revocations.revoke_all(
        issuer, cause=EndCause.ADMIN.value, timing=timing, before=before, sessions=True
    )
    audit.record(EventName.TOKENS_REVOKED, not_before=denied, cause=EndCause.ADMIN.value)
    return Recall(denied, await store.now())


async def revoke_tokens_of(
    store: Store,
    issuer: Issuer,
    client_id: ClientId,
    *,
    timing: Timing,
    audit: Audit,
    before: NumericDate | None = None,
) -> Recall:
    """Every token issued to a client until now, or until ``before``, is refused; its sessions go on."""
    denied = await store.revocations.revoke_client(
        issuer, client_id, cause=EndCause.ADMIN.value, timing=timing, before=before
    )
    audit.record(EventName.TOKENS_REVOKED, client_id=client_id, not_before=denied, cause=EndCause.ADMIN.value)
    return Recall(denied, await store.now())


async def named(store: Store, issuer: Issuer, client_id: str) -> ClientId:
    """``client_id`` if there is such a client; raises NotFound.

    What a client that was removed had been given was revoked with it.
    """
    try:
        checked = check_client_id(client_id)
    except ValueError:
        checked = None
    if checked is None or await store.directory.client(issuer, checked) is None:
        raise NotFound(f'there is no client "{shown(client_id)}"')
    return checked


async def finish(
    issuer: Issuer, *, store: Store, bus: Bus, clock: Clock, timing: Timing, audit: Audit
) -> None:
    """Until cancelled: write into the rows of ended sessions that they ended, some at a time.

    They count as ended before that. But what a spared moment gave them is denied only now, each by its own
    event, and so are their clients told. A store that is away is tried again.
    """
    subscription = bus.subscribe()
    try:
        while True:
            ended = 0
            with contextlib.suppress(Unavailable):
                while some := await store.revocations.end_revoked(issuer, timing=timing):
                    ended += some
                    await bus.announce()
                    # Whoever logs out meanwhile must not wait for a million others.
                    await clock.sleep(_BREATH)
            if ended:
                audit.record(EventName.SESSIONS_ENDED, sessions=ended, cause=EndCause.ADMIN.value)
            await clock.sleep(_PAUSE)
            await subscription.wait(_ROUND)
    finally:
        subscription.close()
