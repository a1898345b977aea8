"""A PostgreSQL that stops, hangs, resets, refuses or is read-only, and the store that goes on by itself."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text
from tests.adapters.postgres import PATIENT, left_behind, new_store, opened, raw, until, waiting
from tests.postgresql import empty_database, postgresql_server

from mintmark.adapters.sql.postgres import CONNECTIONS, Bounds
from mintmark.cli.demonstration.front import Backend, Fault, Front
from mintmark.cli.demonstration.postgresql import PostgresqlServer
from mintmark.core import sessions
from mintmark.core.sessions import EndCause, Redeem
from mintmark.errors import StoreUnavailable
from mintmark.ports.budget import Budget
from mintmark.system import SYSTEM_CLOCK
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.rig import ISSUER, TIMING, read_log, redeem
from mintmark.units import Kid, NodeId, NumericDate

LOGOUT = EndCause.LOGOUT
HASTY = 0.3
"""Seconds for operations that are to fail, so that the tests need not wait for long."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    """A server of these tests' own, which they stop and pause."""
    with postgresql_server() as started:
        yield started


@pytest.fixture
def url(server) -> Iterator[str]:
    """An empty database on it."""
    with empty_database(server) as url:
        yield url


@pytest.fixture
async def rig(url):
    async with opened(url) as rig:
        yield rig
    assert not left_behind()


@asynccontextmanager
async def fronted(server, url):
    """A front on the way to the database, and a rig on the store behind it."""
    front = Front([Backend("127.0.0.1", server.port)], ready_path=None, clock=SYSTEM_CLOCK)
    await front.open()
    try:
        behind = make_url(url).set(port=front.port).render_as_string(hide_password=False)
        async with opened(behind) as rig:
            yield front, rig
    finally:
        await front.close()


@contextmanager
def hurried(rig: Any) -> Iterator[None]:
    """Operations are given up soon while this lasts."""
    connections = rig.store._connections
    connections._patience = HASTY
    yield
    connections._patience = PATIENT.operation / 1_000


@contextmanager
def frozen(server: PostgresqlServer) -> Iterator[None]:
    """No process of the server does anything while this lasts."""
    pids = [server.pid]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
        pids += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


async def fill(rig: Any) -> None:
    """Have every connection that the store may have."""
    await asyncio.gather(
        *(rig.store.read(lambda c: c.execute(text("SELECT pg_sleep(0.1)"))) for _ in range(99))
    )
    assert len(rig.store._connections._idle) == CONNECTIONS


async def outcomes(rig: Any, session: Any, *, times: int = 1) -> list[Any]:
    """What reads, single statements and transactions come to."""
    store = rig.store
    change = Redeem(before=session, after=session, token=None, rotated=False)  # type: ignore[arg-type]
    node = NodeId("a")
    operations = [
        operation
        for _ in range(times)
        for operation in (
            store.now(),
            store.keyring.read(ISSUER),
            store.sessions.read(ISSUER, session.rid),
            store.sessions.redeem(change),
            store.keyring.beat(ISSUER, node, ring_generation=0),
            store.directory.set_password(ISSUER, session.sub, "x", timing=TIMING),
        )
    ]
    return list(await asyncio.gather(*operations, return_exceptions=True))


def all_refused(found: list[Any]) -> bool:
    return {type(one) for one in found} == {StoreUnavailable}


def none_refused(found: list[Any]) -> bool:
    return not any(isinstance(one, BaseException) for one in found)


async def test_restarted_server_is_used_again_without_a_word(server, rig):
    """STORE-2, F11: all is refused while it is away; afterwards nothing is, though every connection died."""
    session, _ = await rig.logged_in(*await rig.someone())
    await fill(rig)
    server.stop()
    assert all_refused(await outcomes(rig, session))
    server.start()
    assert none_refused(await outcomes(rig, session))
    await fill(rig)
    server.stop(signal.SIGQUIT)
    assert all_refused(await outcomes(rig, session))
    server.start()
    assert none_refused(await outcomes(rig, session))
    assert (await rig.store.sessions.read(ISSUER, session.rid)).session.sub == session.sub


async def test_restart_that_nobody_noticed_costs_no_read_and_no_transaction(server, rig):
    """STORE-2: where every connection died unseen, what has not begun is begun on a new one."""
    session, _ = await rig.logged_in(*await rig.someone())
    for operation in (
        rig.store.now,
        lambda: rig.store.keyring.read(ISSUER),
        lambda: rig.store.sessions.read(ISSUER, session.rid),
        lambda: rig.store.keyring.beat(ISSUER, NodeId("a"), ring_generation=0),
    ):
        await fill(rig)
        # Blocks the event loop, so that it does not see the connections end.
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mintmark'"
        )
        await operation()


