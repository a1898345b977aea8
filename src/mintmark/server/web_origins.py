"""Which pages may use the session cookie of an issuer: those of its own origin, and of its clients'."""

import asyncio
from typing import Final
from urllib.parse import urlsplit

from mintmark.core.sessions import Session
from mintmark.ports.clock import Clock
from mintmark.ports.directory import Directory
from mintmark.units import Issuer

_FRESH: Final = 1.0
"""Seconds for which the origins of all clients are not read again: strangers can ask for them."""


class WebOrigins:
    """The origins of one issuer; an origin is compared byte for byte, and ``null`` is none."""

    def __init__(self, issuer: Issuer, *, directory: Directory, clock: Clock) -> None:
        parts = urlsplit(issuer)
        self.own: Final = f"{parts.scheme}://{parts.netloc}"
        """That of the issuer itself; its URL has a host in lower case and no default port."""
        self._issuer = issuer
        self._directory = directory
        self._clock = clock
        self.last: frozenset[str] = frozenset()
        """Those that :meth:`known` read last."""
        self._read_at: float | None = None
        self._reading = asyncio.Lock()

    async def known(self) -> frozenset[str]:
        """The origins of the issuer and of all its clients, as they were a second ago, or when last read.

        Raises Unavailable where the store does not say.
        """
        if self.last and self._reading.locked():
            # A store that hangs holds up one request, and not all behind it.
            return self.last
        async with self._reading:
            # One reads for all who wait here. A failure is tried again by the next, in its own time.
            if self._read_at is None or self._clock.monotonic() - self._read_at >= _FRESH:
                clients = await self._directory.clients(self._issuer)
                self.last = frozenset({self.own, *(o for client in clients for o in client.origins)})
                self._read_at = self._clock.monotonic()
        return self.last

    async def of(self, session: Session | None) -> frozenset[str]:
        """The origins whose pages may act on ``session``: its client's, as the store has them now.

        Without a session there is nothing to act on, and any page of the issuer's may be told so. Raises
        Unavailable.
        """
        if session is None:
            return await self.known()
        client = await self._directory.client(self._issuer, session.client_id)
        return frozenset({self.own, *(client.origins if client is not None else ())})
