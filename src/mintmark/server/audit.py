"""The one place where an event becomes a log line and a number."""

from collections import Counter
from typing import Final

import structlog

from mintmark.core.events import WARNINGS, Event, EventName, Value

_QUIET: Final = frozenset(
    {
        EventName.LEASE_RENEWED,
        EventName.TOKEN_ISSUED,
        EventName.ROWS_PRUNED,
        EventName.SESSION_REFRESHED,
        # While the store is away every request is one: its first failure was reported.
        EventName.REQUEST_DEFERRED,
    }
)
_CUT: Final = 200


class Audit:
    """Logs each event once and counts it by name; ``issuer`` and ``node`` go with every line."""

    def __init__(self, **bound: Value) -> None:
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mintmark").bind(**bound)
        self.counts: Counter[EventName] = Counter()

    def record(self, name: EventName, **fields: Value) -> None:
        """Log and count one event; text from outside is escaped and cut."""
        self.publish(Event(name, fields))

    def publish(self, event: Event) -> None:
        """The same for an event that the core made."""
        self.counts[event.name] += 1
        level = "warning" if event.name in WARNINGS else "debug" if event.name in _QUIET else "info"
        safe = {key: _escape(value) for key, value in event.fields.items() if value is not None}
        getattr(self._log, level)(str(event.name), **safe)


def _escape(value: Value) -> Value:
    # A newline in a field would let its sender write log lines of his own (ASVS 16.4.1).
    if not isinstance(value, str):
        return value
    return value[:_CUT].encode("unicode_escape").decode("ascii")
