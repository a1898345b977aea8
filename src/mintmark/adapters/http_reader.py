"""Reads a key set over HTTP, as a verifier would: the public URL, through every cache before it."""

import asyncio
from typing import Final

import httpx2

from mintmark.ports.proof import ProofFailed, kids_of
from mintmark.units import Kid

_TIMEOUT: Final = 3.0
"""Seconds for the whole of it: heartbeats wait meanwhile."""
_LARGEST: Final = 1 << 20


class HttpReader:
    """:class:`mintmark.ports.proof.PublicReader` with one client and no redirects.

    Below the base URL ``at`` it asks under the name ``host``, for whoever listens there answers for several.
    """

    def __init__(self, *, at: str = "", host: str = "") -> None:
        self._at = at
        self._host = host
        self._client = httpx2.AsyncClient(timeout=_TIMEOUT, follow_redirects=False, trust_env=False)

    async def kids(self, url: str) -> frozenset[Kid]:
        """The ``kid`` of every key at ``url``. Raises ProofFailed."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                body = await self._fetch(url)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, OSError) as error:
            raise ProofFailed(f"{url}: {type(error).__name__}") from error
        try:
            return kids_of(body)
        except ValueError as error:
            raise ProofFailed(f"{url}: the answer is no key set") from error

    async def _fetch(self, url: str) -> bytes:
        headers = {"Accept": "application/json"}
        if self._at and url.startswith(self._at + "/"):
            headers["Host"] = self._host
        async with self._client.stream("GET", url, headers=headers) as response:
            if response.status_code != httpx2.codes.OK:
                raise ProofFailed(f"{url}: status {response.status_code}")
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _LARGEST:
                    raise ProofFailed(f"{url}: the answer is larger than a key set")
            return body

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()
