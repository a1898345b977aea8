"""A place for published documents in memory, for tests."""

from collections.abc import Mapping
from typing import Final

from mintmark.ports.publisher import Entry, Found, Version, segments_of


class MemoryPublisher:
    """:class:`mintmark.ports.publisher.Publisher` in a dictionary, which several may share."""

    def __init__(self, entries: dict[str, Found] | None = None) -> None:
        self.place: Final = "memory:"
        self.entries: Final[dict[str, Found]] = {} if entries is None else entries
        self._puts = 0

    async def read(self, name: str) -> Found | None:
        """What is there under ``name`` now."""
        segments_of(name)
        return self.entries.get(name)

    async def versions(self, folder: str) -> Mapping[str, Version]:
        """The entries directly in ``folder``, by name."""
        inside = len(segments_of(folder)) + 1
        return {
            name: found.version
            for name, found in self.entries.items()
            if name.startswith(folder + "/") and len(segments_of(name)) == inside
        }

    async def put(self, name: str, entry: Entry, *, over: Version | None) -> bool:
        """Whether ``entry`` was taken in place of version ``over``, or where there was nothing."""
        segments_of(name)
        found = self.entries.get(name)
        if (found.version if found is not None else None) != over:
            return False
        self._puts += 1
        self.entries[name] = Found(entry.body, Version(f"{id(self)}-{self._puts}"), entry.headers)
        return True

    async def delete(self, name: str) -> None:
        """Remove ``name``, whatever it is now."""
        segments_of(name)
        self.entries.pop(name, None)

    async def close(self) -> None:
        """Nothing is open."""
