"""Ended sessions whose clients are still to be told, in SQL: claimed by one conditional statement."""

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)

from mintmark.adapters.sql.database import Database
from mintmark.adapters.sql.schema import clients, logout_notices
from mintmark.ports.outbox import LogoutNotice
from mintmark.units import Issuer, NodeId, Rid, Seconds

_EXPIRED_AT_ONCE = 500

_columns = logout_notices.c
# Written out: behind RETURNING the dialect for SQLite leaves the names of tables out, and then each side
# would be the client's own column, and any client's address the answer.
_URI = (
    select(clients.c.backchannel_logout_uri)
    .where(
        clients.c.issuer == literal_column("logout_notices.issuer"),
        clients.c.client_id == literal_column("logout_notices.client_id"),
    )
    .scalar_subquery()
)
_SHOWN = (
    _columns.issuer,
    _columns.rid,
    _columns.client_id,
    _columns.sub,
    _columns.ended_at,
    _columns.attempts,
    _columns.expires_at,
)


def _claim(now: ColumnElement[int]) -> Any:
    # By its clients, of which there are few, and of each the first by the index: a client that is down for
    # days has many notices, and none of them is looked at but that one.
    others = logout_notices.alias("others")
    first = (
        select(others.c.rid)
        .where(others.c.issuer == clients.c.issuer, others.c.client_id == clients.c.client_id)
        .order_by(others.c.ended_at, others.c.rid)
        .limit(1)
        .scalar_subquery()
    )
    free = or_(_columns.claimed_until.is_(None), _columns.claimed_until <= now)
    due = and_(_columns.due_at <= now, free, _columns.expires_at > now)
    # Where another node claims in the same moment, each takes what the other has not.
    chosen = (
        select(_columns.rid)
        .select_from(
            clients.join(logout_notices, and_(_columns.issuer == clients.c.issuer, _columns.rid == first))
        )
        .where(clients.c.issuer == bindparam("of"), clients.c.backchannel_logout_uri.is_not(None), due)
        .order_by(_columns.due_at)
        .limit(bindparam("most"))
        .with_for_update(of=logout_notices, skip_locked=True)
        .cte("chosen")
    )
    return (
        update(logout_notices)
        .where(_columns.issuer == bindparam("of"), _columns.rid == chosen.c.rid)
        .values(claimed_by=bindparam("node"), claimed_until=now + bindparam("span"))
        .returning(*_SHOWN, _URI.label("uri"))
    )


_HELD = (
    _columns.issuer == bindparam("of"),
    _columns.rid == bindparam("which"),
    _columns.claimed_by == bindparam("node"),
)
_SETTLE = delete(logout_notices).where(*_HELD)
_LISTENING = exists().where(
    clients.c.issuer == _columns.issuer,
    clients.c.client_id == _columns.client_id,
    clients.c.backchannel_logout_uri.is_not(None),
)
_PENDING = select(func.count()).select_from(logout_notices).where(_columns.issuer == bindparam("issuer"))


