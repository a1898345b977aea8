"""The revocation log: append-only, in commit order.

Entries are appended only by the operations that they report (``end`` of a session, ``swap`` of a ring, and
so on), in the same transaction; so there is no ``append`` here.

- LOG-1 Readers see every committed entry exactly once, in ``seq`` order without gaps, and never miss one
  that committed late (V1).
- LOG-2 A page never holds an entry whose ``expires_at`` has passed; entries that expired are pruned.
- LOG-3 A cursor that is not of this log, or whose entry the log no longer keeps, is CursorGone; that of the
  newest entry, and that of an empty log, are good for ever.
- LOG-4 A page that is ``complete`` carries the head's cursor; one that is not, that of its last entry.
- LOG-5 No pause of a client can hold up another's append for longer than the lock time-out.
"""

from dataclasses import dataclass
from typing import Protocol

from mintmark.core.log import Cursor, LogPage
from mintmark.units import Issuer, NumericDate


@dataclass(frozen=True, slots=True)
class CursorGone:
    """The log cannot continue from that cursor: take a snapshot."""


class RevocationLog(Protocol):
    """What readers of the log ask."""

    async def read(self, issuer: Issuer, after: Cursor | None, *, limit: int) -> LogPage | CursorGone:
        """Up to ``limit`` unexpired entries behind ``after``, or from the first where it is None."""
        ...

    async def head(self, issuer: Issuer) -> tuple[Cursor, NumericDate]:
        """The cursor behind the newest entry, and the store's time at which it was read."""
        ...

    async def prune(self, issuer: Issuer) -> int:
        """Remove what has expired; how many entries went."""
        ...
