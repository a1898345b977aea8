"""Nodes that mint through each other, over real TLS, and what a node that was taken over gets."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.server.town import ISSUER, PASSWORD, SECRET, Town, TownNode, town

from mintmark.adapters.cluster_caller import ClusterCaller
from mintmark.adapters.cluster_listener import Limits
from mintmark.adapters.cluster_wire import Identity
from mintmark.core import jws
from mintmark.core.events import EventName
from mintmark.core.key import KeyMode
from mintmark.core.keyring import Member
from mintmark.core.log import LogPage
from mintmark.core.peering import PeerRefusal
from mintmark.core.sessions import EndCause
from mintmark.errors import NotReady, SignerUnavailable
from mintmark.ports.peer import PeerRefused, PeerUnavailable
from mintmark.server.clients import ClientAuthMethod, Credentials
from mintmark.server.health import Reason
from mintmark.server.sessions import SessionTokens
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.conformance.peer import RecordingService
from mintmark.units import ClientId, Issuer, Kid, NodeId


@pytest.fixture
async def world() -> AsyncIterator[Town]:
    async with town() as made:
        yield made


async def log_in(node: TownNode) -> SessionTokens:
    client = await node.town.store.directory.client(ISSUER, ClientId("spa"))
    assert client is not None
    return await node.services.sessions.log_in(client, username="alice", password=PASSWORD)


async def refresh(node: TownNode, tokens: SessionTokens) -> SessionTokens:
    client = await node.town.store.directory.client(ISSUER, ClientId("spa"))
    assert client is not None
    return await node.services.sessions.refresh(client, tokens.refresh_token)


def kid_of(tokens: SessionTokens) -> Kid | None:
    return jws.parse(tokens.access.access_token).header.kid


# --- minting through a peer ------------------------------------------------------------------------


async def test_joining_node_mints_through_a_peer(world: Town):
    """A node without a key logs in and refreshes at once, with the other's key, and is ready."""
    old, new = await world.join("old", key=True), await world.join("new")
    await world.look()
    tokens = await log_in(new)
    assert kid_of(tokens) == old.kid
    assert kid_of(await refresh(new, tokens)) == old.kid
    assert Reason.NO_ACTIVE_KEY not in await new.services.health.reasons()
    assert old.audit.counts[EventName.TOKEN_SIGNED_FOR_PEER] == 2
    assert [key.node for key in new.follower.view.ring.keys] == ["old"]


async def test_row_names_the_key_that_signed(world: Town):
    """The session's ``last_kid`` is the peer's key, so a revocation of it counts this session."""
    old, new = await world.join("old", key=True), await world.join("new")
    await world.look()
    tokens = await log_in(new)
    row = (await world.store.sessions.read(ISSUER, tokens.rid)).session
    assert row is not None
    assert row.last_kid == old.kid


async def test_service_mints_through_a_peer(world: Town):
    """A service's own token, which has no session, is signed by the peer as well."""
    old, new = await world.join("old", key=True), await world.join("new")
    await world.look()
    granted = await new.services.tokens.grant(
        Credentials(ClientAuthMethod.CLIENT_SECRET_BASIC, "stock", SECRET),
        {"grant_type": "client_credentials"},
    )
    assert jws.parse(granted.access_token).header.kid == old.kid


async def test_without_a_peer_nobody_is_logged_in(world: Town):
    """No node with a key: the log-in is «later», and no session is left that nobody holds."""
    new = await world.join("new")
    await world.look()
    with pytest.raises(NotReady):
        await log_in(new)
    assert await world.store.sessions.list(ISSUER) == ()
    assert Reason.NO_ACTIVE_KEY in await new.services.health.reasons()


async def test_session_without_a_signature_is_ended(world: Town):
    """The peer went away after the session was stored: it is ended, and the caller told to come later."""
    old, new = await world.join("old", key=True), await world.join("new")
    await world.look()
    await old.deafen()
    with pytest.raises(SignerUnavailable):
        await log_in(new)
    assert await world.store.sessions.list(ISSUER) == ()
    page = await world.store.revocations.read(ISSUER, after=None, limit=10)
    assert isinstance(page, LogPage)
    assert len(page.entries) == 1


# --- peers that fail -------------------------------------------------------------------------------


async def test_next_peer_is_asked_when_one_is_gone(world: Town):
    """Of two nodes with keys one has died: every token is signed by the other."""
    dead, alive = await world.join("dead", key=True), await world.join("alive", key=True)
    new = await world.join("new")
    await world.look()
    await dead.deafen()
    for _ in range(8):
        assert kid_of(await log_in(new)) == alive.kid
    assert new.audit.counts[EventName.PEER_FAILED] == 1


