"""The bus over PostgreSQL hears what other processes announce, whatever becomes of the server between."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import make_url
from tests.adapters import wakeups
from tests.adapters.wakeups import LONG, PATIENT, counting, hears, listening, missed, until
from tests.postgresql import postgresql_server

from mintmark.adapters.line import CONNECT, LONGEST, PATIENCE, PAUSE, PROBE
from mintmark.adapters.postgres_bus import PostgresBus, from_url
from mintmark.errors import ConfigurationError
from mintmark.ports.bus import BusState
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock

ANNOUNCE = """
import asyncio, sys
from mintmark.adapters.postgres_bus import from_url
from mintmark.system import SYSTEM_CLOCK

async def main():
    bus = from_url(sys.stdin.readline().strip(), clock=SYSTEM_CLOCK)
    await bus.open()
    await bus.announce()
    await asyncio.to_thread(sys.stdin.read)
    await bus.close()

asyncio.run(main())
"""


@pytest.fixture
def server():
    """A server that a test may stop."""
    with postgresql_server() as own:
        yield own
        for pid in processes(own):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def opened(url, clock=None):
    """A bus that goes by a clock of its own: however slow the machine is, it gives nothing up by itself."""
    return wakeups.opened(PostgresBus(make_url(url), clock=clock or FakeClock(), entropy=SYSTEM_ENTROPY))


def processes(server):
    """The server, and each process that it started."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return [server.pid, *map(int, children)]


def connections(server, database="postgres"):
    return int(
        server.execute(
            "SELECT count(*) FROM pg_stat_activity "
            f"WHERE application_name = 'mintmark-bus' AND datname = '{database}'"
        )
    )


def name(url):
    """A database as people are told of it."""
    url = make_url(url)
    return f"{url.host}:{url.port}/{url.database}"


async def test_announcement_of_another_process_is_heard(database):
    """BUS-2: a process that waits for a minute hears what another one announces."""
    async with opened(database) as bus:
        subscription = await listening(bus)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", ANNOUNCE, stdin=subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(f"{database}\n".encode())
        try:
            assert await hears(subscription)
        finally:
            process.stdin.close()
            assert await process.wait() == 0


async def test_bus_that_closes_has_announced(database):
    """What is announced right before closing is sent, even where the connection was not there yet."""
    async with opened(database) as peer:
        subscription = await listening(peer)
        async with opened(database) as bus:
            await bus.announce()
        assert await hears(subscription)


async def test_own_announcement_does_not_come_back(database):
    """A process that announced is not woken a second time by the server."""
    clock = FakeClock()
    async with opened(database, clock) as bus, opened(database, clock) as peer:
        subscription, elsewhere = await listening(bus), await listening(peer)
        heard = counting(bus)
        await bus.announce()
        assert await hears(subscription)
        clock.advance(PAUSE)
        assert await hears(elsewhere)
        # What the peer says now comes behind the echo.
        await peer.announce()
        clock.advance(PAUSE)
        assert await hears(subscription)
        assert heard == [1]


async def test_database_hears_its_own_announcements_only(postgresql, database):
    """Two clusters in two databases of one server do not wake each other."""
    name = f"t{os.urandom(8).hex()}"
    other = postgresql.create_database(name)
    try:
        async with opened(database) as bus, opened(database) as peer, opened(other) as stranger:
            elsewhere, apart = await listening(peer), await listening(stranger)
            await listening(bus)
            await bus.announce()
            assert await hears(elsewhere)
            # Notifications of a server reach everybody in one order.
            await asyncio.to_thread(postgresql.execute, "NOTIFY mintmark", database=name)
            assert await hears(apart)
            assert not await apart.wait(0)
    finally:
        postgresql.drop_database(name)


