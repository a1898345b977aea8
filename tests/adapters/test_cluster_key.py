"""Whoever can write the database, and does not hold the cluster's key, against those who read it."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, Table, delete, insert, select, text, update
from tests.registry import store_rig

from mintmark.adapters.sql.schema import key_custody, nodes, ring_keys, rings
from mintmark.core.algorithm import Algorithm
from mintmark.core.key import Key, KeyKind, KeyMode, KeyState
from mintmark.core.keyring import Member, Ring
from mintmark.core.mark import MarkKey, Marks
from mintmark.ports.keyring import RejectedRow, RingView, RowKind
from mintmark.ports.store import Store
from mintmark.testing.conformance.rig import ISSUER, OTHER, Rig
from mintmark.units import Kid, NodeId, NumericDate

_MARKS = Marks(key=MarkKey.from_bytes(b"the secret of the cluster"))
_KIND = KeyKind(KeyMode.SHARED, Algorithm.ES256)
_NODE = NodeId("node-1")
_HERE = Member(_NODE, NumericDate(0), 1, "10.0.0.1:7", b"certificate", frozenset(KeyMode))
Rows = dict[Table, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class World:
    """A ring of two keys and a node, and the hands of somebody in its database."""

    rig: Rig
    store: Store

    async def write(self, *statements: Any, **values: object) -> None:
        """Run statements as one transaction, past all of our code."""

        def work(connection: Connection) -> None:
            for statement in statements:
                connection.execute(text(statement) if isinstance(statement, str) else statement, values)

        await self._run(work)

    async def copy(self) -> Rows:
        """All rows as they are."""

        def work(connection: Connection) -> Rows:
            return {
                table: [dict(row) for row in connection.execute(select(table)).mappings()]
                for table in (rings, ring_keys, key_custody, nodes)
            }

        copied: Rows = await self._run(work)
        return copied

    async def restore(self, rows: Rows, *tables: Table) -> None:
        """The rows of ``tables`` as they once were."""

        def work(connection: Connection) -> None:
            for table in tables:
                connection.execute(delete(table))
                if rows[table]:
                    connection.execute(insert(table), rows[table])

        await self._run(work)

    async def view(self) -> RingView:
        """What a node sees that holds the key."""
        return await self.store.keyring.read(ISSUER)

    async def _run(self, work: Callable[[Connection], Any]) -> Any:
        return await self.store.write(work)  # type: ignore[attr-defined]


def active(key: Key) -> Key:
    return replace(key, state=KeyState.ACTIVE, publish_until=NumericDate(key.prepared_at + 100))


@pytest.fixture(params=["postgresql", "sqlite"])
async def world(request, tmp_path) -> AsyncIterator[World]:
    async with store_rig(request.param, tmp_path, request.getfixturevalue) as rig:
        store = await rig.keyed(_MARKS)
        shared = replace(active(rig.key("a")), mode=KeyMode.SHARED, sealed=b"sealed", held=True)
        ring = Ring(issuer=ISSUER, generation=1, keys=(shared, active(rig.key("b"))), kind=_KIND)
        assert await store.keyring.swap(0, ring)
        await store.keyring.beat(
            ISSUER,
            _NODE,
            ring_generation=1,
            address=_HERE.address,
            certificate=_HERE.certificate,
            modes=_HERE.modes,
        )
        made = World(rig, store)
        assert not (await made.view()).rejected
        yield made


def kids(view: RingView) -> list[str]:
    return [key.kid for key in view.ring.keys]


def key_rejected(name: str) -> RejectedRow:
    return RejectedRow(RowKind.KEY, Kid(name))


# --- attacks on keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["NULL", "mac"])
async def test_key_that_a_stranger_adds_is_not_there(world, mark):
    """A public key of his own, with no mark or with a copied one, is published by nobody."""
    columns = ", ".join(column.name for column in ring_keys.c if column.name not in {"kid", "jwk", "mac"})
    await world.write(
        f"INSERT INTO ring_keys ({columns}, kid, jwk, mac)"
        f" SELECT {columns}, 'his', :jwk, {mark} FROM ring_keys WHERE kid = 'b'",
        jwk=b'{"kty":"EC","x":"his"}',
    )
    view = await world.view()
    assert (kids(view), view.rejected) == (["a", "b"], (key_rejected("his"),))


async def test_revoked_key_is_not_revived_by_its_old_row(world):
    """K7: the row that it had while it signed, put back with the mark that it had then, is no row now."""
    then = await world.copy()
    ring = (await world.view()).ring
    revoked = replace(ring.keys[1], state=KeyState.REVOKED)
    assert await world.store.keyring.swap(1, replace(ring, generation=2, keys=(ring.keys[0], revoked)))
    await world.restore(then, ring_keys)
    view = await world.view()
    assert (kids(view), view.rejected) == ([], (key_rejected("a"), key_rejected("b")))


async def test_retired_key_is_not_revived_by_its_old_row(world):
    """K2: a key that is gone comes back to nobody who has a copy of its row, beside keys that go on."""
    then = await world.copy()
    ring = (await world.view()).ring
    assert await world.store.keyring.swap(1, replace(ring, generation=2, keys=ring.keys[:1]))
    row = next(row for row in then[ring_keys] if row["kid"] == "b")
    await world.write(insert(ring_keys).values(**row))
    view = await world.view()
    assert (kids(view), view.rejected) == (["a"], (key_rejected("b"),))


async def test_old_rows_under_the_old_number_alone_are_not_taken(world):
    """The generation is part of each mark, the ring's own too: neither can be set back by itself."""
    then = await world.copy()
    ring = replace((await world.view()).ring, generation=2, rotate_requested_at=NumericDate(5))
    assert await world.store.keyring.swap(1, ring)
    await world.restore(then, ring_keys)
    await world.write("UPDATE rings SET generation = 1")
    view = await world.view()
    assert (kids(view), view.ring.kind) == ([], None)
    assert {row.kind for row in view.rejected} == {RowKind.RING, RowKind.KEY}


