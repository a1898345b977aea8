"""What PostgreSQL adds to the clauses that every store keeps: its clock, locks, snapshots and errors."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, make_url, text
from tests.adapters.postgres import PATIENT, new_store, opened, raw, waiting

from mintmark.adapters.sql.ending import EndingRows
from mintmark.adapters.sql.postgres import BOUNDS, CONNECTIONS, Bounds, ServerTime, from_url
from mintmark.adapters.sql.schema import METADATA
from mintmark.core.keyring import Ring
from mintmark.core.log import JTI_A_CLIENT, JTI_A_SESSION, Admission, denied_until
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.sessions import EndCause, Redeem
from mintmark.errors import ConfigurationError, StoreDamaged, StoreUnavailable
from mintmark.ports.revocations import IssuedToken
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.rig import ISSUER, TIMING, kid_of, read_log, redeem
from mintmark.units import Jti, NodeId, NumericDate, Rid, Seconds

LOGOUT = EndCause.LOGOUT


@pytest.fixture
async def rig(database):
    async with opened(database) as rig:
        yield rig


@pytest.fixture
async def other(database, rig):
    """Somebody else's connection to the store's database, once its tables are there."""
    async with raw(database) as connection:
        yield connection


# --- time ----------------------------------------------------------------------------------------


async def test_store_goes_by_the_servers_clock(database, other):
    """STORE-3: a store that is made with a clock in another year tells the server's time all the same."""
    store = from_url(database, clock=FakeClock(1), entropy=SYSTEM_ENTROPY)
    await store.open()
    before = await other.fetchval("SELECT floor(extract(epoch FROM clock_timestamp()))")
    told = [await store.now(), await store.keyring.beat(ISSUER, NodeId("a"), ring_generation=0)]
    told += [(await store.revocations.head(ISSUER))[1], (await store.keyring.read(ISSUER)).now]
    after = await other.fetchval("SELECT floor(extract(epoch FROM clock_timestamp()))")
    await store.close()
    assert all(before <= time <= after for time in told)


async def test_redemption_is_judged_by_the_servers_clock(rig, other):
    """SESSION-2: whether a session has expired is asked as its row is changed, of the server."""
    session, token = await rig.logged_in(*await rig.someone())
    view = await rig.store.sessions.read(ISSUER, session.rid)
    change = Redeem(before=session, after=replace(session, version=1), token=token, rotated=True)
    await other.execute("UPDATE sessions SET expires_at = $1", view.now)
    assert not await rig.store.sessions.redeem(change)
    await other.execute("UPDATE sessions SET expires_at = $1", view.now + 10_000)
    assert await rig.store.sessions.redeem(change)


async def test_time_of_a_page_is_that_of_its_snapshot_or_earlier(rig):
    """V1: what was committed before the time that a page carries is in it, however slow its reader was."""

    def look(connection):
        first = ServerTime().read(connection)
        connection.execute(text("SELECT pg_sleep(1.1)"))
        return first, ServerTime().read(connection)

    first, second = await rig.store.read(look)
    assert first == second


# --- one statement ---------------------------------------------------------------------------------


async def test_refresh_that_commits_while_a_logout_waits_for_it_is_covered(rig, other):
    """R5: the event lasts as long as the last token that was minted, whoever had the row first."""
    session, _ = await rig.logged_in(*await rig.someone())
    late = session.last_exp + 5_000
    async with other.transaction():
        await other.execute("UPDATE sessions SET last_exp = $1, version = version + 1", late)
        ending = asyncio.ensure_future(
            rig.store.sessions.end(ISSUER, session.rid, cause=LOGOUT, timing=TIMING)
        )
        await waiting(other, 1)
    assert await ending
    (entry,) = await read_log(rig.store)
    assert entry.event.expires_at == denied_until(NumericDate(late), TIMING)
    row = (await rig.store.sessions.read(ISSUER, session.rid)).session
    assert (row.version, row.last_exp) == (session.version + 2, late)


