"""GET /revocations/stream: the revocation log as server-sent events (design 6.2).

A stream that ends means «come again with your cursor». One that is open and silent for longer than a
heartbeat means that something is wrong.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mintmark.core.feed_table import event_members
from mintmark.core.log import Cursor, LogEntry, LogPage, parse_cursor
from mintmark.errors import NotReady, Overloaded, Unavailable
from mintmark.http.endpoint import Bounds, ReaderTooSlow, drop
from mintmark.http.errors import NO_STORE, ErrorForm, error_response, report
from mintmark.http.feed import FeedGate
from mintmark.http.request import Incoming, address_of, query_of
from mintmark.ports.revocations import CursorGone
from mintmark.server.deadline import Expiry, Waiting
from mintmark.server.feed import BATCH, CutOff, Entries, Follower, Heartbeat, KeysChanged, Message
from mintmark.server.services import Services
from mintmark.units import Seconds

HEARTBEAT: Final = 10.0
"""Seconds between two heartbeats of a stream."""
_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": NO_STORE,
    # nginx would keep events back until a buffer is full.
    "X-Accel-Buffering": "no",
}
_WRITTEN: Final = 256
_encode: Final = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Place:
    """Where a stream begins: the cursor behind what is caught up, and the page to send next, if any."""

    cursor: Cursor
    page: LogPage | None


class FeedStream:
    """The stream of one issuer, as an ASGI application."""

    def __init__(self, services: Services, bounds: Bounds) -> None:
        self._feed = services.feed
        self._clock = services.clock
        self._audit = services.audit
        self._bounds = bounds
        self._most = services.streams_per_address
        self._gate = FeedGate(services)
        self._addresses: Counter[str] = Counter()
        self._beats = Expiry(services.clock, HEARTBEAT)
        self._written: dict[int, tuple[Message, bytes]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, for the scope ``http``; the connection is the follower's until one of the two ends it."""
        request = Incoming(scope, receive)
        if request.method != "GET":
            # The route lets HEAD through with GET, and this has no end to have a length.
            raise HTTPException(405, headers={"Allow": "GET"})
        try:
            self._gate.check(request)
            with self._counted(request):
                # First a place among the followers, then the store: what is committed in between comes
                # from both, and is sent once.
                async with self._feed.follow() as follower:
                    place = await self._bounds.answers.hold(self._begin(request))
                    await self._serve(follower, place, request, send)
                    return
        except ReaderTooSlow:
            drop(scope)
            return
        except Exception as error:  # noqa: BLE001 - every error becomes a response; past that there is none
            response = error_response(error, request, ErrorForm.PROBLEM, self._audit)
        await self._bounds.send(response, scope, receive, send)

    @contextlib.contextmanager
    def _counted(self, request: Incoming) -> Iterator[None]:
        address = address_of(request)
        if self._addresses[address] >= self._most:
            raise Overloaded("too many streams from one address", retry_after=Seconds(5))
        self._addresses[address] += 1
        try:
            yield
        finally:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    async def _begin(self, request: Incoming) -> _Place | None:
        """Where the stream begins; None where the log cannot continue from the follower's cursor.

        Raises NotReady while no heartbeat could be given: such a stream would be silence from the start.
        """
        head = self._feed.heartbeat()
        # A browser that reconnects sends the header, beside a URL that has the first cursor still.
        text = request.headers.get("last-event-id") or query_of(request, "after")
        if text is None:
            return _Place(head.cursor, None)
        after = parse_cursor(text)
        page = CursorGone() if after is None else await self._feed.page(after)
        if after is None or isinstance(page, CursorGone):
            return None
        return _Place(after, page)

    async def _serve(self, follower: Follower, place: _Place | None, request: Incoming, send: Send) -> None:
        start = Response(headers=_HEADERS)
        del start.headers["content-length"]
        await self._bounds.push(
            send, {"type": "http.response.start", "status": 200, "headers": start.raw_headers}
        )
        # One task besides the request's own: a node may have thousands of these.
        leaving = asyncio.create_task(_left(request, follower))
        try:
            await self._write(follower, place, send)
        except ReaderTooSlow:
            raise
        except Exception as error:  # noqa: BLE001 - the response has begun, so its abrupt end is all they hear
            report(error, request, self._audit)
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    async def _write(self, follower: Follower, place: _Place | None, send: Send) -> None:
        try:
            with self._beating(follower):
                async for events in self._events(follower, place):
                    await self._bounds.push(
                        send, {"type": "http.response.body", "body": events, "more_body": True}
                    )
        except Unavailable:
            # The follower comes again, and then hears 503.
            pass
        await self._bounds.push(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self, follower: Follower, place: _Place | None) -> AsyncIterator[bytes]:
        if place is None:
            yield _message("reset", {})
            return
        keys = self._feed.keys()
        yield _retry(follower) + (b"" if keys is None else self._shared(keys))
        page = place.page
        while page is not None:
            for start in range(0, len(page.entries), BATCH):
                yield _revocations(page.entries[start : start + BATCH])
            place.cursor = page.cursor
            following = None if page.complete else await self._feed.page(page.cursor)
            if isinstance(following, CursorGone):
                yield _message("reset", {})
                return
            page = following
        # Queued like everything else, so it comes after every entry that is not beyond its head.
        follower.offer(self._feed.heartbeat())
        while True:
            match await follower.next():
                case CutOff():
                    yield _retry(follower)
                    return
                case Heartbeat() as beat if beat.cursor.seq < place.cursor.seq:
                    # The catch-up read beyond what this process had heard when it was queued.
                    if not await self._is_kept(place.cursor):
                        yield _message("reset", {})
                        return
                    yield _heartbeat(Heartbeat(place.cursor, beat.at))
                case Entries() as told if told.entries[0].cursor.seq <= place.cursor.seq:
                    # The catch-up read some of these too.
                    if not await self._is_kept(place.cursor):
                        yield _message("reset", {})
                        return
                    yield _revocations(e for e in told.entries if e.cursor.seq > place.cursor.seq)
                case message:
                    yield self._shared(message)

    async def _is_kept(self, cursor: Cursor) -> bool:
        """Whether the log still has this place. What this process heard until now lies before it, so a store
        that went back in between is the same log to this process, and another one to the follower."""
        return not isinstance(await self._feed.page(cursor), CursorGone)

    def _shared(self, message: Message) -> bytes:
        """``message`` as bytes, which are made once for all who are told."""
        found = self._written.get(id(message))
        # An id is another object's once its own is gone, and the one that is kept here is not.
        if found is None:
            if len(self._written) >= _WRITTEN:
                del self._written[next(iter(self._written))]
            found = self._written[id(message)] = (message, _bytes(message))
        return found[1]

    @contextlib.contextmanager
    def _beating(self, follower: Follower) -> Iterator[None]:
        """A heartbeat in the follower's queue every ten seconds, and its end once there is none to give."""

        waiting: Waiting

        def beat() -> None:
            nonlocal waiting
            try:
                follower.offer(self._feed.heartbeat())
            except NotReady:
                follower.offer(CutOff())
            waiting = self._beats.begin(beat)

        waiting = self._beats.begin(beat)
        try:
            yield
        finally:
            self._beats.end(waiting)


