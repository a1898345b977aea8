"""The revocation feed of an issuer for tests: a log in memory, its pages, and its streams."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from mintmark.ports.clock import Clock, Entropy
from mintmark.testing.clock import FakeClock
from mintmark.testing.key import encode

_HEARTBEAT: Final = 10.0


class FakeFeed:
    """A revocation log with the cursors, pages and streams of the real one.

    ``keys()`` gives the document that streams announce; ``call(f)`` runs ``f`` on the server's loop. With a
    :class:`FakeClock` heartbeats come when the clock is moved, otherwise every ten seconds.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        entropy: Entropy,
        keys: Callable[[], dict[str, Any]],
        call: Callable[[Callable[[], object]], None],
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._keys = keys
        self._call = call
        self._lock = threading.Lock()
        self._log: list[tuple[str, dict[str, Any]]] = []
        self._epoch = self._random()
        self._muted = False
        self.retry: int | None = None
        """Milliseconds after which streams are told to come again."""
        self._streams: set[_Stream] = set()
        self._last_beat = clock.monotonic()
        self._end = clock.listen(self._beat_if_due) if isinstance(clock, FakeClock) else None

    def close(self) -> None:
        """Stop listening to the clock."""
        if self._end is not None:
            self._end()

    # --- what tests turn -----------------------------------------------------------------------

    def append(self, event: dict[str, Any], *, lose: bool = False) -> None:
        """Put ``event`` on the log; with ``lose`` open streams do not send it."""
        with self._lock:
            self._log.append((self._random(), event))
            for stream in self._streams if lose else ():
                stream.sent = len(self._log)
        self.wake()

    def forget_cursors(self) -> None:
        """Make every cursor given so far unknown, as a restored database does."""
        with self._lock:
            self._epoch = self._random()

    def beat(self) -> None:
        """Send a heartbeat on every open stream."""
        with self._lock:
            for stream in self._streams:
                stream.beats += 1
        self._last_beat = self._clock.monotonic()
        self.wake()

    def mute(self, muted: bool) -> None:
        """Keep streams open and send nothing on them."""
        self._muted = muted
        self.wake()

    def wake(self) -> None:
        """Have streams send what they have not sent."""

        def wake() -> None:
            with self._lock:
                streams = tuple(self._streams)
            for stream in streams:
                stream.wake.set()

        self._call(wake)

    # --- the answers ---------------------------------------------------------------------------

    def page(self, issuer: str, after: str | None) -> dict[str, Any] | None:
        """The events behind the cursor ``after``, or all; None where the cursor is unknown."""
        with self._lock:
            start = 0 if after is None else self._position(after)
            if start is None:
                return None
            now = self._clock.now()
            events = [event for _, event in self._log[start:] if event["expires_at"] > now]
            cursor = self._cursor(len(self._log))
        return {"issuer": issuer, "cursor": cursor, "complete": True, "events": events, "at": now}

    async def follow(self, after: str | None) -> AsyncIterator[bytes]:
        """The server-sent events behind the cursor ``after``, until the client goes."""
        with self._lock:
            start = None if after is None else self._position(after)
            stream = None if start is None else _Stream(start)
            if stream is not None:
                self._streams.add(stream)
        if stream is None:
            yield _message("reset", {})
            return
        heartbeat = None
        if not isinstance(self._clock, FakeClock):
            heartbeat = asyncio.create_task(self._beat_for_ever(stream))
        try:
            if self.retry is not None:
                yield f"retry: {self.retry}\n\n".encode()
            while True:
                for piece in self._unsent(stream):
                    yield piece
                await stream.wake.wait()
                stream.wake.clear()
        finally:
            if heartbeat is not None:
                heartbeat.cancel()
            with self._lock:
                self._streams.discard(stream)

    def _unsent(self, stream: "_Stream") -> list[bytes]:
        keys = self._keys()
        with self._lock:
            if self._muted:
                return []
            pieces = []
            if keys != stream.keys:
                stream.keys = keys
                pieces.append(_message("keys", keys))
            pieces += [
                _message("revocation", self._log[position][1], self._cursor(position + 1))
                for position in range(stream.sent, len(self._log))
            ]
            stream.sent = len(self._log)
            if stream.beats:
                stream.beats = 0
                beat = {"cursor": self._cursor(len(self._log)), "at": self._clock.now()}
                pieces.append(_message("heartbeat", beat))
            return pieces

    async def _beat_for_ever(self, stream: "_Stream") -> None:
        while True:
            await self._clock.sleep(_HEARTBEAT)
            with self._lock:
                stream.beats += 1
            stream.wake.set()

    def _beat_if_due(self) -> None:
        if self._clock.monotonic() - self._last_beat >= _HEARTBEAT:
            self.beat()

    def _cursor(self, position: int) -> str:
        return f"{position}.{self._log[position - 1][0] if position else '0'}.{self._epoch}"

    def _position(self, cursor: str) -> int | None:
        number = cursor.partition(".")[0]
        if not number.isdecimal() or int(number) > len(self._log) or cursor != self._cursor(int(number)):
            return None
        return int(number)

    def _random(self) -> str:
        return encode(self._entropy.token_bytes(8))


class _Stream:
    __slots__ = ("beats", "keys", "sent", "wake")

    def __init__(self, start: int) -> None:
        self.sent = start
        self.beats = 1  # a heartbeat comes at once
        self.keys: dict[str, Any] | None = None
        self.wake = asyncio.Event()


def _message(event: str, payload: dict[str, Any], cursor: str | None = None) -> bytes:
    lines = [f"event: {event}"]
    if cursor is not None:
        lines.append(f"id: {cursor}")
    lines.append(f"data: {json.dumps(payload)}")
    return ("\n".join(lines) + "\n\n").encode()
