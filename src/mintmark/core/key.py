"""One key of an issuer: the states it passes through, who holds its private half, and its row in the ring.

:data:`TRANSITIONS` is the one table that says which state follows which; documentation and tests derive
from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from mintmark.core.algorithm import Algorithm
from mintmark.units import Kid, NodeId, NumericDate


class KeyMode(StrEnum):
    """Who holds the private half of a key."""

    OWN = "own"
    """One node, in memory; the key ends with it."""
    SHARED = "shared"
    """Every node: it is kept sealed in the store, and each node opens it."""
    HSM = "hsm"
    """A PKCS#11 token that nodes share; it never leaves it."""


@dataclass(frozen=True, slots=True)
class KeyKind:
    """What keys an issuer is to sign with. It is part of the ring, so all nodes see one change at once."""

    mode: KeyMode
    alg: Algorithm

    def __str__(self) -> str:
        """As people write it: ``shared ES256``."""
        return f"{self.mode.value} {self.alg.value}"


DEFAULT_KIND: Final = KeyKind(KeyMode.OWN, Algorithm.RS256)
"""What is cheapest to verify and most widely supported, and needs nothing set up."""


class KeyState(StrEnum):
    """Where a key is in its life. ``retired`` keys are forgotten, so no row ever holds that state."""

    PREPARED = "prepared"
    ACTIVE = "active"
    PASSIVE = "passive"
    RETIRED = "retired"
    REVOKED = "revoked"


class KeyEvent(StrEnum):
    """What moves a key from one state to the next."""

    ACTIVATED = "activated"
    """Readable for the lead, or the first of its issuer: it may sign."""
    SUPERSEDED = "superseded"
    """Another key signs in its place now."""
    LAPSED = "lapsed"
    """Nobody renewed its lease, because its node is gone or was paused; or another kind of key is wanted."""
    EXPIRED = "expired"
    """Nothing that it signed can still be valid, or its revocation is no longer worth keeping."""
    REVOKED = "revoked"
    """Withdrawn in an emergency, by anyone, for any node's key."""


TRANSITIONS: Final[Mapping[tuple[KeyState, KeyEvent], KeyState]] = {
    (KeyState.PREPARED, KeyEvent.ACTIVATED): KeyState.ACTIVE,
    (KeyState.PREPARED, KeyEvent.LAPSED): KeyState.RETIRED,
    (KeyState.ACTIVE, KeyEvent.SUPERSEDED): KeyState.PASSIVE,
    (KeyState.ACTIVE, KeyEvent.LAPSED): KeyState.PASSIVE,
    (KeyState.PASSIVE, KeyEvent.EXPIRED): KeyState.RETIRED,
    (KeyState.PREPARED, KeyEvent.REVOKED): KeyState.REVOKED,
    (KeyState.ACTIVE, KeyEvent.REVOKED): KeyState.REVOKED,
    (KeyState.PASSIVE, KeyEvent.REVOKED): KeyState.REVOKED,
    (KeyState.REVOKED, KeyEvent.EXPIRED): KeyState.RETIRED,
}

PUBLISHED: Final = frozenset({KeyState.PREPARED, KeyState.ACTIVE, KeyState.PASSIVE})
"""The states in which a key's public half is in the JWKS."""

SIGNING: Final = frozenset({KeyState.PREPARED, KeyState.ACTIVE})
"""The states in which a key signs, or will."""


class Activation(StrEnum):
    """Why a key was allowed to sign."""

    PROVEN = "proven"
    """Read back through every public URL, then readable for the lead."""
    BOOTSTRAP = "bootstrap"
    """No live node held an active key: waiting would have been an outage."""
    EMERGENCY = "emergency"
    """The active key was revoked and no proven successor stood ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One public key and its place in the ring. ``jwk`` is its canonical JSON (RFC 7517)."""

    kid: Kid
    node: NodeId
    alg: str
    jwk: bytes
    state: KeyState
    since: int
    """The generation of the ring in which the key first appeared."""
    prepared_at: NumericDate
    lease_until: NumericDate
    proven_at: NumericDate | None = None
    activated_at: NumericDate | None = None
    activation: Activation | None = None
    sign_until: NumericDate | None = None
    """A target, not a limit: past it the key signs on and an alarm sounds. See :meth:`is_resigned`."""
    publish_until: NumericDate = NumericDate(0)
    """Only ever raised. Readers use it as it is and never compute it again."""
    revoked_at: NumericDate | None = None
    reason: str | None = None
    mode: KeyMode = KeyMode.OWN
    """Who holds it. One of mode ``own`` is its node's; any other is the cluster's: ``node`` only made it."""
    sealed: bytes | None = field(default=None, repr=False)
    """The private half of a shared key, sealed; None once it may not sign any more, and in other modes."""
    held: bool = False
    """An operator said that it must stay published, whatever else says that it may go."""

    def is_published(self) -> bool:
        """Whether the JWKS holds this key."""
        return self.state in PUBLISHED

    def is_of_cluster(self) -> bool:
        """Whether the cluster holds it, and not one node."""
        return self.mode is not KeyMode.OWN

    def kind(self) -> KeyKind | None:
        """Its mode and its algorithm; None for an algorithm that this code does not know.

        A row may come from a newer node, or from whoever can write the database: it must stop nobody.
        """
        try:
            return KeyKind(self.mode, Algorithm(self.alg))
        except ValueError:
            return None

    def needed_until(self) -> NumericDate:
        """Until when it may sign or something may be valid that it signed, unless a lease is renewed."""
        return max(self.publish_until, self.lease_until if self.state in SIGNING else NumericDate(0))

    def is_overdue(self, now: NumericDate) -> bool:
        """Whether it signs past its target, and not because its node is leaving."""
        signs = self.state is KeyState.ACTIVE and not self.is_resigned()
        return signs and self.sign_until is not None and now >= self.sign_until

    def is_resigned(self) -> bool:
        """Whether its node is leaving: the key signs on for now, and nobody may count on it.

        Written as a target that was brought forward to the activation, so that it is part of the ring: what
        others decide on the ring as it was before is not taken.
        """
        return self.sign_until is not None and self.sign_until == self.activated_at
