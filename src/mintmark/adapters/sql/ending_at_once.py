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
    Boolean,
    ColumnElement,
    Connection,
    LargeBinary,
    and_,
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
from mintmark.adapters.sql.ending import (
    REVOKED_NEXT,
    UNREVOKED,
    UNTOLD,
    Ending,
    EndingRows,
    RevokedStep,
    used_at,
    used_behind,
)
from mintmark.adapters.sql.log import LogRows
from mintmark.adapters.sql.schema import clients, log_entries, log_heads, logout_notices, sessions
from mintmark.core.log import MARK_BYTES, denied_until
from mintmark.core.revocation import Kind
from mintmark.core.sessions import EndCause
from mintmark.ports.outbox import GIVEN_UP_AFTER
from mintmark.units import ClientId, Issuer, NumericDate, Rid, Sub

_SEED_BYTES: Final = 32

_columns = sessions.c


def _mark(number: ColumnElement[int]) -> ColumnElement[bytes]:
    """The mark of the entry ``number`` of a statement: from its random seed, since it counts them itself."""
    hashed = func.sha256(bindparam("seed", type_=LargeBinary).op("||")(func.int8send(number)))
    return func.substring(hashed, 1, MARK_BYTES, type_=LargeBinary)


def _locked(name: str, *, some: bool) -> Any:
    """The sessions whose column ``name`` has the value ``which``, or ``most`` of them; locked."""
    of_issuer, alive = _columns.issuer == bindparam("of"), _columns.ended_at.is_(None)
    these = and_(of_issuer, _columns[name] == bindparam("which"), UNREVOKED, alive)
    if some:
        these = and_(
            of_issuer, alive, _columns.rid.in_(select(_columns.rid).where(these).limit(bindparam("most")))
        )
    # Two that end several sessions lock them in one order, or they might wait for each other.
    return select(_columns.rid).where(these).order_by(_columns.rid).with_for_update().cte("locked")


def _ending(which: ColumnElement[bool], ended_at: ColumnElement[int], now: ColumnElement[int]) -> Any:
    """End the sessions that ``which`` picks, as of ``ended_at``; their ``rid``."""
    ended = (
        update(sessions)
        .where(_columns.issuer == bindparam("of"), which, _columns.ended_at.is_(None))
        .values(ended_at=ended_at, end_cause=bindparam("cause"), version=_columns.version + 1)
        .returning(
            _columns.rid,
            _columns.sub,
            _columns.client_id,
            _columns.last_exp,
            _columns.ended_at,
            used_at.label("used_at"),
            (_columns.ended_at if ended_at is now else now).label("now"),
        )
        .cte("ended")
    )
    until = ended.c.last_exp + bindparam("margin", type_=BigInteger)
    events = (
        select(
            ended.c.rid,
            until.label("until"),
            ended.c.now.label("at"),
            func.row_number().over(order_by=ended.c.rid).label("number"),
        )
        .where(until > ended.c.now, ended.c.used_at > bindparam("behind_use", type_=BigInteger))
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
    told = (
        insert(logout_notices)
        .from_select(
            ["issuer", "rid", "client_id", "sub", "ended_at", "attempts", "due_at", "expires_at"],
            select(
                bindparam("of", type_=_columns.issuer.type),
                ended.c.rid,
                ended.c.client_id,
                ended.c.sub,
                ended.c.ended_at,
                literal(0, type_=BigInteger),
                ended.c.ended_at,
                ended.c.now + literal(GIVEN_UP_AFTER, type_=BigInteger),
            )
            .select_from(
                ended.join(
                    clients,
                    and_(
                        clients.c.issuer == bindparam("of", type_=_columns.issuer.type),
                        clients.c.client_id == ended.c.client_id,
                    ),
                )
            )
            .where(bindparam("tells", type_=Boolean), clients.c.backchannel_logout_uri.is_not(None)),
        )
        .cte("told")
    )
    return select(ended.c.rid).add_cte(appended, told)


class EndingRowsAtOnce(EndingRows):
    """:class:`EndingRows` that ends sessions in one statement, their log entries included."""

    ends_at_once = True

    def __init__(self, database: Database, log: LogRows) -> None:
        super().__init__(database, log)
        self._entropy = database.entropy
        now = database.time.expression
        of_one = and_(_columns.rid == bindparam("which"), UNREVOKED)
        self._endings = {"rid": _ending(of_one, now, now)}
        self._endings_of_some = {}
        for name in ("sub", "client_id"):
            all_of, some_of = _locked(name, some=False), _locked(name, some=True)
            self._endings[name] = _ending(_columns.rid == all_of.c.rid, now, now)
            self._endings_of_some[name] = _ending(_columns.rid == some_of.c.rid, now, now)
        revoked = select(_columns.rid).where(
            _columns.issuer == bindparam("of"), REVOKED_NEXT, _columns.ended_at.is_(None)
        )
        locked = revoked.order_by(_columns.rid).with_for_update().cte("locked")
        floor: ColumnElement[int] = bindparam("floor", type_=BigInteger)
        self._ending_revoked = _ending(_columns.rid == locked.c.rid, floor, now)

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
        asked = {"which": which, "most": self.most_at_once, **self._asked(issuer, ending)}
        return tuple(connection.execute(statement, asked).scalars())

    def _asked(self, issuer: Issuer, ending: Ending) -> dict[str, Any]:
        return {
            "of": issuer,
            "cause": ending.cause.value,
            "margin": denied_until(NumericDate(0), ending.timing),
            "behind_use": used_behind(ending.denied, ending.timing),
            "tells": ending.cause not in UNTOLD,
            "seed": self._entropy.token_bytes(_SEED_BYTES),
            "genesis": self._entropy.token_bytes(MARK_BYTES),
            **self._time.parameters(),
        }

    def end_revoked(self, connection: Connection, issuer: Issuer, step: RevokedStep) -> int:
        """As for other databases, in one statement."""
        ending = Ending("rid", EndCause.ADMIN, step.timing, step.denied)
        bounds = {"behind": step.behind, "upto": step.upto, "floor": step.floor}
        asked = {**bounds, **self._asked(issuer, ending)}
        return len(connection.execute(self._ending_revoked, asked).all())