async def test_flood_of_notifications_wakes_once_a_pause(postgresql, database):
    """However many notifications somebody forges, a subscription wakes once at once and once a pause."""
    clock, flood = FakeClock(), 5_000
    async with opened(database, clock) as bus:
        subscription = await listening(bus)
        heard = counting(bus)
        await asyncio.to_thread(
            postgresql.execute,
            f"SELECT count(pg_notify('mintmark', 'x' || i)) FROM generate_series(1, {flood}) i",
            database=make_url(database).database,
        )
        woken = 0

        async def count():
            nonlocal woken
            while await subscription.wait(LONG):
                woken += 1

        counter = asyncio.create_task(count())
        await until(lambda: len(heard) >= flood, "the flood arrived")
        await until(lambda: woken == 1, "it woke")
        # Whether a part of it came after that is the network's business; if so it wakes now.
        clock.advance(PAUSE)
        await asyncio.to_thread(postgresql.execute, "NOTIFY mintmark", database=make_url(database).database)
        await until(lambda: len(heard) > flood, "one more arrived")
        await until(lambda: woken >= 2, "the last one woke", passing=clock)
        assert woken <= 3
        counter.cancel()


async def test_many_announcements_become_few_notifications(database):
    """A process that announces a thousand times sends one notification now, and one after a pause."""
    clock = FakeClock()
    async with opened(database, clock) as bus, opened(database, clock) as peer:
        await listening(bus)
        await listening(peer)
        heard = counting(peer)
        for _ in range(1_000):
            await bus.announce()
        await until(lambda: len(heard) >= 1, "the first arrived")
        for _ in range(1_000):
            await bus.announce()
        await until(lambda: len(heard) >= 2, "the rest arrived", passing=clock)
        clock.advance(PAUSE)
        await bus.announce()
        await until(lambda: len(heard) >= 3, "the next one arrived", passing=clock)
        # What the two say when they connect may arrive late, and be counted.
        assert len(heard) <= 5


async def test_connection_that_the_server_ended_is_made_anew(postgresql, database):
    """BUS-5, BUS-6: all are woken once the connection is back, and hear the next announcement."""
    async with opened(database) as bus, opened(database) as peer:
        subscription = await listening(bus)
        await listening(peer)
        for _ in range(3):
            await asyncio.to_thread(
                postgresql.execute,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE application_name = 'mintmark-bus' AND datname = '{make_url(database).database}'",
            )
            assert set(await missed(bus, peer)) <= {
                "the database cannot be reached",
                "the database is shutting down",
            }
            assert await hears(subscription)
            await listening(peer)
            await listening(bus)
            assert await hears(subscription)
            assert bus.state == BusState(True, f"postgresql {name(database)}")
        await peer.announce()
        assert await hears(subscription)


async def test_server_that_was_restarted_is_found_again(server):
    """BUS-5: while the server is away announcing works here; once it is back all hear."""
    async with opened(server.url()) as bus, opened(server.url()) as peer:
        here, elsewhere = await listening(bus), await listening(peer)
        await asyncio.to_thread(server.stop)
        await until(lambda: not bus._line._connected and not peer._line._connected, "the server is missed")
        await bus.announce()
        assert await hears(here)
        await asyncio.to_thread(server.start)
        await listening(bus)
        await listening(peer)
        assert await hears(here)
        assert await hears(elsewhere)
        # What was announced meanwhile has arrived before what is announced now.
        await listening(peer)
        await bus.announce()
        assert await hears(elsewhere)


async def test_announcement_made_while_the_server_is_away_is_sent_later(server):
    """What is announced without a connection is announced by the next one."""
    async with opened(server.url()) as bus:
        await listening(bus)
        await asyncio.to_thread(server.stop)
        await until(lambda: not bus._line._connected, "the server is missed")
        await bus.announce()
        await asyncio.to_thread(server.start)
        heard = asyncio.Event()
        listener = await asyncpg.connect(server.url())
        await listener.add_listener("mintmark", lambda *_: heard.set())
        await listening(bus)
        await asyncio.wait_for(heard.wait(), PATIENT)
        await listener.close()


