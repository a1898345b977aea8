"""The bus within one process: buses that share a hub wake each other."""

from typing import Final

from mintmark.adapters.wakeup import Subscription, Subscriptions
from mintmark.ports.bus import BusState
from mintmark.ports.clock import Clock


class MemoryHub:
    """What several buses of one process share, as nodes share a server."""

    def __init__(self) -> None:
        self.buses: Final[set[MemoryBus]] = set()


class MemoryBus:
    """:class:`mintmark.ports.bus.Bus` in one event loop."""

    def __init__(self, *, clock: Clock, hub: MemoryHub | None = None) -> None:
        self._hub = MemoryHub() if hub is None else hub
        self._subscriptions = Subscriptions(clock)

    @property
    def state(self) -> BusState:
        """Up from ``open`` to ``close``."""
        return BusState(self in self._hub.buses, "memory")

    async def open(self) -> None:
        """Hear what the other buses of the hub announce."""
        self._hub.buses.add(self)

    async def close(self) -> None:
        """Hear nothing more; may be called twice."""
        self._hub.buses.discard(self)
        self._subscriptions.close()

    async def announce(self) -> None:
        """Wake every subscription of this bus and of the hub's others."""
        for bus in {self, *self._hub.buses}:
            bus._subscriptions.notify()  # noqa: SLF001 - of the same class

    def subscribe(self) -> Subscription:
        """A new subscription, which wakes for what is announced from now on."""
        return self._subscriptions.add()
