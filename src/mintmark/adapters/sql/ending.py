"""The end of sessions and its log entries in one statement, for a database whose clients may pause.

Whoever raises the head row of the log holds up everybody else who logs out until he commits (V1). As one
statement that commits itself this takes as long as the server takes, whatever becomes of the client.

The parts of a statement share one snapshot, and two of them that wait for a lock go on with the row as it is
then: the ended sessions, whose ``last_exp`` is what a refresh that was just committed has left, and the
head row. That one is raised by INSERT … ON CONFLICT: a plain UPDATE that is joined to the sessions would be
planned again after the wait, which PostgreSQL refuses where a part of it changes data.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    LargeBinary,
    bindparam,
    func,
    insert,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql

from mintmark.adapters.sql.database import Database
from mintmark.adapters.sql.revocations import LogRows
from mintmark.adapters.sql.schema import log_entries, log_heads, sessions
from mintmark.adapters.sql.sessions import Ending, SessionRows
from mintmark.core.log import MARK_BYTES, denied_until
from mintmark.core.revocation import Kind
from mintmark.units import ClientId, Issuer, NumericDate, Rid, Sub

_SEED_BYTES: Final = 32

_columns = sessions.c


def _mark(number: ColumnElement[int]) -> ColumnElement[bytes]:
    """The mark of the entry ``number`` of a statement: from its random seed, since it counts them itself."""
    hashed = func.sha256(bindparam("seed", type_=LargeBinary).op("||")(func.int8send(number)))
    return func.substring(hashed, 1, MARK_BYTES, type_=LargeBinary)


def _ending(name: str, now: ColumnElement[int], *, some: bool = False) -> Any:
    """End the sessions whose column ``name`` has the value ``which``, or ``most`` of them; their ``rid``."""
    of_issuer, alive = _columns.issuer == bindparam("of"), _columns.ended_at.is_(None)
    which = _columns[name] == bindparam("which")
    if name != "rid":
        # Two that end several sessions lock them in one order, or they might wait for each other.
        these = which
        if some:
            chosen = select(_columns.rid).where(of_issuer, which, alive).limit(bindparam("most"))
            these = _columns.rid.in_(chosen)
        locked = select(_columns.rid).where(of_issuer, these, alive).order_by(_columns.rid)
        which = _columns.rid == locked.with_for_update().cte("locked").c.rid
    ended = (
        update(sessions)
        .where(of_issuer, which, alive)
        .values(ended_at=now, end_cause=bindparam("cause"), version=_columns.version + 1)
        .returning(_columns.rid, _columns.last_exp, _columns.ended_at)
        .cte("ended")
    )
    until = ended.c.last_exp + bindparam("margin", type_=BigInteger)
    events = (
        select(
            ended.c.rid,
            until.label("until"),
            ended.c.ended_at.label("at"),
            func.row_number().over(order_by=ended.c.rid).label("number"),
        )
        .where(until > ended.c.ended_at)
        .cte("events")
    )
    count = func.count(type_=BigInteger)
    raising = postgresql.insert(log_heads).from_select(
        ["issuer", "seq", "mark", "genesis"],
        select(
            bindparam("of", type_=_columns.issuer.type),
            count,
            _mark(count),
            bindparam("genesis", type_=LargeBinary),
        )
        .select_from(events)
        .having(count > 0),
    )
    head = (
        raising.on_conflict_do_update(
            index_elements=[log_heads.c.issuer],
            set_={"seq": log_heads.c.seq + raising.excluded.seq, "mark": raising.excluded.mark},
        )
        .returning(log_heads.c.seq)
        .cte("head")
    )
    before = head.c.seq - select(func.count(type_=BigInteger)).select_from(events).scalar_subquery()
    appended = (
        insert(log_entries)
        .from_select(
            ["issuer", "seq", "mark", "kind", "value", "expires_at", "cause", "at"],
            select(
                bindparam("of", type_=_columns.issuer.type),
                before + events.c.number,
                _mark(events.c.number),
                literal(Kind.RID.value),
                events.c.rid,
                events.c.until,
                bindparam("cause", type_=_columns.end_cause.type),
                events.c.at,
            ).select_from(events.join(head, true())),
        )
        .cte("appended")
    )
    return select(ended.c.rid).add_cte(appended)


class SessionRowsAtOnce(SessionRows):
    """:class:`SessionRows` that ends sessions in one statement, their log entries included."""

    ends_at_once = True

    def __init__(self, database: Database, log: LogRows) -> None:
        super().__init__(database, log)
        self._entropy = database.entropy
        now = database.time.expression
        self._endings = {name: _ending(name, now) for name in ("rid", "sub", "client_id")}
        self._endings_of_some = {name: _ending(name, now, some=True) for name in ("sub", "client_id")}

    def end(
        self, connection: Connection, issuer: Issuer, which: Rid | Sub | ClientId, ending: Ending
    ) -> tuple[Rid, ...]:
        """As for other databases, in one statement."""
        return self._end(connection, self._endings[ending.of], issuer, which, ending)

    def end_some(
        self, connection: Connection, issuer: Issuer, which: Rid | Sub | ClientId, ending: Ending
    ) -> tuple[Rid, ...]:
        """As for other databases, in one statement."""
        return self._end(connection, self._endings_of_some[ending.of], issuer, which, ending)

    def _end(
        self,
        connection: Connection,
        statement: Any,
        issuer: Issuer,
        which: Rid | Sub | ClientId,
        ending: Ending,
    ) -> tuple[Rid, ...]:
        parameters = {
            "of": issuer,
            "which": which,
            "cause": ending.cause.value,
            "margin": denied_until(NumericDate(0), ending.timing),
            "seed": self._entropy.token_bytes(_SEED_BYTES),
            "genesis": self._entropy.token_bytes(MARK_BYTES),
            "most": self.most_at_once,
            **self._time.parameters(),
        }
        return tuple(connection.execute(statement, parameters).scalars())
