"""Signing with the keys that this node itself can sign with: its own, and the cluster's."""

from dataclasses import dataclass
from typing import Final

from mintmark.core.key import Key
from mintmark.core.minting import ACCESS_TOKEN_TYP
from mintmark.errors import NotReady
from mintmark.ports.signer import Refusal, Signer, SignerRefused
from mintmark.server.ring import RingFollower
from mintmark.units import Kid, NodeId

PASSING: Final = frozenset(
    {Refusal.NOT_EXTENDED, Refusal.UNKNOWN_KEY, Refusal.LEASE_ENDED, Refusal.EXP_PAST_LIMIT}
)
"""Refusals that a change of keys explains: another key, or the ring read again, may help."""


@dataclass(frozen=True, slots=True, repr=False)
class Signature:
    """A compact JWS, and the key that made it."""

    kid: Kid
    token: str


class Signing:
    """Signs for ``node`` with the keys that the ring says it may use, the preferred one first."""

    def __init__(self, *, node: NodeId, ring: RingFollower, signer: Signer) -> None:
        self._node = node
        self._ring = ring
        self._signer = signer

    def candidates(self) -> tuple[Key, ...]:
        """The keys to try, in order; raises NotReady where the ring or the clock says that none may sign.

        The signer need not hold a key of the cluster; only asking it tells.
        """
        return tuple(
            key for key in self._ring.candidates(self._node) if key.is_of_cluster() or key.node == self._node
        )

    async def sign(self, typ: str, payload: bytes) -> Signature:
        """The JWS of ``payload``; raises NotReady, and SignerRefused as the last key was."""
        refused: SignerRefused | None = None
        for key in self.candidates():
            try:
                return Signature(key.kid, await self._signer.sign(key.kid, typ, payload))
            except SignerRefused as error:
                if error.reason not in PASSING:
                    raise
                refused = error
        raise refused or NotReady("no key of this node may sign now")

    async def probe(self) -> None:
        """Return if the signer has a key that may sign now; nothing is signed. Raises as :meth:`sign`."""
        try:
            # No payload is empty: a signer that gets as far as this has the key, and a lease of it.
            await self.sign(ACCESS_TOKEN_TYP, b"")
        except SignerRefused as refused:
            if refused.reason in PASSING:
                raise
