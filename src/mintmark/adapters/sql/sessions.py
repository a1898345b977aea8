"""Refresh sessions in SQL: one row each, changed by one conditional statement."""

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    delete,
    insert,
    or_,
    select,
    update,
)

from mintmark.adapters.sql.database import Collision, Database, is_storable
from mintmark.adapters.sql.directory import user_of
from mintmark.adapters.sql.ending import BOUND, NEXT, OF_ISSUER, Ending, EndingRows, end_most, sessions_floor
from mintmark.adapters.sql.schema import clients, sessions, users
from mintmark.adapters.sql.session_row import row_of, session_of
from mintmark.core.directory import User
from mintmark.core.sessions import EndCause, Redeem, Session
from mintmark.core.timing import Timing
from mintmark.ports.sessions import KEPT_FOR, SessionView
from mintmark.units import Issuer, NumericDate, Rid, Sub

_REMOVED_AT_ONCE = 500

_columns = sessions.c


_OF_USER = "user_"
# With its user, who bounds what it may be refreshed to: one way to the database less for each refresh.
_READ = (
    select(
        sessions,
        sessions_floor("issuer").label("sessions_floor"),
        *(column.label(_OF_USER + column.name) for column in users.c),
    )
    .select_from(
        sessions.outerjoin(users, and_(users.c.issuer == _columns.issuer, users.c.sub == _columns.sub))
    )
    .where(_columns.issuer == bindparam("issuer"), _columns.rid == bindparam("rid"))
)


# The user's and the client's rows are locked where the database has row locks: a user who is disabled in
# the same moment is disabled before, and nothing starts, or after, and the session is among those ended.
def _start(now: ColumnElement[int]) -> Any:
    return insert(sessions).from_select(
        [column.name for column in _columns],
        select(*(bindparam(column.name, type_=column.type) for column in _columns))
        .select_from(users.join(clients, users.c.issuer == clients.c.issuer))
        .where(
            users.c.issuer == bindparam("of"),
            users.c.sub == bindparam("user_sub"),
            users.c.password_hash == bindparam("user_password_hash"),
            users.c.disabled_at.is_(None),
            or_(users.c.locked_until.is_(None), users.c.locked_until <= now),
            clients.c.client_id == bindparam("session_client_id"),
            bindparam("created_at", type_=_columns.created_at.type) > sessions_floor("of"),
        )
        .with_for_update(read=True),
    )


def _larger(column: ColumnElement[int], name: str) -> ColumnElement[int]:
    """The larger of the row's value and the parameter ``name``; MAX() of two has no common spelling."""
    offered: ColumnElement[int] = bindparam(name, type_=column.type)
    return case((column > offered, column), else_=offered)


def _redeem(now: ColumnElement[int]) -> Any:
    """One statement with every guard in it: whoever it changes a row for has won (R1, R5)."""
    same = {
        name: bindparam(f"new_{name}", type_=_columns[name].type)
        for name in (
            "generation",
            "sealed",
            "rotated_at",
            "presented",
            "parent",
            "parent_sealed",
            "parent_spent_at",
            "last_kid",
            "version",
            "used_at",
            "device",
            "address",
        )
    }
    return (
        update(sessions)
        .where(
            _columns.issuer == bindparam("of"),
            _columns.rid == bindparam("which"),
            _columns.version == bindparam("expected"),
            _columns.ended_at.is_(None),
            _columns.created_at > sessions_floor("of"),
            _columns.expires_at > now,
            _columns.idle_until > now,
        )
        .values(
            **same,
            idle_until=_larger(_columns.idle_until, "new_idle_until"),
            last_exp=_larger(_columns.last_exp, "new_last_exp"),
        )
    )


_LIVE = (
    select(sessions)
    .where(
        _columns.issuer == bindparam("issuer"),
        _columns.ended_at.is_(None),
        _columns.created_at > sessions_floor("issuer"),
        _columns.expires_at > bindparam("now"),
        _columns.idle_until > bindparam("now"),
    )
    .order_by(_columns.created_at.desc(), _columns.rid)
    .limit(bindparam("limit"))
)
_LIVE_OF_USER = _LIVE.where(_columns.sub == bindparam("sub"))

_OVER = and_(
    _columns.last_exp <= bindparam("before"),
    or_(
        _columns.ended_at <= bindparam("before"),
        _columns.expires_at <= bindparam("before"),
        _columns.idle_until <= bindparam("before"),
    ),
)
_FIND_OVER = select(_columns.rid).where(OF_ISSUER, NEXT, _columns.created_at <= bindparam("upto"), _OVER)
_REMOVE = delete(sessions).where(
    _columns.issuer == bindparam("of"), _columns.rid.in_(bindparam("rids", expanding=True)), _OVER
)


