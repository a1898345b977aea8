"""What this node signs for others: their claims are held against the rows, their requests are counted."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from mintmark.core import peering
from mintmark.core.events import EventName, Value
from mintmark.core.key import KeyState
from mintmark.core.keyring import Member
from mintmark.core.keyset import Bucket
from mintmark.core.minting import ACCESS_TOKEN_TYP
from mintmark.core.peering import Asked, PeerRefusal
from mintmark.core.timing import Timing
from mintmark.errors import NotReady
from mintmark.ports.clock import Clock
from mintmark.ports.keyring import RingView
from mintmark.ports.peer import PeerRefused
from mintmark.ports.signer import Signer, SignerRefused
from mintmark.ports.store import Store
from mintmark.server.audit import Audit
from mintmark.server.ring import RingFollower
from mintmark.server.signing import PASSING, Signature, Signing
from mintmark.units import ClientId, Issuer, NodeId, Rid, Sub

_IN_TOUCH: Final = 5.0
"""Seconds since a node asked last within which it counts on this one; it asks each second."""
_NOTED: Final = 60
"""Refusals that are logged at once; then one a second, and all are counted."""


class Peering:
    """Signs for other nodes of one issuer."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        node: NodeId,
        ring: RingFollower,
        store: Store,
        signer: Signer,
        timing: Timing,
        clock: Clock,
        audit: Audit,
    ) -> None:
        self.issuer = issuer
        self._node = node
        self._ring = ring
        self._store = store
        self._signing = Signing(node=node, ring=ring, signer=signer)
        self._timing = timing
        self._clock = clock
        self._audit = audit
        self._known: tuple[RingView, Mapping[bytes, Member]] | None = None
        self._heard: dict[NodeId, float] = {}

    def callers(self) -> Mapping[bytes, Member]:
        """Who may call, by certificate: the other nodes that lived when the store was last read."""
        try:
            view = self._ring.view
        except NotReady:
            return {}
        if self._known is None or self._known[0] is not view:
            live = (m for m in view.members if m.is_live(view.now) and m.node != self._node)
            self._known = (view, MappingProxyType({m.certificate: m for m in live if m.certificate}))
        return self._known[1]

    def heard_from(self, within: float) -> frozenset[NodeId]:
        """The nodes for which this one would have signed, and that asked, in the last ``within`` seconds."""
        since = self._clock.monotonic() - within
        self._heard = {node: at for node, at in self._heard.items() if at >= since}
        return frozenset(self._heard)

    def is_replaced(self) -> bool:
        """Whether another node that stays answers requests, and mints: itself, or through this one."""
        try:
            view = self._ring.view
        except NotReady:
            return False
        signing = {key.node for key in view.ring.keys if key.state is KeyState.ACTIVE}
        able = signing | self.heard_from(_IN_TOUCH)
        # One that answers nobody yet has seen no ring, and one that leaves says so.
        return self._ring.is_fresh() and any(
            member.ring_generation > 0 and not member.is_leaving() and member.node in able
            for member in self.callers().values()
        )

    async def sign(self, caller: Member, typ: str, payload: bytes) -> str:
        """The token of ``payload``, if ``caller`` may have it. Raises PeerRefused, Unavailable."""
        self._require_member(caller)
        if typ != ACCESS_TOKEN_TYP:
            raise PeerRefused(PeerRefusal.WRONG_TYP)
        claims = peering.asked(payload)
        if claims is None:
            raise PeerRefused(PeerRefusal.BAD_CLAIMS)
        if (reason := await self._judge(claims)) is not None:
            raise PeerRefused(reason)
        signature = await self._perform(typ, payload)
        self._heard[caller.node] = self._clock.monotonic()
        self._audit.record(
            EventName.TOKEN_SIGNED_FOR_PEER,
            issuer=self.issuer,
            peer=caller.node,
            jti=claims.jti,
            kid=signature.kid,
            exp=claims.exp,
        )
        return signature.token

    async def probe(self, caller: Member) -> None:
        """Return if this node would sign now. Raises as :meth:`sign`."""
        self._require_member(caller)
        await self._signing.probe()
        self._heard[caller.node] = self._clock.monotonic()

    def _require_member(self, caller: Member) -> None:
        found = self.callers().get(caller.certificate)
        if found is None or found.node != caller.node:
            raise PeerRefused(PeerRefusal.STRANGER)

    async def _judge(self, claims: Asked) -> PeerRefusal | None:
        if not self._ring.is_fresh():
            return PeerRefusal.NOT_READY
        if claims.iss != self.issuer:
            return PeerRefusal.UNKNOWN_ISSUER
        client = await self._store.directory.client(self.issuer, ClientId(claims.client_id))
        user, session, now = None, None, self._ring.now()
        if claims.rid is not None:
            user = await self._store.directory.user(self.issuer, Sub(claims.sub))
            # Read last: what ends the session while the rest is being read is seen.
            view = await self._store.sessions.read(self.issuer, Rid(claims.rid))
            session, now = view.session, view.now
        return peering.refusal(
            claims,
            issuer=self.issuer,
            client=client,
            user=user,
            session=session,
            timing=self._timing,
            now=now,
        )

    async def _perform(self, typ: str, payload: bytes) -> Signature:
        try:
            return await self._signing.sign(typ, payload)
        except SignerRefused as refused:
            if refused.reason not in PASSING:
                raise PeerRefused(PeerRefusal.BAD_CLAIMS) from refused
        # Keys change while requests are under way: what is active now may sign this as well.
        await self._ring.refresh()
        return await self._signing.sign(typ, payload)


class Desk:
    """:class:`mintmark.ports.peer.PeerService` over each issuer's peering; every refusal is counted."""

    def __init__(self, peerings: Iterable[Peering], *, clock: Clock, audit: Audit) -> None:
        self._peerings = {peering.issuer: peering for peering in peerings}
        self._clock = clock
        self._audit = audit
        self._noted: dict[object, Bucket] = {}

    def callers(self) -> Mapping[bytes, Member]:
        """Who may call about any issuer, by certificate."""
        peerings = tuple(self._peerings.values())
        if len(peerings) == 1:
            return peerings[0].callers()
        return {key: member for each in peerings for key, member in each.callers().items()}

    async def sign(self, caller: Member, issuer: Issuer, typ: str, payload: bytes) -> str:
        """The token of ``payload``; see the port."""
        try:
            return await self._about(issuer).sign(caller, typ, payload)
        except PeerRefused as refused:
            self._note(EventName.PEER_REFUSED, peer=caller.node, reason=refused.reason.value)
            raise

    async def probe(self, caller: Member, issuer: Issuer) -> None:
        """Return if this node would sign for ``issuer``; see the port."""
        await self._about(issuer).probe(caller)

    def turned_away(self, who: str, reason: str) -> None:
        """Count whoever got no further than the door."""
        self._note(EventName.PEER_TURNED_AWAY, peer=who, reason=reason)

    def _about(self, issuer: Issuer) -> Peering:
        found = self._peerings.get(issuer)
        if found is None:
            raise PeerRefused(PeerRefusal.UNKNOWN_ISSUER)
        return found

    def _note(self, name: EventName, **fields: Value) -> None:
        # A flood would fill the log's disk; what it was is in its first lines.
        if self._noted.setdefault(name, Bucket(_NOTED, 1.0)).take(self._clock.monotonic()):
            self._audit.record(name, **fields)
        else:
            self._audit.counts[name] += 1
