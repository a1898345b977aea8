"""Another timing for a cluster that serves: nodes restarted one by one, and no token refused (K1, K2, K3)."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Final

import pytest

from mintmark.adapters.memory import MemoryStore
from mintmark.adapters.memory_bus import MemoryBus, MemoryHub
from mintmark.core.algorithm import Algorithm
from mintmark.core.events import EventName
from mintmark.core.key import Activation, Key, KeyKind, KeyMode, KeyState
from mintmark.core.keyring import Ring
from mintmark.core.sealing import SealKey
from mintmark.core.timing import MAX_LEEWAY, Timing, broken_rules
from mintmark.core.timing_change import mixed, stands_beside
from mintmark.ports.keyring import RingView
from mintmark.ports.signer import SignerRefused
from mintmark.server.agreement import agree, beside
from mintmark.server.audit import Audit
from mintmark.server.retiming import Refused, Step, change, finish, standing, take
from mintmark.server.rotation import Rotation
from mintmark.signer.local import LocalSigner
from mintmark.signer.sealed import Seals
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.units import Issuer, Kid, NodeId, NumericDate, Seconds

ISSUER = Issuer("https://auth.example.com")
OWN, SHARED = (KeyKind(mode, Algorithm.ES256) for mode in (KeyMode.OWN, KeyMode.SHARED))
SMALL: Final = Timing(
    verifier_cache=Seconds(40),
    jwks_max_age=Seconds(15),
    propagation=Seconds(3),
    clock_skew=Seconds(2),
    access_ttl=Seconds(30),
    rotate_every=Seconds(200),
    lease=Seconds(30),
)
LARGE: Final = Timing(
    verifier_cache=Seconds(60),
    jwks_max_age=Seconds(45),
    propagation=Seconds(6),
    clock_skew=Seconds(4),
    access_ttl=Seconds(80),
    rotate_every=Seconds(300),
    lease=Seconds(60),
    signers=6,
)
NODES: Final = 3


class Node:
    """A node with settings of its own, which works by what is safe beside the others'."""

    def __init__(self, world: "World", name: str, settings: Timing, working: Timing) -> None:
        self.name = NodeId(name)
        self.working = working
        self.audit = Audit()
        self.seen: RingView | None = None
        seals = Seals((SealKey.from_bytes(b"1" * 32),), entropy=SYSTEM_ENTROPY)
        self.signer = LocalSigner(clock=world.clock, threads=1, seals=seals)
        self.world = world
        self.rotation = Rotation(
            ISSUER,
            node=self.name,
            kind=world.kind,
            modes=frozenset({KeyMode.OWN, KeyMode.SHARED}),
            store=world.store.keyring,
            signer=self.signer,
            reader=world,
            bus=MemoryBus(clock=world.clock, hub=MemoryHub()),
            clock=world.clock,
            timing=working,
            configured=settings,
            audit=self.audit,
            served=lambda: self.seen.ring.generation if self.seen is not None else 0,
            own_url="http://127.0.0.1:1/.well-known/jwks.json",
            proof_urls=(f"{ISSUER}/.well-known/jwks.json",),
        )

    async def work(self) -> None:
        await self.rotation.round()
        await self.rotation.answered()
        self.seen = await self.world.store.keyring.read(ISSUER)

    def key(self, ring: Ring) -> Key | None:
        """What it signs with: by itself, not through another node."""
        return ring.held_by(self.name, KeyState.ACTIVE) or ring.held_by_cluster(KeyState.ACTIVE)


@dataclass
class Copy:
    """A key set that somebody keeps until a time, whatever becomes of it elsewhere."""

    kids: frozenset[Kid]
    until: int


