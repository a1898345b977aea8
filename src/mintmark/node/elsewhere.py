"""A worker's way to the keys of other nodes: a channel to its control process, which asks them."""

from typing import Final

import msgspec

from mintmark.ports.signer import Signer
from mintmark.units import Issuer, Kid

PROBE: Final = Kid("ready")
"""A name that no key has: whoever asks for it asks whether another node would sign."""


class Elsewhere:
    """:class:`mintmark.ports.peer.PeerSigner` for one issuer, over a channel that many may share."""

    def __init__(self, issuer: Issuer, channel: Signer) -> None:
        self._channel = channel
        self._probe = msgspec.json.encode({"iss": issuer})

    async def sign(self, kid: Kid, typ: str, payload: bytes) -> str:
        """The JWS of ``payload`` by a key of another node; see the port."""
        return await self._channel.sign(kid, typ, payload)

    async def probe(self) -> None:
        """Return if another node would sign now; see the port."""
        await self._channel.sign(PROBE, "", self._probe)
