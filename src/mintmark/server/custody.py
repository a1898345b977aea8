"""Custody: the private keys that the signer of one node holds for one issuer, as the ring says.

It follows the ring and never leads it: a key of the cluster is loaded once the ring shows it, a lease is told
to the signer once it is committed, and what may not sign any more is forgotten.
"""

from typing import Final

from mintmark.core.events import EventName
from mintmark.core.key import SIGNING, Key, KeyKind, KeyMode, KeyState
from mintmark.core.keyring import Ring
from mintmark.core.logout_token import LOGOUT_TOKEN_TYP
from mintmark.core.minting import ACCESS_TOKEN_TYP
from mintmark.core.timing import MAX_LEEWAY, Timing
from mintmark.errors import MintmarkError, SignerUnavailable
from mintmark.ports.clock import Clock
from mintmark.ports.keyring import RingView
from mintmark.ports.signer import MadeKey, SignerControl, SignerRefused, TokenState
from mintmark.server.alarm import Alarms
from mintmark.server.audit import Audit
from mintmark.server.deadline import Deadline
from mintmark.units import Issuer, Kid, NodeId, NumericDate, Seconds

_TYPS: Final = frozenset({ACCESS_TOKEN_TYP, LOGOUT_TOKEN_TYP})
_TRY_EVERY: Final = 10.0
"""Seconds between two attempts to load a key that could not be loaded, and two looks at the token."""
_TOKEN_PATIENCE: Final = 1.0
"""Seconds for which a round waits for a token, or heartbeats would be missed. What takes longer goes on
without it."""
_SWEEP_PATIENCE: Final = 5.0
"""The same once an hour, where the answer is what is recorded; less than LIVE_FOR."""
_RESEAL_EVERY: Final = 60.0
"""Seconds between two questions whether a shared key is to be sealed anew."""
_SWEEP_EVERY: Final = 3600.0
_ORPHANED_AFTER: Final = Seconds(3600)
"""A key in the token that is older than this and not in the ring was left behind: no swap takes so long."""


