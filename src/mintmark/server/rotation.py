"""Rotation: ask the core what is due, perform it, and tell the store, one effect at a time.

Runs in the control process alone. Each round reads the ring, decides, and performs; what it writes is taken
by compare-and-swap on the generation that it decided on. A round that lost, or failed, changed nothing,
and the next one decides anew: there is no half rotation to clean up after a crash.
"""

import contextlib
from collections.abc import Callable
from typing import Final

from mintmark.core import keyring, membership, succession
from mintmark.core.events import EventName, Value
from mintmark.core.jwk import PublicKey
from mintmark.core.jws import Algorithm
from mintmark.core.key import Key, KeyKind, KeyMode, KeyState
from mintmark.core.keyring import Ring
from mintmark.core.membership import View, Watch
from mintmark.core.minting import ACCESS_TOKEN_TYP
from mintmark.core.succession import (
    ActivateKey,
    AlarmKind,
    Effect,
    LapseKey,
    PrepareKey,
    ProveKey,
    RaiseAlarm,
    ReleaseKeys,
    RenewLease,
    ResignKeys,
    RetireKey,
)
from mintmark.core.timing import Timing
from mintmark.errors import SignerUnavailable, Unavailable
from mintmark.ports.bus import Bus
from mintmark.ports.clock import Clock
from mintmark.ports.keyring import KeyRingStore, RingView
from mintmark.ports.proof import PublicReader
from mintmark.ports.signer import SignerControl
from mintmark.server import document
from mintmark.server.agreement import check_agreed
from mintmark.server.audit import Audit
from mintmark.server.leaving import Leaving
from mintmark.server.readback import Readback
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
    node's own listener, ``proof_urls`` are the public ones, ``places`` the folders and buckets with a copy;
    ``reader`` reads all of them. ``leaving`` is asked whether the node may go.

    ``kind`` is what keys are to sign, where the ring does not say so yet; with ``spare`` a successor waits
    past its lead for as long as a key signs. ``modes`` is what the signer was configured for. ``address`` and
    ``certificate`` are those of this node's cluster listener.
    """

    def __init__(
        self,
        issuer: Issuer,
        *,
        node: NodeId,
        kind: KeyKind | None = None,
        algorithm: Algorithm = Algorithm.RS256,
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
        places: tuple[str, ...] = (),
        spare: bool = False,
        address: str = "",
        certificate: bytes = b"",
        modes: frozenset[KeyMode] = frozenset({KeyMode.OWN}),
    ) -> None:
        self._issuer = issuer
        self._node = node
        self._kind = kind or KeyKind(KeyMode.OWN, algorithm)
        self._wants_spare = spare
        self._address = address
        self._certificate = certificate
        self._modes = modes
        self._store = store
        self._signer = signer
        self._reader = reader
        self._bus = bus
        self._clock = clock
        self._timing = timing
        self._audit = audit
        self._served_generation = served
        self._own = Readback((own_url,), reader=reader, clock=clock, on_found=bus.announce)
        self._public = Readback((*proof_urls, *places), reader=reader, clock=clock, on_found=bus.announce)
        self._copies = Readback(places, reader=reader, clock=clock, on_found=bus.announce)
        self._readbacks = (self._own, self._public, self._copies)
        self._held: set[Kid] = set()
        self._granted: dict[Kid, NumericDate] = {}
        self._alarms: dict[tuple[EventName, str], float] = {}
        self._spare: PublicKey | None = None
        self._watch: Watch | None = None
        self._beat_at = float("-inf")
        self._beaten = -1
        self._slotless = False
        self._offset = 0
        self.is_waiting = True
        """Whether this node has no key that signs, so that every moment counts."""
        self.leaving: Final = Leaving(node, timing=timing, clock=clock, audit=audit)

    async def round(self) -> None:
        """Beat, read, decide and perform what is due until nothing is.

        Raises StoreUnavailable and SignerUnavailable; the next round goes on from what was committed. Raises
        ConfigurationError where the nodes have come to work with other timing.
        """
        try:
            await self._work()
        except Unavailable:
            self.leaving.failed()
            raise

    async def _work(self) -> None:
        for _ in range(_STEPS):
            await self._beat()
            found = await self._read()
            await self._follow_leases(found)
            view = self._look(found)
            self.is_waiting = view.ring.held_by(self._node, KeyState.ACTIVE) is None
            effects = succession.due(view, self._timing)
            self._slotless &= RaiseAlarm(AlarmKind.NO_SLOT) in effects
            if not await self._perform_first(effects, found):
                self._check_unproven(found)
                self.leaving.saw(view)
                return

    async def _read(self) -> RingView:
        """The ring, and with it by how much this machine's clock is off."""
        before = self._clock.now()
        view = await self._store.read(self._issuer)
        self._offset = membership.offset(before, view.now, self._clock.now())
        return view

    async def answered(self) -> None:
        """Wait until every key set that is being read back has been."""
        for readback in self._readbacks:
            await readback.answered()

    async def leave(self) -> None:
        """Sign no more and say so: the keys of this node verify only, and its heartbeat is gone."""
        for readback in self._readbacks:
            await readback.close()
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
        if now - self._beat_at < _BEAT_EVERY and served == self._beaten:
            return
        await self._store.beat(
            self._issuer,
            self._node,
            ring_generation=served,
            address=self._address,
            certificate=self._certificate,
            modes=self._modes,
        )
        # In this order: of two nodes that start with different timing at least one sees the other's.
        await check_agreed(self._store, self._issuer, self._timing)
        self._beat_at, self._beaten = now, served

    # --- evidence ----------------------------------------------------------------------------------

    def _look(self, view: RingView) -> View:
        held = frozenset(key.kid for key in view.ring.keys if key.node == self._node)
        for readback in self._readbacks:
            readback.keep_only(held)
        served: frozenset[Kid] = frozenset()
        prepared = view.ring.held_by(self._node, KeyState.PREPARED)
        if prepared is not None and self._served_generation() >= prepared.since:
            if self._own.has_found(prepared.kid):
                served = frozenset({prepared.kid} if self._is_placed(prepared, view.now) else ())
            elif (missing := self._own.missing(prepared.kid)) is not None:
                self._alarm(EventName.PROOF_FAILED, prepared.kid, reason=missing)
        self._watch = self._watch.read(view.now) if self._watch is not None else Watch(view.now, view.now)
        return View(
            ring=view.ring,
            members=view.members,
            node=self._node,
            now=view.now,
            served=served,
            watched_since=self._watch.since,
            interrupted=self._watch.interrupted,
            clock_off=abs(self._offset) > self._timing.clock_skew,
            leaving=self.leaving.begun,
            kind=self._kind,
            spare=self._wants_spare,
            modes=self._modes,
        )

    def _is_placed(self, key: Key, now: NumericDate) -> bool:
        """Whether every folder and bucket shows the key, or has had the time that publication may take.

        One that is away for longer is an alarm, but must not leave an issuer without any key.
        """
        return self._copies.has_found(key.kid) or now > key.prepared_at + self._timing.propagation

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
        if self._spare is not None and self._spare.kid == kid:
            self._spare = None
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
                self._raise(alarm, kid)
                return False
            case PrepareKey(_):
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
            case ReleaseKeys():
                # The signer counts its leases by a clock that nobody sets, so it would not renew them.
                for held in tuple(self._held):
                    await self._forget(held)
                after = keyring.release(ring, self._node, now=now)
                await self._swap(ring, after, EventName.CLOCK_SET_BACK)
            case ResignKeys():
                after = keyring.resign(ring, self._node)
                await self._swap(ring, after, EventName.NODE_RESIGNED)
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
            kind=self._kind,
        )
        await self._swap(ring, after, EventName.KEY_PREPARED, kid=public.kid)

    async def _generate(self) -> PublicKey:
        """A key pair in the signer. It becomes a key of the ring once the store has taken it."""
        made = await self._signer.generate(
            issuer=self._issuer, alg=self._kind.alg, typs=frozenset({ACCESS_TOKEN_TYP})
        )
        public = made.public
        self._held.add(public.kid)
        return public

    async def _prove(self, kid: Kid, view: RingView) -> bool:
        """Read the key back through every public URL, and see that every live node serves it."""
        key = view.ring.find(kid)
        if key is None:
            return True
        behind = succession.unserved(key, view.members, view.now)
        if behind:
            # What is read while some node may still answer without the key proves nothing.
            self._public.forget(kid)
            missing: str | None = f"{len(behind)} live nodes do not serve the key yet"
        elif self._public.has_found(kid):
            # The lead counts from this view's time, which was read after the proof.
            proven = keyring.prove(view.ring, kid, now=view.now)
            await self._swap(view.ring, proven, EventName.KEY_PROVEN, kid=kid)
            return True
        else:
            missing = self._public.missing(kid)
        # Not everywhere yet is news only once caches have had the time that they may take.
        late = view.now > key.prepared_at + self._timing.jwks_max_age + self._timing.propagation
        if missing is not None and late:
            self._alarm(EventName.PROOF_FAILED, kid, reason=missing)
        return False

    def _check_unproven(self, view: RingView) -> None:
        """Look whether verifiers find a key that had to sign without proof, and alarm while they do not.

        An issuer's URL that is wrong would otherwise come out at the first rotation, hours later.
        """
        key = view.ring.held_by(self._node, KeyState.ACTIVE)
        if key is None or key.activated_at is None or key.proven_at is not None:
            return
        if view.now <= key.activated_at + self._timing.propagation or self._public.has_found(key.kid):
            return
        missing = self._public.missing(key.kid)
        if missing is not None:
            self._alarm(EventName.PROOF_FAILED, key.kid, reason=missing)

    async def _swap(self, before: Ring, after: Ring, name: EventName, **fields: Value) -> bool:
        """Whether ``after`` was taken; a lost swap is no event."""
        if not await self._store.swap(before.generation, after):
            return False
        self._audit.record(name, generation=after.generation, **fields)
        await self._bus.announce()
        return True

    def _raise(self, alarm: AlarmKind, kid: Kid | None) -> None:
        match alarm:
            case AlarmKind.CLOCK_DRIFTED:
                self._alarm(EventName.CLOCK_DRIFTED, kid, offset=self._offset)
            case AlarmKind.NO_SLOT if not self._slotless:
                # Once: it is a state of the cluster, which /readyz goes on to show.
                self._slotless = True
                self._audit.record(EventName.SLOTS_EXHAUSTED, signers=self._timing.signers)
            case AlarmKind.ROTATION_OVERDUE:
                self._alarm(EventName.ROTATION_OVERDUE, kid)
            case AlarmKind.JWKS_LIMIT:
                self._alarm(EventName.JWKS_LIMIT_REACHED, kid)

    def _alarm(self, name: EventName, kid: Kid | None, **fields: Value) -> None:
        now = self._clock.monotonic()
        about = (name, kid or "")
        if now - self._alarms.get(about, float("-inf")) >= _REPEAT_ALARM:
            self._alarms[about] = now
            self._audit.record(name, kid=kid, **fields)