@dataclass
class World:
    """Nodes, HTTP caches before them, and verifiers behind these that never ask for an unknown key."""

    kind: KeyKind
    clock: FakeClock = field(default_factory=FakeClock)
    nodes: list[Node] = field(default_factory=list)
    caches: list[Copy] = field(default_factory=list)
    verifiers: list[Copy] = field(default_factory=list)
    minted: list[tuple[NumericDate, Kid]] = field(default_factory=list)
    started: int = 0
    checks: int = 0
    refused: list[str] = field(default_factory=list)
    verifier_cache: int = 0
    """For how long verifiers keep a set: what the operator knows, and the settings say."""

    def __post_init__(self) -> None:
        self.store = MemoryStore(clock=self.clock, entropy=SYSTEM_ENTROPY)

    async def kids(self, url: str) -> frozenset[Kid]:
        view = await self.store.keyring.read(ISSUER)
        return frozenset(key.kid for key in view.ring.published())

    async def start(self, settings: Timing, *, alone: bool = False) -> Node:
        """A node that starts as :mod:`mintmark.node.upkeep` has it; ``alone``: with its settings only."""
        await agree(self.store.keyring, ISSUER, settings, clock=self.clock)
        others = () if alone else await beside(self.store.keyring, ISSUER, settings)
        self.started += 1
        node = Node(self, f"node-{self.started}", settings, mixed(settings, *others))
        self.nodes.append(node)
        await node.work()
        return node

    async def restart(self, node: Node, settings: Timing) -> None:
        """It leaves when it may, another one takes its place, and has its key before anything else."""
        node.rotation.leaving.begin()
        await self.until(node.rotation.leaving.allowed.is_set)
        await node.rotation.leave()
        self.nodes.remove(node)
        node.signer.close()
        new = await self.start(settings)

        def signs() -> bool:
            return new.seen is not None and new.key(new.seen.ring) is not None

        await self.until(signs)

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(2_000):
            if condition():
                return
            await self.second()
        raise AssertionError("it never came to that")

    async def run(self, seconds: int) -> None:
        for _ in range(seconds):
            await self.second()

    async def second(self) -> None:
        for node in list(self.nodes):
            await node.work()
        self.fetch()
        await self.mint()
        self.expire(await self.kids(""))
        self.clock.advance(1)

    def fetch(self) -> None:
        """Caches ask the nodes in turn, and verifiers the caches; each keeps what it got while it may."""
        now = self.clock.now()
        for place, copy in enumerate(self.caches):
            if now >= copy.until:
                node = self.nodes[(place + now) % len(self.nodes)]
                assert node.seen is not None
                kids = frozenset(key.kid for key in node.seen.ring.published())
                self.caches[place] = Copy(kids, now + node.working.jwks_max_age)
        for place, copy in enumerate(self.verifiers):
            if now >= copy.until:
                cache = self.caches[place % len(self.caches)]
                self.verifiers[place] = Copy(cache.kids, now + self.verifier_cache)

    def watch(self, timing: Timing) -> None:
        """Caches and verifiers that ask at different times begin now, with a fresh set each."""
        now, node = self.clock.now(), self.nodes[0]
        assert node.seen is not None
        kids = frozenset(key.kid for key in node.seen.ring.published())
        self.caches = [Copy(kids, now + 7 * number) for number in range(3)]
        self.verifiers = [Copy(kids, now + 5 * number) for number in range(9)]
        self.verifier_cache = timing.verifier_cache

    async def mint(self) -> None:
        """Every node signs a token of its lifetime, or has another sign it; all verifiers see it at once."""
        now = self.clock.now()
        for place, node in enumerate(self.nodes if self.verifiers else ()):
            exp = NumericDate(now + node.working.access_ttl)
            claims = b'{"iss":"%s","exp":%d}' % (ISSUER.encode(), exp)
            for one in (node, *self.nodes[place + 1 :], *self.nodes[:place]):
                assert one.seen is not None
                key = one.key(one.seen.ring)
                if key is None:
                    continue
                assert node.working.access_ttl <= one.working.widest.access_ttl, "a peer takes it for forged"
                await one.signer.sign(key.kid, "at+jwt", claims)
                self.minted.append((exp, key.kid))
                for number, verifier in enumerate(self.verifiers):
                    self.checks += 1
                    if key.kid not in verifier.kids:
                        self.refused.append(f"K1: verifier {number} does not know {key.kid} at {now}")
                break
            else:
                raise AssertionError("nobody signs")

    def expire(self, published: frozenset[Kid]) -> None:
        """Until a token has expired, with the largest leeway, its key is published (K2)."""
        now = self.clock.now()
        self.minted = [(exp, kid) for exp, kid in self.minted if now < exp + MAX_LEEWAY]
        for exp, kid in self.minted:
            self.checks += 1
            if kid not in published:
                self.refused.append(f"K2: {kid} is gone at {now}, before {exp}")

    async def take(self, step: Step) -> bool:
        """Whether the operator's command was not refused."""
        try:
            await take(self.store.keyring, (ISSUER,), step, clock=self.clock, on_taken=lambda *_: None)
        except Refused:
            return False
        return True

    async def finish(self) -> None:
        """The operator tries until it is done."""
        for _ in range(200):
            if await self.take(finish):
                return
            await self.second()
        now = await standing(self.store.keyring, ISSUER, clock=self.clock)
        raise AssertionError(now.refusals())

    def unproven(self) -> list[Key]:
        ring = self.nodes[0].seen.ring if self.nodes[0].seen is not None else None
        keys = ring.keys if ring is not None else ()
        return [key for key in keys if key.activation not in (None, Activation.PROVEN)]