class SessionRows:
    """The statements on sessions, except those that end them."""

    most_examined = 5_000
    """Sessions that one step of pruning looks at: all of them would be too many for one statement."""

    def __init__(self, database: Database) -> None:
        self._time = database.time
        self._start = _start(database.time.expression)
        self._redeem = _redeem(database.time.expression)
        self._read = _READ.add_columns(database.time.expression.label("store_now"))

    def start(self, connection: Connection, session: Session, user: User) -> bool:
        """As the port's."""
        guarded = {
            "of": session.issuer,
            "user_sub": user.sub,
            "user_password_hash": user.password_hash,
            "session_client_id": session.client_id,
        }
        parameters = {**row_of(session), **guarded, **self._time.parameters()}
        return bool(connection.execute(self._start, parameters).rowcount == 1)

    def read(self, connection: Connection, issuer: Issuer, rid: Rid) -> SessionView:
        """As the port's."""
        asked = {"issuer": issuer, "rid": rid, **self._time.parameters()}
        row = connection.execute(self._read, asked).mappings().first() if is_storable(rid) else None
        if row is None:
            return SessionView(None, self._time.read(connection))
        values = dict(row)
        now = NumericDate(values.pop("store_now"))
        user = {column.name: values.pop(_OF_USER + column.name) for column in users.c}
        return SessionView(session_of(values), now, None if user["sub"] is None else user_of(user))

    def redeem(self, connection: Connection, change: Redeem) -> bool:
        """As the port's, in one statement."""
        before, after = change.before, change.after
        parameters = {
            "of": before.issuer,
            "which": before.rid,
            "expected": before.version,
            "new_generation": after.generation,
            "new_sealed": after.sealed,
            "new_rotated_at": after.rotated_at,
            "new_presented": after.presented,
            "new_parent": after.parent,
            "new_parent_sealed": after.parent_sealed,
            "new_parent_spent_at": after.parent_spent_at,
            "new_last_kid": after.last_kid,
            "new_version": after.version,
            "new_used_at": after.used_at,
            "new_device": after.device,
            "new_address": after.address,
            "new_idle_until": after.idle_until,
            "new_last_exp": after.last_exp,
            **self._time.parameters(),
        }
        return bool(connection.execute(self._redeem, parameters).rowcount == 1)

    def live(
        self, connection: Connection, issuer: Issuer, sub: Sub | None, limit: int
    ) -> tuple[Session, ...]:
        """As the port's ``list``."""
        asked = {"issuer": issuer, "limit": limit, "now": self._time.read(connection)}
        statement = _LIVE if sub is None else _LIVE_OF_USER
        rows = connection.execute(statement, asked if sub is None else {**asked, "sub": sub}).mappings()
        return tuple(session_of(row) for row in rows.all())

    def over(
        self, connection: Connection, issuer: Issuer, behind: NumericDate
    ) -> tuple[tuple[Rid, ...], NumericDate | None]:
        """Of the next sessions that began after ``behind``, those that can matter to nobody any more.

        And when the last of these next ones began, to go on behind; None where there are no more. They are
        ``most_examined``, and those that began in the same second as the last.
        """
        before = NumericDate(self._time.read(connection) - KEPT_FOR)
        asked = {"issuer": issuer, "behind": behind, "before": before}
        bound = connection.execute(BOUND, {**asked, "most": self.most_examined - 1}).scalar()
        # What began later cannot have been over for so long.
        upto = before if bound is None else bound
        found = connection.execute(_FIND_OVER, {**asked, "upto": upto}).scalars()
        return tuple(found), None if bound is None else NumericDate(bound)

    def remove(self, connection: Connection, issuer: Issuer, rids: tuple[Rid, ...]) -> int:
        """Remove those of ``rids`` that can matter to nobody any more; how many went."""
        before = self._time.read(connection) - KEPT_FOR
        return connection.execute(_REMOVE, {"of": issuer, "rids": rids, "before": before}).rowcount


class SqlSessions:
    """:class:`mintmark.ports.sessions.SessionStore` in SQL."""

    def __init__(self, database: Database, rows: SessionRows, ends: EndingRows) -> None:
        self._database = database
        self._rows = rows
        self._ends = ends

    async def start(self, session: Session, *, user: User) -> bool:
        """Whether the session was written; False where the user or the client changed meanwhile."""
        try:
            return await self._database.write(lambda c: self._rows.start(c, session, user), single=True)
        except Collision:
            return False

    async def read(self, issuer: Issuer, rid: Rid) -> SessionView:
        """The row as it is."""
        return await self._database.read(lambda c: self._rows.read(c, issuer, rid), single=True)

    async def redeem(self, change: Redeem) -> bool:
        """Whether ``change.after`` was taken in place of the version of ``change.before``."""
        return await self._database.write(lambda c: self._rows.redeem(c, change), single=True)

    async def end(self, issuer: Issuer, rid: Rid, *, cause: EndCause, timing: Timing) -> bool:
        """Whether this call ended the session."""
        if not is_storable(rid):
            return False
        ended = await self._database.write(
            lambda c: self._ends.end(c, issuer, rid, Ending("rid", cause, timing)),
            single=self._ends.ends_at_once,
        )
        return bool(ended)

    async def end_all(self, issuer: Issuer, sub: Sub, *, cause: EndCause, timing: Timing) -> tuple[Rid, ...]:
        """End every session of a user; those that this call ended."""
        ending = Ending("sub", cause, timing)
        most = await end_most(self._database, self._ends, issuer, sub, ending)
        rest = await self._database.write(
            lambda c: self._ends.end(c, issuer, sub, ending), single=self._ends.ends_at_once
        )
        return most + rest

    async def list(self, issuer: Issuer, *, sub: Sub | None = None, limit: int = 100) -> tuple[Session, ...]:
        """Sessions that have neither ended nor expired, newest first."""
        return await self._database.read(lambda c: self._rows.live(c, issuer, sub, limit))

    async def prune(self, issuer: Issuer) -> int:
        """Remove rows that can matter to nobody any more.

        They are looked for outside any writing transaction, which the search through all rows would hold
        up, and judged again as they are removed. No statement looks at more rows than it has the time for.
        """
        total, behind = 0, NumericDate(-1)
        while True:
            at = behind
            found, last = await self._database.read(lambda c: self._rows.over(c, issuer, at))  # noqa: B023
            for first in range(0, len(found), _REMOVED_AT_ONCE):
                some = found[first : first + _REMOVED_AT_ONCE]
                total += await self._database.write(lambda c: self._rows.remove(c, issuer, some), single=True)  # noqa: B023
            if last is None:
                return total
            behind = last
