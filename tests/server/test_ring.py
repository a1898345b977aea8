"""The ring as a process last read it, and what it may do with it."""

import asyncio

import pytest

from mintmark.adapters.memory import MemoryStore
from mintmark.adapters.memory_bus import MemoryBus
from mintmark.core.key import Activation
from mintmark.core.keyring import activate, prepare, prove, revoke
from mintmark.core.timing import Timing
from mintmark.errors import NotReady, StoreUnavailable
from mintmark.server.audit import Audit
from mintmark.server.ring import RingFollower
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults, FaultyStore
from mintmark.units import Issuer, Kid, NodeId

ISSUER = Issuer("https://auth.example.com")
NODE = NodeId("n")
TIMING = Timing()


class World:
    """A ring with one active key, read through a store with a clock of its own."""

    def __init__(self) -> None:
        self.clock, self.stores_clock = FakeClock(), FakeClock()
        self.faults = Faults(clock=self.clock)
        self.store = MemoryStore(clock=self.stores_clock, entropy=SYSTEM_ENTROPY)
        self.ring = RingFollower(
            ISSUER,
            store=FaultyStore(self.store, self.faults).keyring,
            bus=MemoryBus(clock=self.clock),
            clock=self.clock,
            timing=TIMING,
            audit=Audit(),
        )

    async def begin(self) -> None:
        await self.store.open()
        view = await self.store.keyring.read(ISSUER)
        ring = prepare(
            view.ring, kid=Kid("k"), node=NODE, alg="ES256", jwk=b"{}", timing=TIMING, now=view.now
        )
        ring = activate(ring, Kid("k"), Activation.BOOTSTRAP, timing=TIMING, now=view.now)
        assert await self.store.keyring.swap(view.ring.generation, ring)
        await self.ring.refresh()

    def pass_time(self, span: float) -> None:
        self.clock.advance(span)
        self.stores_clock.advance(span)


@pytest.fixture
async def world() -> World:
    made = World()
    await made.begin()
    return made


async def test_node_signs_with_its_active_key(world: World):
    """The active key of this node is found, that of another node is not this one's."""
    assert world.ring.active(NODE).kid == "k"
    with pytest.raises(NotReady):
        world.ring.active(NodeId("other"))


@pytest.mark.parametrize("off", [31, -31, 600, -600])
async def test_clock_beyond_the_skew_mints_nothing(world: World, off):
    """A clock further off than ``clock_skew``, either way, has no key to sign with (I10, F08)."""
    world.clock.step(off)
    await world.ring.refresh()
    assert world.ring.clock_is_off()
    with pytest.raises(NotReady, match="clock"):
        world.ring.active(NODE)
    world.clock.step(-off)
    await world.ring.refresh()
    assert world.ring.active(NODE).kid == "k"


@pytest.mark.parametrize("off", [30, -30, 0])
async def test_clock_within_the_skew_mints(world: World, off):
    """Up to the skew nothing changes."""
    world.clock.step(off)
    await world.ring.refresh()
    assert world.ring.active(NODE).kid == "k"


async def test_slow_store_does_not_make_a_clock_look_off(world: World):
    """What a read took is not held against the clock: only what lies outside of it is evidence."""
    gate = world.faults.hold_after("keyring.read")
    reading = asyncio.ensure_future(world.ring.refresh())
    await gate.reached()
    world.pass_time(1_000)
    gate.open()
    await reading
    assert not world.ring.clock_is_off()


async def test_lease_that_ended_mints_nothing(world: World):
    """Past the lease the key is not this node's to use, whatever the machine's clock says (K7)."""
    world.pass_time(TIMING.lease - 1)
    world.clock.step(-20)
    assert world.ring.active(NODE).kid == "k"
    world.pass_time(1)
    with pytest.raises(NotReady, match="lease"):
        world.ring.active(NODE)


async def test_unknown_key_is_absent_only_on_a_fresh_ring(world: World):
    """None is said within ``propagation`` of a read, NotReady after it; a known key is found either way."""
    world.pass_time(TIMING.propagation)
    assert world.ring.find(Kid("other")) is None
    world.pass_time(1)
    with pytest.raises(NotReady):
        world.ring.find(Kid("other"))
    assert world.ring.find(Kid("k")) is not None


async def test_freshness_counts_from_the_question_not_the_answer(world: World):
    """A read that took six seconds is six seconds old when it comes."""
    gate = world.faults.hold_after("keyring.read")
    reading = asyncio.ensure_future(world.ring.refresh())
    await gate.reached()
    world.pass_time(6)
    gate.open()
    await reading
    assert not world.ring.is_fresh()


async def test_failing_read_keeps_the_last_ring(world: World):
    """A read that fails raises, and what was known stays known."""
    world.faults.fail_before("keyring")
    with pytest.raises(StoreUnavailable):
        await world.ring.refresh()
    assert world.ring.view.ring.find(Kid("k")) is not None


async def test_ring_that_was_never_read_is_not_ready():
    """Before the first read there is nothing to say."""
    world = World()
    with pytest.raises(NotReady):
        _ = world.ring.view
    assert not world.ring.is_fresh()


async def test_retry_after_is_what_is_left_of_the_lead():
    """A node that joins names the seconds until it signs, within bounds; the first one of a cluster, one."""
    world = World()
    await world.store.open()
    await world.ring.refresh()
    joining = NodeId("joining")
    assert retry_after(world, joining) == 1
    await world.begin()
    assert retry_after(world, joining) == 30
    view = await world.store.keyring.read(ISSUER)
    ring = prepare(
        view.ring, kid=Kid("k2"), node=joining, alg="ES256", jwk=b"{}", timing=TIMING, now=view.now
    )
    proven = prove(ring, Kid("k2"), now=view.now)
    assert await world.store.keyring.swap(view.ring.generation, proven)
    for passed, left in ((0, 30), (TIMING.lead - 31, 30), (11, 20), (19, 1), (60, 1)):
        world.pass_time(passed)
        await world.ring.refresh()
        assert retry_after(world, joining) == left


def retry_after(world: World, node: NodeId) -> int:
    with pytest.raises(NotReady) as raised:
        world.ring.active(node)
    return raised.value.retry_after


async def test_read_that_was_begun_earlier_takes_nothing_back(world: World):
    """K7: of two reads under way the later one counts, whichever answers first: a key that was revoked in
    between stays revoked."""
    gate = world.faults.hold_after("keyring.read")
    early = asyncio.create_task(world.ring.refresh())
    await gate.reached()
    world.faults.hold_after("keyring.read").open()
    view = await world.store.keyring.read(ISSUER)
    gone, _ = revoke(view.ring, Kid("k"), reason="stolen", timing=TIMING, now=view.now)
    assert await world.store.keyring.swap(view.ring.generation, gone)
    world.pass_time(1)
    assert world.ring.find(Kid("k")) is not None
    await world.ring.refresh()
    assert world.ring.find(Kid("k")) is None
    gate.open()
    await early
    assert world.ring.find(Kid("k")) is None
    assert world.ring.view.ring.generation == gone.generation
