"""Requests that are bounded in time, size and place, against an origin that misbehaves."""

import asyncio
import gzip
import threading
import tracemalloc

import pytest

from mintmark.testing import FakeClock, Fault
from mintmark.testing.origin import Origin, Reply
from mintmark.verifier.fetch import Fetcher, FetchFailed, Limits, within

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
GZIP = JSON | {"Content-Encoding": "gzip"}


@pytest.fixture
def clock():
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def serve(clock):
    """Starts origins that answer every request for ``/x`` with one reply; gives their URL."""
    origins = []

    def serve(reply: Reply, fault: Fault | None = None) -> str:
        origin = Origin(routes={"/x": "x"}, answer=lambda _name, _request: reply, clock=clock)
        if fault is not None:
            origin.fail(fault)
        origin.start()
        origins.append(origin)
        return f"http://127.0.0.1:{origin.port}/x"

    yield serve
    for origin in origins:
        origin.close()


@pytest.fixture
async def fetcher(clock):
    """A client with the default limits."""
    async with Fetcher(limits=Limits(), clock=clock, tls=None, proxies=False) as fetcher:
        yield fetcher


async def failure(fetcher, url, **options) -> str:
    """Why a request failed."""
    with pytest.raises(FetchFailed) as failed:
        await fetcher.get(url, **options)
    return failed.value.reason


async def test_a_document_is_fetched(fetcher, serve):
    """Status, headers and body come back."""
    answer = await fetcher.get(serve(Reply(headers=JSON | {"ETag": '"1"'}, body=b'{"a":1}')))
    assert (answer.status, answer.headers["etag"], answer.body) == (200, '"1"', b'{"a":1}')


async def test_compressed_documents_are_unpacked(fetcher, serve):
    """A CDN may send gzip."""
    body = gzip.compress(b'{"a":1}')
    answer = await fetcher.get(serve(Reply(headers=GZIP, body=body)))
    assert answer.body == b'{"a":1}'


async def test_304_is_an_answer_only_to_a_conditional_request(fetcher, serve):
    """Without If-None-Match there is nothing that could be unchanged."""
    url = serve(Reply(status=304))
    assert (await fetcher.get(url, headers={"If-None-Match": '"1"'})).status == 304
    assert await failure(fetcher, url) == "status_304"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(status=500, headers=JSON), "status_500"),
        (Reply(status=302, headers={"Location": "/x"}), "status_302"),
        (Reply(status=204), "status_204"),
        (Reply(headers={"Content-Type": "text/html"}, body=b"{}"), "content_type"),
        (Reply(body=b"{}"), "content_type"),
        (Reply(headers={"Content-Type": "application/jsonp"}, body=b"{}"), "content_type"),
        (Reply(headers=JSON | {"Content-Encoding": "br"}, body=b"x"), "content_encoding"),
        (Reply(headers=GZIP, body=b"no gzip"), "content_encoding"),
        (
            Reply(headers=GZIP, body=gzip.compress(b"{}")[:-9]),
            "content_encoding",
        ),
        (Reply(headers=GZIP, body=gzip.compress(b"{}") + b"x"), "content_encoding"),
        (Reply(headers=GZIP, body=gzip.compress(b"{}") * 2), "content_encoding"),
        (Reply(headers=JSON, body=b" " * (256 * 1024 + 1)), "too_large"),
    ],
)
async def test_anything_but_a_small_json_document_is_a_failure(fetcher, serve, reply, reason):
    """With a stable reason, and no redirect followed."""
    assert await failure(fetcher, serve(reply)) == reason


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "application/jwk-set+json", "Application/JSON"]
)
async def test_json_content_types(fetcher, serve, kind):
    """Parameters, suffixes and case do not matter."""
    assert (await fetcher.get(serve(Reply(headers={"Content-Type": kind}, body=b"{}")))).body == b"{}"


async def test_the_largest_document_is_256_kib(fetcher, serve):
    """The bound is exact."""
    body = b" " * (256 * 1024)
    assert len((await fetcher.get(serve(Reply(headers=JSON, body=body)))).body) == len(body)


async def test_a_bomb_is_never_unpacked(fetcher, serve):
    """40 MiB in 40 KiB of gzip cost less than a MiB of memory."""
    bomb = gzip.compress(b" " * (40 * 1024 * 1024))
    url = serve(Reply(headers=GZIP, body=bomb))
    tracemalloc.start()
    try:
        assert await failure(fetcher, url) == "too_large"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * 1024 * 1024


async def pieces(first: bytes, then: bytes):
    """A body of unknown length: ``first``, and 64 times ``then``, each a write of its own."""
    yield first
    for _ in range(64):
        yield then


@pytest.mark.parametrize(
    ("first", "then", "reason"),
    [
        (b"", b" " * 8192, "too_large"),
        # Blocks of gzip that hold nothing: the body stays empty however many come.
        (gzip.compress(b"")[:10], b"\0\0\0\xff\xff" * 2000, "too_large"),
        (gzip.compress(b"{}"), b"x" * 8192, "content_encoding"),
    ],
    ids=["plain", "empty blocks", "after the end"],
)
async def test_what_comes_in_is_bounded_before_it_is_unpacked(fetcher, serve, first, then, reason):
    """Whatever its length header does not say, and whatever it unpacks to."""
    headers = GZIP if first else JSON
    assert await failure(fetcher, serve(Reply(headers=headers, stream=pieces(first, then)))) == reason


@pytest.mark.parametrize("fault", [Fault.HOLD, Fault.DRIP, Fault.DRIP_HEAD])
async def test_five_seconds_are_all_there_is(fetcher, serve, clock, fault):
    """However the bytes drip: a limit for each read would never end this."""
    url = serve(Reply(headers=JSON, body=b"{}"), fault)
    waiting = asyncio.create_task(failure(fetcher, url))
    await clock.armed(within=5, beyond=4)
    clock.advance(4.9)
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(0.1)
    assert await waiting == "timeout"


async def test_nobody_there_is_a_failure(fetcher):
    """A refused connection, a name that is none, and a URL that is none."""
    assert await failure(fetcher, "http://127.0.0.1:1/x") == "connect"
    assert await failure(fetcher, "http://name.invalid/x") == "connect"
    assert await failure(fetcher, "http://127.0.0.1:99999/x") == "client"
    assert await failure(fetcher, "http://\0/x") == "url"


async def test_a_server_without_tls_is_not_believed(fetcher, serve):
    """Nothing is read before the handshake; a server that never makes one is given two seconds."""
    assert await failure(fetcher, serve(Reply()).replace("http", "https")) in {"connect", "timeout"}


async def test_a_cancelled_request_ends_at_once(fetcher, serve):
    """The caller's cancellation is no failure of the origin."""
    url = serve(Reply(headers=JSON, body=b"{}"), Fault.HOLD)
    waiting = asyncio.create_task(fetcher.get(url))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_within_returns_what_the_work_returns(clock):
    """And raises what it raises."""

    async def work():
        return 7

    async def fail():
        raise KeyError("x")

    assert await within(clock, 5, work()) == 7
    with pytest.raises(KeyError):
        await within(clock, 5, fail())
    assert clock.armed_spans() == []
    assert threading.active_count() >= 1