class OutboxRows:
    """The statements of the outbox, each of which commits itself."""

    def __init__(self, database: Database) -> None:
        self._time = database.time
        now = database.time.expression
        self._claim = _claim(now)
        self._postpone = (
            update(logout_notices)
            .where(*_HELD)
            .values(
                attempts=_columns.attempts + 1,
                due_at=now + bindparam("span"),
                claimed_by=None,
                claimed_until=None,
            )
        )
        free = or_(_columns.claimed_until.is_(None), _columns.claimed_until <= now)
        over = or_(~_LISTENING, and_(_columns.expires_at <= now, free))
        self._over = (
            select(_columns.rid).where(_columns.issuer == bindparam("of"), over).limit(_EXPIRED_AT_ONCE)
        )
        self._expire = (
            delete(logout_notices)
            .where(
                _columns.issuer == bindparam("of"), _columns.rid.in_(bindparam("rids", expanding=True)), over
            )
            .returning(*_SHOWN, _URI.label("uri"))
        )

    def claim(
        self, connection: Connection, issuer: Issuer, node: NodeId, span: Seconds, limit: int
    ) -> tuple[LogoutNotice, ...]:
        """As the port's."""
        asked = {"of": issuer, "node": node, "span": span, "most": limit, **self._time.parameters()}
        return tuple(map(_notice, connection.execute(self._claim, asked).all()))

    def settle(self, connection: Connection, notice: LogoutNotice, node: NodeId) -> bool:
        """As the port's."""
        asked = {"of": notice.issuer, "which": notice.rid, "node": node}
        return connection.execute(_SETTLE, asked).rowcount == 1

    def postpone(self, connection: Connection, notice: LogoutNotice, node: NodeId, span: Seconds) -> bool:
        """As the port's."""
        asked = {"of": notice.issuer, "which": notice.rid, "node": node, "span": span}
        return connection.execute(self._postpone, {**asked, **self._time.parameters()}).rowcount == 1

    def over(self, connection: Connection, issuer: Issuer) -> tuple[Rid, ...]:
        """Some of those that can go."""
        return tuple(connection.execute(self._over, {"of": issuer, **self._time.parameters()}).scalars())

    def expire(
        self, connection: Connection, issuer: Issuer, rids: tuple[Rid, ...]
    ) -> tuple[LogoutNotice, ...]:
        """Remove those of ``rids`` that can go; those of them that somebody was still to be told of."""
        asked = {"of": issuer, "rids": rids, **self._time.parameters()}
        gone = connection.execute(self._expire, asked).all()
        return tuple(_notice(row) for row in gone if row.uri is not None)

    def pending(self, connection: Connection, issuer: Issuer) -> int:
        """As the port's."""
        return int(connection.execute(_PENDING, {"issuer": issuer}).scalar_one())


def _notice(row: Row[Any, *tuple[Any, ...]]) -> LogoutNotice:
    return LogoutNotice(
        issuer=row.issuer,
        rid=row.rid,
        client_id=row.client_id,
        sub=row.sub,
        ended_at=row.ended_at,
        uri=row.uri,
        attempts=row.attempts,
        expires_at=row.expires_at,
    )


class SqlOutbox:
    """:class:`mintmark.ports.outbox.LogoutOutbox` in SQL."""

    def __init__(self, database: Database, rows: OutboxRows) -> None:
        self._database = database
        self._rows = rows

    async def claim(
        self, issuer: Issuer, node: NodeId, *, span: Seconds, limit: int
    ) -> tuple[LogoutNotice, ...]:
        """Up to ``limit`` notices that are due, of as many clients, for ``node`` to deliver."""
        return await self._database.write(
            lambda c: self._rows.claim(c, issuer, node, span, limit), single=True
        )

    async def settle(self, notice: LogoutNotice, node: NodeId) -> bool:
        """Remove it; whether ``node`` still had it."""
        return await self._database.write(lambda c: self._rows.settle(c, notice, node), single=True)

    async def postpone(self, notice: LogoutNotice, node: NodeId, *, span: Seconds) -> bool:
        """Note a failed attempt; whether ``node`` still had it."""
        return await self._database.write(lambda c: self._rows.postpone(c, notice, node, span), single=True)

    async def expire(self, issuer: Issuer) -> tuple[LogoutNotice, ...]:
        """Remove what has expired; those.

        All are looked through, outside any writing transaction, and those that were found judged again.
        """
        found = await self._database.read(lambda c: self._rows.over(c, issuer), single=True)
        if not found:
            return ()
        return await self._database.write(lambda c: self._rows.expire(c, issuer, found), single=True)

    async def pending(self, issuer: Issuer) -> int:
        """How many wait."""
        return await self._database.read(lambda c: self._rows.pending(c, issuer), single=True)
