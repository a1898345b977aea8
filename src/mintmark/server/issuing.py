"""Minting: plan the claims, let the caller commit, then have the signer sign exactly that."""

from dataclasses import dataclass, replace
from typing import Final

from mintmark.core import membership, minting
from mintmark.core.events import EventName
from mintmark.core.minting import Minting, TokenRequest
from mintmark.core.timing import Timing
from mintmark.errors import NotReady, SignerUnavailable
from mintmark.ports.clock import Clock, Entropy
from mintmark.ports.signer import Refusal, Signer, SignerRefused
from mintmark.server.audit import Audit
from mintmark.server.ring import RingFollower
from mintmark.units import Kid, NodeId, NumericDate, Seconds

_PATIENCE: Final = 2.0
_PAUSE: Final = 0.01
_PASSING: Final = frozenset(
    {Refusal.NOT_EXTENDED, Refusal.UNKNOWN_KEY, Refusal.LEASE_ENDED, Refusal.EXP_PAST_LIMIT}
)
"""Refusals that a change of keys explains: the ring is read again and the key that is active then signs."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Claims that are fixed and not signed yet, and the key that was active when they were."""

    minting: Minting
    kid: Kid


@dataclass(frozen=True, slots=True, repr=False)
class AccessTokenIssued:
    """A signed token, and what the answer says beside it (RFC 6749 s.5.1)."""

    access_token: str
    expires_in: Seconds
    scope: tuple[str, ...]


class Issuing:
    """Mints access tokens with the key that this node signs with."""

    def __init__(
        self,
        *,
        node: NodeId,
        ring: RingFollower,
        signer: Signer,
        clock: Clock,
        entropy: Entropy,
        timing: Timing,
        audit: Audit,
    ) -> None:
        self._node = node
        self._ring = ring
        self._signer = signer
        self._clock = clock
        self._entropy = entropy
        self._timing = timing
        self._audit = audit

    def moment(self) -> NumericDate:
        """This machine's time, for :meth:`check_time`."""
        return self._clock.now()

    def check_time(self, before: NumericDate, store: NumericDate) -> None:
        """Raise NotReady where the store's time, read since ``before``, is surely not this machine's.

        One of the two clocks is wrong. What has expired by the store's may be all right, so a session must
        neither be refused nor ended by it.
        """
        if abs(membership.offset(before, store, self._clock.now())) > self._timing.clock_skew:
            raise NotReady("this node's clock is too far from the store's")

    def plan(self, request: TokenRequest, *, not_after: NumericDate | None = None) -> Planned:
        """Fix every claim, ``iat`` and ``exp`` included (R5); ``not_after`` shortens the life.

        Raises NotReady where this node has no active key.
        """
        key = self._ring.active(self._node)
        now = self._clock.now()
        ttl = self._timing.access_ttl
        if not_after is not None:
            ttl = Seconds(max(1, min(ttl, not_after - now)))
        random = self._entropy.token_bytes(minting.RANDOM_BYTES)
        return Planned(minting.plan(request, now=now, ttl=ttl, random=random), key.kid)

    async def sign(self, planned: Planned, scope: tuple[str, ...]) -> AccessTokenIssued:
        """The token of ``planned``; raises SignerUnavailable or NotReady.

        A key can be activated, superseded or revoked between plan and signature. The claims name no key,
        so whatever key is active now may sign them, while it covers their ``exp``.
        """
        deadline = self._clock.monotonic() + _PATIENCE
        while True:
            try:
                token = await self._signer.sign(
                    planned.kid, minting.ACCESS_TOKEN_TYP, planned.minting.payload
                )
            except SignerRefused as refused:
                if refused.reason not in _PASSING or self._clock.monotonic() >= deadline:
                    raise SignerUnavailable("no key may sign this now") from refused
            else:
                return self._issued(planned, token, scope)
            await self._clock.sleep(_PAUSE)
            await self._ring.refresh()
            planned = replace(planned, kid=self._ring.active(self._node).kid)

    def _issued(self, planned: Planned, token: str, scope: tuple[str, ...]) -> AccessTokenIssued:
        minted = planned.minting
        self._audit.record(EventName.TOKEN_ISSUED, jti=minted.jti, kid=planned.kid, exp=minted.exp)
        return AccessTokenIssued(token, Seconds(max(0, minted.exp - self._clock.now())), scope)
