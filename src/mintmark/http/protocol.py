"""HTTP/1.1 for uvicorn with the bounds that it lacks: how long a head may take, and how large it may be.

Without them a connection that never finishes its headers stays for ever, and one header that never ends
fills the memory. Bodies and answers are bounded in :mod:`mintmark.http.endpoint`.
"""

import asyncio
from typing import Any, ClassVar, Final

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mintmark.http.endpoint import ABORT
from mintmark.ports.clock import Clock
from mintmark.server.deadline import Expiry, Waiting

HEAD_WITHIN: Final = 10.0
"""Seconds from the connection, or the first byte of a later request, to the end of its headers."""
MAX_HEAD: Final = 64 * 1024
"""Bytes of a head that is not complete; :mod:`mintmark.http.guard` is stricter once it is."""


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol; :func:`bounded_http` gives it a clock."""

    heads: ClassVar[Expiry]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._waiting: Waiting | None = None
        self._answering: RequestResponseCycle | None = None
        self._in_head = False
        self._received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._waiting = self.heads.begin(self.drop)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more, and let whoever answers know."""
        self._end_waiting()
        self._disconnect()
        super().connection_lost(exc)

    def drop(self) -> None:
        """Let go of the connection at once: what its reader did not take is thrown away."""
        self._disconnect()
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse; then see whether a head is under way that takes too long, or too much."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if not self._in_head and cycle is not None and not cycle.response_complete:
            self._end_waiting()
            return
        # Whatever came so far began no request: part of a head, or line breaks before one.
        self._received += len(data)
        if self._received > MAX_HEAD:
            self.send_400_response("The headers are too large.")
        elif self._waiting is None:
            self._waiting = self.heads.begin(self.drop)

    def on_message_begin(self) -> None:
        """A head begins. Its request can drop the connection of a reader that does not read."""
        super().on_message_begin()
        self._in_head = True
        self.scope["extensions"] = {ABORT: self.drop}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        """The head is complete. A target in absolute form says which host it is for (RFC 9112 s.3.2.2)."""
        self._in_head = False
        if not self.url.startswith((b"/", b"*")):
            host = _authority(self.url)
            self.headers[:] = [*(pair for pair in self.headers if pair[0] != b"host"), (b"host", host)]
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _disconnect(self) -> None:
        # Of pipelined requests uvicorn tells only the last one, and the first goes on writing.
        self.pipeline.clear()
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def _end_waiting(self) -> None:
        self._received = 0
        if self._waiting is not None:
            self.heads.end(self._waiting)
            self._waiting = None


def _authority(target: bytes) -> bytes:
    """The host and the port of a target in absolute form, as they stand there; empty where it has none."""
    return target.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]


def bounded_http(clock: Clock) -> type[BoundedHttp]:
    """The protocol class for one server (``uvicorn.Config(http=...)``)."""

    class Bounded(BoundedHttp):
        heads = Expiry(clock, HEAD_WITHIN)

    return Bounded
