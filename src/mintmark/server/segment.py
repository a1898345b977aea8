"""Long pages of the revocation log: what a verifier takes that knows nothing yet, and may be kept in caches.

A page that is not the log's last never has to change: whatever is appended comes behind it, and what expires
of it does no harm. So it may be kept, here and by every HTTP cache, for a while. Pages end where the number
of an entry reaches a multiple of :data:`SEGMENT`, wherever they began, so that readers who begin at different
times soon ask for the same ones.

Only pages that begin where others ended are long. Whoever comes with any other cursor gets a short one, up to
the next of those places: else anybody could have long pages made without end, and crowd out who needs one.
"""

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec

from mintmark.core.feed_table import write_event, write_page, write_records, write_table
from mintmark.core.log import Cursor, LogEntry, LogPage
from mintmark.core.revocation import RevocationEvent
from mintmark.ports.clock import Clock
from mintmark.ports.revocations import CursorGone, RevocationLog
from mintmark.units import Issuer, NumericDate, Seconds

SEGMENT: Final = 32_768
"""A page ends at a multiple of this …"""
LEAST: Final = 8_192
"""… at which it holds so many entries: of a log of which little is left, pages are not short."""
READ: Final = 1_000
"""Entries that are read from the store at once: no one else waits for longer than that takes."""
MAX_AGE: Final = Seconds(300)
_MAX_BYTES: Final = 2_500_000
_WITHIN: Final = 0.75
"""Seconds after which a page ends as it is: the store may be slow, and the reader can go on from there."""
_SKEW: Final = 60
_KEPT_BYTES: Final = 48 * 1024 * 1024
_ENDS: Final = 4_096
_AT_ONCE: Final = 2
"""Pages that are put together at the same time; whoever waits may find his made."""


class Form(Enum):
    """How a page is written."""

    JSON = "json"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Segment:
    """One page as it is sent. Readers can go on from it for ``good_for`` seconds by the store's clock."""

    body: bytes
    etag: str
    good_for: Seconds

    @property
    def max_age(self) -> Seconds:
        """How long an HTTP cache may keep it, zero for not at all: its clock is another."""
        return Seconds(max(0, self.good_for - _SKEW))


@dataclass(slots=True)
class _Kept:
    segment: Segment
    until: float


class Segments:
    """The pages of one issuer's log."""

    def __init__(self, issuer: Issuer, *, log: RevocationLog, clock: Clock) -> None:
        self._issuer = issuer
        self._log = log
        self._clock = clock
        self._kept: dict[tuple[Cursor | None, Form], _Kept] = {}
        self._bytes = 0
        # Where pages ended: an entry at a multiple may have expired, and then it was one before it.
        self._ends: dict[Cursor, None] = {}
        self._building = asyncio.Semaphore(_AT_ONCE)
        self._epoch = 0

    async def page(self, after: Cursor | None, form: Form) -> Segment | CursorGone:
        """The page behind ``after``, or the first. Raises StoreUnavailable."""
        kept = self._look(after, form)
        if kept is not None:
            return kept
        epoch = self._epoch
        read = await self._log.read(self._issuer, after, limit=READ)
        if isinstance(read, CursorGone):
            return read
        writer = _Writer(self._issuer, read, form)
        # What nearly everybody asks for, and what anybody may: none of them waits for those who read all.
        if read.complete:
            return writer.last(read, unwritten=read.entries)
        if not self._is_common(after):
            writer.take(read.entries, least=0)
            return writer.closed(read.now)
        async with self._building:
            # Somebody else may have made it meanwhile.
            return self._look(after, form) or await self._build(after, writer, read, epoch)

    def forget(self) -> None:
        """The log is another one: keep nothing of what it was."""
        self._epoch += 1
        self._kept.clear()
        self._ends.clear()
        self._bytes = 0

    def _is_common(self, after: Cursor | None) -> bool:
        """Whether readers of all of the log come by this place."""
        return after is None or after.seq % SEGMENT == 0 or after in self._ends

    async def _build(
        self, after: Cursor | None, writer: "_Writer", read: LogPage, epoch: int
    ) -> Segment | CursorGone:
        began = self._clock.monotonic()
        now = read.now
        while not writer.take(read.entries, least=LEAST):
            if read.complete:
                return writer.last(read, unwritten=())
            if writer.size >= _MAX_BYTES or self._clock.monotonic() - began >= _WITHIN:
                break
            following = await self._log.read(self._issuer, read.cursor, limit=READ)
            if isinstance(following, CursorGone):
                # Whoever asks for more than this hears so.
                break
            read, now = following, following.now
        segment = writer.closed(now)
        if epoch == self._epoch:
            self._note_end(writer.end)
        if segment.good_for and epoch == self._epoch:
            self._keep(after, writer.form, segment)
        return segment

    def _note_end(self, cursor: Cursor) -> None:
        self._ends[cursor] = None
        if len(self._ends) > _ENDS:
            del self._ends[next(iter(self._ends))]

    def _look(self, after: Cursor | None, form: Form) -> Segment | None:
        found = self._kept.get((after, form))
        if found is None:
            return None
        left = int(found.until - self._clock.monotonic())
        if left < 1:
            self._drop((after, form))
            return None
        return Segment(found.segment.body, found.segment.etag, Seconds(left))

    def _keep(self, after: Cursor | None, form: Form, segment: Segment) -> None:
        self._drop((after, form))
        self._kept[after, form] = _Kept(segment, self._clock.monotonic() + segment.good_for)
        self._bytes += len(segment.body)
        while self._bytes > _KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[Cursor | None, Form]) -> None:
        gone = self._kept.pop(key, None)
        if gone is not None:
            self._bytes -= len(gone.segment.body)


