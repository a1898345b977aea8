"""Reading our own key set back, the way verifiers do.

- PROOF-1 ``kids`` answers what a verifier would find at that URL now, through whatever caches lie between.
- PROOF-2 What cannot be fetched or read is ProofFailed with a sentence, within ten seconds; nothing foreign.
"""

from typing import Protocol

import msgspec

from mintmark.errors import MintmarkError
from mintmark.units import Kid


class ProofFailed(MintmarkError):
    """The key set could not be read back; the message says where and why."""


class PublicReader(Protocol):
    """Fetches a key set over HTTP."""

    async def kids(self, url: str) -> frozenset[Kid]:
        """The ``kid`` of every key at ``url``. Raises ProofFailed."""
        ...


class _Named(msgspec.Struct):
    kid: str = ""


class _Keys(msgspec.Struct):
    keys: list[_Named]


def kids_of(body: bytes) -> frozenset[Kid]:
    """The ``kid`` of every key in a key set; raises ValueError where ``body`` is none (RFC 7517 s.5)."""
    return frozenset(Kid(key.kid) for key in msgspec.json.decode(body, type=_Keys).keys)
