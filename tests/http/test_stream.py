"""GET /revocations/stream: what a follower hears, and that it misses nothing."""

import asyncio
import contextlib
import json

import pytest
from tests.http.streaming import stream
from tests.http.surface import Surface, surface, until
from tests.http.test_feed import append

from mintmark.adapters.memory import MemoryStore
from mintmark.core import keyring
from mintmark.core.events import EventName
from mintmark.core.feed import FeedPolicy, Follower, Heartbeat, Keys, Revocation, parse_message, parse_page
from mintmark.core.jwk import parse_jwk_set
from mintmark.core.keyset import Instant
from mintmark.core.log import Cursor, LogEntry
from mintmark.http import stream as stream_module
from mintmark.server import feed as server_feed
from mintmark.testing.clock import FakeClock


def fake(node: Surface) -> FakeClock:
    """The clock of the node."""
    assert isinstance(node.clock, FakeClock)
    return node.clock


async def pass_time(node: Surface, span: int) -> None:
    """Let ``span`` seconds pass, one by one, so that the node reads its store each second."""
    for _ in range(span):
        await fake(node).armed(within=1, count=2)
        fake(node).advance(1)
    await fake(node).armed(within=1, count=2)


async def head(node: Surface) -> str:
    """The cursor behind the newest event."""
    cursor, _ = await node.store.revocations.head(node.issuer)
    return cursor.text()


async def test_stream_begins_with_the_keys_and_a_heartbeat(node: Surface):
    """At once a follower hears the key set and the head: it is complete without asking for anything."""
    async with stream(node.app) as follower:
        assert follower.status == 200
        assert follower.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert follower.headers["cache-control"] == "no-store"
        assert follower.headers["x-accel-buffering"] == "no"
        assert "content-length" not in follower.headers
        keys, beat = await follower.next(), await follower.next()
        key_set = (await node.http.get("/.well-known/jwks.json")).json()
        assert (keys.name, keys.data) == ("keys", key_set | {"revoked": []})
        assert (beat.name, beat.data) == ("heartbeat", {"cursor": await head(node), "at": node.clock.now()})
        assert (keys.id, beat.id) == (None, None)


async def test_logout_is_heard(node: Surface):
    """A follower hears a log-out as the event of the page, with the cursor behind it as its id."""
    async with stream(node.app) as follower:
        await follower.next_of("heartbeat")
        tokens = await node.log_in()
        await node.log_out(tokens["access_token"])
        event = await follower.next()
        [of_page] = (await node.http.get("/revocations")).json()["events"]
        assert event == ("revocation", await head(node), of_page)


async def test_verifier_follows_in_step(node: Surface):
    """The verifier's own follower reads every message, and is in step at each heartbeat."""
    policy = FeedPolicy()
    verifier = Follower(policy)
    now = Instant(wall=node.clock.now(), mono=0.0)
    page = (await node.http.get("/revocations")).content
    verifier.paged(parse_page(page, issuer=node.issuer, policy=policy), now)
    await append(node, 3)
    async with stream(node.app, last_event_id=verifier.cursor) as follower:
        for expected in ["keys", *["revocation"] * 3, "heartbeat", *["revocation"] * 2, "heartbeat"]:
            event = await follower.next()
            message = parse_message(event.name, event.id or "", json.dumps(event.data))
            assert event.name == expected
            match message:
                case Revocation():
                    verifier.applied(message)
                case Heartbeat():
                    assert verifier.beat(message, now)
                    await append(node, 2, first=3)
                    await pass_time(node, 10)
                case Keys(document, revoked):
                    assert [key.kid for key in parse_jwk_set(document).keys] == [node.kid]
                    assert revoked == frozenset()


@pytest.mark.parametrize("how", ["header", "query"])
async def test_follower_goes_on_behind_its_cursor(node: Surface, how):
    """With a cursor, in either place, come the events behind it and nothing before, then the heartbeat."""
    values = await append(node, 5)
    first = (await node.http.get("/revocations")).json()
    values += await append(node, 5, first=5)
    place = {"last_event_id": first["cursor"]} if how == "header" else {"query": f"after={first['cursor']}"}
    async with stream(node.app, **place) as follower:
        assert (await follower.next()).name == "keys"
        found = [await follower.next() for _ in range(5)]
        assert [event.data["value"] for event in found] == values[5:]
        beat = await follower.next()
        assert (beat.name, beat.data["cursor"]) == ("heartbeat", found[-1].id)


