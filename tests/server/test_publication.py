"""What is published beside the nodes: the bytes that they serve, kept as the ring says (design 3.7)."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.http.surface import surface
from tests.server.published import (
    ISSUER,
    JWKS,
    METADATA,
    NODE,
    NOW,
    OPENID,
    TIMING,
    add,
    kid,
    metadata_of,
    named,
    revoke,
)

from mintmark.adapters.memory import MemoryStore
from mintmark.adapters.memory_bus import MemoryBus
from mintmark.adapters.memory_publisher import MemoryPublisher
from mintmark.core import keyring
from mintmark.core.events import EventName
from mintmark.core.keyring import Ring
from mintmark.grants import GRANTS
from mintmark.ports.keyring import KeyRingStore, RingView
from mintmark.ports.proof import ProofFailed, kids_of
from mintmark.ports.publisher import Entry, Found, Headers, PublicationFailed, Version
from mintmark.server import document
from mintmark.server.audit import Audit
from mintmark.server.publication import (
    LOOK_EVERY,
    LOOK_UNFENCED_EVERY,
    Delete,
    PlaceReader,
    Publication,
    Put,
    due,
    wanted,
)
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults, FaultyStore
from mintmark.units import Issuer, Kid


@dataclass
class Place:
    """A place that goes wrong on demand, around one that does not."""

    inner: MemoryPublisher = field(default_factory=MemoryPublisher)
    away: bool = False
    conditions: bool = True
    """Whether it honours what a put expects."""
    refuses: bool = False
    place: Final = "s3://bucket/auth"
    calls: list[str] = field(default_factory=list)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def pause_before(self, call: str) -> asyncio.Event:
        """Calls of this name wait until the event that is returned is set; ``reached`` says that one does."""
        self.gates[call] = asyncio.Event()
        return self.gates[call]

    async def _called(self, call: str) -> None:
        self.calls.append(call)
        if call in self.gates:
            self.reached.set()
            await self.gates[call].wait()
        if self.away:
            raise PublicationFailed(f"{self.place}: no answer")

    async def read(self, name: str) -> Found | None:
        await self._called("read")
        return await self.inner.read(name)

    async def versions(self, folder: str) -> Mapping[str, Version]:
        await self._called("versions")
        return await self.inner.versions(folder)

    async def put(self, name: str, entry: Entry, *, over: Version | None) -> bool:
        await self._called("put")
        if self.refuses:
            return False
        if not self.conditions:
            found = await self.inner.read(name)
            over = found.version if found is not None else None
        return await self.inner.put(name, entry, over=over)

    async def delete(self, name: str) -> None:
        await self._called("delete")
        await self.inner.delete(name)

    async def close(self) -> None:
        await self.inner.close()


class World:
    """One store, one place, and nodes that each see it their own way."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock, entropy=SYSTEM_ENTROPY)
        self.entries: dict[str, Found] = {}
        self.faults = Faults(clock=self.clock)

    def node(self) -> "Node":
        return Node(self)

    async def ring(self) -> Ring:
        return (await self.store.keyring.read(ISSUER)).ring

    async def change(self, ring: Ring) -> None:
        before = await self.ring()
        assert await self.store.keyring.swap(before.generation, ring)

    async def add(self, *numbers: int) -> None:
        for number in numbers:
            await self.change(add(await self.ring(), number))

    def kids(self) -> set[str]:
        """What the key set at the place lists."""
        return set(kids_of(self.entries[JWKS].body))


