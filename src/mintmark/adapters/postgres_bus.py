"""The bus of processes that share a PostgreSQL database: LISTEN and NOTIFY, on one connection a process.

The connection is the bus's own: NOTIFY inside a transaction of the store would hold a lock that every
committing notifier of the database waits for; alone, it writes nothing that has to be synced.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import URL

from mintmark.adapters.line import LineBus
from mintmark.adapters.sql.postgres import dsn_of, parse_url, place_of, translate
from mintmark.ports.clock import Clock, Entropy
from mintmark.system import SYSTEM_ENTROPY

CHANNEL: Final = "mintmark"

_SESSION: Final = (
    # A lock or a server that is slow costs this connection and not the memory of what is to be announced.
    "SET statement_timeout = 3000; SET idle_session_timeout = 0; SET synchronous_commit = off; "
    # A process that is stopped reads nothing: its place in the queue of notifications, which has a
    # bound, is given up once what waits for it has not been taken for this long.
    "SET tcp_user_timeout = 30000"
)


class _Connection(Protocol):
    """What is used of :class:`asyncpg.Connection`, which brings no types."""

    async def execute(self, query: str) -> str: ...
    async def fetchval(self, query: str) -> Any: ...
    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None: ...
    def add_termination_listener(self, callback: Callable[..., None]) -> None: ...
    def is_closed(self) -> bool: ...
    async def close(self) -> None: ...
    def terminate(self) -> None: ...


class PostgresBus(LineBus):
    """:class:`mintmark.ports.bus.Bus` over the notifications of one PostgreSQL database."""

    def __init__(self, url: URL, *, clock: Clock, entropy: Entropy) -> None:
        super().__init__(_Database(url), clock=clock, entropy=entropy)


class _Database:
    """:class:`mintmark.adapters.line.Server`: one database."""

    def __init__(self, url: URL) -> None:
        self._dsn = dsn_of(url)
        self._name = place_of(url)
        self.place: Final = f"postgresql {self._name}"

    def wire(self, *, heard: Callable[[], None], lost: Callable[[], None]) -> "_Wire":
        return _Wire(self._dsn, heard=heard, lost=lost)

    def explain(self, error: Exception) -> str:
        # Neither secrets nor words of the server are in it.
        return str(translate(error, self._name)).removeprefix(f"{self._name}: ")


class _Wire:
    """:class:`mintmark.adapters.line.Wire`: a connection of asyncpg."""

    def __init__(self, dsn: str, *, heard: Callable[[], None], lost: Callable[[], None]) -> None:
        self._dsn = dsn
        self._heard = heard
        self._lost = lost
        self._opened: _Connection | None = None
        self._backend = 0

    async def connect(self) -> None:
        self._opened = await asyncpg.connect(
            self._dsn, timeout=None, server_settings={"application_name": "mintmark-bus"}
        )

    @property
    def _connection(self) -> _Connection:
        if self._opened is None or self._opened.is_closed():
            raise ConnectionResetError
        return self._opened

    async def listen(self) -> None:
        connection = self._connection
        connection.add_termination_listener(lambda _: self._lost())
        await connection.execute(_SESSION)
        self._backend = await connection.fetchval("SELECT pg_backend_pid()")
        await connection.add_listener(CHANNEL, self._notified)

    def _notified(self, _connection: object, backend: int, _channel: str, _payload: str) -> None:
        # Whoever announced here was woken then.
        if backend != self._backend:
            self._heard()

    async def send(self) -> None:
        await self._connection.execute(f"NOTIFY {CHANNEL}")

    async def probe(self) -> None:
        await self._connection.execute("SELECT 1")

    async def leave(self) -> None:
        await self._connection.close()

    def drop(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.terminate()

    async def ended(self) -> None:
        """Nothing of asyncpg runs on."""


def from_url(url: str, *, clock: Clock) -> PostgresBus:
    """The bus of the database that ``postgresql://user:password@host:port/database`` names."""
    return PostgresBus(parse_url(url, key="bus"), clock=clock, entropy=SYSTEM_ENTROPY)
