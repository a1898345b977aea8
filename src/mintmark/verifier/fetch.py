"""Bounded requests to an issuer: what comes back is small, in time, and not from somewhere else.

Whatever goes wrong comes out as :class:`FetchFailed` with a stable reason; no error of the HTTP client,
of TLS or of the network does.
"""

import asyncio
import importlib
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from mintmark.errors import MintmarkError
from mintmark.ports.clock import Clock
from mintmark.units import Seconds
from mintmark.verifier.engine import PREPARING

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

_GZIP: Final = 16 + zlib.MAX_WBITS
_JSON: Final = re.compile(r"application/([a-z0-9.-]+\+)?json")


def load_client() -> None:
    """Import all of the HTTP client, also what it imports itself no earlier than at its first request."""
    for name in ("httpx2", "httpcore2", "anyio._backends._asyncio"):
        importlib.import_module(name)


class FetchFailed(MintmarkError):
    """A request brought nothing usable; ``reason`` is stable (``timeout``, ``status_500`` …)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may cost."""

    connect: float = 2.0
    total: Seconds = Seconds(5)
    """Wall-clock seconds from the first byte out to the last byte in, however evenly they drip."""
    size: int = 256 * 1024
    """Bytes of a body, before decompression and after it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A 200 with its body, or a 304; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    media_type: str = ""


async def within(clock: Clock, span: float, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` returns, or FetchFailed (``timeout``) once ``span`` seconds of the clock have passed."""
    task = asyncio.ensure_future(work)
    timer = asyncio.ensure_future(clock.sleep(span))
    try:
        await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise FetchFailed("timeout")
        return task.result()
    finally:
        for part in (task, timer):
            part.cancel()
        # Both are awaited to their end, so that no connection is left half closed behind us.
        await asyncio.gather(task, timer, return_exceptions=True)


