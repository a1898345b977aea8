"""The bus over an SQLite file hears every commit, whoever made it, and survives the file."""

import asyncio
import shutil
import sqlite3
from contextlib import closing

import pytest

from mintmark.adapters.sqlite_bus import INTERVAL, SqliteBus
from mintmark.testing.clock import FakeClock

LONG = 600.0


def commit(path):
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER)")
        raw.execute("INSERT INTO t VALUES (1)")
        raw.commit()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA journal_mode = WAL")
    commit(path)
    return path


@pytest.fixture
async def bus(path):
    bus = SqliteBus(path, clock=FakeClock())
    await bus.open()
    yield bus
    await bus.close()


async def look(bus):
    """Let the bus look at the file once."""
    await bus._clock.armed(within=INTERVAL)
    bus._clock.advance(INTERVAL)
    await bus._clock.armed(within=INTERVAL)


async def test_commit_that_nobody_announced_is_heard(bus, path):
    """BUS-2: a process that died between its commit and its announcement is heard at the next look."""
    listener = bus.subscribe()
    commit(path)
    await look(bus)
    assert await listener.wait(LONG)


async def test_quiet_file_wakes_nobody(bus, path):
    """What was committed before the bus opened, and looking itself, is no news."""
    listener = bus.subscribe()
    for _ in range(5):
        await look(bus)
    assert not await listener.wait(0)


async def test_many_commits_between_two_looks_wake_once(bus, path):
    """However busy the file is, a listener is woken once a look."""
    listener = bus.subscribe()
    for _ in range(10):
        commit(path)
    await look(bus)
    assert await listener.wait(LONG)
    assert not await listener.wait(0)


async def test_file_that_comes_later_is_waited_for(tmp_path):
    """BUS-5: a bus opens before its file is there, and hears the commit that makes it."""
    path = tmp_path / "store.db"
    bus = SqliteBus(path, clock=FakeClock())
    await bus.open()
    listener = bus.subscribe()
    await look(bus)
    assert not await listener.wait(0)
    assert not path.exists()
    commit(path)
    await look(bus)
    assert await listener.wait(LONG)
    await bus.close()


async def test_file_that_broke_and_came_back_is_news(bus, path, tmp_path):
    """BUS-5: while the file cannot be read nothing is raised, and what it holds then wakes the listeners."""
    listener = bus.subscribe()
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(path)) as raw, closing(sqlite3.connect(copy)) as target:
        raw.backup(target)
    bus._disconnect()
    for file in tmp_path.glob("store.db*"):
        file.unlink()
    for _ in range(3):
        await look(bus)
    assert not await listener.wait(0)
    shutil.copy(copy, path)
    await look(bus)
    assert await listener.wait(LONG)


async def test_write_lock_of_another_delays_no_look(bus, path):
    """A look takes no lock that a writer holds, so a writer that pauses stops no event loop."""
    listener = bus.subscribe()
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("INSERT INTO t VALUES (2)")
        await look(bus)
        assert not await listener.wait(0)
        raw.execute("COMMIT")
        await look(bus)
        assert await listener.wait(LONG)


async def test_wait_that_was_woken_leaves_no_timer(bus, path):
    """However often a listener is woken, no timer of its waits is left behind."""
    listener = bus.subscribe()
    for _ in range(3):
        waiting = asyncio.ensure_future(listener.wait(LONG))
        await bus._clock.armed(within=LONG, beyond=1)
        await bus.announce()
        assert await waiting
        await asyncio.sleep(0)
    assert [span for span in bus._clock.armed_spans() if span > INTERVAL] == []


async def test_second_waiter_is_a_mistake(bus):
    """One subscription is one listener: a second place would steal its wake-ups."""
    listener = bus.subscribe()
    waiting = asyncio.ensure_future(listener.wait(LONG))
    await bus._clock.armed(within=LONG, beyond=1)
    with pytest.raises(RuntimeError, match="one place"):
        await listener.wait(0)
    listener.close()
    assert not await waiting
