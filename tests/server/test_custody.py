"""Rotation where the cluster holds the key: loading, sealing, switching, and nodes that cannot open it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest

from mintmark.adapters.memory import MemoryStore
from mintmark.adapters.memory_bus import MemoryBus
from mintmark.core.algorithm import Algorithm
from mintmark.core.events import EventName
from mintmark.core.key import Activation, Key, KeyKind, KeyMode, KeyState
from mintmark.core.keyring import Ring, hold, switch
from mintmark.core.sealing import SealKey
from mintmark.core.timing import Timing
from mintmark.errors import StoreUnavailable
from mintmark.ports.signer import SignerRefused
from mintmark.server.audit import Audit
from mintmark.server.emergency import request_rotation, revoke_key
from mintmark.server.rotation import Rotation
from mintmark.signer.local import LocalSigner
from mintmark.signer.sealed import Seals
from mintmark.signer.token import Token
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults, FaultyStore
from mintmark.units import Issuer, Kid, NodeId

ISSUER = Issuer("https://auth.example.com")
TIMING = Timing()
SHARED = KeyKind(KeyMode.SHARED, Algorithm.ES256)
OWN = KeyKind(KeyMode.OWN, Algorithm.ES256)
FIRST, SECOND = SealKey.from_bytes(b"1" * 32), SealKey.from_bytes(b"2" * 32)
BOTH_MODES = frozenset({KeyMode.OWN, KeyMode.SHARED})


@dataclass
class Site:
    """Every listener and every public URL answers with the ring of the store."""

    store: MemoryStore

    async def kids(self, url: str) -> frozenset[Kid]:
        view = await self.store.keyring.read(ISSUER)
        return frozenset(key.kid for key in view.ring.published())


class World:
    """A store, a clock, and nodes that come and go."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock, entropy=SYSTEM_ENTROPY)
        self.nodes: list[Node] = []
        self.signers: list[LocalSigner] = []

    def node(
        self, seals: Sequence[SealKey] = (FIRST,), *, kind: KeyKind = SHARED, spare: bool = False
    ) -> "Node":
        node = Node(self, NodeId(f"node-{len(self.signers)}"), seals, kind, spare=spare)
        self.nodes.append(node)
        self.signers.append(node.signer)
        return node

    async def ring(self) -> Ring:
        return (await self.store.keyring.read(ISSUER)).ring

    async def key(self, state: KeyState) -> Key:
        (found,) = [key for key in (await self.ring()).keys if key.state is state]
        return found

    async def work(self, seconds: int = 0, *, every: int = 2) -> None:
        """All nodes work, and time passes between."""
        await self.round()
        for _ in range(seconds // every):
            self.clock.advance(every)
            await self.round()

    async def round(self) -> None:
        for _ in range(3):
            for node in self.nodes:
                await node.round()

    async def switch(self, kind: KeyKind) -> None:
        view = await self.store.keyring.read(ISSUER)
        assert await self.store.keyring.swap(view.ring.generation, switch(view.ring, kind, now=view.now))

    async def modes(self, node: "Node") -> frozenset[KeyMode]:
        members = (await self.store.keyring.read(ISSUER)).members
        return next(member.modes for member in members if member.node == node.name)


class Node:
    """One node's rotation, whose workers serve whatever the ring is."""

    def __init__(
        self,
        world: World,
        name: NodeId,
        seals: Sequence[SealKey],
        kind: KeyKind,
        *,
        spare: bool = False,
        token: Token | None = None,
    ) -> None:
        self.world = world
        self.name = name
        self.faults = Faults(clock=world.clock)
        self.signer = LocalSigner(
            clock=world.clock,
            seals=Seals(seals, entropy=SYSTEM_ENTROPY) if seals else None,
            token=token,
        )
        modes = {KeyMode.OWN, *([KeyMode.SHARED] if seals else []), *([KeyMode.HSM] if token else [])}
        self.audit = Audit()
        self.served = 0
        self.rotation = Rotation(
            ISSUER,
            node=name,
            kind=kind,
            store=FaultyStore(world.store, self.faults).keyring,
            signer=self.signer,
            reader=Site(world.store),
            bus=MemoryBus(clock=world.clock),
            clock=world.clock,
            timing=TIMING,
            audit=self.audit,
            served=lambda: self.served,
            own_url="http://127.0.0.1:1/.well-known/jwks.json",
            proof_urls=("https://auth.example.com/.well-known/jwks.json",),
            modes=frozenset(modes),
            spare=spare,
        )

    async def round(self) -> None:
        self.served = (await self.world.ring()).generation
        await self.rotation.round()
        await self.rotation.answered()

    async def holds(self) -> set[Kid]:
        return {key.kid for key in (await self.signer.status()).keys}

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


async def test_all_nodes_sign_with_one_key_as_soon_as_one_has_made_it(world: World):
    """3.5: a node that joins needs no lead: it opens the cluster's key and signs."""
    first = world.node()
    await world.work()
    key = await world.key(KeyState.ACTIVE)
    assert (key.kind(), key.activation) == (SHARED, Activation.BOOTSTRAP)
    assert (await world.ring()).kind == SHARED
    second = world.node()
    await world.work(2)
    assert await first.can_sign(key.kid)
    assert await second.can_sign(key.kid)
    assert len((await world.ring()).keys) == 1


async def test_a_rotation_makes_one_key_and_every_node_goes_over(world: World):
    """The successor is made once, proven and led; the former one verifies, and its sealed half is gone."""
    nodes = [world.node(), world.node()]
    await world.work()
    former = await world.key(KeyState.ACTIVE)
    await request_rotation(world.store.keyring, ISSUER)
    await world.work(TIMING.lead - 10)
    assert (await world.key(KeyState.ACTIVE)).kid == former.kid
    await world.work(20)
    key = await world.key(KeyState.ACTIVE)
    assert key.activation is Activation.PROVEN
    for node in nodes:
        assert await node.can_sign(key.kid)
        assert await node.holds() == {key.kid, former.kid}
    passive = await world.key(KeyState.PASSIVE)
    assert (passive.kid, passive.sealed) == (former.kid, None)
    await world.work(TIMING.lease + 4)
    for node in nodes:
        assert await node.holds() == {key.kid}


async def test_a_power_cut_costs_the_cluster_no_key(world: World):
    """F07: the first node that is back renews the same key and signs with it; nothing is begun."""
    world.node()
    world.node()
    await world.work()
    key = await world.key(KeyState.ACTIVE)
    world.nodes.clear()
    world.clock.advance(3 * TIMING.lease)
    node = world.node()
    await world.work()
    after = await world.key(KeyState.ACTIVE)
    assert after.kid == key.kid
    assert after.lease_until > world.clock.now()
    assert await node.can_sign(key.kid)
    assert node.audit.counts[EventName.KEY_ACTIVATED] == 0


async def test_a_node_that_cannot_open_the_key_says_so_and_stops_nobody(world: World):
    """It alarms once a minute, others do not count on it, and the rest of the cluster rotates on."""
    able = world.node()
    await world.work()
    key = await world.key(KeyState.ACTIVE)
    strange, none = world.node([SECOND]), world.node([])
    await world.work(50)
    for node in (strange, none):
        assert node.audit.counts[EventName.KEY_UNLOADABLE] == 1
        assert not await node.can_sign(key.kid)
        assert await world.modes(node) == {KeyMode.OWN}
    assert await world.modes(able) == BOTH_MODES
    await request_rotation(world.store.keyring, ISSUER)
    await world.work(TIMING.lead + 20)
    successor = await world.key(KeyState.ACTIVE)
    assert successor.kid != key.kid
    assert successor.node == able.name
    assert await able.can_sign(successor.kid)


async def test_nothing_is_begun_over_a_key_that_nobody_can_open_until_it_is_revoked(world: World):
    """Lost key-encryption keys are an alarm and an operator's decision, not a new key in silence."""
    world.node()
    await world.work()
    key = await world.key(KeyState.ACTIVE)
    world.nodes.clear()
    world.clock.advance(TIMING.rotate_every)
    node = world.node([SECOND])
    await world.work(TIMING.lead + 300, every=4)
    assert [key.kid for key in (await world.ring()).keys] == [key.kid]
    assert node.audit.counts[EventName.KEY_UNLOADABLE] > 5
    assert await revoke_key(world.store.keyring, ISSUER, key.kid, reason="lost", timing=TIMING)
    await world.work()
    emergency = await world.key(KeyState.ACTIVE)
    assert emergency.activation is Activation.EMERGENCY
    assert await node.can_sign(emergency.kid)
    assert await world.modes(node) == BOTH_MODES


async def test_a_revoked_shared_key_signs_nowhere_and_a_spare_takes_its_place(world: World):
    """K7: every node forgets it as soon as it reads the ring; a spare that is past its lead signs at once."""
    nodes = [world.node(spare=True), world.node(spare=True)]
    await world.work(TIMING.lead + 20)
    key, spare = await world.key(KeyState.ACTIVE), await world.key(KeyState.PREPARED)
    assert await revoke_key(world.store.keyring, ISSUER, key.kid, reason="leaked", timing=TIMING)
    await world.work()
    for node in nodes:
        assert key.kid not in await node.holds()
        assert await node.can_sign(spare.kid)
    assert (await world.key(KeyState.ACTIVE)).activation is Activation.PROVEN
    assert (await world.key(KeyState.REVOKED)).sealed is None


async def test_the_loser_of_a_race_forgets_the_key_that_it_made(world: World):
    """Two nodes prepare in one instant: one key is in the ring, and no signer holds another."""
    nodes = [world.node(), world.node()]
    for node in nodes:
        node.served = 0
    await asyncio.gather(*(node.rotation.round() for node in nodes))
    await world.work()
    key = await world.key(KeyState.ACTIVE)
    assert len((await world.ring()).keys) == 1
    for node in nodes:
        assert await node.holds() == {key.kid}


async def test_a_key_that_was_taken_although_the_answer_was_lost_is_gone_on_with(world: World):
    """F19: the swap is committed and the node does not hear of it: it reads its own key in the ring."""
    node = world.node()
    node.faults.fail_after("keyring.swap")
    with pytest.raises(StoreUnavailable):
        await node.round()
    (key,) = (await world.ring()).keys
    node.faults.recover()
    await world.work()
    assert (await world.key(KeyState.ACTIVE)).kid == key.kid
    assert await node.can_sign(key.kid)


async def test_a_live_switch_from_own_keys_and_back_leaves_no_moment_without_a_key(world: World):
    """At each moment each node can sign with a key of the ring that it holds, and nothing is unproven."""
    nodes = [world.node(kind=OWN), world.node(kind=OWN)]
    await world.work(TIMING.lead + 30)
    unproven = sum(node.audit.counts[EventName.KEY_ACTIVATED] for node in nodes)

    async def all_can_sign() -> None:
        active = [key for key in (await world.ring()).keys if key.state is KeyState.ACTIVE]
        for node in nodes:
            assert any([await node.can_sign(key.kid) for key in active])

    for kind, count in ((SHARED, 1), (OWN, 2)):
        await world.switch(kind)
        for _ in range((TIMING.lead + 60) // 20):
            await world.work(20, every=4)
            await all_can_sign()
        active = [key for key in (await world.ring()).keys if key.state is KeyState.ACTIVE]
        assert [key.kind() for key in active] == [kind] * count
        assert all(key.activation is Activation.PROVEN for key in active)
    assert unproven == 2
    assert nodes[0].audit.counts[EventName.KIND_DIFFERS] == 1


async def test_a_shared_key_is_sealed_anew_once_there_is_another_key_encryption_key(world: World):
    """Nodes that have both rewrite it within a minute, once; one that has the new one alone then opens it."""
    world.node()
    await world.work()
    key = await world.key(KeyState.ACTIVE)
    world.nodes.clear()
    world.clock.advance(5)
    nodes = [world.node([SECOND, FIRST]), world.node([SECOND, FIRST])]
    await world.work(130)
    after = await world.key(KeyState.ACTIVE)
    assert after.kid == key.kid
    assert after.sealed != key.sealed
    assert sum(node.audit.counts[EventName.KEY_RESEALED] for node in nodes) == 1
    new = world.node([SECOND])
    await world.work(2)
    assert await new.can_sign(key.kid)


async def test_a_held_key_outlives_its_time(world: World):
    """F10: nobody retires it while an operator holds it."""
    world.node()
    await world.work()
    key = await world.key(KeyState.ACTIVE)
    view = await world.store.keyring.read(ISSUER)
    assert await world.store.keyring.swap(view.ring.generation, hold(view.ring, key.kid, True))
    await request_rotation(world.store.keyring, ISSUER)
    await world.work(TIMING.lead + 20, every=4)
    held = await world.key(KeyState.PASSIVE)
    world.clock.advance(held.publish_until - world.clock.now() + 60)
    await world.work(20)
    assert (await world.key(KeyState.PASSIVE)).kid == key.kid


async def test_a_stores_clock_that_was_set_back_costs_the_cluster_no_key(world: World):
    """Signers begin anew with the same key under a lease of the time that it is now."""
    nodes = [world.node(), world.node()]
    await world.work(10)
    key = await world.key(KeyState.ACTIVE)
    world.clock.step(-3600)
    await world.work()
    assert (await world.key(KeyState.ACTIVE)).kid == key.kid
    await world.work(TIMING.lease + 10)
    for node in nodes:
        assert await node.can_sign(key.kid)


async def test_two_nodes_that_share_a_key_leave_one_for_the_other(world: World):
    """3.4: who leaves waits for nobody where another signs with the same key; the last leaves it there."""
    first, second = world.node(), world.node()
    await world.work(4)
    key = await world.key(KeyState.ACTIVE)
    first.rotation.leaving.begin()
    await world.work(2)
    assert first.rotation.leaving.allowed.is_set()
    assert await world.modes(first) == frozenset()
    await first.rotation.leave()
    world.nodes.remove(first)
    second.rotation.leaving.begin()
    await world.work(2)
    assert second.rotation.leaving.allowed.is_set()
    await second.rotation.leave()
    after = await world.key(KeyState.ACTIVE)
    assert (after.kid, after.sealed) == (key.kid, key.sealed)
