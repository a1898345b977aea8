"""The store in one SQLite file, shared by all processes of one machine.

Write-ahead log, synced at every commit: what was answered survives kill -9 and loss of power. The machine's
clock is the store's clock, since every process that can open the file reads the same one.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from mintmark.adapters.sql import migrate
from mintmark.adapters.sql.database import ClockTime, Collision
from mintmark.adapters.sql.directory import DirectoryRows, SqlDirectory
from mintmark.adapters.sql.ending import EndingRows
from mintmark.adapters.sql.keyring import RingRows, SqlKeyRing
from mintmark.adapters.sql.log import LogRows
from mintmark.adapters.sql.migrate import SchemaState
from mintmark.adapters.sql.outbox import OutboxRows, SqlOutbox
from mintmark.adapters.sql.revocations import SqlRevocations
from mintmark.adapters.sql.sessions import SessionRows, SqlSessions
from mintmark.adapters.sql.threads import LOCK_SLICE, LOCK_SLICES, Threads, driver
from mintmark.adapters.sql.tokens import TokenRows
from mintmark.core.mark import UNMARKED, Marks
from mintmark.errors import ConfigurationError, MintmarkError, StoreDamaged, StoreUnavailable
from mintmark.ports.clock import Clock, Entropy
from mintmark.units import NumericDate

T = TypeVar("T")

APPLICATION_ID: Final = 0x4D4D524B
"""``MMRK`` in the file's header (PRAGMA application_id): file(1) and people can tell whose it is."""

_LOCK_TIMEOUT: Final = LOCK_SLICE * LOCK_SLICES
"""Milliseconds to wait for another process's lock; so that every wait ends within two seconds."""
_OPENINGS: Final = 200
"""How often opening begins anew where another process has the file: it may be upgrading the schema. SQLite
does not wait itself where it changes to the write-ahead log."""
_OPENING_PAUSE: Final = 50
"""Milliseconds that each of these waits for a lock, and as long again before the next."""
_CHECKED_BELOW: Final = 256 * 1024 * 1024
"""Bytes; a larger file would take seconds to check at every start."""
_READERS: Final = 2

_PRAGMAS: Final = (
    # FULL syncs the log at every commit; NORMAL would lose acknowledged commits with the power.
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA journal_size_limit = 67108864",
)


class SqliteStore:
    """:class:`mintmark.ports.store.Store`, and the database that its subjects run their statements on."""

    def __init__(self, path: Path, *, clock: Clock, entropy: Entropy, marks: Marks = UNMARKED) -> None:
        self._path = path.absolute()
        self.time: Final = ClockTime(clock)
        self.entropy: Final = entropy
        self._threads: Threads | None = None
        self._engine: Final = _engine(self._path)
        log = LogRows(self)
        endings = EndingRows(self, log)
        self.keyring: Final = SqlKeyRing(self, RingRows(self, log, marks))
        self.sessions: Final = SqlSessions(self, SessionRows(self), endings)
        self.revocations: Final = SqlRevocations(self, log, TokenRows(self, log), endings)
        self.directory: Final = SqlDirectory(self, DirectoryRows(self, endings, log))
        self.outbox: Final = SqlOutbox(self, OutboxRows(self))

    async def open(self) -> None:
        """Create or upgrade the file, check it, and start the threads; may be called twice.

        Raises StoreUnavailable or StoreDamaged with a sentence that names the file.
        """
        if self._threads is None:
            await asyncio.to_thread(self._prepare)
            self._threads = Threads(
                self._connect,
                self._translate,
                identity=lambda: file_identity(self._path),
                readers=_READERS,
                name=str(self._path),
            )

    async def close(self) -> None:
        """Finish what is queued, and let go of the file; may be called twice."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await threads.stop()

    async def now(self) -> NumericDate:
        """The store's time; reads the file, so that it proves that the store answers."""
        return await self.read(self._answer)

    def _answer(self, connection: Connection) -> NumericDate:
        driver(connection).execute("SELECT 1 FROM alembic_version").fetchone()
        return self.time.read(connection)

    async def read(self, work: Callable[[Connection], T], *, single: bool = False) -> T:  # noqa: ARG002
        """As :class:`mintmark.adapters.sql.database.Database`."""
        return await self._running().read(work)

    async def write(self, work: Callable[[Connection], T], *, single: bool = False) -> T:
        """As :class:`mintmark.adapters.sql.database.Database`."""
        return await self._running().write(work, single=single)

    def _running(self) -> Threads:
        if self._threads is None:
            raise StoreUnavailable(f"{self._path}: the store is not open")
        return self._threads

    # --- opening -------------------------------------------------------------------------------

    def _prepare(self) -> None:
        pause = Event()
        for left in range(_OPENINGS, 0, -1):
            try:
                self._prepare_once()
            except (sqlite3.Error, SQLAlchemyError, OSError) as error:
                if left == 1 or not _is_busy(error):
                    raise self._translate(error) from None
                pause.wait(_OPENING_PAUSE / 1000)
            else:
                return

    def _prepare_once(self) -> None:
        create_file(self._path)
        with closing(_engine(self._path).connect()) as connection:
            raw = driver(connection)
            raw.execute(f"PRAGMA busy_timeout = {_OPENING_PAUSE}")
            for pragma in _PRAGMAS:
                raw.execute(pragma)
            self._check(raw)
            if raw.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
                raise StoreUnavailable(f"{self._path}: this file system has no write-ahead log")
            if migrate.examine(connection, str(self._path)) is not SchemaState.USABLE:
                self._migrate(connection, raw)

    def _check(self, raw: sqlite3.Connection) -> None:
        if self._path.stat().st_size < _CHECKED_BELOW:
            found = raw.execute("PRAGMA quick_check(1)").fetchone()
            if found != ("ok",):
                raise StoreDamaged(f"{self._path}: the database is damaged: {found[0]}")

    def _migrate(self, connection: Connection, raw: sqlite3.Connection) -> None:
        raw.execute("BEGIN IMMEDIATE")
        try:
            # Of many processes that open at once the first upgrades; the others find it done.
            if migrate.examine(connection, str(self._path)) is not SchemaState.USABLE:
                migrate.upgrade(connection)
                raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            raw.execute("COMMIT")
        except BaseException:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            raise

    def _connect(self, writes: bool) -> Connection:
        connection = self._engine.connect()
        raw = driver(connection)
        raw.execute(f"PRAGMA busy_timeout = {_LOCK_TIMEOUT}")
        for pragma in _PRAGMAS:
            raw.execute(pragma)
        raw.execute(f"PRAGMA busy_timeout = {LOCK_SLICE}" if writes else "PRAGMA query_only = ON")
        return connection

    def _translate(self, error: Exception) -> MintmarkError:
        return translate(error, self._path)


