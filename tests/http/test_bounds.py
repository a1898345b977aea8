"""Bounds on sizes and on time: of heads, of bodies, of answers, and of whoever does not read (RL3).

On a real uvicorn, over loopback; its clock is the test's.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import uvicorn
from tests.http.surface import Surface, surface, until
from tests.http.test_feed import append

from mintmark.core.events import EventName
from mintmark.http.protocol import bounded_http
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults

PATIENCE = 20.0


class Server(uvicorn.Server):
    """uvicorn without signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the test runner's signals alone."""
        yield


@asynccontextmanager
async def served(node: Surface) -> AsyncIterator[int]:
    """The node behind a real server, composed as a worker composes it; the port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            node.app,
            loop="none",
            http=bounded_http(node.clock),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
        )
        server = Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            await eventually(lambda: server.started)
            yield listening.getsockname()[1]
        finally:
            node.services.feed.close()
            server.should_exit = True
            await asyncio.wait_for(serving, PATIENCE)


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until ``condition`` holds: sockets need real time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it does not come true"
        await asyncio.sleep(0.001)


class Connection:
    """A raw connection, for requests that no client would make."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send these bytes, all of them."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        """The status and the headers of the next answer."""
        raw = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)
        status, *lines = raw.decode().rstrip().split("\r\n")
        return int(status.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer, its body included."""
        status, headers = await self.head()
        body = await asyncio.wait_for(self.reader.readexactly(int(headers["content-length"])), PATIENCE)
        return status, headers, body

    async def closed(self) -> bytes:
        """What comes until the other side closes, or resets."""
        try:
            return await asyncio.wait_for(self.reader.read(), PATIENCE)
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """A connection to the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def fake(node: Surface) -> FakeClock:
    """The clock of the node."""
    assert isinstance(node.clock, FakeClock)
    return node.clock


GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def post(path: str, length: int, media_type: str = "application/json") -> bytes:
    """The head of a POST that promises ``length`` bytes."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


# --- heads ---------------------------------------------------------------------------------------


async def test_server_speaks_http(node: Surface):
    """A plain request is answered, and the connection stays for another; HEAD has no body."""
    async with served(node) as port, connected(port) as connection:
        for _ in range(2):
            await connection.send(GET)
            status, headers, body = await connection.answer()
            assert (status, body) == (200, b'{"status":"live"}')
            assert "server" not in headers
        await connection.send(GET.replace(b"GET", b"HEAD") + GET)
        status, headers = await connection.head()
        assert (status, headers["content-length"]) == (200, "17")
        assert (await connection.answer())[0] == 200


async def test_connection_that_says_nothing_is_closed(node: Surface):
    """Ten seconds without a request end a new connection (slowloris)."""
    async with served(node) as port, connected(port) as connection:
        await fake(node).armed(within=10, beyond=5)
        fake(node).advance(10)
        assert await connection.closed() == b""


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request) -> tuple[str, dict[str, bool]]:
    """Both event loops: their transports differ in what they do once they are closed."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.mark.parametrize("drip", [b"X-Header: 1\r\n", b"\r\n", b"a"])
@pytest.mark.parametrize("first", [True, False])
async def test_head_that_drips_is_cut_off(node: Surface, drip, first):
    """A head that grows by a few bytes now and then has ten seconds in all, on any connection."""
    async with served(node) as port, connected(port) as connection:
        if not first:
            await connection.send(GET)
            await connection.answer()
        if drip != b"\r\n":
            await connection.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        for _ in range(5):
            await connection.send(drip)
        await fake(node).armed(within=10, beyond=5)
        fake(node).advance(10)
        assert await connection.closed() == b""


async def test_busy_connection_is_not_cut_off(node: Surface):
    """Requests that are complete may come on one connection for as long as they like."""
    async with served(node) as port, connected(port) as connection:
        for _ in range(5):
            await connection.send(GET)
            assert (await connection.answer())[0] == 200
            fake(node).advance(9)


async def test_limit_is_for_one_head_not_for_a_connection(node: Surface):
    """Heads that come in pieces may add up to any size on one connection."""
    piece = b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 8_000
    async with served(node) as port, connected(port) as connection, connected(port) as other:
        for _ in range(10):
            await connection.send(piece)
            # Once the other connection was answered, the piece has been read by itself.
            await other.send(GET)
            await other.answer()
            await connection.send(b"\r\n\r\n")
            assert (await connection.answer())[0] == 200


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"GET /livez HTTP/1.1\r\nX: " + b"a" * 17_000, 431, "headers_too_large"),
        (b"GET /livez HTTP/1.1\r\n" + b"\r\n".join(b"X: 1" for _ in range(101)), 431, "headers_too_large"),
        (b"GET /livez?" + b"a" * 5_000 + b" HTTP/1.1\r\nX: 1", 414, "url_too_long"),
        (b"GET /" + b"a" * 5_000 + b" HTTP/1.1\r\nX: 1", 414, "url_too_long"),
    ],
)
async def test_head_over_the_limits_is_refused(node: Surface, head, status, code):
    """Too long a URL is 414, too many or too large headers are 431, in the form of a problem."""
    async with served(node) as port, connected(port) as connection:
        await connection.send(head + b"\r\n\r\n")
        answered, headers, body = await connection.answer()
        assert answered == status
        assert code.encode() in body
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("begin", [b"GET /livez HTTP/1.1\r\nX: ", b"GET /", b"\r\n"])
async def test_head_without_end_is_refused_early(node: Surface, begin):
    """A head that never ends is cut off after 64 KiB, wherever in it the flood is: it fills no memory."""
    flood = b"\r\n" * 5_000 if begin == b"\r\n" else b"a" * 10_000
    async with served(node) as port, connected(port) as connection:
        sent = 0
        with contextlib.suppress(ConnectionError):
            await connection.send(begin)
            while not connection.reader.at_eof() and sent < 10_000_000:
                await connection.send(flood)
                sent += len(flood)
                await asyncio.sleep(0)
        assert sent < 10_000_000
        assert (await connection.closed())[:15] in {b"HTTP/1.1 400 Bad", b"HTTP/1.1 400 Ba", b""}


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /token HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /token HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX y: 1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_400_or_closed(node: Surface, garbage):
    """Bytes that are no HTTP, and heads that two servers could read in two ways, end the connection."""
    async with served(node) as port, connected(port) as connection:
        await connection.send(garbage)
        answer = await connection.closed()
        assert answer[:12] in {b"", b"HTTP/1.1 400"}


