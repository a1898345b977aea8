"""An HTTP server on loopback that counts what it is asked and misbehaves on demand.

It runs its own event loop in a thread, so that tests of threads and of asyncio alike can use it, and
it speaks just enough HTTP/1.1 for that: GET, keep-alive and bodies of known length or until close; and POST,
where that is what it is for.
"""

import asyncio
import contextlib
import gzip
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from mintmark.ports.clock import Clock

_PATIENCE: Final = 20.0
_HEAD_LIMIT: Final = 32_768
_MEBIBYTE: Final = 1_048_576


class Fault(Enum):
    """One way in which an origin fails."""

    REFUSE = "closes the connection without an answer"
    ERROR = "answers 500"
    NOT_FOUND = "answers 404"
    HOLD = "answers nothing until it recovers, then what was asked"
    DRIP = "sends its answer a byte at a time, for ever"
    DRIP_HEAD = "sends its header a byte at a time, for ever"
    TRUNCATE = "closes after half of the body"
    EMPTY = "answers {}"
    GARBAGE = "answers bytes that are not JSON, under a JSON content type"
    HTML = "answers a login page with 200"
    REDIRECT = "answers 302 to a good copy"
    HUGE = "answers 40 MiB"
    BOMB = "answers 40 MiB in 40 KiB of gzip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked: ``headers`` by lower-case name, ``query`` decoded."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What to answer; a ``stream`` is sent piece by piece until it ends or the client goes."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None


