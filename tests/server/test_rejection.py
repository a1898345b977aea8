"""Nodes with different keys of the cluster, or none."""

from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, replace

import pytest

from mintmark.adapters.memory import MemoryStore
from mintmark.adapters.memory_bus import MemoryBus
from mintmark.core.algorithm import Algorithm
from mintmark.core.events import EventName
from mintmark.core.key import Key, KeyState
from mintmark.core.keyring import LIVE_FOR, Ring
from mintmark.core.mark import UNMARKED, MarkKey, Marks
from mintmark.core.timing import Timing
from mintmark.errors import ConfigurationError
from mintmark.ports.keyring import RingView
from mintmark.server.agreement import agree
from mintmark.server.audit import Audit
from mintmark.server.rejection import Rejections
from mintmark.server.rotation import Rotation
from mintmark.signer.local import LocalSigner
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.units import Issuer, Kid, NodeId, NumericDate

ISSUER = Issuer("https://auth.example.com")
KEY, OTHER_KEY = (MarkKey.from_bytes(bytes([number]) * 32) for number in (1, 2))
MARKED, OTHERWISE = Marks(key=KEY), Marks(key=OTHER_KEY)


@dataclass(frozen=True)
class Machine:
    """Stores on one memory, each with marks of its own."""

    clock: FakeClock
    first: MemoryStore

    async def store(self, marks: Marks) -> MemoryStore:
        store = MemoryStore(clock=self.clock, entropy=SYSTEM_ENTROPY, data=self.first.data, marks=marks)
        await store.open()
        return store

    async def beat(self, marks: Marks, node: str = "other") -> None:
        await (await self.store(marks)).keyring.beat(ISSUER, NodeId(node), ring_generation=0)

    async def start(self, marks: Marks) -> int:
        """A node starts on an issuer whose timing is settled."""
        return await agree((await self.store(marks)).keyring, ISSUER, Timing(), clock=self.clock)


@pytest.fixture
def machine() -> Machine:
    clock = FakeClock()
    return Machine(clock, MemoryStore(clock=clock, entropy=SYSTEM_ENTROPY))


@pytest.mark.parametrize(
    ("there", "here"),
    [
        (UNMARKED, MARKED),
        (OTHERWISE, MARKED),
        (MARKED, UNMARKED),
        (MARKED, Marks(key=OTHER_KEY, unmarked=True)),
        (UNMARKED, Marks(key=KEY, also=(OTHER_KEY,))),
    ],
)
async def test_node_does_not_start_beside_one_with_another_key(machine, there, here):
    """Each would ignore what the other writes; once the other is gone, nothing stands in its way."""
    await machine.beat(there)
    with pytest.raises(ConfigurationError, match="cluster_key"):
        await machine.start(here)
    machine.clock.advance(LIVE_FOR)
    assert await machine.start(here)


@pytest.mark.parametrize(
    ("there", "here"),
    [
        (UNMARKED, UNMARKED),
        (MARKED, MARKED),
        (UNMARKED, Marks(key=KEY, unmarked=True)),
        (OTHERWISE, Marks(key=KEY, also=(OTHER_KEY,))),
    ],
)
async def test_node_starts_beside_one_whose_rows_it_takes(machine, there, here):
    """A key is introduced, and replaced, while nodes without it live."""
    await machine.beat(there)
    assert await machine.start(here)


async def test_one_made_up_node_keeps_none_from_starting_beside_others(machine):
    """Whoever adds a row to those of nodes that live with the right key changes nothing for the next."""
    await machine.beat(MARKED)
    await machine.beat(UNMARKED, node="made-up")
    assert await machine.start(MARKED)


async def test_rejected_row_is_reported_once_while_it_stays(machine):
    """One warning with the table and the name; another one if it comes back."""
    stranger, store = await machine.store(UNMARKED), await machine.store(MARKED)
    audit = Audit()
    rejections = Rejections(audit)
    assert await stranger.keyring.swap(0, Ring(issuer=ISSUER, generation=1))
    await machine.beat(UNMARKED)
    for _ in range(3):
        rejections.note(await store.keyring.read(ISSUER))
    assert audit.counts == {EventName.ROW_REJECTED: 2}
    assert await store.keyring.swap(1, Ring(issuer=ISSUER, generation=2))
    rejections.note(await store.keyring.read(ISSUER))
    assert audit.counts == {EventName.ROW_REJECTED: 2}
    await machine.beat(UNMARKED)
    rejections.note(await store.keyring.read(ISSUER))
    assert audit.counts == {EventName.ROW_REJECTED: 3}


@dataclass
class Reader:
    """Reads back what the store publishes."""

    store: MemoryStore

    async def kids(self, url: str) -> frozenset[Kid]:
        return frozenset(key.kid for key in (await self.store.keyring.read(ISSUER)).ring.published())


@pytest.fixture
async def signer(machine: Machine) -> AsyncIterator[LocalSigner]:
    with closing(LocalSigner(clock=machine.clock)) as made:
        yield made


async def test_node_reports_a_forged_ring_and_mends_it(machine, signer):
    """What somebody wrote in place of its ring is an alarm, and gone with the key that takes its place."""
    store, stranger = await machine.store(MARKED), await machine.store(UNMARKED)
    audit = Audit()
    rotation = Rotation(
        ISSUER,
        node=NodeId("node-1"),
        algorithm=Algorithm.ES256,
        store=store.keyring,
        signer=signer,
        reader=Reader(store),
        bus=MemoryBus(clock=machine.clock),
        clock=machine.clock,
        timing=Timing(),
        audit=audit,
        served=lambda: 2**31,
        own_url="http://127.0.0.1:1/jwks.json",
        proof_urls=(),
    )

    async def rounds() -> tuple[Key, ...]:
        for _ in range(20):
            machine.clock.advance(2)
            await rotation.round()
            await rotation.answered()
        view: RingView = await store.keyring.read(ISSUER)
        return view.ring.keys

    (own,) = await rounds()
    ring = (await stranger.keyring.read(ISSUER)).ring
    forged = replace(own, kid=Kid("forged"), publish_until=NumericDate(2**40))
    assert await stranger.keyring.swap(
        ring.generation, replace(ring, generation=ring.generation + 1, keys=(forged,))
    )
    keys = await rounds()
    assert audit.counts[EventName.ROW_REJECTED] == 2
    assert [key.state for key in keys] == [KeyState.ACTIVE]
    assert "forged" not in {key.kid for key in keys}
    assert not (await store.keyring.read(ISSUER)).rejected
