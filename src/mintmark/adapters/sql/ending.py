"""The end of sessions in SQL, with the log entries that deny their tokens and what their clients are told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    case,
    func,
    insert,
    select,
    update,
)

from mintmark.adapters.sql.database import Database
from mintmark.adapters.sql.log import NEVER, LogRows
from mintmark.adapters.sql.schema import clients, log_heads, logout_notices, sessions
from mintmark.core.log import denied_until
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.sessions import EndCause
from mintmark.core.timing import Timing
from mintmark.ports.outbox import GIVEN_UP_AFTER
from mintmark.units import ClientId, Issuer, NumericDate, Rid, Sub

FOREVER: Final = NumericDate(2**62)
UNTOLD: Final = frozenset({EndCause.UNSIGNED, EndCause.CLIENT_REMOVED})
"""Ends of sessions of which no client hears: nobody ever held them, or nobody is left to be told."""

_columns = sessions.c


def sessions_floor(issuer: str) -> ColumnElement[int]:
    """Every session of the issuer in the parameter ``issuer`` that began until then is ended."""
    floor = select(log_heads.c.sessions_floor).where(log_heads.c.issuer == bindparam(issuer))
    return func.coalesce(floor.scalar_subquery(), NEVER)


used_at: ColumnElement[int] = case(
    (_columns.used_at > _columns.rotated_at, _columns.used_at), else_=_columns.rotated_at
)
"""When a token was last asked for; code of an earlier revision leaves one of the columns as it is."""


def _ending(*which: ColumnElement[bool]) -> Any:
    return (
        update(sessions)
        .where(_columns.issuer == bindparam("of"), *which, _columns.ended_at.is_(None))
        .values(ended_at=bindparam("at"), end_cause=bindparam("cause"), version=_columns.version + 1)
        .returning(
            _columns.rid, _columns.sub, _columns.client_id, _columns.last_exp, used_at.label("used_at")
        )
    )


# What `revoke_all` ended is left to the step that ends its rows.
UNREVOKED: Final = _columns.created_at > sessions_floor("of")
# Also those that have expired but are still there: a clock that is set back must not revive them.
_ENDINGS = {
    name: _ending(_columns[name] == bindparam("which"), UNREVOKED) for name in ("rid", "sub", "client_id")
}
REVOKED_NEXT: Final = and_(
    _columns.created_at > bindparam("behind"),
    _columns.created_at <= bindparam("upto"),
    _columns.created_at <= bindparam("floor"),
)
_ENDING_REVOKED = _ending(REVOKED_NEXT)


def _alive(name: str, most: ColumnElement[int]) -> Select[Any]:
    of_issuer, which = _columns.issuer == bindparam("of"), _columns[name] == bindparam("which")
    return select(_columns.rid).where(of_issuer, which, UNREVOKED, _columns.ended_at.is_(None)).limit(most)


_MOST: ColumnElement[int] = bindparam("most", type_=BigInteger)
_ENDINGS_OF_SOME = {name: _ending(_columns.rid.in_(_alive(name, _MOST))) for name in ("sub", "client_id")}
_COUNTS = {
    name: select(func.count()).select_from(_alive(name, _MOST).subquery()) for name in ("sub", "client_id")
}

OF_ISSUER: Final = _columns.issuer == bindparam("issuer")
NEXT: Final = _columns.created_at > bindparam("behind")
# By the index on the time at which sessions began, whose values no refresh changes.
BOUND: Final = (
    select(_columns.created_at)
    .where(OF_ISSUER, NEXT, _columns.created_at <= bindparam("before"))
    .order_by(_columns.created_at)
    .limit(1)
    .offset(bindparam("most"))
)
"""When the last of the next ``most`` + 1 sessions began, where there are so many until ``before``."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Which sessions end (all those with one value of the column ``of``), and why."""

    of: Literal["rid", "sub", "client_id"]
    cause: EndCause
    timing: Timing
    denied: NumericDate = NEVER
    """Tokens that were asked for until then are denied already, so that a session needs no event for them."""


_FLOORS = select(
    func.coalesce(log_heads.c.tokens_floor, NEVER), func.coalesce(log_heads.c.sessions_floor, NEVER)
).where(log_heads.c.issuer == bindparam("issuer"))


@dataclass(frozen=True, slots=True)
class RevokedStep:
    """Some of the sessions that ``revoke_all`` ended: which began after ``behind`` and until ``upto``."""

    behind: NumericDate
    upto: NumericDate
    floor: NumericDate
    denied: NumericDate
    timing: Timing


def used_behind(denied: NumericDate, timing: Timing) -> NumericDate:
    """What was used after this may have tokens from after ``denied``: a repeated answer may go unnoted, and
    ``iat`` is of a node's clock, which may be ahead of the store's."""
    return NumericDate(denied - max(timing.widest.refresh_grace, timing.widest.clock_skew))


_TOLD = select(clients.c.client_id).where(
    clients.c.issuer == bindparam("issuer"), clients.c.backchannel_logout_uri.is_not(None)
)