async def test_server_that_hangs_is_answered_for(server, rig):
    """STORE-2, F15: every caller gets an answer, more of them than there are connections; later they work."""
    session, _ = await rig.logged_in(*await rig.someone())
    await fill(rig)
    with frozen(server), hurried(rig):
        assert all_refused(await outcomes(rig, session, times=5))
        assert all_refused(await outcomes(rig, session))
        assert not rig.store._connections._idle
    assert none_refused(await outcomes(rig, session))


async def test_store_closes_while_its_server_hangs(server, url):
    """STORE-2: what is under way is refused, and nothing of it is left."""
    async with opened(url) as rig:
        session, _ = await rig.logged_in(*await rig.someone())
        await fill(rig)
        with frozen(server), hurried(rig):
            under_way = asyncio.ensure_future(outcomes(rig, session, times=3))
            await asyncio.sleep(0)
            await rig.store.close()
            assert all_refused(await under_way)
    assert not left_behind()


@pytest.mark.parametrize("fault", [Fault.BLACKHOLE, Fault.RESET, Fault.HALF_OPEN])
async def test_network_that_fails_is_answered_for(server, url, fault):
    """STORE-2, F16: packets that vanish, either way, and resets are unavailable; later all works again."""
    async with fronted(server, url) as (front, rig):
        session, _ = await rig.logged_in(*await rig.someone())
        await fill(rig)
        front.set(fault)
        with hurried(rig):
            assert all_refused(await outcomes(rig, session, times=3))
        front.set(Fault.PASS)
        assert none_refused(await outcomes(rig, session))
    assert not left_behind()


async def test_open_does_not_wait_for_a_server_that_says_nothing(server, url):
    """STORE-2: a store is unavailable where nobody answers, and opens where somebody does."""
    front = Front([Backend("127.0.0.1", server.port)], ready_path=None, clock=SYSTEM_CLOCK)
    await front.open()
    front.set(Fault.BLACKHOLE)
    behind = make_url(url).set(port=front.port).render_as_string(hide_password=False)
    with pytest.raises(StoreUnavailable, match="did not answer in time"):
        await new_store(behind, bounds=replace(PATIENT, operation=300)).open()
    front.set(Fault.PASS)
    store = new_store(behind)
    await store.open()
    await store.close()
    await front.close()
    assert not left_behind()


async def test_open_of_what_is_no_postgresql_is_unavailable():
    """STORE-2: whatever a server says that speaks another protocol, it is unavailable."""
    for said in (
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"N" + bytes(64),
        b"E\0\0\0\4",
        b"S" * 64,
        b"\xff" * 4096,
        b"",
    ):

        async def speak(reader, writer, said=said):
            writer.write(said)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        stranger = await asyncio.start_server(speak, "127.0.0.1", 0)
        port = stranger.sockets[0].getsockname()[1]
        with pytest.raises(StoreUnavailable):
            await new_store(
                f"postgresql://u:geheim@127.0.0.1:{port}/m", bounds=replace(PATIENT, operation=2_000)
            ).open()
        stranger.close()
        await stranger.wait_closed()


async def test_answer_to_a_commit_that_is_lost_makes_no_second_successor(server, url):
    """R2, F19: the refresh whose answer was lost was done; asked again, it gives the same token."""
    async with fronted(server, url) as (front, rig):
        session, token = await rig.logged_in(*await rig.someone())
        # In the statement that takes it; what reads the row has it too, and comes first.
        view = await rig.store.sessions.read(ISSUER, session.rid)
        verdict = _decided(view, token)
        front.reset_after(None, verdict.after.rid.encode())
        with pytest.raises(StoreUnavailable):
            await rig.store.sessions.redeem(verdict)
        row = (await rig.store.sessions.read(ISSUER, session.rid)).session
        assert row == verdict.after
        again = await redeem(rig.store, session, token)
        assert isinstance(again, Redeem)
        assert again.token.text() == verdict.token.text()


@asynccontextmanager
async def locked(url):
    """Somebody holds the sessions, so that nobody can write them; they can be read."""
    async with raw(url) as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("LOCK TABLE sessions IN SHARE MODE")
        yield other
        await transaction.rollback()


async def test_redemption_of_a_request_without_time_makes_no_second_successor(url, rig):
    """R2, STORE-7, F17: its caller is refused when its time is up, and its connection kept; it is done once
    the server gets to it, and asked again it gives the same token."""
    session, token = await rig.logged_in(*await rig.someone())
    verdict = _decided(await rig.store.sessions.read(ISSUER, session.rid), token)
    await fill(rig)
    async with locked(url) as other:
        # By a clock that stands still: what passes in reality depends on the machine.
        with Budget(FakeClock(), 0.05).covering():
            redeeming = asyncio.ensure_future(rig.store.sessions.redeem(verdict))
            await waiting(other, 1)
            with pytest.raises(StoreUnavailable, match="this request"):
                await redeeming
        assert (await rig.store.sessions.read(ISSUER, session.rid)).session == session
    await until(lambda: len(rig.store._connections._idle) == CONNECTIONS)
    assert (await rig.store.sessions.read(ISSUER, session.rid)).session == verdict.after
    again = await redeem(rig.store, session, token)
    assert isinstance(again, Redeem)
    assert again.token.text() == verdict.token.text()


