"""Following an issuer's revocation log: what its messages mean, and how old our knowledge of it is.

A follower takes a *snapshot* (pages until one is complete), then listens to the *stream*. Each heartbeat
carries the head of the log; a head that differs from the follower's own cursor means that something
was missed, and only another page can fill the gap. Applying an event twice, or in another order,
changes nothing, so a snapshot is added to what is known and never takes anything away.

Nothing here reads, waits or looks at a clock: messages and moments come in, knowledge comes out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Final, TypeAlias

import msgspec

from mintmark.core.jwk import MAX_SET_KEYS
from mintmark.core.keyset import Instant
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.units import Kid, NumericDate, Seconds

_MAX_CURSOR: Final = 512
_MAX_VALUE: Final = 256
_MAX_REVOKED: Final = 1024
_KINDS: Final = frozenset(Kind)
NOTHING_PASSES: Final = NumericDate(-(2**63))
"""A cutoff that every token is issued after."""


class OnStale(Enum):
    """What to answer once revocations are older than the bound."""

    DENY = "deny"
    """503: no token is accepted that might have been revoked."""
    ALLOW = "allow"
    """Accept, and say so in the token."""
    PROVE = "prove"
    """Go on for tokens that were issued before we lost touch: with the issuer down nobody can log out, and
    tokens age out by themselves. A newer one proves that the issuer lives and that we are cut off: 503 for
    every token until the feed is back."""


class Health(Enum):
    """How much a follower knows."""

    COLD = "cold"
    """No snapshot yet: it knows nothing."""
    LIVE = "live"
    """Everything that the issuer revoked, but for the last moments."""
    DEGRADED = "degraded"
    """Silence or a gap, for less than the bound."""
    LOST = "lost"
    """Silence or a gap for longer than the bound."""


class Malformed(ValueError):
    """An answer of the feed that breaks its format; the message quotes nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedPolicy:
    """The numbers of a follower; every span in seconds."""

    heartbeat: Seconds = Seconds(10)
    degraded_after: Seconds = Seconds(15)
    bound: Seconds = Seconds(300)
    skew: Seconds = Seconds(60)
    """A heartbeat whose time lies further back than this was held up on its way."""
    page_size: int = 4 * 1024 * 1024
    page_events: int = 100_000
    page_within: Seconds = Seconds(30)
    """Seconds for one page: a long one takes a while over a slow line."""
    pages: int = 10_000
    """Pages that one attempt to catch up may take …"""
    catch_up: Seconds = Seconds(300)
    """… and its span; the next attempt goes on where it ended."""
    entries: int = 10_000_000
    """Revocations that are kept; with more of them the feed counts as failed."""
    message_size: int = 256 * 1024


# --- messages ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """Part of the log: ``events`` up to ``cursor``; more follow at once unless ``complete``.

    ``ignored`` counts events of kinds that this version does not know.
    """

    cursor: str
    complete: bool
    events: Sequence[RevocationEvent]
    ignored: int
    at: NumericDate


@dataclass(frozen=True, slots=True)
class Revocation:
    """One event of the stream; ``event`` is None where its kind is unknown."""

    cursor: str
    event: RevocationEvent | None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The head of the log, and the issuer's time."""

    cursor: str
    at: NumericDate


@dataclass(frozen=True, slots=True)
class Keys:
    """The issuer's published key set, as a document, and the kids that were revoked."""

    document: bytes
    revoked: frozenset[Kid]


@dataclass(frozen=True, slots=True)
class Reset:
    """The issuer does not know our cursor: only a snapshot helps."""


Message = Revocation | Heartbeat | Keys | Reset


_Time: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Event(msgspec.Struct):
    kind: str
    value: str
    expires_at: _Time
    not_before: _Time | None = None


class _Page(msgspec.Struct):
    issuer: str
    cursor: str
    complete: bool
    events: list[_Event]
    at: _Time


class _Beat(msgspec.Struct):
    cursor: str
    at: _Time


class _Keys(msgspec.Struct):
    keys: msgspec.Raw
    revoked: list[str] = []


_PAGE: Final = msgspec.json.Decoder(_Page)
_EVENT: Final = msgspec.json.Decoder(_Event)
_BEAT: Final = msgspec.json.Decoder(_Beat)
_KEYS: Final = msgspec.json.Decoder(_Keys)
_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])


def parse_page(body: bytes, *, issuer: str, policy: FeedPolicy) -> Page:
    """The page that ``body`` is; raises :class:`Malformed`, also for another issuer's page."""
    if len(body) > policy.page_size:
        raise Malformed("the page is too large")
    try:
        wire = _PAGE.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Malformed("the page is not as agreed") from error
    if wire.issuer != issuer:
        raise Malformed("the page is another issuer's")
    if len(wire.events) > policy.page_events:
        raise Malformed("the page holds too many events")
    events = [_event(event) for event in wire.events]
    known = tuple(event for event in events if event is not None)
    return Page(
        cursor=_cursor(wire.cursor),
        complete=wire.complete,
        events=known,
        ignored=len(events) - len(known),
        at=NumericDate(wire.at),
    )


def parse_message(event: str, cursor: str, payload: str) -> Message | None:
    """The message that a server-sent event is, or None for a kind that this version does not know.

    Raises :class:`Malformed`.
    """
    try:
        body = payload.encode()
        match event:
            case "revocation":
                return Revocation(_cursor(cursor), _event(_EVENT.decode(body)))
            case "heartbeat":
                beat = _BEAT.decode(body)
                return Heartbeat(_cursor(beat.cursor), NumericDate(beat.at))
            case "keys":
                return _keys(_KEYS.decode(body))
            case "reset":
                return Reset()
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Malformed("a message is not as agreed") from error
    return None


