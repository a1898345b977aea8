"""The key ring, heartbeats and timing settings in SQL."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, delete, insert, select, update

from mintmark.adapters.sql.database import Collision, Database, insert_if_absent
from mintmark.adapters.sql.log import LogRows
from mintmark.adapters.sql.ring_row import (
    Found,
    key_of,
    key_rows,
    kind_of,
    marked,
    member_of,
    member_row,
    ring_row,
)
from mintmark.adapters.sql.schema import key_custody, nodes, ring_keys, rings, timings
from mintmark.core.key import KeyMode
from mintmark.core.keyring import Member, Ring
from mintmark.core.mark import UNMARKED, Marks
from mintmark.core.revocation import RevocationEvent
from mintmark.ports.keyring import FORGOTTEN_AFTER, RejectedRow, RingView, RowKind, StoredTiming
from mintmark.units import Issuer, NodeId, NumericDate

_RING = select(rings).where(rings.c.issuer == bindparam("issuer"))
_KEYS = (
    select(*ring_keys.c, key_custody.c.mode, key_custody.c.sealed, key_custody.c.held)
    .select_from(
        ring_keys.outerjoin(
            key_custody,
            and_(key_custody.c.issuer == ring_keys.c.issuer, key_custody.c.kid == ring_keys.c.kid),
        )
    )
    .where(ring_keys.c.issuer == bindparam("issuer"))
    .order_by(ring_keys.c.position)
)
_MEMBERS = select(nodes).where(nodes.c.issuer == bindparam("issuer")).order_by(nodes.c.node)
_REPLACE_RING = (
    update(rings)
    .where(rings.c.issuer == bindparam("of"), rings.c.generation == bindparam("expected"))
    .values({column: bindparam(f"new_{column.name}") for column in rings.c if not column.primary_key})
)
_REMOVE_KEYS = delete(ring_keys).where(ring_keys.c.issuer == bindparam("of"))
_REMOVE_CUSTODY = delete(key_custody).where(key_custody.c.issuer == bindparam("of"))
_BEAT = (
    update(nodes)
    .where(nodes.c.issuer == bindparam("of"), nodes.c.node == bindparam("which"))
    .values({column: bindparam(f"new_{column.name}") for column in nodes.c if not column.primary_key})
)
_FORGET = delete(nodes).where(nodes.c.issuer == bindparam("of"), nodes.c.seen_at <= bindparam("before"))
_LEAVE = delete(nodes).where(nodes.c.issuer == bindparam("of"), nodes.c.node == bindparam("which"))
_TIMING = select(timings.c.document, timings.c.generation).where(timings.c.issuer == bindparam("issuer"))
_REPLACE_TIMING = (
    update(timings)
    .where(timings.c.issuer == bindparam("of"), timings.c.generation == bindparam("expected"))
    .values(document=bindparam("new_document"), generation=timings.c.generation + 1)
)


def _rows(connection: Connection, statement: Select[Any], issuer: Issuer) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(statement, {"issuer": issuer}).mappings().all()]


def _first(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    return rows[0] if rows else None


def _parted(
    rows: list[dict[str, Any]], is_ours: Callable[[Found], bool]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    ours: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for row in rows:
        (ours if is_ours(row) else others).append(row)
    return ours, others


class RingRows:
    """The statements on the key ring and on what hangs on it."""

    def __init__(self, database: Database, log: LogRows, marks: Marks = UNMARKED) -> None:
        self._time = database.time
        self._log = log
        self._marks = marks

    def read(self, connection: Connection, issuer: Issuer) -> RingView:
        """As the port's."""
        ring = _first(_rows(connection, _RING, issuer))
        keys = _rows(connection, _KEYS, issuer)
        members = _rows(connection, _MEMBERS, issuer)
        taken = ring if ring is not None and self._is_ours(RowKind.RING, ring) else None
        found, strange = _parted(keys, lambda row: self._is_ours(RowKind.KEY, row, ring))
        here, strangers = _parted(members, lambda row: self._is_ours(RowKind.NODE, row))
        return RingView(
            ring=Ring(
                issuer=issuer,
                generation=ring["generation"] if ring else 0,
                keys=tuple(key_of(row) for row in found),
                rotate_requested_at=taken["rotate_requested_at"] if taken else None,
                kind=kind_of(taken) if taken else None,
            ),
            members=tuple(member_of(row) for row in here),
            now=self._time.read(connection),
            rejected=(
                *(RejectedRow(RowKind.RING, issuer) for _ in range(ring is not taken)),
                *(RejectedRow(RowKind.KEY, row["kid"]) for row in strange),
                *(RejectedRow(RowKind.NODE, row["node"], row["seen_at"]) for row in strangers),
            ),
            unchecked=any(
                self._marks.leaves_unchecked(row["mac"])
                for row in (*keys, *members, *([ring] if ring else []))
            ),
        )

    def _is_ours(self, kind: RowKind, row: Found, ring: Found | None = None) -> bool:
        return self._marks.take(row["mac"], kind, marked(row, ring))

    def swap(
        self,
        connection: Connection,
        expected: int,
        ring: Ring,
        events: tuple[tuple[RevocationEvent, str], ...],
    ) -> bool:
        """As the port's. The ring's row is changed first, so that its lock orders those who race."""
        # As it was before, if this changes anything: each generation is written once.
        former = _first(_rows(connection, _RING, ring.issuer))
        trusted = former if former is not None and self._is_ours(RowKind.RING, former) else None
        row = ring_row(ring, trusted)
        row["mac"] = self._marks.of(RowKind.RING, marked(row))
        if not self._take(connection, expected, row, former):
            return False
        before = {
            found["kid"]: found
            for found in _rows(connection, _KEYS, ring.issuer)
            if self._is_ours(RowKind.KEY, found, former)
        }
        connection.execute(_REMOVE_KEYS, {"of": ring.issuer})
        connection.execute(_REMOVE_CUSTODY, {"of": ring.issuer})
        keys, custody = [], []
        for position, key in enumerate(ring.keys):
            published, held = key_rows(ring.issuer, position, key, before.get(key.kid))
            published["mac"] = self._marks.of(RowKind.KEY, marked({**held, **published}, row))
            keys.append(published)
            custody.append(held)
        if keys:
            connection.execute(insert(ring_keys), keys)
            connection.execute(insert(key_custody), custody)
        self._remove_strangers(connection, ring.issuer)
        self._log.append(connection, ring.issuer, events, at=self._time.read(connection))
        return True

    def _remove_strangers(self, connection: Connection, issuer: Issuer) -> None:
        if self._marks.key is None:
            return
        for row in _rows(connection, _MEMBERS, issuer):
            if not self._is_ours(RowKind.NODE, row):
                connection.execute(_LEAVE, {"of": issuer, "which": row["node"]})

    @staticmethod
    def _take(connection: Connection, expected: int, row: dict[str, Any], former: Found | None) -> bool:
        if former is None:
            if expected == 0:
                connection.execute(insert(rings), row)  # Collision: somebody else was first
            return expected == 0
        if former["generation"] != expected:
            return False
        new = {f"new_{name}": value for name, value in row.items()}
        replacing = {"of": row["issuer"], "expected": expected, **new}
        return connection.execute(_REPLACE_RING, replacing).rowcount == 1

    def beat(self, connection: Connection, issuer: Issuer, member: Member) -> NumericDate:
        """As the port's, whatever ``seen_at`` says; also forgets nodes that nobody has seen for a day."""
        now = self._time.read(connection)
        row = member_row(issuer, replace(member, seen_at=now))
        row["mac"] = self._marks.of(RowKind.NODE, marked(row))
        new = {f"new_{name}": value for name, value in row.items()}
        if connection.execute(_BEAT, {"of": issuer, "which": member.node, **new}).rowcount == 0:
            insert_if_absent(connection, nodes, row)
            connection.execute(_FORGET, {"of": issuer, "before": now - FORGOTTEN_AFTER})
        return now

    def leave(self, connection: Connection, issuer: Issuer, node: NodeId) -> None:
        """As the port's."""
        connection.execute(_LEAVE, {"of": issuer, "which": node})

    def timing(self, connection: Connection, issuer: Issuer) -> StoredTiming | None:
        """As the port's."""
        row = connection.execute(_TIMING, {"issuer": issuer}).first()
        return None if row is None else StoredTiming(row.document, row.generation)

    def swap_timing(self, connection: Connection, issuer: Issuer, expected: int, document: bytes) -> bool:
        """As the port's."""
        if expected == 0:
            # Collision: somebody else was first.
            connection.execute(insert(timings), {"issuer": issuer, "generation": 1, "document": document})
            return True
        replacing = {"of": issuer, "expected": expected, "new_document": document}
        return connection.execute(_REPLACE_TIMING, replacing).rowcount == 1


