"""The feed: what this process knows of the revocation log, fanned out to those who follow it.

One reader per process follows the log; what it tells is one object for all followers. Each has a bounded
queue and is dropped when it does not keep up, because it can resume by its cursor. Silence must mean
something: a follower hears a heartbeat only while the head of the log was read from the store within two
seconds, and is cut off otherwise.
"""

import asyncio
from collections import deque
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
from mintmark.server.segment import Segments
from mintmark.units import Issuer, Kid, NumericDate, Seconds

FRESH_FOR: Final = 2.0
"""Seconds for which a read of the head is worth a heartbeat, and readiness."""
PAGE: Final = 1_000
"""Entries that are read from the store at once."""
BATCH: Final = 128
"""Entries that followers are told at once: what a slow connection holds in memory is a batch, not a page."""
QUEUE: Final = 128
"""Messages that wait for one follower, before it counts as too slow."""
_RETRY_FROM: Final = 50
_RETRY_SPAN: Final = 400
_GOLDEN: Final = 0.6180339887498949
"""Its multiples, less their whole parts, lie evenly between 0 and 1 wherever one stops."""
_APART: Final = 0.01
"""Seconds between two followers that are sent away, where they are few."""


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Some entries in ``seq`` order; one object for all who are told, so that they are encoded once."""

    entries: tuple[LogEntry, ...]


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


Message: TypeAlias = Entries | Heartbeat | KeysChanged | CutOff


class Follower:
    """One reader's queue; entries come in ``seq`` order, each once.

    ``retry``: milliseconds after which it is to come again once its stream has ended, however that ends.
    Each follower has a number of its own, so that those of a node that dies do not all come at once.
    """

    __slots__ = ("_cut_off", "_news", "_waiting", "retry")

    def __init__(self, number: int = 0) -> None:
        self.retry = _RETRY_FROM + int(number * _GOLDEN % 1 * _RETRY_SPAN)
        self._waiting: deque[Message] = deque()
        self._news = asyncio.Event()
        self._cut_off = False

    def offer(self, message: Message) -> None:
        """Queue ``message``; a follower with a full queue is cut off rather than waited for."""
        if self._cut_off:
            return
        if isinstance(message, CutOff) or len(self._waiting) >= QUEUE:
            self._cut_off = True
            self._waiting.clear()
            message = CutOff()
        self._waiting.append(message)
        self._news.set()

    async def next(self) -> Message:
        """The next message; after CutOff there is none."""
        while not self._waiting:
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()


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
        # A dictionary for its order: who came first is sent away first.
        self._followers: dict[Follower, None] = {}
        self._came = 0
        self.segments = Segments(issuer, log=log, clock=clock)
        """Long pages of the same log, for those who take all of it."""
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
        return self._head is not None and self._clock.monotonic() - self._read_at <= FRESH_FOR

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
        follower = Follower(self._came)
        self._came += 1
        self._followers[follower] = None
        try:
            yield follower
        finally:
            self._followers.pop(follower, None)

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
        """Send every follower elsewhere, at once."""
        self._closed = True
        self._tell(CutOff())

    async def drain(self, within: float) -> None:
        """Send followers elsewhere one after the other, in at most ``within`` seconds.

        Whoever is still here goes on hearing everything, and nobody new is let in: a node that gets a
        thousand followers of another's at once is slow for those that it has.
        """
        self._closed = True
        began, leaving = self._clock.monotonic(), tuple(self._followers)
        apart = min(_APART, within / max(len(leaving), 1))
        for place, follower in enumerate(leaving):
            ahead = began + place * apart - self._clock.monotonic()
            if ahead > 0:
                await self._clock.sleep(ahead)
            follower.offer(CutOff())

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
        complete = False
        while not complete:
            asked_at = self._clock.monotonic()
            if self._head is None:
                cursor, now = await self._log.head(self._issuer)
                self._advance(Heartbeat(cursor, now), asked_at)
                return
            page = await self._log.read(self._issuer, self._head.cursor, limit=PAGE)
            if isinstance(page, CursorGone):
                # The store went back, or entries expired faster than they were read: all begin anew.
                self._head = None
                self.segments.forget()
                self._tell(CutOff())
                continue
            for start in range(0, len(page.entries), BATCH):
                self._tell(Entries(page.entries[start : start + BATCH]))
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
