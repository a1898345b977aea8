"""What several processes do to one SQLite file at once; each is a real one."""

import asyncio
import re
import sqlite3

import pytest

from mintmark.adapters.sql.sqlite import SqliteStore
from mintmark.core.sessions import EndCause
from mintmark.errors import StoreUnavailable
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.conformance.rig import ISSUER, TIMING, Rig, read_log, redeem


def new_store(path) -> SqliteStore:
    return SqliteStore(path, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)


async def rig_on(store: SqliteStore) -> Rig:
    """A rig whose sessions are dated by the machine's clock, as those of the other processes are."""
    await store.open()
    return Rig(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)  # type: ignore[arg-type]


async def test_ten_processes_open_an_absent_file_at_once(tmp_path, workers):
    """STORE-5, F07: one schema and one log come of it, every opener works, and nobody fails."""
    path = tmp_path / "store.db"
    workers.start("open", path, count=10)
    workers.go()
    said = await asyncio.to_thread(workers.results)
    assert len({result["genesis"] for result in said}) == 1
    store = new_store(path)
    await store.open()
    members = (await store.keyring.read(ISSUER)).members
    await store.close()
    assert {member.node for member in members} == {result["node"] for result in said}
    assert (path.stat().st_mode & 0o777) == 0o600


async def test_each_generation_of_the_ring_has_one_winner(tmp_path, workers):
    """RING-1, F03: four processes that swap as fast as they can never win the same generation."""
    path = tmp_path / "store.db"
    workers.start("swap", path, "25", count=4)
    workers.go()
    said = await asyncio.to_thread(workers.results)
    assert sorted(generation for won in said for generation in won) == list(range(1, 101))


async def test_hundred_redemptions_in_four_processes_make_one_successor(tmp_path, workers):
    """SESSION-1, R1, I4, F27: every answer holds the same refresh token, byte for byte."""
    path = tmp_path / "store.db"
    rig = await rig_on(new_store(path))
    session, token = await rig.logged_in(*await rig.someone())
    workers.start("redeem", path, token.text(), count=4)
    workers.go()
    said = await asyncio.to_thread(workers.results)
    view = await rig.store.sessions.read(ISSUER, session.rid)
    await rig.store.close()
    assert sum(len(result["tokens"]) for result in said) == 100
    assert len({text for result in said for text in result["tokens"]}) == 1
    assert sum(result["rotated"] for result in said) == 1
    assert view.session is not None
    assert view.session.generation == 1


async def test_commit_wakes_the_bus_of_other_processes(tmp_path, workers):
    """BUS-2: a process that waits for a minute reads what another one wrote, because it was woken."""
    path = tmp_path / "store.db"
    rig = await rig_on(new_store(path))
    session, _ = await rig.logged_in(*await rig.someone())
    workers.start("follow", path, count=2)
    workers.go()
    assert await rig.store.sessions.end(ISSUER, session.rid, cause=EndCause.LOGOUT, timing=TIMING)
    said = await asyncio.to_thread(workers.results)
    await rig.store.close()
    assert [result["head"] for result in said] == [1, 1]


async def check_stream(path, said) -> None:
    """Everything that the process said it had done is in the file, and nothing is there in half."""
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = dict(raw.execute("SELECT rid, version FROM sessions"))
        ended = dict(raw.execute("SELECT rid, ended_at FROM sessions WHERE ended_at IS NOT NULL"))
    raw.close()
    for what, rid in said:
        match what:
            case "started":
                assert rid in rows
            case "rotated":
                assert rows[rid] >= 1
            case "ended":
                assert rid in ended
    store = new_store(path)
    await store.open()
    log = await read_log(store)
    await store.close()
    # Whoever ended is on the log, and nobody else.
    assert {entry.event.value for entry in log} == ended.keys()
    assert [entry.cursor.seq for entry in log] == list(range(1, len(log) + 1))


async def stream(path, workers) -> None:
    """A process that is ready to write for ever."""
    rig = await rig_on(new_store(path))
    await rig.logged_in(*await rig.someone())
    await rig.store.close()
    workers.start("write", path)


