"""A reader of server-sent events that calls the ASGI application itself, message by message."""

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from starlette.types import ASGIApp

PATIENCE = 20.0
"""Real seconds after which a wait is a failure; nothing depends on it."""


class Event(NamedTuple):
    """One server-sent event."""

    name: str
    id: str | None
    data: Any


class Stream:
    """One open request; its reader may stop reading, or leave."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        self.reading = asyncio.Event()
        self.reading.set()
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.retries: list[int] = []
        self.aborted = False
        self.waited_for = False
        self._gone = asyncio.Event()
        self._asked = False
        self._text = ""
        self.body = b""

    async def receive(self) -> MutableMapping[str, Any]:
        """ASGI: the request without a body, then nothing until the reader leaves."""
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """ASGI: take one message, once the reader reads."""
        self.waited_for = True
        await self.reading.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            self.started.set()
            return
        self.body += message.get("body", b"")
        *whole, self._text = (self._text + message.get("body", b"").decode()).split("\n\n")
        for event in whole:
            if event.startswith("retry: "):
                self.retries.append(int(event.removeprefix("retry: ")))
            else:
                self.events.put_nowait(_parse(event))
        if not message.get("more_body"):
            self.events.put_nowait(None)
            self.ended.set()

    async def next(self) -> Event:
        """The next event; fails at the end of the stream."""
        event = await asyncio.wait_for(self.events.get(), PATIENCE)
        assert event is not None, "the stream has ended"
        return event

    async def next_of(self, name: str) -> Event:
        """The next event of this name; others are passed over."""
        while (event := await self.next()).name != name:
            pass
        return event

    async def rest(self) -> list[Event]:
        """Every event up to the end of the stream."""
        events = []
        while (event := await asyncio.wait_for(self.events.get(), PATIENCE)) is not None:
            events.append(event)
        return events

    def leave(self) -> None:
        """Close the connection from the reader's side."""
        self._gone.set()


def _parse(text: str) -> Event:
    fields = dict(line.split(": ", 1) for line in text.split("\n"))
    assert set(fields) <= {"event", "id", "data"}, text
    return Event(fields["event"], fields.get("id"), json.loads(fields["data"]))


@asynccontextmanager
async def stream(
    app: ASGIApp,
    *,
    query: str = "",
    last_event_id: str | None = None,
    address: str = "192.0.2.1",
    reading: bool = True,
    path: str = "/revocations/stream",
    method: str = "GET",
    authorization: str | None = None,
) -> AsyncIterator[Stream]:
    """A stream that has begun, or was answered otherwise; it is left at the end."""
    headers = [] if last_event_id is None else [(b"last-event-id", last_event_id.encode("latin-1"))]
    if authorization is not None:
        headers.append((b"authorization", authorization.encode("latin-1")))
    opened = Stream()

    def abort() -> None:
        opened.aborted = True

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": headers,
        "client": (address, 1234),
        "server": ("auth.example.com", 443),
        "extensions": {"mintmark.abort": abort},
    }
    task = asyncio.ensure_future(app(scope, opened.receive, opened.send))
    try:
        if reading:
            await asyncio.wait_for(opened.started.wait(), PATIENCE)
        else:
            opened.reading.clear()
        yield opened
    finally:
        opened.leave()
        opened.reading.set()
        await asyncio.wait_for(task, PATIENCE)
