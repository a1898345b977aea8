"""What several processes do to one PostgreSQL database at once; each is a real one."""

import asyncio
import signal

import pytest
from tests.adapters.postgres import opened, raw
from tests.postgresql import postgresql_server

from mintmark.testing.conformance.rig import ISSUER, read_log

pytestmark = pytest.mark.timeout(600)


async def test_ten_processes_open_an_empty_database_at_once(database, workers):
    """STORE-5, F07: one schema and one log come of it, every opener works, and nobody fails."""
    workers.start("open", database, count=10)
    workers.go()
    said = await asyncio.to_thread(workers.results)
    assert len({result["genesis"] for result in said}) == 1
    async with opened(database) as rig:
        members = (await rig.store.keyring.read(ISSUER)).members
    assert {member.node for member in members} == {result["node"] for result in said}


async def test_each_generation_of_the_ring_has_one_winner(database, workers):
    """RING-1, F03: four processes that swap as fast as they can never win the same generation."""
    async with opened(database):
        workers.start("swap", database, "25", count=4)
    workers.go()
    said = await asyncio.to_thread(workers.results)
    assert sorted(generation for won in said for generation in won) == list(range(1, 101))


async def test_hundred_redemptions_in_four_processes_make_one_successor(database, workers):
    """SESSION-1, R1, I4, F27: every answer holds the same refresh token, byte for byte."""
    async with opened(database) as rig:
        session, token = await rig.logged_in(*await rig.someone())
        workers.start("redeem", database, token.text(), count=4)
        workers.go()
        said = await asyncio.to_thread(workers.results)
        view = await rig.store.sessions.read(ISSUER, session.rid)
    assert sum(len(result["tokens"]) for result in said) == 100
    assert len({text for result in said for text in result["tokens"]}) == 1
    assert sum(result["rotated"] for result in said) == 1
    assert view.session.generation == 1


async def check_stream(url, said) -> None:
    """Everything that the process said it had done is in the database, and nothing is there in half."""
    async with raw(url) as other:
        found = await other.fetch("SELECT rid, version, ended_at IS NOT NULL AS ended FROM sessions")
    rows = {row["rid"]: row for row in found}
    assert {what for what, _ in said} == {"started", "rotated", "ended"}
    for what, rid in said:
        assert rid in rows
        assert what == "started" or rows[rid]["version"] >= 1
        assert what != "ended" or rows[rid]["ended"]
    async with opened(url) as rig:
        log = await read_log(rig.store)
    # Whoever ended is on the log, and nobody else.
    assert {entry.event.value for entry in log} == {rid for rid, row in rows.items() if row["ended"]}
    assert [entry.cursor.seq for entry in log] == list(range(1, len(log) + 1))


async def stream(url, workers):
    """A process that writes, and what it has said so far."""
    async with opened(url) as rig:
        await rig.logged_in(*await rig.someone())
    workers.start("write", url)
    workers.go()
    return [await asyncio.to_thread(workers.read) for _ in range(300)]


async def test_what_was_answered_survives_kill_9(database, workers):
    """STORE-1, I7, F33: of a stream of writes each that was acknowledged is in the database, whole."""
    said = await stream(database, workers)
    said += await asyncio.to_thread(workers.kill)
    await check_stream(database, said)


async def test_what_was_answered_survives_the_end_of_the_server(workers):
    """STORE-1, I7, F33: the same where it is the server that ends without a warning, and recovers."""
    with postgresql_server() as server:
        url = server.create_database("m")
        said = await stream(url, workers)
        server.stop(signal.SIGQUIT)
        said += await asyncio.to_thread(workers.drain)
        server.start()
        await check_stream(url, said)