async def test_header_counts_more_than_the_query(node: Surface):
    """A browser that reconnects to its first URL goes on from what it heard last."""
    old = await head(node)
    await append(node, 2)
    new = await head(node)
    await append(node, 1, first=2)
    async with stream(node.app, query=f"after={old}", last_event_id=new) as follower:
        assert (await follower.next_of("revocation")).data["value"] == "rid-00002"


async def test_new_follower_begins_at_the_head(node: Surface):
    """Without a cursor nothing of the past is told: the snapshot has it."""
    await append(node, 5)
    await until(lambda: node.services.feed.heartbeat().cursor.seq == 5)
    async with stream(node.app) as follower:
        await follower.next_of("heartbeat")
        await append(node, 1, first=5)
        assert (await follower.next()).data["value"] == "rid-00005"


@pytest.mark.parametrize("cursor", [Cursor(1, bytes(8)).text(), "x", "", "\xff"])
async def test_unknown_cursor_is_a_reset(node: Surface, cursor):
    """A cursor that means nothing here gets ``reset`` and the end: take a snapshot and come again."""
    await append(node, 3)
    place = {"query": "after="} if not cursor else {"last_event_id": cursor}
    async with stream(node.app, **place) as follower:
        events = await follower.rest()
    assert (follower.status, events) == (200, [("reset", None, {})])


async def test_query_that_cannot_be_read_is_400(node: Surface):
    """Two cursors, or one that is no text, are the caller's fault."""
    for query in ("after=%ff", "after=x&after=y"):
        async with stream(node.app, query=query) as refused:
            assert refused.status == 400


async def test_long_absence_is_caught_up_in_pages(monkeypatch):
    """A follower far behind gets every event once and in order, over several pages of the store."""
    monkeypatch.setattr(server_feed, "PAGE", 10)
    async with surface() as node:
        cursor = await head(node)
        values = await append(node, 95)
        async with stream(node.app, last_event_id=cursor) as follower:
            await follower.next_of("keys")
            found = [await follower.next() for _ in range(95)]
            assert [event.data["value"] for event in found] == values
            assert len({event.id for event in found}) == 95
            assert (await follower.next()).name == "heartbeat"


async def test_heartbeat_is_never_behind_what_was_sent(node: Surface):
    """Where the catch-up read further than this process had, the first heartbeat has the cursor of the last
    event: one that lay behind it would make the follower look for a gap that is none."""
    cursor = await head(node)
    node.following.cancel()
    await append(node, 3)
    async with stream(node.app, last_event_id=cursor) as follower:
        sent = [await follower.next_of("revocation") for _ in range(3)]
        assert (await follower.next_of("heartbeat")).data["cursor"] == sent[-1].id


async def test_nothing_is_lost_between_catch_up_and_live(monkeypatch):
    """Events that are committed while a follower catches up, or just before, come once, in order, all."""
    monkeypatch.setattr(server_feed, "PAGE", 3)
    async with surface() as node:
        for round_ in range(20):
            cursor = await head(node)
            first = 1000 * round_

            async def commit(start: int = first) -> list[str]:
                values = []
                for number in range(20):
                    values += await append(node, 1, first=start + number)
                return values

            committing = asyncio.create_task(commit())
            for _ in range(round_):
                await asyncio.sleep(0)
            async with stream(node.app, last_event_id=cursor) as follower:
                found = [(await follower.next_of("revocation")).data["value"] for _ in range(20)]
            assert found == await committing


async def test_heartbeats_come_every_ten_seconds(node: Surface):
    """After ten seconds without an event there is a heartbeat with the head and the store's time."""
    async with stream(node.app) as follower:
        await follower.next_of("heartbeat")
        for _ in range(3):
            await pass_time(node, 10)
            beat = await follower.next()
            assert beat.name == "heartbeat"
            assert node.clock.now() - 2 <= beat.data["at"] <= node.clock.now()