class Node:
    """One node's publication."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.place = Place(MemoryPublisher(world.entries))
        self.audit = Audit()
        self.publication = Publication(
            ISSUER,
            place=self.place,
            metadata=metadata_of,
            store=FaultyStore(world.store, world.faults).keyring,
            bus=MemoryBus(clock=world.clock),
            clock=world.clock,
            timing=TIMING,
            audit=self.audit,
        )

    async def round(self) -> None:
        await self.publication.round()

    async def later(self, seconds: float) -> None:
        """A round, so many seconds later."""
        self.world.clock.advance(seconds)
        await self.round()

    async def settle(self) -> None:
        """Rounds until nothing is left to do and the place was probed."""
        for _ in range(3):
            await self.later(1)

    def count(self, name: EventName) -> int:
        return self.audit.counts[name]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.store.open()
    await made.add(1)
    yield made
    await made.store.close()


# --- what is due -------------------------------------------------------------------------------


@pytest.mark.parametrize("issuer", ["https://auth.example.com", "https://example.com/tenants/one"])
async def test_published_bytes_are_the_served_ones(issuer):
    """Every entry has the name, the bytes, the type and the max-age of what a node serves at that path."""
    async with surface(issuer=Issuer(issuer)) as node:
        ring = (await node.store.keyring.read(node.issuer)).ring
        metadata = document.discovery(
            ring, configured=node.services.algorithm, grant_types=tuple(GRANTS),
            max_age=node.services.timing.jwks_max_age,
        )  # fmt: skip
        entries = wanted(ring, node.issuer, metadata)
        path = document.path_of(node.issuer).removeprefix("/")
        under = f"{path}/" if path else ""
        assert {under + JWKS, under + OPENID, f"{under}keys/{node.kid}.json"} <= entries.keys()
        for name, entry in entries.items():
            served = await node.http.get(f"https://{node.http.base_url.host}/{name}")
            assert served.content == entry.body
            assert served.headers["content-type"] == entry.headers.content_type
            assert served.headers["cache-control"] == entry.headers.cache_control


def test_metadata_of_an_issuer_with_a_path_is_under_every_name_that_clients_try():
    """OIDC Discovery puts the path before the well-known name, RFC 8414 behind it; both are published."""
    entries = wanted(Ring(issuer=Issuer("https://example.com/t")), Issuer("https://example.com/t"), METADATA)
    assert set(entries) == {
        "t/.well-known/jwks.json",
        "t/.well-known/openid-configuration",
        "t/.well-known/oauth-authorization-server",
        ".well-known/openid-configuration/t",
        ".well-known/oauth-authorization-server/t",
    }


def test_key_tells_its_end_until_it_leaves():
    """A key's entry carries the ``exp`` that the ring has, and goes with the key: revoked ones have none."""
    ring = add(Ring(issuer=ISSUER), 1)
    entry = wanted(ring, ISSUER, METADATA)[named(1)]
    assert msgspec.json.decode(entry.body)["exp"] == ring.keys[0].publish_until
    assert named(1) not in wanted(revoke(ring, 1), ISSUER, METADATA)


def test_key_with_a_name_that_is_none_has_no_entry():
    """A row of the database whose kid is a path makes no entry, and so leads no write elsewhere."""
    jwk = document.encode({"kid": "../../up", "kty": "EC"})
    ring = keyring.prepare(
        Ring(issuer=ISSUER), kid=Kid("../../up"), node=NODE, alg="ES256", jwk=jwk, timing=TIMING, now=NOW
    )
    assert set(wanted(ring, ISSUER, METADATA)) == set(wanted(Ring(issuer=ISSUER), ISSUER, METADATA))


def found_as(entries: Mapping[str, Entry]) -> dict[str, Found]:
    return {name: Found(entry.body, Version(name), entry.headers) for name, entry in entries.items()}


def test_nothing_is_due_where_everything_is_in_place():
    """A place that holds exactly what is wanted is not written to."""
    entries = wanted(add(Ring(issuer=ISSUER), 1), ISSUER, METADATA)
    assert list(due(entries, found_as(entries))) == []


def test_whatever_differs_is_written_over_what_was_found():
    """Other bytes, another max-age and an absence are each due, expecting just what was found."""
    entries = wanted(add(Ring(issuer=ISSUER), 1), ISSUER, METADATA)
    found = found_as(entries)
    found[JWKS] = Found(b"{}", Version("older"), entries[JWKS].headers)
    found[OPENID] = Found(METADATA.body, Version("same"), Headers(document.JSON, "public, max-age=9999"))
    del found[named(1)]
    assert list(due(entries, found)) == [
        Put(JWKS, entries[JWKS], Version("older")),
        Put(named(1), entries[named(1)], None),
        Put(OPENID, entries[OPENID], Version("same")),
    ]


def test_key_set_is_written_before_anything_else():
    """A revoked key leaves the set first, its own entry after that."""
    ring = add(add(Ring(issuer=ISSUER), 1), 2)
    before = found_as(wanted(ring, ISSUER, METADATA))
    changes = list(due(wanted(revoke(ring, 1), ISSUER, METADATA), before))
    assert changes[0].name == JWKS
    assert changes[-1] == Delete(named(1))


# --- one node ----------------------------------------------------------------------------------


