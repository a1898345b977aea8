"""Who is known to be dead because nobody listens where it did."""

import asyncio
from dataclasses import dataclass, field, replace

from mintmark.core.keyring import Member
from mintmark.server.absence import Absence
from mintmark.testing.clock import FakeClock
from mintmark.units import NodeId, NumericDate

A, B = (Member(NodeId(name), NumericDate(100), 1, address=f"10.0.0.1:{name}") for name in "ab")


@dataclass
class Doors:
    """Where nobody listens, and who was asked."""

    refused: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    silent: bool = False

    async def is_refused(self, address: str) -> bool:
        self.asked.append(address)
        if self.silent:
            await asyncio.get_running_loop().create_future()
        return address in self.refused


class Watch:
    """An :class:`Absence` and what it was given."""

    def __init__(self, *, address: str = "") -> None:
        self.clock = FakeClock()
        self.doors = Doors({A.address})
        self.found = 0
        self.absence = Absence(self.doors, address=address, clock=self.clock, on_found=self.told)

    async def told(self) -> None:
        self.found += 1

    async def ask(self, *members: Member) -> frozenset[NodeId]:
        self.absence.ask(members)
        await self.absence.answered()
        self.clock.advance(1)
        return self.absence.gone(members)


async def test_a_node_is_gone_where_nobody_listens_and_no_other():
    """One that answers, or says nothing, is not."""
    watch = Watch()
    assert await watch.ask(A, B) == {A.node}
    assert watch.found == 1


async def test_a_heartbeat_is_stronger_than_a_refusal():
    """K1: a node whose listener failed, or whose address is wrong, is alive as soon as it beats again."""
    watch = Watch()
    await watch.ask(A)
    beaten = replace(A, seen_at=NumericDate(102))
    assert watch.absence.gone((beaten,)) == frozenset()
    assert watch.absence.gone((A,)) == frozenset(), "what was found is not remembered beyond that"


async def test_whoever_had_this_nodes_own_address_is_gone():
    """Two cannot listen at one place; and nobody is asked, because this node itself would answer."""
    watch = Watch(address=B.address)
    assert await watch.ask(B) == {B.node}
    assert watch.doors.asked == []


async def test_who_is_gone_is_not_asked_again_and_others_once_a_second():
    """Asking costs others a connection."""
    watch = Watch()
    await watch.ask(A, B)
    watch.absence.ask((A, B))
    watch.absence.ask((A, B))
    await watch.absence.answered()
    assert watch.doors.asked == [A.address, B.address, B.address]


async def test_no_round_waits_for_an_answer():
    """Nor is anybody asked twice at once; what is under way ends with the node."""
    watch = Watch()
    watch.doors.silent = True
    for _ in range(3):
        watch.absence.ask((A, B))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        watch.clock.advance(2)
        assert watch.absence.gone((A, B)) == frozenset()
    assert watch.doors.asked == [A.address, B.address]
    await watch.absence.close()
    watch.absence.ask((A, B))
    assert watch.doors.asked == [A.address, B.address]


async def test_a_row_that_is_gone_is_forgotten():
    """What is kept is bounded by the rows that there are."""
    watch = Watch()
    await watch.ask(A)
    assert watch.absence.gone(()) == frozenset()
    assert watch.absence.gone((A,)) == frozenset()


async def test_as_many_are_asked_at_once_as_a_machine_can_spare():
    """Whoever can write rows decides how many there are."""
    watch = Watch()
    many = tuple(replace(A, node=NodeId(f"n{n}"), address=f"10.0.0.1:{n}") for n in range(100))
    await watch.ask(*many)
    assert len(watch.doors.asked) == 32


async def test_without_a_way_to_ask_nobody_is_gone():
    """Then silence is waited out, as for nodes without an address."""
    absence = Absence(None, address="", clock=FakeClock(), on_found=Watch().told)
    absence.ask((A,))
    await absence.answered()
    assert absence.gone((A,)) == frozenset()
