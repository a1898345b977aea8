"""Users and clients in SQL."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import (
    Connection,
    RowMapping,
    Select,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from mintmark.adapters.sql.database import Collision, Database, decode_list, encode_list, is_storable
from mintmark.adapters.sql.ending import FOREVER, Ending, EndingRows, end_most
from mintmark.adapters.sql.log import ByTime, LogRows
from mintmark.adapters.sql.schema import clients, log_entries, log_heads, logout_notices, users
from mintmark.core.directory import Client, User
from mintmark.core.revocation import Kind
from mintmark.core.sessions import EndCause
from mintmark.core.timing import Timing
from mintmark.errors import Conflict, NotFound
from mintmark.units import ClientId, Issuer, NumericDate, Sub

_USERS = select(users).where(users.c.issuer == bindparam("issuer")).order_by(users.c.username)
_USER = select(users).where(users.c.issuer == bindparam("issuer"), users.c.sub == bindparam("sub"))
_USER_NAMED = select(users).where(
    users.c.issuer == bindparam("issuer"), users.c.username == bindparam("username")
)
_THIS_USER = update(users).where(users.c.issuer == bindparam("of"), users.c.sub == bindparam("which"))
_DISABLE = _THIS_USER.where(users.c.disabled_at.is_(None)).values(disabled_at=bindparam("now"))
_SET_PASSWORD = _THIS_USER.values(password_hash=bindparam("new_hash"), password_changed_at=bindparam("now"))
_REHASH = _THIS_USER.where(users.c.password_hash == bindparam("old_hash")).values(
    password_hash=bindparam("new_hash")
)
_LOCK = _THIS_USER.values(locked_until=bindparam("until"))
_REMOVE_USER = delete(users).where(
    users.c.issuer == bindparam("of"), users.c.sub == bindparam("which"), users.c.disabled_at.is_not(None)
)

# What denies the tokens of a client is in the log for as long as there can be such tokens: read from there,
# it cannot miss a revocation that was made while the client was being added, or before it was added again.
_OF_CLIENT = (
    select(func.max(log_entries.c.not_before))
    .where(
        log_entries.c.issuer == clients.c.issuer,
        log_entries.c.value == clients.c.client_id,
        # Written out, or no database could know that its small index is enough.
        log_entries.c.kind == literal_column(f"'{Kind.CLIENT}'"),
    )
    .scalar_subquery()
)
_OF_ALL = select(log_heads.c.tokens_floor).where(log_heads.c.issuer == clients.c.issuer).scalar_subquery()
_SELECT_CLIENTS = select(clients, _OF_CLIENT.label("denied"), _OF_ALL.label("all_denied"))
_CLIENTS = _SELECT_CLIENTS.where(clients.c.issuer == bindparam("issuer")).order_by(clients.c.client_id)
_CLIENT = _SELECT_CLIENTS.where(
    clients.c.issuer == bindparam("issuer"), clients.c.client_id == bindparam("client_id")
)
_SET_SECRET = (
    update(clients)
    .where(clients.c.issuer == bindparam("of"), clients.c.client_id == bindparam("which"))
    .values(secret_hash=bindparam("new_hash"))
)
_SET_LOGOUT_URI = (
    update(clients)
    .where(clients.c.issuer == bindparam("of"), clients.c.client_id == bindparam("which"))
    .values(backchannel_logout_uri=bindparam("uri"))
)
_REMOVE = delete(clients).where(
    clients.c.issuer == bindparam("of"), clients.c.client_id == bindparam("which")
)

_FORGET_NOTICES = delete(logout_notices).where(
    logout_notices.c.issuer == bindparam("of"), logout_notices.c.client_id == bindparam("which")
)
_FORGET_SOME = delete(logout_notices).where(
    logout_notices.c.issuer == bindparam("of"),
    logout_notices.c.rid.in_(
        select(logout_notices.c.rid)
        .where(logout_notices.c.issuer == bindparam("of"), logout_notices.c.client_id == bindparam("which"))
        .limit(bindparam("most"))
    ),
)

_NO_USER = "there is no such user"
_NO_CLIENT = "there is no such client"


class DirectoryRows:
    """The statements on users and clients that do more than one thing."""

    forgotten_at_once = 10_000
    """Notices that one transaction removes: a client may have been down for days."""

    def __init__(self, database: Database, endings: EndingRows, log: LogRows) -> None:
        self._time = database.time
        self.endings: Final = endings
        self.log: Final = log

    def disable_user(self, connection: Connection, issuer: Issuer, sub: Sub, timing: Timing) -> int:
        """As the port's."""
        now = self._time.read(connection)
        if connection.execute(_DISABLE, {"of": issuer, "which": sub, "now": now}).rowcount == 0:
            if connection.execute(_USER, {"issuer": issuer, "sub": sub}).first() is None:
                raise NotFound(_NO_USER)
            return 0
        return len(self.endings.end(connection, issuer, sub, Ending("sub", EndCause.USER_DISABLED, timing)))

    def set_password(
        self, connection: Connection, issuer: Issuer, sub: Sub, password_hash: str, timing: Timing
    ) -> int:
        """As the port's."""
        now = self._time.read(connection)
        change = {"of": issuer, "which": sub, "new_hash": password_hash, "now": now}
        if connection.execute(_SET_PASSWORD, change).rowcount == 0:
            raise NotFound(_NO_USER)
        ending = Ending("sub", EndCause.PASSWORD_CHANGED, timing)
        return len(self.endings.end(connection, issuer, sub, ending))

    def remove_client(
        self, connection: Connection, issuer: Issuer, client_id: ClientId, timing: Timing
    ) -> int:
        """As the port's."""
        if connection.execute(_REMOVE, {"of": issuer, "which": client_id}).rowcount == 0:
            raise NotFound(_NO_CLIENT)
        connection.execute(_FORGET_NOTICES, {"of": issuer, "which": client_id})
        # One event denies all that the client was ever given, its sessions' tokens included (DIRECTORY-4).
        # It comes last: others lock sessions first and then the head of the log, and so must this.
        ending = Ending("client_id", EndCause.CLIENT_REMOVED, timing, denied=FOREVER)
        ended = self.endings.end(connection, issuer, client_id, ending)
        self.log.revoke(connection, issuer, _removal(client_id, timing))
        return len(ended)


