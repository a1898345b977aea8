"""A look at a database that changes nothing: no file made, no schema upgraded, no row written.

For whoever wants to know what is the matter before, or while, a store is opened by others.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from mintmark.adapters.sql import migrate, sqlite
from mintmark.adapters.sql.database import Database
from mintmark.adapters.sql.keyring import RingRows
from mintmark.adapters.sql.log import LogRows
from mintmark.adapters.sql.migrate import SchemaState
from mintmark.adapters.sql.sqlite import SqliteStore
from mintmark.adapters.sql.threads import driver
from mintmark.core.mark import UNMARKED, Marks
from mintmark.errors import ConfigurationError, StoreDamaged
from mintmark.ports.clock import Clock, Entropy
from mintmark.ports.keyring import RingView, StoredTiming
from mintmark.units import Issuer, NumericDate

T = TypeVar("T")

_PATIENCE: Final = 5.0
"""Seconds for the whole look at a server; nobody's request waits for it."""
_LOCK: Final = 1500
"""Milliseconds to wait for the lock of a file."""
_CHECKED_BELOW: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What there is. ``view`` and ``timing`` are None where the schema is not one to read yet."""

    product: str
    """What runs the database, and its version."""
    schema: SchemaState
    unwritable: str | None
    """Why nothing could be written now; None where it could."""
    lossy: tuple[str, ...]
    """Settings of the server with which what was committed may be lost with the power."""
    view: RingView | None
    timing: StoredTiming | None
    asked_at: NumericDate
    answered_at: NumericDate
    """This machine's time before and after the store told its own."""


async def examine(
    url: str, issuer: Issuer, *, clock: Clock, entropy: Entropy, marks: Marks = UNMARKED
) -> Examined:
    """The database at ``url``, and the rows of ``issuer`` in it.

    Raises StoreUnavailable or StoreDamaged with the reason, and ConfigurationError for a scheme that nobody
    here can look at.
    """
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        return await asyncio.to_thread(_examine_file, url, issuer, clock, entropy, marks)
    if scheme == "postgresql":
        return await _examine_server(url, issuer, clock, entropy, marks)
    raise ConfigurationError("store", f"{scheme!r} cannot be examined")


# --- a file ----------------------------------------------------------------------------------------


def _examine_file(url: str, issuer: Issuer, clock: Clock, entropy: Entropy, marks: Marks) -> Examined:
    path = Path(make_url(url).database or "").absolute()
    store = SqliteStore(path, clock=clock, entropy=entropy, marks=marks)
    try:
        with closing(_connect(path)) as connection:
            raw = driver(connection)
            raw.execute(f"PRAGMA busy_timeout = {_LOCK}")
            raw.execute("PRAGMA query_only = ON")
            if path.stat().st_size < _CHECKED_BELOW:
                found = raw.execute("PRAGMA quick_check(1)").fetchone()
                if found != ("ok",):
                    raise StoreDamaged(f"{path}: the database is damaged: {found[0]}")
            return _look(
                connection,
                store,
                issuer,
                name=str(path),
                product=f"SQLite {sqlite3.sqlite_version}",
                begin="BEGIN",
                unwritable=partial(_locked, raw, path),
                clock=clock,
                marks=marks,
            )
    except (sqlite3.Error, SQLAlchemyError, OSError) as error:
        raise sqlite.translate(error, path) from None


def _connect(path: Path) -> Connection:
    # For writing, although nothing is written: a connection that only reads makes the two files that SQLite
    # keeps beside the database, and cannot remove them again.
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
    )
    return engine.connect()


def _locked(raw: sqlite3.Connection, path: Path) -> str | None:
    """Take the lock of a writer, and give it back."""
    raw.execute("PRAGMA query_only = OFF")
    try:
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("ROLLBACK")
    except sqlite3.Error as error:
        return str(sqlite.translate(error, path))
    return None


# --- a server --------------------------------------------------------------------------------------

_LOSSY: Final[Mapping[str, str]] = {"fsync": "on", "full_page_writes": "on"}
"""Settings of a server that must be so; ``synchronous_commit`` is set by each of our own connections."""


async def _examine_server(url: str, issuer: Issuer, clock: Clock, entropy: Entropy, marks: Marks) -> Examined:
    # Loaded with its driver only where a server is configured.
    import asyncpg  # type: ignore[import-untyped]  # noqa: PLC0415
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415

    from mintmark.adapters.sql import postgres  # noqa: PLC0415
    from mintmark.adapters.sql.connections import FOREIGN  # noqa: PLC0415

    parsed = make_url(url)
    name = f"{parsed.host}:{parsed.port or 5432}/{parsed.database}"
    store = postgres.from_url(url, clock=clock, entropy=entropy, marks=marks)
    dsn = parsed.set(drivername="postgresql").render_as_string(hide_password=False)

    async def connect() -> Any:
        settings = {"application_name": "mintmark doctor", "lock_timeout": "1500"}
        return await asyncpg.connect(dsn, timeout=_PATIENCE, server_settings=settings)

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=connect, poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    look = partial(_look_at_server, store=store, issuer=issuer, name=name, clock=clock, marks=marks)
    try:
        async with asyncio.timeout(_PATIENCE), engine.connect() as connection:
            return await connection.run_sync(look)
    except FOREIGN as error:
        raise postgres.translate(error, name) from None
    finally:
        await engine.dispose()


def _look_at_server(
    connection: Connection, *, store: Database, issuer: Issuer, name: str, clock: Clock, marks: Marks
) -> Examined:
    def ask(statement: str) -> str:
        return str(connection.execute(text(statement)).scalar_one())

    def unwritable() -> str | None:
        if ask("SELECT pg_is_in_recovery()") == "True":
            return f"{name}: the server is a replica, and read-only"
        if ask("SHOW default_transaction_read_only") != "off":
            return f"{name}: the database is read-only"
        schema = "has_schema_privilege(current_user, current_schema(), 'CREATE')"
        if ask(f"SELECT current_schema() IS NOT NULL AND {schema}") != "True":
            return f"{name}: the role may not create tables in its schema"
        return None

    found = _look(
        connection,
        store,
        issuer,
        name=name,
        product=f"PostgreSQL {ask('SHOW server_version').partition(' ')[0]}",
        begin="BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        unwritable=unwritable,
        clock=clock,
        marks=marks,
    )
    lossy = tuple(f"{key} = {got}" for key, want in _LOSSY.items() if (got := ask(f"SHOW {key}")) != want)
    return replace(found, lossy=lossy)


# --- both ------------------------------------------------------------------------------------------


def _look(
    connection: Connection,
    store: Database,
    issuer: Issuer,
    *,
    name: str,
    product: str,
    begin: str,
    unwritable: Callable[[], str | None],
    clock: Clock,
    marks: Marks,
) -> Examined:
    schema = migrate.examine(connection, name)
    rows = RingRows(store, LogRows(store), marks)
    usable = schema is SchemaState.USABLE
    # A server tells when the transaction began.
    asked_at = clock.now()
    connection.execute(text(begin))
    view = rows.read(connection, issuer) if usable else None
    answered_at = clock.now()
    timing = rows.timing(connection, issuer) if usable else None
    connection.execute(text("ROLLBACK"))
    return Examined(
        product=product,
        schema=schema,
        unwritable=unwritable(),
        lossy=(),
        view=view,
        timing=timing,
        asked_at=asked_at,
        answered_at=answered_at,
    )