@pytest.mark.parametrize("begun", [True, False], ids=["a log", "a new log"])
async def test_logouts_that_wait_for_the_head_of_the_log_all_get_a_place(rig, other, begun):
    """V1: of many that wait for one lock none fails, and the log has each once and no gap."""
    user, client = await rig.someone()
    started = [(await rig.logged_in(user, client))[0] for _ in range(7)]
    if begun:
        await rig.store.revocations.head(ISSUER)
    async with other.transaction():
        if begun:
            await other.execute("UPDATE log_heads SET seq = seq")
        else:
            await other.execute("LOCK TABLE log_heads IN SHARE MODE")
        ending = [
            asyncio.ensure_future(rig.store.sessions.end(ISSUER, one.rid, cause=LOGOUT, timing=TIMING))
            for one in started[:4]
        ]
        everywhere = rig.store.sessions.end_all(ISSUER, user.sub, cause=LOGOUT, timing=TIMING)
        await waiting(other, 4)
        ending.append(asyncio.ensure_future(everywhere))
        await waiting(other, 5)
    ended = [one.rid for one, done in zip(started, await asyncio.gather(*ending[:4]), strict=False) if done]
    ended += await ending[4]
    assert sorted(ended) == sorted(one.rid for one in started)
    log = await read_log(rig.store)
    assert [entry.cursor.seq for entry in log] == list(range(1, 8))
    assert sorted(entry.event.value for entry in log) == sorted(ended)
    assert len({entry.cursor.mark for entry in log}) == 7


async def test_sessions_of_a_user_end_while_each_is_refreshed(rig, other):
    """R5: a logout everywhere that waits for a refresh ends that session with the others."""
    user, client = await rig.someone()
    started = [(await rig.logged_in(user, client))[0] for _ in range(5)]
    async with other.transaction():
        await other.execute("UPDATE sessions SET last_exp = last_exp + 7 WHERE rid = $1", started[2].rid)
        ending = asyncio.ensure_future(
            rig.store.sessions.end_all(ISSUER, user.sub, cause=LOGOUT, timing=TIMING)
        )
        await waiting(other, 1)
    assert sorted(await ending) == sorted(one.rid for one in started)
    entries = {entry.event.value: entry.event.expires_at for entry in await read_log(rig.store)}
    assert entries == {
        one.rid: denied_until(NumericDate(one.last_exp + 7 * (one is started[2])), TIMING) for one in started
    }


async def test_two_that_end_the_same_sessions_do_not_wait_for_each_other(rig):
    """STORE-2: a user and a client that go in the same moment, over and over, are no deadlock."""
    events = 0
    for number in range(5):
        user, client = await rig.added_user(f"u{number}"), await rig.added_client(f"c{number}")
        await asyncio.gather(*(rig.logged_in(user, client) for _ in range(20)))
        ended = await asyncio.gather(
            rig.store.directory.disable_user(ISSUER, user.sub, timing=TIMING),
            rig.store.directory.remove_client(ISSUER, client.client_id, timing=TIMING),
            rig.store.sessions.end_all(ISSUER, user.sub, cause=LOGOUT, timing=TIMING),
        )
        assert sum(ended[:2]) + len(ended[2]) == 20
        # One for each session, but one in all for those that ended with their client.
        events += 20 - ended[1] + 1
    assert len(await read_log(rig.store)) == events


def disable(store, user, client):
    return store.directory.disable_user(ISSUER, user.sub, timing=TIMING)


def new_password(store, user, client):
    return store.directory.set_password(ISSUER, user.sub, "$argon2id$new", timing=TIMING)


def remove_client(store, user, client):
    return store.directory.remove_client(ISSUER, client.client_id, timing=TIMING)


def everywhere(store, user, client):
    return store.sessions.end_all(ISSUER, user.sub, cause=LOGOUT, timing=TIMING)


@pytest.mark.parametrize("end", [disable, new_password, remove_client, everywhere])
async def test_any_number_of_sessions_end_in_statements_that_are_bounded(rig, other, end, monkeypatch):
    """R5, V1: a thief who begins many sessions does not keep his victim from changing the password: no
    statement ends more than it has the time for, and the log has one entry for each, without gaps."""
    monkeypatch.setattr(EndingRows, "most_at_once", 3)
    user, client = await rig.someone()
    rids = {(await rig.logged_in(user, client))[0].rid for _ in range(11)}
    ended = await end(rig.store, user, client)
    assert (len(ended) if end is everywhere else ended) == 11
    assert await rig.store.sessions.list(ISSUER) == ()
    entries = await read_log(rig.store)
    said = [client.client_id] * 2 if end is remove_client else sorted(rids)
    assert [entry.cursor.seq for entry in entries] == list(range(1, len(said) + 1))
    assert sorted(entry.event.value for entry in entries) == said
    together = await other.fetch("SELECT count(*) AS n FROM sessions GROUP BY xmin::text")
    assert max(row["n"] for row in together) == 3


