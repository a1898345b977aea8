"""Which nodes that fell silent are known to be dead, so that nobody waits for them any longer."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from mintmark.core.keyring import Member
from mintmark.ports.clock import Clock
from mintmark.ports.doorway import Doorway
from mintmark.units import NodeId, NumericDate

_ASK_EVERY: Final = 1.0
"""Seconds between the starts of two rounds of asking."""
_AT_ONCE: Final = 32
"""Addresses that are asked at once: whoever can write rows decides how many there are."""


class Absence:
    """Asks at silent nodes' addresses beside the rounds of rotation; a later round gets the answer.

    A node is gone while nobody listened at its address and it has not beaten since: a heartbeat is proof of
    life, whatever the network says. ``address`` is where this node itself listens, so nobody else does.
    ``on_found`` is awaited when a node was found to be gone, so that nobody need wait for the next round.
    Without a ``doorway`` nobody is asked.
    """

    def __init__(
        self, doorway: Doorway | None, *, address: str, clock: Clock, on_found: Callable[[], Awaitable[None]]
    ) -> None:
        self._doorway = doorway
        self._address = address
        self._clock = clock
        self._on_found = on_found
        self._refused: dict[NodeId, NumericDate] = {}
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = float("-inf")
        self._closed = False

    def gone(self, members: Iterable[Member]) -> frozenset[NodeId]:
        """Those of ``members`` that are gone; of others nothing is kept."""
        self._refused = {m.node: m.seen_at for m in members if self._refused.get(m.node) == m.seen_at}
        return frozenset(self._refused)

    def ask(self, members: tuple[Member, ...]) -> None:
        """Have those of ``members`` asked that are not known to be gone."""
        now = self._clock.monotonic()
        unknown = tuple(member for member in members if member.node not in self._refused)[:_AT_ONCE]
        if self._closed or self._doorway is None or not unknown or now - self._asked_at < _ASK_EVERY:
            return
        if self._asking is not None:
            if not self._asking.done():
                return
            # A port that raises is a defect.
            self._asking.result()
        self._asked_at = now
        self._asking = asyncio.create_task(self._ask(self._doorway, unknown))

    async def answered(self) -> None:
        """Wait until everybody who is being asked has answered, or will not."""
        if self._asking is not None:
            await asyncio.gather(self._asking, return_exceptions=True)

    async def close(self) -> None:
        """Ask nobody any more."""
        self._closed = True
        if self._asking is not None:
            self._asking.cancel()
        await self.answered()

    async def _ask(self, doorway: Doorway, members: tuple[Member, ...]) -> None:
        refused = await asyncio.gather(*(self._is_refused(doorway, member) for member in members))
        found = {member.node: member.seen_at for member, gone in zip(members, refused, strict=True) if gone}
        self._refused.update(found)
        if found:
            await self._on_found()

    async def _is_refused(self, doorway: Doorway, member: Member) -> bool:
        return member.address == self._address or await doorway.is_refused(member.address)
