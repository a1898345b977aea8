"""Rotation: ask the core what is due, perform it, and tell the store, one effect at a time.

Runs in the control process alone. Each round reads the ring, decides, and performs; what it writes is taken
by compare-and-swap on the generation that it decided on. A round that lost, or failed, changed nothing,
and the next one decides anew: there is no half rotation to clean up after a crash.
"""

import contextlib
from collections.abc import Callable
from typing import Final

from mintmark.core import keyring
from mintmark.core.events import EventName, Value
from mintmark.core.jwk import PublicKey
from mintmark.core.jws import Algorithm
from mintmark.core.keyring import (
    ActivateKey,
    AlarmKind,
    Effect,
    Key,
    KeyState,
    LapseKey,
    PrepareKey,
    ProveKey,
    RaiseAlarm,
    RenewLease,
    RetireKey,
    Ring,
    View,
    Watch,
)
from mintmark.core.minting import ACCESS_TOKEN_TYP
from mintmark.core.timing import Timing
from mintmark.errors import SignerUnavailable, StoreUnavailable
from mintmark.ports.bus import Bus
from mintmark.ports.clock import Clock
from mintmark.ports.keyring import KeyRingStore, RingView
from mintmark.ports.proof import ProofFailed, PublicReader
from mintmark.ports.signer import SignerControl
from mintmark.server import document
from mintmark.server.audit import Audit
from mintmark.units import Issuer, Kid, NodeId, NumericDate

_BEAT_EVERY: Final = 2.0
"""Seconds between two heartbeats: a fifth of what a live node may be silent."""
_STEPS: Final = 32
"""Effects in one round at the most: a defect must not spin."""
_REPEAT_ALARM: Final = 60.0
"""Seconds between two reports of the same alarm."""


