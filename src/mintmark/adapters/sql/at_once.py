"""Revocations without an ending and their log entries in one statement, as :mod:`.ending_at_once` has it.

Whoever raises the head row of the log holds up everybody else who appends until he commits (V1), so that too
is one statement that commits itself. It can lock nothing before it counts: all its parts share a snapshot
from before any wait. But every revocation of a token raises the head, so the head tells how many can have
been made since that snapshot: as many as entries, at most. A statement appends only if, with all of these
counted in, no limit is passed, and is tried anew otherwise.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    LargeBinary,
    Text,
    bindparam,
    case,
    func,
    insert,
    literal,
    not_,
    select,
    true,
)
from sqlalchemy.dialects import postgresql

from mintmark.adapters.sql.database import Database
from mintmark.adapters.sql.log import NEVER, ByTime, LogRows
from mintmark.adapters.sql.schema import log_entries, log_heads, revoked_tokens
from mintmark.adapters.sql.tokens import TokenRows, admission_of, asked_of, told
from mintmark.core.log import (
    JTI_A_CLIENT,
    JTI_A_SESSION,
    MARK_BYTES,
    Admission,
    denied_by_time_until,
    denied_until,
    not_before,
)
from mintmark.core.revocation import Kind
from mintmark.core.timing import Timing
from mintmark.ports.revocations import IssuedToken
from mintmark.units import Issuer, NumericDate

_TRIES: Final = 20
"""How often a revocation next to a limit is tried while others append all the time."""

_OF: Final[ColumnElement[str]] = bindparam("of", type_=Text)
_MARK: Final[ColumnElement[bytes]] = bindparam("mark", type_=LargeBinary)
_CAUSE: Final[ColumnElement[str]] = bindparam("event_cause", type_=Text)


def _number(name: str) -> ColumnElement[int]:
    return bindparam(name, type_=BigInteger)


def _revoke(now: ColumnElement[int]) -> Any:
    """Append an event by time, and for the whole issuer raise its floors; up to which ``iat`` it denies."""
    # Before the wait for the head: what may be late by it, `propagation` allows for.
    latest = func.least(now + _number("ahead"), _number("before"))
    times = select(latest.label("upto"), now.label("at")).cte("times")
    whole = bindparam("whole", type_=log_entries.c.kind.type) == literal(Kind.ALL.value)
    ended = func.least(times.c.upto, times.c.at)
    raising = postgresql.insert(log_heads).from_select(
        ["issuer", "seq", "mark", "genesis", "tokens_floor", "sessions_floor"],
        select(
            _OF,
            literal(1, type_=BigInteger),
            _MARK,
            bindparam("genesis", type_=LargeBinary),
            case((whole, times.c.upto), else_=NEVER),
            case((_number("ends") > 0, ended), else_=NEVER),
        ).select_from(times),
    )
    head = (
        raising.on_conflict_do_update(
            index_elements=[log_heads.c.issuer],
            set_={
                "seq": log_heads.c.seq + 1,
                "mark": raising.excluded.mark,
                "tokens_floor": func.greatest(log_heads.c.tokens_floor, raising.excluded.tokens_floor),
                "sessions_floor": func.greatest(log_heads.c.sessions_floor, raising.excluded.sessions_floor),
            },
        )
        .returning(log_heads.c.seq)
        .cte("head")
    )
    appended = (
        insert(log_entries)
        .from_select(
            ["issuer", "seq", "mark", "kind", "value", "not_before", "expires_at", "cause", "at"],
            select(
                _OF,
                head.c.seq,
                _MARK,
                bindparam("whole", type_=log_entries.c.kind.type),
                bindparam("value", type_=Text),
                times.c.upto,
                times.c.upto + _number("margin"),
                _CAUSE,
                times.c.at,
            ).select_from(head.join(times, true())),
        )
        .returning(log_entries.c.not_before)
        .cte("appended")
    )
    return select(appended.c.not_before)


class LogRowsAtOnce(LogRows):
    """:class:`LogRows` that revokes by time in one statement."""

    appends_at_once = True

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._revoke = _revoke(database.time.expression)

    def revoke(self, connection: Connection, issuer: Issuer, asked: ByTime) -> NumericDate:
        """As for other databases, in one statement."""
        parameters = {
            "of": issuer,
            "whole": asked.kind.value,
            "value": asked.client_id or "",
            "event_cause": asked.cause,
            "ahead": not_before(NumericDate(0), asked.timing),
            "before": asked.before,
            "ends": int(asked.sessions),
            "margin": denied_by_time_until(NumericDate(0), asked.timing),
            "mark": self._entropy.token_bytes(MARK_BYTES),
            "genesis": self._entropy.token_bytes(MARK_BYTES),
            **self._time.parameters(),
        }
        return NumericDate(connection.execute(self._revoke, parameters).scalar_one())


def _revoke_token(now: ColumnElement[int]) -> Any:
    """Append the event of one token if no limit can be passed by it; what was told, and whether it did."""
    seq = select(log_heads.c.seq).where(log_heads.c.issuer == _OF).scalar_subquery()
    asked = select(*told(now), func.coalesce(seq, 0).label("seq")).cte("asked")
    of_client = JTI_A_CLIENT - asked.c.of_client
    # Entries that others may append meanwhile: each can be one more revocation of this session or client.
    room = case(
        (asked.c.in_store, func.least(JTI_A_SESSION - asked.c.in_session, of_client)), else_=of_client
    )
    raising = postgresql.insert(log_heads).from_select(
        ["issuer", "seq", "mark", "genesis"],
        select(_OF, literal(1, type_=BigInteger), _MARK, bindparam("genesis", type_=LargeBinary))
        .select_from(asked)
        .where(not_(asked.c.known), room > 0, _number("until") > asked.c.now),
    )
    head = (
        raising.on_conflict_do_update(
            index_elements=[log_heads.c.issuer],
            set_={"seq": log_heads.c.seq + 1, "mark": raising.excluded.mark},
            where=log_heads.c.seq < select(asked.c.seq + room).scalar_subquery(),
        )
        .returning(log_heads.c.seq)
        .cte("head")
    )
    appended = (
        insert(log_entries)
        .from_select(
            ["issuer", "seq", "mark", "kind", "value", "expires_at", "cause", "at"],
            select(
                _OF,
                head.c.seq,
                _MARK,
                literal(Kind.JTI.value),
                bindparam("token_jti", type_=Text),
                _number("until"),
                _CAUSE,
                asked.c.now,
            ).select_from(head.join(asked, true())),
        )
        .cte("appended")
    )
    noted = (
        insert(revoked_tokens)
        .from_select(
            ["issuer", "jti", "rid", "client_id", "expires_at"],
            select(
                _OF,
                bindparam("token_jti", type_=Text),
                bindparam("token_rid", type_=Text),
                bindparam("token_client_id", type_=Text),
                _number("until"),
            ).select_from(head),
        )
        .cte("noted")
    )
    done = select(head.c.seq).scalar_subquery().is_not(None)
    return select(asked, done.label("done")).add_cte(appended, noted)


class TokenRowsAtOnce(TokenRows):
    """:class:`TokenRows` that counts, notes and appends in one statement."""

    appends_at_once = True

    def __init__(self, database: Database, log: LogRows) -> None:
        super().__init__(database, log)
        self._entropy = database.entropy
        self._revoke = _revoke_token(database.time.expression)

    def revoke(
        self, connection: Connection, issuer: Issuer, token: IssuedToken, cause: str, timing: Timing
    ) -> Admission:
        """As for other databases, each try in one statement."""
        asked = {
            **asked_of(issuer, token),
            "event_cause": cause,
            "until": denied_until(token.exp, timing),
            "mark": self._entropy.token_bytes(MARK_BYTES),
            "genesis": self._entropy.token_bytes(MARK_BYTES),
        }
        tries = _TRIES
        while True:
            found = connection.execute(self._revoke, {**asked, **self._time.parameters()}).one()
            if found.done:
                return Admission.APPEND
            admission = admission_of(found, token, timing)
            if admission is not Admission.APPEND:
                return admission
            if not (tries := tries - 1):
                # So near to a limit, and among so many who append, that it is taken as reached.
                of_session = (
                    found.in_store and found.in_session + JTI_A_CLIENT > found.of_client + JTI_A_SESSION
                )
                return Admission.END_SESSION if of_session else Admission.REFUSE
