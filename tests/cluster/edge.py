"""A small caching proxy before a node, as a CDN is: it can keep a stale copy of the key set, or be down."""

import contextlib
import http.client
import http.server
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

JWKS: Final = "/.well-known/jwks.json"
_CHUNK: Final = 64 * 1024
_PATIENCE: Final = 30


@dataclass(frozen=True)
class Copy:
    """An answer that is kept."""

    body: bytes
    headers: tuple[tuple[str, str], ...]
    fresh_until: float


class Edge:
    """Serves the key set from its copy for as long as ``max-age`` says; everything else is passed on.

    While it is ``frozen`` the copy stays, whatever its age; while it is ``down`` every answer is 502.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        """The port of the node."""
        self.url = ""
        self.frozen = False
        self.down = False
        self.served = 0
        """How often the key set was served from a copy."""
        self._copy: Copy | None = None
        self._lock = threading.Lock()

    def key_set(self) -> Copy:
        """What is answered to a request for the key set. Raises OSError."""
        with self._lock:
            if self._copy is not None and (self.frozen or time.monotonic() < self._copy.fresh_until):
                self.served += 1
                return self._copy
            with contextlib.closing(self.connect()) as connection:
                connection.request("GET", JWKS)
                answer = connection.getresponse()
                body, headers = answer.read(), tuple(answer.getheaders())
            if answer.status != http.HTTPStatus.OK:
                raise OSError(f"status {answer.status}")
            age = re.search(r"max-age=(\d+)", answer.headers.get("Cache-Control", ""))
            self._copy = Copy(body, headers, time.monotonic() + (int(age[1]) if age else 0))
            return self._copy

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=_PATIENCE)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request a connection, as in HTTP/1.0: the end of the answer is the end of the connection."""

    edge: Edge

    def do_GET(self) -> None:
        # Whoever asked may have gone, and so may the node.
        with contextlib.suppress(OSError, http.client.HTTPException):
            if self.edge.down:
                self._answer(502, ())
            elif self.path == JWKS:
                self._key_set()
            else:
                self._pass_on()

    def _key_set(self) -> None:
        try:
            copy = self.edge.key_set()
        except (OSError, http.client.HTTPException):
            self._answer(502, ())
            return
        self._answer(200, copy.headers)
        self.wfile.write(copy.body)

    def _pass_on(self) -> None:
        with contextlib.closing(self.edge.connect()) as connection:
            names = ("Accept", "Last-Event-ID", "If-None-Match")
            headers = {name: self.headers[name] for name in names if name in self.headers}
            connection.request("GET", self.path, headers=headers)
            answer = connection.getresponse()
            self._answer(answer.status, tuple(answer.getheaders()))
            while chunk := answer.read1(_CHUNK):
                self.wfile.write(chunk)
                self.wfile.flush()

    def _answer(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def running_edge(upstream: int) -> Iterator[Edge]:
    """An edge before the node that listens, or will, on the port ``upstream``."""
    edge = Edge(upstream)
    handler = type("Handler", (_Handler,), {"edge": edge})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        # A stream that is passed on ends with its node.
        server.daemon_threads = True
        edge.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield edge
        finally:
            server.shutdown()
            thread.join()