class SqlKeyRing:
    """:class:`mintmark.ports.keyring.KeyRingStore` in SQL."""

    def __init__(self, database: Database, rows: RingRows) -> None:
        self._database = database
        self._rows = rows

    async def read(self, issuer: Issuer) -> RingView:
        """The ring as it is."""
        return await self._database.read(lambda c: self._rows.read(c, issuer))

    async def swap(
        self, expected: int, ring: Ring, *, events: tuple[tuple[RevocationEvent, str], ...] = ()
    ) -> bool:
        """Whether ``ring`` was taken in place of generation ``expected``, its events with it."""
        if ring.generation <= expected:
            raise ValueError("a ring that replaces another has a later generation")
        try:
            return await self._database.write(lambda c: self._rows.swap(c, expected, ring, events))
        except Collision:
            return False

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
        member = Member(node, NumericDate(0), ring_generation, address, certificate, modes)
        return await self._database.write(lambda c: self._rows.beat(c, issuer, member))

    async def leave(self, issuer: Issuer, node: NodeId) -> None:
        """Remove the heartbeat row."""
        await self._database.write(lambda c: self._rows.leave(c, issuer, node), single=True)

    async def timing(self, issuer: Issuer) -> StoredTiming | None:
        """The timing settings that the nodes of this issuer share."""
        return await self._database.read(lambda c: self._rows.timing(c, issuer), single=True)

    async def swap_timing(self, issuer: Issuer, *, expected: int, document: bytes) -> bool:
        """Whether ``document`` was taken in place of generation ``expected`` (0: there was none)."""
        try:
            return await self._database.write(
                lambda c: self._rows.swap_timing(c, issuer, expected, document), single=True
            )
        except Collision:
            return False
