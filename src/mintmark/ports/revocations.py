"""The revocation log: append-only, in commit order.

Entries are appended only by the operations that they report (``end`` of a session, ``swap`` of a ring, and
so on), in the same transaction; so there is no ``append`` here, only what revokes and changes nothing else.

- LOG-1 Readers see every committed entry exactly once, in ``seq`` order without gaps, and never miss one
  that committed late (V1).
- LOG-2 A page never holds an entry whose ``expires_at`` has passed; entries that expired are pruned.
- LOG-3 A cursor that is not of this log, or whose entry the log no longer keeps, is CursorGone; that of the
  newest entry, and that of an empty log, are good for ever.
- LOG-4 A page that is ``complete`` carries the head's cursor; one that is not, that of its last entry.
- LOG-5 No pause of a client can hold up another's append for longer than the lock time-out.
- LOG-6 ``revoke_token`` appends at most one event for a ``jti``, counts those of its session and client, and
  does what :func:`mintmark.core.log.admit` says, in one transaction; of any number that race no limit is
  passed (V4). ``is_revoked`` is true from when it returns until the event expires.
- LOG-7 After ``revoke_client`` or ``revoke_all`` every read of a client shows their time as its
  ``not_before``, also of one that is added again under its id; it only rises while a token could be denied.
- LOG-8 A session that ``revoke_all`` ended counts as ended at once: read, redeemed, listed and started.
"""

from dataclasses import dataclass
from typing import Protocol

from mintmark.core.log import Admission, Cursor, LogPage
from mintmark.core.timing import Timing
from mintmark.units import ClientId, Issuer, Jti, NumericDate, Rid


@dataclass(frozen=True, slots=True)
class CursorGone:
    """The log cannot continue from that cursor: take a snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """One access token, by what its claims say."""

    jti: Jti
    client_id: ClientId
    rid: Rid | None
    exp: NumericDate


class RevocationLog(Protocol):
    """What readers of the log ask, and what revokes without ending anything else."""

    async def read(self, issuer: Issuer, after: Cursor | None, *, limit: int) -> LogPage | CursorGone:
        """Up to ``limit`` unexpired entries behind ``after``, or from the first where it is None."""
        ...

    async def head(self, issuer: Issuer) -> tuple[Cursor, NumericDate]:
        """The cursor behind the newest entry, and the store's time at which it was read."""
        ...

    async def prune(self, issuer: Issuer) -> int:
        """Remove what has expired; how many entries went."""
        ...

    async def revoke_token(
        self, issuer: Issuer, token: IssuedToken, *, cause: str, timing: Timing
    ) -> Admission:
        """What revoking ``token`` came to; NOTHING too where it had been revoked before (LOG-6)."""
        ...

    async def is_revoked(self, issuer: Issuer, jti: Jti) -> bool:
        """Whether that one token was revoked; says nothing of its session, its key or its client."""
        ...

    async def revoke_client(
        self,
        issuer: Issuer,
        client_id: ClientId,
        *,
        cause: str,
        timing: Timing,
        before: NumericDate | None = None,
    ) -> NumericDate:
        """Deny every token of a client that was issued until now, or until ``before``; the ``not_before``.

        Without ``before`` it is the store's time, the skew and the propagation, rounded up, so that no node
        that has not heard of it mints a token that lives on. A ``before`` that lies later than that counts
        as none. Whether there is such a client does not matter.
        """
        ...

    async def revoke_all(
        self,
        issuer: Issuer,
        *,
        cause: str,
        timing: Timing,
        before: NumericDate | None = None,
        sessions: bool = False,
    ) -> NumericDate:
        """The same for every token of the issuer; with ``sessions`` every session that began until then, or
        until now where that is earlier, is ended too (LOG-8)."""
        ...

    async def end_revoked(self, issuer: Issuer, *, timing: Timing) -> int:
        """Write into some rows that ``revoke_all`` ended their sessions, so that their clients are told; how
        many, zero once none is left.

        An event is appended only for a session that was used after the time up to which ``revoke_all``
        denied tokens: its event denies those of the others.
        """
        ...