START = """
INSERT INTO sessions SELECT (jsonb_populate_record(s, jsonb_build_object('rid', 'late'))).*
FROM sessions s, users u, clients c
WHERE u.disabled_at IS NULL AND u.issuer = s.issuer AND c.issuer = s.issuer FOR SHARE OF u, c
"""


@pytest.mark.parametrize("end", [disable, new_password, remove_client])
async def test_session_that_was_being_started_ends_with_the_others(rig, other, end):
    """SESSION-5, R5: whoever ends a user's sessions waits for one that is being started, and ends it too."""
    user, client = await rig.someone()
    await rig.logged_in(user, client)
    async with other.transaction():
        assert await other.execute(START) == "INSERT 0 1"
        ending = asyncio.ensure_future(end(rig.store, user, client))
        await waiting(other, 1)
    assert await ending == 2
    assert await rig.store.sessions.list(ISSUER) == ()
    late = (await rig.store.sessions.read(ISSUER, Rid("late"))).session
    assert late is not None
    assert late.ended_at is not None
    denied = client.client_id if end is remove_client else "late"
    assert denied in {entry.event.value for entry in await read_log(rig.store)}


@pytest.mark.parametrize("end", [disable, new_password, remove_client])
async def test_session_waits_for_who_ends_its_user(rig, other, end):
    """SESSION-5: a start that waits for a user who is being disabled does not happen."""
    user, client = await rig.someone()
    late, _ = rig.new_session(user, client)
    changes = {
        disable: "UPDATE users SET disabled_at = 1",
        new_password: "UPDATE users SET password_hash = 'new'",
        remove_client: "DELETE FROM clients",
    }
    async with other.transaction():
        await other.execute(changes[end])
        starting = asyncio.ensure_future(rig.store.sessions.start(late, user=user))
        await waiting(other, 1)
    assert not await starting
    assert await rig.store.sessions.list(ISSUER) == ()


async def test_marks_of_one_statement_differ_and_are_what_the_log_shows(rig):
    """LOG-3: each of many entries that one logout makes has a mark of its own and can be continued from."""
    user, client = await rig.someone()
    for _ in range(12):
        await rig.logged_in(user, client)
    await rig.store.sessions.end_all(ISSUER, user.sub, cause=LOGOUT, timing=TIMING)
    log = await read_log(rig.store)
    assert len({entry.cursor.mark for entry in log}) == 12
    assert {len(entry.cursor.mark) for entry in log} == {8}
    head, _ = await rig.store.revocations.head(ISSUER)
    assert head == log[-1].cursor
    page = await rig.store.revocations.read(ISSUER, log[4].cursor, limit=100)
    assert page.entries == log[5:]


# --- pauses ----------------------------------------------------------------------------------------


def test_bounds_follow_from_each_other():
    """LOG-5, STORE-2: a pause ends before a wait for its lock, that before a statement, and all in time."""
    assert BOUNDS.idle < BOUNDS.lock < BOUNDS.statement < BOUNDS.operation < 2_000
    assert BOUNDS.idle + 250 <= BOUNDS.lock


async def test_client_that_pauses_with_the_head_of_the_log_holds_nobody_up(database, rig, other):
    """LOG-5: its transaction is ended by the server, and who waits for it gets the next place."""
    session, _ = await rig.logged_in(*await rig.someone())
    await rig.store.revocations.head(ISSUER)
    paused = await new_store(database, bounds=replace(PATIENT, idle=BOUNDS.idle))._connect()
    try:
        # At once: on a busy machine a pause before it would end it before.
        await paused.execute("BEGIN; UPDATE log_heads SET seq = seq + 1")
        # Nothing ends this transaction but the server's own patience.
        assert await rig.store.sessions.end(ISSUER, session.rid, cause=LOGOUT, timing=TIMING)
    finally:
        paused.terminate()
    assert [entry.cursor.seq for entry in await read_log(rig.store)] == [1]


async def test_every_connection_is_bounded_by_the_server(database):
    """LOG-5, STORE-2: the time-outs are the session's own, whatever the server's defaults are."""
    store = new_store(database, bounds=BOUNDS)
    await store.open()

    def look(connection):
        names = ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout")
        shown = [connection.execute(text(f"SHOW {name}")).scalar() for name in names]
        return [*shown, *(connection.execute(text(f"SHOW {n}")).scalar() for n in SETTINGS)]

    found = await store.read(look, single=True)
    await store.close()
    assert found[:3] == ["750ms", "1250ms", "1500ms"]
    assert found[3:] == list(SETTINGS.values())


