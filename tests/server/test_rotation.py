"""The rotation of one node on the store in memory, with faults at each step (F01, F09, K1 to K3, K7)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import msgspec
import pytest

from mintmark.adapters.memory import MemoryStore
from mintmark.adapters.memory_bus import MemoryBus
from mintmark.core.algorithm import Algorithm
from mintmark.core.events import EventName
from mintmark.core.key import Activation, Key, KeyState
from mintmark.core.keyring import LIVE_FOR, Ring
from mintmark.core.revocation import Kind
from mintmark.core.timing import Timing
from mintmark.errors import ConfigurationError, StoreUnavailable, Unavailable
from mintmark.ports.proof import ProofFailed
from mintmark.ports.signer import SignerRefused
from mintmark.server.agreement import agree
from mintmark.server.audit import Audit
from mintmark.server.emergency import request_rotation, revoke_key
from mintmark.server.rotation import Rotation
from mintmark.signer.local import LocalSigner
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults, FaultyStore
from mintmark.units import Issuer, Kid, NodeId, Seconds

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
    hanging: dict[str, asyncio.Event] = field(default_factory=dict)
    reading: int = 0
    """How many reads are under way."""

    async def kids(self, url: str) -> frozenset[Kid]:
        self.reading += 1
        try:
            return await self._kids(url)
        finally:
            self.reading -= 1

    async def _kids(self, url: str) -> frozenset[Kid]:
        if url in self.hanging:
            await self.hanging[url].wait()
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

    def node(self, *, clock: FakeClock | None = None, timing: Timing = TIMING) -> "Node":
        signer = LocalSigner(clock=self.clock)
        self.signers.append(signer)
        self.made += 1
        return Node(self, NodeId(f"node-{self.made}"), signer, clock or self.clock, timing)

    async def ring(self) -> Ring:
        return (await self.store.keyring.read(ISSUER)).ring

    async def key(self, state: KeyState) -> Key:
        (found,) = [key for key in (await self.ring()).keys if key.state is state]
        return found


class Node:
    """One node's rotation, whose workers serve whatever the ring is."""

    def __init__(
        self, world: World, node: NodeId, signer: LocalSigner, clock: FakeClock, timing: Timing
    ) -> None:
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
            clock=clock,
            timing=timing,
            audit=self.audit,
            served=lambda: self.served,
            own_url=OWN,
            proof_urls=(PUBLIC,),
        )

    async def round(self) -> None:
        """Rounds of a node whose workers have caught up, with whatever was read back between them."""
        for _ in range(3):
            await self.short_round()
            await self.rotation.answered()

    async def short_round(self) -> None:
        """One round, which waits for nothing that is read back."""
        self.served = (await self.world.ring()).generation
        await self.rotation.round()

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


async def test_hanging_url_delays_no_heartbeat_and_no_lease(world):
    """A public URL that never answers keeps a key unproven, and nothing else: rounds go on beside it,
    with one read for each key and URL under way, and none once the node has left."""
    node = world.node()
    await node.round()
    active = await world.key(KeyState.ACTIVE)
    world.site.hanging = {PUBLIC: asyncio.Event(), OWN: asyncio.Event()}
    await request_rotation(world.store.keyring, ISSUER)
    for _ in range(TIMING.lease):
        world.clock.advance(2)
        await node.short_round()
        await asyncio.sleep(0)
        view = await world.store.keyring.read(ISSUER)
        assert [member.seen_at for member in view.members] == [view.now]
        assert world.site.reading <= 3, "the new key at both URLs, the first one at the public one"
    assert (await world.key(KeyState.PREPARED)).proven_at is None
    assert await node.can_sign(active.kid)
    assert world.site.reading > 0
    await node.rotation.leave()
    assert world.site.reading == 0


async def test_key_that_is_found_while_rounds_go_on_is_proven_by_the_next(world):
    """What was read back between two rounds counts from the time of the second, so never too early."""
    node = world.node()
    await node.round()
    world.site.hanging = {PUBLIC: asyncio.Event()}
    await request_rotation(world.store.keyring, ISSUER)
    for _ in range(5):
        world.clock.advance(2)
        await node.short_round()
    world.site.hanging[PUBLIC].set()
    await node.rotation.answered()
    world.clock.advance(7)
    await node.short_round()
    assert (await world.key(KeyState.PREPARED)).proven_at == world.clock.now()


async def test_answer_from_before_a_node_lagged_behind_proves_nothing(world):
    """3.3: what a public URL showed while a live node still served an older ring is read again."""
    node, other = world.node(), world.node()
    await node.round()
    await other.round()
    world.site.hanging = {PUBLIC: asyncio.Event()}
    await request_rotation(world.store.keyring, ISSUER)
    await node.short_round()
    await other.short_round()
    await node.short_round()
    own = next(k for k in (await world.ring()).keys if k.node == "node-1" and k.state is KeyState.PREPARED)
    # It begins to look, then a node joins that has read nothing yet, and what was found is forgotten.
    late = world.node()
    await late.rotation.round()
    world.site.hanging[PUBLIC].set()
    await node.rotation.answered()
    await node.short_round()
    found = (await world.ring()).find(own.kid)
    assert found is not None
    assert found.proven_at is None


