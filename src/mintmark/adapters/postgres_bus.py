"""The bus of processes that share a PostgreSQL database: LISTEN and NOTIFY, on one connection a process.

The connection is the bus's own. NOTIFY inside a transaction of the store would hold a lock that every
committing notifier of the database waits for; alone, it writes nothing that has to be synced. Whoever may
connect to the database can send the same, so a notification means no more than «read the store», carries
nothing that is looked at, and however many come, subscriptions wake a hundred times a second at the most.

A connection can die without a word (a network that drops packets, a server that is stopped), so it is asked
for a sign of life every two seconds, and made anew where none comes. What was announced meanwhile was not
heard: every new connection wakes all subscriptions.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import URL

from mintmark.adapters.sql.postgres import dsn_of, parse_url, place_of, translate
from mintmark.adapters.wakeup import Subscription, Subscriptions
from mintmark.ports.clock import Clock, Entropy
from mintmark.system import SYSTEM_ENTROPY

T = TypeVar("T")

CHANNEL: Final = "mintmark"
PAUSE: Final = 0.01
"""Seconds at the least between two wake-ups, and between two notifications that a process sends."""
PROBE: Final = 2.0
"""Seconds of silence after which the server is asked whether it is there."""
PATIENCE: Final = 3.0
"""Seconds for an answer, so that a dead connection is known within five."""
CONNECT: Final = 10.0
"""Seconds for a connection: several round trips, which may be slow ones."""
SHORTEST: Final = 0.1
LONGEST: Final = 2.0
"""Seconds between two attempts to connect; each failure doubles them, within these bounds."""
PARTING: Final = 1.0
"""Seconds that closing may take: to send what was announced, and to take leave of the server."""

_LOG: Final = logging.getLogger("mintmark.bus")

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


class PostgresBus:
    """:class:`mintmark.ports.bus.Bus` over the notifications of one PostgreSQL database."""

    def __init__(self, url: URL, *, clock: Clock, entropy: Entropy) -> None:
        self._url = url
        self._clock = clock
        self._entropy = entropy
        self._subscriptions = Subscriptions(clock)
        self._waking: _Paced | None = None
        self._sending: _Paced | None = None
        self._line: _Line | None = None

    async def open(self) -> None:
        """Begin to connect; a server that is away is tried again and again."""
        if self._line is None:
            self._waking = _Paced(self._subscriptions.notify, clock=self._clock)
            self._line = _Line(self._url, clock=self._clock, entropy=self._entropy, heard=self._waking.ask)
            self._sending = _Paced(self._line.send, clock=self._clock)

    async def close(self) -> None:
        """Send what was announced, if that is possible within a second, and stop; may be called twice."""
        self._subscriptions.close()
        sending, line, waking = self._sending, self._line, self._waking
        self._sending = self._line = self._waking = None
        for part in (sending, line, waking):
            if part is not None:
                await part.close()

    async def announce(self) -> None:
        """Wake the subscriptions of this process at once; the others are told without waiting for it."""
        self._subscriptions.notify()
        if self._sending is not None:
            self._sending.ask()

    def subscribe(self) -> Subscription:
        """A new subscription, which wakes for what is announced from now on."""
        return self._subscriptions.add()


class _Paced:
    """Acts at once when first asked, and after a pause once for all who asked meanwhile."""

    def __init__(self, act: Callable[[], None], *, clock: Clock) -> None:
        self._act = act
        self._clock = clock
        self._asked = asyncio.Event()
        self._acting = asyncio.create_task(self._run(), name="mintmark-bus-pace")

    def ask(self) -> None:
        """Have it done, soon."""
        self._asked.set()

    async def close(self) -> None:
        """Do what was asked for, and nothing more."""
        await _end(self._acting)
        if self._asked.is_set():
            self._act()

    async def _run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._act()
            await self._clock.sleep(PAUSE)


class _Line:
    """The connection to the server, made anew as often as it is lost, from construction to ``close``."""

    def __init__(self, url: URL, *, clock: Clock, entropy: Entropy, heard: Callable[[], None]) -> None:
        self._dsn = dsn_of(url)
        self._name = place_of(url)
        self._clock = clock
        self._entropy = entropy
        self._heard = heard
        self._opened: _Connection | None = None
        self._backend = 0
        self._unsent = False
        self._lost = False
        self._connecting = self._connected = self._closing = False
        self._work = Subscription(clock, lambda _: None)
        self._rest = Subscription(clock, lambda _: None)
        self._keeping = asyncio.create_task(self._keep(), name="mintmark-bus")

    def send(self) -> None:
        """Have one notification sent, now or when the server is there; one stands for many."""
        self._unsent = True
        self._work.notify()

    async def close(self) -> None:
        """Send what is unsent, unless the server is away, and end.

        A connection that is just being made is let come about: cancelled between two of its steps, the
        driver leaves an error behind that nobody can take.
        """
        self._closing = True
        self._work.close()
        self._rest.close()
        if self._connecting:
            patience = asyncio.ensure_future(self._clock.sleep(PARTING))
            await asyncio.wait({self._keeping, patience}, return_when=asyncio.FIRST_COMPLETED)
            await _end(patience)
        await _end(self._keeping)

    async def _keep(self) -> None:
        delay = SHORTEST
        while not self._closing:
            began = self._clock.monotonic()
            self._connecting = True
            try:
                await self._hold()
            except Exception as error:  # noqa: BLE001 - whatever the driver raises, the bus only delays
                self._report_lost(error)
            finally:
                self._connecting = self._connected = False
            # A server that lets everybody in and then ends the connection is spared as well.
            if self._clock.monotonic() - began > PROBE:
                delay = SHORTEST
            await self._rest.wait(delay * (0.5 + self._entropy.token_bytes(1)[0] / 512))
            delay = min(2 * delay, LONGEST)

    async def _hold(self) -> None:
        """Connect, listen, send and probe, until the line is closed; raises when the connection is lost."""
        try:
            await self._within(CONNECT, self._connect())
            await self._within(PATIENCE, self._listen(self._connection))
            self._connected = True
            self._report_back()
            self._heard()
            while self._unsent or not self._closing:
                await self._turn(self._connection)
            await self._within(PATIENCE, self._connection.close())
        finally:
            self._drop()

    async def _connect(self) -> None:
        self._opened = await asyncpg.connect(
            self._dsn, timeout=None, server_settings={"application_name": "mintmark-bus"}
        )

    @property
    def _connection(self) -> _Connection:
        if self._opened is None:
            raise ConnectionResetError
        return self._opened

    def _drop(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.terminate()

    async def _listen(self, connection: _Connection) -> None:
        connection.add_termination_listener(lambda _: self._work.notify())
        await connection.execute(_SESSION)
        self._backend = await connection.fetchval("SELECT pg_backend_pid()")
        await connection.add_listener(CHANNEL, self._notified)

    def _notified(self, _connection: object, backend: int, _channel: str, _payload: str) -> None:
        # Whoever announced here was woken then.
        if backend != self._backend:
            self._heard()

    async def _turn(self, connection: _Connection) -> None:
        """One statement: a notification when there is something to announce, a probe when there is not."""
        await self._work.wait(PROBE)
        sending, self._unsent = self._unsent, False
        if self._closing and not sending:
            return
        try:
            if connection.is_closed():
                raise ConnectionResetError
            statement = f"NOTIFY {CHANNEL}" if sending else "SELECT 1"
            await self._within(PATIENCE, connection.execute(statement))
        except BaseException:
            if sending:
                self.send()
            raise

    async def _within(self, span: float, work: Awaitable[T]) -> T:
        """What ``work`` comes to; raises TimeoutError after ``span`` seconds, the connection dropped."""
        task = asyncio.ensure_future(work)
        patience = asyncio.ensure_future(self._clock.sleep(span))
        try:
            await asyncio.wait({task, patience}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise TimeoutError
            return task.result()
        finally:
            if not task.done():
                # Cancelled, the driver would connect once more to have the statement cancelled.
                self._drop()
            await _end(task)
            await _end(patience)

    def _report_lost(self, error: Exception) -> None:
        if not self._lost and not self._closing:
            self._lost = True
            # What is told of the error has neither secrets nor words of the server in it.
            _LOG.warning("no wake-ups from other nodes, only polls: %s", translate(error, self._name))

    def _report_back(self) -> None:
        if self._lost:
            self._lost = False
            _LOG.warning("wake-ups from other nodes are back: %s", self._name)


async def _end(task: "asyncio.Future[Any]") -> None:
    """Wait until ``task`` is over, whatever it came to."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


def from_url(url: str, *, clock: Clock) -> PostgresBus:
    """The bus of the database that ``postgresql://user:password@host:port/database`` names."""
    return PostgresBus(parse_url(url, key="bus"), clock=clock, entropy=SYSTEM_ENTROPY)
