"""Minting: plan the claims, let the caller commit, then have exactly that signed, here or by another node."""

from dataclasses import dataclass
from typing import Final

from mintmark.core import jws, membership, minting
from mintmark.core.events import EventName
from mintmark.core.minting import Minting, TokenRequest
from mintmark.core.timing import Timing
from mintmark.errors import NotReady, SignerUnavailable, Unavailable
from mintmark.ports.clock import Clock, Entropy
from mintmark.ports.peer import PeerSigner
from mintmark.ports.signer import Signer, SignerRefused
from mintmark.server.audit import Audit
from mintmark.server.ring import RingFollower
from mintmark.server.signing import PASSING, Signature, Signing
from mintmark.units import Kid, NodeId, NumericDate, Seconds

_PATIENCE: Final = 2.0
_PAUSE: Final = 0.01
_NEVER: Final = NumericDate(0)


@dataclass(frozen=True, slots=True)
class Planned:
    """Claims that are fixed and not signed yet, and the key that is to sign them.

    The key may be another one in the end: it may have been succeeded meanwhile, or another node's may have
    answered in place of the one that was to be asked.
    """

    minting: Minting
    kid: Kid


@dataclass(frozen=True, slots=True, repr=False)
class AccessTokenIssued:
    """A signed token, and what the answer says beside it (RFC 6749 s.5.1)."""

    access_token: str
    expires_in: Seconds
    scope: tuple[str, ...]


class Issuing:
    """Mints access tokens with a key of this node, or with one of another node through ``peers``."""

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
        peers: PeerSigner | None = None,
    ) -> None:
        self._node = node
        self._ring = ring
        self._signing = Signing(node=node, ring=ring, signer=signer)
        self._peers = peers
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

    def check_not_before(self, not_before: NumericDate) -> None:
        """Raise NotReady while ``iat`` would be ``not_before`` or earlier: what is revoked is not minted."""
        _check_not_before(self._clock.now(), not_before)

    def plan(
        self,
        request: TokenRequest,
        *,
        not_after: NumericDate | None = None,
        not_before: NumericDate = _NEVER,
    ) -> Planned:
        """Fix every claim, ``iat`` and ``exp`` included (R5); ``not_after`` shortens the life.

        ``not_before`` is the client's, as it was read for this request: an event that is appended after that
        denies what is planned here, because it lies ahead by the skew and longer than a request may take.
        Raises NotReady where no key may sign for this node, or not yet for this client.
        """
        random = self._entropy.token_bytes(minting.RANDOM_BYTES)
        kid = self._choose(random)
        now = self._clock.now()
        _check_not_before(now, not_before)
        ttl = self._timing.access_ttl
        if not_after is not None:
            ttl = Seconds(max(1, min(ttl, not_after - now)))
        return Planned(minting.plan(request, now=now, ttl=ttl, random=random), kid)

    def _choose(self, random: bytes) -> Kid:
        """The key of this node that is preferred, or any of those that other nodes sign with."""
        if self._peers is not None and not self._signing.candidates():
            others = [key for key in self._ring.candidates(self._node) if not key.is_resigned()]
            if others := others or list(self._ring.candidates(self._node)):
                # Spread over the nodes that sign: who mints through peers would all ask the same one.
                return others[int.from_bytes(random) % len(others)].kid
        return self._ring.active(self._node).kid

    async def sign(self, planned: Planned, scope: tuple[str, ...]) -> AccessTokenIssued:
        """The token of ``planned``; raises SignerUnavailable or NotReady.

        A key can be activated, superseded or revoked between plan and signature. The claims name no key,
        so whatever key is active now may sign them, while it covers their ``exp``. Another node signs only
        what the store shows already: the session, with its ``last_exp``.
        """
        deadline = self._clock.monotonic() + _PATIENCE
        while True:
            try:
                return self._issued(planned, await self._sign_anywhere(planned), scope)
            except SignerRefused as refused:
                if refused.reason not in PASSING or self._clock.monotonic() >= deadline:
                    raise SignerUnavailable("no key may sign this now") from refused
            await self._clock.sleep(_PAUSE)
            await self._ring.refresh()

    async def sign_here(self, planned: Planned, scope: tuple[str, ...]) -> AccessTokenIssued | None:
        """The token of ``planned`` by a key of this node; None where only another node can sign it.

        Raises as :meth:`sign`, which it is where no other node may be asked.
        """
        if self._peers is None:
            return await self.sign(planned, scope)
        if not self._signing.candidates():
            return None
        try:
            return self._issued(planned, await self._sign_with_own(planned), scope)
        except SignerRefused as refused:
            if refused.reason in PASSING:
                return None
            raise SignerUnavailable("no key may sign this now") from refused

    async def _sign_with_own(self, planned: Planned) -> Signature:
        return await self._signing.sign(minting.ACCESS_TOKEN_TYP, planned.minting.payload)

    async def _sign_anywhere(self, planned: Planned) -> Signature:
        if self._peers is None or self._signing.candidates():
            try:
                return await self._sign_with_own(planned)
            except SignerRefused as refused:
                if self._peers is None or refused.reason not in PASSING:
                    raise
                try:
                    return await self._sign_elsewhere(self._peers, planned)
                except Unavailable:
                    # Nobody else either: then a change of keys is what there is to wait for.
                    raise refused from None
        return await self._sign_elsewhere(self._peers, planned)

    async def _sign_elsewhere(self, peers: PeerSigner, planned: Planned) -> Signature:
        token = await peers.sign(planned.kid, minting.ACCESS_TOKEN_TYP, planned.minting.payload)
        return Signature(jws.parse(token).header.kid or planned.kid, token)

    def _issued(self, planned: Planned, signature: Signature, scope: tuple[str, ...]) -> AccessTokenIssued:
        minted = planned.minting
        self._audit.record(EventName.TOKEN_ISSUED, jti=minted.jti, kid=signature.kid, exp=minted.exp)
        return AccessTokenIssued(signature.token, Seconds(max(0, minted.exp - self._clock.now())), scope)


def _check_not_before(now: NumericDate, not_before: NumericDate) -> None:
    left = not_before - (now - minting.BACKDATED) + 1
    if left > 0:
        raise NotReady("tokens of this time are revoked", retry_after=Seconds(left))
