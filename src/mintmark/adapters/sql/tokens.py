"""Single tokens that were revoked: counted so that the log stays bounded, and found again (V4)."""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
)

from mintmark.adapters.sql.database import Database
from mintmark.adapters.sql.log import LogRows
from mintmark.adapters.sql.schema import revoked_tokens, sessions
from mintmark.core.log import JTI_A_CLIENT, JTI_A_SESSION, Admission, admit, denied_until
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.timing import Timing
from mintmark.ports.revocations import IssuedToken
from mintmark.units import Issuer, Jti

PRUNED_AT_ONCE: Final = 1_000

_columns = revoked_tokens.c


def _live(now: ColumnElement[int], name: str, value: str) -> Select[Any]:
    """Tokens of one issuer whose events live, by one of their columns."""
    return select(_columns.jti).where(
        _columns.issuer == bindparam("of"),
        _columns[name] == bindparam(value, type_=_columns[name].type),
        _columns.expires_at > now,
    )


def _count(found: Select[Any], most: int) -> ColumnElement[int]:
    return select(func.count(type_=BigInteger)).select_from(found.limit(most).subquery()).scalar_subquery()


def told(now: ColumnElement[int]) -> tuple[ColumnElement[Any], ...]:
    """What decides about a revocation, asked of one moment; no count goes past its limit."""
    session = exists().where(sessions.c.issuer == bindparam("of"), sessions.c.rid == bindparam("token_rid"))
    return (
        now.label("now"),
        exists(_live(now, "jti", "token_jti")).label("known"),
        session.label("in_store"),
        _count(_live(now, "rid", "token_rid"), JTI_A_SESSION).label("in_session"),
        _count(_live(now, "client_id", "token_client_id"), JTI_A_CLIENT).label("of_client"),
    )


def asked_of(issuer: Issuer, token: IssuedToken) -> dict[str, Any]:
    """The parameters of :func:`told`."""
    return {
        "of": issuer,
        "token_jti": token.jti,
        "token_rid": token.rid,
        "token_client_id": token.client_id,
    }


def admission_of(found: Any, token: IssuedToken, timing: Timing) -> Admission:
    """What revoking ``token`` comes to after ``found`` was told."""
    if found.known:
        return Admission.NOTHING
    return admit(
        token.exp,
        # A session that the store does not know cannot be ended.
        live_in_session=found.in_session if found.in_store else None,
        live_of_client=found.of_client,
        timing=timing,
        now=found.now,
    )


class TokenRows:
    """The statements on tokens that were revoked."""

    appends_at_once = False
    """Whether :meth:`revoke` is one statement."""

    def __init__(self, database: Database, log: LogRows) -> None:
        now = database.time.expression
        self._time = database.time
        self._log = log
        self._told = select(*told(now))
        self._find = _live(now, "jti", "token_jti")

    def revoke(
        self, connection: Connection, issuer: Issuer, token: IssuedToken, cause: str, timing: Timing
    ) -> Admission:
        """What it came to; all of it is done, except that a session is still to be ended."""
        asked = {**asked_of(issuer, token), **self._time.parameters()}
        found = connection.execute(self._told, asked).one()
        admission = admission_of(found, token, timing)
        if admission is Admission.APPEND:
            until = denied_until(token.exp, timing)
            row = {
                "issuer": issuer,
                "jti": token.jti,
                "rid": token.rid,
                "client_id": token.client_id,
                "expires_at": until,
            }
            connection.execute(insert(revoked_tokens), row)
            event = RevocationEvent(kind=Kind.JTI, value=token.jti, expires_at=until)
            self._log.append(connection, issuer, ((event, cause),), at=found.now)
        return admission

    def is_revoked(self, connection: Connection, issuer: Issuer, jti: Jti) -> bool:
        """As the port's."""
        asked = {"of": issuer, "token_jti": jti, **self._time.parameters()}
        return connection.execute(self._find, asked).first() is not None

    def prune(self, connection: Connection, issuer: Issuer) -> int:
        """Remove some whose events have expired; how many, zero once none is left."""
        asked = {"of": issuer, "now": self._time.read(connection)}
        return connection.execute(_PRUNE, asked).rowcount


_PRUNE = delete(revoked_tokens).where(
    _columns.issuer == bindparam("of"),
    _columns.jti.in_(
        select(_columns.jti)
        .where(_columns.issuer == bindparam("of"), _columns.expires_at <= bindparam("now"))
        .limit(PRUNED_AT_ONCE)
        .with_for_update(skip_locked=True)
    ),
)
