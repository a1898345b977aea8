"""Minting through another node: whom to ask, whom to ask next, and whether the answer is what was asked."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

import msgspec

from mintmark.core import base64url, jwk, jws
from mintmark.core.events import EventName
from mintmark.core.jwk import PublicKey
from mintmark.core.keyring import Member
from mintmark.core.membership import can_sign
from mintmark.errors import InvalidToken, NotReady, SignerUnavailable, Unavailable
from mintmark.ports.clock import Clock
from mintmark.ports.peer import PASSING, PeerCaller, PeerRefused, PeerUnavailable
from mintmark.server.audit import Audit
from mintmark.server.ring import RingFollower
from mintmark.units import Issuer, Kid, NodeId

PATIENCE: Final = 1.8
"""Seconds for one signature, whatever nodes die meanwhile; less than what a request has."""
HEDGE: Final = 0.3
"""Seconds after which the next node is asked as well: one that stands still says nothing."""
_AVOIDED: Final = 10.0
"""Seconds for which a node that did not answer is asked after the others."""

T = TypeVar("T")


class Peers:
    """:class:`mintmark.ports.signer.Signer` for one issuer whose keys are other nodes'.

    Whoever answers first is taken. A node that may have signed as well does no harm: the claims are the
    same, ``jti`` included, so it is one token.
    """

    def __init__(
        self,
        issuer: Issuer,
        *,
        node: NodeId,
        ring: RingFollower,
        caller: PeerCaller,
        clock: Clock,
        audit: Audit,
    ) -> None:
        self.issuer = issuer
        self._node = node
        self._ring = ring
        self._caller = caller
        self._clock = clock
        self._audit = audit
        self._avoided: dict[NodeId, float] = {}
        self._keys: dict[Kid, PublicKey] = {}

    def members(self, kid: Kid | None = None) -> tuple[Member, ...]:
        """Who may sign now: the holder of ``kid`` first, and who did not answer lately last.

        Raises NotReady where the ring was not read, or this machine's clock is off.
        """
        others = [
            key for key in self._ring.candidates(self._node) if key.is_of_cluster() or key.node != self._node
        ]
        # A stable sort: after the one that was named they stay as the ring prefers them.
        keys = sorted(others, key=lambda key: key.kid != kid)
        now, store_now = self._clock.monotonic(), self._ring.now()
        live = [
            member
            for member in self._ring.view.members
            if member.node != self._node
            and member.address
            and member.certificate
            and member.is_live(store_now)
        ]
        able = dict.fromkeys(member for key in keys for member in live if can_sign(member, key))
        return tuple(sorted(able, key=lambda member: self._avoided.get(member.node, now) > now))

    async def sign(self, kid: Kid, typ: str, payload: bytes) -> str:
        """The JWS of ``payload`` by a key of another node, by ``kid`` if its holder answers; verified.

        Raises SignerUnavailable or NotReady where nobody signs.
        """

        async def ask(member: Member) -> str:
            token = await self._caller.sign(member, self.issuer, typ, payload)
            await self._check(token, typ, payload)
            return token

        return await self._first(self.members(kid), ask)

    async def probe(self) -> None:
        """Return if another node would sign now. Raises as :meth:`sign`."""
        await self._first(self.members(), lambda member: self._caller.probe(member, self.issuer))

    # --- asking one after the other ------------------------------------------------------------------

    async def _first(self, members: Iterable[Member], ask: Callable[[Member], Coroutine[Any, Any, T]]) -> T:
        """The first answer of ``members``; each is asked when the one before has failed, or is late.

        A refusal that every node would repeat is believed once two say it: one that was taken over must not
        deny what others would sign, and what is not due must not be asked of all.
        """
        deadline = self._clock.monotonic() + PATIENCE
        waiting = deque(members)
        asking: dict[asyncio.Task[T], Member] = {}
        failed: Unavailable = NotReady("no other node can sign now")
        is_refused = False
        try:
            while waiting or asking:
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    raise SignerUnavailable("no other node answered in time")
                if waiting:
                    member = waiting.popleft()
                    asking[asyncio.create_task(ask(member))] = member
                done = await self._settled(asking, min(HEDGE, left) if waiting else left)
                for task in done:
                    member = asking.pop(task)
                    if (error := task.exception()) is None:
                        self._avoided.pop(member.node, None)
                        return task.result()
                    failed = self._failure(member, error)
                    if isinstance(failed, PeerRefused) and failed.reason not in PASSING:
                        if is_refused:
                            raise failed
                        is_refused = True
                if not done:
                    for member in asking.values():
                        self._avoid(member, "it did not answer in time")
            raise failed
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _settled(self, asking: Iterable["asyncio.Task[T]"], span: float) -> set["asyncio.Task[T]"]:
        """Those of ``asking`` that have come to something; none where nothing has within ``span`` seconds."""
        tasks = set(asking)
        late = asyncio.create_task(self._clock.sleep(span))
        try:
            await asyncio.wait({late, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            late.cancel()
            await asyncio.gather(late, return_exceptions=True)
        return {task for task in tasks if task.done()}

    def _failure(self, member: Member, error: BaseException) -> Unavailable:
        """What to raise if nobody else signs; raises what is a defect of this node."""
        match error:
            case PeerRefused():
                return error
            case Unavailable():
                self._avoid(member, str(error))
                return error
            case _:
                raise error

    def _avoid(self, member: Member, reason: str) -> None:
        """Ask ``member`` after all others for a while; news only once in that while."""
        now = self._clock.monotonic()
        if self._avoided.get(member.node, now) <= now:
            self._audit.record(EventName.PEER_FAILED, issuer=self.issuer, peer=member.node, reason=reason)
            gone = [node for node, until in self._avoided.items() if until <= now]
            for node in gone:
                del self._avoided[node]
            self._avoided[member.node] = now + _AVOIDED

    # --- what was answered ---------------------------------------------------------------------------

    async def _check(self, token: str, typ: str, payload: bytes) -> None:
        """Raise PeerUnavailable unless ``token`` is the payload that was sent, under a published key.

        A node that was taken over could answer with another user's token, and one with a broken signer with
        what every verifier refuses.
        """
        try:
            message, header, body, signature = jws.split(token)
            head = jws.parse_header(jws.decode(header))
            same = body == base64url.encode(payload).encode() and head.typ == typ and head.kid is not None
            key = await self._key(head.kid) if same and head.kid is not None else None
            if key is not None and head.alg is key.alg:
                jws.verify(key, message, jws.decode(signature))
                return
        except InvalidToken:
            pass
        raise PeerUnavailable("another node answered with what is not the token that was asked for")

    async def _key(self, kid: Kid) -> PublicKey | None:
        """The published key under ``kid``, which may be newer than the ring that was read last."""
        if self._ring.view.ring.find(kid) is None:
            await self._ring.refresh()
        found = self._ring.find(kid)
        if found is None:
            return None
        if kid not in self._keys:
            kept = {key.kid for key in self._ring.view.ring.keys}
            self._keys = {old: key for old, key in self._keys.items() if old in kept}
            self._keys[kid] = jwk.parse_jwk(msgspec.json.decode(found.jwk))
        return self._keys[kid]