@pytest.mark.parametrize("off", [31, -31, 3600])
async def test_node_whose_clock_is_off_takes_no_key_further(world, off):
    """I10, F08: it wins no bootstrap, a signer lets its lease end, and both go on when the clock is right."""
    clock = FakeClock()
    clock.step(off)
    node = world.node(clock=clock)
    for _ in range(3):
        clock.advance(2)
        world.clock.advance(2)
        await node.round()
    assert (await world.ring()).keys == ()
    assert node.audit.counts[EventName.CLOCK_DRIFTED] == 1
    clock.step(-off)
    await node.round()
    key = await world.key(KeyState.ACTIVE)
    clock.step(off)
    successor = world.node()
    for _ in range(TIMING.lease // 2 + 5):
        clock.advance(2)
        world.clock.advance(2)
        await node.round()
        await successor.round()
    view = await world.store.keyring.read(ISSUER)
    assert all(member.is_live(view.now) for member in view.members)
    assert len(view.members) == 2
    assert not await node.can_sign(key.kid)
    signing = await world.key(KeyState.ACTIVE)
    assert (signing.node, signing.activation) == ("node-2", Activation.BOOTSTRAP)
    clock.step(-off)
    await node.round()
    prepared = await world.key(KeyState.PREPARED)
    assert prepared.node == "node-1"


@pytest.mark.parametrize("off", [30, -30])
async def test_clock_within_the_skew_changes_nothing(world, off):
    """A node that is off by as much as is allowed bootstraps like any other."""
    clock = FakeClock()
    clock.step(off)
    node = world.node(clock=clock)
    await node.round()
    assert (await world.key(KeyState.ACTIVE)).activation is Activation.BOOTSTRAP
    assert node.audit.counts[EventName.CLOCK_DRIFTED] == 0


async def test_node_that_cannot_sign_is_told_from_one_that_can(world):
    """One that waits for its first key, or lost its only one, has no time to lose between two rounds."""
    node = world.node()
    assert node.rotation.is_waiting
    await node.round()
    assert not node.rotation.is_waiting
    world.clock.advance(3)
    key = await world.key(KeyState.ACTIVE)
    await revoke_key(world.store.keyring, ISSUER, key.kid, reason="drill", timing=TIMING)
    world.site.hanging = {OWN: asyncio.Event()}
    await node.short_round()
    assert node.rotation.is_waiting


@pytest.mark.parametrize("back", [600, 86_400])
async def test_clock_that_is_set_back_costs_one_key_and_no_outage(world, back):
    """F14: where store and machine share the clock the node begins anew; its old key stays public."""
    node = world.node()
    await node.round()
    first = await world.key(KeyState.ACTIVE)
    world.clock.step(-back)
    for _ in range(8):
        world.clock.advance(2)
        await node.round()
    second = await world.key(KeyState.ACTIVE)
    assert second.kid != first.kid
    assert await node.can_sign(second.kid)
    assert not await node.can_sign(first.kid)
    kept = (await world.ring()).find(first.kid)
    assert kept is not None
    assert kept.is_published()
    assert node.audit.counts[EventName.CLOCK_SET_BACK] == 1


async def test_clock_that_is_set_back_leaves_no_key_that_the_signer_lost(world):
    """A key that was made and not taken yet is forgotten with the others, and not prepared afterwards."""
    node = world.node()
    await node.round()
    await request_rotation(world.store.keyring, ISSUER)
    world.faults.fail_before("keyring.swap", times=1)
    with pytest.raises(StoreUnavailable):
        await node.round()
    world.clock.step(-600)
    for _ in range(8):
        world.clock.advance(2)
        await node.round()
    assert await node.can_sign((await world.key(KeyState.ACTIVE)).kid)


async def test_clock_that_is_set_back_within_the_skew_changes_nothing(world):
    """The lease is renewed in time all the same."""
    node = world.node()
    await node.round()
    first = await world.key(KeyState.ACTIVE)
    world.clock.step(-TIMING.clock_skew)
    for _ in range(TIMING.lease):
        world.clock.advance(2)
        await node.round()
    assert (await world.key(KeyState.ACTIVE)).kid == first.kid
    assert await node.can_sign(first.kid)


async def test_node_without_a_slot_says_so_once(world):
    """K6: it prepares nothing, and one event names the bound, until it has had a place."""
    timing = replace(TIMING, signers=1)
    node, other = world.node(timing=timing), world.node(timing=timing)
    await node.round()
    for _ in range(50):
        world.clock.advance(2)
        await node.round()
        await other.round()
    assert other.audit.counts[EventName.SLOTS_EXHAUSTED] == 1
    assert node.audit.counts[EventName.SLOTS_EXHAUSTED] == 0
    assert len((await world.ring()).keys) == 1


async def test_node_that_is_told_to_leave_stays_until_another_signs_proven(world):
    """3.4: it goes on signing through the other's lead, prepares nothing more, and may go then."""
    node, other = world.node(), world.node()
    await node.round()
    await other.round()
    key = await world.key(KeyState.ACTIVE)
    node.rotation.leaving.begin()
    for _ in range(TIMING.lead // 2 - 2):
        world.clock.advance(2)
        await node.round()
        await other.round()
        assert not node.rotation.leaving.allowed.is_set()
        assert await node.can_sign(key.kid)
    for _ in range(5):
        world.clock.advance(2)
        await other.round()
        await node.round()
    assert node.rotation.leaving.allowed.is_set()
    keys = (await world.ring()).keys
    assert [(k.node, k.activation) for k in keys if k.state is KeyState.ACTIVE] == [
        ("node-1", Activation.BOOTSTRAP),
        ("node-2", Activation.PROVEN),
    ]
    assert node.audit.counts[EventName.KEY_PREPARED] == 1
    assert node.audit.counts[EventName.HANDOVER_AWAITED] == 1
    await node.rotation.leave()
    assert (await world.key(KeyState.PASSIVE)).kid == key.kid


async def test_lone_node_may_leave_at_once(world):
    """With nobody beside it the first round allows it, and the ring is not changed for that."""
    node = world.node()
    await node.round()
    before = await world.ring()
    node.rotation.leaving.begin()
    await node.short_round()
    assert node.rotation.leaving.allowed.is_set()
    assert await world.ring() == before


async def test_node_that_leaves_while_the_store_is_away_goes_by_what_it_saw(world):
    """Alone it goes at once; beside one whose key is known too; beside one that joins when its lease ends."""
    alone = world.node()
    await alone.round()
    world.faults.fail_before("keyring")
    await failing(alone)
    assert alone.rotation.leaving.allowed.is_set()
    world.faults.recover()
    await alone.rotation.leave()

    node, joining = world.node(), world.node()
    await node.round()
    await joining.round()
    await node.round()
    world.faults.fail_before("keyring")
    for passed in range(0, TIMING.lease - 2, 2):
        await failing(node)
        assert not node.rotation.leaving.allowed.is_set(), passed
        world.clock.advance(2)
    world.clock.advance(4)
    await failing(node)
    assert node.rotation.leaving.allowed.is_set()


async def test_round_that_failed_once_is_no_outage(world):
    """3.4: of two that leave beside one that joins, one that could not say so does not count on the other."""
    node, other = world.node(), world.node()
    await node.round()
    await other.round()
    for _ in range(TIMING.lead // 2 + 3):
        world.clock.advance(2)
        await node.round()
        await other.round()
    joining = world.node()
    for each in (joining, node, other):
        await each.round()
    assert [key.state for key in (await world.ring()).keys].count(KeyState.ACTIVE) == 2
    other.rotation.leaving.begin()
    node.rotation.leaving.begin()
    await other.rotation.round()
    world.faults.fail_before("keyring")
    await failing(node)
    world.faults.recover()
    await other.rotation.round()
    await node.rotation.round()
    leaving = [each for each in (node, other) if each.rotation.leaving.allowed.is_set()]
    assert len(leaving) == 1


async def test_node_that_leaves_in_an_outage_goes_once_it_is_one(world):
    """Beside a node whose key is known it waits until its own heartbeat would be old, and no longer."""
    node, other = world.node(), world.node()
    await node.round()
    await other.round()
    for _ in range(TIMING.lead // 2 + 3):
        world.clock.advance(2)
        await node.round()
        await other.round()
    world.faults.fail_before("keyring")
    for _ in range(LIVE_FOR // 2 + 1):
        await failing(node)
        assert not node.rotation.leaving.allowed.is_set()
        world.clock.advance(2)
    await failing(node)
    assert node.rotation.leaving.allowed.is_set()


async def failing(node: Node) -> None:
    node.rotation.leaving.begin()
    with pytest.raises(StoreUnavailable):
        await node.rotation.round()


async def test_node_that_leaves_before_it_has_read_anything_goes(world):
    """It has nothing to hand over."""
    node = world.node()
    world.faults.fail_before("keyring")
    await failing(node)
    assert node.rotation.leaving.allowed.is_set()


async def test_node_whose_timing_was_replaced_ends(world):
    """A node that stood still while another one began with other timing must not go on beside it."""
    node = world.node()
    await agree(world.store.keyring, ISSUER, TIMING, clock=world.clock)
    await node.round()
    document = msgspec.json.encode(replace(TIMING, access_ttl=Seconds(600)))
    assert await world.store.keyring.swap_timing(ISSUER, expected=1, document=document)
    world.clock.advance(2)
    with pytest.raises(ConfigurationError, match="access_ttl is 900 here and 600 there"):
        await node.rotation.round()