@pytest.fixture(params=[OWN, SHARED], ids=["own", "shared"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    made = World(request.param)
    await made.store.open()
    yield made
    for node in made.nodes:
        node.signer.close()


async def grown(world: World, timing: Timing) -> None:
    """Nodes that all sign, and verifiers that know every key."""
    for _ in range(NODES):
        await world.start(timing)
    await world.run(timing.lead + 30)
    world.watch(max((SMALL, LARGE), key=lambda one: one.verifier_cache))
    await world.run(20)
    assert world.checks > 0
    assert world.refused == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("former", "wanted"), [(SMALL, LARGE), (LARGE, SMALL)], ids=["longer", "shorter"])
async def test_no_token_is_refused_while_nodes_get_another_timing(
    world: World, former: Timing, wanted: Timing
):
    """K1, K2, K3: every number changes at once, up or down; nodes are restarted one by one, the change is
    finished, and all are restarted once more while keys rotate. Nothing bootstraps after the first key."""
    # The verifiers there are keep a set for the longer time all along, and the lead allows for it.
    longest = Seconds(max(former.verifier_cache, wanted.verifier_cache))
    former = replace(former, verifier_cache=longest, feed_bound=Seconds(300))
    wanted = replace(wanted, verifier_cache=longest, feed_bound=Seconds(300))
    assert broken_rules(former) == broken_rules(wanted) == ()
    await grown(world, former)
    assert await world.take(change(wanted))
    for node in list(world.nodes):
        assert not await world.take(finish), "a node has the former settings"
        await world.restart(node, wanted)
        assert all(stands_beside(one.working, other.working) for one in world.nodes for other in world.nodes)
    await world.finish()
    assert all(node.working.bounds is not None for node in world.nodes)
    await world.run(2 * former.jwks_max_age)
    for node in list(world.nodes):
        await world.restart(node, wanted)
    assert all(node.working == wanted for node in world.nodes)
    await world.run(wanted.rotate_every + MAX_LEEWAY)
    assert world.refused == []
    assert sum(node.audit.counts[EventName.KEY_PROVEN] for node in world.nodes) > 0
    assert world.unproven() == []
    assert world.checks > 10_000


@pytest.mark.timeout(300)
async def test_no_token_is_refused_on_the_way_back(world: World):
    """A change that is withdrawn halfway, with the nodes that had the new settings restarted again."""
    former, wanted = LARGE, replace(SMALL, verifier_cache=LARGE.verifier_cache)
    await grown(world, former)
    assert await world.take(change(wanted))
    await world.restart(world.nodes[0], wanted)
    assert not await world.take(change(former))
    new = world.nodes[-1]
    await world.restart(new, former)
    assert await world.take(change(former))
    await world.run(120)
    assert world.refused == []
    assert (await standing(world.store.keyring, ISSUER, clock=world.clock)).agreement is not None


@pytest.mark.timeout(300)
async def test_no_signer_signs_past_what_the_row_of_its_key_covers(world: World):
    """K3: whichever node renewed the lease last, with whichever lifetime in mind."""
    former = replace(SMALL, verifier_cache=LARGE.verifier_cache, feed_bound=Seconds(300))
    wanted = replace(LARGE, feed_bound=Seconds(300))
    await grown(world, former)
    assert await world.take(change(wanted))
    await world.restart(world.nodes[0], wanted)
    for _ in range(90):
        await world.second()
        for node in world.nodes:
            assert node.seen is not None
            key = node.key(node.seen.ring)
            assert key is not None
            past = key.publish_until - MAX_LEEWAY - node.working.widest.clock_skew + 1
            with pytest.raises(SignerRefused):
                await node.signer.sign(key.kid, "at+jwt", b'{"iss":"%s","exp":%d}' % (ISSUER.encode(), past))
    assert world.refused == []