class Rotation:
    """The keys of one node: made, proven, activated, renewed, superseded and forgotten.

    ``served`` gives the ring generation that every worker of this node serves; it goes into the heartbeat,
    so that no node's key is activated before all nodes answer with it. ``own_url`` is the key set at this
    node's own listener, ``proof_urls`` are the public ones.
    """

    def __init__(
        self,
        issuer: Issuer,
        *,
        node: NodeId,
        algorithm: Algorithm,
        store: KeyRingStore,
        signer: SignerControl,
        reader: PublicReader,
        bus: Bus,
        clock: Clock,
        timing: Timing,
        audit: Audit,
        served: Callable[[], int],
        own_url: str,
        proof_urls: tuple[str, ...],
    ) -> None:
        self._issuer = issuer
        self._node = node
        self._algorithm = algorithm
        self._store = store
        self._signer = signer
        self._reader = reader
        self._bus = bus
        self._clock = clock
        self._timing = timing
        self._audit = audit
        self._served_generation = served
        self._own_url = own_url
        self._proof_urls = proof_urls
        self._held: set[Kid] = set()
        self._granted: dict[Kid, NumericDate] = {}
        self._alarms: dict[tuple[EventName, str], float] = {}
        self._spare: PublicKey | None = None
        self._watch: Watch | None = None
        self._beat_at = float("-inf")
        self._beaten = -1
        self._found: Kid | None = None
        self._look_again_at = float("-inf")

    async def round(self) -> None:
        """Beat, read, decide and perform what is due until nothing is.

        Raises StoreUnavailable and SignerUnavailable; the next round goes on from what was committed.
        """
        for _ in range(_STEPS):
            await self._beat()
            view = await self._store.read(self._issuer)
            await self._follow_leases(view)
            effects = keyring.due(await self._look(view), self._timing)
            if not await self._perform_first(effects, view):
                await self._check_unproven(view)
                return

    async def leave(self) -> None:
        """Sign no more and say so: the keys of this node verify only, and its heartbeat is gone."""
        # A signer that is gone has forgotten everything already.
        with contextlib.suppress(SignerUnavailable):
            for kid in tuple(self._held):
                await self._signer.forget(kid)
        for _ in range(16):
            view = await self._store.read(self._issuer)
            released = keyring.release(view.ring, self._node, now=view.now)
            if released is view.ring or await self._store.swap(view.ring.generation, released):
                break
        await self._store.leave(self._issuer, self._node)
        await self._bus.announce()
        self._audit.record(EventName.NODE_LEFT)

    async def _beat(self) -> None:
        """Write the heartbeat when it is due, and at once when this node serves a newer ring."""
        now, served = self._clock.monotonic(), self._served_generation()
        if now - self._beat_at >= _BEAT_EVERY or served != self._beaten:
            await self._store.beat(self._issuer, self._node, ring_generation=served)
            self._beat_at, self._beaten = now, served

    # --- evidence ----------------------------------------------------------------------------------

    async def _look(self, view: RingView) -> View:
        served: frozenset[Kid] = frozenset()
        prepared = view.ring.held_by(self._node, KeyState.PREPARED)
        if prepared is not None and self._served_generation() >= prepared.since:
            try:
                served = await self._reader.kids(self._own_url)
            except ProofFailed as failed:
                self._alarm(EventName.PROOF_FAILED, prepared.kid, reason=str(failed))
        self._watch = self._watch.read(view.now) if self._watch is not None else Watch(view.now, view.now)
        return View(
            ring=view.ring,
            members=view.members,
            node=self._node,
            now=view.now,
            served=served,
            watched_since=self._watch.since,
        )

    async def _follow_leases(self, view: RingView) -> None:
        """Tell the signer what the store has committed, and only that (design 3.4)."""
        if self._spare is not None and view.ring.find(self._spare.kid) is not None:
            # Taken, whatever became of the answer that said so.
            self._spare = None
        for key in view.ring.keys:
            if key.node != self._node or key.kid not in self._held:
                continue
            if key.state is KeyState.ACTIVE:
                await self._extend(key)
            elif key.state is KeyState.REVOKED or (
                # A superseded key may still have signatures under way, until its lease ends.
                key.state is KeyState.PASSIVE and view.now >= key.lease_until
            ):
                await self._forget(key.kid)
        spare = {self._spare.kid} if self._spare is not None else set()
        for kid in self._held - spare - {key.kid for key in view.ring.keys}:
            await self._forget(kid)

    async def _extend(self, key: Key) -> None:
        if self._granted.get(key.kid) == key.lease_until:
            return
        await self._signer.extend(
            key.kid, max_exp=self._timing.latest_exp(key.lease_until), lease_until=key.lease_until
        )
        self._granted[key.kid] = key.lease_until

    async def _forget(self, kid: Kid) -> None:
        await self._signer.forget(kid)
        self._held.discard(kid)
        self._granted.pop(kid, None)

    # --- effects -----------------------------------------------------------------------------------

    async def _perform_first(self, effects: tuple[Effect, ...], view: RingView) -> bool:
        """Whether something changed, here or elsewhere, so that the rest must be decided on a new ring."""
        for effect in effects:
            if await self._perform(effect, view):
                return True
        return False

    async def _perform(self, effect: Effect, view: RingView) -> bool:
        ring, now = view.ring, view.now
        match effect:
            case RaiseAlarm(alarm, kid):
                self._alarm(_ALARMS[alarm], kid)
                return False
            case PrepareKey():
                await self._prepare(ring, now)
            case ProveKey(kid):
                return await self._prove(kid, view)
            case ActivateKey(kid, activation):
                if kid not in self._held:
                    raise SignerUnavailable("the signer lost a key that it had prepared")
                after = keyring.activate(ring, kid, activation, timing=self._timing, now=now)
                await self._swap(ring, after, EventName.KEY_ACTIVATED, kid=kid, cause=activation.value)
            case RenewLease(kids):
                after = keyring.renew(ring, kids, timing=self._timing, now=now)
                await self._swap(ring, after, EventName.LEASE_RENEWED)
            case LapseKey(kid):
                after = keyring.lapse(ring, kid, now=now)
                await self._swap(ring, after, EventName.KEY_LAPSED, kid=kid)
            case RetireKey(kid):
                after = keyring.retire(ring, kid, now=now)
                await self._swap(ring, after, EventName.KEY_RETIRED, kid=kid)
        # Taken or lost, the ring is another one now.
        return True

    async def _prepare(self, ring: Ring, now: NumericDate) -> None:
        public = self._spare or await self._generate()
        self._spare = public
        after = keyring.prepare(
            ring,
            kid=public.kid,
            node=self._node,
            alg=public.alg.value,
            jwk=document.encode(public.jwk),
            timing=self._timing,
            now=now,
        )
        await self._swap(ring, after, EventName.KEY_PREPARED, kid=public.kid)

    async def _generate(self) -> PublicKey:
        """A key pair in the signer. It becomes a key of the ring once the store has taken it."""
        public = await self._signer.generate(
            issuer=self._issuer, alg=self._algorithm, typs=frozenset({ACCESS_TOKEN_TYP})
        )
        self._held.add(public.kid)
        return public

    async def _prove(self, kid: Kid, view: RingView) -> bool:
        """Read the key back through every public URL, and see that every live node serves it."""
        key = view.ring.find(kid)
        if key is None:
            return True
        behind = keyring.unserved(key, view.members, view.now)
        missing = f"{len(behind)} live nodes do not serve the key yet" if behind else await self._missing(kid)
        if missing is not None:
            # Not everywhere yet is news only once caches have had the time that they may take.
            if view.now > key.prepared_at + self._timing.jwks_max_age + self._timing.propagation:
                self._alarm(EventName.PROOF_FAILED, kid, reason=missing)
            return False
        # The lead counts from a time read after the proof, so it is never counted too early.
        fresh = await self._store.read(self._issuer)
        if fresh.ring.generation == view.ring.generation:
            proven = keyring.prove(fresh.ring, kid, now=fresh.now)
            await self._swap(fresh.ring, proven, EventName.KEY_PROVEN, kid=kid)
        return True

    async def _missing(self, kid: Kid) -> str | None:
        """Where and why verifiers would not find ``kid`` now; None where they would, everywhere."""
        for url in self._proof_urls:
            try:
                found = await self._reader.kids(url)
            except ProofFailed as failed:
                return str(failed)
            if kid not in found:
                return f"{url} does not list the key yet"
        return None

    async def _check_unproven(self, view: RingView) -> None:
        """Look whether verifiers find a key that had to sign without proof, and alarm while they do not.

        An issuer's URL that is wrong would otherwise come out at the first rotation, hours later.
        """
        key = view.ring.held_by(self._node, KeyState.ACTIVE)
        now = self._clock.monotonic()
        if key is None or key.activated_at is None or key.proven_at is not None or key.kid == self._found:
            return
        if view.now <= key.activated_at + self._timing.propagation or now < self._look_again_at:
            return
        self._look_again_at = now + _REPEAT_ALARM
        missing = await self._missing(key.kid)
        if missing is None:
            self._found = key.kid
        else:
            self._alarm(EventName.PROOF_FAILED, key.kid, reason=missing)

    async def _swap(self, before: Ring, after: Ring, name: EventName, **fields: Value) -> bool:
        """Whether ``after`` was taken; a lost swap is no event."""
        if not await self._store.swap(before.generation, after):
            return False
        self._audit.record(name, generation=after.generation, **fields)
        await self._bus.announce()
        return True

    def _alarm(self, name: EventName, kid: Kid | None, **fields: Value) -> None:
        now = self._clock.monotonic()
        about = (name, kid or "")
        if now - self._alarms.get(about, float("-inf")) >= _REPEAT_ALARM:
            self._alarms[about] = now
            self._audit.record(name, kid=kid, **fields)