SETTINGS = {
    "application_name": "mintmark",
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
}


# --- errors ----------------------------------------------------------------------------------------


UNAVAILABLE = [
    "08006", "25006", "25P03", "28000", "28P01", "3D000", "40001", "40P01", "42501", "53000", "53100",
    "53200", "53300", "55P03", "57014", "57P01", "57P02", "57P03", "58030", "XX000", "0A000",
]  # fmt: skip
DAMAGED = ["22021", "23502", "42P01", "42703", "42804", "XX001", "XX002"]


@pytest.mark.parametrize("single", [True, False])
async def test_error_of_the_server_is_ours(database, rig, single):
    """STORE-2: whatever the server says is unavailable or damaged, without its words, and work goes on."""
    kinds = {**dict.fromkeys(UNAVAILABLE, StoreUnavailable), **dict.fromkeys(DAMAGED, StoreDamaged)}
    where = make_url(database)
    for code, kind in kinds.items():
        said = text(f"DO $$ BEGIN RAISE 'geheim' USING ERRCODE = '{code}', DETAIL = 'geheim'; END $$")
        for call in (rig.store.write, rig.store.read):
            with pytest.raises(kind) as caught:
                await call(lambda connection, said=said: connection.execute(said), single=single)
            assert type(caught.value) is kind
            assert str(caught.value).startswith(f"{where.host}:{where.port}/{where.database}: ")
            assert "geheim" not in str(caught.value)
    assert await rig.store.now()


async def test_names_and_passwords_are_in_no_message(database, rig):
    """DP3: what is logged of a failure names the server and the database, and nobody."""
    url = make_url(database)
    assert url.password
    assert url.username
    for changed in (
        url.set(password="geheim"),
        url.set(username="geheim"),
        url.set(port=1),
        url.set(host="geheim.invalid", username="wer", password="wer"),
        url.set(database="nirgends"),
    ):
        store = from_url(
            changed.render_as_string(hide_password=False), clock=FakeClock(), entropy=SYSTEM_ENTROPY
        )
        with pytest.raises(StoreUnavailable) as caught:
            await store.open()
        assert url.password not in str(caught.value)
        assert url.username not in str(caught.value)
        assert "geheim" not in str(caught.value).replace("geheim.invalid", "")
        assert f"{changed.host}:{changed.port}/{changed.database}: " in str(caught.value)


async def test_column_that_is_gone_is_damage(rig, other):
    """STORE-2: a schema that somebody changed is damage, in reads and in writes."""
    session, token = await rig.logged_in(*await rig.someone())
    await other.execute("ALTER TABLE sessions RENAME COLUMN sealed TO opened")
    with pytest.raises(StoreDamaged, match="schema"):
        await rig.store.sessions.read(ISSUER, session.rid)
    with pytest.raises(StoreDamaged, match="schema"):
        await rig.store.sessions.redeem(Redeem(before=session, after=session, token=token, rotated=False))
    await other.execute("ALTER TABLE sessions RENAME COLUMN opened TO sealed")
    assert (await rig.store.sessions.read(ISSUER, session.rid)).session == session


async def test_table_that_changed_under_a_prepared_statement_costs_one_answer(rig, other):
    """STORE-2: after a change of a column's type what was prepared before is prepared anew."""
    session, _ = await rig.logged_in(*await rig.someone())
    assert (await rig.store.sessions.read(ISSUER, session.rid)).session == session
    await other.execute("ALTER TABLE sessions ALTER COLUMN generation TYPE integer")
    outcomes = []
    for _ in range(3):
        try:
            outcomes.append((await rig.store.sessions.read(ISSUER, session.rid)).session)
        except StoreUnavailable:
            outcomes.append(None)
    assert outcomes[-1] == session


async def test_lost_race_leaves_the_connection_usable(database):
    """RING-1: a row that exists fails the transaction that it was in, and not the connection."""
    store = new_store(database)
    await store.open()
    try:
        assert await store.keyring.swap(0, Ring(issuer=ISSUER, generation=1))
        pids = set()
        for _ in range(3):
            assert not await store.keyring.swap(0, Ring(issuer=ISSUER, generation=1))
            assert not await store.keyring.swap_timing(ISSUER, expected=1, document=b"{}")
            pids.add(await store.read(lambda c: c.execute(text("SELECT pg_backend_pid()")).scalar()))
        assert len(pids) == 1
    finally:
        await store.close()


