"""The store in a PostgreSQL database, shared by nodes on any number of machines.

The server's clock is the store's clock. Every statement is bounded by the server, and every operation by
:mod:`mintmark.adapters.sql.connections`. What several statements do together is one transaction, which the
server ends where its client pauses: nobody waits for a client for longer than for a lock.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import URL, BigInteger, ColumnElement, Connection, extract, func, make_url, select, text
from sqlalchemy import cast as as_type
from sqlalchemy.exc import ArgumentError, DBAPIError

from mintmark.adapters.sql import migrate
from mintmark.adapters.sql.at_once import LogRowsAtOnce, TokenRowsAtOnce
from mintmark.adapters.sql.connections import Connections, Raw
from mintmark.adapters.sql.database import Collision, StoreTime
from mintmark.adapters.sql.directory import DirectoryRows, SqlDirectory
from mintmark.adapters.sql.ending_at_once import EndingRowsAtOnce
from mintmark.adapters.sql.keyring import RingRows, SqlKeyRing
from mintmark.adapters.sql.migrate import SchemaState
from mintmark.adapters.sql.outbox import OutboxRows, SqlOutbox
from mintmark.adapters.sql.revocations import SqlRevocations
from mintmark.adapters.sql.sessions import SessionRows, SqlSessions
from mintmark.core.mark import UNMARKED, Marks
from mintmark.errors import ConfigurationError, MintmarkError, StoreDamaged, StoreUnavailable
from mintmark.ports.clock import Clock, Entropy
from mintmark.units import NumericDate

T = TypeVar("T")

CONNECTIONS: Final = 8
"""The most connections of one process: a server has a hundred by default, for all processes of all nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long things may take, in milliseconds.

    A client that pauses in a transaction loses it, and its locks, before those who wait for them give up
    (LOG-5); and the server says what was the matter before a caller's own patience ends.
    """

    idle: int = 750
    """Between two statements of a transaction (idle_in_transaction_session_timeout)."""
    lock: int = 1_250
    """For each lock (lock_timeout)."""
    statement: int = 1_500
    """For each statement (statement_timeout)."""
    operation: int = 1_750
    """From the call of an operation to its answer, whatever hangs."""


BOUNDS: Final = Bounds()

_WRITE: Final = "BEGIN"
_READ: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

_OLDEST: Final = (13,)
_UPGRADE: Final = 60_000
"""Milliseconds for an upgrade of the schema, and for waiting until another process has done it."""
_UPGRADE_LOCK: Final = 0x4D4D524B
"""What those who upgrade one database lock."""


class ServerTime:
    """:class:`mintmark.adapters.sql.database.StoreTime` of a server: its own clock."""

    def __init__(self) -> None:
        self.expression: ColumnElement[int] = _seconds(func.clock_timestamp())
        # When the transaction began, and so before its snapshot was taken.
        self._began = select(_seconds(func.transaction_timestamp()))

    def parameters(self) -> Mapping[str, int]:
        """None: the server reads its clock itself."""
        return {}

    def read(self, connection: Connection) -> NumericDate:
        """When the transaction began."""
        return NumericDate(connection.execute(self._began).scalar_one())


class PostgresStore:
    """:class:`mintmark.ports.store.Store`, and the database that its subjects run their statements on."""

    def __init__(
        self,
        url: URL,
        *,
        entropy: Entropy,
        time: StoreTime | None = None,
        bounds: Bounds = BOUNDS,
        marks: Marks = UNMARKED,
    ) -> None:
        self._dsn = dsn_of(url)
        self._name = place_of(url)
        self._bounds = bounds
        self.time: Final[StoreTime] = ServerTime() if time is None else time
        self.entropy: Final = entropy
        self._connections: Connections | None = None
        log = LogRowsAtOnce(self)
        endings = EndingRowsAtOnce(self, log)
        self.keyring: Final = SqlKeyRing(self, RingRows(self, log, marks))
        self.sessions: Final = SqlSessions(self, SessionRows(self), endings)
        self.revocations: Final = SqlRevocations(self, log, TokenRowsAtOnce(self, log), endings)
        self.directory: Final = SqlDirectory(self, DirectoryRows(self, endings, log))
        self.outbox: Final = SqlOutbox(self, OutboxRows(self))

    async def open(self) -> None:
        """Connect, and create or upgrade the schema; may be called twice.

        Raises StoreUnavailable or StoreDamaged with a sentence that names the server and the database.
        """
        if self._connections is not None:
            return
        opening = Connections(
            self._connect,
            self._translate,
            name=self._name,
            size=CONNECTIONS,
            patience=self._bounds.operation / 1_000,
        )
        try:
            if await opening.run(self._examine, begin=_READ, repeatable=True) is not SchemaState.USABLE:
                await opening.run(self._upgrade, begin=_WRITE, patience=2 * _UPGRADE / 1_000)
        except BaseException:
            await opening.close()
            raise
        self._connections = opening

    async def close(self) -> None:
        """Finish what is under way, and let go of every connection; may be called twice."""
        open_until_now, self._connections = self._connections, None
        if open_until_now is not None:
            await open_until_now.close()

    async def now(self) -> NumericDate:
        """The store's time; reads a table, so that it proves that the store answers."""
        return await self.read(self._answer, single=True)

    def _answer(self, connection: Connection) -> NumericDate:
        connection.execute(text("SELECT 1 FROM alembic_version")).first()
        return self.time.read(connection)

    async def read(self, work: Callable[[Connection], T], *, single: bool = False) -> T:
        """As :class:`mintmark.adapters.sql.database.Database`."""
        return await self._running().run(work, begin=None if single else _READ, repeatable=True)

    async def write(self, work: Callable[[Connection], T], *, single: bool = False) -> T:
        """As :class:`mintmark.adapters.sql.database.Database`."""
        return await self._running().run(work, begin=None if single else _WRITE)

    def _running(self) -> Connections:
        if self._connections is None:
            raise StoreUnavailable(f"{self._name}: the store is not open")
        return self._connections

    # --- opening -------------------------------------------------------------------------------------

    async def _connect(self) -> Raw:
        bounds = self._bounds
        settings = {
            "application_name": "mintmark",
            "idle_in_transaction_session_timeout": str(bounds.idle),
            "lock_timeout": str(bounds.lock),
            "statement_timeout": str(bounds.statement),
            # What was answered survives the loss of power, whatever the server's default is (STORE-1).
            "synchronous_commit": "on",
            "default_transaction_isolation": "read committed",
            "jit": "off",
        }
        return cast("Raw", await asyncpg.connect(self._dsn, timeout=None, server_settings=settings))

    def _examine(self, connection: Connection) -> SchemaState:
        version = connection.dialect.server_version_info or ()
        if version < _OLDEST:
            raise StoreDamaged(f"{self._name}: the server is older than PostgreSQL {_OLDEST[0]}")
        if connection.execute(text("SHOW server_encoding")).scalar() != "UTF8":
            raise StoreDamaged(f"{self._name}: the encoding of the database is not UTF8")
        return migrate.examine(connection, self._name)

    def _upgrade(self, connection: Connection) -> None:
        for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {setting} = {_UPGRADE}"))
        # Of many processes that open at once the first upgrades; the others find it done.
        connection.execute(select(func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
        if migrate.examine(connection, self._name) is not SchemaState.USABLE:
            migrate.upgrade(connection)

    def _translate(self, error: Exception) -> MintmarkError:
        return translate(error, self._name)


def from_url(
    url: str,
    *,
    clock: Clock,  # noqa: ARG001 - it has its own
    entropy: Entropy,
    marks: Marks = UNMARKED,
) -> PostgresStore:
    """The store that ``postgresql://user:password@host:port/database`` names; raises ConfigurationError."""
    return PostgresStore(parse_url(url, key="store"), entropy=entropy, marks=marks)


def parse_url(url: str, *, key: str) -> URL:
    """What the setting ``key`` names; raises ConfigurationError where that is no database."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(key, "is not a URL of PostgreSQL") from None
    if not (parsed.host or parsed.query.get("host")) or not parsed.database:
        raise ConfigurationError(key, "names a database: postgresql://user:password@host:port/database")
    return parsed


def place_of(url: URL) -> str:
    """Where ``url`` leads, as it may be shown: the server and the database."""
    host = str(url.query.get("host") or url.host)
    return f"{f'[{host}]' if ':' in host else host}:{url.port or 5432}/{url.database}"


def dsn_of(url: URL) -> str:
    """``url`` in the driver's form, which has the port of a Unix socket where its folder is."""
    driven = url.set(drivername="postgresql")
    if "host" in url.query:
        query = {**url.query, "port": str(url.port or 5432)}
        driven = URL.create("postgresql", url.username, url.password, database=url.database, query=query)
    return driven.render_as_string(hide_password=False)


def _seconds(moment: ColumnElement[Any]) -> ColumnElement[int]:
    return as_type(func.floor(extract("epoch", moment)), BigInteger)


_SCHEMA: Final = "the database does not have the schema that this version needs"
_DAMAGE: Final[Mapping[str, str]] = {
    "42": _SCHEMA,
    "22": "the database holds, or was given, a value that it cannot work with",
    "23": "the database refused a row that this version writes",
    "XX001": "the database is damaged",
    "XX002": "the database is damaged",
}
_OUTAGE: Final[Mapping[str, str]] = {
    "0A000": "the schema of the database was changed meanwhile",
    "25006": "the database is read-only",
    "25P03": "a transaction took too long between two statements",
    "28": "the database refused the user or the password",
    "3D000": "the database does not exist",
    "40": "the database gave up a transaction that was in another's way",
    "42501": "the role of this node lacks a privilege",
    "53100": "the disk of the database is full",
    "53200": "the database has not enough memory",
    "53300": "the database has too many connections",
    "55P03": "the database is locked by another process",
    "57014": "the database did not answer in time",
    "57P01": "the database is shutting down",
    "57P02": "the database is shutting down",
    "57P03": "the database is starting up or shutting down",
}


def translate(error: Exception, name: str) -> MintmarkError:
    """What ``error`` of the database ``name`` means to a caller, in a sentence without SQL or values."""
    cause: Any = error.orig if isinstance(error, DBAPIError) else error
    state = str(getattr(cause, "sqlstate", None) or "")
    if state == "23505":
        return Collision(f"{name}: a row that must be unique exists already")
    for key in (state, state[:2]):
        if key in _OUTAGE:
            return StoreUnavailable(f"{name}: {_OUTAGE[key]}")
        if key in _DAMAGE:
            return StoreDamaged(f"{name}: {_DAMAGE[key]}")
    if isinstance(cause, TimeoutError):
        return StoreUnavailable(f"{name}: the database did not answer in time")
    if isinstance(cause, ConnectionRefusedError):
        return StoreUnavailable(f"{name}: nothing listens there")
    if isinstance(cause, OSError):
        return StoreUnavailable(f"{name}: the database cannot be reached")
    return StoreUnavailable(f"{name}: the database cannot be used")
