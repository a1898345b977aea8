"""Another timing for a running cluster, step by step, beside nodes that come and a store that fails."""

import asyncio
from dataclasses import replace

import pytest

from mintmark.adapters.memory import MemoryStore
from mintmark.core.timing import Timing
from mintmark.core.timing_change import Agreement, mixed
from mintmark.errors import StoreUnavailable
from mintmark.server.agreement import agree, check_agreed, read_agreement
from mintmark.server.retiming import Refused, Standing, Step, change, finish, standing, take
from mintmark.server.settings import read, working_by
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults, FaultyStore
from mintmark.units import Issuer, NodeId, Seconds

ONE, OTHER = Issuer("https://auth.example.com"), Issuer("https://login.example.org")
FORMER = Timing()
WANTED = replace(FORMER, access_ttl=Seconds(300))
OLD, NEW = NodeId("old"), NodeId("new")


class World:
    """Two issuers, whose nodes have the former settings."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock, entropy=SYSTEM_ENTROPY)
        self.faults = Faults(clock=self.clock)
        self.keyring = FaultyStore(self.store, self.faults).keyring
        self.taken: list[Issuer] = []

    async def join(self, node: NodeId, settings: Timing, working: Timing) -> None:
        for issuer in (ONE, OTHER):
            await agree(self.store.keyring, issuer, settings, clock=self.clock)
            await self.store.keyring.beat(issuer, node, ring_generation=0)
            await check_agreed(self.store.keyring, issuer, settings, node=node, working=working)

    async def leave(self, node: NodeId) -> None:
        for issuer in (ONE, OTHER):
            await self.store.keyring.leave(issuer, node)

    async def take(self, step: Step) -> tuple[Standing, ...]:
        def note(before: Standing, after: Agreement) -> None:
            self.taken.append(before.issuer)

        return await take(self.keyring, (ONE, OTHER), step, clock=self.clock, on_taken=note)

    async def agreements(self) -> list[Agreement]:
        found = [await self.store.keyring.timing(issuer) for issuer in (ONE, OTHER)]
        return [read_agreement(stored) for stored in found if stored is not None]


@pytest.fixture
async def world() -> World:
    made = World()
    await made.store.open()
    await made.join(OLD, FORMER, FORMER)
    return made


async def test_a_step_is_taken_for_every_issuer_and_taken_once(world: World):
    """Whoever asks again changes nothing, and is told so."""
    await world.take(change(WANTED))
    assert sorted(world.taken) == [ONE, OTHER]
    assert await world.agreements() == [Agreement(current=FORMER, wanted=WANTED)] * 2
    await world.take(change(WANTED))
    assert len(world.taken) == 2


async def test_a_step_that_is_refused_for_one_issuer_is_taken_for_none(world: World):
    """The reasons are told by issuer."""
    await world.take(change(WANTED))
    await world.leave(OLD)
    await world.join(NEW, WANTED, mixed(WANTED, FORMER))
    await world.store.keyring.beat(OTHER, OLD, ring_generation=0)
    with pytest.raises(Refused) as refused:
        await world.take(finish)
    assert list(refused.value.reasons) == [OTHER]
    assert [agreement.current for agreement in await world.agreements()] == [FORMER, FORMER]


async def test_a_step_that_the_store_cut_off_is_completed_by_the_same_again(world: World):
    """What was written stays written, and is not written twice."""
    world.faults.fail_before("keyring.swap_timing", times=1)
    with pytest.raises(StoreUnavailable):
        await world.take(change(WANTED))
    assert len(world.taken) == 1
    await world.take(change(WANTED))
    assert sorted(world.taken) == [ONE, OTHER]


async def test_a_node_that_joins_between_look_and_write_is_seen(world: World):
    """Its note changes the document, so the step is decided anew: here, to be refused."""
    await world.take(change(WANTED))
    await world.leave(OLD)
    await world.join(NEW, WANTED, mixed(WANTED, FORMER))
    gate = world.faults.hold_before("keyring.swap_timing")
    finishing = asyncio.create_task(world.take(finish))
    await gate.reached()
    await world.join(NodeId("late"), FORMER, mixed(FORMER, WANTED))
    gate.open()
    world.faults.recover()
    with pytest.raises(Refused, match="late"):
        await finishing
    assert [agreement.wanted for agreement in await world.agreements()] == [WANTED, WANTED]


async def test_what_stands_says_who_is_missing(world: World):
    """The nodes that are there without the wanted settings, and why that is not the end yet."""
    before = await standing(world.keyring, ONE, clock=world.clock)
    assert (before.differing(), before.refusals()) == ((), ())
    await world.take(change(WANTED))
    during = await standing(world.keyring, ONE, clock=world.clock)
    assert during.differing() == (OLD,)
    assert during.refusals() == ("restart these nodes with the wanted settings first: old",)


@pytest.mark.parametrize(
    ("handover", "expected"),
    [({}, FORMER.lead + 600 + 60), ({"handover": "5m"}, 300)],
    ids=["default", "given"],
)
def test_a_node_that_leaves_waits_for_the_lead_that_it_works_by(handover: dict[str, str], expected: int):
    """The default of ``handover`` follows the longer lead; one that was given stays."""
    settings = read(handover, {})
    working = mixed(settings.timing, replace(FORMER, verifier_cache=Seconds(1200)))
    made = working_by(settings, working)
    assert made.timing == working
    assert made.timing.lead == FORMER.lead + 600
    assert made.handover == expected
