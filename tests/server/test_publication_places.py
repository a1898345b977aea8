"""Publication on real places: several nodes at a folder and at buckets, and servers that do wrong."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from tests.s3 import BUCKET, S3Server, Unfaithful, environ, unfaithful_server
from tests.server.published import ISSUER, JWKS, TIMING, add, kid, metadata_of, named, revoke

from mintmark.adapters.memory import MemoryStore
from mintmark.adapters.memory_bus import MemoryBus
from mintmark.adapters.registry import make_publisher
from mintmark.core.events import EventName
from mintmark.core.keyring import Ring
from mintmark.ports.proof import ProofFailed
from mintmark.ports.publisher import PublicationFailed, Publisher
from mintmark.server import document
from mintmark.server.audit import Audit
from mintmark.server.publication import PlaceReader, Publication
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.units import Kid


class World:
    """One store and nodes that publish to one place, each with a connection of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock, entropy=SYSTEM_ENTROPY)
        self.places: list[Publisher] = []
        self.audit = Audit()

    def place(self) -> Publisher:
        self.places.append(make_publisher(self.url, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY))
        return self.places[-1]

    def node(self) -> Publication:
        return Publication(
            ISSUER, place=self.place(), metadata=metadata_of, store=self.store.keyring, clock=self.clock,
            bus=MemoryBus(clock=self.clock), timing=TIMING, audit=self.audit,
        )  # fmt: skip

    async def ring(self) -> Ring:
        return (await self.store.keyring.read(ISSUER)).ring

    async def change(self, ring: Ring) -> None:
        assert await self.store.keyring.swap((await self.ring()).generation, ring)

    async def rounds(self, *nodes: Publication, count: int = 1, every: float = 31.0) -> None:
        """Rounds of all nodes at once, far enough apart that none waits because an earlier one failed."""
        for _ in range(count):
            await asyncio.gather(*(node.round() for node in nodes))
            self.clock.advance(every)

    async def close(self) -> None:
        for place in self.places:
            await place.close()
        await self.store.close()


@pytest.fixture
def unfaithful(moto: S3Server) -> Iterator[Unfaithful]:
    """A server that can be told to do wrong."""
    with unfaithful_server(moto) as server:
        yield server


@pytest.fixture(params=["folder", "seaweedfs", "moto", "unfaithful"])
async def world(request, tmp_path, monkeypatch) -> AsyncIterator[World]:
    """Nodes at each kind of place in turn; the last one takes every write."""
    if request.param == "folder":
        made = World(f"file://{tmp_path}")
    else:
        server = request.getfixturevalue(request.param)
        for name, value in environ(server.endpoint).items():
            monkeypatch.setenv(name, value)
        if isinstance(server, Unfaithful):
            server.ignores_conditions = True
        made = World(f"s3://{BUCKET}/{new_prefix(request)}")
    await made.store.open()
    yield made
    await made.close()


def new_prefix(request: pytest.FixtureRequest) -> str:
    """A prefix that nobody has used, on whichever server."""
    name = "moto" if request.param == "unfaithful" else request.param
    return str(request.getfixturevalue(name).new_prefix())


async def test_nodes_that_publish_at_once_leave_what_the_ring_says(world, request):
    """F03: three nodes follow a ring that changes, all at the same time; in the end the place is as the ring
    is, a key that was revoked is nowhere, and whether the place honours conditions was found out."""
    nodes = [world.node() for _ in range(3)]
    for number in range(6):
        await world.change(add(await world.ring(), number))
        await world.rounds(*nodes)
    await world.change(revoke(await world.ring(), 2))
    place = world.place()
    expected = document.jwks(await world.ring(), max_age=TIMING.jwks_max_age).body

    left = {named(number) for number in (0, 1, 3, 4, 5)}

    async def all_know() -> bool:
        await world.rounds(*nodes, every=61)
        with contextlib.suppress(PublicationFailed):
            found = await place.read(JWKS)
            names = set(await place.versions("keys"))
            known = all(node._fenced is not None for node in nodes)
            return known and found is not None and found.body == expected and names == left
        return False

    await until(all_know)
    takes_everything = "unfaithful" in request.node.callspec.id
    assert world.audit.counts[EventName.PUBLICATION_UNFENCED] == (3 if takes_everything else 0)


