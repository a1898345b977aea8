"""What every bus over a server has in common: one connection a process, made anew as often as it is lost.

The connection is the bus's own. Whoever may use the server can send the same as a node does, so a
notification means no more than «read the store», carries nothing that is believed, and however many come,
subscriptions wake a hundred times a second at the most.

A connection can die without a word (a network that drops packets, a server that is stopped), so it is asked
for a sign of life every two seconds, and made anew where none comes. What was announced meanwhile was not
heard: every new connection wakes all subscriptions.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Protocol, TypeVar

from mintmark.adapters.wakeup import Subscription, Subscriptions
from mintmark.ports.bus import BusState
from mintmark.ports.clock import Clock, Entropy

T = TypeVar("T")

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


class Wire(Protocol):
    """One connection to a server. Whatever is awaited raises what the driver raises, at once where the
    connection is lost, and is bounded by time from outside."""

    async def connect(self) -> None:
        """Connect and log in."""
        ...

    async def listen(self) -> None:
        """Hear from now on what others send."""
        ...

    async def send(self) -> None:
        """Send one notification; returns once the server has it."""
        ...

    async def probe(self) -> None:
        """Return once the server has answered."""
        ...

    async def leave(self) -> None:
        """Take leave of the server."""
        ...

    def drop(self) -> None:
        """End the connection at once; may be called twice, and before there is one."""
        ...

    async def ended(self) -> None:
        """Return once nothing of it runs any more; called after ``drop``."""
        ...


class Server(Protocol):
    """What carries notifications, and the name of those that are ours."""

    @property
    def place(self) -> str:
        """Where it is, for people; it holds no secret."""
        ...

    def wire(self, *, heard: Callable[[], None], lost: Callable[[], None]) -> Wire:
        """A connection that is still to be made: ``heard`` is called for what other processes send,
        ``lost``, once or more often, when it ends by itself or is of no more use."""
        ...

    def explain(self, error: Exception) -> str:
        """Why a connection failed, in words of our own: those of a server may repeat a secret."""
        ...


class LineBus:
    """:class:`mintmark.ports.bus.Bus` over the notifications that one server passes on."""

    def __init__(self, server: Server, *, clock: Clock, entropy: Entropy) -> None:
        self._server = server
        self._clock = clock
        self._entropy = entropy
        self._subscriptions = Subscriptions(clock)
        self._waking: _Paced | None = None
        self._sending: _Paced | None = None
        self._line: _Line | None = None

    @property
    def state(self) -> BusState:
        """How it is now; before ``open`` and after ``close`` nothing is heard."""
        return BusState(is_up=False, place=self._server.place) if self._line is None else self._line.state

    async def open(self) -> None:
        """Begin to connect; a server that is away is tried again and again."""
        if self._line is None:
            self._waking = _Paced(self._subscriptions.notify, clock=self._clock)
            self._line = _Line(
                self._server,
                clock=self._clock,
                entropy=self._entropy,
                heard=self._waking.ask,
                lost=self._subscriptions.notify,
            )
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

    def __init__(
        self,
        server: Server,
        *,
        clock: Clock,
        entropy: Entropy,
        heard: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        self._server = server
        self._clock = clock
        self._entropy = entropy
        self._heard = heard
        self._lost = lost
        self._unsent = False
        self._reason = ""
        self._connecting = self._connected = self._closing = False
        self._work = Subscription(clock, lambda _: None)
        self._rest = Subscription(clock, lambda _: None)
        self._keeping = asyncio.create_task(self._keep(), name="mintmark-bus")

    @property
    def state(self) -> BusState:
        return BusState(self._connected, self._server.place, self._reason)

    def send(self) -> None:
        """Have one notification sent, now or when the server is there; one stands for many."""
        self._unsent = True
        self._work.notify()

    async def close(self) -> None:
        """Send what is unsent, unless the server is away, and end.

        A connection that is just being made is let come about: cancelled between two of its steps, a
        driver may leave an error behind that nobody can take.
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
            except Exception as error:  # noqa: BLE001 - whatever a driver raises, the bus only delays
                self._report(self._server.explain(error))
            finally:
                self._connecting = self._connected = False
            # A server that lets everybody in and then ends the connection is spared as well.
            if self._clock.monotonic() - began > PROBE:
                delay = SHORTEST
            await self._rest.wait(delay * (0.5 + self._entropy.token_bytes(1)[0] / 512))
            delay = min(2 * delay, LONGEST)

    async def _hold(self) -> None:
        """Connect, listen, send and probe, until the line is closed; raises when the connection is lost."""
        wire = self._server.wire(heard=self._hear, lost=self._work.notify)
        try:
            await self._within(CONNECT, wire, wire.connect())
            await self._within(PATIENCE, wire, wire.listen())
            self._connected, self._reason = True, ""
            self._heard()
            while self._unsent or not self._closing:
                await self._turn(wire)
            await self._within(PATIENCE, wire, wire.leave())
        finally:
            wire.drop()
            await wire.ended()

    def _hear(self) -> None:
        self._heard()

    async def _turn(self, wire: Wire) -> None:
        """One round trip: a notification when there is something to announce, a probe when there is not."""
        await self._work.wait(PROBE)
        sending, self._unsent = self._unsent, False
        if self._closing and not sending:
            return
        try:
            await self._within(PATIENCE, wire, wire.send() if sending else wire.probe())
        except BaseException:
            if sending:
                self.send()
            raise

    async def _within(self, span: float, wire: Wire, work: Awaitable[T]) -> T:
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
                # Cancelled, a driver may want to tell its server so, and wait for that.
                wire.drop()
            await _end(task)
            await _end(patience)

    def _report(self, reason: str) -> None:
        """Be down for ``reason``; who reads wakes once, and polls from now on."""
        first, self._connected, self._reason = not self._reason, False, reason
        if first and not self._closing:
            self._lost()


async def _end(task: "asyncio.Future[Any]") -> None:
    """Wait until ``task`` is over, whatever it came to."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


def unreached(error: BaseException) -> str:
    """Why a server was not reached, as far as the system says so; no words of a driver or a server."""
    for cause in _causes(error):
        match cause:
            case ConnectionRefusedError():
                return "nothing listens there"
            case socket.gaierror():
                return "the name has no address"
            case ssl.SSLCertVerificationError():
                return "the server's certificate is not trusted, or is for another name"
            case ssl.SSLError():
                return "TLS is refused, or not spoken there"
            case TimeoutError():
                return "the server did not answer in time"
            case FileNotFoundError() | PermissionError():
                return "a file that the URL names cannot be read"
    return "the server cannot be reached, or ended the connection"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and all that led to it, the innermost first."""
    under = error.__cause__ or error.__context__
    if under is not None:
        yield from _causes(under)
    yield error
