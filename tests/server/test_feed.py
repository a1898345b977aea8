"""The feed within a process: one reader of the log, and everybody who follows it."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import pytest
from tests.http.surface import until

from mintmark.adapters.memory import MemoryStore
from mintmark.adapters.memory_bus import MemoryBus
from mintmark.core import keyring
from mintmark.core.events import EventName
from mintmark.core.key import Key, KeyState
from mintmark.core.keyring import Ring
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.errors import NotReady, Overloaded
from mintmark.server.audit import Audit
from mintmark.server.feed import CutOff, Entries, Follower, KeysChanged, Message, RevocationFeed
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults, FaultyBus, FaultyStore
from mintmark.units import Issuer, Kid, NodeId, NumericDate

ISSUER = Issuer("https://auth.example.com")


class World:
    """A feed over a store and a bus that can fail."""

    def __init__(self, *, limit: int = 3) -> None:
        self.clock = FakeClock()
        self.faults = Faults(clock=self.clock)
        self.store = MemoryStore(clock=self.clock, entropy=SYSTEM_ENTROPY)
        self.bus = FaultyBus(MemoryBus(clock=self.clock), clock=self.clock)
        self.audit = Audit()
        self.feed = RevocationFeed(
            ISSUER,
            log=FaultyStore(self.store, self.faults).revocations,
            bus=self.bus,
            clock=self.clock,
            audit=self.audit,
            limit=limit,
        )

    async def append(self, *values: str) -> None:
        view = await self.store.keyring.read(ISSUER)
        event = [
            RevocationEvent(kind=Kind.RID, value=value, expires_at=NumericDate(view.now + 10_000))
            for value in values
        ]
        after = keyring.request_rotation(view.ring, now=view.now)
        swapped = await self.store.keyring.swap(
            view.ring.generation, after, events=tuple((each, "test") for each in event)
        )
        assert swapped
        await self.bus.announce()

    async def pass_second(self) -> None:
        await self.clock.armed(within=1)
        self.clock.advance(1)
        await self.clock.armed(within=1)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.store.open()
    running = asyncio.create_task(made.feed.run())
    await until(made.feed.is_fresh)
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def heard(follower: Follower, count: int) -> list[str]:
    """The values of the next ``count`` entries, which the next messages are."""
    values: list[str] = []
    while len(values) < count:
        message = await asyncio.wait_for(follower.next(), 20)
        assert isinstance(message, Entries)
        values += [entry.event.value for entry in message.entries]
    return values


async def test_every_follower_hears_every_entry_in_order(world: World):
    """Entries come to all, once, in the order of the log."""
    async with world.feed.follow() as one, world.feed.follow() as two:
        await world.append("a", "b")
        await world.append("c")
        assert await heard(one, 3) == await heard(two, 3) == ["a", "b", "c"]


async def test_lost_wake_up_costs_a_second_and_nothing_else(world: World):
    """With the bus losing everything, entries are heard at the next poll (V2)."""
    world.bus.losing = True
    async with world.feed.follow() as follower:
        await world.append("a")
        await world.pass_second()
        assert await heard(follower, 1) == ["a"]


async def test_repeated_wake_ups_repeat_nothing(world: World):
    """A bus that says everything five times makes nobody hear anything twice (V2, V3)."""
    world.bus.copies = 5
    async with world.feed.follow() as follower:
        await world.append("a")
        await world.append("b")
        assert await heard(follower, 2) == ["a", "b"]
        assert not follower._waiting


async def test_forged_wake_ups_bring_nothing_that_is_not_on_the_log(world: World):
    """Whoever can publish makes a node look, and no more: nothing is denied, nothing denied is forgiven."""
    async with world.feed.follow() as follower:
        await world.append("a")
        assert await heard(follower, 1) == ["a"]
        head = world.feed.heartbeat().cursor
        for _ in range(100):
            await world.bus.announce()
        await world.append("b")
        assert await heard(follower, 1) == ["b"]
        assert world.feed.heartbeat().cursor.seq == head.seq + 1
        assert not follower._waiting


async def test_heartbeat_is_the_head_that_was_read(world: World):
    """The heartbeat's cursor is behind the newest entry that followers were told."""
    async with world.feed.follow() as follower:
        await world.append("a", "b")
        told = await follower.next()
    assert isinstance(told, Entries)
    assert [entry.event.value for entry in told.entries] == ["a", "b"]
    assert world.feed.heartbeat().cursor == told.entries[-1].cursor


async def test_no_heartbeat_on_old_knowledge(world: World):
    """More than two seconds after the last read there is no heartbeat to give."""
    world.faults.fail_before("revocations")
    world.clock.advance(2)
    assert world.feed.heartbeat().at == world.clock.now() - 2
    world.clock.advance(0.5)
    with pytest.raises(NotReady):
        world.feed.heartbeat()


async def test_failing_log_cuts_followers_off_once(world: World):
    """When the log cannot be read for two seconds every follower is sent away, with one report (V1)."""
    world.faults.fail_before("revocations")
    async with world.feed.follow() as follower:
        for _ in range(5):
            await world.pass_second()
        assert isinstance(await follower.next(), CutOff)
    assert world.audit.counts[EventName.FEED_STALE] == 1
    world.faults.recover()
    await world.pass_second()
    assert world.feed.is_fresh()


async def test_short_failure_cuts_nobody_off(world: World):
    """One failed read is made good by the next, and nobody notices."""
    async with world.feed.follow() as follower:
        world.faults.fail_before("revocations", times=1)
        await world.append("a")
        await world.pass_second()
        assert await heard(follower, 1) == ["a"]