async def test_what_was_answered_survives_kill_9(tmp_path, workers):
    """STORE-1, I7, F33: of a stream of writes each that was acknowledged is in the file, whole."""
    path = tmp_path / "store.db"
    await stream(path, workers)
    workers.go()
    said = [await asyncio.to_thread(workers.read) for _ in range(300)]
    said += await asyncio.to_thread(workers.kill)
    await check_stream(path, said)


@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
@pytest.mark.parametrize("when", [1, 4, 23])
async def test_what_was_answered_survives_a_kill_within_a_commit(tmp_path, workers, call, when):
    """STORE-1, I7, F01: the same where the process dies in the middle of writing or of syncing."""
    path = tmp_path / "store.db"
    await stream(path, workers)
    with workers.injecting(f"{call}:signal=SIGKILL:when={when}"):
        workers.go()
        said = await asyncio.to_thread(workers.drain)
    await check_stream(path, said)


@pytest.mark.parametrize("when", [1, 8, 20, 32, 40])
async def test_open_that_was_killed_is_finished_by_the_next(tmp_path, workers, when):
    """STORE-5, F01, F07: a process that dies as it makes the schema leaves the next one nothing to mend."""
    path = tmp_path / "store.db"
    workers.start("open", path)
    with workers.injecting(f"pwrite64:signal=SIGKILL:when={when}"):
        workers.go()
        assert await asyncio.to_thread(workers.drain) == []
    rig = await rig_on(new_store(path))
    assert await rig.logged_in(*await rig.someone())
    await rig.store.close()


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "writes"])
async def test_lock_that_another_process_holds(tmp_path, workers, reads):
    """STORE-2, I8, F17: writing gives up as unavailable and works again later; reading is not held up."""
    path = tmp_path / "store.db"
    rig = await rig_on(new_store(path))
    session, token = await rig.logged_in(*await rig.someone())
    workers.start("lock", path)
    if reads:
        assert (await rig.store.sessions.read(ISSUER, session.rid)).session == session
        assert (await rig.store.keyring.read(ISSUER)).ring.generation == 0
    else:
        waiting = [redeem(rig.store, session, token) for _ in range(3)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        # On a busy machine the caller's patience may end before the lock's.
        assert re.search("locked|did not answer in time", str(outcomes[0]))
    workers.go()
    await asyncio.to_thread(workers.results)
    assert await rig.store.sessions.end(ISSUER, session.rid, cause=EndCause.LOGOUT, timing=TIMING)
    await rig.store.close()


@pytest.mark.parametrize(
    "fault",
    [
        "fdatasync:error=EIO:when=4+4",
        "fdatasync:error=ENOSPC:when=3..5",
        "pwrite64:error=ENOSPC:when=20+17",
        "pwrite64:error=EIO:when=31+13",
    ],
)
async def test_disk_that_fails_now_and_then_loses_nothing_that_was_answered(tmp_path, workers, fault):
    """STORE-1, I7, F33: whichever system call fails, each caller was refused or his row is in the file."""
    path = tmp_path / "store.db"
    workers.start("beat", path)
    with workers.injecting(fault):
        workers.go()
        said = await asyncio.to_thread(workers.read)
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = {node for (node,) in raw.execute("SELECT node FROM nodes")}
    raw.close()
    assert len(said["kept"]) + len(said["refused"]) == 200
    assert said["refused"]
    assert rows.issuperset(said["kept"])


async def test_full_disk_refuses_what_it_cannot_keep(tmp_path, workers):
    """STORE-1, STORE-2, I7, F33: past the limit writes are unavailable, reads work, and what was answered is
    there; once there is room again writes work without a restart."""
    path = tmp_path / "store.db"
    rig = await rig_on(new_store(path))
    await rig.logged_in(*await rig.someone())
    await rig.store.close()
    workers.start("limit", path, str(512 * 1024))
    workers.go()
    (said,) = await asyncio.to_thread(workers.results)
    assert len(said["refused"]) == 3
    assert {"sqlite" in text.lower() or "SELECT" in text for text in said["refused"]} == {False}
    assert all(text.startswith(str(path)) for text in said["refused"])
    assert said["read"]
    assert said["again"]
    with sqlite3.connect(path) as raw:
        rows = {rid for (rid,) in raw.execute("SELECT rid FROM sessions")}
    raw.close()
    assert said["started"]
    assert rows.issuperset(said["started"])