async def test_request_without_time_leaves_nothing_to_a_server_that_hangs(server, rig):
    """STORE-7, F15: what a request left to the server is cut off when its own time is up, and what waited
    for a connection is never done."""
    session, _ = await rig.logged_in(*await rig.someone())
    await fill(rig)
    with hurried(rig), frozen(server):
        with Budget(FakeClock(), HASTY / 10).covering():
            found = await outcomes(rig, session, times=5)
        assert all_refused(found)
        assert {"this request" in str(one) for one in found} == {True}
        await until(lambda: not left_behind())
    assert none_refused(await outcomes(rig, session))


def _decided(view, token):
    verdict = sessions.decide(view.session, token, view.session.client_id, timing=TIMING, now=view.now)
    assert isinstance(verdict, Redeem)
    exp = NumericDate(view.now + TIMING.access_ttl)
    return sessions.with_access_token(verdict, exp=exp, kid=Kid("kid"))


async def test_answer_to_a_transaction_that_is_lost_is_unavailable(server, url):
    """STORE-1, F19: whoever is told that it is unavailable finds it done whole, or not at all."""
    async with fronted(server, url) as (front, rig):
        session, _ = await rig.logged_in(*await rig.someone())
        front.reset_after(None, b"COMMIT")
        with pytest.raises(StoreUnavailable):
            await rig.store.directory.set_password(ISSUER, session.sub, "new", timing=TIMING)
        user = await rig.store.directory.user(ISSUER, session.sub)
        ended = (await rig.store.sessions.read(ISSUER, session.rid)).session.ended_at is not None
        assert (user.password_hash == "new") is ended is bool(await read_log(rig.store))
        assert ended


@pytest.mark.parametrize("where", ["database", "server"])
async def test_read_only_server_is_read(server, url, rig, where):
    """STORE-2, F12: reads go on, writes are unavailable and say why; then they work, without a restart."""
    name = make_url(url).database
    if where == "database":
        begin = f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'
        end = f'ALTER DATABASE "{name}" RESET default_transaction_read_only'
    else:
        begin = "ALTER SYSTEM SET default_transaction_read_only = on"
        end = "ALTER SYSTEM RESET default_transaction_read_only"
    session, token = await rig.logged_in(*await rig.someone())
    await fill(rig)
    server.execute(begin)
    server.execute("SELECT pg_reload_conf()")
    server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mintmark'"
    )
    try:
        async with asyncio.timeout(60):
            while "read-only" not in await _written(rig):
                pass
        assert (await rig.store.sessions.read(ISSUER, session.rid)).session == session
        assert await rig.store.keyring.read(ISSUER)
        with pytest.raises(StoreUnavailable, match="read-only"):
            await redeem(rig.store, session, token)
    finally:
        server.execute(end)
        server.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(60):
        while await _written(rig):
            pass
    assert isinstance(await redeem(rig.store, session, token), Redeem)


async def _written(rig) -> str:
    """Why a write was refused; nothing where it was not."""
    try:
        await rig.store.keyring.beat(ISSUER, NodeId("a"), ring_generation=0)
    except StoreUnavailable as error:
        return str(error)
    return ""


async def test_password_that_was_changed_is_unavailable_until_it_is_right(server, url):
    """STORE-2, F18: connections that are there go on; new ones are refused, in words without the password."""
    server.execute("CREATE ROLE app SUPERUSER LOGIN PASSWORD 'first'")
    app = make_url(url).set(username="app", password="first").render_as_string(hide_password=False)
    try:
        async with opened(app) as rig:
            session, _ = await rig.logged_in(*await rig.someone())
            server.execute("ALTER ROLE app PASSWORD 'second'")
            assert (await rig.store.sessions.read(ISSUER, session.rid)).session == session
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
            with pytest.raises(StoreUnavailable, match="refused the user or the password") as caught:
                await rig.store.now()
            assert "first" not in str(caught.value)
            server.execute("ALTER ROLE app PASSWORD 'first'")
            assert (await rig.store.sessions.read(ISSUER, session.rid)).session == session
    finally:
        server.drop_database(make_url(url).database)
        server.execute("DROP ROLE app")


