"""Time and randomness, as everything but ``system`` sees them.

Clauses, each with a conformance test:

- CLOCK-1 ``now()`` is a whole number of seconds since the epoch, rounded down.
- CLOCK-2 ``monotonic()`` never goes back, whatever happens to ``now()``; its zero means nothing.
- CLOCK-3 ``sleep(span)`` returns no earlier than ``span`` seconds of ``monotonic()`` later, and ends
  at once when its task is cancelled.
- ENTROPY-1 ``token_bytes(n)`` gives ``n`` bytes; no two calls agree.
"""

from typing import Protocol

from mintmark.units import NumericDate


class Clock(Protocol):
    """Tells the time; a test's clock lets time move by hand."""

    def now(self) -> NumericDate:
        """Wall-clock time."""
        ...

    def monotonic(self) -> float:
        """Seconds, for spans and deadlines only."""
        ...

    async def sleep(self, span: float) -> None:
        """Wait; the only way in which our code waits for time to pass."""
        ...


class Entropy(Protocol):
    """Gives random bytes that nobody can guess."""

    def token_bytes(self, n: int) -> bytes:
        """``n`` bytes from a cryptographically secure source."""
        ...