def _event(wire: _Event) -> RevocationEvent | None:
    if wire.kind not in _KINDS:
        return None
    if len(wire.value) > _MAX_VALUE:
        raise Malformed("a revoked value is too long")
    try:
        return RevocationEvent(
            kind=Kind(wire.kind),
            value=wire.value,
            expires_at=NumericDate(wire.expires_at),
            not_before=None if wire.not_before is None else NumericDate(wire.not_before),
        )
    except ValueError as error:
        raise Malformed("an event contradicts itself") from error


def _keys(wire: _Keys) -> Keys:
    if len(_LIST.decode(wire.keys)) > MAX_SET_KEYS or len(wire.revoked) > _MAX_REVOKED:
        raise Malformed("a key set states too much")
    if any(len(kid) > _MAX_VALUE for kid in wire.revoked):
        raise Malformed("a revoked kid is too long")
    return Keys(b'{"keys":' + bytes(wire.keys) + b"}", frozenset(map(Kid, wire.revoked)))


def _cursor(text: str) -> str:
    # It goes back to the issuer in a header and a query, so its shape is checked before it is kept.
    if not (0 < len(text) <= _MAX_CURSOR and text.isascii() and text.isprintable()):
        raise Malformed("a cursor is not short printable ASCII")
    return text


# --- the follower ------------------------------------------------------------------------------


class Follower:
    """How far one issuer's log is known, and as of when; its owner applies the events themselves."""

    def __init__(self, policy: FeedPolicy) -> None:
        self.policy = policy
        self.cursor: str | None = None
        self.ignored = 0
        """Events of unknown kinds so far."""
        self._complete = False
        self._in_step = False
        self._heard_at = -math.inf
        self._issuer_time = NumericDate(0)
        self._cut_off = False

    def until(self, now: float) -> float:
        """The monotonic time until which, without news, :meth:`health` stays what it is at ``now``."""
        changes = (self._heard_at + self.policy.degraded_after, self._heard_at + self.policy.bound)
        return min((at for at in changes if at > now), default=math.inf)

    def health(self, now: float) -> Health:
        """How good this is at monotonic ``now``."""
        if not self._complete:
            return Health.COLD
        silence = now - self._heard_at
        if silence >= self.policy.bound:
            return Health.LOST
        if not self._in_step or silence >= self.policy.degraded_after:
            return Health.DEGRADED
        return Health.LIVE

    def is_silent(self, now: float) -> bool:
        """Whether the issuer, once heard, has not been heard for too long at monotonic ``now``."""
        return self._complete and now - self._heard_at >= self.policy.degraded_after

    @property
    def heard_at(self) -> float:
        """The monotonic time as of which everything is known; minus infinity when nothing is."""
        return self._heard_at

    @property
    def issuer_time(self) -> NumericDate:
        """The issuer's own time in its last word."""
        return self._issuer_time

    def cutoff(self, now: float, on_stale: OnStale) -> NumericDate | None:
        """Tokens issued later cannot be judged at monotonic ``now``; None where there is no such limit."""
        health = self.health(now)
        if on_stale is OnStale.ALLOW or health is Health.LIVE or health is Health.DEGRADED:
            return None
        if on_stale is OnStale.PROVE and health is Health.LOST and not self._cut_off:
            return NumericDate(self._issuer_time + self.policy.bound)
        return NOTHING_PASSES

    @property
    def is_cut_off(self) -> bool:
        """Whether a token proved that the issuer lives and that we do not hear it."""
        return self._cut_off

    def proved(self) -> bool:
        """A valid token was issued after the cutoff, so we are cut off; whether that is news."""
        news = not self._cut_off
        self._cut_off = True
        return news

    def silent_at(self) -> float:
        """The monotonic time at which silence becomes a fault of the stream."""
        return self._heard_at + self.policy.degraded_after

    def lost(self) -> None:
        """The stream ended, or said that something was missed."""
        self._in_step = False

    def reset(self) -> None:
        """The issuer does not know our cursor; what was applied stays."""
        self.cursor = None
        self._in_step = False

    def paged(self, page: Page, asked: Instant) -> None:
        """The events of ``page``, asked for at ``asked``, were applied."""
        self.cursor = page.cursor
        self.ignored += page.ignored
        if page.complete:
            self._complete = True
            self._hear(page.at, asked)

    def applied(self, message: Revocation) -> None:
        """The stream's event was applied."""
        self.cursor = message.cursor
        self.ignored += message.event is None

    def beat(self, message: Heartbeat, now: Instant) -> bool:
        """Whether the heartbeat finds us in step; if not, a page must fill the gap."""
        if message.cursor != self.cursor:
            self._in_step = False
            return False
        self._hear(message.at, now)
        return True

    def _hear(self, at: NumericDate, now: Instant) -> None:
        self._in_step = True
        # A proxy that keeps messages back would make old news look fresh.
        delay = max(0, now.wall - at - self.policy.skew)
        self._heard_at = max(self._heard_at, now.mono - delay)
        # Nor does old news show that we are not cut off any more.
        if now.mono - self._heard_at < self.policy.bound:
            self._cut_off = False
        # One wrong time, a year ahead, must not let a year of tokens pass: it is believed within the skew.
        self._issuer_time = max(self._issuer_time, min(at, NumericDate(now.wall + self.policy.skew)))
