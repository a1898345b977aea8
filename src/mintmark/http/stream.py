"""GET /revocations/stream: the revocation log as server-sent events (design 6.2).

A stream that ends means «come again with your cursor». One that is open and silent for longer than a
heartbeat means that something is wrong.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mintmark.core.log import Cursor, LogEntry, LogPage, parse_cursor
from mintmark.errors import NotReady, Overloaded, Unavailable
from mintmark.http.endpoint import Bounds, ReaderTooSlow, drop
from mintmark.http.errors import NO_STORE, ErrorForm, error_response, report
from mintmark.http.feed import event_members
from mintmark.http.request import Incoming, address_of, query_of
from mintmark.ports.revocations import CursorGone
from mintmark.server.feed import CutOff, Follower, Heartbeat, KeysChanged
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
        self._addresses: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, for the scope ``http``; the connection is the follower's until one of the two ends it."""
        request = Incoming(scope, receive)
        if request.method != "GET":
            # The route lets HEAD through with GET, and this has no end to have a length.
            raise HTTPException(405, headers={"Allow": "GET"})
        try:
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

    @contextmanager
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
        writing = asyncio.create_task(self._write(follower, place, send))
        leaving = asyncio.create_task(_left(request))
        beating = asyncio.create_task(self._beat(follower))
        try:
            await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, leaving, beating):
                task.cancel()
            await asyncio.gather(writing, leaving, beating, return_exceptions=True)
        failed = None if writing.cancelled() else writing.exception()
        if isinstance(failed, ReaderTooSlow):
            raise failed
        if failed is not None:
            # The response has begun, so its abrupt end is all that the follower hears.
            report(failed, request, self._audit)

    async def _write(self, follower: Follower, place: _Place | None, send: Send) -> None:
        try:
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
        if keys is not None:
            yield _keys(keys)
        page = place.page
        while page is not None:
            yield b"".join(map(_revocation, page.entries))
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
                    return
                case KeysChanged() as keys:
                    yield _keys(keys)
                case Heartbeat() as beat:
                    # The catch-up may have read beyond what this process had heard when it was queued.
                    cursor = max(beat.cursor, place.cursor, key=lambda cursor: cursor.seq)
                    yield _message("heartbeat", {"cursor": cursor.text(), "at": beat.at})
                case LogEntry() as entry if entry.cursor.seq > place.cursor.seq:
                    yield _revocation(entry)

    async def _beat(self, follower: Follower) -> None:
        """A heartbeat in the follower's queue every ten seconds, and its end once there is none to give."""
        try:
            while True:
                await self._clock.sleep(HEARTBEAT)
                follower.offer(self._feed.heartbeat())
        except NotReady:
            follower.offer(CutOff())


async def _left(request: Incoming) -> None:
    """Return once the follower has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _revocation(entry: LogEntry) -> bytes:
    return _message("revocation", event_members(entry.event), entry.cursor.text())


def _keys(keys: KeysChanged) -> bytes:
    return _message("keys", {"keys": [msgspec.Raw(jwk) for jwk in keys.jwks], "revoked": keys.revoked})


def _message(event: str, members: dict[str, Any], cursor: str | None = None) -> bytes:
    """One server-sent event; JSON in its compact form has no line breaks."""
    identity = "" if cursor is None else f"id: {cursor}\n"
    return f"event: {event}\n{identity}data: ".encode() + _encode(members) + b"\n\n"
