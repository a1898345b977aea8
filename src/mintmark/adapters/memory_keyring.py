"""Keys, heartbeats and timing settings in memory."""

from dataclasses import replace

from mintmark.adapters.memory_data import Events, Shared
from mintmark.core.key import Key, KeyMode
from mintmark.core.keyring import Member, Ring
from mintmark.ports.keyring import FORGOTTEN_AFTER, RejectedRow, RingView, RowKind, StoredTiming
from mintmark.units import Issuer, NodeId, NumericDate


class MemoryKeyRing:
    """:class:`mintmark.ports.keyring.KeyRingStore` in memory."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._data = shared.data

    async def read(self, issuer: Issuer) -> RingView:
        """The ring as it is."""
        async with self._shared.transaction() as now:
            members = [member for (of, _), member in self._data.members.items() if of == issuer]
            members.sort(key=lambda member: member.node)
            strange = [member for member in members if not self._is_ours(issuer, member.node)]
            ring = self._ring(issuer)
            rejected = [RejectedRow(RowKind.NODE, member.node, member.seen_at) for member in strange]
            if not self._is_ours(issuer, None):
                keys = [RejectedRow(RowKind.KEY, key.kid) for key in ring.keys]
                rejected = [RejectedRow(RowKind.RING, issuer), *keys, *rejected]
                ring = Ring(issuer=issuer, generation=ring.generation)
            return RingView(
                ring,
                tuple(member for member in members if member not in strange),
                now,
                tuple(rejected),
                self._shared.marks.key is None
                and any(key is not None for (of, _), key in self._data.keys.items() if of == issuer),
            )

    def _is_ours(self, issuer: Issuer, node: NodeId | None) -> bool:
        marks, row = self._shared.marks, (issuer, node)
        if marks.key is None or row not in self._data.keys:
            return True
        written = self._data.keys[row]
        return marks.unmarked if written is None else written in {marks.key, *marks.also}

    def _ring(self, issuer: Issuer) -> Ring:
        return self._data.rings.get(issuer) or Ring(issuer=issuer)

    async def swap(self, expected: int, ring: Ring, *, events: Events = ()) -> bool:
        """Whether ``ring`` was taken in place of generation ``expected``, its events with it."""
        if ring.generation <= expected:
            raise ValueError("a ring that replaces another has a later generation")
        async with self._shared.transaction() as now:
            before = self._ring(ring.issuer)
            if before.generation != expected:
                return False
            if not self._is_ours(ring.issuer, None):
                before = Ring(issuer=ring.issuer)
            keys = tuple(_raised(key, before.find(key.kid)) for key in ring.keys)
            self._data.rings[ring.issuer] = replace(ring, keys=keys)
            self._data.keys[ring.issuer, None] = self._shared.marks.key
            for row in [row for row in self._data.members if row[0] == ring.issuer]:
                if not self._is_ours(*row):
                    del self._data.members[row]
                    del self._data.keys[row]
            self._shared.append(ring.issuer, events, at=now)
            return True

    async def beat(
        self,
        issuer: Issuer,
        node: NodeId,
        *,
        ring_generation: int,
        address: str = "",
        certificate: bytes = b"",
        modes: frozenset[KeyMode] = frozenset({KeyMode.OWN}),
    ) -> NumericDate:
        """Write the heartbeat row of ``node``; the store's time that it now carries."""
        async with self._shared.transaction() as now:
            members = self._data.members
            if (issuer, node) not in members:
                old = [k for k, m in members.items() if k[0] == issuer and m.seen_at + FORGOTTEN_AFTER <= now]
                for key in old:
                    del members[key]
                    self._data.keys.pop(key, None)
            self._data.keys[issuer, node] = self._shared.marks.key
            members[issuer, node] = Member(node, now, ring_generation, address, certificate, modes)
            return now

    async def leave(self, issuer: Issuer, node: NodeId) -> None:
        """Remove the heartbeat row."""
        async with self._shared.transaction():
            self._data.members.pop((issuer, node), None)
            self._data.keys.pop((issuer, node), None)

    async def timing(self, issuer: Issuer) -> StoredTiming | None:
        """The timing settings that the nodes of this issuer share."""
        async with self._shared.transaction():
            return self._data.timings.get(issuer)

    async def swap_timing(self, issuer: Issuer, *, expected: int, document: bytes) -> bool:
        """Whether ``document`` was taken in place of generation ``expected`` (0: there was none)."""
        async with self._shared.transaction():
            before = self._data.timings.get(issuer)
            if (before.generation if before else 0) != expected:
                return False
            self._data.timings[issuer] = StoredTiming(document, expected + 1)
            return True


def _raised(key: Key, before: Key | None) -> Key:
    until = key.publish_until if before is None else max(key.publish_until, before.publish_until)
    return replace(key, publish_until=until)
