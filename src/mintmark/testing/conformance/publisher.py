"""The clauses of :mod:`mintmark.ports.publisher`, one test each; every place runs all of them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from mintmark.ports.publisher import LARGEST, Entry, Headers, PublicationFailed, Publisher, Version

SHORT = Headers("application/json; charset=utf-8", "public, max-age=5")
LONG = Headers("application/json; charset=utf-8", "public, max-age=300")

RACERS = 12

OUTSIDE = (
    "",
    "/",
    "/etc/passwd",
    "../up.json",
    "keys/../../up.json",
    "keys/./x.json",
    "keys//x.json",
    "keys/",
    "keys/x y.json",
    "keys/x%2e.json",
    "keys/x\0.json",
    "keys\\x.json",
    "keys/é.json",
    "k" * 201,
)


@dataclass
class PublisherRig:
    """An empty place, other processes' sight of it, and a place like it that does not answer."""

    publisher: Publisher
    peer: Callable[[], Publisher]
    keeps_headers: bool
    away: Publisher | None
    """None where nothing can be away, because it is memory."""
    spoil: Callable[[str, bytes], None] | None
    """Write under a name as somebody else would; None where nobody else can."""
    decides_races: bool = True
    """Whether the server behind it was made to: a stand-in may compare and write in two steps."""


def entry(body: bytes, headers: Headers = SHORT) -> Entry:
    return Entry(body, headers)


async def version_of(publisher: Publisher, name: str) -> Version:
    found = await publisher.read(name)
    assert found is not None
    return found.version


async def race(rig: PublisherRig, name: str, over: Version | None) -> None:
    """Of as many puts as there are racers, which all expect ``over``, one is taken and stays."""
    if not rig.decides_races:
        pytest.skip("this server compares and writes in two steps")
    racers = [rig.peer() for _ in range(RACERS)]
    unknown = set[bytes]()

    async def put(number: int) -> bytes | None:
        body = b"racer %d" % number
        try:
            return body if await racers[number].put(name, entry(body), over=over) else None
        except PublicationFailed:
            # A server may give up under such a race, and what it did before is not known.
            unknown.add(body)
            return None

    taken = {body for body in await asyncio.gather(*map(put, range(RACERS))) if body is not None}
    found = await rig.publisher.read(name)
    assert found is not None
    assert found.version != over
    assert taken == {found.body} or (not taken and found.body in unknown)


