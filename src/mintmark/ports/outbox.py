"""Ended sessions whose clients are still to be told: the outbox of OIDC Back-Channel Logout 1.0.

Notices are written only by what ends sessions, in the same transaction, for each session whose client has a
``backchannel_logout_uri`` then; so there is no ``add`` here.

- OUTBOX-1 A session that ended with such a client has exactly one notice, whatever ended it.
- OUTBOX-2 Of any number of claims that race, on any nodes, one gets a notice; nobody else gets it before the
  claim ends, by ``settle``, by ``postpone`` or by the time that it was made for.
- OUTBOX-3 The notices of one client are claimed in the order in which its sessions ended, to the second,
  and one at a time: while the first is claimed or not due, the later ones wait. Clients do not wait for
  each other.
- OUTBOX-4 ``settle`` and ``postpone`` do nothing, and say so, once the claim was lost to another node.
- OUTBOX-5 A notice is kept until it is settled, has expired, or nobody is left to be told: its client is
  gone, or wants to hear of nothing any more.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from mintmark.units import ClientId, Issuer, NodeId, NumericDate, Rid, Seconds, Sub

GIVEN_UP_AFTER: Final = Seconds(3 * 86_400)
"""How long a notice is worth another attempt: longer than a weekend for which a client is down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutNotice:
    """One session that ended, and where its client wants to hear of it."""

    issuer: Issuer
    rid: Rid
    client_id: ClientId
    sub: Sub
    ended_at: NumericDate
    uri: str
    attempts: int
    """Deliveries that failed so far."""
    expires_at: NumericDate
    """When it is given up."""


class LogoutOutbox(Protocol):
    """What delivers notices asks."""

    async def claim(
        self, issuer: Issuer, node: NodeId, *, span: Seconds, limit: int
    ) -> tuple[LogoutNotice, ...]:
        """Up to ``limit`` notices that are due, of as many clients, for ``node`` to deliver in ``span``."""
        ...

    async def settle(self, notice: LogoutNotice, node: NodeId) -> bool:
        """Remove it: it was delivered, or never can be; whether ``node`` still had it."""
        ...

    async def postpone(self, notice: LogoutNotice, node: NodeId, *, span: Seconds) -> bool:
        """Note a failed attempt; it is due again in ``span``. Whether ``node`` still had it."""
        ...

    async def expire(self, issuer: Issuer) -> tuple[LogoutNotice, ...]:
        """Remove what has expired and is not being delivered, at most some hundred at once; those.

        What nobody is left to be told of goes without being mentioned.
        """
        ...

    async def pending(self, issuer: Issuer) -> int:
        """How many wait, claimed ones included."""
        ...
