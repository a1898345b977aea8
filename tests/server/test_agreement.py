"""Which timing a node works with, and who may change it (0041, 0081)."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from mintmark.adapters.memory import MemoryStore
from mintmark.core.key import Activation
from mintmark.core.keyring import HEARD_WITHIN, LIVE_FOR, activate, prepare
from mintmark.core.timing import NAMES, Timing
from mintmark.core.timing_change import Agreement, mixed
from mintmark.errors import ConfigurationError, StoreDamaged, StoreUnavailable
from mintmark.ports.keyring import StoredTiming
from mintmark.server.agreement import (
    agree,
    beside,
    check_agreed,
    encode_agreement,
    presence,
    read_agreement,
)
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults, FaultyStore
from mintmark.units import Issuer, Kid, NodeId, NumericDate, Seconds

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


# --- while the timing changes ----------------------------------------------------------------------

BOTH = mixed(THEIRS, OURS)
HERE = NodeId("here")


async def begin_change(world: World) -> None:
    """The nodes have our settings, and are to have theirs."""
    await at_once(world.agree())
    document = encode_agreement(Agreement(current=OURS, wanted=THEIRS))
    assert await world.store.keyring.swap_timing(ISSUER, expected=1, document=document)


async def agreed(world: World) -> Agreement:
    stored = await world.store.keyring.timing(ISSUER)
    assert stored is not None
    return read_agreement(stored)


async def test_while_the_timing_changes_nodes_start_with_either(world: World):
    """At once, beside live nodes, and each learns what the others may work by."""
    await begin_change(world)
    await world.beat()
    assert await at_once(world.agree(OURS)) == 2
    assert await at_once(world.agree(THEIRS)) == 2
    assert await beside(world.keyring, ISSUER, OURS) == (THEIRS,)
    assert await beside(world.keyring, ISSUER, THEIRS) == (OURS,)


async def test_while_the_timing_changes_no_third_one_joins(world: World):
    """Beside live nodes; the message says that a change is under way."""
    await begin_change(world)
    await world.beat()
    agreeing = world.agree(replace(OURS, lease=Seconds(90)))
    await world.listen(agreeing, 1.5)
    world.clock.advance(0.4)
    await world.beat()
    await world.clock.pass_time(0.5)
    with pytest.raises(ConfigurationError, match="a change to a third timing is under way"):
        await agreeing


async def test_nodes_of_before_a_change_go_on_and_are_not_noted(world: World):
    """Neither do they end, nor does anybody take them for nodes that know both timings."""
    await begin_change(world)
    await check_agreed(world.keyring, ISSUER, OURS, node=HERE, working=OURS)
    assert await agreed(world) == Agreement(current=OURS, wanted=THEIRS)


async def test_nodes_that_know_both_timings_are_noted_with_their_settings(world: World):
    """Once each, however often they look; nodes that are gone are forgotten."""
    await begin_change(world)
    await world.beat(HERE)
    await check_agreed(world.keyring, ISSUER, THEIRS, node=HERE, working=BOTH)
    first = await world.store.keyring.timing(ISSUER)
    await check_agreed(world.keyring, ISSUER, THEIRS, node=HERE, working=BOTH)
    assert await world.store.keyring.timing(ISSUER) == first
    assert (await agreed(world)).on_wanted == (HERE,)
    await world.store.keyring.leave(ISSUER, HERE)
    await world.beat()
    await check_agreed(world.keyring, ISSUER, OURS, node=OTHER, working=mixed(OURS, THEIRS))
    assert await agreed(world) == Agreement(current=OURS, wanted=THEIRS, on_current=(OTHER,))


async def test_two_that_are_noted_at_once_both_are_in_the_end(world: World):
    """The one whose write was not taken writes again when it looks again."""
    await begin_change(world)
    await world.beat(HERE)
    await world.beat()
    gate = world.faults.hold_before("keyring.swap_timing")
    noting = [
        asyncio.create_task(check_agreed(world.keyring, ISSUER, THEIRS, node=node, working=BOTH))
        for node in (HERE, OTHER)
    ]
    for _ in noting:
        await gate.reached()
    gate.open()
    world.faults.recover()
    await asyncio.gather(*noting)
    assert len((await agreed(world)).on_wanted) == 1
    for node in (HERE, OTHER):
        await check_agreed(world.keyring, ISSUER, THEIRS, node=node, working=BOTH)
    assert (await agreed(world)).on_wanted == (HERE, OTHER)


async def test_node_that_slept_until_a_change_was_finished_ends(world: World):
    """It knows of nothing but the former timing."""
    await begin_change(world)
    document = encode_agreement(Agreement(current=THEIRS))
    assert await world.store.keyring.swap_timing(ISSUER, expected=2, document=document)
    with pytest.raises(ConfigurationError, match="lease is 120 here and 60 there"):
        await check_agreed(world.keyring, ISSUER, OURS, node=HERE, working=OURS)


async def test_alone_a_node_replaces_a_change_with_its_own_settings(world: World):
    """Where nobody lives an edited file is simply taken, as ever (0041)."""
    await begin_change(world)
    third = replace(OURS, lease=Seconds(90))
    assert await at_once(world.agree(third)) == 3
    assert await world.stored() == third


@pytest.mark.parametrize(
    "agreement",
    [
        Agreement(current=OURS),
        Agreement(current=OURS, wanted=THEIRS),
        Agreement(current=OURS, wanted=THEIRS, on_current=(OTHER,), on_wanted=(HERE,)),
        Agreement(current=THEIRS, copies_age=Seconds(300), copies_until=NumericDate(1_800_000_000)),
    ],
)
def test_an_agreement_is_read_as_it_was_written(agreement: Agreement):
    """In each of its forms; that of one timing is what earlier versions wrote."""
    document = encode_agreement(agreement)
    assert read_agreement(StoredTiming(document, 1)) == agreement
    is_plain = set(msgspec.json.decode(document)) == set(NAMES)
    assert is_plain is (agreement == Agreement(current=agreement.current))


WRONG = msgspec.to_builtins({name: getattr(OURS, name) for name in NAMES}) | {"lease": "120"}


@pytest.mark.parametrize(
    "document",
    [
        b"{}",
        b'{"current":{}}',
        b'{"lease":120,"lead":5}',
        msgspec.json.encode(WRONG),
        msgspec.json.encode(WRONG | {"lease": -1}),
        msgspec.json.encode(WRONG | {"lease": True}),
    ],
)
def test_what_another_version_wrote_is_not_guessed_at(document: bytes):
    """A setting more or less is one that this version does not know."""
    with pytest.raises(StoreDamaged):
        read_agreement(StoredTiming(document, 1))


# --- who is there -----------------------------------------------------------------------------------


async def test_presence_is_told_at_once_where_everybody_lives(world: World):
    """Live heartbeats need no second look."""
    await world.beat()
    assert (await presence(world.keyring, ISSUER, clock=world.clock)).nodes == {OTHER}


async def test_presence_is_told_by_listening_where_a_row_is_silent(world: World):
    """After an outage of the store live nodes are as silent as dead ones: those that beat are there."""
    await world.beat()
    await world.beat(HERE)
    world.clock.advance(300)
    looking = asyncio.create_task(presence(world.keyring, ISSUER, clock=world.clock))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not looking.done()
    await world.beat(HERE)
    await world.clock.pass_time(HEARD_WITHIN)
    assert (await looking).nodes == {HERE}


async def test_whoever_may_still_sign_is_present(world: World):
    """A node that stands still holds a lease, and may wake up within it."""
    await world.sign()
    assert (await presence(world.keyring, ISSUER, clock=world.clock)).nodes == {OTHER}
    world.clock.advance(THEIRS.lease)
    assert (await presence(world.keyring, ISSUER, clock=world.clock)).nodes == frozenset()
