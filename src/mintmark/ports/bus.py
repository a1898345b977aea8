"""Wake-ups between processes: the bus may lose, repeat and reorder, so nothing but latency hangs on it.

- BUS-1 After ``announce`` every subscription of the same process wakes.
- BUS-2 A subscription of another process of the same cluster wakes too, at the latest 250 ms after the
  change that was announced could be read from the store, while the bus works.
- BUS-3 ``wait`` returns after ``timeout`` seconds whatever happens: a reader that polls then loses nothing.
- BUS-4 An announcement made between two calls of ``wait`` ends the second at once.
- BUS-5 A broken bus raises nothing out of ``announce`` or ``wait``, and neither waits for it.
- BUS-6 ``state`` says whether what other processes announce is heard. Within five seconds of the end of that
  it says why not, and says so again once it is; each time every subscription wakes.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class BusState:
    """Whether other processes are heard."""

    is_up: bool
    place: str = ""
    """What carries the wake-ups, for people: ``redis 10.0.0.7:6379, mintmark.0``. It holds no secret."""
    reason: str = ""
    """Why nothing is heard: empty while all is well, and until the first attempt to connect has failed."""


class Subscription(Protocol):
    """One listener's place on the bus."""

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - the port's own promise (BUS-3)
        """Whether something was announced since the last call; False after ``timeout`` seconds."""
        ...

    def close(self) -> None:
        """Stop listening; a waiting call returns False."""
        ...


class Bus(Protocol):
    """Says «something changed, read the store», and nothing more."""

    @property
    def state(self) -> BusState:
        """How it is now."""
        ...

    async def open(self) -> None:
        """Start to listen; never fails for a bus that is away."""
        ...

    async def close(self) -> None:
        """Stop; may be called twice."""
        ...

    async def announce(self) -> None:
        """Wake every subscription, here and elsewhere."""
        ...

    def subscribe(self) -> Subscription:
        """A new subscription, which wakes for what is announced from now on."""
        ...
