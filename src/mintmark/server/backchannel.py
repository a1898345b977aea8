"""Telling relying parties which sessions ended: the loop that empties the outbox (Back-Channel Logout 1.0).

Every node runs it, and the store says who tells what. A notice is told at least once: one that was told and
not settled, because its node died in between, is told again by another once the claim has ended. The notices
of one client come in order, one at a time; each client has its own, so one that is slow or down keeps none
but itself waiting.

A node without a key that signs claims nothing, and leaves them to nodes that have one. Where no node has, no
token of any kind can be had, and they wait for the first that does.
"""

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import Final

from mintmark.core import logout_token
from mintmark.core.events import EventName
from mintmark.core.key import Activation
from mintmark.core.logout_token import LOGOUT_TOKEN_TYP, origin_of
from mintmark.core.timing import Timing
from mintmark.errors import NotReady, Unavailable
from mintmark.ports.bus import Bus
from mintmark.ports.clock import Clock, Entropy
from mintmark.ports.outbox import LogoutNotice, LogoutOutbox
from mintmark.ports.relying_party import Answered, RelyingParties, Unanswered
from mintmark.server.audit import Audit
from mintmark.server.ring import POLL, RingFollower
from mintmark.server.signing import Signature, Signing
from mintmark.units import Issuer, Kid, NodeId, Seconds

WIDTH: Final = 32
"""Relying parties that one node tells at the same time."""
CLAIM: Final = Seconds(15)
"""How long a claim lasts: a signature, an attempt, and what a busy store takes to settle it."""
_ATTEMPT: Final = 7.0
"""Seconds of its claim that an attempt may need: one that began with less could outlast it."""
_PAUSE: Final = 0.2
"""Seconds between two looks at the outbox for the bus's sake alone: it wakes us with every login."""
_EXPIRE_EVERY: Final = 60.0
LONGEST_PAUSE: Final = Seconds(3600)
_DOUBLINGS: Final = 12
_UNKNOWN_KEY_FOR: Final = Seconds(40)
"""Verifiers in use refuse a new ``kid`` for 30 s after they have read the key set."""


