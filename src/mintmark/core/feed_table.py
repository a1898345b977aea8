"""A page of the revocation log in its compact form: what is JSON in a page, and behind it a table.

Nearly every event names 128 random bits, a ``rid`` or a ``jti``. Those are records of 21 bytes: the kind
(one octet), ``expires_at`` as seconds behind a base (four), the id itself (sixteen). All others stay in the
page's ``events``; the order of events means nothing, so it is not kept between the two. A body is::

    4 octets   MMR1
    4 octets   length of the page
    8 octets   base of the expiries, signed
    …          the page, in JSON
    …          records, to the end

Numbers are big-endian. A reader looks at the whole before it takes anything, and makes the events of a slice
only when it is asked for them: a page costs it little more memory than its bytes.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final, overload

import msgspec
from pybase64 import b64encode_as_string

from mintmark.core import base64url
from mintmark.core.feed import FeedPolicy, Malformed, Page, parse_page
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.units import Issuer, NumericDate

MEDIA_TYPE: Final = "application/vnd.mintmark.revocations"
_MAGIC: Final = b"MMR1"
_HEAD: Final = struct.Struct(">4sIq")
_RECORD: Final = struct.Struct(">BI16s")
RECORD_BYTES: Final = _RECORD.size
_CODES: Final = {Kind.RID: 1, Kind.JTI: 2}
_KINDS: Final = {code: kind for kind, code in _CODES.items()}
_SPAN: Final = 2**32
_ID_BYTES: Final = 16
_ID_CHARACTERS: Final = 22
_ALPHABET: Final = b"-_"

_encode: Final = msgspec.json.Encoder().encode


def event_members(event: RevocationEvent) -> dict[str, Any]:
    """The members of one event in JSON, in pages and in the stream alike."""
    members: dict[str, Any] = {"kind": event.kind.value, "value": event.value}
    if event.not_before is not None:
        members["not_before"] = event.not_before
    members["expires_at"] = event.expires_at
    return members


# --- writing -----------------------------------------------------------------------------------


def write_page(
    *, issuer: Issuer, cursor: str, complete: bool, at: NumericDate, events: Sequence[msgspec.Raw]
) -> bytes:
    """A page in JSON, of events that :func:`write_event` wrote."""
    return _encode({"issuer": issuer, "cursor": cursor, "complete": complete, "events": events, "at": at})


def write_event(event: RevocationEvent) -> msgspec.Raw:
    """One event in JSON."""
    return msgspec.Raw(_encode(event_members(event)))


def write_records(
    events: Iterable[RevocationEvent], *, base: NumericDate
) -> tuple[bytes, list[RevocationEvent]]:
    """The records of those ``events`` that have one, and all others."""
    records: list[bytes] = []
    others: list[RevocationEvent] = []
    pack = _RECORD.pack
    for event in events:
        code, span = _CODES.get(event.kind), event.expires_at - base
        raw = _id(event.value) if code is not None and 0 <= span < _SPAN else None
        if code is None or raw is None:
            others.append(event)
        else:
            records.append(pack(code, span, raw))
    return b"".join(records), others


def write_table(page: bytes, records: bytes, *, base: NumericDate) -> bytes:
    """The body of a page and of the records behind it."""
    return b"".join((_HEAD.pack(_MAGIC, len(page), base), page, records))


def _id(value: str) -> bytes | None:
    """The 128 bits that ``value`` spells; None where it is anything else, or another spelling."""
    if len(value) != _ID_CHARACTERS:
        return None
    try:
        return base64url.decode(value)
    except ValueError:
        return None


# --- reading -----------------------------------------------------------------------------------


def parse_table(body: bytes, *, issuer: str, policy: FeedPolicy) -> Page:
    """The page that ``body`` is; raises :class:`Malformed`, also for another issuer's page.

    All of it is checked here; its events are made as they are taken from it.
    """
    if len(body) > policy.page_size:
        raise Malformed("the page is too large")
    if len(body) < _HEAD.size:
        raise Malformed("the page ends in its head")
    magic, length, base = _HEAD.unpack_from(body)
    behind = _HEAD.size + length
    # The last of them must be a time too.
    if magic != _MAGIC or behind > len(body) or base > 2**63 - _SPAN:
        raise Malformed("the page has no such head")
    page = parse_page(body[_HEAD.size : behind], issuer=issuer, policy=policy)
    count, rest = divmod(len(body) - behind, RECORD_BYTES)
    if rest:
        raise Malformed("the page ends in a record")
    if len(page.events) + page.ignored + count > policy.page_events:
        raise Malformed("the page holds too many events")
    records = body[behind:]
    codes = records[::RECORD_BYTES]
    known = sum(codes.count(code) for code in _KINDS)
    if known < count:
        records = b"".join(
            records[at : at + RECORD_BYTES]
            for at in range(0, len(records), RECORD_BYTES)
            if records[at] in _KINDS
        )
    return Page(
        cursor=page.cursor,
        complete=page.complete,
        events=TableEvents(page.events, records, base),
        ignored=page.ignored + count - known,
        at=page.at,
    )


class TableEvents(Sequence[RevocationEvent]):
    """The events of a page: those that were written out, then those of the records."""

    __slots__ = ("_base", "_others", "_records")

    def __init__(self, others: Sequence[RevocationEvent], records: bytes, base: int) -> None:
        self._others = others
        self._records = records
        self._base = base

    def __len__(self) -> int:
        """How many there are."""
        return len(self._others) + len(self._records) // RECORD_BYTES

    @overload
    def __getitem__(self, at: int) -> RevocationEvent: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[RevocationEvent]: ...

    def __getitem__(self, at: int | slice) -> RevocationEvent | Sequence[RevocationEvent]:
        """One event, or a list of those in a slice."""
        if isinstance(at, int):
            place = range(len(self))[at]
            return self[place : place + 1][0]
        places = range(len(self))[at]
        if places.step != 1:
            return [self[place] for place in places]
        written = len(self._others)
        begin, end = max(places.start - written, 0), max(places.stop - written, 0)
        return [*self._others[places.start : places.stop], *self._made(begin, end)]

    def _made(self, begin: int, end: int) -> Iterable[RevocationEvent]:
        base = self._base
        records = self._records[begin * RECORD_BYTES : end * RECORD_BYTES]
        return [
            RevocationEvent(
                kind=_KINDS[code],
                value=b64encode_as_string(raw, _ALPHABET)[:_ID_CHARACTERS],
                expires_at=NumericDate(base + span),
            )
            for code, span, raw in _RECORD.iter_unpack(records)
        ]
