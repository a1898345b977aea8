"""A lone node that dies within seconds of each start: it mints, and its dead keys do not pile up."""

import time
from dataclasses import replace
from itertools import pairwise

import pytest
from tests.cluster.coordinators import Coordinator, World, keys_in, world_on
from tests.cluster.running import running_node

from mintmark.core.key import KeyState
from mintmark.core.keyring import LIVE_FOR, SILENT_FOR, Ring

LIVES = 30


async def live(world: World, seconds: int) -> tuple[Coordinator, Ring]:
    """A node that lives for so long, and the ring at its end."""
    node = world.start()
    return node, await passed(world, seconds)


async def passed(world: World, seconds: int) -> Ring:
    """The ring after so many seconds."""
    for _ in range(seconds - 1):
        await world.second()
    return await world.second()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
@pytest.mark.parametrize("seconds", [5, 7])
async def test_lone_node_in_a_short_crash_loop_mints_in_each_life(request, tmp_path, store, seconds):
    """K6, design 3.4: whatever the bounds say; a key that never signed leaves with its node, and one that
    signed is ended with its lease and kept for what it signed."""
    async with world_on(store, tmp_path, request.getfixturevalue) as world:
        world.timing = replace(world.timing, signers=2, jwks_limit=6)
        for life in range(LIVES):
            node, ring = await live(world, seconds)
            assert await node.can_mint(ring, world.timing), f"life {life} minted nothing"
            assert keys_in(ring, KeyState.PREPARED) == []
            ended = [key for key in keys_in(ring, KeyState.ACTIVE) if key.lease_until < world.clock.now() - 2]
            assert ended == []
            world.kill(node)
        kept = (await world.ring()).keys
        assert len(kept) == LIVES, "one key a life, each of which signed"
    print(f"{LIVES} lives of {seconds} s on {store}: each minted, {len(kept)} keys, all of which signed")


async def test_no_life_is_too_short_for_the_cluster_to_mint(request, tmp_path):
    """Where a life ends before the one before it can be told to be dead, the next one mints."""
    async with world_on("memory", tmp_path, request.getfixturevalue) as world:
        world.timing = replace(world.timing, signers=2, jwks_limit=6)
        minted = []
        for _ in range(LIVES):
            node, ring = await live(world, SILENT_FOR - 1)
            minted.append(await node.can_mint(ring, world.timing))
            assert len(keys_in(ring, KeyState.PREPARED)) <= 1
            world.kill(node)
        assert all(one or other for one, other in pairwise(minted))
    print(f"{LIVES} lives of {SILENT_FOR - 1} s: {sum(minted)} minted")


async def test_node_that_cannot_be_called_is_not_taken_for_dead(request, tmp_path):
    """K1: an address at which nobody listens is a mistake in the settings as long as its node beats; who
    starts beside it waits for its lead as ever."""
    async with world_on("memory", tmp_path, request.getfixturevalue) as world:
        first = world.start(address="elsewhere")
        assert keys_in(await passed(world, 3), KeyState.ACTIVE)
        second = world.start()
        for _ in range(3 * LIVE_FOR):
            ring = await passed(world, 1)
            assert [key.node for key in keys_in(ring, KeyState.ACTIVE)] == [first.name]
        ring = await world.ring()
        assert [key.node for key in keys_in(ring, KeyState.PREPARED)] == [second.name]
        world.kill(first)
        ring = await passed(world, SILENT_FOR + 2)
        assert await second.can_mint(ring, world.timing)


@pytest.mark.timeout(300)
def test_lone_node_that_was_killed_is_soon_ready_again(tmp_path):
    """Its lease runs for two minutes more, and nobody waits for it."""
    with running_node(tmp_path, settings={"algorithm": "ES256"}) as node:
        node.until_ready()
        for died in (1, 2):
            node.kill()
            began = time.monotonic()
            node.start().until_ready()
            print(f"ready {time.monotonic() - began:.1f} s after it was started again")
            assert [event["cause"] for event in node.events("key.activated")] == ["bootstrap"] * (died + 1)
