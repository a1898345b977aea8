"""Nodes that die again and again, and many that start at once: who lives mints, and keys do not pile up."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.cluster.coordinators import Coordinator, World, keys_in, world_on

from mintmark.core.events import EventName
from mintmark.core.key import Activation, KeyState
from mintmark.core.keyring import HEARD_WITHIN, LIVE_FOR, Ring
from mintmark.units import NodeId, Seconds

LIFE = 15
"""Seconds that a lone node lives: by then the one before it no longer counts as alive."""
MANY = 48
on_each_store = pytest.mark.parametrize("store", ["sqlite", "postgresql"])


@pytest.fixture
async def world(request, store, tmp_path) -> AsyncIterator[World]:
    """On PostgreSQL nodes share stores: so many would need more connections than a server has."""
    async with world_on(store, tmp_path, request.getfixturevalue, stores=8) as made:
        yield made


async def lives(world: World, count: int, *, seconds: int) -> int:
    """Lone nodes, each killed after so long, each of which minted; the most keys that there were."""
    most = 0
    for life in range(count):
        node = world.start()
        for _ in range(seconds):
            await world.second()
        ring = await world.ring()
        assert await node.can_mint(ring, world.timing), f"life {life} minted nothing"
        most = max(most, len(ring.published()))
        world.kill(node)
    return most


@pytest.mark.timeout(600)
@on_each_store
async def test_lone_node_that_crashes_again_and_again_mints_in_each_life(world: World):
    """K6: no limit on keys locks it out, which is an alarm; and once it lives on, what its earlier lives left
    goes: keys that never signed with their lease, the others when nothing that they signed is valid."""
    world.timing = replace(world.timing, signers=2, jwks_limit=6)
    most = await lives(world, 10, seconds=LIFE)
    assert most == 10
    assert world.count(EventName.JWKS_LIMIT_REACHED) > 0
    assert world.count(EventName.KEY_ACTIVATED) == 10
    short = world.start()
    ring = await world.ring()
    while not keys_in(ring, KeyState.PREPARED):
        ring = await world.second()
    world.kill(short)

    last = world.start()
    # A node that lives on takes note of each death when its lease has ended, and never before.
    for _ in range(world.timing.lease + HEARD_WITHIN + 2):
        ring = await world.second()
    assert [key.node for key in keys_in(ring, KeyState.ACTIVE)] == [last.name]
    assert keys_in(ring, KeyState.PREPARED) == []
    assert len(keys_in(ring, KeyState.PASSIVE)) == most
    while earlier := keys_in(ring, KeyState.PASSIVE):
        kids = {key.kid: key.publish_until for key in earlier}
        assert all(until > world.clock.now() - 2 for until in kids.values())
        ring = await world.second()
        gone = kids.keys() - {key.kid for key in ring.keys}
        assert all(kids[kid] < world.clock.now() for kid in gone)
        # Far from the next end time may pass faster, but for no longer than a node reads without a gap.
        if min(kids.values()) > world.clock.now() + 10:
            world.clock.advance(3)
    assert [key.node for key in ring.published()] == [last.name]
    assert await last.can_mint(ring, world.timing)
    print(f"12 lives, at most {most + 1} keys with a limit of 6, 1 in the end")


@pytest.mark.timeout(600)
@on_each_store
async def test_node_that_crashes_beside_another_leaves_nothing_behind(world: World):
    """K6: its keys never signed, so each leaves as soon as its lease ends; the set stays within its limit,
    and the node that lives signs on with the one key that it has."""
    world.timing = replace(world.timing, lease=Seconds(20), signers=4, jwks_limit=12)
    stable, began = world.start(), world.clock.now()
    while (signing := (await world.second()).held_by(stable.name, KeyState.ACTIVE)) is None:
        assert world.clock.now() < began + LIVE_FOR
    most = 0
    for _ in range(20):
        crashing = world.start()
        for _ in range(5):
            ring = await world.second()
            most = max(most, len(ring.published()))
            assert len(ring.published()) <= world.timing.jwks_limit
            ended = [key for key in ring.keys if key.lease_until < world.clock.now() - 2]
            assert ended == [], "what never signed has left with its lease"
            assert await stable.can_mint(ring, world.timing)
            assert ring.held_by(crashing.name, KeyState.ACTIVE) is None
        world.kill(crashing)
    assert most > 2
    for _ in range(world.timing.lease + 2):
        await world.second()
    ring = await world.ring()
    assert [key.kid for key in ring.keys] == [signing.kid]
    assert world.count(EventName.KEY_ACTIVATED) == 1
    print(f"20 lives beside a node that lives: at most {most} keys, 1 in the end")


def has_key(node: Coordinator, ring: Ring) -> bool:
    """Whether it signs, or will: those without a slot mint through one that does."""
    return any(ring.held_by(node.name, state) for state in (KeyState.PREPARED, KeyState.ACTIVE))


@pytest.mark.timeout(600)
@on_each_store
async def test_very_many_nodes_that_start_together_take_the_slots_that_there_are(world: World):
    """F07, K1, K6: one of 48 bootstraps, as many as there are slots prepare a key, no key is lost, and nobody
    fails; after a power cut the same again."""
    told = 0
    for when in ("on an empty store", "after a power cut"):
        for _ in range(MANY):
            world.start()
        slots = world.timing.signers if not told else 1
        ring = await world.ring()
        for _ in range(LIVE_FOR + HEARD_WITHIN + 4):
            ring = await world.second()
        holders = [node for node in world.nodes if has_key(node, ring)]
        signing = [node for node in holders if ring.held_by(node.name, KeyState.ACTIVE)]
        assert len(signing) == 1, when
        assert slots <= len(holders) <= world.timing.signers, when
        assert [await node.can_mint(ring, world.timing) for node in signing] == [True]
        for node in holders:
            (own,) = (key for key in ring.keys if key.node == node.name)
            assert await node.holds(own.kid), "a key was lost"
        names = {node.name for node in holders}
        assert made_by(world) == names, "nobody prepared a key in vain"
        assert causes(ring, names) == [Activation.BOOTSTRAP]
        print(f"{when}: {MANY} nodes, {len(holders)} with a key, {len(ring.published())} keys")
        told = len(ring.keys)
        for node in list(world.nodes):
            world.kill(node)
    assert world.count(EventName.KEY_ACTIVATED) == 2


def made_by(world: World) -> set[NodeId]:
    return {node.name for node in world.nodes if node.audit.counts[EventName.KEY_PREPARED]}


def causes(ring: Ring, nodes: set[NodeId]) -> list[Activation | None]:
    return [key.activation for key in keys_in(ring, KeyState.ACTIVE) if key.node in nodes]
