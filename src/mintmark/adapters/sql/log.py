"""The revocation log in SQL: a head row for each issuer, and entries numbered by it.

The head row is raised in the transaction that inserts the entries, so its lock orders writers: numbers are
given in commit order and without gaps, and no reader can pass one that commits late (V1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    RowMapping,
    bindparam,
    case,
    delete,
    insert,
    select,
    update,
)

from mintmark.adapters.sql.database import Database, insert_if_absent
from mintmark.adapters.sql.schema import log_entries, log_heads
from mintmark.core.log import (
    MARK_BYTES,
    Cursor,
    LogEntry,
    LogPage,
    denied_by_time_until,
    not_before,
)
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.timing import Timing
from mintmark.errors import StoreDamaged
from mintmark.ports.revocations import CursorGone
from mintmark.units import ClientId, Issuer, NumericDate

NEVER: Final = NumericDate(-1)
"""Before everything that a store holds."""

_PRUNED_AT_ONCE = 1_000
"""Rows that one transaction removes: a long one would hold up those who log out meanwhile."""

_HEAD = select(log_heads.c.seq, log_heads.c.mark, log_heads.c.genesis).where(
    log_heads.c.issuer == bindparam("issuer")
)
_RAISE = (
    update(log_heads)
    .where(log_heads.c.issuer == bindparam("of"))
    .values(seq=log_heads.c.seq + bindparam("count"), mark=bindparam("newest"))
    .returning(log_heads.c.seq)
)
_INSERT = insert(log_entries)
_MARK = select(log_entries.c.mark).where(
    log_entries.c.issuer == bindparam("issuer"), log_entries.c.seq == bindparam("seq")
)


def _larger(column: ColumnElement[int], name: str) -> ColumnElement[int]:
    """The larger of the row's value and the parameter ``name``, which alone counts where there is none."""
    offered: ColumnElement[int] = bindparam(name, type_=BigInteger)
    return case((column > offered, column), else_=offered)


_PAGE = (
    select(log_entries)
    .where(
        log_entries.c.issuer == bindparam("issuer"),
        log_entries.c.seq > bindparam("seq"),
        log_entries.c.expires_at > bindparam("now"),
    )
    .order_by(log_entries.c.seq)
    .limit(bindparam("limit"))
)
_PRUNE = delete(log_entries).where(
    log_entries.c.issuer == bindparam("of"),
    log_entries.c.seq.in_(
        select(log_entries.c.seq)
        .where(log_entries.c.issuer == bindparam("of"), log_entries.c.expires_at <= bindparam("now"))
        .limit(_PRUNED_AT_ONCE)
        # Where others prune as well, each takes what nobody has taken.
        .with_for_update(skip_locked=True)
    ),
)