class SqlDirectory:
    """:class:`mintmark.ports.directory.Directory` in SQL."""

    def __init__(self, database: Database, rows: DirectoryRows) -> None:
        self._database = database
        self._rows = rows

    async def add_user(self, user: User) -> None:
        """Raises Conflict where the name or the subject is taken."""
        row = {
            "issuer": user.issuer,
            "sub": user.sub,
            "username": user.username,
            "password_hash": user.password_hash,
            "scopes": encode_list(user.scopes),
            "created_at": user.created_at,
            "password_changed_at": user.password_changed_at,
            "disabled_at": user.disabled_at,
            "locked_until": user.locked_until,
        }
        try:
            await self._database.write(lambda c: c.execute(insert(users), row).rowcount, single=True)
        except Collision:
            raise Conflict("there is a user of this name or subject already") from None

    async def user_named(self, issuer: Issuer, username: str) -> User | None:
        """The user of this normalized name."""
        row = await self._one(_USER_NAMED, {"issuer": issuer, "username": username})
        return None if row is None else user_of(row)

    async def user(self, issuer: Issuer, sub: Sub) -> User | None:
        """The user of this subject."""
        row = await self._one(_USER, {"issuer": issuer, "sub": sub})
        return None if row is None else user_of(row)

    async def users(self, issuer: Issuer) -> tuple[User, ...]:
        """All users, by name."""
        rows = await self._all(_USERS, {"issuer": issuer})
        return tuple(user_of(row) for row in rows)

    async def disable_user(self, issuer: Issuer, sub: Sub, *, timing: Timing) -> int:
        """Disable, and end every session; how many it ended."""
        most = await self._end_most(issuer, sub, Ending("sub", EndCause.USER_DISABLED, timing))
        return most + await self._database.write(lambda c: self._rows.disable_user(c, issuer, sub, timing))

    async def set_password(self, issuer: Issuer, sub: Sub, password_hash: str, *, timing: Timing) -> int:
        """Change the password, and end every session; how many it ended."""
        most = await self._end_most(issuer, sub, Ending("sub", EndCause.PASSWORD_CHANGED, timing))
        return most + await self._database.write(
            lambda c: self._rows.set_password(c, issuer, sub, password_hash, timing)
        )

    async def lock_user(self, issuer: Issuer, sub: Sub, until: NumericDate | None) -> None:
        """Have nothing minted in the user's name before ``until``."""
        change = {"of": issuer, "which": sub, "until": until}
        if await self._database.write(lambda c: c.execute(_LOCK, change).rowcount, single=True) == 0:
            raise NotFound(_NO_USER)

    async def rehash_password(self, user: User, password_hash: str) -> bool:
        """Store the same password under newer parameters; False where it was changed meanwhile."""
        change = {
            "of": user.issuer,
            "which": user.sub,
            "old_hash": user.password_hash,
            "new_hash": password_hash,
        }
        return await self._database.write(lambda c: c.execute(_REHASH, change).rowcount == 1, single=True)

    async def remove_user(self, issuer: Issuer, sub: Sub) -> None:
        """Remove a user who was disabled."""
        of = {"of": issuer, "which": sub}
        if await self._database.write(lambda c: c.execute(_REMOVE_USER, of).rowcount, single=True) == 0:
            raise NotFound("there is no such user who is disabled")

    async def add_client(self, client: Client) -> None:
        """Raises Conflict where the id is taken."""
        row = {
            "issuer": client.issuer,
            "client_id": client.client_id,
            "name": client.name,
            "secret_hash": client.secret_hash,
            "grant_types": encode_list(client.grant_types),
            "audiences": encode_list(client.audiences),
            "scopes": encode_list(client.scopes),
            "first_party": client.first_party,
            "created_at": client.created_at,
            "rotates_refresh": client.rotates_refresh,
            "origins": encode_list(client.origins),
            "serves": encode_list(client.serves),
            "backchannel_logout_uri": client.backchannel_logout_uri,
        }
        try:
            await self._database.write(lambda c: c.execute(insert(clients), row).rowcount, single=True)
        except Collision:
            raise Conflict("there is a client of this id already") from None

    async def client(self, issuer: Issuer, client_id: ClientId) -> Client | None:
        """The client of this id."""
        row = await self._one(_CLIENT, {"issuer": issuer, "client_id": client_id})
        return None if row is None else _client(row)

    async def clients(self, issuer: Issuer) -> tuple[Client, ...]:
        """All clients, by id."""
        rows = await self._all(_CLIENTS, {"issuer": issuer})
        return tuple(_client(row) for row in rows)

    async def set_client_secret(self, issuer: Issuer, client_id: ClientId, secret_hash: bytes) -> None:
        """Replace the secret."""
        change = {"of": issuer, "which": client_id, "new_hash": secret_hash}
        if await self._database.write(lambda c: c.execute(_SET_SECRET, change).rowcount, single=True) == 0:
            raise NotFound(_NO_CLIENT)

    async def set_backchannel_logout_uri(self, issuer: Issuer, client_id: ClientId, uri: str | None) -> None:
        """Change where the client is told of ended sessions."""
        change = {"of": issuer, "which": client_id, "uri": uri}
        if (
            await self._database.write(lambda c: c.execute(_SET_LOGOUT_URI, change).rowcount, single=True)
            == 0
        ):
            raise NotFound(_NO_CLIENT)

    async def remove_client(self, issuer: Issuer, client_id: ClientId, *, timing: Timing) -> int:
        """Remove it, and end every session of its; how many it ended."""
        rows, log = self._rows.endings, self._rows.log
        ending = Ending("client_id", EndCause.CLIENT_REMOVED, timing)
        most = 0
        if await self._database.read(lambda c: rows.are_many(c, issuer, client_id, ending), single=True):
            # Where this fails half-way, no token of a session that it ended may be left: so their event comes
            # before they end, and the last transaction appends one for what was given meanwhile.
            denied = await self._database.write(
                lambda c: log.revoke(c, issuer, _removal(client_id, timing)), single=log.appends_at_once
            )
            most = await self._end_most(issuer, client_id, replace(ending, denied=denied))
        at_once = self._rows.forgotten_at_once
        some = {"of": issuer, "which": client_id, "most": at_once}
        while (
            await self._database.write(lambda c: c.execute(_FORGET_SOME, some).rowcount, single=True)
            == at_once
        ):
            pass
        return most + await self._database.write(
            lambda c: self._rows.remove_client(c, issuer, client_id, timing)
        )

    async def _end_most(self, issuer: Issuer, which: Sub | ClientId, ending: Ending) -> int:
        return len(await end_most(self._database, self._rows.endings, issuer, which, ending))

    async def _one(self, statement: Select[Any], asked: Mapping[str, str]) -> RowMapping | None:
        if not all(map(is_storable, asked.values())):
            return None
        rows = await self._all(statement, asked)
        return rows[0] if rows else None

    async def _all(self, statement: Select[Any], asked: Mapping[str, str]) -> Sequence[RowMapping]:
        return await self._database.read(lambda c: c.execute(statement, asked).mappings().all(), single=True)


def user_of(row: RowMapping | Mapping[str, Any]) -> User:
    """The user that a row of its table is."""
    return User(**{**row, "scopes": decode_list(row["scopes"])})


def _client(row: RowMapping) -> Client:
    values = dict(row)
    for name in ("grant_types", "audiences", "scopes"):
        values[name] = decode_list(values[name])
    # Empty where code of an earlier revision wrote the row.
    for name in ("origins", "serves"):
        values[name] = () if values[name] is None else decode_list(values[name])
    values["rotates_refresh"] = values["rotates_refresh"] is not False
    denied, all_denied = values.pop("denied"), values.pop("all_denied")
    return Client(**values, not_before=NumericDate(max(0, denied or 0, all_denied or 0)))


def _removal(client_id: ClientId, timing: Timing) -> ByTime:
    return ByTime(client_id=client_id, cause=EndCause.CLIENT_REMOVED.value, timing=timing)
