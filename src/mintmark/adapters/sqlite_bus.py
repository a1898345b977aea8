"""The bus of processes that share an SQLite file: each looks 40 times a second whether the file changed.

``PRAGMA data_version`` compares a number in memory that all processes map, so a look costs microseconds and
reads no disk; it changes with every commit of anybody, so nothing has to be sent, and an announcement that
nobody made (a process that died after its commit) is heard all the same.
"""

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Final

from sqlalchemy import make_url

from mintmark.adapters.sql.sqlite import file_identity
from mintmark.adapters.wakeup import Subscription, Subscriptions
from mintmark.errors import ConfigurationError
from mintmark.ports.bus import BusState
from mintmark.ports.clock import Clock

INTERVAL: Final = 0.025
"""Seconds between two looks; a tenth of what BUS-2 allows."""
BLIND: Final = 1.0
"""Seconds without a look that succeeds, after which the bus is down: a file may be locked for a moment."""


class SqliteBus:
    """:class:`mintmark.ports.bus.Bus` over the commits to one SQLite file."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._path = path.absolute()
        self._clock = clock
        self._subscriptions = Subscriptions(clock)
        self._connection: sqlite3.Connection | None = None
        self._connections = 0
        self._identity: tuple[int, int] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._blind = False

    @property
    def state(self) -> BusState:
        """Up while the file can be read."""
        reason = "the database file cannot be read" if self._blind else ""
        return BusState(self._watching is not None and not self._blind, f"sqlite {self._path}", reason)

    async def open(self) -> None:
        """Start to look; a file that is not there yet is waited for."""
        if self._watching is None:
            # What was committed before this moment is nobody's news.
            seen = self._look()
            self._watching = asyncio.create_task(self._watch(seen), name="mintmark-bus")

    async def close(self) -> None:
        """Stop; may be called twice."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        self._subscriptions.close()
        self._disconnect()

    async def announce(self) -> None:
        """Wake the subscriptions of this process at once; other processes see the commit itself."""
        self._subscriptions.notify()

    def subscribe(self) -> Subscription:
        """A new subscription, which wakes for what is announced from now on."""
        return self._subscriptions.add()

    async def _watch(self, seen: tuple[int, int] | None) -> None:
        seen_at = self._clock.monotonic()
        while True:
            await self._clock.sleep(INTERVAL)
            found = self._look()
            if found is not None:
                seen_at = self._clock.monotonic()
            blind, self._blind = self._blind, self._clock.monotonic() - seen_at >= BLIND
            if found not in (None, seen) or self._blind is not blind:
                self._subscriptions.notify()
                seen = found or seen

    def _look(self) -> tuple[int, int] | None:
        """A value that changes with each commit; None while the file cannot be read.

        Numbers of two connections cannot be compared, so a new connection is a change.
        """
        try:
            identity = file_identity(self._path)
            if self._connection is None or identity != self._identity:
                self._disconnect()
                self._connection = _connect(self._path)
                self._identity = identity
                self._connections += 1
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except (sqlite3.Error, OSError):
            self._disconnect()
            return None
        return self._connections, version

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    # In place and without waiting for locks: a look that would have to wait is left out.
    connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None)
    connection.execute("PRAGMA query_only = ON")
    return connection


def from_url(url: str, *, clock: Clock) -> SqliteBus:
    """The bus of the store that ``sqlite:///path`` names."""
    database = make_url(url).database
    if not database or database == ":memory:":
        raise ConfigurationError("store", "an SQLite store is a file: sqlite:///path")
    return SqliteBus(Path(database), clock=clock)
