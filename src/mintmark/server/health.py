"""Whether this node should get requests: everything that it needs to mint and to revoke, asked each time."""

from enum import StrEnum
from typing import Final

from mintmark.errors import MintmarkError, NotReady, SignerUnavailable, Unavailable
from mintmark.ports.clock import Clock
from mintmark.ports.signer import Signer, SignerRefused
from mintmark.server.deadline import Deadline
from mintmark.server.feed import RevocationFeed
from mintmark.server.ring import RingFollower
from mintmark.units import Kid, NodeId

_PATIENCE: Final = 1.0
_PROBE: Final = Kid("ready")
"""A name that no key has: a signer that refuses it is there, and has signed nothing."""


class Reason(StrEnum):
    """Why a node is not ready; stable."""

    LEAVING = "leaving"
    RING_STALE = "ring_stale"
    """The key ring was not read within ``propagation``."""
    NO_ACTIVE_KEY = "no_active_key"
    """This node has no key that may sign, or its lease has ended."""
    NO_SLOT = "no_slot"
    """As many other nodes sign as ``signers`` allows, so this one prepares no key."""
    CLOCK_OFF = "clock_off"
    """This machine's clock is further from the store's than ``clock_skew``."""
    LOG_STALE = "log_stale"
    """The head of the revocation log was not read within two seconds."""
    SIGNER_AWAY = "signer_away"


class Health:
    """The readiness of one node."""

    def __init__(
        self, *, node: NodeId, ring: RingFollower, feed: RevocationFeed, signer: Signer, clock: Clock
    ) -> None:
        self._node = node
        self._ring = ring
        self._feed = feed
        self._signer = signer
        self._patience = Deadline(clock, _PATIENCE, _too_late)
        self._leaving = False

    def leave(self) -> None:
        """Be not ready from now on, so that whoever sends requests here stops."""
        self._leaving = True

    async def reasons(self) -> tuple[Reason, ...]:
        """Every reason for which this node is not ready; none when it is. Answers within a second."""
        found = []
        if self._leaving:
            found.append(Reason.LEAVING)
        if not self._ring.is_fresh():
            found.append(Reason.RING_STALE)
        if self._ring.clock_is_off():
            found.append(Reason.CLOCK_OFF)
        elif not self._has_key():
            found.append(Reason.NO_ACTIVE_KEY)
            if self._lacks_slot():
                found.append(Reason.NO_SLOT)
        if not self._feed.is_fresh():
            found.append(Reason.LOG_STALE)
        if not await self._signer_answers():
            found.append(Reason.SIGNER_AWAY)
        return tuple(found)

    def _has_key(self) -> bool:
        try:
            self._ring.active(self._node)
        except NotReady:
            return False
        return True

    def _lacks_slot(self) -> bool:
        try:
            return self._ring.lacks_slot(self._node)
        except NotReady:
            return False

    async def _signer_answers(self) -> bool:
        try:
            await self._patience.hold(self._signer.sign(_PROBE, "", b""))
        except SignerRefused:
            return True
        except Unavailable:
            return False
        return True


def _too_late() -> MintmarkError:
    return SignerUnavailable("the signer did not answer")
