"""The bus of processes that share a NATS server or cluster: one subject, without JetStream.

The server sends nothing back to the connection that it came from, and a message is empty, so there is
nothing in it to believe. nats-py connects and speaks; reconnecting, probing and patience are the line's.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable
from typing import Any, Final

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport

from mintmark.adapters.line import LineBus, unreached
from mintmark.errors import ConfigurationError
from mintmark.ports.bus_place import BusPlace, bus_place
from mintmark.ports.clock import Clock, Entropy
from mintmark.system import SYSTEM_ENTROPY

_NEVER: Final = 100_000
"""Seconds of nats-py's own patience, which must be numbers; the line's end sooner."""
_UNREAD: Final = 64
"""Messages that may wait to be counted: more say no more than one, and could be large."""


class NatsBus(LineBus):
    """:class:`mintmark.ports.bus.Bus` over one subject of a NATS server."""

    def __init__(self, place: BusPlace, *, clock: Clock, entropy: Entropy) -> None:
        super().__init__(_Nats(place), clock=clock, entropy=entropy)


class _Nats:
    """:class:`mintmark.adapters.line.Server`: one subject of a server."""

    def __init__(self, place: BusPlace) -> None:
        self._place = place
        self.place: Final = str(place)

    def wire(self, *, heard: Callable[[], None], lost: Callable[[], None]) -> "_Wire":
        return _Wire(self._place, heard=heard, lost=lost)

    def explain(self, error: Exception) -> str:
        # What the server said may repeat what it was told, so only its kind is passed on.
        said = str(error).lower()
        match error:
            case errors.SecureConnRequiredError():
                return "the server does not speak TLS, and without it nothing is said to it"
            case errors.AuthorizationError():
                return _REFUSED
            case errors.Error() if "authorization" in said or "authentication" in said:
                return _REFUSED
            case errors.Error() if "permissions violation" in said:
                return f"the user may not publish or subscribe on {self._place.channel}"
            case errors.Error() if "maximum connections" in said:
                return "the server has too many connections"
        return unreached(error)


_REFUSED: Final = "the server refused the user, the password or the token, or wants one"


class _Wire:
    """:class:`mintmark.adapters.line.Wire`: a client of nats-py that never reconnects."""

    def __init__(self, place: BusPlace, *, heard: Callable[[], None], lost: Callable[[], None]) -> None:
        self._place = place
        self._heard = heard
        self._lost = lost
        self._client = Client()
        self._transport = _Transport(insists=place.is_tls, is_over=lambda: self._client.is_closed)
        # It would make one of its own, which cannot be ended at once.
        self._client._transport = self._transport  # noqa: SLF001 - there is no other way to give it
        self._is_begun = self._is_connected = False
        self._gone = asyncio.Event()
        self._failure: Exception | None = None

    async def connect(self) -> None:
        place = self._place
        host = f"[{place.host}]" if ":" in place.host else place.host
        # A token is a password without a user.
        login: dict[str, Any] = {"user": place.user, "password": place.password}
        if place.user is None:
            login = {"token": place.password}
        if place.is_tls:
            login["tls"] = _context(place)
        self._is_begun = True
        await self._client.connect(
            f"{'tls' if place.is_tls else 'nats'}://{host}:{place.port}",
            name="mintmark-bus",
            allow_reconnect=False,
            connect_timeout=_NEVER,
            ping_interval=_NEVER,
            flush_timeout=_NEVER,
            no_echo=True,
            error_cb=self._failed,
            closed_cb=self._closed,
            **login,
        )
        self._is_connected = True

    async def listen(self) -> None:
        await self._client.subscribe(self._place.channel, cb=self._took, pending_msgs_limit=_UNREAD)
        # That a user may subscribe does not mean that he may publish. Others are woken once for nothing.
        await self.send()

    async def send(self) -> None:
        self._check()
        await self._client.publish(self._place.channel)
        await self.probe()

    async def probe(self) -> None:
        self._check()
        asking = asyncio.ensure_future(self._client.rtt(timeout=_NEVER))
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            # A connection that ends takes the question with it, and nats-py leaves who asked waiting.
            await asyncio.wait({asking, gone}, return_when=asyncio.FIRST_COMPLETED)
            self._check()
        finally:
            for task in (asking, gone):
                task.cancel()
            await asyncio.wait({asking, gone})
            if not asking.cancelled():
                asking.exception()

    async def leave(self) -> None:
        """What was sent has arrived: the server has answered since."""

    def drop(self) -> None:
        self._transport.abort()

    async def ended(self) -> None:
        if self._is_begun:
            await self._client.close()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _took(self, _: Msg) -> None:
        self._heard()

    async def _failed(self, error: Exception) -> None:
        """What nats-py calls for each error. Raised while it connects, it ends the attempt: nats-py would
        go on to try by itself."""
        if isinstance(error, errors.SlowConsumerError):
            # A message that was not kept was there all the same.
            self._heard()
            return
        if not self._is_connected:
            raise error
        self._end(error)

    async def _closed(self) -> None:
        self._end(self._client.last_error or ConnectionResetError())

    def _end(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._gone.set()
        self._lost()


class _Transport(TcpTransport):
    """A connection that can be ended at once, and over which nothing is said in clear where TLS was named."""

    def __init__(self, *, insists: bool, is_over: Callable[[], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._insists = insists
        self._is_over = is_over
        self._is_secure = False

    def __bool__(self) -> bool:
        """Also before it is connected; nats-py replaces what is false."""
        return True

    async def connect_tls(self, *arguments: Any, **options: Any) -> None:
        await super().connect_tls(*arguments, **options)
        self._is_secure = True

    async def readline(self) -> bytes:
        """A line; that with which the server introduces itself offers no headers, whatever it says.

        Headers of a message are asked for in answer to that offer, and nats-py stops reading at some that
        it cannot take apart, which anybody may send who may publish.
        """
        line = bytes(await super().readline())  # type: ignore[no-untyped-call]
        if line.startswith(b"INFO "):
            with contextlib.suppress(ValueError):
                offered = json.loads(line.removeprefix(b"INFO "))
                if isinstance(offered, dict):
                    return b"INFO " + json.dumps({**offered, "headers": False}).encode() + b"\r\n"
        return line

    def write(self, payload: bytes) -> None:
        # The server alone says whether TLS begins, in clear: whoever sits between could leave that out.
        if self._insists and not self._is_secure:
            raise errors.SecureConnRequiredError
        super().write(payload)  # type: ignore[no-untyped-call]

    async def drain(self) -> None:
        try:
            await super().drain()  # type: ignore[no-untyped-call]
        except OSError:
            # Once it is over, nats-py would leave its tasks as they are, and tell nobody, because of what it
            # had not sent.
            if not self._is_over():
                raise

    def close(self) -> None:
        self.abort()

    async def wait_closed(self) -> None:
        """Return at once: after a handshake that failed, nothing would ever say that it is closed."""

    def abort(self) -> None:
        """End it without waiting for what the server does not take."""
        for writer in (self._io_writer, self._bare_io_writer):
            if writer is not None:
                writer.transport.abort()


def _context(place: BusPlace) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if place.ca is not None:
        context.load_verify_locations(place.ca)
    if place.certificate is not None:
        context.load_cert_chain(place.certificate, place.key)
    return context


def from_url(url: str, *, clock: Clock) -> NatsBus:
    """The bus of the server and cluster that ``nats://user:password@host:port/name`` names."""
    try:
        place = bus_place(url)
    except ValueError as error:
        raise ConfigurationError("bus", str(error)) from None
    return NatsBus(place, clock=clock, entropy=SYSTEM_ENTROPY)