async def test_heartbeat_never_runs_ahead_of_the_events(node: Surface):
    """Whatever was appended before a heartbeat's head has been sent before it."""
    async with stream(node.app) as follower:
        await follower.next_of("heartbeat")
        last = None
        for number in range(5):
            await append(node, 3, first=3 * number)
            await pass_time(node, 10)
            while (event := await follower.next()).name == "revocation":
                last = event.id
            assert (event.name, event.data["cursor"]) == ("heartbeat", last)


async def test_silence_is_impossible(node: Surface):
    """Once the store cannot be read a stream is closed rather than kept silent, and none begins (V1)."""
    async with stream(node.app) as follower:
        await follower.next_of("heartbeat")
        await node.store.close()
        for _ in range(3):
            await fake(node).armed(within=1, count=2)
            fake(node).advance(1)
        assert await follower.rest() == []
    async with stream(node.app) as refused:
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")


async def test_heartbeat_is_never_given_on_old_knowledge(node: Surface):
    """Where the log was not read within two seconds a stream ends in place of its next heartbeat (V1)."""
    async with stream(node.app) as follower:
        await follower.next_of("heartbeat")
        await fake(node).armed(within=10, beyond=5)
        node.following.cancel()
        fake(node).advance(10)
        assert await follower.rest() == []


async def test_new_and_revoked_keys_are_announced(node: Surface):
    """A follower hears of a key before it signs, and of a revoked one at once (design 6.2)."""
    async with stream(node.app) as follower:
        await follower.next_of("heartbeat")
        old, new = node.kid, await node.add_key()
        await node.read_ring()
        event = await follower.next()
        assert event.name == "keys"
        assert {key["kid"] for key in event.data["keys"]} == {old, new}
        view = await node.store.keyring.read(node.issuer)
        revoked, entry = keyring.revoke(
            view.ring, old, reason="test", timing=node.services.timing, now=view.now
        )
        await node.store.keyring.swap(view.ring.generation, revoked, events=((entry, "key_revoked"),))
        await node.read_ring()
        event = await follower.next_of("keys")
        assert ([key["kid"] for key in event.data["keys"]], event.data["revoked"]) == ([new], [old])


async def test_same_keys_are_not_announced_again(node: Surface):
    """A ring whose published keys did not change is no news."""
    async with stream(node.app) as follower:
        await follower.next_of("heartbeat")
        await append(node, 1)
        await node.read_ring()
        assert (await follower.next()).name == "revocation"
        assert follower.events.empty()


async def test_each_stream_is_told_when_to_come_again(node: Surface):
    """At its beginning, so that it knows when its node dies, and again when its node leaves; each another."""
    told = []
    for _ in range(5):
        async with stream(node.app) as follower:
            await follower.next_of("heartbeat")
            told += follower.retries
    assert len(set(told)) == 5
    assert all(50 <= retry <= 450 for retry in told)
    async with stream(node.app) as follower:
        await follower.next_of("heartbeat")
        await node.services.feed.drain(1)
        assert await follower.rest() == []
        assert len(follower.retries) == 2
        assert len(set(follower.retries)) == 1


async def test_what_all_are_told_is_encoded_once(node: Surface, monkeypatch):
    """Of a thousand events for twenty followers each is written once, and all get the same bytes."""
    written: list[LogEntry] = []
    write = stream_module._revocation

    def counting(entry: LogEntry) -> bytes:
        written.append(entry)
        return write(entry)

    monkeypatch.setattr(stream_module, "_revocation", counting)
    async with contextlib.AsyncExitStack() as stack:
        followers = [await stack.enter_async_context(stream(node.app)) for _ in range(20)]
        for follower in followers:
            await follower.next_of("heartbeat")
        values = await append(node, 1_000)
        for follower in followers:
            heard = [(await follower.next_of("revocation")).data["value"] for _ in values]
            assert heard == values
        assert len(written) == 1_000
        assert len({follower.body.partition(b"event: revocation")[2] for follower in followers}) == 1