async def test_place_holds_what_the_ring_says(world):
    """After a round the place has the key set, the metadata and each key; one more key, one more round."""
    node = world.node()
    await node.round()
    assert set(world.entries) == set(wanted(await world.ring(), ISSUER, METADATA))
    await world.add(2)
    await node.round()
    assert world.kids() == {kid(1), kid(2)}
    assert node.count(EventName.PUBLICATION_UPDATED) == 2


async def test_revoked_key_is_gone_from_the_place(world):
    """K7: after a revocation the set does not list the key, and its own entry is deleted."""
    node = world.node()
    await world.add(2)
    await node.settle()
    await world.change(revoke(await world.ring(), 1))
    await node.round()
    assert world.kids() == {kid(2)}
    assert named(1) not in world.entries
    assert named(2) in world.entries


async def test_what_is_not_ours_stays(world):
    """Entries that are no key's are neither read nor deleted, wherever they are."""
    other = MemoryPublisher(world.entries)
    entry = Entry(b"<html>", Headers("text/html", ""))
    for name in ("index.html", "keys/index.html", "keys/README.json", ".well-known/security.txt"):
        assert await other.put(name, entry, over=None)
    node = world.node()
    await node.settle()
    for name in ("index.html", "keys/index.html", "keys/README.json", ".well-known/security.txt"):
        assert world.entries[name].body == b"<html>"


async def test_ring_that_was_never_written_publishes_nothing():
    """A node on an empty store leaves a place that serves as it is, until it has a key."""
    world = World()
    await world.store.open()
    assert await MemoryPublisher(world.entries).put(JWKS, Entry(b"{}", Headers("", "")), over=None)
    node = world.node()
    await node.settle()
    assert node.place.calls == []
    await world.add(1)
    await node.round()
    assert world.kids() == {kid(1)}


async def test_place_where_nothing_changes_is_looked_at_once_a_minute(world):
    """Renewed leases change the ring often; only another key set is worth a look before it is due."""
    node = world.node()
    await node.settle()
    looks = node.place.calls.count("versions")
    for _ in range(int(LOOK_EVERY) - 5):
        ring = await world.ring()
        await world.change(keyring.renew(ring, [kid(1)], timing=TIMING, now=world.clock.now()))
        await node.later(1)
    assert node.place.calls.count("versions") == looks
    await node.later(10)
    assert node.place.calls.count("versions") == looks + 1
    entry = wanted(await world.ring(), ISSUER, METADATA)[named(1)]
    assert world.entries[named(1)].body == entry.body


async def test_what_somebody_else_wrote_is_replaced_and_reported(world):
    """A key that was planted in the set, or an older set, is gone at the next look, with an alarm."""
    node = world.node()
    await node.settle()
    world.entries[JWKS] = Found(b'{"keys":[{"kid":"planted"}]}', Version("x"), world.entries[JWKS].headers)
    await node.later(LOOK_EVERY)
    assert world.kids() == {kid(1)}
    assert node.count(EventName.PUBLICATION_OVERWRITTEN) == 1


async def test_key_entry_that_was_altered_is_replaced(world):
    """An entry of a key is compared by its version, so another one is read and written again."""
    node = world.node()
    await node.settle()
    before = world.entries[named(1)]
    world.entries[named(1)] = Found(b"{}", Version("x"), before.headers)
    await node.later(LOOK_EVERY)
    assert world.entries[named(1)].body == before.body


# --- a place that is away ----------------------------------------------------------------------


async def test_place_that_is_away_is_one_alarm_and_tried_again(world):
    """F32: an outage is reported once a minute with how long the set is behind, and ends by itself."""
    node = world.node()
    node.place.away = True
    await node.round()
    assert node.count(EventName.PUBLICATION_FAILED) == 1
    for _ in range(50):
        await node.later(1)
    assert node.count(EventName.PUBLICATION_FAILED) == 1
    for _ in range(40):
        await node.later(1)
    assert node.count(EventName.PUBLICATION_FAILED) == 2
    node.place.away = False
    for _ in range(31):
        await node.later(1)
    assert node.count(EventName.PUBLICATION_RESTORED) == 1
    assert world.kids() == {kid(1)}


async def test_attempts_grow_rarer(world):
    """F32: a place that is away for ten minutes is asked a few dozen times, not every second."""
    node = world.node()
    node.place.away = True
    for _ in range(600):
        await node.later(1)
    assert 15 < len(node.place.calls) < 40