async def test_row_of_another_issuer_is_no_row_of_this(world):
    """A key goes with its issuer: copied to another one under its name, it is not there."""
    ring = Ring(issuer=OTHER, generation=1, keys=(active(world.rig.key("theirs")),), kind=_KIND)
    assert await world.store.keyring.swap(0, ring)
    await world.write(f"UPDATE ring_keys SET issuer = '{ISSUER}' WHERE kid = 'theirs'")
    view = await world.view()
    assert (kids(view), view.rejected) == (["a", "b"], (key_rejected("theirs"),))


async def test_two_keys_do_not_change_places(world):
    """A mark is of one row: that of another key with the same columns does not fit."""
    await world.write(
        "UPDATE ring_keys SET kid = 'c' WHERE kid = 'a'",
        "UPDATE ring_keys SET kid = 'a' WHERE kid = 'b'",
        "UPDATE ring_keys SET kid = 'b' WHERE kid = 'c'",
    )
    assert kids(await world.view()) == []


async def test_kind_cannot_be_cleared_or_set(world):
    """The issuer's kind is part of each mark: without it no key is there, and it is not read either."""
    then = await world.copy()
    for change in ("kind_mode = NULL, kind_alg = NULL", "kind_mode = 'own'", "kind_alg = 'RS256'"):
        await world.restore(then, rings)
        await world.write(f"UPDATE rings SET {change}")
        view = await world.view()
        assert (kids(view), view.ring.kind, len(view.rejected)) == ([], None, 3)


# --- attacks on nodes --------------------------------------------------------------------------------


async def test_node_cannot_be_sent_elsewhere(world):
    """Whoever points a node's address or certificate at himself is called by nobody."""
    then = await world.copy()
    stranger = RejectedRow(RowKind.NODE, _NODE, world.rig.clock.now())
    for change in ("address = '6.6.6.6:7'", "certificate = :his", "modes = NULL"):
        await world.restore(then, nodes)
        await world.write(f"UPDATE nodes SET {change}", his=b"his")
        view = await world.view()
        assert (view.members, view.rejected) == ((), (stranger,))


async def test_node_cannot_be_kept_alive_or_doubled(world):
    """A heartbeat that nobody made is none, nor is a node's row under another name."""
    row = (await world.copy())[nodes][0]
    await world.write(insert(nodes).values(**{**row, "node": "node-2"}))
    view = await world.view()
    assert ([member.node for member in view.members], len(view.rejected)) == ([_NODE], 1)
    await world.write(f"UPDATE nodes SET seen_at = {world.rig.clock.now() + 5}")
    assert (await world.view()).members == ()


# --- every column ------------------------------------------------------------------------------------


def _changed(value: object) -> object:
    match value:
        case None:
            return None
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return value + "x"
        case bytes():
            return value + b"x"
    raise AssertionError(value)


@pytest.mark.parametrize("table", [rings, ring_keys, key_custody, nodes], ids=lambda table: table.name)
async def test_every_column_is_covered(world, table):
    """Whatever value of a row is another, one that was none included, the row is rejected."""
    then = await world.copy()
    fillings = {"BIGINT": 5, "TEXT": "x", "BLOB": b"x"}
    for column in table.c:
        if column.name == "issuer" or (column.primary_key and table is not ring_keys):
            continue  # Elsewhere it is no row of this issuer, or of this key.
        value = then[table][0][column.name]
        new = fillings[str(column.type)] if value is None else _changed(value)
        where = [key == then[table][0][key.name] for key in table.primary_key]
        await world.write(update(table).where(*where).values({column: new}))
        view = await world.view()
        assert view.rejected, column.name
        await world.restore(then, table)
        assert not (await world.view()).rejected


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
async def test_value_of_another_type_is_no_failure(world):
    """SQLite takes anything anywhere: a number with a fraction is a row that is rejected, no exception."""
    await world.write("UPDATE ring_keys SET lease_until = 1.5 WHERE kid = 'a'")
    assert (await world.view()).rejected == (key_rejected("a"),)