async def test_peer_that_dies_with_a_request_is_replaced(world: Town):
    """The connection breaks while the answer is awaited: the next node gives it."""
    first, second = await world.join("first", key=True), await world.join("second", key=True)
    new = await world.join("new")
    held = RecordingService()
    await first.deafen()
    await first.listen(service=_Holding(held))
    await world.look()
    asking = asyncio.ensure_future(new.peers.sign(first.kid, "at+jwt", await payload_of(new)))
    await held.reached.acquire()
    await first.deafen()
    assert jws.parse(await asking).header.kid == second.kid


async def test_peer_that_stands_still_is_passed_over(world: Town):
    """A node that answers nothing costs a part of a second once, and is asked last from then on."""
    first, second = await world.join("first", key=True), await world.join("second", key=True)
    new = await world.join("new")
    held = RecordingService()
    await first.deafen()
    await first.listen(service=_Holding(held))
    await world.look()
    payload = await payload_of(new)
    asking = asyncio.ensure_future(new.peers.sign(first.kid, "at+jwt", payload))
    await held.reached.acquire()
    await world.clock.armed(within=0.5)
    world.clock.advance(0.5)
    assert jws.parse(await asking).header.kid == second.kid
    assert jws.parse(await new.peers.sign(first.kid, "at+jwt", payload)).header.kid == second.kid
    assert len(held.asked) == 1


async def test_silence_of_all_peers_ends_in_time(world: Town):
    """Where nobody answers, the caller hears so within two seconds."""
    first, new = await world.join("first", key=True), await world.join("new")
    held = RecordingService()
    await first.deafen()
    await first.listen(service=_Holding(held))
    await world.look()
    asking = asyncio.ensure_future(new.peers.sign(first.kid, "at+jwt", await payload_of(new)))
    await held.reached.acquire()
    await world.clock.armed(within=2)
    world.clock.advance(2)
    with pytest.raises(SignerUnavailable):
        await asking


@pytest.mark.parametrize("lie", ["other_claims", "no_token", "broken_signature", "unknown_key"])
async def test_answer_that_is_not_what_was_asked_is_no_answer(world: Town, lie: str):
    """A peer that was taken over, or is broken, gives nobody another's token: the next one is asked."""
    bad, good = await world.join("bad", key=True), await world.join("good", key=True)
    new = await world.join("new")
    await bad.deafen()
    await bad.listen(service=_Lying(bad, lie))
    await world.look()
    payload = await payload_of(new)
    token = await new.peers.sign(bad.kid, "at+jwt", payload)
    assert jws.parse(token).header.kid == good.kid
    assert jws.parse(token).payload == payload


async def test_one_refusal_denies_nothing(world: Town):
    """A peer that was taken over refuses what is due: the next one is asked, and signs."""
    bad, good = await world.join("bad", key=True), await world.join("good", key=True)
    new = await world.join("new")
    await bad.deafen()
    await bad.listen(service=RecordingService(refuse=PeerRefusal.NOT_LIVE))
    await world.look()
    token = await new.peers.sign(bad.kid, "at+jwt", await payload_of(new))
    assert jws.parse(token).header.kid == good.kid


async def test_second_refusal_is_believed(world: Town):
    """What two peers refuse a third is not asked for, and with one peer its refusal is the answer."""
    nodes = [await world.join(name, key=True) for name in ("one", "two", "three")]
    new = await world.join("new")
    services = [RecordingService(refuse=PeerRefusal.NOT_LIVE) for _ in nodes]
    for node, service in zip(nodes, services, strict=True):
        await node.deafen()
        await node.listen(service=service)
    await world.look()
    for asked in (2, 1):
        with pytest.raises(PeerRefused) as refused:
            await new.peers.sign(nodes[0].kid, "at+jwt", b"{}")
        assert refused.value.reason is PeerRefusal.NOT_LIVE
        assert sum(len(service.asked) for service in services) == asked
        for service in services:
            service.asked.clear()
        for node in nodes[1:]:
            await node.deafen()
            node.address = ""
        await world.look()


async def test_node_without_a_listener_is_not_asked(world: Town):
    """``cluster_listen = "off"``: its key is of use to itself alone, and its silence is no news."""
    quiet, new = await world.join("quiet", key=True, listens=False), await world.join("new")
    await world.look()
    assert new.peers.members(quiet.kid) == ()
    with pytest.raises(NotReady):
        await new.peers.sign(quiet.kid, "at+jwt", b"{}")
    assert new.audit.counts[EventName.PEER_FAILED] == 0