async def test_store_that_is_away_leaves_the_place_as_it_is(world):
    """F15: without the store nothing is derived, so nothing is written; what is published stays."""
    node = world.node()
    await node.settle()
    before = dict(world.entries)
    world.faults.fail_before("keyring.read")
    await node.later(LOOK_EVERY)
    assert world.entries == before
    assert node.count(EventName.PUBLICATION_FAILED) == 0
    world.faults.recover()
    await world.add(2)
    await node.later(1)
    assert world.kids() == {kid(1), kid(2)}


async def test_place_that_always_refuses_is_an_alarm(world):
    """F32: a server that answers with a wrong version loses every race; that is an outage after a while."""
    node = world.node()
    node.place.refuses = True
    await node.round()
    assert node.count(EventName.PUBLICATION_FAILED) == 0
    for _ in range(30):
        await node.later(1)
    assert node.count(EventName.PUBLICATION_FAILED) == 1


async def test_running_publication_follows_the_bus_and_ends_when_it_is_cancelled(world):
    """The loop publishes a change soon after it, without a failure of the place ending it."""
    node = world.node()
    node.place.away = True
    running = asyncio.create_task(node.publication.run())
    try:
        await world.clock.armed(within=0.2)
        node.place.away = False
        world.clock.advance(0.2)
        await world.clock.armed(within=1.0, beyond=0.2)
        world.clock.advance(1.0)
        await world.clock.armed(within=0.2)
        assert world.kids() == {kid(1)}
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


# --- several nodes -----------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["versions", "read", "put"])
async def test_paused_node_does_not_bring_an_older_set_back(world, at):
    """F04: wherever a node stood still while others published, what it does afterwards is not older."""
    paused, other = world.node(), world.node()
    await other.settle()
    await world.add(2)
    gate = paused.place.pause_before(at)
    late = asyncio.create_task(paused.round())
    await paused.place.reached.wait()
    await world.add(3)
    await world.change(revoke(await world.ring(), 1))
    await other.later(1)
    assert world.kids() == {kid(2), kid(3)}
    gate.set()
    await late
    assert world.kids() == {kid(2), kid(3)}
    await paused.later(2)
    assert world.kids() == {kid(2), kid(3)}


SCHEDULES = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12)), min_size=4, max_size=24)
"""Which node goes on, and how many steps; the one after the last is the ring, which changes."""


@given(SCHEDULES)
def test_place_never_goes_back(schedule):
    """F03, F04: however the steps of three nodes interleave with changes, the set at the place only gets
    newer, and once all are done it is the ring's."""
    asyncio.run(interleave(schedule))


async def interleave(schedule: list[tuple[int, int]]) -> None:
    world = World()
    await world.store.open()
    await world.add(1)
    await world.node().settle()
    places = [Stepped(MemoryPublisher(world.entries)) for _ in range(3)]
    publications = [stepped(world, place) for place in places]
    rounds = [asyncio.ensure_future(asyncio.sleep(0)) for _ in places]
    order = {world.entries[JWKS].body: 0}
    newest, added = 0, 1
    for who, steps in schedule:
        if who == len(places):
            added += 1
            await world.add(added)
            order[document.jwks(await world.ring(), max_age=TIMING.jwks_max_age).body] = added
            continue
        for _ in range(steps):
            if rounds[who].done():
                await rounds[who]
                world.clock.advance(31)
                rounds[who] = asyncio.ensure_future(publications[who].round())
            await places[who].step(rounds[who])
            at = order[world.entries[JWKS].body]
            assert at >= newest
            newest = at
    for place, running in zip(places, rounds, strict=True):
        while not running.done():
            await place.step(running)
        await running
        assert order[world.entries[JWKS].body] >= newest
    for _ in range(6):
        await world.node().settle()
    assert world.entries[JWKS].body == document.jwks(await world.ring(), max_age=TIMING.jwks_max_age).body
    await world.store.close()


