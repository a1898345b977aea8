"""What a command changes is announced, as what a node changes is."""

import asyncio

import asyncpg  # type: ignore[import-untyped]
from tests.cluster.running import PATIENCE, RunningNode


async def test_session_that_a_command_ends_is_announced(database, tmp_path):
    """I3: nodes on a PostgreSQL store hear of a command at once, not at their next poll."""
    heard = asyncio.Event()
    node = RunningNode(tmp_path, {"store": database})
    listener = await asyncpg.connect(database)
    try:
        await asyncio.to_thread(node.add_user_and_client)
        await listener.add_listener("mintmark", lambda *_: heard.set())
        await asyncio.to_thread(node.run, "users", "disable", "ada")
        await asyncio.wait_for(heard.wait(), PATIENCE)
    finally:
        await listener.close()
        node.end()