async def test_swap_that_fails_half_way_leaves_nothing(rig):
    """RING-2: events that cannot be stored undo the ring that they came with."""
    endless = RevocationEvent(kind=Kind.KID, value=kid_of("a"), expires_at=NumericDate(2**63))
    with pytest.raises((StoreDamaged, StoreUnavailable)):
        await rig.store.keyring.swap(0, Ring(issuer=ISSUER, generation=1), events=((endless, "x"),))
    assert (await rig.store.keyring.read(ISSUER)).ring.generation == 0
    assert await read_log(rig.store) == ()
    assert await rig.store.keyring.swap(0, Ring(issuer=ISSUER, generation=1))


# --- opening ---------------------------------------------------------------------------------------


async def test_schema_is_the_one_that_the_code_says(rig, other):
    """STORE-5: the migrations make every table and column of the schema, with the names that it gives."""
    rows = await other.fetch(
        "SELECT table_name, column_name, is_nullable FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name <> 'alembic_version'"
    )
    assert {(table, column, nullable == "YES") for table, column, nullable in rows} == {
        (table.name, column.name, column.nullable)
        for table in METADATA.tables.values()
        for column in table.columns
    }
    named = {
        name for (name,) in await other.fetch("SELECT indexname FROM pg_indexes WHERE schemaname = 'public'")
    }
    for table in METADATA.tables.values():
        assert {index.name for index in table.indexes} <= named


async def test_database_of_somebody_else_is_left_alone(database):
    """STORE-5: a database with other tables is damaged to us, and none of ours is made in it."""
    async with raw(database) as other:
        await other.execute("CREATE TABLE invoices (id integer)")
        with pytest.raises(StoreDamaged, match="not one of Mintmark"):
            await new_store(database).open()
        tables = await other.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert [name for (name,) in tables] == ["invoices"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE schema_compatibility SET usable_from = '9999'", "a newer Mintmark upgraded"),
        ("DROP TABLE log_entries", "lacks the table log_entries"),
        ("DELETE FROM alembic_version", "does not say which schema"),
    ],
)
async def test_schema_that_this_code_cannot_use_is_refused(database, rig, other, change, reason):
    """STORE-5: with a sentence that says what is wrong."""
    await other.execute(change)
    with pytest.raises(StoreDamaged, match=reason):
        await new_store(database).open()


async def test_database_of_another_encoding_is_refused(postgresql):
    """STORE-5: user names are Unicode, so nothing but UTF8 can hold them."""
    postgresql.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(StoreDamaged, match="UTF8"):
            await new_store(postgresql.url("latin")).open()
    finally:
        postgresql.drop_database("latin")


async def test_role_with_no_more_than_the_documented_rights_is_enough(postgresql, database):
    """STORE-5: CREATE on the schema for the first start; a role without it is told so."""
    name = make_url(database).database
    postgresql.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    url = make_url(database).set(username="plain", password="plain").render_as_string(hide_password=False)
    try:
        with pytest.raises(StoreUnavailable, match="lacks a privilege"):
            await new_store(url).open()
        postgresql.execute("GRANT CREATE ON SCHEMA public TO plain", database=name)
        async with opened(url) as rig:
            session, token = await rig.logged_in(*await rig.someone())
            assert isinstance(await redeem(rig.store, session, token), Redeem)
            assert await rig.store.sessions.end(ISSUER, session.rid, cause=LOGOUT, timing=TIMING)
    finally:
        postgresql.drop_database(name)
        postgresql.execute("DROP ROLE plain")


@pytest.mark.parametrize(
    "url", ["postgresql:", "postgresql://", "postgresql://db", "postgresql:///x", "postgresql://u:p@h:x/d"]
)
def test_url_without_a_server_or_a_database_is_refused(url):
    """from_url names the setting, and repeats nothing of the URL."""
    with pytest.raises(ConfigurationError, match="store:"):
        from_url(url, clock=FakeClock(), entropy=SYSTEM_ENTROPY)


async def test_patience_of_a_test_is_not_the_default():
    """The bounds that these tests use are theirs alone."""
    assert Bounds() == BOUNDS != PATIENT