def from_url(url: str, *, clock: Clock, entropy: Entropy, marks: Marks = UNMARKED) -> SqliteStore:
    """The store that ``sqlite:///path`` names; raises ConfigurationError for a URL without a path."""
    database = make_url(url).database
    if not database or database == ":memory:":
        raise ConfigurationError("store", "an SQLite store is a file: sqlite:///path")
    return SqliteStore(Path(database), clock=clock, entropy=entropy, marks=marks)


def file_identity(path: Path) -> tuple[int, int]:
    """Which file is at ``path`` now: one that was removed and restored is another one. Raises OSError.

    Asked by name and without opening it: to close it again would drop SQLite's locks (POSIX).
    """
    found = path.stat()
    return found.st_dev, found.st_ino


def create_file(path: Path) -> None:
    """Create the file at ``path`` with mode 0600 unless it exists; StoreUnavailable where it cannot.

    A file that exists is only looked at and never opened: closing it would drop the locks that SQLite
    holds on it for other connections of this process (POSIX).
    """
    folder = path.parent
    if not folder.is_dir():
        raise StoreUnavailable(f"{path}: the folder {folder} does not exist")
    if path.is_dir():
        raise StoreUnavailable(f"{path}: this is a folder, not a file")
    # SQLite keeps two files beside it while it is in use.
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise StoreUnavailable(f"{path}: the folder {folder} is not writable")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
            raise StoreUnavailable(f"{path}: the file is not readable and writable") from None
        return
    # The name is as durable as what will be answered from the file.
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _engine(path: Path) -> Engine:
    def connect() -> sqlite3.Connection:
        # `mode=rw` never creates: a file that vanished must not come back empty.
        return sqlite3.connect(
            f"{path.as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )

    return create_engine("sqlite://", creator=connect, poolclass=NullPool, isolation_level="AUTOCOMMIT")


_DAMAGE: Final[Mapping[int, str]] = {
    sqlite3.SQLITE_NOTADB: "the file is not an SQLite database",
    sqlite3.SQLITE_CORRUPT: "the database is damaged",
    sqlite3.SQLITE_ERROR: "the database does not have the schema that this version needs",
    sqlite3.SQLITE_SCHEMA: "the database does not have the schema that this version needs",
    sqlite3.SQLITE_MISMATCH: "the database holds a value of another type than its schema says",
}
_OUTAGE: Final[Mapping[int, str]] = {
    sqlite3.SQLITE_BUSY: "the database is locked by another process",
    sqlite3.SQLITE_LOCKED: "the database is locked",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "reading or writing the file failed",
    sqlite3.SQLITE_READONLY: "the file is read-only",
    sqlite3.SQLITE_PERM: "the file may not be opened",
    sqlite3.SQLITE_AUTH: "the file may not be opened",
    sqlite3.SQLITE_CANTOPEN: "the file, or one that SQLite keeps beside it, cannot be opened",
    sqlite3.SQLITE_NOMEM: "there is not enough memory",
    sqlite3.SQLITE_PROTOCOL: "the locks of the file are too busy",
}


def _is_busy(error: Exception) -> bool:
    cause: Any = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def translate(error: Exception, path: Path) -> MintmarkError:
    """What ``error`` of the database at ``path`` means to a caller, in a sentence without SQL or values."""
    if isinstance(error, IntegrityError | sqlite3.IntegrityError):
        return Collision(f"{path}: a row that must be unique exists already")
    cause: Any = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, OSError):
        return StoreUnavailable(f"{path}: {cause.strerror or 'the file cannot be used'}")
    code = getattr(cause, "sqlite_errorcode", None)
    if code is None:
        # No code of SQLite: the driver's own complaint, that a connection is closed for instance.
        return StoreUnavailable(f"{path}: the database cannot be used")
    primary = code & 0xFF
    if primary in _DAMAGE:
        return StoreDamaged(f"{path}: {_DAMAGE[primary]}")
    return StoreUnavailable(f"{path}: {_OUTAGE.get(primary, 'the database cannot be used')}")