class Verdict(Enum):
    """What an answer means for the notice."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    """The relying party says that the token is no good, or that it could not log out (s.2.8)."""
    FAILED = "failed"
    """It may go better later."""


def verdict(status: int) -> Verdict:
    """What ``status`` says (s.2.8).

    A success of any kind is one: what frameworks make of an empty answer differs. 400 alone is final.
    Anything else is a server that is not as it should be: one that is being moved, set up or overloaded.
    """
    if 200 <= status < 300:
        return Verdict.DELIVERED
    return Verdict.REFUSED if status == 400 else Verdict.FAILED


def pause(attempts: int, random: bytes, *, retry_after: Seconds | None = None) -> Seconds:
    """How long to wait after ``attempts`` failures: 1 s to twice as much each time, and up to an hour.

    Anything between is as likely, so that those that failed together do not come back together. A relying
    party may ask for longer, within the hour.
    """
    most = min(LONGEST_PAUSE, 1 << min(max(attempts, 1), _DOUBLINGS))
    drawn = 1 + int.from_bytes(random) % most
    return Seconds(max(drawn, min(retry_after or 0, LONGEST_PAUSE)))


@dataclass(frozen=True, slots=True)
class _Failed:
    """One attempt that did not succeed, and why."""

    reason: str
    retry_after: Seconds | None = None
    is_final: bool = False


class Backchannel:
    """Delivers the notices of one issuer, for as long as a node lives."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        node: NodeId,
        outbox: LogoutOutbox,
        ring: RingFollower,
        signing: Signing,
        parties: RelyingParties,
        bus: Bus,
        clock: Clock,
        entropy: Entropy,
        timing: Timing,
        audit: Audit,
    ) -> None:
        self._issuer = issuer
        self._node = node
        self._outbox = outbox
        self._ring = ring
        self._signing = signing
        self._parties = parties
        self._bus = bus
        self._clock = clock
        self._entropy = entropy
        self._timing = timing
        self._audit = audit
        self._under_way: set[asyncio.Task[None]] = set()
        self._expired_at = float("-inf")

    async def run(self) -> None:
        """Deliver until cancelled: at each wake-up, each second, and as soon as a client's turn comes again.

        What is under way when it is cancelled is told again by another node, if it was not settled.
        """
        subscription = self._bus.subscribe()
        waking = asyncio.create_task(subscription.wait(POLL))
        try:
            while True:
                await self._claim()
                if waking.done():
                    waking = asyncio.create_task(subscription.wait(POLL))
                # With every place taken there is nothing to be woken for.
                waits = self._under_way if len(self._under_way) >= WIDTH else {waking, *self._under_way}
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if not self._collect():
                    await self._clock.sleep(_PAUSE)
        finally:
            subscription.close()
            ending = (waking, *self._under_way)
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            self._under_way.clear()

    def _collect(self) -> bool:
        """Whether a delivery has ended, so that its client may have another; raises the defect of one."""
        ended = [task for task in self._under_way if task.done()]
        self._under_way.difference_update(ended)
        for task in ended:
            task.result()
        return bool(ended)

    async def _claim(self) -> None:
        """Begin with what is due, if this node can sign; a store that is away is asked again later."""
        free = WIDTH - len(self._under_way)
        if free == 0:
            return
        try:
            await self._expire()
            # The signer knows whether it holds a key of the cluster, and its token whether it is there.
            await self._signing.probe()
            claimed_at = self._clock.monotonic()
            claimed = await self._outbox.claim(self._issuer, self._node, span=CLAIM, limit=free)
        except Unavailable:
            # Who reads the ring has said so already.
            return
        for notice in claimed:
            self._under_way.add(asyncio.create_task(self._deliver(notice, claimed_at + CLAIM - _ATTEMPT)))

    async def _expire(self) -> None:
        now = self._clock.monotonic()
        if now < self._expired_at + _EXPIRE_EVERY:
            return
        expired = await self._outbox.expire(self._issuer)
        for notice in expired:
            self._record(EventName.LOGOUT_NOTICE_EXPIRED, notice)
        if not expired:
            # Until then more may be left, and one that expired stands before all that its client is still
            # to be told.
            self._expired_at = now

    async def _deliver(self, notice: LogoutNotice, latest: float) -> None:
        """One attempt, begun no later than ``latest``, and what comes of it."""
        try:
            failed = await self._attempt(notice, latest)
            if failed is None:
                if await self._outbox.settle(notice, self._node):
                    self._record(EventName.LOGOUT_NOTICE_DELIVERED, notice)
            elif failed.is_final:
                if await self._outbox.settle(notice, self._node):
                    self._record(EventName.LOGOUT_NOTICE_REFUSED, notice, reason=failed.reason)
            else:
                random = self._entropy.token_bytes(8)
                span = pause(notice.attempts, random, retry_after=failed.retry_after)
                if await self._outbox.postpone(notice, self._node, span=span):
                    self._record(
                        EventName.LOGOUT_NOTICE_FAILED, notice, reason=failed.reason, retry_after=span
                    )
        except Unavailable:
            # The claim ends by itself, and then it is told again.
            return

    async def _attempt(self, notice: LogoutNotice, latest: float) -> _Failed | None:
        """None once the relying party has it; raises NotReady where its turn has passed."""
        signature = await self._sign(notice)
        if self._clock.monotonic() > latest:
            # This process stood still, or the signer was slow: another node may be telling it now.
            raise NotReady("the claim is about to end")
        try:
            answer = await self._parties.tell(notice.uri, signature.token)
        except Unanswered as silence:
            return _Failed(silence.reason)
        match verdict(answer.status):
            case Verdict.DELIVERED:
                return None
            case Verdict.REFUSED:
                return self._refused(answer, signature.kid)
            case Verdict.FAILED:
                return _Failed(f"status_{answer.status}", answer.retry_after)

    def _refused(self, answer: Answered, kid: Kid) -> _Failed:
        """A refusal is final, unless the relying party may not know the key yet."""
        reason = f"status_{answer.status}"
        key = self._ring.view.ring.find(kid)
        if key is None or key.activation is Activation.PROVEN:
            return _Failed(reason, is_final=True)
        # It signed before it had been public for the lead (K1), so a cached key set may lack it.
        if self._ring.now() < (key.activated_at or 0) + self._timing.lead:
            return _Failed(reason, max(answer.retry_after or Seconds(0), _UNKNOWN_KEY_FOR))
        return _Failed(reason, is_final=True)

    async def _sign(self, notice: LogoutNotice) -> Signature:
        """A logout token for this attempt: an old one could have expired, or its key have been revoked."""
        planned = logout_token.plan(
            iss=notice.issuer,
            sub=notice.sub,
            client_id=notice.client_id,
            rid=notice.rid,
            now=self._clock.now(),
            access_ttl=self._timing.access_ttl,
            random=self._entropy.token_bytes(logout_token.RANDOM_BYTES),
        )
        return await self._signing.sign(LOGOUT_TOKEN_TYP, planned.payload)

    def _record(
        self,
        name: EventName,
        notice: LogoutNotice,
        *,
        reason: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        self._audit.record(
            name,
            rid=notice.rid,
            client_id=notice.client_id,
            # Its path and query are the client's, and may hold a secret.
            origin=origin_of(notice.uri),
            attempts=notice.attempts + (name is not EventName.LOGOUT_NOTICE_EXPIRED),
            reason=reason,
            retry_after=retry_after,
        )