class PublisherConformance:
    """PUB-1 to PUB-7."""

    async def test_what_was_put_is_read(self, rig: PublisherRig) -> None:
        """PUB-1: bytes and headers come back as they were, at once, here and elsewhere; absent is None."""
        assert await rig.publisher.read("keys/a.json") is None
        for number, body in enumerate((b"{}", b'{"keys":[]}', b"", bytes(range(256)) * 200)):
            name = f"keys/{number}.json"
            assert await rig.publisher.put(name, entry(body), over=None)
            for reader in (rig.publisher, rig.peer()):
                found = await reader.read(name)
                assert found is not None
                assert found.body == body
                assert found.headers == (SHORT if rig.keeps_headers else None)
                assert found.is_copy_of(entry(body))
                assert not found.is_copy_of(entry(body + b" "))

    async def test_headers_are_replaced_with_the_entry(self, rig: PublisherRig) -> None:
        """PUB-1, K5: the same bytes with a shorter max-age are another entry, where headers are kept."""
        name = ".well-known/jwks.json"
        assert await rig.publisher.put(name, entry(b"{}", LONG), over=None)
        before = await rig.publisher.read(name)
        assert before is not None
        assert before.is_copy_of(entry(b"{}", SHORT)) is not rig.keeps_headers
        assert await rig.publisher.put(name, entry(b"{}", SHORT), over=before.version)
        after = await rig.publisher.read(name)
        assert after is not None
        assert after.is_copy_of(entry(b"{}", SHORT))

    async def test_entry_is_whole_at_any_time(self, rig: PublisherRig) -> None:
        """PUB-2, F32: a reader during puts finds one of the entries, never a part of one, never none."""
        bodies = (b"a" * 60_000, b"b" * 40_000)
        name = "keys/whole.json"
        assert await rig.publisher.put(name, entry(bodies[0]), over=None)
        readers = [rig.peer() for _ in range(4)]
        for number in range(1, 20):
            over = await version_of(rig.publisher, name)
            put = asyncio.ensure_future(rig.publisher.put(name, entry(bodies[number % 2]), over=over))
            for found in await asyncio.gather(*(reader.read(name) for reader in readers)):
                assert found is not None
                assert found.body in bodies
            assert await put

    async def test_one_creation_wins(self, rig: PublisherRig) -> None:
        """PUB-3: of puts that expect nothing there, at once and from anywhere, one is taken."""
        await race(rig, "keys/race.json", None)

    async def test_one_replacement_wins(self, rig: PublisherRig) -> None:
        """PUB-3: of puts that expect one version one is taken, and the version is another one then."""
        assert await rig.publisher.put("keys/race.json", entry(b"first"), over=None)
        await race(rig, "keys/race.json", await version_of(rig.publisher, "keys/race.json"))

    async def test_late_put_changes_nothing(self, rig: PublisherRig) -> None:
        """PUB-3, F04: who expects what is no longer so, or what never was, is not taken, and does no harm."""
        put, name = rig.publisher.put, "keys/late.json"
        assert await put(name, entry(b"one"), over=None)
        one = await version_of(rig.publisher, name)
        assert not await put(name, entry(b"late"), over=None)
        assert await put(name, entry(b"two"), over=one)
        assert not await put(name, entry(b"late"), over=one)
        assert not await put("keys/other.json", entry(b"late"), over=one)
        found = await rig.publisher.read(name)
        assert found is not None
        assert found.body == b"two"
        assert await rig.publisher.read("keys/other.json") is None

    async def test_versions_are_those_of_the_entries_in_the_folder(self, rig: PublisherRig) -> None:
        """PUB-4: every entry that is directly in a folder is listed under its name, and no other."""
        assert await rig.publisher.versions("keys") == {}
        for name in ("keys/a.json", "keys/b.json", "keys/deeper/c.json", "keysets/d.json", "e.json"):
            assert await rig.publisher.put(name, entry(name.encode()), over=None)
        expected = {name: await version_of(rig.publisher, name) for name in ("keys/a.json", "keys/b.json")}
        assert await rig.publisher.versions("keys") == expected
        assert await rig.peer().versions("keys") == expected
        assert set(await rig.publisher.versions("keys/deeper")) == {"keys/deeper/c.json"}

    async def test_deleted_is_gone(self, rig: PublisherRig) -> None:
        """PUB-5: a deleted entry is neither read nor listed, may be deleted again, and may come back."""
        for name in ("keys/a.json", "keys/b.json"):
            assert await rig.publisher.put(name, entry(b"x"), over=None)
        for _ in range(2):
            await rig.publisher.delete("keys/a.json")
            assert await rig.peer().read("keys/a.json") is None
            assert set(await rig.publisher.versions("keys")) == {"keys/b.json"}
        await rig.publisher.delete("nowhere/at-all.json")
        assert await rig.publisher.put("keys/a.json", entry(b"y"), over=None)

    @pytest.mark.parametrize("name", OUTSIDE)
    async def test_name_leads_nowhere_else(self, rig: PublisherRig, name: str) -> None:
        """PUB-6: a name that is no path of plain segments is refused by every operation."""
        for operation in (
            lambda: rig.publisher.read(name),
            lambda: rig.publisher.versions(name),
            lambda: rig.publisher.put(name, entry(b"x"), over=None),
            lambda: rig.publisher.delete(name),
        ):
            with pytest.raises(ValueError, match="plain segments"):
                await operation()

    async def test_place_that_is_away_is_a_failure(self, rig: PublisherRig) -> None:
        """PUB-7: every operation on a place that is not there fails with its name, and nothing foreign."""
        away = rig.away
        if away is None:
            return
        for operation in (
            lambda: away.read("keys/a.json"),
            lambda: away.versions("keys"),
            lambda: away.put("keys/a.json", entry(b"x"), over=None),
            lambda: away.delete("keys/a.json"),
        ):
            with pytest.raises(PublicationFailed) as raised:
                await operation()
            assert away.place in str(raised.value)

    async def test_what_is_too_large_to_be_ours_is_not_read(self, rig: PublisherRig) -> None:
        """PUB-7: somebody else's large object under our name is a failure, and not memory that is gone."""
        if rig.spoil is None:
            return
        rig.spoil("keys/large.json", bytes(LARGEST + 1))
        with pytest.raises(PublicationFailed):
            await rig.publisher.read("keys/large.json")

    async def test_closing_twice_is_closing(self, rig: PublisherRig) -> None:
        """PUB-7: a place that was closed may be closed again."""
        publisher = rig.peer()
        await publisher.close()
        await publisher.close()
