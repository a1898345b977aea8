"""The bus of processes that share a Redis server (6 or later, or what speaks like it): PUBLISH and SUBSCRIBE.

One connection a process listens and speaks, which the protocol allows since its third version, so the answer
to a probe shows that notifications come through as well. A message is the sender's own mark, by which it
knows its echo; nothing else of it is looked at.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, cast

import redis.exceptions
from redis.asyncio import Connection, SSLConnection

from mintmark.adapters.line import LineBus, unreached
from mintmark.errors import ConfigurationError
from mintmark.ports.bus_place import BusPlace, bus_place
from mintmark.ports.clock import Clock, Entropy
from mintmark.system import SYSTEM_ENTROPY


class RedisBus(LineBus):
    """:class:`mintmark.ports.bus.Bus` over one channel of a Redis server."""

    def __init__(self, place: BusPlace, *, clock: Clock, entropy: Entropy) -> None:
        super().__init__(_Redis(place, entropy), clock=clock, entropy=entropy)


class _Redis:
    """:class:`mintmark.adapters.line.Server`: one channel of a server."""

    def __init__(self, place: BusPlace, entropy: Entropy) -> None:
        self._place = place
        self._entropy = entropy
        self.place: Final = str(place)

    def wire(self, *, heard: Callable[[], None], lost: Callable[[], None]) -> "_Wire":
        return _Wire(self._place, self._entropy.token_bytes(8).hex().encode(), heard=heard, lost=lost)

    def explain(self, error: Exception) -> str:
        match error:
            case redis.exceptions.NoPermissionError():
                return f"the user may not publish, subscribe or ping on {self._place.channel}"
            case redis.exceptions.AuthenticationError():
                return "the server refused the user or the password, or wants one"
            case redis.exceptions.ResponseError():
                return "the server does not do what a bus needs: it takes Redis 6, or what speaks like it"
        return unreached(error)


class _Wire:
    """:class:`mintmark.adapters.line.Wire`: a connection of redis-py, whose retries and timeouts are off."""

    def __init__(
        self, place: BusPlace, mark: bytes, *, heard: Callable[[], None], lost: Callable[[], None]
    ) -> None:
        self._channel = place.channel.encode()
        self._mark = mark
        self._heard = heard
        self._lost = lost
        self._connection = _connection(place)
        self._answers: deque[asyncio.Future[None]] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    async def connect(self) -> None:
        connection = self._connection
        await connection.connect()  # type: ignore[no-untyped-call]
        # Its own would write each message into the log at level debug, and so render each, however long.
        parser = cast("_Parser", connection._parser)  # noqa: SLF001 - there is no other way
        parser.set_pubsub_push_handler(_as_it_is)
        self._reading = asyncio.create_task(self._read(), name="mintmark-bus-redis")
        with contextlib.suppress(redis.exceptions.ResponseError):
            # For people who look who is connected; a user may lack the right.
            await self._ask("CLIENT", "SETNAME", "mintmark-bus")

    async def listen(self) -> None:
        await self._ask("SUBSCRIBE", self._channel)
        # That a user may subscribe does not mean that he may publish. Others are woken once for nothing.
        await self.send()

    async def send(self) -> None:
        await self._ask("PUBLISH", self._channel, self._mark)

    async def probe(self) -> None:
        await self._ask("PING")

    async def leave(self) -> None:
        """A connection that is closed is leave enough."""

    def drop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        writer = self._connection._writer  # noqa: SLF001 - closing waits for a server that takes nothing
        if writer is not None:
            writer.transport.abort()

    async def ended(self) -> None:
        if self._reading is not None:
            await asyncio.wait({self._reading})
        await self._connection.disconnect(nowait=True)

    async def _ask(self, *command: str | bytes) -> None:
        """Return with the answer to ``command``; raises what the server or the connection has against it."""
        if self._failure is not None:
            raise self._failure
        answer = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        try:
            await self._connection.send_command(*command, check_health=False)
            await answer
        finally:
            # One that is refused after nobody waits for it any more is no defect.
            answer.cancel()

    async def _read(self) -> None:
        try:
            while True:
                await self._take()
        except Exception as error:  # noqa: BLE001 - a server may send anything
            self._failure = error
            for answer in self._answers:
                if not answer.done():
                    answer.set_exception(error)
            self._lost()

    async def _take(self) -> None:
        """One thing that the server says: a message, or the answer to the oldest question."""
        try:
            said = await self._connection.read_response(push_request=True, timeout=math.inf)
        except redis.exceptions.ResponseError as refusal:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_exception(refusal)
            return
        match said:
            case [b"message", _, payload]:
                # Whoever announced here was woken then.
                if payload != self._mark:
                    self._heard()
                return
            case [b"subscribe", *_] | int() | bytes():
                answer = self._answers.popleft()
                if not answer.done():
                    answer.set_result(None)


class _Parser(Protocol):
    """What is used of redis-py's parsers of the protocol's third version."""

    def set_pubsub_push_handler(self, take: Callable[[list[object]], Awaitable[list[object]]]) -> None: ...


async def _as_it_is(said: list[object]) -> list[object]:
    return said


def _connection(place: BusPlace) -> Connection:
    kind: type[Connection] = Connection
    files: dict[str, Any] = {}
    if place.is_tls:
        kind = SSLConnection
        files = {"ssl_ca_certs": place.ca, "ssl_certfile": place.certificate, "ssl_keyfile": place.key}
    return kind(
        host=place.host,
        port=place.port,
        username=place.user,
        password=place.password,
        protocol=3,
        socket_timeout=None,
        socket_connect_timeout=None,
        driver_info=None,
        **files,
    )


def from_url(url: str, *, clock: Clock) -> RedisBus:
    """The bus of the server and cluster that ``redis://user:password@host:port/name`` names."""
    try:
        place = bus_place(url)
    except ValueError as error:
        raise ConfigurationError("bus", str(error)) from None
    return RedisBus(place, clock=clock, entropy=SYSTEM_ENTROPY)
