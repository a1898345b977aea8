"""The store in memory, for tests and as the plainest reading of the ports.

Several stores may share one :class:`MemoryData`, as nodes share a database.
Every operation lets others run before it does its work, as one on a real database does, and then does it
under one lock.
"""

from typing import Final

from mintmark.adapters.memory_data import MemoryData, Shared
from mintmark.adapters.memory_directory import MemoryDirectory
from mintmark.adapters.memory_keyring import MemoryKeyRing
from mintmark.adapters.memory_log import MemoryRevocations
from mintmark.adapters.memory_outbox import MemoryOutbox
from mintmark.adapters.memory_sessions import MemorySessions
from mintmark.core.mark import UNMARKED, Marks
from mintmark.ports.clock import Clock, Entropy
from mintmark.units import NumericDate

__all__ = ["MemoryData", "MemoryStore"]


class MemoryStore:
    """:class:`mintmark.ports.store.Store` in memory; stores that share ``data`` are one database."""

    def __init__(
        self, *, clock: Clock, entropy: Entropy, data: MemoryData | None = None, marks: Marks = UNMARKED
    ) -> None:
        self._shared = Shared(MemoryData() if data is None else data, clock, entropy, marks)
        self.keyring: Final = MemoryKeyRing(self._shared)
        self.sessions: Final = MemorySessions(self._shared)
        self.revocations: Final = MemoryRevocations(self._shared)
        self.directory: Final = MemoryDirectory(self._shared)
        self.outbox: Final = MemoryOutbox(self._shared)

    @property
    def data(self) -> MemoryData:
        """What it keeps, to share or to back up."""
        return self._shared.data

    async def open(self) -> None:
        """From now on operations work."""
        self._shared.is_open = True

    async def close(self) -> None:
        """From now on operations raise StoreUnavailable; the data stays."""
        self._shared.is_open = False

    async def now(self) -> NumericDate:
        """The store's time."""
        async with self._shared.transaction() as now:
            return now
