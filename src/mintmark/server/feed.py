"""The feed: what this process knows of the revocation log, fanned out to those who follow it.

One reader per process follows the log; each follower has a bounded queue and is dropped when it does not
keep up, because it can resume by its cursor. Silence must mean something: a follower hears a heartbeat
only while the head of the log was read from the store within two seconds, and is cut off otherwise.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from mintmark.core.events import EventName
from mintmark.core.key import KeyState
from mintmark.core.keyring import Ring
from mintmark.core.log import Cursor, LogEntry, LogPage
from mintmark.errors import NotReady, Overloaded, Unavailable
from mintmark.ports.bus import Bus
from mintmark.ports.clock import Clock
from mintmark.ports.revocations import CursorGone, RevocationLog
from mintmark.server.audit import Audit
from mintmark.server.ring import POLL
from mintmark.units import Issuer, Kid, NumericDate, Seconds

FRESH_FOR: Final = 2.0
"""Seconds for which a read of the head is worth a heartbeat, and readiness."""
PAGE: Final = 1_000
"""Entries in one page of the log."""
_QUEUE: Final = 1_024


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The head of the log at ``at``; a follower whose own cursor differs has missed something."""

    cursor: Cursor
    at: NumericDate


@dataclass(frozen=True, slots=True)
class KeysChanged:
    """The key set as it is published now, and the keys that are revoked."""

    jwks: tuple[bytes, ...]
    revoked: tuple[Kid, ...]


@dataclass(frozen=True, slots=True)
class CutOff:
    """The follower must come again: it was too slow, the log began anew, or this node is going away."""


Message: TypeAlias = LogEntry | Heartbeat | KeysChanged | CutOff


class Follower:
    """One reader's queue; entries come in ``seq`` order, each once."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Message] = asyncio.Queue(_QUEUE)
        self._cut_off = False

    def offer(self, message: Message) -> None:
        """Queue ``message``; a follower with a full queue is cut off rather than waited for."""
        if self._cut_off:
            return
        if isinstance(message, CutOff) or self._queue.full():
            self._cut_off = True
            while not self._queue.empty():
                self._queue.get_nowait()
            message = CutOff()
        self._queue.put_nowait(message)

    async def next(self) -> Message:
        """The next message; after CutOff there is none."""
        return await self._queue.get()


class RevocationFeed:
    """Follows the log of one issuer and tells every follower."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        log: RevocationLog,
        bus: Bus,
        clock: Clock,
        audit: Audit,
        limit: int,
    ) -> None:
        self._issuer = issuer
        self._log = log
        self._bus = bus
        self._clock = clock
        self._audit = audit
        self._limit = limit
        self._followers: set[Follower] = set()
        self._head: Heartbeat | None = None
        self._read_at = float("-inf")
        self._keys: KeysChanged | None = None
        self._stale = False
        self._closed = False

    @property
    def followers(self) -> int:
        """How many follow now."""
        return len(self._followers)

    def is_fresh(self) -> bool:
        """Whether the head of the log was read within two seconds."""
        return self._clock.monotonic() - self._read_at <= FRESH_FOR

    def heartbeat(self) -> Heartbeat:
        """The head, if it is fresh; raises NotReady otherwise, so that silence means something."""
        if self._head is None or not self.is_fresh():
            raise NotReady("the revocation log was not read lately")
        return self._head

    def keys(self) -> KeysChanged | None:
        """The published keys as followers were told last."""
        return self._keys

    async def page(self, after: Cursor | None) -> LogPage | CursorGone:
        """The next entries behind ``after``, from the store itself. Raises StoreUnavailable."""
        return await self._log.read(self._issuer, after, limit=PAGE)

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[Follower]:
        """A place among the followers. Raises Overloaded when there is none left."""
        if self._closed or len(self._followers) >= self._limit:
            raise Overloaded("too many followers of the feed", retry_after=Seconds(5))
        follower = Follower()
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    def announce_keys(self, ring: Ring) -> None:
        """Tell followers of a ring whose published or revoked keys differ from what they heard last."""
        changed = KeysChanged(
            jwks=tuple(key.jwk for key in sorted(ring.published(), key=lambda key: key.kid)),
            revoked=tuple(sorted(key.kid for key in ring.keys if key.state is KeyState.REVOKED)),
        )
        if changed != self._keys:
            self._keys = changed
            self._tell(changed)

    def close(self) -> None:
        """Send every follower elsewhere."""
        self._closed = True
        self._tell(CutOff())

    async def run(self) -> None:
        """Follow the log until cancelled: at each wake-up, and each second whatever the bus does."""
        subscription = self._bus.subscribe()
        try:
            while True:
                try:
                    await self._read()
                except Unavailable:
                    self._report_staleness()
                await subscription.wait(POLL)
        finally:
            subscription.close()

    async def _read(self) -> None:
        if self._head is None:
            asked_at = self._clock.monotonic()
            cursor, now = await self._log.head(self._issuer)
            self._advance(Heartbeat(cursor, now), asked_at)
            return
        complete = False
        while not complete:
            asked_at = self._clock.monotonic()
            page = await self._log.read(self._issuer, self._head.cursor, limit=PAGE)
            if isinstance(page, CursorGone):
                # The store went back, or entries expired faster than they were read: all begin anew.
                self._head = None
                self._tell(CutOff())
                return
            for entry in page.entries:
                self._tell(entry)
            complete = page.complete
            self._advance(Heartbeat(page.cursor, page.now), asked_at)

    def _advance(self, head: Heartbeat, asked_at: float) -> None:
        self._head, self._read_at = head, asked_at
        self._stale = False

    def _report_staleness(self) -> None:
        """Cut followers off once no heartbeat could be given any more, and say so once."""
        if not self.is_fresh() and not self._stale:
            self._stale = True
            self._audit.record(EventName.FEED_STALE)
            self._tell(CutOff())

    def _tell(self, message: Message) -> None:
        for follower in tuple(self._followers):
            follower.offer(message)