async def test_node_that_is_back_is_asked_again(world: Town):
    """A listener that was cut off and returns serves again, on the same address or a new one."""
    old, new = await world.join("old", key=True), await world.join("new")
    await world.look()
    await log_in(new)
    await old.deafen()
    with pytest.raises(SignerUnavailable):
        await log_in(new)
    await old.listen()
    await world.look()
    assert kid_of(await log_in(new)) == old.kid


async def test_key_that_changes_at_the_peer_does_not_matter(world: Town):
    """The peer signs with what it has now, and the caller learns of that key before it believes it."""
    old, new = await world.join("old", key=True), await world.join("new")
    await world.look()
    first = old.kid
    await old.add_key()
    await old.follower.refresh()
    assert kid_of(await log_in(new)) == old.kid != first


# --- a node that was taken over --------------------------------------------------------------------


async def payload_of(node: TownNode, **changes: Any) -> bytes:
    """The claims of a live session's token, as ``node`` would ask for them, but for ``changes``."""
    helper = next(other for other in node.town.nodes if other is not node and other.kid)
    await helper.services.ring.refresh()
    tokens = await log_in(helper)
    claims = json.loads(jws.parse(tokens.access.access_token).payload)
    return json.dumps(claims | changes).encode()


async def refusal_of(node: TownNode, member: Member, typ: str, payload: bytes) -> PeerRefusal:
    with pytest.raises(PeerRefused) as refused:
        await node.caller.sign(member, ISSUER, typ, payload)
    return refused.value.reason


async def test_taken_over_node_gets_no_token_that_is_not_due(world: Town):
    """Over the wire: another subject, more scope, a longer life, another typ, an ended session, rubbish."""
    old, evil = await world.join("old", key=True), await world.join("evil")
    await world.look()
    good = await payload_of(evil)
    claims = json.loads(good)
    assert jws.parse(await evil.caller.sign(old.member, ISSUER, "at+jwt", good)).payload == good

    async def asked(typ: str = "at+jwt", **changes: Any) -> PeerRefusal:
        return await refusal_of(evil, old.member, typ, json.dumps(claims | changes).encode())

    assert await asked(sub="usr_bob") is PeerRefusal.NOT_LIVE
    assert await asked(scope=claims["scope"] + " stock:read") is PeerRefusal.NOT_COVERED
    assert await asked(exp=claims["exp"] + 3600) is PeerRefusal.BAD_TIMES
    assert await asked(iss="https://other.example.com") is PeerRefusal.UNKNOWN_ISSUER
    assert await asked("JWT") is PeerRefusal.WRONG_TYP
    assert await asked(admin=True) is PeerRefusal.BAD_CLAIMS
    assert await refusal_of(evil, old.member, "at+jwt", b"[" * 5000) is PeerRefusal.BAD_CLAIMS
    await old.services.sessions.end(claims["rid"], EndCause.LOGOUT)
    assert await asked() is PeerRefusal.NOT_LIVE
    assert old.audit.counts[EventName.PEER_REFUSED] == 8
    assert old.audit.counts[EventName.TOKEN_SIGNED_FOR_PEER] == 1


async def test_another_issuer_is_not_served(world: Town):
    """A node signs for the issuers that it serves, whoever asks."""
    old, evil = await world.join("old", key=True), await world.join("evil")
    await world.look()
    with pytest.raises(PeerRefused) as refused:
        await evil.caller.sign(old.member, Issuer("https://other.example.com"), "at+jwt", b"{}")
    assert refused.value.reason is PeerRefusal.UNKNOWN_ISSUER


async def test_node_that_is_silent_or_gone_is_a_stranger(world: Town):
    """Once its heartbeat is old a node gets nothing signed, on the connection that it has or a new one."""
    old, late = await world.join("old", key=True), await world.join("late")
    await world.look()
    payload = await payload_of(late)
    await late.caller.sign(old.member, ISSUER, "at+jwt", payload)
    await world.age(11, silent=late)
    for _ in range(2):
        with pytest.raises(PeerUnavailable):
            await late.caller.sign(old.member, ISSUER, "at+jwt", payload)
    assert old.audit.counts[EventName.TOKEN_SIGNED_FOR_PEER] == 1


