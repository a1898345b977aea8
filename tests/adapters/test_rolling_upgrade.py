"""Two revisions of the code on one database, as a rolling upgrade and its way back have them."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from tests.registry import STORES, store_rig

from mintmark.core.algorithm import Algorithm
from mintmark.core.key import Key, KeyKind, KeyMode, KeyState
from mintmark.core.keyring import Member, Ring
from mintmark.errors import StoreDamaged
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.rig import ISSUER, Rig
from mintmark.units import NodeId, NumericDate

_NODE = NodeId("node-1")
_OLD = NodeId("old")
_ALL = frozenset(KeyMode)

_COLUMNS = (
    "issuer, kid, position, node, alg, jwk, state, since, prepared_at, lease_until, proven_at,"
    " activated_at, activation, sign_until, publish_until, revoked_at, reason"
)


@pytest.fixture(params=["postgresql", "sqlite"])
def name(request: pytest.FixtureRequest) -> str:
    """A database that more than one process can use."""
    return str(request.param)


@pytest.fixture
async def rig(name, tmp_path, request) -> AsyncIterator[Rig]:
    async with store_rig(name, tmp_path, request.getfixturevalue) as made:
        yield made


async def execute(rig: Rig, *statements: str, **values: object) -> list[Any]:
    """The rows of the last of some statements, run as one transaction by somebody else."""

    def work(connection: Connection) -> list[Any]:
        done = [connection.execute(text(statement), values) for statement in statements]
        return list(done[-1].all()) if done[-1].returns_rows else []

    write: Callable[[Callable[[Connection], list[Any]]], Any] = rig.store.write  # type: ignore[attr-defined]
    return list(await write(work))


async def old_swap(rig: Rig, generation: int, *, removing: str = "") -> None:
    """What code of revision 0001 does to change a ring: its keys leave, and come back as it read them."""
    rows = await execute(rig, f"SELECT {_COLUMNS} FROM ring_keys WHERE issuer = :issuer", issuer=ISSUER)
    await execute(
        rig,
        f"UPDATE rings SET generation = {generation + 1}, rotate_requested_at = NULL"
        f" WHERE issuer = '{ISSUER}' AND generation = {generation}",
        f"DELETE FROM ring_keys WHERE issuer = '{ISSUER}'",
    )
    names = [column.strip() for column in _COLUMNS.split(",")]
    for row in rows:
        if row.kid == removing:
            continue
        marks = ", ".join(f":{column}" for column in names)
        await execute(
            rig, f"INSERT INTO ring_keys ({_COLUMNS}) VALUES ({marks})", **dict(zip(names, row, strict=True))
        )


def shared(rig: Rig, name: str = "shared") -> Key:
    return replace(rig.key(name), mode=KeyMode.SHARED, sealed=b"sealed", state=KeyState.ACTIVE, held=True)


async def test_swap_of_old_code_costs_no_key_its_custody(rig):
    """F37: mode, sealed and held of every key, and the kind, outlast a change by old code."""
    keys = (shared(rig), replace(rig.key("token"), mode=KeyMode.HSM), rig.key("own"))
    kind = KeyKind(KeyMode.SHARED, Algorithm.ES256)
    ring = Ring(issuer=ISSUER, generation=1, keys=keys, kind=kind)
    assert await rig.store.keyring.swap(0, ring)
    await old_swap(rig, 1)
    assert (await rig.store.keyring.read(ISSUER)).ring == replace(ring, generation=2)


async def test_key_that_old_code_removed_leaves_nothing_behind(rig):
    """F37: what is left of its custody goes with the next swap, and is no key meanwhile."""
    ring = Ring(issuer=ISSUER, generation=1, keys=(shared(rig), rig.key("own")))
    assert await rig.store.keyring.swap(0, ring)
    await old_swap(rig, 1, removing="shared")
    left = replace(ring, generation=2, keys=(rig.key("own"),))
    assert (await rig.store.keyring.read(ISSUER)).ring == left
    assert await rig.store.keyring.swap(2, replace(left, generation=3))
    assert [row.kid for row in await execute(rig, "SELECT kid FROM key_custody")] == ["own"]


async def test_rows_of_old_code_read_as_what_it_could_do(rig):
    """F37: its keys are its own, its node has no address, and its issuer no kind that somebody wrote."""
    await execute(
        rig,
        f"INSERT INTO rings (issuer, generation) VALUES ('{ISSUER}', 1)",
        "INSERT INTO ring_keys (issuer, kid, position, node, alg, jwk, state, since, prepared_at,"
        " lease_until, publish_until)"
        f" VALUES ('{ISSUER}', 'kid', 0, 'old', 'RS256', :jwk, 'prepared', 1, 5, 6, 0)",
        f"INSERT INTO nodes (issuer, node, seen_at, ring_generation) VALUES ('{ISSUER}', 'old', 7, 1)",
        jwk=b"{}",
    )
    view = await rig.store.keyring.read(ISSUER)
    assert view.members == (Member(_OLD, NumericDate(7), 1),)
    assert view.ring.kind is None
    (key,) = view.ring.keys
    assert (key.mode, key.sealed, key.held) == (KeyMode.OWN, None, False)


async def test_heartbeat_of_old_code_leaves_what_others_say(rig):
    """F37: a row is written by one node, and an old one beats without an address."""
    await rig.store.keyring.beat(
        ISSUER, _NODE, ring_generation=1, address="a:1", certificate=b"c", modes=_ALL
    )
    await execute(rig, "UPDATE nodes SET seen_at = 9, ring_generation = 2 WHERE node = 'old'")
    assert (await rig.store.keyring.read(ISSUER)).members == (
        Member(_NODE, rig.clock.now(), 1, "a:1", b"c", _ALL),
    )


async def test_mode_of_a_later_version_takes_nothing_down(rig):
    """F37: such a key is published as one that nobody here holds, and a swap leaves its mode as it is."""
    keys = (shared(rig), rig.key("own"))
    assert await rig.store.keyring.swap(0, Ring(issuer=ISSUER, generation=1, keys=keys))
    await execute(rig, "UPDATE key_custody SET mode = 'enclave' WHERE kid = 'shared'")
    ring = (await rig.store.keyring.read(ISSUER)).ring
    assert ring.keys == keys
    assert await rig.store.keyring.swap(1, replace(ring, generation=2))
    found = await execute(rig, "SELECT kid, mode FROM key_custody ORDER BY kid")
    assert [tuple(row) for row in found] == [("own", "own"), ("shared", "enclave")]


@pytest.mark.parametrize("column", ["kind_mode", "kind_alg"])
async def test_kind_of_a_later_version_is_not_replaced(rig, column):
    """F37: it reads as none, and whatever this code wants instead does not undo another's switch."""
    kind = KeyKind(KeyMode.SHARED, Algorithm.RS256)
    assert await rig.store.keyring.swap(0, Ring(issuer=ISSUER, generation=1, kind=kind))
    await execute(rig, f"UPDATE rings SET {column} = 'ML-DSA'")
    ring = (await rig.store.keyring.read(ISSUER)).ring
    assert ring.kind is None
    assert await rig.store.keyring.swap(1, replace(ring, generation=2, kind=kind))
    assert [getattr(row, column) for row in await execute(rig, "SELECT * FROM rings")] == ["ML-DSA"]