class EndingRows:
    """The statements that end sessions; others end them through it, inside their transactions."""

    ends_at_once = False
    """Whether :meth:`end` is one statement."""

    most_at_once = 2_000
    """Sessions that end in one transaction where there are more: a thief who begins tens of thousands must
    not make the change of the password, which ends them all, take longer than an operation may."""

    def __init__(self, database: Database, log: LogRows) -> None:
        self._time = database.time
        self._log = log

    def end(
        self, connection: Connection, issuer: Issuer, which: Rid | Sub | ClientId, ending: Ending
    ) -> tuple[Rid, ...]:
        """End the sessions that ``which`` names, with one event each where a token may still be valid.

        Those that ended now; not those that had ended before.
        """
        return self._end(connection, _ENDINGS[ending.of], issuer, which, ending)

    def _end(
        self,
        connection: Connection,
        statement: Any,
        issuer: Issuer,
        which: Rid | Sub | ClientId,
        ending: Ending,
    ) -> tuple[Rid, ...]:
        now = self._time.read(connection)
        parameters = {
            "of": issuer,
            "which": which,
            "at": now,
            "cause": ending.cause.value,
            "most": self.most_at_once,
        }
        ended = connection.execute(statement, parameters).all()
        self._report(connection, issuer, ended, ending, at=now, now=now)
        return tuple(row.rid for row in ended)

    def _report(
        self,
        connection: Connection,
        issuer: Issuer,
        ended: Sequence[Row[Any]],
        ending: Ending,
        *,
        at: NumericDate,
        now: NumericDate,
    ) -> None:
        """Append what denies the tokens of ``ended``, and note what their clients are to be told."""
        behind = used_behind(ending.denied, ending.timing)
        events = [
            (RevocationEvent(kind=Kind.RID, value=row.rid, expires_at=until), ending.cause.value)
            for row in ended
            if (until := denied_until(row.last_exp, ending.timing)) > now and row.used_at > behind
        ]
        self._log.append(connection, issuer, events, at=now)
        if not ended or ending.cause in UNTOLD:
            return
        told = set(connection.execute(_TOLD, {"issuer": issuer}).scalars())
        notices = [
            {
                "issuer": issuer,
                "rid": row.rid,
                "client_id": row.client_id,
                "sub": row.sub,
                "ended_at": at,
                "attempts": 0,
                "due_at": at,
                "expires_at": now + GIVEN_UP_AFTER,
            }
            for row in ended
            if row.client_id in told
        ]
        if notices:
            connection.execute(insert(logout_notices), notices)

    def floors(self, connection: Connection, issuer: Issuer) -> tuple[NumericDate, NumericDate]:
        """Up to which ``iat`` ``revoke_all`` denied all tokens, and which sessions it ended."""
        row = connection.execute(_FLOORS, {"issuer": issuer}).first()
        return (NEVER, NEVER) if row is None else (NumericDate(row[0]), NumericDate(row[1]))

    def next_revoked(
        self, connection: Connection, issuer: Issuer, behind: NumericDate, floor: NumericDate
    ) -> NumericDate:
        """When the last of those began that the next step looks at; ``floor`` where there are no more."""
        asked = {"issuer": issuer, "behind": behind, "before": floor, "most": self.most_at_once - 1}
        bound = connection.execute(BOUND, asked).scalar()
        return floor if bound is None else NumericDate(bound)

    def end_revoked(self, connection: Connection, issuer: Issuer, step: RevokedStep) -> int:
        """Write into the rows of ``step`` that they ended; how many had not."""
        now = self._time.read(connection)
        ending = Ending("rid", EndCause.ADMIN, step.timing, step.denied)
        parameters = {
            "of": issuer,
            "behind": step.behind,
            "upto": step.upto,
            "floor": step.floor,
            "at": step.floor,
            "cause": ending.cause.value,
        }
        ended = connection.execute(_ENDING_REVOKED, parameters).all()
        self._report(connection, issuer, ended, ending, at=step.floor, now=now)
        return len(ended)

    def are_many(
        self, connection: Connection, issuer: Issuer, which: Rid | Sub | ClientId, ending: Ending
    ) -> bool:
        """Whether they are too many for one transaction."""
        asked = {"of": issuer, "which": which, "most": self.most_at_once + 1}
        return bool(connection.execute(_COUNTS[ending.of], asked).scalar_one() > self.most_at_once)

    def end_some(
        self, connection: Connection, issuer: Issuer, which: Rid | Sub | ClientId, ending: Ending
    ) -> tuple[Rid, ...]:
        """As :meth:`end`, but no more than ``most_at_once`` of them."""
        return self._end(connection, _ENDINGS_OF_SOME[ending.of], issuer, which, ending)


async def end_most(
    database: Database, rows: EndingRows, issuer: Issuer, which: Sub | ClientId, ending: Ending
) -> tuple[Rid, ...]:
    """End sessions, some at a time, until one transaction can end the rest; those that this ended.

    Each part has its events with it. Should it fail half-way, what was ended stays so, and the next attempt
    has the less to do.
    """
    ended: list[Rid] = []
    while await database.read(lambda c: rows.are_many(c, issuer, which, ending), single=True):
        ended += await database.write(
            lambda c: rows.end_some(c, issuer, which, ending), single=rows.ends_at_once
        )
    return tuple(ended)
