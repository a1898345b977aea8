"""Where refresh sessions are kept.

- SESSION-1 Of any number of redemptions decided on one version that change it exactly one is taken (R1).
- SESSION-2 A redemption is taken only while the session has not ended and, by the store's clock, has not
  expired; so nothing in flight survives a logout (R5).
- SESSION-3 ``last_exp`` only rises: the row covers every access token whose minting was committed.
- SESSION-4 Ending a session appends one ``rid`` event in the same transaction, if a token of it may still
  be valid; ending it again appends nothing and keeps the first cause.
- SESSION-5 ``start`` is taken only while the user is enabled and not locked and has the password that was
  checked, and the client exists.
- SESSION-6 A redemption that repeats an answer (same version) does not make another one lose.
- SESSION-7 ``list`` shows what has neither ended nor expired, newest first.
- SESSION-8 ``prune`` removes a row no earlier than KEPT_FOR after the session was over and its last access
  token had expired, and then it does.
- SESSION-9 ``read`` gives the session's user as he is in that moment, or none where he was removed.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from mintmark.core.directory import User
from mintmark.core.sessions import EndCause, Redeem, Session
from mintmark.core.timing import MAX_LEEWAY, Timing
from mintmark.units import Issuer, NumericDate, Rid, Seconds, Sub

KEPT_FOR: Final = Seconds(86_400 + MAX_LEEWAY)
"""How long a row outlives its session and its last token: longer than any leeway and any skew."""


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session's row, its user and the store's time, read together; no user where that one is gone."""

    session: Session | None
    now: NumericDate
    user: User | None = None


class SessionStore(Protocol):
    """One row a session."""

    async def start(self, session: Session, *, user: User) -> bool:
        """Whether the session was written; False where ``user`` was disabled, locked, removed or got
        another password since it was read, or the client is gone."""
        ...

    async def read(self, issuer: Issuer, rid: Rid) -> SessionView:
        """The row as it is."""
        ...

    async def redeem(self, change: Redeem) -> bool:
        """Whether ``change.after`` was taken in place of the version of ``change.before``; False: read
        and decide again."""
        ...

    async def end(self, issuer: Issuer, rid: Rid, *, cause: EndCause, timing: Timing) -> bool:
        """Whether this call ended the session; False where it had ended or never was."""
        ...

    async def end_all(self, issuer: Issuer, sub: Sub, *, cause: EndCause, timing: Timing) -> tuple[Rid, ...]:
        """End every session of a user; those that this call ended.

        In one transaction, or in several where they are too many for one.
        """
        ...

    async def list(self, issuer: Issuer, *, sub: Sub | None = None, limit: int = 100) -> tuple[Session, ...]:
        """Sessions that have neither ended nor expired, newest first."""
        ...

    async def prune(self, issuer: Issuer) -> int:
        """Remove rows that can matter to nobody any more; how many went (SESSION-8)."""
        ...
