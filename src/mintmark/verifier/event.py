"""What a verifier reports: typed events, to a callback and to ``logging``, and never a raw token.

An *incident* is an event that somebody should look at. Whoever sends us tokens can cause them at will, so
each kind is reported at most once a minute for each issuer, with the number of times it happened.
"""

import asyncio
import contextlib
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from mintmark.ports.clock import Clock

_LOGGER: Final = logging.getLogger("mintmark.verifier")
_INCIDENT_EVERY: Final = 60.0
_SAMPLE_EVERY: Final = 1.0
_SHOWN: Final = 64
_QUEUED: Final = 10_000

Value: TypeAlias = str | int


class _SafeLogger:
    """The logger ``mintmark.verifier``, whose filters and handlers may fail without any harm."""

    __slots__ = ()

    def exception(self, what: str) -> None:
        """Log the exception that is being handled."""
        with contextlib.suppress(Exception):
            _LOGGER.log(logging.ERROR, what, exc_info=sys.exception())


LOGGER: Final = _SafeLogger()


class EventName(StrEnum):
    """Every event there is."""

    KEYSET_LOADED = "keyset.loaded"
    KEYSET_UNCHANGED = "keyset.unchanged"
    KEYSET_REJECTED = "keyset.rejected"
    KEY_ADDED = "key.added"
    KEY_REMOVED = "key.removed"
    KEY_SKIPPED = "key.skipped"
    REFRESH_FAILED = "refresh.failed"
    STATE_CHANGED = "state.changed"
    FEED_FOLLOWED = "feed.followed"
    """The feed confirmed that everything revoked so far is known."""
    FEED_DEGRADED = "feed.degraded"
    FEED_RESTORED = "feed.restored"
    FEED_FAILED = "feed.failed"
    REVOCATION_APPLIED = "revocation.applied"
    TOKEN_REJECTED = "token.rejected"  # noqa: S105 - the name of an event
    INCIDENT = "incident"


_LEVELS: Final = {
    EventName.KEYSET_LOADED: logging.INFO,
    EventName.KEYSET_REJECTED: logging.WARNING,
    EventName.KEY_ADDED: logging.INFO,
    EventName.KEY_REMOVED: logging.INFO,
    EventName.REFRESH_FAILED: logging.WARNING,
    EventName.STATE_CHANGED: logging.INFO,
    EventName.FEED_DEGRADED: logging.WARNING,
    EventName.FEED_RESTORED: logging.INFO,
    EventName.FEED_FAILED: logging.WARNING,
    EventName.INCIDENT: logging.WARNING,
}


@dataclass(frozen=True, slots=True)
class Event:
    """One event of one issuer; ``fields`` hold nothing secret, and text that is printable and short."""

    name: EventName
    issuer: str
    fields: Mapping[str, Value] = field(default_factory=dict)


Listener: TypeAlias = Callable[[Event], None]


class Reporter:
    """Tells one issuer's events to ``listener`` and to the logger ``mintmark.verifier``."""

    def __init__(self, issuer: str, listener: Listener | None, clock: Clock) -> None:
        self._issuer = issuer
        self._listener = listener
        self._clock = clock
        self._lock = threading.Lock()
        self._delivering = False
        self._told_not: deque[Event] = deque(maxlen=_QUEUED)
        self._told: dict[str, tuple[float, int]] = {}

    def tell(self, name: EventName, **fields: Value) -> None:
        """Report ``name`` at the next :meth:`flush`, so that this may be called with any lock held."""
        shown = {key: _printable(value) for key, value in fields.items()}
        self._told_not.append(Event(name, self._issuer, shown))

    def flush(self) -> None:
        """Deliver what was told, in its order, holding no lock.

        Where another thread is delivering, or this one from inside a listener, that goes on with ours. An
        error of the listener is logged and goes no further, nor does one of the logging that is set up.
        """
        with self._lock:
            if self._delivering:
                return
            self._delivering = True
        try:
            while (event := self._next()) is not None:
                self._deliver(event)
        except BaseException:
            # Somebody interrupted this thread: the rest is delivered by the next.
            with self._lock:
                self._delivering = False
            raise

    def _next(self) -> Event | None:
        with self._lock:
            if self._told_not:
                return self._told_not.popleft()
            # Under the same lock, so that nothing told meanwhile is left lying.
            self._delivering = False
            return None

    def _deliver(self, event: Event) -> None:
        with contextlib.suppress(Exception):  # a filter's or a handler's mistake
            level = _LEVELS.get(event.name, logging.DEBUG)
            if _LOGGER.isEnabledFor(level):
                details = " ".join(f"{key}={value}" for key, value in event.fields.items())
                _LOGGER.log(level, "%s issuer=%s %s", event.name.value, event.issuer, details)
        if self._listener is not None:
            try:
                self._listener(event)
            # A listener's mistake must not decide about tokens; on the engine's loop, a CancelledError
            # would end a task in silence.
            except (Exception, asyncio.CancelledError):
                LOGGER.exception("a listener of verifier events failed")

    def incident(self, code: str, **fields: Value) -> None:
        """Report an incident, at most once a minute for each ``code``, with how many there were."""
        count = self._count(code, _INCIDENT_EVERY)
        if count:
            self.tell(EventName.INCIDENT, code=code, count=count, **fields)

    def rejected(self, code: str) -> None:
        """Report that a token was refused, at most once a second for each ``code``, with how many were."""
        if self._listener is None and not _LOGGER.isEnabledFor(logging.DEBUG):
            return
        count = self._count(f"token.{code}", _SAMPLE_EVERY)
        if count:
            self.tell(EventName.TOKEN_REJECTED, code=code, count=count)

    def reset(self) -> None:
        """Be usable in a child process, whatever other threads did when it was forked."""
        self._lock = threading.Lock()
        self._delivering = False

    def _count(self, what: str, every: float) -> int:
        """How many since the last report, this one included, or 0 where that was too short a time ago."""
        now = self._clock.monotonic()
        with self._lock:
            told_at, untold = self._told.get(what, (float("-inf"), 0))
            if now - told_at < every:
                self._told[what] = (told_at, untold + 1)
                return 0
            self._told[what] = (now, 0)
            return untold + 1


def _printable(value: Value) -> Value:
    if isinstance(value, int):
        return value
    text = value if value.isascii() and value.isprintable() else ascii(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
