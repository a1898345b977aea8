"""Whether anybody listens at a node's address: the fastest proof that its process has ended.

- DOOR-1 A place where the machine itself said that nobody listens is refused.
- DOOR-2 Anything else is not: somebody who listens, whoever it is and whatever it says; silence; a place that
  cannot be reached; an address that is none. Nothing is sent there.
- DOOR-3 It answers within a second.
"""

from typing import Protocol


class Doorway(Protocol):
    """Looks whether a connection would be accepted."""

    async def is_refused(self, address: str) -> bool:
        """Whether nobody listens at ``address``, as ``host:port``. Raises nothing."""
        ...
