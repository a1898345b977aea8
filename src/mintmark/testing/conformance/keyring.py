"""The clauses of :mod:`mintmark.ports.keyring`, one test each; every store runs all of them."""

import asyncio
from dataclasses import replace

import pytest

from mintmark.core.algorithm import Algorithm
from mintmark.core.key import Activation, KeyKind, KeyMode, KeyState
from mintmark.core.keyring import Member, Ring
from mintmark.core.mark import MarkKey, Marks
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.ports.keyring import FORGOTTEN_AFTER, RejectedRow, RingView, RowKind, StoredTiming
from mintmark.testing.conformance.rig import ISSUER, OTHER, Rig, read_log
from mintmark.units import NodeId, NumericDate

_NODE = NodeId("node-1")
_KEY = MarkKey.from_bytes(bytes(32))
_OTHER_KEY = MarkKey.from_bytes(bytes(31) + b"1")


class KeyRingConformance:
    """RING-1 to RING-8."""

    async def test_of_swaps_of_one_generation_one_is_taken(self, rig: Rig) -> None:
        """RING-1, F03: of twenty nodes that rotate at once one wins, and the ring is the winner's."""
        stores = [rig.store, await rig.peer()]
        for generation in (0, 1, 2):
            rings = [
                Ring(issuer=ISSUER, generation=generation + 1, keys=(rig.key(f"{generation}-{number}"),))
                for number in range(20)
            ]
            swaps = (stores[number % 2].keyring.swap(generation, ring) for number, ring in enumerate(rings))
            taken = await asyncio.gather(*swaps)
            assert taken.count(True) == 1
            view = await stores[0].keyring.read(ISSUER)
            assert view.ring == rings[taken.index(True)]

    async def test_swap_of_another_generation_is_not_taken(self, rig: Rig) -> None:
        """RING-1, F04: a node that slept through two rotations changes nothing, nor one that is ahead."""
        first = Ring(issuer=ISSUER, generation=1)
        assert await rig.store.keyring.swap(0, first)
        assert not await rig.store.keyring.swap(0, Ring(issuer=ISSUER, generation=5))
        assert not await rig.store.keyring.swap(4, Ring(issuer=ISSUER, generation=5))
        assert (await rig.store.keyring.read(ISSUER)).ring == first

    async def test_swap_must_raise_the_generation(self, rig: Rig) -> None:
        """RING-1: a ring under the number of the one that it replaces would be two rings of one name."""
        await rig.store.keyring.swap(0, Ring(issuer=ISSUER, generation=1))
        with pytest.raises(ValueError, match="generation"):
            await rig.store.keyring.swap(1, Ring(issuer=ISSUER, generation=1))

    async def test_swap_is_whole_with_its_events(self, rig: Rig) -> None:
        """RING-2: the winner's events are on the log, the losers' are not, nor are their keys."""
        stores = [rig.store, await rig.peer()]
        until = NumericDate(rig.clock.now() + 1_000)
        events = [
            (
                RevocationEvent(kind=Kind.KID, value=f"a-{n}", expires_at=until),
                RevocationEvent(kind=Kind.KID, value=f"b-{n}", expires_at=until),
            )
            for n in range(10)
        ]
        taken = await asyncio.gather(
            *(
                stores[n % 2].keyring.swap(
                    0,
                    Ring(issuer=ISSUER, generation=1, keys=(rig.key(f"key-{n}"),)),
                    events=((events[n][0], "key_revoked"), (events[n][1], "key_revoked")),
                )
                for n in range(10)
            )
        )
        winner = taken.index(True)
        log = await read_log(rig.store)
        assert tuple(entry.event for entry in log) == events[winner]
        assert {entry.cause for entry in log} == {"key_revoked"}
        assert [key.kid for key in (await rig.store.keyring.read(ISSUER)).ring.keys] == [f"key-{winner}"]

    async def test_ring_is_read_as_it_was_written(self, rig: Rig) -> None:
        """RING-3: every field of every key comes back, in the order of the ring."""
        now = rig.clock.now()
        signing = replace(
            rig.key("z"),
            state=KeyState.ACTIVE,
            proven_at=now,
            activated_at=now,
            activation=Activation.PROVEN,
            sign_until=NumericDate(now + 10),
            publish_until=NumericDate(now + 20),
        )
        revoked = replace(
            rig.key("a", node="node-2"), state=KeyState.REVOKED, revoked_at=now, reason="lost laptop"
        )
        shared = replace(rig.key("s"), mode=KeyMode.SHARED, sealed=bytes(range(256)), held=True)
        token = replace(rig.key("h"), mode=KeyMode.HSM)
        kind = KeyKind(KeyMode.HSM, Algorithm.PS256)
        ring = Ring(
            issuer=ISSUER,
            generation=3,
            keys=(signing, revoked, rig.key("m"), shared, token),
            rotate_requested_at=now,
            kind=kind,
        )
        assert await rig.store.keyring.swap(0, ring)
        assert (await rig.store.keyring.read(ISSUER)).ring == ring
        opened = replace(shared, sealed=None, held=False)
        shorter = Ring(
            issuer=ISSUER, generation=9, keys=(revoked, opened), kind=replace(kind, alg=Algorithm.EDDSA)
        )
        assert await rig.store.keyring.swap(3, shorter)
        assert (await (await rig.peer()).keyring.read(ISSUER)).ring == shorter
        kindless = Ring(issuer=ISSUER, generation=10)
        assert await rig.store.keyring.swap(9, kindless)
        assert (await rig.store.keyring.read(ISSUER)).ring == kindless

    async def test_read_shows_one_generation(self, rig: Rig) -> None:
        """RING-3: while a peer swaps, a reader sees each generation with its own keys and no others."""
        peer = await rig.peer()

        async def write() -> None:
            for generation in range(30):
                keys = tuple(rig.key(f"{generation + 1}-{n}") for n in range(3))
                ring = Ring(issuer=ISSUER, generation=generation + 1, keys=keys)
                assert await peer.keyring.swap(generation, ring)

        writing = asyncio.ensure_future(write())
        seen = []
        while not writing.done():
            ring = (await rig.store.keyring.read(ISSUER)).ring
            assert {key.kid.partition("-")[0] for key in ring.keys} <= {str(ring.generation)}
            assert len(ring.keys) in {0, 3}
            seen.append(ring.generation)
        await writing
        assert seen == sorted(seen)

    async def test_issuer_without_a_ring_reads_as_empty(self, rig: Rig) -> None:
        """RING-4: reading what was never written gives generation 0, no key and no node."""
        now = rig.clock.now()
        assert await rig.store.keyring.read(ISSUER) == RingView(Ring(issuer=ISSUER), (), now)

    async def test_heartbeat_carries_the_stores_time(self, rig: Rig) -> None:
        """RING-5: a beat moves the time and the generation of its node alone; leaving removes it alone."""
        store, start = rig.store.keyring, rig.clock.now()
        other = NodeId("node-2")
        assert await store.beat(ISSUER, _NODE, ring_generation=1) == start
        await store.beat(ISSUER, other, ring_generation=1)
        rig.clock.advance(5)
        assert await store.beat(ISSUER, _NODE, ring_generation=2) == start + 5
        members = (await store.read(ISSUER)).members
        assert [(m.node, m.seen_at - start, m.ring_generation) for m in members] == [
            (_NODE, 5, 2),
            (other, 0, 1),
        ]
        await store.leave(ISSUER, _NODE)
        await store.leave(ISSUER, _NODE)
        assert [member.node for member in (await store.read(ISSUER)).members] == [other]

    async def test_heartbeat_says_where_a_node_is_and_what_it_can(self, rig: Rig) -> None:
        """RING-5: address, certificate and modes are those of the newest beat."""
        store, now = rig.store.keyring, rig.clock.now()
        everything = frozenset(KeyMode)
        await store.beat(
            ISSUER,
            _NODE,
            ring_generation=1,
            address="10.0.0.1:9",
            certificate=bytes(range(256)),
            modes=everything,
        )
        await store.beat(ISSUER, NodeId("node-2"), ring_generation=1)
        plain = Member(NodeId("node-2"), now, 1)
        first = Member(_NODE, now, 1, "10.0.0.1:9", bytes(range(256)), everything)
        assert (await store.read(ISSUER)).members == (first, plain)
        only = frozenset({KeyMode.HSM})
        await store.beat(
            ISSUER, _NODE, ring_generation=2, address="[::1]:7", certificate=b"other", modes=only
        )
        second = Member(_NODE, now, 2, "[::1]:7", b"other", only)
        assert (await store.read(ISSUER)).members == (second, plain)
        await store.beat(ISSUER, _NODE, ring_generation=2, modes=frozenset())
        assert (await store.read(ISSUER)).members == (Member(_NODE, now, 2, modes=frozenset()), plain)

    async def test_node_that_died_long_ago_is_forgotten(self, rig: Rig) -> None:
        """RING-5: rows of nodes that crashed do not pile up, and younger ones stay."""
        await rig.store.keyring.beat(ISSUER, NodeId("crashed"), ring_generation=1)
        await rig.store.keyring.beat(OTHER, NodeId("elsewhere"), ring_generation=1)
        rig.clock.advance(FORGOTTEN_AFTER - 1)
        await rig.store.keyring.beat(ISSUER, NodeId("second"), ring_generation=1)
        assert len((await rig.store.keyring.read(ISSUER)).members) == 2
        rig.clock.advance(1)
        await rig.store.keyring.beat(ISSUER, NodeId("third"), ring_generation=1)
        nodes = [member.node for member in (await rig.store.keyring.read(ISSUER)).members]
        assert nodes == ["second", "third"]
        assert len((await rig.store.keyring.read(OTHER)).members) == 1

    async def test_of_first_writers_of_the_timing_one_is_taken(self, rig: Rig) -> None:
        """RING-6: ten nodes that start at once agree on one set of settings; later ones are swapped."""
        stores = [rig.store, await rig.peer()]
        documents = [b'{"n":%d}' % n for n in range(10)]
        taken = await asyncio.gather(
            *(
                stores[n % 2].keyring.swap_timing(ISSUER, expected=0, document=document)
                for n, document in enumerate(documents)
            )
        )
        assert taken.count(True) == 1
        for store in stores:
            first = await store.keyring.timing(ISSUER)
            assert first == StoredTiming(documents[taken.index(True)], 1)
        assert not await stores[0].keyring.swap_timing(ISSUER, expected=2, document=b"{}")
        assert await stores[0].keyring.swap_timing(ISSUER, expected=1, document=b"{}")
        assert await stores[1].keyring.timing(ISSUER) == StoredTiming(b"{}", 2)

    async def test_publish_until_is_never_lowered(self, rig: Rig) -> None:
        """RING-7, K2: a node that swaps in an older idea of a key cannot shorten what verifiers were told."""
        key = replace(rig.key("kid"), publish_until=NumericDate(2_000_000_000))
        await rig.store.keyring.swap(0, Ring(issuer=ISSUER, generation=1, keys=(key,)))
        lowered = replace(key, publish_until=NumericDate(1_900_000_000))
        fresh = replace(rig.key("new"), publish_until=NumericDate(1_900_000_000))
        assert await rig.store.keyring.swap(1, Ring(issuer=ISSUER, generation=2, keys=(lowered, fresh)))
        kept = (await rig.store.keyring.read(ISSUER)).ring.keys
        assert [found.publish_until for found in kept] == [2_000_000_000, 1_900_000_000]

    async def test_what_was_written_without_the_clusters_key_is_not_there(self, rig: Rig) -> None:
        """RING-8: neither what nobody marked nor what another key marked; and a swap takes its place."""
        now = rig.clock.now()
        kind = KeyKind(KeyMode.OWN, Algorithm.ES256)
        ring = Ring(issuer=ISSUER, generation=7, keys=(rig.key("a"),), rotate_requested_at=now, kind=kind)
        for others in (Marks(), Marks(key=_OTHER_KEY)):
            stranger = await rig.keyed(others)
            generation = (await stranger.keyring.read(ISSUER)).ring.generation
            there = replace(
                ring,
                generation=generation + 1,
                keys=(replace(rig.key("a"), publish_until=NumericDate(now + 10**6)), rig.key("b")),
            )
            assert await stranger.keyring.swap(generation, there)
            assert await stranger.keyring.beat(ISSUER, _NODE, ring_generation=1) == now
            ours = await rig.keyed(Marks(key=_KEY))
            view = await ours.keyring.read(ISSUER)
            assert view == RingView(
                Ring(issuer=ISSUER, generation=generation + 1),
                (),
                now,
                (
                    RejectedRow(RowKind.RING, ISSUER),
                    RejectedRow(RowKind.KEY, rig.key("a").kid),
                    RejectedRow(RowKind.KEY, rig.key("b").kid),
                    RejectedRow(RowKind.NODE, _NODE, now),
                ),
            )
            assert not await ours.keyring.swap(0, replace(ring, generation=99))
            own = replace(ring, generation=generation + 2)
            assert await ours.keyring.swap(generation + 1, own)
            assert await ours.keyring.read(ISSUER) == RingView(own, (), now)
            await ours.keyring.beat(ISSUER, _NODE, ring_generation=1)
            mended = await (await rig.keyed(Marks(key=_KEY))).keyring.read(ISSUER)
            assert mended == RingView(own, (Member(_NODE, now, 1),), now)

    async def test_one_key_of_the_cluster_replaces_another(self, rig: Rig) -> None:
        """RING-8: what a second key marked is there where that key is taken, and so is what nobody marked."""
        ring = Ring(issuer=ISSUER, generation=1, keys=(rig.key("a"),))
        assert await rig.store.keyring.swap(0, ring)
        await rig.store.keyring.beat(ISSUER, _NODE, ring_generation=1)
        first = await rig.keyed(Marks(key=_KEY, unmarked=True))
        second = await rig.keyed(Marks(key=_OTHER_KEY, also=(_KEY,)))
        view = await first.keyring.read(ISSUER)
        assert (view.ring, len(view.members), view.rejected, view.unchecked) == (ring, 1, (), False)
        assert len((await second.keyring.read(ISSUER)).rejected) == 3
        ring = replace(ring, generation=2)
        assert await first.keyring.swap(1, ring)
        await first.keyring.beat(ISSUER, _NODE, ring_generation=1)
        for reader in (second, await rig.keyed(Marks(key=_KEY)), rig.store):
            view = await reader.keyring.read(ISSUER)
            unchecked = reader is rig.store
            assert (view.ring, len(view.members), view.rejected, view.unchecked) == (ring, 1, (), unchecked)
        assert (await (await rig.keyed(Marks(key=_OTHER_KEY, unmarked=True))).keyring.read(ISSUER)).rejected