class _Writer:
    """One page that is being put together."""

    def __init__(self, issuer: Issuer, first: LogPage, form: Form) -> None:
        self.form = form
        self.size = 0
        self._issuer = issuer
        # Of what is in the log alone, so that every node writes the same.
        self._base = first.entries[0].at if first.entries else first.now
        self._records: list[bytes] = []
        self._events: list[msgspec.Raw] = []
        self._count = 0
        self._newest: LogEntry | None = None

    def take(self, entries: tuple[LogEntry, ...], *, least: int) -> bool:
        """Write ``entries`` up to where a page of ``least`` ends; whether it does."""
        end = self._end(entries, least)
        taken = entries if end is None else entries[:end]
        self._write(entry.event for entry in taken)
        if taken:
            self._newest = taken[-1]
            self._count += len(taken)
        return end is not None

    def last(self, read: LogPage, *, unwritten: tuple[LogEntry, ...]) -> Segment:
        """The log's last page, which ended with ``read``: another one tomorrow, and never kept."""
        self._write(entry.event for entry in unwritten)
        return self._segment(read.cursor, complete=True, at=read.now, good_for=Seconds(0))

    def closed(self, now: NumericDate) -> Segment:
        """A page with more behind it, as it is at the store's time ``now``."""
        newest = self._last
        # The reader goes on from its last entry, which the log keeps no longer than until that expires.
        left = newest.event.expires_at - now
        return self._segment(
            self.end, complete=False, at=newest.at, good_for=Seconds(min(MAX_AGE + _SKEW, left))
        )

    @property
    def end(self) -> Cursor:
        """The cursor behind what was taken."""
        return self._last.cursor

    @property
    def _last(self) -> LogEntry:
        if self._newest is None:
            raise RuntimeError("a page with more behind it holds an entry")
        return self._newest

    def _end(self, entries: tuple[LogEntry, ...], least: int) -> int | None:
        """The place in ``entries`` of the first that is another page's."""
        if not entries:
            return None
        before = self._newest or entries[0]
        if _number(before) == _number(entries[-1]):
            return None
        for place, entry in enumerate(entries):
            if _number(entry) != _number(before) and self._count + place >= least:
                return place
            before = entry
        return None

    def _write(self, events: Iterable[RevocationEvent]) -> None:
        if self.form is Form.TABLE:
            records, events = write_records(events, base=self._base)
            self._records.append(records)
            self.size += len(records)
        for event in events:
            written = write_event(event)
            self._events.append(written)
            self.size += len(bytes(written))

    def _segment(self, cursor: Cursor, *, complete: bool, at: NumericDate, good_for: Seconds) -> Segment:
        body = write_page(
            issuer=self._issuer, cursor=cursor.text(), complete=complete, at=at, events=self._events
        )
        if self.form is Form.TABLE:
            body = write_table(body, b"".join(self._records), base=self._base)
        return Segment(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"', good_for)


def _number(entry: LogEntry) -> int:
    return (entry.cursor.seq - 1) // SEGMENT
