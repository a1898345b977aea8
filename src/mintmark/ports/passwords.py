"""Slow hashing of passwords, which must never hold up anything else.

- PASSWORD-1 ``verify`` of a wrong password, and of any password against no hash at all, takes the same
  work: who is unknown cannot be told from who typed wrongly (ASVS 6.3.8).
- PASSWORD-2 No call blocks the event loop.
- PASSWORD-3 More calls than the bound are Overloaded at once; memory and threads are bounded (ASVS 2.4.1).
- PASSWORD-4 A hash made under weaker parameters than today's verifies, and says that it wants a new one.
- PASSWORD-5 A password is taken whole: nothing is cut, trimmed or folded (ASVS 6.2.8).
"""

from enum import Enum, auto
from typing import Protocol


class PasswordCheck(Enum):
    """What a comparison came to."""

    WRONG = auto()
    RIGHT = auto()
    RIGHT_BUT_WEAKLY_HASHED = auto()


class PasswordHasher(Protocol):
    """Hashes and compares off the event loop, behind a bounded queue."""

    async def hash(self, password: str) -> str:
        """A new salted hash, parameters included. Raises Overloaded."""
        ...

    async def verify(self, password_hash: str | None, password: str) -> PasswordCheck:
        """Compare; None is «no such user», costs the same and is WRONG. Raises Overloaded."""
        ...
