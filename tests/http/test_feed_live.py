"""The feed from a real store over real connections into the verifier that services use."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from functools import partial

import pytest
from tests.http.serving import Front, free_socket, served
from tests.http.streaming import stream
from tests.http.surface import surface
from tests.http.test_feed import append

from mintmark import EventName, InvalidToken, Verifier
from mintmark.adapters.memory import MemoryStore
from mintmark.adapters.registry import make_store
from mintmark.errors import StoreUnavailable
from mintmark.server import feed as server_feed
from mintmark.server import segment
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing import Recorder
from mintmark.testing.clock import FakeClock

PATIENCE = 60.0


async def until_true(condition: Callable[[], object]) -> None:
    """Wait, in real time, until ``condition`` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - it comes true in another thread
            await asyncio.sleep(0.005)


@contextlib.contextmanager
def verifying(issuer: str, *, clock=SYSTEM_CLOCK, **options):
    """A verifier of orders and what it reports; closed in a thread, since the node runs in this one."""
    recorder = Recorder()
    verifier = Verifier(issuer, audience="orders", clock=clock, on_event=recorder, **options)
    try:
        yield verifier, recorder
    finally:
        verifier.close()


def entries(verifier: Verifier) -> int:
    """How many revocations it keeps."""
    assert verifier._following is not None
    [source] = verifier._following.sources.values()
    return len(source.denylist)


async def accepts(verifier: Verifier, raw: str) -> bool:
    """Whether a token passes."""
    try:
        await verifier.averify(raw)
    except InvalidToken as error:
        if error.code != "revoked":
            raise
        return False
    return True


@contextlib.asynccontextmanager
async def live(sock, **options):
    """A node on a port of its own, under the clock of the machine unless told otherwise."""
    options = {"clock": SYSTEM_CLOCK} | options
    issuer = f"http://127.0.0.1:{sock.getsockname()[1]}"
    async with surface(issuer=issuer, **options) as node, served(node.app, sock, clock=node.clock):
        yield node