async def test_answer_that_was_lost_loses_no_entry(world: World):
    """A page that was read, but whose answer was lost, is read again (V1)."""
    async with world.feed.follow() as follower:
        world.faults.fail_after("revocations.read", times=1)
        await world.append("a")
        await world.pass_second()
        assert await heard(follower, 1) == ["a"]


async def test_store_that_went_back_cuts_everybody_off(world: World):
    """After a restore the log is another one: followers begin anew, and so does the reader, at once."""
    backup = world.store.data.backup()
    async with world.feed.follow() as follower:
        await world.append("a")
        await heard(follower, 1)
        world.store.data.restore(backup)
        await world.bus.announce()
        assert isinstance(await asyncio.wait_for(follower.next(), 20), CutOff)
    await until(world.feed.is_fresh)
    async with world.feed.follow() as follower:
        await world.append("b")
        assert await heard(follower, 1) == ["b"]


async def test_places_are_bounded_and_come_back(world: World):
    """No more than ``limit`` follow at once; who leaves makes room."""
    async with world.feed.follow(), world.feed.follow(), world.feed.follow():
        assert world.feed.followers == 3
        with pytest.raises(Overloaded):
            async with world.feed.follow():
                pass
    assert world.feed.followers == 0
    async with world.feed.follow():
        pass


async def test_slow_follower_hears_only_that_it_must_come_again():
    """A full queue is emptied and ended: what is in it could not be trusted to be all."""
    follower = Follower()
    offered: list[Message] = [KeysChanged((), (Kid(str(number)),)) for number in range(2_000)]
    for message in offered:
        follower.offer(message)
    assert isinstance(await follower.next(), CutOff)
    follower.offer(offered[0])
    assert not follower._waiting


async def test_closed_feed_takes_nobody(world: World):
    """After ``close`` all are sent away and none is let in."""
    async with world.feed.follow() as follower:
        world.feed.close()
        assert isinstance(await follower.next(), CutOff)
    with pytest.raises(Overloaded):
        async with world.feed.follow():
            pass


async def test_a_leaving_node_sends_followers_away_one_after_the_other(world: World):
    """Over its time, in the order in which they came; none more is let in; those who wait hear everything."""
    async with world.feed.follow() as one, world.feed.follow() as two, world.feed.follow() as three:
        draining = asyncio.create_task(world.feed.drain(6.0))
        assert isinstance(await one.next(), CutOff)
        assert len({one.retry, two.retry, three.retry}) == 3
        with pytest.raises(Overloaded):
            async with world.feed.follow():
                pass
        await world.append("late")
        assert await heard(two, 1) == await heard(three, 1) == ["late"]
        for follower, other in ((two, three), (three, None)):
            assert other is None or not other._waiting
            await world.clock.armed(within=0.01)
            world.clock.advance(0.01)
            assert isinstance(await asyncio.wait_for(follower.next(), 20), CutOff)
        await draining


async def test_a_leaving_node_with_many_followers_takes_its_time_and_no_more():
    """However many there are, the last is sent away within it; few are sent away in a moment."""
    made = World(limit=5_000)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(5_000):
            await stack.enter_async_context(made.feed.follow())
        draining = asyncio.create_task(made.feed.drain(6.0))
        sent_away = []
        for tenth in range(61):
            await until(lambda: draining.done() or made.clock._count(0, 6) > 0)
            sent_away.append(sum(follower._cut_off for follower in made.feed._followers))
            assert abs(sent_away[-1] - 5_000 * tenth / 60) < 100
            made.clock.advance(0.1)
        await draining
        assert sent_away[-1] == 5_000


def test_followers_are_told_to_come_again_at_different_times():
    """However many there were before, those who come together are spread over the whole span."""
    for first in (0, 7, 12_345):
        retries = sorted(Follower(number).retry for number in range(first, first + 100))
        assert retries[0] >= 50
        assert retries[-1] <= 450
        assert len(set(retries)) > 90
        assert max(b - a for a, b in itertools.pairwise(retries)) <= 12


def key(kid: str, state: KeyState) -> Key:
    return Key(
        kid=Kid(kid),
        node=NodeId("n"),
        alg="ES256",
        jwk=f'{{"kid":"{kid}"}}'.encode(),
        state=state,
        since=1,
        prepared_at=NumericDate(1),
        lease_until=NumericDate(2),
    )


async def test_keys_are_told_when_they_change_and_not_otherwise(world: World):
    """Followers hear of a new, gone or revoked key, not of a renewed lease or an activation."""
    async with world.feed.follow() as follower:
        for ring in (
            Ring(issuer=ISSUER, keys=(key("a", KeyState.PREPARED),)),
            Ring(issuer=ISSUER, generation=2, keys=(key("a", KeyState.ACTIVE),)),
            Ring(issuer=ISSUER, generation=3, keys=(key("b", KeyState.PREPARED), key("a", KeyState.ACTIVE))),
            Ring(issuer=ISSUER, generation=4, keys=(key("b", KeyState.ACTIVE), key("a", KeyState.REVOKED))),
        ):
            world.feed.announce_keys(ring)
        told = [await follower.next() for _ in range(3)]
        assert told == [
            KeysChanged((b'{"kid":"a"}',), ()),
            KeysChanged((b'{"kid":"a"}', b'{"kid":"b"}'), ()),
            KeysChanged((b'{"kid":"b"}',), (Kid("a"),)),
        ]
        assert not follower._waiting
        assert world.feed.keys() == told[-1]