class Origin:
    """A loopback server: ``routes`` gives each path the name that faults and counts go by.

    Any other ``method`` than the one that it is for is 405, and ``tls`` makes it speak HTTPS.
    """

    def __init__(
        self,
        *,
        routes: Mapping[str, str],
        answer: Callable[[str, Request], Reply],
        clock: Clock,
        method: str = "GET",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._routes = routes
        self._method = method
        self._tls = tls
        self._answer = answer
        self._clock = clock
        self._faults: dict[str, Fault] = {}
        self._delays: dict[str, float] = {}
        self._counts: Counter[str] = Counter()
        self._asked = threading.Condition()
        self._recovered: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    # --- life ----------------------------------------------------------------------------------

    def start(self, port: int = 0) -> None:
        """Listen on 127.0.0.1 (``port`` 0: any free one); returns once connections are accepted."""
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(port, started), name="mintmark-testing-origin", daemon=True
        )
        self._thread.start()
        if not started.wait(_PATIENCE) or self.port == 0:
            raise RuntimeError("the loopback server did not start")

    def close(self) -> None:
        """Close every connection and end the thread."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._loop = self._thread = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_PATIENCE)

    def call(self, function: Callable[[], object]) -> None:
        """Have ``function`` run soon on the server's event loop."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(function)

    def _run(self, port: int, started: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        try:
            self._recovered = asyncio.Event()
            server = loop.run_until_complete(
                asyncio.start_server(self._serve, "127.0.0.1", port, backlog=1024, ssl=self._tls)
            )
            self.port = server.sockets[0].getsockname()[1]
            self._loop = loop
            started.set()
            loop.run_forever()
            # First no more connections: one that is half accepted when the server closes would leak.
            for listening in server.sockets:
                loop.remove_reader(listening.fileno())
            loop.run_until_complete(self._cut_all())
            server.close()
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
            started.set()

    async def _cut_all(self) -> None:
        # More than once: a connection that was just accepted becomes a task only after some turns.
        for _ in range(8):
            await asyncio.sleep(0)
            open_ones = tuple(self._connections)
            for task in open_ones:
                task.cancel()
            await asyncio.gather(*open_ones, return_exceptions=True)

    # --- what tests turn -----------------------------------------------------------------------

    def fail(self, fault: Fault, *names: str) -> None:
        """From the next request on, the routes ``names`` (all, where none is given) fail like this."""
        for name in names or tuple(self._routes.values()):
            self._faults[name] = fault

    def delay(self, span: float, *names: str) -> None:
        """From the next request on, wait ``span`` seconds of the clock before each answer."""
        for name in names or tuple(self._routes.values()):
            self._delays[name] = span

    def recover(self) -> None:
        """Answer properly again; what was held is answered now."""
        self._faults.clear()
        self._delays.clear()

        def release() -> None:
            if self._recovered is not None:
                self._recovered.set()
                self._recovered = asyncio.Event()

        self.call(release)

    def disconnect(self) -> None:
        """Cut every open connection, streams included; returns once they are closed."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._cut_all(), self._loop).result(_PATIENCE)

    def count(self, name: str) -> int:
        """How many requests came for the route ``name``, whatever became of them."""
        with self._asked:
            return self._counts[name]

    def wait_for(self, name: str, count: int = 1) -> None:
        """Block until ``count`` requests have come for ``name``; TimeoutError after 20 real seconds."""
        with self._asked:
            if not self._asked.wait_for(lambda: self._counts[name] >= count, _PATIENCE):
                raise TimeoutError(f"{self._counts[name]} of {count} requests came for {name}")

    # --- the protocol --------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        try:
            # A client that goes, or speaks nonsense, ends its connection and that is all.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                while await self._serve_one(reader, writer):
                    pass
            with contextlib.suppress(ConnectionError):
                writer.close()
                await writer.wait_closed()
        except asyncio.CancelledError:
            # The server closes, or the test cut the connection: what is unsent is lost.
            writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n"))[:_HEAD_LIMIT].decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
        }
        sent = await reader.readexactly(int(headers.get("content-length", "0")))
        parts = urlsplit(target)
        name = self._routes.get(parts.path, "unknown")
        with self._asked:
            self._counts[name] += 1
            self._asked.notify_all()
        if name in self._delays:
            await self._clock.sleep(self._delays[name])
        fault = self._faults.get(name)
        if fault is Fault.HOLD and self._recovered is not None:
            await self._recovered.wait()
            fault = self._faults.get(name)
        request = Request(path=parts.path, query=dict(parse_qsl(parts.query)), headers=headers, body=sent)
        reply = self._answer(name, request) if name != "unknown" else Reply(status=404)
        if method != self._method:
            reply = Reply(status=405)
        if fault is None:
            return await _write(writer, reply)
        return await _misbehave(writer, reply, fault, target)


async def _write(writer: asyncio.StreamWriter, reply: Reply) -> bool:
    writer.write(_head(reply, len(reply.body) if reply.stream is None else None))
    if reply.stream is None:
        writer.write(reply.body)
        await writer.drain()
        return True
    # A client that goes is noticed by the next write, or by the reader's end of file.
    async for piece in reply.stream:
        writer.write(piece)
        await writer.drain()
    return False


def _head(reply: Reply, length: int | None) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    # RFC 9112 s.6.3: a body without a length ends with the connection.
    lines.append("Connection: close" if length is None else f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


_JSON: Final = {"Content-Type": "application/json"}


async def _misbehave(writer: asyncio.StreamWriter, reply: Reply, fault: Fault, target: str) -> bool:
    match fault:
        case Fault.REFUSE | Fault.HOLD:
            return False
        case Fault.ERROR:
            return await _write(writer, Reply(status=500, headers=_JSON, body=b'{"error":"server_error"}'))
        case Fault.NOT_FOUND:
            return await _write(writer, Reply(status=404))
        case Fault.EMPTY:
            return await _write(writer, Reply(headers=_JSON, body=b"{}"))
        case Fault.GARBAGE:
            return await _write(writer, Reply(headers=_JSON, body=b'\xff\xfe{"keys":[[[[[['))
        case Fault.HTML:
            return await _write(
                writer, Reply(headers={"Content-Type": "text/html"}, body=b"<h1>Sign in</h1>")
            )
        case Fault.REDIRECT:
            return await _write(writer, Reply(status=302, headers={"Location": f"{target}?copy=1"}))
        case Fault.TRUNCATE:
            body = reply.body or b"{}"
            writer.write(_head(Reply(headers=reply.headers), len(body)) + body[: len(body) // 2])
            await writer.drain()
            return False
        case Fault.DRIP:
            await _drip(writer, _head(Reply(headers=_JSON), _MEBIBYTE), b" ")
        case Fault.DRIP_HEAD:
            await _drip(writer, b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a")
        case Fault.HUGE:
            writer.write(_head(Reply(headers=_JSON), 40 * _MEBIBYTE))
            for _ in range(40 * 16):
                writer.write(b" " * (_MEBIBYTE // 16))
                await writer.drain()
            return False
        case Fault.BOMB:
            bomb = gzip.compress(b" " * (40 * _MEBIBYTE), compresslevel=9)
            return await _write(writer, Reply(headers={**_JSON, "Content-Encoding": "gzip"}, body=bomb))
    return False


async def _drip(writer: asyncio.StreamWriter, start: bytes, piece: bytes) -> None:
    writer.write(start)
    while True:
        await writer.drain()
        # Real time, not the clock's: what is tested is a peer that always sends just enough.
        await asyncio.sleep(0.02)
        writer.write(piece)