class Custody:
    """The keys of one node; ``modes`` is what its signer was configured for."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        node: NodeId,
        signer: SignerControl,
        clock: Clock,
        timing: Timing,
        audit: Audit,
        alarms: Alarms,
        modes: frozenset[KeyMode],
    ) -> None:
        self._issuer = issuer
        self._node = node
        self._signer = signer
        self._clock = clock
        self._timing = timing
        self._audit = audit
        self._alarms = alarms
        self._modes = modes
        self._token_patience = Deadline(clock, _TOKEN_PATIENCE, _token_hangs)
        self._sweep_patience = Deadline(clock, _SWEEP_PATIENCE, _token_hangs)
        self._held: dict[Kid, KeyMode] = {}
        self._granted: dict[Kid, NumericDate] = {}
        self._made: MadeKey | None = None
        self._made_kind: KeyKind | None = None
        self._offered_to = -1
        self._failed_at: dict[Kid, float] = {}
        self._shut: frozenset[KeyMode] | None = None
        self._token_away = False
        self._looked_at = self._resealed_at = self._swept_at = float("-inf")

    def holds(self, kid: Kid) -> bool:
        """Whether the signer has it."""
        return kid in self._held

    def loaded(self, ring: Ring) -> frozenset[Kid]:
        """The keys of the cluster that this node can sign with just now."""
        held = frozenset(key.kid for key in ring.keys if key.is_of_cluster() and key.kid in self._held)
        return held - {kid for kid in held if self._token_away and self._held[kid] is KeyMode.HSM}

    def usable(self) -> frozenset[KeyMode]:
        """Whose keys this node can sign with, as others may count on it: nothing is promised unseen."""
        return frozenset({KeyMode.OWN}) if self._shut is None else self._modes - self._shut

    # --- following the ring --------------------------------------------------------------------------

    async def follow(self, view: RingView) -> None:
        """Load, extend and forget, so that the signer is as the ring says (design 3.4).

        What cannot be loaded is an alarm, and tried again; the rest goes on. Raises SignerUnavailable.
        """
        ring = view.ring
        if self._made is not None and ring.find(self._made.public.kid) is not None:
            # Taken, whatever became of the answer that said so.
            self._made = None
        await self._look_at_token()
        for key in ring.keys:
            await self._follow_key(key, view.now)
        made = {self._made.public.kid} if self._made is not None else set()
        for kid in self._held.keys() - made - {key.kid for key in ring.keys}:
            await self._forget(kid, destroy=True)
        shut = {key.mode for key in ring.keys if key.state in SIGNING and not self._may_use(key)}
        self._shut = frozenset(shut | ({KeyMode.HSM} if self._token_away else set()))

    async def _follow_key(self, key: Key, now: NumericDate) -> None:
        if key.is_of_cluster() and self._granted.get(key.kid, key.lease_until) > key.lease_until:
            # The store's clock was set back. A signer only ever raises a lease, so it must begin anew.
            await self._forget(key.kid)
        if key.is_of_cluster() and key.state in SIGNING and key.kid not in self._held:
            await self._load(key)
        if key.kid not in self._held:
            return
        if key.state is KeyState.ACTIVE:
            await self._extend(key)
        elif key.state is KeyState.REVOKED or (
            # A superseded key may still have signatures under way, until its lease ends.
            key.state is KeyState.PASSIVE and now >= key.lease_until
        ):
            await self._forget(key.kid, destroy=True)

    def _may_use(self, key: Key) -> bool:
        return not key.is_of_cluster() or key.kid in self._held

    async def _load(self, key: Key) -> None:
        now = self._clock.monotonic()
        kind = key.kind()
        if kind is None or now - self._failed_at.get(key.kid, float("-inf")) < _TRY_EVERY:
            return
        loading = self._signer.load(
            kid=key.kid,
            issuer=self._issuer,
            alg=kind.alg,
            typs=_TYPS,
            mode=key.mode,
            sealed=key.sealed,
        )
        try:
            # What is found after all is there at the next try.
            await (self._token_patience.hold(loading) if key.mode is KeyMode.HSM else loading)
        except SignerUnavailable as error:
            # A token that is away stops nothing else. A signer that is, is noticed by the next call.
            if not isinstance(error, SignerRefused) and key.mode is not KeyMode.HSM:
                raise
            self._failed_at[key.kid] = now
            self._alarms.sound(EventName.KEY_UNLOADABLE, key.kid, kind=str(kind), reason=str(error))
        else:
            self._failed_at.pop(key.kid, None)
            self._held[key.kid] = key.mode

    async def _extend(self, key: Key) -> None:
        if self._granted.get(key.kid) == key.lease_until:
            return
        # While the timing changes, a node that allows for shorter tokens may have renewed the lease (K3).
        covered = NumericDate(key.publish_until - MAX_LEEWAY - self._timing.widest.clock_skew)
        max_exp = min(self._timing.latest_exp(key.lease_until), covered)
        await self._signer.extend(key.kid, max_exp=max_exp, lease_until=key.lease_until)
        self._granted[key.kid] = key.lease_until

    async def _forget(self, kid: Kid, *, destroy: bool = False) -> None:
        in_token = destroy and self._held.get(kid) is KeyMode.HSM
        forgetting = self._signer.forget(kid, destroy=in_token)
        try:
            await (self._token_patience.hold(forgetting) if in_token else forgetting)
        except SignerUnavailable:
            # The signer forgets before it asks the token, so nothing is signed any more. What the token still
            # has is swept; a round that failed for it would let the leases of other keys end.
            if not in_token:
                raise
        if self._made is not None and self._made.public.kid == kid:
            self._made = None
        self._held.pop(kid, None)
        self._granted.pop(kid, None)

    async def release(self) -> None:
        """Forget every key here; one in the token stays there, for the others."""
        for kid in tuple(self._held):
            unused = self._made is not None and self._made.public.kid == kid
            await self._forget(kid, destroy=unused)

    # --- new keys --------------------------------------------------------------------------------------

    async def make(self, kind: KeyKind, *, generation: int) -> MadeKey:
        """A key pair to be offered to the ring of ``generation``; the last one again where it was not taken.

        Raises SignerRefused, SignerUnavailable.
        """
        if self._made is not None and self._made_kind != kind:
            await self._forget(self._made.public.kid, destroy=True)
        if self._made is None:
            self._made = await self._signer.generate(
                issuer=self._issuer, alg=kind.alg, typs=_TYPS, mode=kind.mode
            )
            self._made_kind = kind
            self._held[self._made.public.kid] = kind.mode
        self._offered_to = generation
        return self._made

    async def settle(self, ring: Ring) -> None:
        """Forget a key pair that was made and is not wanted: another node was first, or things changed.

        A swap whose answer was lost may yet be taken while the ring is the one that it was offered to.
        """
        if self._made is not None and ring.generation > self._offered_to:
            await self._forget(self._made.public.kid, destroy=True)

    # --- the seal and the token --------------------------------------------------------------------

    async def resealed(self, ring: Ring) -> tuple[Kid, bytes] | None:
        """A shared key that is to be kept under another key-encryption key, and its new seal.

        None where there is none, and for a minute after each question.
        """
        now = self._clock.monotonic()
        if now - self._resealed_at < _RESEAL_EVERY:
            return None
        for key in ring.keys:
            kind = key.kind()
            if key.sealed is None or kind is None or key.kid not in self._held:
                continue
            self._resealed_at = now
            try:
                sealed = await self._signer.reseal(
                    kid=key.kid, issuer=self._issuer, alg=kind.alg, sealed=key.sealed
                )
            except SignerRefused as refused:
                # It signs on, and would be lost to this node at its next start.
                self._alarms.sound(EventName.KEY_UNLOADABLE, key.kid, kind=str(kind), reason=str(refused))
            else:
                if sealed is not None:
                    return key.kid, sealed
        return None

    async def sweep(self, view: RingView) -> None:
        """Once an hour, destroy what was made in the token and never came into the ring, or has left it."""
        now = self._clock.monotonic()
        if KeyMode.HSM not in self._modes or self._token_away or now - self._swept_at < _SWEEP_EVERY:
            return
        self._swept_at = now
        known = frozenset(
            key.kid
            for key in view.ring.keys
            if key.state in SIGNING or (key.state is KeyState.PASSIVE and view.now < key.lease_until)
        )
        try:
            swept = await self._sweep_patience.hold(
                self._signer.sweep(known=known, issuer=self._issuer, older_than=_ORPHANED_AFTER)
            )
        except SignerUnavailable:
            # Away just now; the next look at the token says so.
            return
        for kid in swept:
            self._audit.record(EventName.KEY_SWEPT, kid=kid)

    async def _look_at_token(self) -> None:
        now = self._clock.monotonic()
        # While it is away each round looks, so that the lease is renewed as soon as it is back.
        if KeyMode.HSM not in self._modes or (not self._token_away and now - self._looked_at < _TRY_EVERY):
            return
        self._looked_at = now
        status = await self._signer.status()
        was_away, self._token_away = self._token_away, status.token is not TokenState.READY
        if self._token_away:
            self._alarms.sound(EventName.HSM_LOST, reason=status.token and status.token.value)
        elif was_away:
            self._audit.record(EventName.HSM_RESTORED)


def _token_hangs() -> MintmarkError:
    return SignerUnavailable("the token did not answer in time")
