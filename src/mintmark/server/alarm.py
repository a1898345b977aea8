"""Alarms that are repeated while what they are about lasts, and not at each look."""

from typing import Final

from mintmark.core.events import EventName, Value
from mintmark.ports.clock import Clock
from mintmark.server.audit import Audit
from mintmark.units import Kid

_REPEAT: Final = 60.0
"""Seconds between two reports of the same alarm."""


class Alarms:
    """Records an event about a key, or about none, at most once a minute."""

    def __init__(self, *, clock: Clock, audit: Audit) -> None:
        self._clock = clock
        self._audit = audit
        self._sounded: dict[tuple[EventName, str], float] = {}

    def sound(self, name: EventName, kid: Kid | None = None, **fields: Value) -> None:
        """Record the event, unless the same one was about the same key just now."""
        now = self._clock.monotonic()
        about = (name, kid or "")
        if now - self._sounded.get(about, float("-inf")) >= _REPEAT:
            self._sounded[about] = now
            self._audit.record(name, kid=kid, **fields)