# --- what follows ------------------------------------------------------------------------------------


async def test_swap_replaces_what_was_rejected_and_takes_nothing_from_it(world):
    """RING-7, RING-8: a forged row is gone, and the time that it claimed to be published until with it."""
    await world.write("UPDATE ring_keys SET publish_until = 4000000000 WHERE kid = 'b'")
    view = await world.view()
    assert kids(view) == ["a"]
    mine = active(world.rig.key("b"))
    ring = replace(view.ring, generation=2, keys=(*view.ring.keys, mine))
    assert await world.store.keyring.swap(1, ring)
    view = await world.view()
    assert (view.ring, view.rejected) == (ring, ())
    assert {row["kid"] for row in (await world.copy())[key_custody]} == {"a", "b"}


@pytest.mark.parametrize(
    "change", ["generation = 0", "generation = -7", "mac = NULL", "rotate_requested_at = 1"]
)
async def test_ring_whose_row_was_changed_is_mended_by_a_swap(world, change):
    """RING-1: whatever number was written is the one that a swap expects, so that one can be taken."""
    await world.write(f"UPDATE rings SET {change}")
    view = await world.view()
    assert RejectedRow(RowKind.RING, ISSUER) in view.rejected
    ring = Ring(issuer=ISSUER, generation=view.ring.generation + 1, keys=(world.rig.key("new"),), kind=_KIND)
    assert await world.store.keyring.swap(view.ring.generation, ring)
    view = await world.view()
    assert (view.ring, view.rejected) == (ring, ())


async def test_node_that_somebody_made_up_leaves_with_a_swap(world):
    """RING-8: its row would stay otherwise, since no such node ever leaves."""
    row = (await world.copy())[nodes][0]
    await world.write(insert(nodes).values(**{**row, "node": "node-2", "seen_at": 2**40}))
    ring = (await world.view()).ring
    assert await world.store.keyring.swap(1, replace(ring, generation=2))
    assert [found["node"] for found in (await world.copy())[nodes]] == [_NODE]


async def test_beat_mends_the_row_of_its_node(world):
    """RING-8: a node that lives is back with its next heartbeat."""
    await world.write("UPDATE nodes SET address = '6.6.6.6:7'")
    await world.store.keyring.beat(ISSUER, _NODE, ring_generation=1)
    view = await world.view()
    assert ([member.address for member in view.members], view.rejected) == ([""], ())


async def test_whole_old_state_cannot_be_told(world):
    """A known limit, as documented: all tables as they once were look like a restored backup."""
    then = await world.copy()
    ring = (await world.view()).ring
    assert await world.store.keyring.swap(1, replace(ring, generation=2, keys=()))
    await world.restore(then, rings, ring_keys, key_custody, nodes)
    view = await world.view()
    assert (kids(view), view.rejected) == (["a", "b"], ())


async def test_store_without_the_key_reads_all_and_marks_nothing(world):
    """RING-8: it is told that it could not check, and what it swaps in is there for nobody who can."""
    other = await world.rig.peer()
    view = await other.keyring.read(ISSUER)
    assert (kids(view), view.rejected, view.unchecked) == (["a", "b"], (), True)
    assert await other.keyring.swap(1, replace(view.ring, generation=2))
    assert [row.kind for row in (await world.view()).rejected] == [RowKind.RING, RowKind.KEY, RowKind.KEY]


# --- the encoding ------------------------------------------------------------------------------------

_VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.binary(max_size=4)
_FIELDS = st.dictionaries(st.text(max_size=3), _VALUES, max_size=4)


def _meant(fields: dict[str, Any]) -> set[tuple[str, type, Any]]:
    return {(name, type(value), value) for name, value in fields.items() if value is not None}


@given(st.text(max_size=3), _FIELDS, st.text(max_size=3), _FIELDS)
def test_no_two_rows_have_one_mark(table, fields, other_table, other):
    """Rows that differ in a table, a name, a type or a value differ in their marks; None is no field."""
    key = _MARKS.key
    assert key is not None
    same = (table, _meant(fields)) == (other_table, _meant(other))
    assert (key.mark(table, fields) == key.mark(other_table, other)) is same


def test_short_secret_is_refused():
    """Fifteen bytes are too few, and another secret makes another mark."""
    with pytest.raises(ValueError, match="16"):
        MarkKey.from_bytes(bytes(15))
    marks = {MarkKey.from_bytes(secret).mark("t", {}) for secret in (bytes(16), bytes(17), b"1" * 16)}
    assert len(marks) == 3


def test_key_is_in_no_repr():
    """What somebody prints of it shows no secret."""
    assert "the secret" not in repr(_MARKS) + repr(_MARKS.key)
