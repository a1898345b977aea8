"""The rotation of one node on the store in memory, with faults at each step (F01, F09, K1 to K3, K7)."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from mintmark.adapters.memory import MemoryStore
from mintmark.adapters.memory_bus import MemoryBus
from mintmark.core.algorithm import Algorithm
from mintmark.core.events import EventName
from mintmark.core.keyring import Activation, Key, KeyState, Ring
from mintmark.core.revocation import Kind
from mintmark.core.timing import Timing
from mintmark.errors import StoreUnavailable, Unavailable
from mintmark.ports.proof import ProofFailed
from mintmark.ports.signer import SignerRefused
from mintmark.server.audit import Audit
from mintmark.server.rotation import Rotation, request_rotation, revoke_key
from mintmark.signer.local import LocalSigner
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults, FaultyStore
from mintmark.units import Issuer, Kid, NodeId

ISSUER = Issuer("https://auth.example.com")
OWN = "http://127.0.0.1:1/.well-known/jwks.json"
PUBLIC = "https://auth.example.com/.well-known/jwks.json"
TIMING = Timing()


@dataclass
class Site:
    """What can be read back: the ring of the store, or an older one while a cache keeps it."""

    store: MemoryStore
    cached: dict[str, frozenset[Kid]] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)

    async def kids(self, url: str) -> frozenset[Kid]:
        if url in self.away:
            raise ProofFailed(f"{url}: ConnectError")
        if url in self.cached:
            return self.cached[url]
        view = await self.store.keyring.read(ISSUER)
        return frozenset(key.kid for key in view.ring.published())


class World:
    """A store, a clock, and nodes that come and go."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock, entropy=SYSTEM_ENTROPY)
        self.faults = Faults(clock=self.clock)
        self.site = Site(self.store)
        self.signers: list[LocalSigner] = []
        self.made = 0

    def node(self) -> "Node":
        signer = LocalSigner(clock=self.clock)
        self.signers.append(signer)
        self.made += 1
        return Node(self, NodeId(f"node-{self.made}"), signer)

    async def ring(self) -> Ring:
        return (await self.store.keyring.read(ISSUER)).ring

    async def key(self, state: KeyState) -> Key:
        (found,) = [key for key in (await self.ring()).keys if key.state is state]
        return found