async def test_certificate_that_a_live_node_made_is_not_its_own(world: Town):
    """A certificate that names the node, and is in nobody's row, opens nothing (DP1)."""
    old, new = await world.join("old", key=True), await world.join("new")
    await world.look()
    forged = ClusterCaller(Identity(NodeId("new"), SYSTEM_ENTROPY), clock=world.clock)
    with pytest.raises(PeerUnavailable):
        await forged.sign(old.member, ISSUER, "at+jwt", await payload_of(new))
    await forged.close()
    assert old.audit.counts[EventName.PEER_TURNED_AWAY] == 1
    assert old.audit.counts[EventName.TOKEN_SIGNED_FOR_PEER] == 0


async def test_flood_is_cut_and_others_are_served(world: Town):
    """A node that asks without end is told that it is too much; another one mints meanwhile."""
    old, evil, new = await world.join("old", key=True), await world.join("evil"), await world.join("new")
    await old.deafen()
    await old.listen(limits=Limits(burst=20, every=1.0))
    await world.look()
    asking = (evil.caller.sign(old.member, ISSUER, "at+jwt", b"{}") for _ in range(200))
    answers = await asyncio.gather(*asking, return_exceptions=True)
    reasons = [answer.reason for answer in answers if isinstance(answer, PeerRefused)]
    assert (reasons.count(PeerRefusal.BAD_CLAIMS), reasons.count(PeerRefusal.BUSY)) == (20, 180)
    assert kid_of(await log_in(new)) == old.kid
    assert old.audit.counts[EventName.PEER_REFUSED] == 20
    assert old.audit.counts[EventName.PEER_TURNED_AWAY] == 180


async def test_probe_needs_a_key_that_may_sign(world: Town):
    """A node whose key was forgotten or whose lease has ended does not say that it would sign."""
    old, new = await world.join("old", key=True), await world.join("new")
    await world.look()
    await new.caller.probe(old.member, ISSUER)
    assert old.peering.heard_from(10) == {"new"}
    await old.signer.forget(old.kid)
    with pytest.raises(PeerRefused) as refused:
        await new.caller.probe(old.member, ISSUER)
    assert refused.value.reason is PeerRefusal.NOT_READY


async def test_node_is_replaced_once_another_answers_and_counts_on_it(world: Town):
    """Before it answers nobody: another node must have a ring to serve, stay, and sign or ask here."""
    old, new = await world.join("old", key=True), await world.join("new")
    await world.look()
    assert not old.peering.is_replaced()
    await new.peers.probe()
    assert old.peering.is_replaced()

    async def is_replaced(
        *, generation: int = 1, modes: frozenset[KeyMode] = frozenset({KeyMode.OWN})
    ) -> bool:
        await world.store.keyring.beat(
            ISSUER, new.node, ring_generation=generation, address=new.address,
            certificate=new.identity.certificate, modes=modes,
        )  # fmt: skip
        await old.follower.refresh()
        return old.peering.is_replaced()

    assert not await is_replaced(generation=0)
    assert not await is_replaced(modes=frozenset())
    assert await is_replaced()
    world.clock.advance(6)
    assert not await is_replaced()
    await new.add_key()
    assert await is_replaced()


class _Holding(RecordingService):
    """A peer whose signatures do not come."""

    def __init__(self, notes: RecordingService) -> None:
        super().__init__()
        self._notes = notes

    async def sign(self, caller: Member, issuer: Issuer, typ: str, payload: bytes) -> str:
        self._notes.asked.append((caller.node, issuer, typ, payload))
        self._notes.reached.release()
        await self._notes.held.wait()
        raise PeerRefused(PeerRefusal.NOT_READY)


class _Lying(RecordingService):
    """A peer that answers with something else."""

    def __init__(self, node: TownNode, lie: str) -> None:
        super().__init__()
        self._node = node
        self._lie = lie

    async def sign(self, caller: Member, issuer: Issuer, typ: str, payload: bytes) -> str:
        signer, kid = self._node.signer, self._node.kid
        match self._lie:
            case "other_claims":
                return await signer.sign(kid, typ, json.dumps(json.loads(payload) | {"sub": "bob"}).encode())
            case "broken_signature":
                token = await signer.sign(kid, typ, payload)
                return token[:-8] + "AAAAAAAA"
            case "unknown_key":
                own = await signer.sign(kid, typ, payload)
                head = jws.signing_input({"alg": "ES256", "kid": "x" * 43, "typ": typ}, payload)
                return f"{head.decode()}.{own.rpartition('.')[2]}"
            case _:
                return "no token"
