"""The clauses of :mod:`mintmark.ports.peer`, one test each."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from mintmark.core.keyring import Member
from mintmark.core.peering import PeerRefusal
from mintmark.ports.peer import PeerCaller, PeerRefused, PeerUnavailable
from mintmark.testing.clock import FakeClock
from mintmark.units import Issuer, NodeId

ISSUER = Issuer("https://auth.example.com")
BURST = 8
"""Requests that the rig's listener takes from one node at once; it takes one more a second."""
SILENCE = 60.0
"""Seconds after which it cuts off who says nothing."""


@dataclass
class RecordingService:
    """A service that notes who asked for what, and answers with the payload itself."""

    asked: list[tuple[NodeId, Issuer, str, bytes]] = field(default_factory=list)
    turned: list[tuple[str, str]] = field(default_factory=list)
    refuse: PeerRefusal | None = None
    held: asyncio.Event = field(default_factory=asyncio.Event)
    """Requests whose payload begins with ``hold`` wait for this."""
    reached: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def sign(self, caller: Member, issuer: Issuer, typ: str, payload: bytes) -> str:
        """The payload, as text."""
        self.asked.append((caller.node, issuer, typ, payload))
        self.reached.release()
        if payload.startswith(b"hold"):
            await self.held.wait()
        if self.refuse is not None:
            raise PeerRefused(self.refuse)
        return payload.decode()

    async def probe(self, caller: Member, issuer: Issuer) -> None:
        """Nothing, unless it refuses."""
        self.asked.append((caller.node, issuer, "", b""))
        if self.refuse is not None:
            raise PeerRefused(self.refuse)

    def turned_away(self, who: str, reason: str) -> None:
        """Note it."""
        self.turned.append((who, reason))


@dataclass
class PeerRig:
    """A listener, and what a test does around it."""

    clock: FakeClock
    service: RecordingService
    member: Member
    """The listener, as its row shows it."""
    impostor: Member
    """The same row, at whose address somebody else listens, with a service and a certificate of his own."""
    impostors: RecordingService
    join: Callable[[str], PeerCaller]
    """A caller that the listener knows."""
    leave: Callable[[str], None]
    """The listener is not told of it any more."""
    stranger: Callable[[], PeerCaller]
    """A caller that it was never told of."""
    stop: Callable[[], Awaitable[None]]
    """The listener and all its connections end."""
    restart: Callable[[], Awaitable[None]]
    send: Callable[[str, bytes], Awaitable[bytes]]
    """What the listener answers to raw bytes from a node that it knows, until it hangs up."""
    connect: Callable[[], Awaitable[bytes]]
    """What it says to a TCP connection that says nothing, until it hangs up."""