async def test_revocation_is_one_statement_that_commits_itself(rig, monkeypatch):
    """V1, LOG-5: between two statements of a client that pauses nobody else's append would wait, so there
    is no second one, and no transaction around the first; neither to claim what clients are to be told."""
    user, client = await rig.someone()
    session, _ = await rig.logged_in(user, client)
    await rig.store.revocations.head(ISSUER)
    log, connections = rig.store.revocations, rig.store._connections
    begun: list[Any] = []
    run, executed = connections.run, []

    async def watched(work, *, begin=None, **options):
        begun.append(begin)
        return await run(work, begin=begin, **options)

    monkeypatch.setattr(connections, "run", watched)
    engine = connections._engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *said: executed.append(said[2]))
    token = IssuedToken(jti=Jti("jti"), client_id=client.client_id, rid=session.rid, exp=session.last_exp)
    for operation in (
        lambda: log.revoke_token(ISSUER, token, cause="test", timing=TIMING),
        lambda: log.revoke_client(ISSUER, client.client_id, cause="test", timing=TIMING),
        lambda: log.revoke_all(ISSUER, cause="test", timing=TIMING),
        lambda: rig.store.sessions.end(ISSUER, session.rid, cause=LOGOUT, timing=TIMING),
        lambda: rig.store.outbox.claim(ISSUER, NodeId("node"), span=Seconds(1), limit=1),
    ):
        begun.clear()
        executed.clear()
        await operation()
        assert begun == [None]
        assert len(executed) == 1, executed
    kinds = [entry.event.kind for entry in await read_log(rig.store)]
    assert kinds == [Kind.JTI, Kind.CLIENT, Kind.ALL, Kind.RID]


@pytest.mark.parametrize("limit", ["session", "client"])
async def test_revocations_that_counted_together_pass_no_limit(rig, other, limit):
    """LOG-6, V4: all have seen one event less than the limit, and then wait for the head; one appends."""
    session, _ = await rig.logged_in(*await rig.someone())
    most = JTI_A_SESSION if limit == "session" else JTI_A_CLIENT
    rid = session.rid if limit == "session" else None
    await rig.store.revocations.head(ISSUER)
    rows = """
    INSERT INTO revoked_tokens SELECT issuer, 'before-' || n, $1, 'shop', $2
    FROM log_heads, generate_series(1, $3::int) AS n
    """
    await other.execute(rows, rid, session.last_exp, most - 1)
    tokens = [
        IssuedToken(jti=Jti(f"jti-{n}"), client_id=session.client_id, rid=rid, exp=session.last_exp)
        for n in range(CONNECTIONS)
    ]
    async with other.transaction():
        await other.execute("UPDATE log_heads SET seq = seq")
        revoking = [
            asyncio.ensure_future(
                rig.store.revocations.revoke_token(ISSUER, token, cause="test", timing=TIMING)
            )
            for token in tokens
        ]
        await waiting(other, len(tokens))
    outcomes = await asyncio.gather(*revoking)
    assert outcomes.count(Admission.APPEND) == 1
    refused = Admission.END_SESSION if limit == "session" else Admission.REFUSE
    assert outcomes.count(refused) == len(tokens) - 1
    log = await read_log(rig.store)
    assert sum(entry.event.kind is Kind.JTI for entry in log) == 1


async def test_revocations_far_from_a_limit_do_not_make_each_other_wait_twice(rig, other):
    """LOG-6, V1: those that waited for the head together append in one statement each."""
    session, _ = await rig.logged_in(*await rig.someone())
    await rig.store.revocations.head(ISSUER)
    executed: list[str] = []
    engine = rig.store._connections._engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *said: executed.append(said[2]))
    async with other.transaction():
        await other.execute("UPDATE log_heads SET seq = seq")
        revoking = [
            asyncio.ensure_future(
                rig.store.revocations.revoke_token(
                    ISSUER,
                    IssuedToken(
                        jti=Jti(f"jti-{n}"), client_id=session.client_id, rid=None, exp=session.last_exp
                    ),
                    cause="test",
                    timing=TIMING,
                )
            )
            for n in range(CONNECTIONS)
        ]
        await waiting(other, CONNECTIONS)
    assert set(await asyncio.gather(*revoking)) == {Admission.APPEND}
    assert sum("revoked_tokens" in statement for statement in executed) == CONNECTIONS
