"""Which timing a node works with, and who may change it (0041, 0081)."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from mintmark.adapters.memory import MemoryStore
from mintmark.core.key import Activation
from mintmark.core.keyring import HEARD_WITHIN, LIVE_FOR, activate, prepare
from mintmark.core.timing import Timing
from mintmark.errors import ConfigurationError, StoreUnavailable
from mintmark.server.agreement import agree, check_agreed
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults, FaultyStore
from mintmark.units import Issuer, Kid, NodeId, Seconds

ISSUER = Issuer("https://auth.example.com")
OURS, THEIRS = Timing(), replace(Timing(), lease=Seconds(60))
OTHER = NodeId("other")


class World:
    """A store in which some other node has worked, with timing of its own."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock, entropy=SYSTEM_ENTROPY)
        self.faults = Faults(clock=self.clock)
        self.keyring = FaultyStore(self.store, self.faults).keyring

    async def beat(self, node: NodeId = OTHER) -> None:
        await self.store.keyring.beat(ISSUER, node, ring_generation=0)

    async def sign(self) -> None:
        """The other node has an active key whose lease runs."""
        view = await self.store.keyring.read(ISSUER)
        ring = prepare(
            view.ring, kid=Kid("k"), node=OTHER, alg="ES256", jwk=b"{}", timing=THEIRS, now=view.now
        )
        ring = activate(ring, Kid("k"), Activation.BOOTSTRAP, timing=THEIRS, now=view.now)
        assert await self.store.keyring.swap(view.ring.generation, ring)

    def agree(self, timing: Timing = OURS) -> "asyncio.Task[int]":
        return asyncio.create_task(agree(self.keyring, ISSUER, timing, clock=self.clock))

    async def listen(self, agreeing: "asyncio.Task[int]", seconds: float) -> None:
        """Let time pass for a node that listens."""
        for _ in range(int(seconds * 2)):
            assert not agreeing.done()
            await self.clock.pass_time(0.5)
            for _ in range(50):
                await asyncio.sleep(0)

    async def stored(self) -> object:
        found = await self.store.keyring.timing(ISSUER)
        return None if found is None else msgspec.json.decode(found.document, type=Timing)


@pytest.fixture
async def world() -> World:
    made = World()
    await made.store.open()
    return made


async def at_once(agreeing: "asyncio.Task[int]") -> int:
    """The answer of a node that waits for nothing."""
    for _ in range(200):
        await asyncio.sleep(0)
    assert agreeing.done()
    return agreeing.result()


async def test_first_node_writes_its_own(world: World):
    """On an empty store there is nobody to agree with, and nothing to wait for."""
    assert await at_once(world.agree()) == 1
    assert await world.stored() == OURS


async def test_same_settings_wait_for_nothing(world: World):
    """The ordinary start, beside live nodes, dead ones and running leases."""
    await at_once(world.agree())
    await world.beat()
    await world.sign()
    assert await at_once(world.agree()) == 1


async def test_other_settings_of_a_store_that_nobody_uses_are_replaced_at_once(world: World):
    """Where no node has left a trace, or one so old that it is none, an edited file is simply taken."""
    await at_once(world.agree(THEIRS))
    assert await at_once(world.agree()) == 2
    await world.beat()
    world.clock.advance(86_400)
    assert await at_once(world.agree(THEIRS)) == 3
    assert await world.stored() == THEIRS


async def test_other_settings_beside_a_live_node_are_refused_by_name(world: World):
    """The first heartbeat that is heard ends the start, with each setting that differs and what to do."""
    await at_once(world.agree(THEIRS))
    await world.beat()
    agreeing = world.agree()
    await world.listen(agreeing, 1.5)
    world.clock.advance(0.4)
    await world.beat()
    await world.clock.pass_time(0.5)
    with pytest.raises(
        ConfigurationError, match=r"lease: other nodes are live .* lease is 120 here and 60 there.*stop"
    ):
        await agreeing
    assert await world.stored() == THEIRS


async def test_node_that_comes_up_meanwhile_is_heard(world: World):
    """One whose row was not there before is alive."""
    await at_once(world.agree(THEIRS))
    await world.sign()
    agreeing = world.agree()
    await world.listen(agreeing, 2)
    await world.beat(NodeId("third"))
    await world.clock.pass_time(0.5)
    with pytest.raises(ConfigurationError):
        await agreeing


async def test_old_heartbeats_after_an_outage_prove_nothing(world: World):
    """While the store was away live nodes could not beat: whoever starts first afterwards listens first."""
    await at_once(world.agree(THEIRS))
    await world.beat()
    world.clock.advance(300)
    agreeing = world.agree()
    await world.listen(agreeing, HEARD_WITHIN - 1)
    await world.beat()
    await world.clock.pass_time(0.5)
    with pytest.raises(ConfigurationError):
        await agreeing


async def test_silence_of_dead_nodes_is_heard_out_once(world: World):
    """After a power cut neither young heartbeats nor running leases refuse the start for good."""
    await at_once(world.agree(THEIRS))
    await world.sign()
    await world.beat()
    agreeing = world.agree()
    await world.listen(agreeing, LIVE_FOR - 0.5)
    await world.clock.pass_time(0.5)
    assert await at_once(agreeing) == 2
    assert await world.stored() == OURS


async def test_store_that_fails_while_a_node_listens_ends_the_start(world: World):
    """Who cannot read hears nothing, so its silence counts for nothing."""
    await at_once(world.agree(THEIRS))
    await world.beat()
    agreeing = world.agree()
    await world.listen(agreeing, 3)
    world.faults.fail_before("keyring.read")
    await world.clock.pass_time(0.5)
    with pytest.raises(StoreUnavailable):
        await agreeing
    assert await world.stored() == THEIRS


async def test_two_first_nodes_with_different_settings_end_with_one_of_them(world: World):
    """Of two that found nobody, the one that was replaced learns it with its next heartbeat."""
    gate = world.faults.hold_before("keyring.swap_timing")
    first = world.agree(THEIRS)
    await gate.reached()
    second = world.agree(OURS)
    await gate.reached()
    gate.open()
    world.faults.recover()
    assert sorted([await first, await second]) == [1, 2]
    final = await world.stored()
    replaced = OURS if final == THEIRS else THEIRS
    await check_agreed(world.keyring, ISSUER, OURS if final == OURS else THEIRS)
    with pytest.raises(ConfigurationError, match="others work with other timing by now"):
        await check_agreed(world.keyring, ISSUER, replaced)


async def test_settings_that_are_not_there_are_no_difference(world: World):
    """A node checks what was written, and an empty store says nothing."""
    await check_agreed(world.keyring, ISSUER, OURS)