@pytest.fixture
async def fooled(unfaithful, moto, monkeypatch) -> AsyncIterator[World]:
    """A node's place on a server that begins to do wrong once the first key is published."""
    for name, value in environ(unfaithful.endpoint).items():
        monkeypatch.setenv(name, value)
    made = World(f"s3://{BUCKET}/{moto.new_prefix()}")
    await made.store.open()
    await made.change(add(await made.ring(), 1))
    yield made
    await made.close()


class Nowhere:
    """No other reader is asked."""

    async def kids(self, url: str) -> frozenset[Kid]:
        raise ProofFailed(url)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again until it is so: a server on a busy machine may be too late for any one call."""
    async with asyncio.timeout(60):
        while not await condition():
            # Each look is a call to a server, which lets others run.
            pass


async def lists(world: World, reader: PlaceReader, *numbers: int) -> None:
    """Wait until just these keys are read back from the place."""

    async def listed() -> bool:
        with contextlib.suppress(ProofFailed):
            return await reader.kids(world.url) == {kid(number) for number in numbers}
        return False

    await until(listed)


async def publishes(world: World, node: Publication, reader: PlaceReader, *numbers: int) -> None:
    """Rounds of a node until just these keys are read back."""

    async def published() -> bool:
        await world.rounds(node)
        with contextlib.suppress(ProofFailed):
            return await reader.kids(world.url) == {kid(number) for number in numbers}
        return False

    await until(published)


async def test_truncated_object_proves_nothing(fooled, unfaithful):
    """F32: half of a key set is a failed proof, and the next whole one is read."""
    reader = PlaceReader(Nowhere(), [fooled.place()], ISSUER)
    await publishes(fooled, fooled.node(), reader, 1)
    unfaithful.truncates = True
    with pytest.raises(ProofFailed):
        await reader.kids(fooled.url)
    unfaithful.truncates = False
    await lists(fooled, reader, 1)


async def test_stale_read_brings_nothing_back(fooled, unfaithful, moto, monkeypatch):
    """F32: a node that is shown an older object writes nothing over the newer one, proves nothing by it, and
    publishes as soon as it is shown the truth."""
    misled, reader = fooled.node(), PlaceReader(Nowhere(), [fooled.place()], ISSUER)
    await publishes(fooled, misled, reader, 1)
    # Other nodes see what is there.
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint)
    other, truth = fooled.node(), PlaceReader(Nowhere(), [fooled.place()], ISSUER)
    unfaithful.stale = True
    await fooled.change(add(await fooled.ring(), 2))
    await publishes(fooled, other, truth, 1, 2)
    await fooled.rounds(misled)
    await lists(fooled, reader, 1)
    await fooled.change(add(await fooled.ring(), 3))
    await fooled.rounds(misled, count=3)
    await lists(fooled, reader, 1)
    await lists(fooled, truth, 1, 2)
    unfaithful.stale = False
    await publishes(fooled, misled, reader, 1, 2, 3)


async def test_wrong_versions_are_an_alarm(fooled, unfaithful):
    """F32: a server that tells wrong versions refuses every write, which is said after a while; what is there
    stays, and nothing is taken for published."""
    node, reader = fooled.node(), PlaceReader(Nowhere(), [fooled.place()], ISSUER)
    await publishes(fooled, node, reader, 1)
    updates = fooled.audit.counts[EventName.PUBLICATION_UPDATED]
    unfaithful.wrong_versions = True
    await fooled.change(add(await fooled.ring(), 2))
    await fooled.rounds(node, count=3)
    assert fooled.audit.counts[EventName.PUBLICATION_FAILED] > 0
    assert fooled.audit.counts[EventName.PUBLICATION_UPDATED] == updates
    await lists(fooled, reader, 1)
    unfaithful.wrong_versions = False
    await publishes(fooled, node, reader, 1, 2)
