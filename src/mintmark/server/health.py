"""Whether this node should get requests: everything that it needs to mint and to revoke, asked each time."""

import asyncio
from enum import Enum, StrEnum
from typing import Final

from mintmark.errors import MintmarkError, NotReady, SignerUnavailable, Unavailable
from mintmark.ports.clock import Clock
from mintmark.ports.peer import PeerSigner
from mintmark.ports.signer import Signer, SignerRefused
from mintmark.server.deadline import Deadline
from mintmark.server.feed import RevocationFeed
from mintmark.server.ring import RingFollower
from mintmark.server.signing import Signing
from mintmark.units import Kid, NodeId

_PATIENCE: Final = 1.0
_ASK_PEERS_EVERY: Final = 0.5
"""Seconds for which what other nodes answered is good."""
_PROBE: Final = Kid("ready")
"""A name that no key has: a signer that refuses it is there, and has signed nothing."""


class Reason(StrEnum):
    """Why a node is not ready; stable."""

    LEAVING = "leaving"
    RING_STALE = "ring_stale"
    """The key ring was not read within ``propagation``."""
    NO_ACTIVE_KEY = "no_active_key"
    """This node has no key that may sign, or its lease has ended, and no other node signs for it."""
    NO_SLOT = "no_slot"
    """As many other nodes sign as ``signers`` allows, so this one prepares no key."""
    CLOCK_OFF = "clock_off"
    """This machine's clock is further from the store's than ``clock_skew``."""
    LOG_STALE = "log_stale"
    """The head of the revocation log was not read within two seconds."""
    SIGNER_AWAY = "signer_away"
    """It does not answer, or the token that holds the key does not."""


class Health:
    """The readiness of one node; one without a key of its own is ready while another node signs for it."""

    def __init__(
        self,
        *,
        node: NodeId,
        ring: RingFollower,
        feed: RevocationFeed,
        signer: Signer,
        clock: Clock,
        peers: PeerSigner | None = None,
    ) -> None:
        self._node = node
        self._ring = ring
        self._feed = feed
        self._signer = signer
        self._signing = Signing(node=node, ring=ring, signer=signer)
        self._patience = Deadline(clock, _PATIENCE, _too_late)
        self._peers = None if peers is None else _PeerProbe(peers, clock=clock, patience=self._patience)
        self._leaving = False

    def leave(self) -> None:
        """Be not ready from now on, so that whoever sends requests here stops."""
        self._leaving = True

    async def reasons(self) -> tuple[Reason, ...]:
        """Every reason for which this node is not ready; none when it is. Answers within a second."""
        signer, peers = await asyncio.gather(self._ask_signer(), self._ask_peers())
        found = []
        if self._leaving:
            found.append(Reason.LEAVING)
        if not self._ring.is_fresh():
            found.append(Reason.RING_STALE)
        if self._ring.clock_is_off():
            found.append(Reason.CLOCK_OFF)
        elif not self._may_mint(signer) and not peers:
            found.append(Reason.NO_ACTIVE_KEY)
            if self._lacks_slot():
                found.append(Reason.NO_SLOT)
        if not self._feed.is_fresh():
            found.append(Reason.LOG_STALE)
        if signer is _Signer.AWAY:
            found.append(Reason.SIGNER_AWAY)
        return tuple(found)

    def _may_mint(self, signer: "_Signer") -> bool:
        # A signer that is away is a reason of its own, and says nothing of its keys.
        return signer is _Signer.HOLDS_KEY or (signer is _Signer.AWAY and self._has_key())

    def _has_key(self) -> bool:
        try:
            return bool(self._signing.candidates())
        except NotReady:
            return False

    def _lacks_slot(self) -> bool:
        try:
            return self._ring.lacks_slot(self._node)
        except NotReady:
            return False

    async def _ask_signer(self) -> "_Signer":
        has_key = self._has_key()
        try:
            probe = self._signing.probe() if has_key else self._signer.sign(_PROBE, "", b"")
            await self._patience.hold(probe)
        except (SignerRefused, NotReady):
            return _Signer.HOLDS_NONE
        except Unavailable:
            return _Signer.AWAY
        return _Signer.HOLDS_KEY if has_key else _Signer.HOLDS_NONE

    async def _ask_peers(self) -> bool:
        """Whether another node would sign; not asked where this one has keys of its own alone."""
        if self._peers is None or self._has_own_key():
            return False
        return await self._peers.outcome()

    def _has_own_key(self) -> bool:
        try:
            return any(not key.is_of_cluster() for key in self._signing.candidates())
        except NotReady:
            return False


class _PeerProbe:
    """Whether another node would sign, asked once for all who want to know it at about the same time.

    Anybody may ask whether this node is ready. A probe for each of them would use up what other nodes answer
    this one, and then they would sign nothing for it either.
    """

    def __init__(self, peers: PeerSigner, *, clock: Clock, patience: Deadline) -> None:
        self._peers = peers
        self._clock = clock
        self._patience = patience
        self._asking: asyncio.Task[bool] | None = None
        self._good_until = 0.0

    async def outcome(self) -> bool:
        """Whether one would, as of half a second ago at the most."""
        if self._asking is None or (self._asking.done() and self._clock.monotonic() >= self._good_until):
            self._asking = asyncio.create_task(self._ask())
        # Whoever hangs up takes the answer from nobody else.
        return await asyncio.shield(self._asking)

    async def _ask(self) -> bool:
        try:
            await self._patience.hold(self._peers.probe())
        except Unavailable:
            return False
        finally:
            self._good_until = self._clock.monotonic() + _ASK_PEERS_EVERY
        return True


class _Signer(Enum):
    """What the signer of this node answered."""

    HOLDS_KEY = "holds_key"
    HOLDS_NONE = "holds_none"
    AWAY = "away"


def _too_late() -> MintmarkError:
    return SignerUnavailable("no signature can be had in time")