async def test_modes_of_a_later_version_are_passed_over(rig):
    """F37: a node that can more is one that can the rest; what is no list is damage."""
    await rig.store.keyring.beat(ISSUER, _NODE, ring_generation=1, modes=_ALL)
    await execute(rig, """UPDATE nodes SET modes = '["enclave","own"]'""")
    (member,) = (await rig.store.keyring.read(ISSUER)).members
    assert member.modes == {KeyMode.OWN}
    await execute(rig, "UPDATE nodes SET modes = 'own'")
    with pytest.raises(StoreDamaged):
        await rig.store.keyring.read(ISSUER)


async def test_database_of_the_first_revision_is_upgraded_with_what_is_in_it(name, tmp_path, request):
    """STORE-5: its ring, its keys and its nodes are those that they were."""

    def first(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", "mintmark.adapters.sql:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            text("INSERT INTO rings (issuer, generation) VALUES (:issuer, 4)"), {"issuer": ISSUER}
        )
        connection.execute(
            text(
                "INSERT INTO ring_keys (issuer, kid, position, node, alg, jwk, state, since, prepared_at,"
                " lease_until, publish_until)"
                " VALUES (:issuer, 'kid', 0, 'old', 'RS256', :jwk, 'prepared', 1, 5, 6, 0)"
            ),
            {"issuer": ISSUER, "jwk": b"{}"},
        )
        connection.execute(
            text("INSERT INTO nodes (issuer, node, seen_at, ring_generation) VALUES (:issuer, 'old', 7, 1)"),
            {"issuer": ISSUER},
        )

    if name == "postgresql":
        url = make_url(request.getfixturevalue("database")).set(drivername="postgresql+asyncpg")
        server = create_async_engine(url)
        async with server.begin() as asynchronous:
            await asynchronous.run_sync(first)
        await server.dispose()
    else:
        file = create_engine(f"sqlite:///{tmp_path / 'store.db'}")
        with file.begin() as connection:
            first(connection)
        file.dispose()
    store = STORES[name](FakeClock(), tmp_path, request.getfixturevalue)()
    await store.open()
    try:
        view = await store.keyring.read(ISSUER)
    finally:
        await store.close()
    assert (view.ring.generation, [key.kid for key in view.ring.keys]) == (4, ["kid"])
    assert view.members == (Member(_OLD, NumericDate(7), 1),)