_RAISE_FLOORS = (
    update(log_heads)
    .where(log_heads.c.issuer == bindparam("of"))
    .values(
        tokens_floor=_larger(log_heads.c.tokens_floor, "upto"),
        sessions_floor=_larger(log_heads.c.sessions_floor, "ended"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByTime:
    """A revocation by time that is asked for."""

    client_id: ClientId | None
    """Whose tokens it denies; None for those of the whole issuer."""
    cause: str
    timing: Timing
    before: NumericDate | None = None
    sessions: bool = False
    """Whether it ends sessions too."""

    @property
    def kind(self) -> Kind:
        """The kind of its event."""
        return Kind.ALL if self.client_id is None else Kind.CLIENT


class LogRows:
    """The statements of the log; others append through it, inside their transactions."""

    appends_at_once = False
    """Whether :meth:`revoke` is one statement."""

    def __init__(self, database: Database) -> None:
        self._time = database.time
        self._entropy = database.entropy

    def append(
        self,
        connection: Connection,
        issuer: Issuer,
        events: Sequence[tuple[RevocationEvent, str]],
        *,
        at: NumericDate,
    ) -> None:
        """Append ``events``, each with its cause, behind everything that was committed before."""
        if not events:
            return
        marks = [self._entropy.token_bytes(MARK_BYTES) for _ in events]
        raising = {"of": issuer, "count": len(events), "newest": marks[-1]}
        newest = connection.execute(_RAISE, raising).scalar()
        if newest is None:
            self.begin(connection, issuer)
            newest = connection.execute(_RAISE, raising).scalar_one()
        first = newest - len(events) + 1
        rows = [
            {
                "issuer": issuer,
                "seq": seq,
                "mark": mark,
                "kind": event.kind.value,
                "value": event.value,
                "not_before": event.not_before,
                "expires_at": event.expires_at,
                "cause": cause,
                "at": at,
            }
            for seq, mark, (event, cause) in zip(range(first, newest + 1), marks, events, strict=True)
        ]
        connection.execute(_INSERT, rows if len(rows) > 1 else rows[0])

    def revoke(self, connection: Connection, issuer: Issuer, asked: ByTime) -> NumericDate:
        """Append the event of a revocation by time, with all that it changes; up to which ``iat``."""
        now = self._time.read(connection)
        upto = not_before(now, asked.timing, before=asked.before)
        event = RevocationEvent(
            kind=asked.kind,
            value=asked.client_id or "",
            expires_at=denied_by_time_until(upto, asked.timing),
            not_before=upto,
        )
        self.append(connection, issuer, ((event, asked.cause),), at=now)
        if asked.client_id is None:
            ended = min(upto, now) if asked.sessions else NEVER
            connection.execute(_RAISE_FLOORS, {"of": issuer, "upto": upto, "ended": ended})
        return upto

    def begin(self, connection: Connection, issuer: Issuer) -> None:
        """Write the head row of an empty log, where there is none.

        Its mark is random like any other, so that a reader of a store that was made anew is not taken for
        one that has read nothing of this one.
        """
        genesis = self._entropy.token_bytes(MARK_BYTES)
        insert_if_absent(
            connection, log_heads, {"issuer": issuer, "seq": 0, "mark": genesis, "genesis": genesis}
        )

    def head(self, connection: Connection, issuer: Issuer) -> tuple[Cursor, NumericDate] | None:
        """The cursor behind the newest entry, with the store's time; None before :meth:`begin`."""
        # Before the head is read: what was committed earlier than `now` is behind it.
        now = self._time.read(connection)
        row = connection.execute(_HEAD, {"issuer": issuer}).first()
        return None if row is None else (Cursor(row.seq, row.mark), now)

    def page(
        self, connection: Connection, issuer: Issuer, after: Cursor | None, limit: int
    ) -> LogPage | CursorGone | None:
        """As the port's ``read``; None before :meth:`begin`."""
        # Before the snapshot is taken: what is committed later than `now` may be missing from the page, but
        # nothing that was committed earlier.
        now = self._time.read(connection)
        head = connection.execute(_HEAD, {"issuer": issuer}).first()
        if head is None:
            return None
        if after is not None and after.mark != _mark(connection, issuer, after.seq, head):
            return CursorGone()
        asked = {"issuer": issuer, "seq": after.seq if after else 0, "now": now, "limit": limit + 1}
        rows = connection.execute(_PAGE, asked).mappings().all()
        entries = tuple(_entry(row) for row in rows[:limit])
        complete = len(rows) <= limit
        cursor = Cursor(head.seq, head.mark) if complete else entries[-1].cursor
        return LogPage(entries=entries, cursor=cursor, complete=complete, now=now)

    def prune(self, connection: Connection, issuer: Issuer) -> int:
        """Remove some of what has expired; how many entries went, zero once none is left."""
        now = self._time.read(connection)
        return connection.execute(_PRUNE, {"of": issuer, "now": now}).rowcount


def _mark(connection: Connection, issuer: Issuer, seq: int, head: Row[Any, Any, Any]) -> bytes | None:
    """The mark of the place ``seq``; None where the log never had it, or keeps it no longer."""
    # Whoever has read nothing misses nothing: what was pruned meanwhile had expired.
    known: dict[int, bytes] = {0: head.genesis, head.seq: head.mark}
    if seq in known:
        return known[seq]
    kept: bytes | None = connection.execute(_MARK, {"issuer": issuer, "seq": seq}).scalar()
    return kept


def _entry(row: RowMapping) -> LogEntry:
    try:
        event = RevocationEvent(
            kind=Kind(row["kind"]),
            value=row["value"],
            expires_at=row["expires_at"],
            not_before=row["not_before"],
        )
    except ValueError:
        raise StoreDamaged(f"the log entry {row['seq']} cannot be read") from None
    return LogEntry(Cursor(row["seq"], row["mark"]), event, row["cause"], row["at"])