async def test_server_with_no_connection_left_is_unavailable(server, url):
    """STORE-2: too many connections are an outage, and one that is free again ends it."""
    name = make_url(url).database
    server.execute("CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 2")
    server.execute("GRANT CREATE ON SCHEMA public TO few", database=name)
    few = make_url(url).set(username="few", password="few").render_as_string(hide_password=False)
    try:
        async with opened(few) as rig:
            async with raw(few):
                asleep = (rig.store.read(lambda c: c.execute(text("SELECT pg_sleep(0.5)"))) for _ in range(2))
                with pytest.raises(StoreUnavailable, match="too many connections"):
                    await asyncio.gather(*asleep)
            async with asyncio.timeout(60):
                while await _written(rig):
                    pass
    finally:
        server.drop_database(name)
        server.execute("DROP ROLE few")


async def test_store_has_no_more_connections_than_it_says(server, url, rig):
    """STORE-2: any number of callers share a few connections, and all are answered."""
    async with raw(url) as other:
        sleeping = asyncio.gather(
            *(rig.store.read(lambda c: c.execute(text("SELECT pg_sleep(0.02)"))) for _ in range(100))
        )
        most = 0
        while not sleeping.done():
            most = max(
                most,
                await other.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mintmark'"
                    " AND datname = current_database()"
                ),
            )
        assert len(await sleeping) == 100
    assert 1 < most <= CONNECTIONS


async def test_callers_that_go_away_leave_nothing_behind(server, rig):
    """STORE-1: what was asked by who has gone is done whole or not at all, and the store works on."""
    user, client = await rig.someone()
    started = [(await rig.logged_in(user, client))[0] for _ in range(40)]
    ending = [
        asyncio.ensure_future(rig.store.sessions.end(ISSUER, one.rid, cause=LOGOUT, timing=TIMING))
        for one in started
    ]
    for turn, one in enumerate(ending):
        one.cancel()
        for _ in range(turn % 4):
            await asyncio.sleep(0)
    await asyncio.gather(*ending, return_exceptions=True)
    await fill(rig)
    live = {one.rid for one in await rig.store.sessions.list(ISSUER)}
    logged = [entry.event.value for entry in await read_log(rig.store)]
    assert sorted(logged) == sorted({one.rid for one in started} - live)
    assert await rig.store.sessions.end_all(ISSUER, user.sub, cause=LOGOUT, timing=TIMING) is not None


async def test_callers_that_go_away_from_a_server_that_hangs(server, rig):
    """STORE-2: their connections are cut off too, though nobody waits."""
    session, _ = await rig.logged_in(*await rig.someone())
    await fill(rig)
    with frozen(server), hurried(rig):
        asking = [asyncio.ensure_future(rig.store.now()) for _ in range(20)]
        await asyncio.sleep(0)
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await until(lambda: not left_behind())
    assert none_refused(await outcomes(rig, session))


async def rebound(rig: Any, bounds: Bounds) -> None:
    """Have the store's next connections, and its operations, bounded like this."""
    rig.store._bounds = bounds
    rig.store._connections._patience = bounds.operation / 1_000
    await rig.store._connections._drop_idle()


async def test_client_that_pauses_in_a_transaction_has_done_nothing(server, rig):
    """LOG-5, STORE-1: the server ends it, what it had written is gone, and it is told so."""
    session, _ = await rig.logged_in(*await rig.someone())
    await rebound(rig, replace(PATIENT, idle=100))

    def pause(connection):
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar()
        connection.execute(text("UPDATE sessions SET ended_at = 1"))
        while server.execute(f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}") != "0":
            pass
        connection.execute(text("UPDATE sessions SET ended_at = 2"))

    with pytest.raises(StoreUnavailable):
        await rig.store.write(pause)
    await rebound(rig, PATIENT)
    assert (await rig.store.sessions.read(ISSUER, session.rid)).session == session


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        (replace(PATIENT, lock=100), "locked by another process"),
        (replace(PATIENT, statement=100), "did not answer in time"),
        (replace(PATIENT, operation=500), "did not answer in time"),
    ],
    ids=["lock", "statement", "operation"],
)
async def test_lock_that_is_not_let_go_of_is_unavailable(url, rig, bounds, reason):
    """STORE-2, F17: whichever bound it meets first; it is done later, and once."""
    session, _ = await rig.logged_in(*await rig.someone())
    async with raw(url) as other, other.transaction():
        await other.execute("UPDATE sessions SET version = version")
        await rebound(rig, bounds)
        with pytest.raises(StoreUnavailable, match=reason):
            await rig.store.sessions.end(ISSUER, session.rid, cause=LOGOUT, timing=TIMING)
        await rebound(rig, PATIENT)
        assert (await rig.store.sessions.read(ISSUER, session.rid)).session == session
    # Where it was cut off, the server may have gone on with it.
    await rig.store.sessions.end(ISSUER, session.rid, cause=LOGOUT, timing=TIMING)
    assert len(await read_log(rig.store)) == 1
