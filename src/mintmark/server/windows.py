"""Who used which grace window, as far as this process has seen it.

Within one window a parent gets its successor again, so a thief who rides along there is not found by what
he presents (R2, its residual). That two addresses used one window is all there is to notice. It proves
nothing, since a phone changes networks too, so it is an event and no refusal, kept in memory alone.
"""

from collections import OrderedDict
from typing import Final

from mintmark.units import Rid

_KEPT: Final = 10_000


class Windows:
    """The last window of each session that was refreshed lately, and the address that used it."""

    def __init__(self) -> None:
        self._last: OrderedDict[Rid, tuple[int, str]] = OrderedDict()

    def is_shared(self, rid: Rid, generation: int, address: str) -> bool:
        """Note that ``address`` was answered with ``generation``; whether another one was before it."""
        before = self._last.pop(rid, None)
        self._last[rid] = (generation, address)
        if len(self._last) > _KEPT:
            self._last.popitem(last=False)
        return before is not None and before[0] == generation and before[1] != address
