"""A listener for a verifier's events that a test can wait on."""

import threading
from typing import Final

from mintmark.testing.clock import FakeClock
from mintmark.verifier.event import Event, EventName, Value

_PATIENCE: Final = 20.0
_PAUSE: Final = 0.1


class Recorder:
    """Keeps every event it is called with: ``Verifier(…, on_event=recorder)``."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        """Keep ``event``."""
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    @property
    def events(self) -> tuple[Event, ...]:
        """All of them, in their order."""
        with self._changed:
            return tuple(self._events)

    def count(self, name: EventName, **fields: Value) -> int:
        """How many there are with this name and, among others, these fields."""
        with self._changed:
            return self._count(name, fields)

    def wait_for(self, name: EventName, count: int = 1, **fields: Value) -> None:
        """Block until there are ``count`` of them; TimeoutError after 20 real seconds."""
        if not self._came(name, count, fields, _PATIENCE):
            seen = ", ".join(f"{event.name.value} {dict(event.fields)}" for event in self.events)
            raise TimeoutError(f"waited for {count} {name.value} {fields}; there came: {seen}")

    def pass_until(self, clock: FakeClock, name: EventName, count: int = 1, **fields: Value) -> None:
        """Move ``clock`` by single seconds, while nothing happens, until there are ``count`` of them.

        Raises TimeoutError after 200 seconds of the clock.
        """
        for _ in range(200):
            if self._came(name, count, fields, _PAUSE):
                return
            clock.advance(1)
        self.wait_for(name, count, **fields)

    def _came(self, name: EventName, count: int, fields: dict[str, Value], patience: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._count(name, fields) >= count, patience)

    def _count(self, name: EventName, fields: dict[str, Value]) -> int:
        return sum(
            event.name is name and all(event.fields.get(key) == value for key, value in fields.items())
            for event in self._events
        )