class Node:
    """One node's rotation, whose workers serve whatever the ring is."""

    def __init__(self, world: World, node: NodeId, signer: LocalSigner) -> None:
        self.world = world
        self.signer = signer
        self.audit = Audit()
        self.served = 0
        self.rotation = Rotation(
            ISSUER,
            node=node,
            algorithm=Algorithm.ES256,
            store=FaultyStore(world.store, world.faults).keyring,
            signer=signer,
            reader=world.site,
            bus=MemoryBus(clock=world.clock),
            clock=world.clock,
            timing=TIMING,
            audit=self.audit,
            served=lambda: self.served,
            own_url=OWN,
            proof_urls=(PUBLIC,),
        )

    async def round(self) -> None:
        """Rounds of a node whose workers have caught up, with whatever was read back between them."""
        for _ in range(3):
            self.served = (await self.world.ring()).generation
            await self.rotation.round()
            await self.rotation.answered()

    async def rounds(self, seconds: int, *, every: int = 2) -> None:
        """Rounds while time passes."""
        for _ in range(seconds // every):
            self.world.clock.advance(every)
            await self.round()

    async def can_sign(self, kid: Kid, *, lives: int = TIMING.access_ttl) -> bool:
        exp = self.world.clock.now() + lives
        try:
            await self.signer.sign(kid, "at+jwt", b'{"iss":"%s","exp":%d}' % (ISSUER.encode(), exp))
        except SignerRefused:
            return False
        return True


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.store.open()
    yield made
    for signer in made.signers:
        signer.close()


async def test_first_key_of_a_lone_node_signs_at_once(world):
    """On an empty store the first key bootstraps, and may sign for as long as its lease covers."""
    node = world.node()
    await node.round()
    key = await world.key(KeyState.ACTIVE)
    assert key.activation is Activation.BOOTSTRAP
    assert await node.can_sign(key.kid)
    assert not await node.can_sign(key.kid, lives=TIMING.access_ttl + TIMING.lease + 1)


async def test_first_key_waits_for_its_own_listener(world):
    """A key that the node's own listener does not show yet does not sign."""
    world.site.cached[OWN] = frozenset()
    node = world.node()
    await node.round()
    assert [key.state for key in (await world.ring()).keys] == [KeyState.PREPARED]
    del world.site.cached[OWN]
    world.clock.advance(1)
    await node.round()
    assert await node.can_sign((await world.key(KeyState.ACTIVE)).kid)


async def test_successor_signs_only_after_the_lead_that_follows_its_proof(world):
    """F11: while a public URL serves a stale copy nothing is activated; the lead counts from the proof."""
    node = world.node()
    await node.round()
    first = await world.key(KeyState.ACTIVE)
    world.site.cached[PUBLIC] = frozenset({first.kid})
    await request_rotation(world.store.keyring, ISSUER)
    await node.rounds(TIMING.lead + 300)
    second = await world.key(KeyState.PREPARED)
    assert second.proven_at is None
    assert node.audit.counts[EventName.PROOF_FAILED] > 0
    del world.site.cached[PUBLIC]
    world.clock.advance(1)
    await node.round()
    proven_at = world.clock.now()
    await node.rounds(TIMING.lead - 10)
    assert (await world.key(KeyState.PREPARED)).proven_at == proven_at
    assert not await node.can_sign(second.kid)
    await node.rounds(20)
    assert (await world.key(KeyState.ACTIVE)).kid == second.kid
    assert (await world.key(KeyState.PASSIVE)).kid == first.kid
    assert await node.can_sign(second.kid)


async def test_node_that_lags_behind_holds_the_proof_back(world):
    """A live node whose workers serve an older ring keeps a key unproven, whatever the public URL shows."""
    node, other = world.node(), world.node()
    await node.round()
    await other.rotation.round()
    await request_rotation(world.store.keyring, ISSUER)
    for _ in range(10):
        world.clock.advance(5)
        await node.round()
        await other.rotation.round()
    keys = [key for key in (await world.ring()).keys if key.node == "node-1"]
    assert [key.proven_at for key in keys if key.state is KeyState.PREPARED] == [None]


async def test_scheduled_rotation_is_never_overdue(world):
    """Left alone for a day the ring turns over, and no key signs past its time."""
    node = world.node()
    await node.round()
    seen: set[Kid] = set()
    for _ in range(24 * 60):
        await node.rounds(60, every=60)
        seen.add((await world.key(KeyState.ACTIVE)).kid)
        assert len((await world.ring()).published()) <= 3
    assert len(seen) >= 6
    assert node.audit.counts[EventName.ROTATION_OVERDUE] == 0
    assert node.audit.counts[EventName.KEY_ACTIVATED] == len(seen)


async def test_key_without_a_renewed_lease_stops_signing(world):
    """While the store is away the lease ends, and with it what the signer will sign (K3)."""
    node = world.node()
    await node.round()
    key = await world.key(KeyState.ACTIVE)
    world.faults.fail_before("keyring.swap")
    for _ in range(40):
        world.clock.advance(5)
        with contextlib.suppress(StoreUnavailable):
            await node.round()
    assert not await node.can_sign(key.kid)
    world.faults.recover()
    await node.round()
    assert await node.can_sign(key.kid), "the key is still public, so its node goes on with it"


@pytest.mark.parametrize("operation", ["keyring.read", "keyring.swap", "keyring.beat"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_failure_at_each_step_is_made_good_by_the_next_round(world, operation, when):
    """F01, F19: each call of the store fails once, in turn, also after its commit: nothing is half done."""
    for number in range(12):
        world.faults.recover()
        fail = world.faults.fail_before if when == "before" else world.faults.fail_after
        node = world.node()
        failures = 0
        for step in range(40):
            if step == number:
                fail(operation, times=1)
            world.clock.advance(5)
            try:
                await node.round()
            except Unavailable:
                failures += 1
        active = [key for key in (await world.ring()).keys if key.state is KeyState.ACTIVE]
        assert len({key.node for key in active}) == len(active), "one active key a node"
        assert failures <= 1
    published = {key.kid for key in (await world.ring()).published()}
    assert len(published) <= TIMING.jwks_limit


async def test_revoked_key_signs_nowhere_and_its_node_goes_on_with_another(world):
    """K7: after the next round the signer has forgotten it; an emergency key takes over."""
    node = world.node()
    await node.round()
    key = await world.key(KeyState.ACTIVE)
    assert await revoke_key(world.store.keyring, ISSUER, key.kid, reason="leaked", timing=TIMING)
    assert not await revoke_key(world.store.keyring, ISSUER, key.kid, reason="again", timing=TIMING)
    await node.round()
    assert not await node.can_sign(key.kid)
    other = await world.key(KeyState.ACTIVE)
    assert other.activation is Activation.EMERGENCY
    assert await node.can_sign(other.kid)
    page = await world.store.revocations.read(ISSUER, None, limit=10)
    (entry,) = page.entries
    assert (entry.event.kind, entry.event.value) == (Kind.KID, key.kid)
    assert entry.event.expires_at >= world.clock.now() + 7 * 86_400


async def test_prepared_key_that_is_revoked_never_signs(world):
    """A successor that is revoked before its turn is replaced, and the active key signs on."""
    node = world.node()
    await node.round()
    active = await world.key(KeyState.ACTIVE)
    await request_rotation(world.store.keyring, ISSUER)
    await node.round()
    prepared = await world.key(KeyState.PREPARED)
    await revoke_key(world.store.keyring, ISSUER, prepared.kid, reason="drill", timing=TIMING)
    await node.round()
    assert (await world.key(KeyState.PREPARED)).kid != prepared.kid
    assert (await world.key(KeyState.ACTIVE)).kid == active.kid


async def test_restarted_node_keeps_the_old_key_public_and_signs_at_once(world):
    """I14: after leaving, the old key verifies until its last token is over; the next node bootstraps."""
    node = world.node()
    await node.round()
    old = await world.key(KeyState.ACTIVE)
    await node.rotation.leave()
    assert not await node.can_sign(old.kid)
    restarted = world.node()
    await restarted.round()
    assert await restarted.can_sign((await world.key(KeyState.ACTIVE)).kid)
    assert (await world.key(KeyState.PASSIVE)).kid == old.kid
    await restarted.rounds(TIMING.access_ttl + 300 + TIMING.clock_skew)
    assert old.kid in {key.kid for key in (await world.ring()).published()}
    await restarted.rounds(TIMING.lease + 10)
    assert (await world.ring()).find(old.kid) is None


async def test_killed_node_is_succeeded_once_its_heartbeat_is_old(world):
    """A node that vanished counts as live for ten seconds; then the next one signs."""
    node = world.node()
    await node.round()
    old = await world.key(KeyState.ACTIVE)
    successor = world.node()
    await successor.round()
    assert (await world.key(KeyState.ACTIVE)).kid == old.kid
    await successor.rounds(15, every=1)
    active = [key for key in (await world.ring()).keys if key.state is KeyState.ACTIVE]
    assert {key.activation for key in active} == {Activation.BOOTSTRAP}
    assert await successor.can_sign(active[-1].kid)
    await successor.rounds(TIMING.lease)
    assert (await world.key(KeyState.PASSIVE)).kid == old.kid


async def test_key_that_signs_unproven_is_looked_for_in_public(world):
    """A wrong public URL sounds an alarm soon after the start; the first key signs all the same."""
    world.site.away.add(PUBLIC)
    node = world.node()
    await node.round()
    assert await node.can_sign((await world.key(KeyState.ACTIVE)).kid)
    await node.rounds(TIMING.propagation + 2, every=1)
    assert node.audit.counts[EventName.PROOF_FAILED] == 1
    world.site.away.clear()
    await node.rounds(120)
    assert node.audit.counts[EventName.PROOF_FAILED] <= 2


async def test_healthy_rotation_sounds_no_alarm(world):
    """Workers that serve the successor a moment later are no failure of its proof."""
    node = world.node()
    await node.round()
    await request_rotation(world.store.keyring, ISSUER)
    for _ in range(3):
        world.clock.advance(1)
        await node.rotation.round()
    await node.rounds(TIMING.lead + 20)
    assert node.audit.counts[EventName.KEY_ACTIVATED] == 2
    assert node.audit.counts[EventName.PROOF_FAILED] == 0