class PeerConformance:
    """The clauses; ``rig`` comes from the test module."""

    async def test_call_reaches_who_was_named(self, rig: PeerRig) -> None:
        """PEER-1: the call arrives with who asked and what for; at another certificate it does not."""
        caller = rig.join("ann")
        assert await caller.sign(rig.member, ISSUER, "at+jwt", b"one") == "one"
        assert rig.service.asked == [("ann", ISSUER, "at+jwt", b"one")]
        with pytest.raises(PeerUnavailable):
            await caller.sign(rig.impostor, ISSUER, "at+jwt", b"two")
        assert rig.impostors.asked == []

    async def test_strangers_get_no_further_than_the_door(self, rig: PeerRig) -> None:
        """PEER-2: without a certificate of a live node no request arrives."""
        with pytest.raises(PeerUnavailable):
            await rig.stranger().sign(rig.member, ISSUER, "at+jwt", b"one")
        assert rig.service.asked == []
        assert len(rig.service.turned) == 1

    async def test_who_has_left_gets_no_answer(self, rig: PeerRig) -> None:
        """PEER-2: a node that is no longer listed is cut off, an answer that was under way included."""
        caller = rig.join("ann")
        asking = asyncio.ensure_future(caller.sign(rig.member, ISSUER, "at+jwt", b"hold"))
        await rig.service.reached.acquire()
        rig.leave("ann")
        rig.service.held.set()
        with pytest.raises(PeerUnavailable):
            await caller.sign(rig.member, ISSUER, "at+jwt", b"more")
        with pytest.raises(PeerUnavailable):
            await asking
        assert [payload for *_, payload in rig.service.asked] == [b"hold"]

    async def test_calls_are_independent(self, rig: PeerRig) -> None:
        """PEER-3: an answer that is late, or whose caller left, holds up no other and is nobody else's."""
        caller = rig.join("ann")
        late = asyncio.ensure_future(caller.sign(rig.member, ISSUER, "at+jwt", b"hold on"))
        left = asyncio.ensure_future(caller.sign(rig.member, ISSUER, "at+jwt", b"hold and go"))
        for _ in range(2):
            await rig.service.reached.acquire()
        left.cancel()
        answers = [caller.sign(rig.member, ISSUER, "at+jwt", str(n).encode()) for n in range(5)]
        assert await asyncio.gather(*answers) == ["0", "1", "2", "3", "4"]
        rig.service.held.set()
        assert await late == "hold on"

    async def test_refusal_has_a_reason(self, rig: PeerRig) -> None:
        """PEER-4: each reason arrives as it is, for a signature and a probe, and the line goes on."""
        caller = rig.join("ann")
        for reason in (PeerRefusal.NOT_COVERED, PeerRefusal.BAD_TIMES):
            rig.service.refuse = reason
            with pytest.raises(PeerRefused) as refused:
                await caller.sign(rig.member, ISSUER, "at+jwt", b"one")
            assert refused.value.reason is reason
            with pytest.raises(PeerRefused) as refused:
                await caller.probe(rig.member, ISSUER)
            assert refused.value.reason is reason
        rig.service.refuse = None
        await caller.probe(rig.member, ISSUER)

    async def test_member_that_dies_is_unavailable_until_it_is_back(self, rig: PeerRig) -> None:
        """PEER-5: a call under way fails at once, a later one is refused, and one after that arrives."""
        caller = rig.join("ann")
        asking = asyncio.ensure_future(caller.sign(rig.member, ISSUER, "at+jwt", b"hold"))
        await rig.service.reached.acquire()
        await rig.stop()
        for failing in (asking, caller.sign(rig.member, ISSUER, "at+jwt", b"two")):
            with pytest.raises(PeerUnavailable):
                await failing
        await rig.restart()
        assert await caller.sign(rig.member, ISSUER, "at+jwt", b"three") == "three"

    async def test_silence_is_given_up(self, rig: PeerRig) -> None:
        """PEER-5: a member that answers nothing is unavailable, even if who asked first has left."""
        caller = rig.join("ann")
        first = asyncio.ensure_future(caller.sign(rig.member, ISSUER, "at+jwt", b"hold 1"))
        await rig.service.reached.acquire()
        first.cancel()
        second = asyncio.ensure_future(caller.sign(rig.member, ISSUER, "at+jwt", b"hold 2"))
        await rig.service.reached.acquire()
        await rig.clock.armed(within=3, beyond=0)
        rig.clock.advance(3)
        with pytest.raises(PeerUnavailable):
            await second
        assert await caller.sign(rig.member, ISSUER, "at+jwt", b"three") == "three"

    async def test_share_is_bounded(self, rig: PeerRig) -> None:
        """PEER-6: past its burst a node is told that it asks too much; another one is served."""
        greedy, other = rig.join("ann"), rig.join("bob")
        for _ in range(BURST):
            await greedy.sign(rig.member, ISSUER, "at+jwt", b"one")
        with pytest.raises(PeerRefused) as refused:
            await greedy.sign(rig.member, ISSUER, "at+jwt", b"one")
        assert refused.value.reason is PeerRefusal.BUSY
        assert await other.sign(rig.member, ISSUER, "at+jwt", b"two") == "two"
        rig.clock.advance(1)
        assert await greedy.sign(rig.member, ISSUER, "at+jwt", b"three") == "three"

    @pytest.mark.parametrize(
        "raw",
        [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\3abc", b"GET / HTTP/1.1\r\n\r\n"],
        ids=["empty", "huge", "no_msgpack", "no_message", "http"],
    )
    async def test_what_is_no_message_ends_its_connection(self, rig: PeerRig, raw: bytes) -> None:
        """PEER-7: the sender is hung up on, nothing is asked, and others are served."""
        caller = rig.join("ann")
        assert await rig.send("bob", raw) == b""
        assert rig.service.asked == []
        assert await caller.sign(rig.member, ISSUER, "at+jwt", b"one") == "one"

    async def test_half_a_message_is_not_waited_for(self, rig: PeerRig) -> None:
        """PEER-7: whoever begins a message and leaves it ends with the silence."""
        asking = asyncio.ensure_future(rig.send("bob", b"\0\0\1\0half"))
        while not asking.done():
            await rig.clock.armed(within=SILENCE)
            rig.clock.advance(SILENCE / 4)
            await asyncio.wait((asking,), timeout=0.01)
        assert await asking == b""

    async def test_who_says_nothing_is_cut_off(self, rig: PeerRig) -> None:
        """PEER-8: a connection without a handshake is closed, and one too many at once."""
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*(rig.connect() for _ in range(6)))
        assert set(answers) == {b""}
        caller = rig.join("ann")
        assert await caller.sign(rig.member, ISSUER, "at+jwt", b"one") == "one"