class Fetcher:
    """An HTTP client that follows no redirect, believes no length, and waits for nobody.

    Lives on one event loop; an ``async with`` block opens and closes it.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        clock: Clock,
        tls: ssl.SSLContext | None,
        proxies: bool,
        vet: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """``vet(url)`` is called before each request, and raises FetchFailed where it must not be made."""
        self._vet = vet
        self._limits = limits
        self._clock = clock
        self._tls = tls
        self._proxies = proxies
        self._entered = False
        self._client: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    def _made(self) -> "httpx2.AsyncClient":
        """The client, made for the first request: one that cannot be made is a request that failed."""
        # Imported here: it takes longer than everything else that ``import mintmark`` loads.
        import httpx2  # noqa: PLC0415

        if self._client is None:
            with PREPARING:
                self._client = httpx2.AsyncClient(
                    verify=True if self._tls is None else self._tls,
                    trust_env=self._proxies,
                    follow_redirects=False,
                    headers={"User-Agent": "mintmark-verifier", "Accept-Encoding": "gzip"},
                    limits=httpx2.Limits(max_connections=8, max_keepalive_connections=2, keepalive_expiry=30),
                )
        return self._client

    async def __aexit__(self, *_: object) -> None:
        self._entered = False
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        size: int | None = None,
        span: Seconds | None = None,
        preferred: str | None = None,
    ) -> Answer:
        """The JSON document at ``url``: a 200, or a 304 where ``headers`` ask for one.

        It may also be of the ``preferred`` media type. ``size`` and ``span`` take the place of the limits for
        one body and for all of it. Raises :class:`FetchFailed`.
        """
        most = self._limits.size if size is None else size
        total = self._limits.total if span is None else span
        try:
            return await within(self._clock, total, self._get(url, dict(headers or {}), most, preferred))
        except FetchFailed:
            raise
        except Exception as error:  # a client's library may raise what it does not document
            raise FetchFailed("client") from error

    async def _get(self, url: str, headers: dict[str, str], size: int, preferred: str | None) -> Answer:
        accept = (
            "application/json, */*;q=0.1" if preferred is None else f"{preferred}, application/json;q=0.5"
        )
        async with self._open(url, headers | {"Accept": accept}) as response:
            conditional = "If-None-Match" in headers
            if response.status_code == 304 and conditional:
                return Answer(304, dict(response.headers), b"")
            _check_status(response.status_code)
            kind = _media_type(response)
            if kind not in ("application/json", preferred) and not (
                kind.startswith("application/") and kind.endswith("+json")
            ):
                raise FetchFailed("content_type")
            body = await _read(response, size)
            return Answer(200, dict(response.headers), body, kind)

    @asynccontextmanager
    async def events(
        self, url: str, *, headers: Mapping[str, str], message_size: int
    ) -> "AsyncIterator[AsyncIterator[httpx2.ServerSentEvent]]":
        """The server-sent events at ``url``, as they come; no silence ends them, so bound it yourself.

        Raises :class:`FetchFailed`, within the block too.
        """
        import httpx2  # noqa: PLC0415

        wanted = dict(headers) | {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        async with self._open(url, wanted, silence=True) as response:
            _check_status(response.status_code)
            if "content-encoding" in response.headers:
                raise FetchFailed("content_encoding")
            if _media_type(response) != "text/event-stream":
                raise FetchFailed("content_type")
            yield aiter(httpx2.EventSource(response, max_event_size=message_size))

    @asynccontextmanager
    async def _open(
        self, url: str, headers: dict[str, str], *, silence: bool = False
    ) -> "AsyncIterator[httpx2.Response]":
        import httpx2  # noqa: PLC0415

        if not self._entered:
            raise FetchFailed("closed")
        try:
            client = self._made()
        except Exception as error:  # no certificates, a proxy that is none
            raise FetchFailed("client") from error
        if self._vet is not None:
            await self._vet(url)
        try:
            # The whole is bounded by the clock that we were given; these bound one step in real time.
            total = float(self._limits.total)
            timeout = httpx2.Timeout(total, connect=self._limits.connect, read=None if silence else total)
            async with client.stream("GET", url, headers=headers, timeout=timeout) as response:
                yield response
        except httpx2.TimeoutException as error:
            raise FetchFailed("timeout") from error
        except (httpx2.ConnectError, httpx2.ProxyError) as error:
            raise FetchFailed("connect") from error
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            raise FetchFailed("network") from error
        except (httpx2.InvalidURL, UnicodeError) as error:
            # A URL or header that the client cannot write: it came from the issuer.
            raise FetchFailed("url") from error


def _check_status(status: int) -> None:
    if status != 200:
        # A redirect too: what it points to would not be the issuer's origin.
        raise FetchFailed(f"status_{status}")


def _media_type(response: "httpx2.Response") -> str:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read(response: "httpx2.Response", size: int) -> bytes:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise FetchFailed("content_encoding")
    length = response.headers.get("content-length", "")
    if length.isdecimal() and len(length) < 16 and int(length) > size:
        raise FetchFailed("too_large")
    # Unpacked here and not by the client, which would unpack a bomb whole before we could count it.
    unpack = zlib.decompressobj(_GZIP) if encoding == "gzip" else None
    parts: list[bytes] = []
    raw = total = 0
    async for chunk in response.aiter_raw():
        # What came in too: gzip has room for bytes that unpack to nothing.
        raw += len(chunk)
        if raw > size:
            raise FetchFailed("too_large")
        try:
            part = chunk if unpack is None else unpack.decompress(chunk, size - total + 1)
        except zlib.error as error:
            raise FetchFailed("content_encoding") from error
        if unpack is not None and unpack.unused_data:
            # Bytes after the end: some would read them as more of the body, and zlib hoards them.
            raise FetchFailed("content_encoding")
        total += len(part)
        if total > size:
            raise FetchFailed("too_large")
        parts.append(part)
    if unpack is not None and not unpack.eof:
        raise FetchFailed("content_encoding")
    return b"".join(parts)