# --- bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/token", "/v1/sessions", "/v1/sessions/refresh"])
async def test_body_over_the_limit_is_413(node: Surface, path):
    """A body of over 16 KiB is refused by its stated length, before it comes, and the connection closed."""
    async with served(node) as port, connected(port) as connection:
        await connection.send(post(path, 16 * 1024 + 1))
        status, headers, _ = await connection.answer()
        assert (status, headers["connection"]) == (413, "close")
        assert await connection.closed() == b""


async def test_chunked_body_over_the_limit_is_413(node: Surface):
    """A body without a stated length is cut off where it passes the limit."""
    async with served(node) as port, connected(port) as connection:
        await connection.send(
            b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        with contextlib.suppress(ConnectionError):
            for _ in range(17):
                await connection.send(b"400\r\n" + b" " * 1024 + b"\r\n")
        assert (await connection.answer())[0] == 413


async def test_body_of_the_limit_is_read(node: Surface):
    """Exactly 16 KiB are read: they are refused for what they say, not for their size."""
    body = b"[" + b" " * (16 * 1024 - 2) + b"]"
    async with served(node) as port, connected(port) as connection:
        await connection.send(post("/v1/sessions", len(body)) + body)
        assert (await connection.answer())[0] == 400


@pytest.mark.parametrize("path", ["/token", "/v1/sessions", "/v1/sessions/current"])
async def test_body_that_drips_is_408(node: Surface, path):
    """A body has ten seconds in all, however evenly it drips; then 408, and the connection is closed."""
    async with served(node) as port, connected(port) as connection:
        head = post(path, 100)
        await connection.send(head.replace(b"POST", b"DELETE") if path.endswith("current") else head)
        for _ in range(5):
            await connection.send(b"{")
        await fake(node).armed(within=10, beyond=5)
        # The wait for the head is over; this one is for the body.
        await eventually(lambda: any("_body" in waits_in(task) for task in asyncio.all_tasks()))
        fake(node).advance(10)
        status, headers, body = await connection.answer()
        assert (status, headers["connection"]) == (408, "close")
        assert b"body_too_slow" in body or b"invalid_request" in body
        assert await connection.closed() == b""


async def test_client_that_leaves_within_its_body_leaves_nothing(node: Surface, caplog):
    """A connection that ends within a body is no error, and no request goes on."""
    before = asyncio.all_tasks()
    async with served(node) as port:
        async with connected(port) as connection:
            await connection.send(post("/token", 100) + b"grant")
        await until(lambda: len(asyncio.all_tasks()) <= len(before) + 3)
    assert "Exception" not in caplog.text
    assert node.services.audit.counts[EventName.REQUEST_FAILED] == 0


# --- answers -------------------------------------------------------------------------------------


async def test_hanging_store_is_503_over_http():
    """A store that never answers costs its caller five seconds, not for ever (I8, F15)."""
    clock = FakeClock()
    faults = Faults(clock=clock)
    async with (
        surface(clock=clock, faults=faults) as node,
        served(node) as port,
        connected(port) as connection,
    ):
        gate = faults.hold_before("revocations.read")
        await connection.send(b"GET /revocations HTTP/1.1\r\nHost: x\r\n\r\n")
        await gate.reached()
        fake(node).advance(5)
        status, headers, _ = await connection.answer()
        assert (status, headers["retry-after"]) == (503, "1")
        faults.recover()


async def test_reader_that_takes_nothing_is_dropped(node: Surface, caplog):
    """Who asks for much and reads nothing holds a connection for twenty seconds at most."""
    await append(node, 1_000)
    async with served(node) as port:
        with socket.socket() as mute:
            # A small window, so that little is on its way when the answers back up.
            mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            mute.connect(("127.0.0.1", port))
            mute.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(
                mute, b"GET /revocations HTTP/1.1\r\nHost: x\r\n\r\n" * 200
            )
            await eventually(lambda: any("drain" in waits_in(task) for task in asyncio.all_tasks()))
            fake(node).advance(20)
            await eventually(lambda: not any("run_asgi" in waits_in(task) for task in asyncio.all_tasks()))
    assert not [record for record in caplog.records if record.name == "uvicorn.error"]


async def test_pipeline_whose_client_leaves_is_no_error(node: Surface, caplog):
    """A client that sends many requests at once and goes leaves no answer that still writes, and no error."""
    await append(node, 1_000)
    async with served(node) as port:
        async with connected(port) as connection:
            await connection.send(b"GET /revocations HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
            await connection.head()
            connection.writer.transport.abort()
        await eventually(lambda: not any("run_asgi" in waits_in(task) for task in asyncio.all_tasks()))
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def waits_in(task: "asyncio.Task[object]") -> str:
    """The names of the coroutines that a task is in, from the outermost to the innermost."""
    found, inner = "", cast("Any", task.get_coro())
    while inner is not None:
        found += " " + getattr(inner, "__qualname__", "")
        inner = getattr(inner, "cr_await", None)
    return found


async def test_stream_over_http(node: Surface):
    """A stream is chunked and unbuffered, and ends in good order when the node leaves."""
    async with served(node) as port, connected(port) as connection:
        await connection.send(b"GET /revocations/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        status, headers = await connection.head()
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        await asyncio.wait_for(connection.reader.readuntil(b"event: heartbeat\n"), PATIENCE)
        tokens = await node.log_in()
        await node.log_out(tokens["access_token"])
        heard = await asyncio.wait_for(connection.reader.readuntil(tokens["rid"].encode()), PATIENCE)
        assert b"event: revocation\n" in heard
        node.services.feed.close()
        await asyncio.wait_for(connection.reader.readuntil(b"0\r\n\r\n"), PATIENCE)
