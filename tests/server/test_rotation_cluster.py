"""Ten nodes' rotations on one real store, started in the same instant and after a power cut (F07, K1, K6)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import pytest
from tests.registry import STORES

from mintmark.adapters.memory_bus import MemoryBus, MemoryHub
from mintmark.core.algorithm import Algorithm
from mintmark.core.events import EventName
from mintmark.core.key import Activation, Key, KeyState
from mintmark.core.keyring import Ring
from mintmark.core.timing import Timing
from mintmark.errors import StoreUnavailable
from mintmark.ports.keyring import KeyRingStore, RingView
from mintmark.ports.store import Store
from mintmark.server.audit import Audit
from mintmark.server.rotation import Rotation
from mintmark.signer.local import LocalSigner
from mintmark.testing.clock import FakeClock
from mintmark.units import Issuer, Kid, NodeId

NODES = 10
TIMING = Timing()
SWAPS = (
    EventName.KEY_PREPARED,
    EventName.KEY_PROVEN,
    EventName.KEY_ACTIVATED,
    EventName.LEASE_RENEWED,
    EventName.KEY_LAPSED,
    EventName.KEY_RETIRED,
    EventName.NODE_RESIGNED,
)
"""Each is one change of the ring, and no ring changes without one."""


ON_SQLITE = pytest.mark.parametrize("machines", ["sqlite"], indirect=True)
"""For what hangs on no store; one database is as good as another."""


@dataclass
class Site:
    """Every listener and every public URL answers with the ring of the store."""

    store: KeyRingStore
    issuer: Issuer

    async def kids(self, url: str) -> frozenset[Kid]:
        view = await self.store.read(self.issuer)
        return frozenset(key.kid for key in view.ring.published())


class Node:
    """The coordinator of one node, with a signer and a store of its own; its workers catch up at once."""

    def __init__(self, cluster: "Cluster", name: str, place: int) -> None:
        self.name = NodeId(name)
        self.audit = Audit()
        self.signer = cluster.signers[place]
        self.store = cluster.stores[place].keyring
        self.issuer = cluster.issuer
        self.served = 0
        self.rotation = Rotation(
            cluster.issuer,
            node=self.name,
            algorithm=Algorithm.ES256,
            store=self.store,
            signer=self.signer,
            reader=Site(self.store, cluster.issuer),
            bus=MemoryBus(clock=cluster.clock, hub=cluster.hub),
            clock=cluster.clock,
            timing=cluster.timing,
            audit=self.audit,
            served=lambda: self.served,
            own_url="http://127.0.0.1:1/.well-known/jwks.json",
            proof_urls=(f"{cluster.issuer}/.well-known/jwks.json",),
        )

    async def run(self) -> None:
        """What a node does in a second, however long the store takes on this machine."""
        for _ in range(20):
            with contextlib.suppress(StoreUnavailable):
                await self.rotation.round()
                await self.rotation.answered()
                self.served = (await self.store.read(self.issuer)).ring.generation
                return
        raise AssertionError("the store does not answer")


@dataclass
class Machines:
    """What outlives a cluster: a database that all of its stores share, and places for signers."""

    clock: FakeClock
    stores: list[Store]
    signers: list[LocalSigner]
    used: int = 0

    def cluster(self, timing: Timing) -> "Cluster":
        """A cluster of another issuer, for which the database is empty."""
        self.used += 1
        issuer = Issuer(f"https://issuer-{self.used}.example.com")
        return Cluster(self.clock, self.stores, self.signers, issuer, timing)


@dataclass
class Cluster:
    """Ten nodes of one issuer."""

    clock: FakeClock
    stores: list[Store]
    signers: list[LocalSigner]
    issuer: Issuer
    timing: Timing
    hub: MemoryHub = field(default_factory=MemoryHub)
    nodes: list[Node] = field(default_factory=list)
    gone: list[Node] = field(default_factory=list)
    began: int = 0

    def start(self, name: str) -> None:
        self.nodes = [Node(self, f"{name}-{place}", place) for place in range(NODES)]
        self.began = self.clock.now()

    def cut_power(self) -> None:
        """Every node is gone, and what it wrote is there."""
        self.gone += self.nodes
        self.nodes = []

    async def second(self) -> None:
        """Every node works at the same time, and a second passes."""
        await asyncio.gather(*(node.run() for node in self.nodes))
        self.clock.advance(1)

    async def until_each_has_its_key(self, *, within: int) -> None:
        """Until somebody signs, and every node that has a place among the signers has a key."""
        ring = await self.ring()
        for _ in range(within):
            await self.second()
            ring = await self.ring()
            if active(ring, self.nodes) and len(holders(ring, self.nodes)) == self.places(ring):
                return
        raise AssertionError(f"after {within} s: {[(key.node, key.state) for key in ring.keys]}")

    def places(self, ring: Ring) -> int:
        """How many of the nodes have room: one has in any case."""
        taken = len({key.node for key in ring.keys if signs_or_will(key)} - {n.name for n in self.nodes})
        return max(1, min(NODES, self.timing.signers - taken))

    async def view(self) -> RingView:
        return await self.stores[0].keyring.read(self.issuer)

    async def ring(self) -> Ring:
        return (await self.view()).ring

    def count(self, name: EventName) -> int:
        return sum(node.audit.counts[name] for node in (*self.nodes, *self.gone))

    async def check(self) -> Ring:
        """What holds whoever won: no change was lost, and no key is where its private half is not."""
        ring = await self.ring()
        assert ring.generation == sum(map(self.count, SWAPS)), "each change is one generation"
        for node in self.nodes:
            own = {key.kid for key in ring.keys if key.node == node.name and signs_or_will(key)}
            assert len(own) <= 1
            held = {key.kid for key in (await node.signer.status()).keys if key.issuer == self.issuer}
            assert own <= held, "a key was lost"
        return ring

    async def end(self) -> None:
        for node in (*self.gone, *self.nodes):
            await node.rotation.leave()


def signs_or_will(key: Key) -> bool:
    return key.state in (KeyState.PREPARED, KeyState.ACTIVE)


def holders(ring: Ring, nodes: list[Node]) -> set[NodeId]:
    return {key.node for key in ring.keys if signs_or_will(key)} & {node.name for node in nodes}


def active(ring: Ring, nodes: list[Node]) -> list[Key]:
    names = {node.name for node in nodes}
    return [key for key in ring.keys if key.state is KeyState.ACTIVE and key.node in names]


@pytest.fixture(params=[name for name in STORES if name != "memory"])
async def machines(request, tmp_path) -> AsyncIterator[Machines]:
    """Ten stores that are opened in the same instant, where there is no schema yet."""
    clock = FakeClock()
    make = STORES[request.param](clock, tmp_path, request.getfixturevalue)
    stores, signers = [make() for _ in range(NODES)], [LocalSigner(clock=clock) for _ in range(NODES)]
    async with AsyncExitStack() as stack:
        for store, signer in zip(stores, signers, strict=True):
            stack.push_async_callback(store.close)
            stack.callback(signer.close)
        await asyncio.gather(*(store.open() for store in stores))
        yield Machines(clock, stores, signers)


@pytest.mark.timeout(300)
async def test_ten_nodes_that_start_in_the_same_instant_bootstrap_once(machines: Machines):
    """K1, K6: in a hundred clusters one node bootstraps, every other with a place prepares one key, and none
    is lost."""
    for number in range(100):
        cluster = machines.cluster(replace(TIMING, signers=[8, 3, 12][number % 3], jwks_limit=36))
        cluster.start("node")
        await cluster.until_each_has_its_key(within=5)
        ring = await cluster.check()
        assert [key.activation for key in ring.keys if key.state is KeyState.ACTIVE] == [Activation.BOOTSTRAP]
        assert cluster.count(EventName.KEY_ACTIVATED) == 1
        assert cluster.count(EventName.KEY_PREPARED) == len(ring.keys) == cluster.places(ring)
        await cluster.end()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("away", [2, 9, 30, 119, 120, 600])
async def test_ten_nodes_answer_within_ten_seconds_of_a_power_cut(machines: Machines, away: int):
    """F07: beside the rows of dead nodes, with young heartbeats and running leases or without, one node
    bootstraps, and nobody waits for a lease to end. A later outage of the store makes nobody bootstrap."""
    for number in range(5):
        cluster = machines.cluster(replace(TIMING, signers=[20, 12, 8, 3, 1][number]))
        cluster.start("before")
        await cluster.until_each_has_its_key(within=5)
        for _ in range(2):
            await cluster.second()
        cluster.cut_power()
        machines.clock.advance(away)
        cluster.start("after")
        began = machines.clock.now()
        while not active(await cluster.ring(), cluster.nodes):
            assert machines.clock.now() < began + 10, "nobody signs"
            await cluster.second()
        ring = await cluster.check()
        (signing,) = active(ring, cluster.nodes)
        assert signing.activation is Activation.BOOTSTRAP
        # While the store is away all leases end; when it is back everybody who has room gets a key.
        machines.clock.advance(TIMING.lease)
        await cluster.until_each_has_its_key(within=20)
        await cluster.check()
        assert cluster.count(EventName.KEY_ACTIVATED) == 2
        await cluster.end()


@pytest.mark.timeout(300)
async def test_ten_nodes_that_renew_in_the_same_second_all_keep_their_leases(machines: Machines):
    """Losers read again and renew: a round ends, and within two of them nobody's lease is behind."""
    cluster = machines.cluster(replace(TIMING, signers=12, jwks_limit=36))
    cluster.start("node")
    await cluster.until_each_has_its_key(within=5)
    for _ in range(10):
        machines.clock.advance(TIMING.lease // 2)
        renewed_at = machines.clock.now()
        for _ in range(2):
            await cluster.second()
        ring = await cluster.check()
        assert all(key.lease_until >= renewed_at + TIMING.lease for key in ring.keys if signs_or_will(key))
        assert len(holders(ring, cluster.nodes)) == NODES
    await cluster.end()


@pytest.mark.timeout(300)
@ON_SQLITE
async def test_ten_nodes_get_ten_keys_that_sign_after_their_lead(machines: Machines):
    """K1: nine of ten prove their keys and wait for the lead; nobody bootstraps beside the first."""
    cluster = machines.cluster(replace(TIMING, signers=12, jwks_limit=36))
    cluster.start("node")
    await cluster.until_each_has_its_key(within=5)
    for _ in range(TIMING.lead // 30 + 3):
        # The round after a gap only renews: whoever was not heard of is not dead yet.
        for _ in range(2):
            await cluster.second()
        machines.clock.advance(28)
    ring = await cluster.check()
    signing = active(ring, cluster.nodes)
    assert len(signing) == NODES
    assert [key.activation for key in signing].count(Activation.BOOTSTRAP) == 1
    first = min(key.activated_at or 0 for key in signing)
    others = [key for key in signing if key.activation is Activation.PROVEN]
    assert all((key.activated_at or 0) >= first + TIMING.lead for key in others)
    await cluster.end()


async def leave_at_once(cluster: Cluster, nodes: list[Node]) -> list[Node]:
    """Tell them to leave in the same instant, and let go who may; who is there after four seconds."""
    for node in nodes:
        node.rotation.leaving.begin()
    for _ in range(4):
        await cluster.second()
        await let_go(cluster)
    return [node for node in nodes if node in cluster.nodes]


async def let_go(cluster: Cluster) -> None:
    for node in list(cluster.nodes):
        if node.rotation.leaving.allowed.is_set():
            await node.rotation.leave()
            cluster.nodes.remove(node)
            cluster.gone.append(node)


async def grown(machines: Machines) -> Cluster:
    """A cluster whose ten nodes all sign with keys that are known."""
    cluster = machines.cluster(replace(TIMING, signers=12, jwks_limit=36))
    cluster.start("node")
    await cluster.until_each_has_its_key(within=5)
    while len(active(await cluster.ring(), cluster.nodes)) < NODES:
        for _ in range(2):
            await cluster.second()
        machines.clock.advance(28)
    for _ in range(2):
        await cluster.second()
    return cluster


@pytest.mark.timeout(300)
@ON_SQLITE
async def test_a_whole_cluster_that_is_told_to_leave_goes_at_once(machines: Machines):
    """Ten nodes that get the signal in the same instant wait for nobody, whatever keys they have."""
    cluster = await grown(machines)
    assert await leave_at_once(cluster, list(cluster.nodes)) == []
    young = machines.cluster(TIMING)
    young.start("node")
    await young.until_each_has_its_key(within=5)
    assert await leave_at_once(young, list(young.nodes)) == []


@pytest.mark.timeout(300)
@ON_SQLITE
async def test_signers_that_are_told_to_leave_at_once_leave_one_for_the_node_that_joins(machines: Machines):
    """3.4: of ten that get the signal in the same instant some go, and somebody signs until the key of the
    node that joins is known everywhere; then all go, and no key has signed unproven."""
    cluster = await grown(machines)
    signing = list(cluster.nodes)
    newcomer = Node(cluster, "newcomer", 0)
    cluster.nodes.append(newcomer)
    await cluster.second()
    left = await leave_at_once(cluster, signing)
    assert left
    assert all(node.audit.counts[EventName.HANDOVER_AWAITED] == 1 for node in left)
    while not active(await cluster.ring(), [newcomer]):
        assert any(key.lease_until > machines.clock.now() for key in active(await cluster.ring(), left))
        machines.clock.advance(28)
        for _ in range(2):
            await cluster.second()
            await let_go(cluster)
    assert [key.activation for key in active(await cluster.ring(), [newcomer])] == [Activation.PROVEN]
    for _ in range(2):
        await cluster.second()
        await let_go(cluster)
    assert cluster.nodes == [newcomer]
    await cluster.end()
