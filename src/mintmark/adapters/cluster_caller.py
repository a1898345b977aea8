"""Calls to other nodes' cluster listeners: one connection a node, made when it is first needed and kept."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from mintmark.adapters import cluster_wire as wire
from mintmark.adapters.cluster_wire import Connection, Identity, within
from mintmark.core.keyring import Member
from mintmark.core.peering import PeerRefusal
from mintmark.ports.clock import Clock
from mintmark.ports.peer import PeerRefused, PeerUnavailable
from mintmark.units import Issuer

SILENCE: Final = 2.0
"""Seconds without any answer, while one is due, after which a connection is given up."""
MAX_WAITING: Final = 1024
"""Calls of one connection that wait for an answer; the next one is refused instead of queued."""


class ClusterCaller:
    """:class:`mintmark.ports.peer.PeerCaller` with ``identity``; belongs to the loop that is running."""

    def __init__(self, identity: Identity, *, clock: Clock) -> None:
        self._identity = identity
        self._clock = clock
        self._lines: dict[tuple[bytes, str], _Line] = {}
        self._closed = False

    async def sign(self, member: Member, issuer: Issuer, typ: str, payload: bytes) -> str:
        """The compact JWS; see the port."""
        if len(payload) + len(issuer.encode()) + len(typ.encode()) > wire.MAX_REQUEST - 64:
            raise PeerRefused(PeerRefusal.BAD_CLAIMS)
        answer = await self._ask(member, lambda n: wire.Sign(n, issuer, typ, payload))
        if isinstance(answer, wire.Signed):
            return answer.token
        raise PeerUnavailable("another node answered something else")

    async def probe(self, member: Member, issuer: Issuer) -> None:
        """Return if the member would sign; see the port."""
        answer = await self._ask(member, lambda n: wire.Probe(n, issuer))
        if not isinstance(answer, wire.Ready):
            raise PeerUnavailable("another node answered something else")

    def keep_only(self, members: Iterable[Member]) -> None:
        """Close the connections to all others."""
        kept = {(member.certificate, member.address) for member in members}
        for place in self._lines.keys() - kept:
            self._lines.pop(place).close()

    async def close(self) -> None:
        """End every connection; what waits raises PeerUnavailable. Idempotent."""
        self._closed = True
        lines = tuple(self._lines.values())
        self.keep_only(())
        for line in lines:
            await line.ended()

    async def _ask(self, member: Member, request: "Callable[[int], wire.Request]") -> wire.Answer:
        if self._closed:
            raise PeerUnavailable("this node calls nobody any more")
        place = (member.certificate, member.address)
        line = self._lines.get(place)
        if line is None or line.closed:
            line = self._lines[place] = _Line(member, self._identity, self._clock)
        answer = await line.ask(request)
        if isinstance(answer, wire.Refused):
            raise PeerRefused(answer.reason)
        return answer


class _Line:
    """One connection, from the first handshake on, and the calls that wait on it."""

    def __init__(self, member: Member, identity: Identity, clock: Clock) -> None:
        self._member = member
        self._identity = identity
        self._clock = clock
        self._connection = Connection()
        self._waiting: dict[int, asyncio.Future[wire.Answer]] = {}
        self._last_id = 0
        self._due = 0
        self._heard_at = 0.0
        self._watch: asyncio.Task[None] | None = None
        self.closed = False
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A failure is told to whoever waits; with nobody left it is nobody's.
        self._opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        self._task = asyncio.create_task(self._run())

    async def ask(self, request: "Callable[[int], wire.Request]") -> wire.Answer:
        """The answer to ``request(n)``, n a new id; raises PeerUnavailable."""
        # Shielded: a caller that gives up must not end the handshake that others wait for.
        await asyncio.shield(self._opened)
        if self.closed:
            raise PeerUnavailable("the connection to another node has ended")
        if len(self._waiting) >= MAX_WAITING:
            raise PeerUnavailable("too many calls wait for another node")
        self._last_id = number = self._last_id + 1
        answered: asyncio.Future[wire.Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answered
        try:
            self._expect()
            self._connection.send(wire.encode(request(number)))
            return await answered
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """End it; who waits gets PeerUnavailable. Idempotent."""
        self._task.cancel()

    async def ended(self) -> None:
        """Return once nothing of it runs any more."""
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            await self._open()
            self._opened.set_result(None)
            while (message := await self._connection.receive(wire.MAX_ANSWER)) is not None:
                self._take(wire.decode_answer(message))
        except (OSError, ValueError, msgspec.MsgspecError):
            # Away, not who it should be, or speaking something else: who waits hears it below.
            return
        finally:
            self._end()

    async def _open(self) -> None:
        """Raises OSError, or ValueError for an address that is none."""
        host, _, port = self._member.address.rpartition(":")
        shown = await within(
            self._clock,
            wire.HANDSHAKE,
            self._connection.call(
                host.strip("[]"), int(port), self._identity.calling(self._member.certificate)
            ),
        )
        if shown != self._member.certificate:
            raise ConnectionRefusedError("another certificate than the one that is pinned")

    def _take(self, answer: wire.Answer) -> None:
        self._due -= 1
        self._heard_at = self._clock.monotonic()
        # A caller that was cancelled has left; its answer goes nowhere.
        answered = self._waiting.get(answer.id)
        if answered is not None and not answered.done():
            answered.set_result(answer)

    def _expect(self) -> None:
        """Another answer is due; counted apart from who waits, so that giving up hides no silence."""
        if self._due == 0:
            self._heard_at = self._clock.monotonic()
        self._due += 1
        if self._watch is None:
            self._watch = asyncio.create_task(self._give_up_on_silence())

    async def _give_up_on_silence(self) -> None:
        while self._due > 0:
            left = self._heard_at + SILENCE - self._clock.monotonic()
            if left <= 0:
                self._task.cancel()
                break
            await self._clock.sleep(left)
        self._watch = None

    def _end(self) -> None:
        self.closed = True
        self._connection.abort()
        if self._watch is not None:
            self._watch.cancel()
        if not self._opened.done():
            self._opened.set_exception(PeerUnavailable("another node cannot be reached"))
        for answered in self._waiting.values():
            if not answered.done():
                answered.set_exception(PeerUnavailable("another node went away"))