async def test_a_late_follower_is_written_what_it_lacks_alone(node: Surface, monkeypatch):
    """One that was caught up from the store beyond what was queued for it hears nothing twice."""
    async with stream(node.app) as early:
        await early.next_of("heartbeat")
        cursor = await head(node)
        node.following.cancel()
        values = await append(node, 5)
        async with stream(node.app, last_event_id=cursor) as late:
            caught_up = [(await late.next_of("revocation")).data["value"] for _ in range(5)]
            following = asyncio.create_task(node.services.feed.run())
            values += await append(node, 3, first=5)
            rest = [(await late.next_of("revocation")).data["value"] for _ in range(3)]
            assert caught_up + rest == values
            assert [(await early.next_of("revocation")).data["value"] for _ in range(8)] == values
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def test_streams_end_when_the_node_leaves(node: Surface):
    """On leaving every stream is ended in good order, and a new one is sent elsewhere."""
    async with stream(node.app) as follower:
        await follower.next_of("heartbeat")
        node.services.feed.close()
        assert await follower.rest() == []
    async with stream(node.app) as refused:
        assert refused.status == 503


async def test_streams_of_one_process_are_bounded():
    """One stream more than the limit is 503; a place is free again once a follower has left."""
    async with surface(feed_limit=2) as node:
        async with (
            stream(node.app, address="192.0.2.1"),
            stream(node.app, address="192.0.2.2"),
            stream(node.app, address="192.0.2.3") as third,
        ):
            assert (third.status, "retry-after" in third.headers) == (503, True)
        async with stream(node.app) as again:
            assert again.status == 200
        assert node.services.feed.followers == 0


async def test_streams_of_one_address_are_bounded():
    """One address cannot take all places; another one still gets its own."""
    async with surface(streams_per_address=2) as node:
        async with (
            stream(node.app),
            stream(node.app),
            stream(node.app) as third,
            stream(node.app, address="192.0.2.9") as other,
        ):
            assert (third.status, other.status) == (503, 200)
        async with stream(node.app) as again:
            assert again.status == 200


async def test_follower_that_leaves_leaves_nothing_behind(node: Surface):
    """After its disconnect a stream holds no place, no task and no timer."""
    before = asyncio.all_tasks()
    async with stream(node.app) as follower:
        await follower.next_of("heartbeat")
        assert node.services.feed.followers == 1
    assert node.services.feed.followers == 0
    left = {task for task in asyncio.all_tasks() - before if "Expiry._sweep" not in repr(task)}
    assert left == set()


async def test_reader_that_does_not_read_is_cut_off(node: Surface):
    """A follower that takes nothing for twenty seconds is dropped; its place is free, others go on."""
    async with stream(node.app) as good, stream(node.app, address="192.0.2.2") as stuck:
        await good.next_of("heartbeat")
        await stuck.next_of("heartbeat")
        stuck.reading.clear()
        await append(node, 1)
        assert (await good.next()).name == "revocation"
        await until(lambda: node.services.feed.followers == 2)
        for _ in range(22):
            await fake(node).armed(within=1, count=2)
            fake(node).advance(1)
        await until(lambda: node.services.feed.followers == 1)
        assert stuck.aborted
        assert not good.aborted


async def test_reader_that_does_not_take_even_the_headers_is_dropped(node: Surface):
    """Who opens streams and reads nothing at all is no defect of ours, and loses his connection."""
    async with stream(node.app, reading=False) as mute:
        await until(lambda: mute.waited_for)
        fake(node).advance(20)
        await until(lambda: mute.aborted)
        await until(lambda: node.services.feed.followers == 0)
    assert mute.status is None
    assert node.services.audit.counts[EventName.REQUEST_FAILED] == 0


async def test_defect_in_a_stream_is_reported_and_ends_it(node: Surface, monkeypatch):
    """What nobody foresaw ends the stream without a good end, and is logged once, as everywhere."""

    def fail(*_: object) -> bytes:
        raise ZeroDivisionError

    async with stream(node.app) as follower:
        await follower.next_of("heartbeat")
        monkeypatch.setattr("mintmark.http.stream._revocation", fail)
        await append(node, 1)
        await until(lambda: node.services.feed.followers == 0)
        assert not follower.ended.is_set()
    assert node.services.audit.counts[EventName.REQUEST_FAILED] == 1


