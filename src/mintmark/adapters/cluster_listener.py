"""The cluster listener: where other nodes call this one (PEER clauses).

Nobody is served whose certificate is not in a live node's row. What a caller can do is bounded even if its
node was taken over: connections, requests under way, requests in a second, bytes of each, answers that it
does not read, and time in which it says nothing.
"""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from mintmark.adapters import cluster_wire as wire
from mintmark.adapters.cluster_wire import Connection, Identity
from mintmark.core.keyring import Member
from mintmark.core.keyset import Bucket
from mintmark.core.peering import PeerRefusal
from mintmark.errors import Unavailable
from mintmark.ports.clock import Clock
from mintmark.ports.peer import PeerRefused, PeerService

_MAPPED: Final = "::ffff:"
"""How a socket for both families shows an IPv4 address (RFC 4291 s.2.5.5.2)."""

log: Final = logging.getLogger("mintmark.cluster")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What callers may take."""

    connections: int = 256
    handshakes: int = 64
    """Connections whose handshake is not done yet."""
    strangers: int = 48
    """How many of these may come from where no live node is: whoever opens connections takes not all."""
    per_node: int = 4
    """Connections of one node."""
    in_flight: int = 64
    """Requests of one connection that are being answered; further ones are not read meanwhile."""
    unread: int = 256 * 1024
    """Bytes of answers that a caller leaves unread before it is cut off."""
    silence: float = 60.0
    """Seconds without a whole request after which a connection ends."""
    burst: int = 4000
    """Requests of one node at once."""
    every: float = 1 / 2000
    """Seconds after which it may send one more."""


@dataclass(eq=False, slots=True)
class _Caller:
    """One connection and whose it is."""

    connection: Connection
    member: Member
    heard_at: float
    answering: set["asyncio.Task[None]"] = field(default_factory=set)


class ClusterListener:
    """Serves ``service`` to the members that ``callers`` gives by certificate, on a listening ``sock``.

    ``callers`` is asked at each connection and each request, so whoever leaves it is out at once.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        identity: Identity,
        callers: Callable[[], Mapping[bytes, Member]],
        service: PeerService,
        clock: Clock,
        limits: Limits | None = None,
    ) -> None:
        self._sock = sock
        self._identity = identity
        self._callers = callers
        self._service = service
        self._clock = clock
        self._limits = limits or Limits()
        self._trust: tuple[frozenset[bytes], ssl.SSLContext] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[_Caller] = set()
        self._budgets: dict[bytes, Bucket] = {}
        self._shaking = 0
        self._strange = 0

    async def run(self) -> None:
        """Serve until cancelled; then every connection ends. Owns the socket from now on."""
        self._sock.setblocking(False)
        sweeping = asyncio.create_task(self._sweep())
        try:
            await self._accept()
        finally:
            self._sock.close()
            sweeping.cancel()
            for caller in tuple(self._open):
                caller.connection.abort()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(sweeping, *self._tasks, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(self._sock)
                # Many small answers to one caller: none should wait until another was acknowledged.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                # Out of descriptors, most likely: what is open goes on, and others try again.
                log.error("no connection could be accepted: %s", error.strerror)
                await self._clock.sleep(1.0)
                continue
            task = loop.create_task(self._serve(sock, str(address[0])))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket, address: str) -> None:
        """One connection, from its handshake to its end."""
        limits = self._limits
        strange = address.removeprefix(_MAPPED) not in self._hosts()
        # Counted only from here on: who is turned away took no place of those who come in the same moment.
        full = self._shaking >= limits.handshakes or (strange and self._strange >= limits.strangers)
        if full or len(self._open) >= limits.connections:
            sock.close()
            self._service.turned_away(address, "too many connections")
            return
        connection = Connection()
        self._shaking += 1
        self._strange += strange
        try:
            certificate = await connection.accept(sock, self._context())
        except OSError as error:
            self._service.turned_away(address, _reason(error))
            return
        finally:
            self._shaking -= 1
            self._strange -= strange
        member = self._callers().get(certificate)
        if member is None:
            connection.abort()
            self._service.turned_away(address, "its certificate is no live node's")
            return
        caller = _Caller(connection, member, self._clock.monotonic())
        if Counter(other.member.certificate for other in self._open)[certificate] >= limits.per_node:
            connection.abort()
            self._service.turned_away(address, "its node has connections enough")
            return
        self._open.add(caller)
        try:
            await self._answer(caller)
        finally:
            self._open.discard(caller)
            connection.abort()
            for task in caller.answering:
                task.cancel()
            await asyncio.gather(*caller.answering, return_exceptions=True)

    def _hosts(self) -> frozenset[str]:
        """Where live nodes say that they are."""
        addresses = (member.address for member in self._callers().values())
        return frozenset(address.rpartition(":")[0].strip("[]") for address in addresses)

    def _context(self) -> ssl.SSLContext:
        """TLS that lets in who lives now; made anew when that has changed."""
        pinned = frozenset(self._callers())
        if self._trust is None or self._trust[0] != pinned:
            self._trust = (pinned, self._identity.serving(pinned))
        return self._trust[1]

    async def _answer(self, caller: _Caller) -> None:
        slots = asyncio.Semaphore(self._limits.in_flight)
        while True:
            # Taken before reading: who has enough under way is not read from.
            await slots.acquire()
            message = await caller.connection.receive(wire.MAX_REQUEST)
            if message is None or not self._is_known(caller):
                return
            try:
                request = wire.decode_request(message)
            except msgspec.MsgspecError:
                return
            caller.heard_at = self._clock.monotonic()
            if not self._budget(caller.member).take(caller.heard_at):
                self._service.turned_away(caller.member.node, "it asks for more than its share")
                self._send(caller, wire.Refused(request.id, PeerRefusal.BUSY))
                slots.release()
                continue
            task = asyncio.create_task(self._perform(caller, request))
            caller.answering.add(task)
            task.add_done_callback(caller.answering.discard)
            task.add_done_callback(lambda _: slots.release())

    async def _perform(self, caller: _Caller, request: wire.Request) -> None:
        answer: wire.Answer
        try:
            match request:
                case wire.Sign(number, issuer, typ, payload):
                    token = await self._service.sign(caller.member, issuer, typ, payload)
                    answer = wire.Signed(number, token)
                case wire.Probe(number, issuer):
                    await self._service.probe(caller.member, issuer)
                    answer = wire.Ready(number)
        except PeerRefused as refused:
            answer = wire.Refused(request.id, refused.reason)
        except Unavailable:
            answer = wire.Refused(request.id, PeerRefusal.NOT_READY)
        except Exception as error:  # noqa: BLE001  The caller is told to go elsewhere; the rest stays here.
            log.error("an answer to a node failed: %s", type(error).__qualname__)
            answer = wire.Refused(request.id, PeerRefusal.NOT_READY)
        if self._is_known(caller):
            self._send(caller, answer)

    def _send(self, caller: _Caller, answer: wire.Answer) -> None:
        caller.connection.send(wire.encode(answer))
        if caller.connection.unsent() > self._limits.unread:
            caller.connection.abort()

    def _is_known(self, caller: _Caller) -> bool:
        return caller.member.certificate in self._callers()

    def _budget(self, member: Member) -> Bucket:
        # Kept beyond its connections, or a new one would bring a new budget; forgotten by the sweep.
        return self._budgets.setdefault(member.certificate, Bucket(self._limits.burst, self._limits.every))

    async def _sweep(self) -> None:
        """Cut off who is silent or has left, again and again."""
        while True:
            await self._clock.sleep(self._limits.silence / 4)
            now = self._clock.monotonic()
            for caller in tuple(self._open):
                silent = not caller.answering and now - caller.heard_at >= self._limits.silence
                if silent or not self._is_known(caller):
                    caller.connection.abort()
            for gone in self._budgets.keys() - self._callers().keys():
                del self._budgets[gone]


def _reason(error: OSError) -> str:
    # An SSLError's reason is a name out of OpenSSL's table; nothing that the caller wrote.
    return f"the handshake failed: {getattr(error, 'reason', None) or type(error).__name__}"