async def test_server_that_stops_without_a_word_is_noticed(server):
    """F23: a server whose connections stay open but silent counts as lost within five seconds; when it goes
    on, so does the bus, and all are woken."""
    clock = FakeClock()
    async with opened(server.url(), clock) as bus:
        subscription = await listening(bus)
        stopped = processes(server)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        await clock.armed(within=PROBE, beyond=PROBE - 1)
        clock.advance(PROBE)
        await clock.armed(within=PATIENCE, beyond=PATIENCE - 0.5)
        assert bus.state.is_up
        clock.advance(PATIENCE)
        assert await missed(bus) == ["the database did not answer in time"]
        assert await hears(subscription)
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        await listening(bus)
        assert await hears(subscription)
        assert bus.state.is_up
        # The connection that was given up is gone from the server too.
        await until(lambda: connections(server) == 1, "one connection is left")


async def test_bus_opens_before_its_server(server):
    """Opening does not wait for the server, and who subscribed is woken when it comes."""
    await asyncio.to_thread(server.stop)
    async with opened(server.url()) as bus:
        subscription = bus.subscribe()
        assert not await subscription.wait(0)
        await asyncio.to_thread(server.start)
        await listening(bus)
        assert await hears(subscription)


async def test_address_that_never_answers_is_tried_again():
    """A connection that is taken and never answered is given up, and another one tried."""
    taken = []
    silent = await asyncio.start_server(lambda _, writer: taken.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    clock = FakeClock()
    try:
        async with opened(f"postgresql://ada:geheim@127.0.0.1:{port}/none", clock) as bus:
            for attempt in (1, 2, 3):
                await until(lambda: len(taken) == attempt, "it was tried")  # noqa: B023
                await clock.armed(within=CONNECT, beyond=CONNECT - 1)
                clock.advance(CONNECT)
                await missed(bus)
                await clock.armed(within=LONGEST)
                if attempt < 3:
                    clock.advance(LONGEST)
    finally:
        for writer in taken:
            writer.close()
        silent.close()
        await silent.wait_closed()


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ("password", "the database refused the user or the password"),
        ("database", "the database does not exist"),
        ("port", "nothing listens there"),
    ],
)
async def test_state_names_the_place_and_no_password(database, caplog, wrong, cause):
    """What is told of a bus that is away names host, port, database and the cause, but no secret."""
    url = make_url(database)
    secret = url.password if wrong != "password" else "geheim-geheim"
    url = {
        "password": url.set(password=secret),
        "database": url.set(database="nowhere"),
        "port": url.set(port=1),
    }[wrong]
    async with opened(url) as bus:
        assert await missed(bus) == [cause]
        assert bus.state.place == f"postgresql {name(url)}"
        assert secret not in caplog.text + repr(bus.state)


async def test_closed_bus_leaves_nothing(postgresql, database):
    """After close there is no task and no connection; closing again, or announcing, is no mistake."""
    name = make_url(database).database
    before = asyncio.all_tasks()
    async with opened(database) as bus:
        await listening(bus)
        assert await asyncio.to_thread(connections, postgresql, name) == 1
        await bus.announce()
        await bus.close()
        assert asyncio.all_tasks() == before
        await bus.announce()
    await until(lambda: connections(postgresql, name) == 0, "the server let go of it")


async def test_bus_closes_while_it_connects(database):
    """Closing at any moment of connecting leaves no task and no connection behind."""
    before = asyncio.all_tasks()
    for turns in range(30):
        async with opened(database):
            for _ in range(turns):
                await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_unix_socket_is_a_place_too(postgresql, database):
    """A URL that names the folder of a Unix socket leads to the same bus."""
    url = make_url(database).set(host=None).update_query_dict({"host": str(postgresql.folder)})
    async with opened(database) as bus, opened(url) as peer:
        await listening(bus)
        subscription = await listening(peer)
        await bus.announce()
        assert await hears(subscription)


@pytest.mark.parametrize(
    "url", ["postgresql:///mintmark", "postgresql://ada@localhost", "postgresql", "postgresql://h:port/d"]
)
def test_url_needs_a_host_and_a_database(url):
    """A URL that leaves the driver to guess is a mistake of the setting."""
    with pytest.raises(ConfigurationError, match=r"database|URL"):
        from_url(url, clock=SYSTEM_CLOCK)