async def test_reader_that_falls_too_far_behind_is_cut_off(node: Surface, monkeypatch):
    """A follower with too much unread is sent away, to resume by its cursor and miss nothing."""
    monkeypatch.setattr(server_feed, "QUEUE", 4)
    async with stream(node.app) as slow:
        await slow.next_of("heartbeat")
        slow.reading.clear()
        cursor = await head(node)
        values = await append(node, 2_000)
        await until(lambda: node.services.feed.heartbeat().cursor.seq == 2_000)
        slow.reading.set()
        heard = [event for event in await slow.rest() if event.name == "revocation"]
        assert len(heard) < 2_000
        last = heard[-1].id if heard else cursor
    async with stream(node.app, last_event_id=last) as again:
        missing = [await again.next_of("revocation") for _ in range(2_000 - len(heard))]
    assert [event.data["value"] for event in [*heard, *missing]] == values


async def test_restored_store_ends_streams_and_resets_their_cursors(node: Surface):
    """After the store went back in time every follower is cut off, and its cursor means nothing."""
    assert isinstance(node.store, MemoryStore)
    backup = node.store.data.backup()
    async with stream(node.app) as follower:
        await follower.next_of("heartbeat")
        await append(node, 3)
        last = [await follower.next() for _ in range(3)][-1]
        node.store.data.restore(backup)
        await append(node, 5)
        await follower.rest()
    await until(node.services.feed.is_fresh)
    async with stream(node.app, last_event_id=last.id) as again:
        assert [event.name for event in await again.rest()] == ["reset"]


@pytest.mark.parametrize("entries", [2, 5])
async def test_store_that_goes_back_before_the_process_looks_hides_no_event(node: Surface, entries: int):
    """A follower that read beyond what its process had is not told that it is in step with another log."""
    assert isinstance(node.store, MemoryStore)
    cursor = await head(node)
    node.following.cancel()
    await asyncio.gather(node.following, return_exceptions=True)
    backup = node.store.data.backup()
    await append(node, 4)
    async with stream(node.app, last_event_id=cursor) as follower:
        before = await follower.next_of("heartbeat")
        assert before.data["cursor"] == await head(node)
        node.store.data.restore(backup)
        await append(node, entries, first=100)
        # What the process had is on this log too, so that it notices nothing.
        following = asyncio.create_task(node.services.feed.run())
        await until(lambda: node.services.feed.heartbeat().cursor.seq == entries)
        await pass_time(node, 11)
        assert [event.name for event in await follower.rest()] == ["reset"]
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_store_that_fails_during_catch_up_ends_the_stream(monkeypatch):
    """A page that cannot be read ends the stream in good order: what was sent stays true."""
    monkeypatch.setattr(server_feed, "PAGE", 3)
    async with surface() as node:
        cursor = await head(node)
        await append(node, 9)
        async with stream(node.app, last_event_id=cursor, reading=False) as follower:
            # The first page was read before anything is sent; the second one will be asked for.
            await until(lambda: follower.waited_for)
            await node.store.close()
            follower.reading.set()
            events = await follower.rest()
        assert [event.name for event in events] == ["keys", *["revocation"] * 3]


async def test_log_that_was_pruned_during_catch_up_is_a_reset(monkeypatch):
    """Where what is still missing was pruned meanwhile, the follower must take a snapshot."""
    monkeypatch.setattr(server_feed, "PAGE", 3)
    async with surface() as node:
        cursor = await head(node)
        await append(node, 9, lives=5)
        async with stream(node.app, last_event_id=cursor, reading=False) as follower:
            await until(lambda: follower.waited_for)
            fake(node).advance(6)
            await node.store.revocations.prune(node.issuer)
            await append(node, 1, first=9)
            follower.reading.set()
            names = [event.name for event in await follower.rest()]
        assert names == ["keys", *["revocation"] * 3, "reset"]


async def test_stream_takes_get_alone(node: Surface):
    """HEAD of an endless stream, and every other method, is 405."""
    for method in ("HEAD", "POST", "DELETE", "OPTIONS"):
        assert (await node.http.request(method, "/revocations/stream")).status_code == 405