@pytest.mark.parametrize("feed_token", [None, "feed-token-0123456789"])
async def test_a_long_log_is_taken_whole_and_then_followed(tmp_path, monkeypatch, feed_token):
    """Each entry of many pages in the store is known at the start, and the next one comes by the stream."""
    monkeypatch.setattr(segment, "SEGMENT", 1_024)
    monkeypatch.setattr(segment, "LEAST", 256)
    monkeypatch.setattr(segment, "_WITHIN", 60)
    store = make_store(f"sqlite:///{tmp_path}/m.db", clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
    tokens = () if feed_token is None else (feed_token,)
    with free_socket() as sock:
        async with live(sock, store=store, feed_tokens=tokens) as node:
            await append(node, 5_000)
            alice, bob = await node.log_in(), await node.log_in()
            await node.log_out(alice["access_token"])
            with verifying(node.issuer, feed_token=feed_token) as (verifier, recorder):
                await verifier.astart()
                await until_true(lambda: recorder.count(EventName.FEED_FOLLOWED) >= 2)
                assert entries(verifier) == 5_001
                pages = [event for event in recorder.events if event.name is EventName.REVOCATION_APPLIED]
                assert [event.fields["events"] for event in pages] == [1_024] * 4 + [905]
                assert not await accepts(verifier, alice["access_token"])
                assert await accepts(verifier, bob["access_token"])
                await node.log_out(bob["access_token"])
                await until_true(lambda: entries(verifier) == 5_002)
                assert not await accepts(verifier, bob["access_token"])
        await store.close()


async def test_who_was_away_for_longer_than_the_log_keeps_misses_nothing(monkeypatch):
    """Its cursor was pruned: it hears so, takes a snapshot, and knows what was revoked meanwhile."""
    clock = FakeClock()
    with free_socket() as sock:
        async with live(sock, clock=clock) as node:
            await append(node, 5, lives=100)
            token = await node.log_in()
            with verifying(node.issuer, clock=clock, on_stale="deny", feed_bound=30) as (verifier, recorder):
                await verifier.astart()
                await until_true(lambda: recorder.count(EventName.FEED_FOLLOWED) >= 2)
                assert await accepts(verifier, token["access_token"])
                # Away: the stream is cut and pages fail, as behind a partition.
                monkeypatch.setattr(node.services.feed.segments, "page", _unreachable)
                for follower in tuple(node.services.feed._followers):
                    follower.offer(server_feed.CutOff())
                clock.advance(101)
                await node.log_out(token["access_token"])
                await append(node, 3, first=10, lives=1_000)
                assert await node.store.revocations.prune(node.issuer) == 5
                monkeypatch.undo()
                known = recorder.count(EventName.FEED_FOLLOWED)
                async with asyncio.timeout(PATIENCE):
                    while recorder.count(EventName.FEED_FOLLOWED) <= known:
                        clock.advance(1)
                        await asyncio.sleep(0.02)
                assert not await accepts(verifier, token["access_token"])
                assert await accepts(verifier, (await node.log_in())["access_token"])


async def test_while_a_node_leaves_nobody_misses_a_log_out():
    """Followers go to the other node one by one, and each hears every log-out: before it goes, or there."""
    data = MemoryStore(clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
    with free_socket() as sock, free_socket() as first, free_socket() as second:
        issuer = f"http://127.0.0.1:{sock.getsockname()[1]}"
        front = Front(first.getsockname()[1])
        beside = MemoryStore(clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY, data=data.data)
        async with (
            contextlib.AsyncExitStack() as stack,
            surface(issuer=issuer, clock=SYSTEM_CLOCK, store=data) as leaving,
            surface(issuer=issuer, clock=SYSTEM_CLOCK, store=beside, beside=leaving) as staying,
            served(leaving.app, first, clock=SYSTEM_CLOCK),
            served(staying.app, second, clock=SYSTEM_CLOCK),
            front.listening(sock),
        ):
            tokens = [(await staying.log_in())["access_token"] for _ in range(6)]
            verifiers = [stack.enter_context(verifying(issuer)) for _ in range(6)]
            for verifier, recorder in verifiers:
                await verifier.astart()
                await until_true(partial(_has_followed, recorder))
            await until_true(lambda: leaving.services.feed.followers == 6)
            front.port = second.getsockname()[1]
            draining = asyncio.create_task(leaving.services.feed.drain(6.0))
            for raw in tokens:
                await staying.log_out(raw)
                for verifier, _ in verifiers:
                    await until_false(verifier, raw)
            await draining
            await until_true(lambda: staying.services.feed.followers == 6)
            await until_true(lambda: leaving.services.feed.followers == 0)


def _has_followed(recorder: Recorder) -> bool:
    return recorder.count(EventName.FEED_FOLLOWED) >= 2


async def until_false(verifier: Verifier, raw: str) -> None:
    """Wait until a token is refused as revoked."""
    async with asyncio.timeout(PATIENCE):
        while await accepts(verifier, raw):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_hundreds_of_followers_of_one_node_hear_every_event(monkeypatch):
    """Over real connections: each gets all events, in order, and the memory of all holds one copy of each."""
    with free_socket() as sock:
        # A clock that stands still: on a busy machine a node may else be too late to give a heartbeat.
        async with live(sock, clock=FakeClock(), feed_limit=300, streams_per_address=300) as node:
            host, port = sock.getsockname()
            readers = [await _stream_of(host, port) for _ in range(200)]
            await until_true(lambda: node.services.feed.followers == 200)
            for reader, _ in readers:
                await _until_heard(reader, b"event: heartbeat")
            values = await append(node, 300)
            for reader, _ in readers:
                for value in values:
                    assert value.encode() in await _until_heard(reader, b'"kind":"rid"')
            for _, writer in readers:
                writer.transport.abort()
            await until_true(lambda: node.services.feed.followers == 0)


async def _stream_of(
    host: str, port: int, *, buffer: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = socket.socket()
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=buffer or 65_536)
    writer.write(b"GET /revocations/stream HTTP/1.1\r\nHost: x\r\n\r\n")
    return reader, writer


async def _until_heard(reader: asyncio.StreamReader, mark: bytes) -> bytes:
    async with asyncio.timeout(PATIENCE):
        while mark not in (line := await reader.readline()):
            assert line, "the stream ended"
    return line


async def test_readers_that_read_nothing_cost_little_and_are_dropped():
    """A flood of events reaches who reads; who does not holds no more than his share, and loses his place."""
    clock = FakeClock()
    with free_socket() as sock:
        # Else the kernel takes megabytes for who reads nothing.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_192)
        async with live(sock, clock=clock, feed_limit=50) as node:
            host, port = sock.getsockname()
            stuck = [await _stream_of(host, port, buffer=4_096) for _ in range(10)]
            await until_true(lambda: node.services.feed.followers == 10)
            async with stream(node.app, address="192.0.2.7") as good:
                await good.next_of("heartbeat")
                for n in range(20):
                    values = await append(node, 1_000, first=1_000 * n)
                    assert [(await good.next_of("revocation")).data["value"] for _ in values] == values
                held = [len(follower._waiting) for follower in node.services.feed._followers]
                assert max(held) <= server_feed.QUEUE
                async with asyncio.timeout(PATIENCE):
                    while node.services.feed.followers > 1:
                        clock.advance(1)
                        await asyncio.sleep(0.01)
            for _, writer in stuck:
                writer.transport.abort()


async def _unreachable(*_: object) -> None:
    raise StoreUnavailable("cut off, because a test wants it")