class Stepped:
    """A place, and the ring's store, that do one thing each time a test says so."""

    def __init__(self, inner: MemoryPublisher) -> None:
        self.inner = inner
        self.place: Final = "memory:"
        self._turns = asyncio.Semaphore(0)
        self._waiting = asyncio.Event()

    async def step(self, running: "asyncio.Future[None]") -> None:
        """Let one operation happen, and wait until the next one is about to, or none is left."""
        self._waiting.clear()
        self._turns.release()
        waiting = asyncio.ensure_future(self._waiting.wait())
        pending: set[asyncio.Future[Any]] = {waiting, running}
        await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            self._turns = asyncio.Semaphore(0)

    async def turn(self) -> None:
        self._waiting.set()
        await self._turns.acquire()

    async def read(self, name: str) -> Found | None:
        await self.turn()
        return await self.inner.read(name)

    async def versions(self, folder: str) -> Mapping[str, Version]:
        await self.turn()
        return await self.inner.versions(folder)

    async def put(self, name: str, entry: Entry, *, over: Version | None) -> bool:
        await self.turn()
        return await self.inner.put(name, entry, over=over)

    async def delete(self, name: str) -> None:
        await self.turn()
        await self.inner.delete(name)

    async def close(self) -> None:
        await self.inner.close()


class SteppedStore:
    """A ring's store whose reads wait for their turn."""

    def __init__(self, world: World, place: Stepped) -> None:
        self._inner = world.store.keyring
        self._place = place

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    async def read(self, issuer: Issuer) -> RingView:
        await self._place.turn()
        return await self._inner.read(issuer)


def stepped(world: World, place: Stepped) -> Publication:
    """A node's publication, of which each look, read and write is a step."""
    store = cast("KeyRingStore", SteppedStore(world, place))
    return Publication(
        ISSUER, place=place, metadata=metadata_of, store=store, clock=world.clock,
        bus=MemoryBus(clock=world.clock), timing=TIMING, audit=Audit(),
    )  # fmt: skip


# --- a place that ignores conditions -------------------------------------------------------------


async def test_probe_tells_whether_conditions_are_honoured(world):
    """A place that takes what should be refused is reported once; one that refuses is not."""
    honest, silent = world.node(), world.node()
    silent.place.conditions = False
    for node, events in ((honest, 0), (silent, 1)):
        for _ in range(4):
            await node.settle()
        assert node.count(EventName.PUBLICATION_UNFENCED) == events


async def test_probe_changes_nothing(world):
    """What the probe writes where it may is what was there already."""
    node = world.node()
    await node.round()
    before = {name: found.body for name, found in world.entries.items()}
    node.place.conditions = False
    await node.settle()
    assert {name: found.body for name, found in world.entries.items()} == before


async def test_late_write_to_a_place_without_conditions_is_repaired_soon(world):
    """Where a paused node's write is taken, one that lives finds the older set and writes the newer one."""
    paused, other = world.node(), world.node()
    paused.place.conditions = other.place.conditions = False
    await other.settle()
    await world.add(2)
    gate = paused.place.pause_before("put")
    late = asyncio.create_task(paused.round())
    await paused.place.reached.wait()
    await world.change(revoke(await world.ring(), 1))
    await other.later(1)
    assert world.kids() == {kid(2)}
    gate.set()
    await late
    assert kid(1) in world.kids()
    await other.later(LOOK_UNFENCED_EVERY)
    assert world.kids() == {kid(2)}
    assert other.count(EventName.PUBLICATION_OVERWRITTEN) == 1


# --- reading back ------------------------------------------------------------------------------


class Elsewhere:
    """What the other reader would find."""

    async def kids(self, url: str) -> frozenset[Kid]:
        return frozenset({kid(9)})


async def test_key_is_read_back_from_the_place_itself(world):
    """3.3: the reader answers a place's URL with what is there now, and other URLs as before."""
    place = Place(MemoryPublisher(world.entries))
    reader = PlaceReader(Elsewhere(), [place], ISSUER)
    assert await reader.kids("https://auth.example.com/x") == {kid(9)}
    assert await reader.kids(place.place) == frozenset()
    await world.node().round()
    assert await reader.kids(place.place) == {kid(1)}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"keys":{}}', b"\xff"])
async def test_place_that_holds_no_key_set_proves_nothing(world, body):
    """F32: a truncated or foreign object under the set's name is a failed proof, and so is an outage."""
    place = Place(MemoryPublisher(world.entries))
    reader = PlaceReader(Elsewhere(), [place], ISSUER)
    world.entries[JWKS] = Found(body, Version("x"), None)
    with pytest.raises(ProofFailed):
        await reader.kids(place.place)
    place.away = True
    with pytest.raises(ProofFailed, match="no answer"):
        await reader.kids(place.place)