async def _left(request: Incoming, follower: Follower) -> None:
    """End the stream once its reader has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    follower.offer(CutOff())


def _bytes(message: Message) -> bytes:
    match message:
        case Entries(entries):
            return _revocations(entries)
        case Heartbeat():
            return _heartbeat(message)
        case KeysChanged(jwks, revoked):
            return _message("keys", {"keys": [msgspec.Raw(jwk) for jwk in jwks], "revoked": revoked})
        case CutOff():
            return b""


def _revocations(entries: Iterable[LogEntry]) -> bytes:
    return b"".join(map(_revocation, entries))


def _revocation(entry: LogEntry) -> bytes:
    return _message("revocation", event_members(entry.event), entry.cursor.text())


def _heartbeat(beat: Heartbeat) -> bytes:
    return _message("heartbeat", {"cursor": beat.cursor.text(), "at": beat.at})


def _retry(follower: Follower) -> bytes:
    """How long the reader is to wait before it comes again; no event, so it begins none and ends none."""
    return f"retry: {follower.retry}\n\n".encode()


def _message(event: str, members: dict[str, Any], cursor: str | None = None) -> bytes:
    """One server-sent event; JSON in its compact form has no line breaks."""
    identity = "" if cursor is None else f"id: {cursor}\n"
    return f"event: {event}\n{identity}data: ".encode() + _encode(members) + b"\n\n"