_ALARMS: Final = {
    AlarmKind.ROTATION_OVERDUE: EventName.ROTATION_OVERDUE,
    AlarmKind.JWKS_LIMIT: EventName.JWKS_LIMIT_REACHED,
}


async def revoke_key(store: KeyRingStore, issuer: Issuer, kid: Kid, *, reason: str, timing: Timing) -> bool:
    """Withdraw ``kid``, any node's, dead or alive, with its event, in one transaction (design 3.8).

    False where the ring has no such key, or it is revoked already. Raises StoreUnavailable.
    """
    for _ in range(16):
        view = await store.read(issuer)
        key = view.ring.find(kid)
        if key is None or key.state is KeyState.REVOKED:
            return False
        after, event = keyring.revoke(view.ring, kid, reason=reason, timing=timing, now=view.now)
        if await store.swap(view.ring.generation, after, events=((event, "key_revoked"),)):
            return True
    raise StoreUnavailable("the key ring changed at each of many attempts")


async def request_rotation(store: KeyRingStore, issuer: Issuer) -> None:
    """Have every node that signs prepare a successor now. Raises StoreUnavailable."""
    for _ in range(16):
        view = await store.read(issuer)
        if await store.swap(view.ring.generation, keyring.request_rotation(view.ring, now=view.now)):
            return
    raise StoreUnavailable("the key ring changed at each of many attempts")
