"""Calls between the nodes of a cluster: one asks another to sign for it.

A node without a key of its own is useful at once, because a live node that has one signs what it asks for.
The caller sends claims and never a header; no private key moves. Who may call, and who answers, is told by
certificates that each node makes for itself at start and registers in its heartbeat row.

- PEER-1 A call reaches the member whose certificate it names; anyone else at that address learns nothing of
  it, and the caller gets PeerUnavailable.
- PEER-2 A caller whose certificate is not among those that the listener is told of gets no further than the
  handshake; one that is no longer among them gets no further answer.
- PEER-3 Calls are independent: each gets its own answer, in whatever order they come, and one that is
  refused or cancelled takes no other with it.
- PEER-4 A refusal arrives as PeerRefused with its reason, and the next call is answered as before.
- PEER-5 A member that is not there, dies with calls under way, or stays silent, is PeerUnavailable within
  three seconds; once it is back, calls reach it again.
- PEER-6 A caller that asks for more than its share is refused as BUSY; other callers are served meanwhile.
- PEER-7 A message that is too large, or no message, ends its sender's connection and nobody else's; so does
  a message of which the rest does not come.
- PEER-8 Whoever opens connections and says nothing is cut off, and their number is bounded.
"""

from typing import Final, Protocol

from mintmark.core.keyring import Member
from mintmark.core.peering import PeerRefusal
from mintmark.errors import SignerUnavailable
from mintmark.ports.signer import Signer
from mintmark.units import Issuer

PASSING: Final = frozenset({PeerRefusal.BUSY, PeerRefusal.NOT_READY, PeerRefusal.STRANGER})
"""Refusals that are about one node: another one may well sign. The others would be repeated by all
that are honest."""


class PeerUnavailable(SignerUnavailable):
    """The node did not answer: it is away, stands still, or is not who it should be."""


class PeerRefused(SignerUnavailable):
    """The node is there and will not sign this; ``reason`` says why."""

    def __init__(self, reason: PeerRefusal) -> None:
        super().__init__(f"another node refused to sign: {reason.value}")
        self.reason = reason


class PeerCaller(Protocol):
    """Reaches other nodes; keeps connections to them."""

    async def sign(self, member: Member, issuer: Issuer, typ: str, payload: bytes) -> str:
        """The compact JWS of ``payload`` by whatever key ``member`` signs with now; not verified.

        Raises PeerRefused, PeerUnavailable.
        """
        ...

    async def probe(self, member: Member, issuer: Issuer) -> None:
        """Return if ``member`` would sign for ``issuer`` now; nothing is signed. Raises as :meth:`sign`."""
        ...


class PeerSigner(Signer, Protocol):
    """Signs with other nodes' keys; what a worker has beside its own node's signer."""

    async def probe(self) -> None:
        """Return if another node would sign now. Raises SignerUnavailable or NotReady."""
        ...


class PeerService(Protocol):
    """What a listener asks when a node calls. ``caller`` is who the certificate says, so it is true."""

    async def sign(self, caller: Member, issuer: Issuer, typ: str, payload: bytes) -> str:
        """The compact JWS of ``payload``. Raises PeerRefused, and Unavailable where a port did."""
        ...

    async def probe(self, caller: Member, issuer: Issuer) -> None:
        """Return if it would sign now. Raises as :meth:`sign`."""
        ...

    def turned_away(self, who: str, reason: str) -> None:
        """An address, or a node, got no further than the door; called as often as it happens."""
        ...
