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
from mintmark.core.sessions import EndCause
from mintmark.errors import StoreDamaged
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.rig import ISSUER, TIMING, Rig
from mintmark.units import NodeId, NumericDate, Rid, Seconds

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


_SESSION_OF_0002 = (
    "issuer, rid, sub, client_id, scope, audience, auth_time, amr, created_at, idle_until, expires_at,"
    " public_key, generation, sealed, rotated_at, presented, last_exp, version"
)


async def old_start(rig: Rig, rid: str, created_at: int) -> None:
    """What code of revision 0002 writes for a session of ``alice`` at ``shop``."""
    end = rig.clock.now() + 10_000
    await execute(
        rig,
        f"INSERT INTO sessions ({_SESSION_OF_0002})"
        " VALUES (:issuer, :rid, 'usr_alice', 'shop', '[]', '[]', 1, '[]',"
        " :created_at, :last, :last, :key, 0, :key, :created_at, false, :last, 0)",
        issuer=ISSUER,
        rid=rid,
        created_at=created_at,
        last=end,
        key=b"k",
    )


async def test_rows_of_revision_0002_read_as_what_was_so_then(rig):
    """F37: its sessions were used when they were rotated, its clients rotate and hear of nothing, and
    nobody is locked."""
    user, client = rig.user(), rig.client()
    await execute(
        rig,
        "INSERT INTO users (issuer, sub, username, password_hash, scopes, created_at, password_changed_at)"
        ' VALUES (:issuer, :sub, :username, :password_hash, \'["orders:read","orders:write"]\', :now, :now)',
        issuer=ISSUER,
        sub=user.sub,
        username=user.username,
        password_hash=user.password_hash,
        now=user.created_at,
    )
    await execute(
        rig,
        "INSERT INTO clients (issuer, client_id, name, secret_hash, grant_types, audiences, scopes,"
        " first_party, created_at)"
        " VALUES (:issuer, 'shop', 'Shop', :secret, '[\"refresh_token\"]', '[\"orders\"]',"
        " '[\"orders:read\"]', true, :now)",
        issuer=ISSUER,
        secret=client.secret_hash,
        now=client.created_at,
    )
    assert await rig.store.directory.user(ISSUER, user.sub) == user
    assert await rig.store.directory.client(ISSUER, client.client_id) == client
    await old_start(rig, "old", rig.clock.now())
    (session,) = await rig.store.sessions.list(ISSUER)
    assert (session.used_at, session.device, session.address) == (rig.clock.now(), "", "")


async def test_refresh_by_old_code_counts_as_use(rig):
    """F37: it notes no time of use, but when it rotated; the later of both is shown."""
    session, _ = await rig.logged_in(*await rig.someone())
    later = rig.clock.now() + 50
    await execute(rig, f"UPDATE sessions SET rotated_at = {later}, version = version + 1")
    row = (await rig.store.sessions.read(ISSUER, session.rid)).session
    assert row == replace(session, used_at=later, rotated_at=later, version=1)


async def test_session_that_ended_for_a_cause_of_a_later_version_has_ended(rig):
    """F37: that it has is all that matters to whoever reads it."""
    session, _ = await rig.logged_in(*await rig.someone())
    await execute(rig, "UPDATE sessions SET ended_at = 1, end_cause = 'moved'")
    row = (await rig.store.sessions.read(ISSUER, session.rid)).session
    assert row is not None
    assert (row.ended_at, row.end_cause) == (1, None)
    assert await rig.store.sessions.list(ISSUER) == ()


async def test_logout_by_old_code_tells_no_client_and_breaks_nothing(rig):
    """F37: what it ends has no notice; a client that it removes leaves none that anybody would claim."""
    user = await rig.added_user()
    client = replace(rig.client(), backchannel_logout_uri="https://shop.example.com/out")
    await rig.store.directory.add_client(client)
    (first, _), (second, _) = [await rig.logged_in(user, client) for _ in range(2)]
    await execute(rig, f"UPDATE sessions SET ended_at = 1, end_cause = 'logout' WHERE rid = '{first.rid}'")
    assert await rig.store.outbox.pending(ISSUER) == 0
    await rig.store.sessions.end(ISSUER, second.rid, cause=EndCause.LOGOUT, timing=TIMING)
    assert await rig.store.outbox.pending(ISSUER) == 1
    await execute(rig, "DELETE FROM clients")
    assert await rig.store.outbox.claim(ISSUER, _NODE, span=Seconds(10), limit=10) == ()
    assert await rig.store.outbox.expire(ISSUER) == ()
    assert await rig.store.outbox.pending(ISSUER) == 0


async def test_log_of_old_code_is_revoked_by_time(rig):
    """LOG-7, F37: a head that it wrote has no floors yet, and what it appends leaves them as they are."""
    user, client = await rig.someone()
    await execute(
        rig,
        "INSERT INTO log_heads (issuer, seq, mark, genesis) VALUES (:issuer, 0, :m, :m)",
        issuer=ISSUER,
        m=b"8" * 8,
    )
    await old_start(rig, "old", rig.clock.now())
    assert (await rig.store.directory.client(ISSUER, client.client_id)) == client
    assert await rig.store.sessions.list(ISSUER, sub=user.sub) != ()
    denied = await rig.store.revocations.revoke_all(ISSUER, cause="admin", timing=TIMING, sessions=True)
    await execute(rig, "UPDATE log_heads SET seq = seq + 1, mark = :m", m=b"9" * 8)
    found = await rig.store.directory.client(ISSUER, client.client_id)
    assert found == replace(client, not_before=denied)
    assert await rig.store.sessions.list(ISSUER) == ()


async def test_session_that_old_code_starts_below_the_floor_is_over(rig):
    """LOG-8, F37: a node that knows of no floor begins a session that nobody else takes for one, and its row
    is ended with the others; what it was given is denied by the event of the whole issuer."""
    await rig.someone()
    await rig.store.revocations.revoke_all(ISSUER, cause="admin", timing=TIMING, sessions=True)
    now = rig.clock.now()
    await old_start(rig, "old", now)
    row = (await rig.store.sessions.read(ISSUER, Rid("old"))).session
    assert row is not None
    assert (row.ended_at, row.end_cause) == (now, EndCause.ADMIN)
    assert await rig.store.revocations.end_revoked(ISSUER, timing=TIMING) == 1
    rows = await execute(rig, "SELECT ended_at, end_cause FROM sessions")
    assert [tuple(found) for found in rows] == [(now, "admin")]


def migrated(revision: str) -> Callable[[Connection], None]:
    """Work that brings an empty database to ``revision``."""

    def work(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", "mintmark.adapters.sql:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    return work


async def test_upgrade_writes_no_row_anew(database):
    """STORE-5, F37: the files of the big tables are those that they were, so it locks them for moments only,
    however many sessions there are."""
    files = "SELECT pg_relation_filenode('sessions'), pg_relation_filenode('log_entries')"
    server = create_async_engine(make_url(database).set(drivername="postgresql+asyncpg"))
    try:
        async with server.begin() as connection:
            await connection.run_sync(migrated("0002"))
        async with server.begin() as connection:
            before = (await connection.execute(text(files))).one()
            await connection.run_sync(migrated("head"))
            assert (await connection.execute(text(files))).one() == before
    finally:
        await server.dispose()


async def test_database_of_the_first_revision_is_upgraded_with_what_is_in_it(name, tmp_path, request):
    """STORE-5: its ring, its keys and its nodes are those that they were."""

    def first(connection: Connection) -> None:
        migrated("0001")(connection)
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
