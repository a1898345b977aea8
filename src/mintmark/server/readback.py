"""Key sets read back beside the rounds of rotation, so that no URL that hangs delays a heartbeat."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from mintmark.ports.clock import Clock
from mintmark.ports.proof import ProofFailed, PublicReader
from mintmark.units import Kid

_LOOK_EVERY: Final = 1.0
"""Seconds between the starts of two looks for one key."""


class Readback:
    """Looks for keys at ``urls``, all of them at once. A round asks, and a later one gets the answer.

    One look for a key is under way at a time, and each ends as soon as the reader's promise (PROOF-2).
    ``on_found`` is awaited when a key was found everywhere, so that nobody need wait for the next round.
    Nowhere is everywhere where ``urls`` is empty.
    """

    def __init__(
        self,
        urls: tuple[str, ...],
        *,
        reader: PublicReader,
        clock: Clock,
        on_found: Callable[[], Awaitable[None]],
    ) -> None:
        self._urls = urls
        self._reader = reader
        self._clock = clock
        self._on_found = on_found
        self._looks: dict[Kid, asyncio.Task[None]] = {}
        self._begun_at: dict[Kid, float] = {}
        self._missing: dict[Kid, str] = {}
        self._found: set[Kid] = set()
        self._closed = False

    def has_found(self, kid: Kid) -> bool:
        """Whether a look found ``kid`` at every URL; else one is under way when this returns, or soon."""
        look = self._looks.get(kid)
        if look is not None and look.done():
            del self._looks[kid]
            # What is not ProofFailed is a defect, and raised here.
            look.result()
        if kid not in self._found:
            self._look(kid)
        return kid in self._found or not self._urls

    def missing(self, kid: Kid) -> str | None:
        """Where and why the last look did not find ``kid``; None where it did, or none has ended yet."""
        return self._missing.get(kid)

    def forget(self, kid: Kid) -> None:
        """Take what was found for old: ``has_found`` is False until another look has ended."""
        self._end(kid)
        self._found.discard(kid)
        self._missing.pop(kid, None)

    def keep_only(self, kids: frozenset[Kid]) -> None:
        """Forget every key but ``kids``."""
        for kid in self._begun_at.keys() - kids:
            self.forget(kid)
            del self._begun_at[kid]

    async def answered(self) -> None:
        """Wait until every look that is under way has ended."""
        await asyncio.gather(*self._looks.values(), return_exceptions=True)

    async def close(self) -> None:
        """End every look, and begin none any more."""
        self._closed = True
        looks = tuple(self._looks.values())
        for kid in tuple(self._looks):
            self._end(kid)
        await asyncio.gather(*looks, return_exceptions=True)

    def _end(self, kid: Kid) -> None:
        look = self._looks.pop(kid, None)
        if look is not None:
            look.cancel()

    def _look(self, kid: Kid) -> None:
        now = self._clock.monotonic()
        too_soon = now - self._begun_at.get(kid, float("-inf")) < _LOOK_EVERY
        if kid in self._looks or too_soon or self._closed or not self._urls:
            return
        self._begun_at[kid] = now
        self._looks[kid] = asyncio.create_task(self._read(kid))

    async def _read(self, kid: Kid) -> None:
        reasons = await asyncio.gather(*(self._missing_at(url, kid) for url in self._urls))
        reason = next((reason for reason in reasons if reason is not None), None)
        if reason is not None:
            self._missing[kid] = reason
            return
        self._missing.pop(kid, None)
        self._found.add(kid)
        await self._on_found()

    async def _missing_at(self, url: str, kid: Kid) -> str | None:
        try:
            found = await self._reader.kids(url)
        except ProofFailed as failed:
            return str(failed)
        return None if kid in found else f"{url} does not list the key yet"
