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
from mintmark.core.jws import Algorithm
from mintmark.core.key import KeyKind, KeyMode
from mintmark.core.keyring import Ring
from mintmark.core.membership import View, Watch
from mintmark.core.succession import (
    ActivateKey,
    AlarmKind,
    DropKey,
    Effect,
    LapseKey,
    PrepareKey,
    ProveKey,
    RaiseAlarm,
    ReleaseKeys,
    RenewLease,
    ResignKeys,
    RetireKey,
    SupersedeKey,
)
from mintmark.core.timing import Timing
from mintmark.errors import SignerUnavailable, Unavailable
from mintmark.ports.bus import Bus
from mintmark.ports.clock import Clock
from mintmark.ports.doorway import Doorway
from mintmark.ports.keyring import KeyRingStore, RingView
from mintmark.ports.proof import PublicReader
from mintmark.ports.signer import SignerControl, SignerRefused
from mintmark.server import document
from mintmark.server.absence import Absence
from mintmark.server.agreement import check_agreed
from mintmark.server.alarm import Alarms
from mintmark.server.audit import Audit
from mintmark.server.custody import Custody
from mintmark.server.evidence import Evidence
from mintmark.server.leaving import Leaving
from mintmark.server.rejection import Rejections
from mintmark.units import Issuer, Kid, NodeId, NumericDate

_BEAT_EVERY: Final = 2.0
"""Seconds between two heartbeats: a fifth of what a live node may be silent."""
_STEPS: Final = 32
"""Effects in one round at the most: a defect must not spin."""


class Rotation:
    """The keys of one node: made, proven, activated, renewed, superseded and forgotten.

    ``served`` gives the ring generation that every worker of this node serves; it goes into the heartbeat,
    so that no node's key is activated before all nodes answer with it. ``own_url`` is the key set at this
    node's own listener, ``proof_urls`` are the public ones, ``places`` the folders and buckets with a copy;
    ``reader`` reads all of them. ``leaving`` is asked whether the node may go.

    ``kind`` is what keys are to sign, where the ring does not say so yet; with ``spare`` a successor waits
    past its lead for as long as a key signs. ``modes`` is what the signer was configured for. ``address`` and
    ``certificate`` are those of this node's cluster listener. ``configured`` is the timing of its settings,
    where that is not what it works by. Through ``doorway`` it finds out that a silent node is dead.
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
        configured: Timing | None = None,
        doorway: Doorway | None = None,
    ) -> None:
        self._issuer = issuer
        self._node = node
        self._kind = kind or KeyKind(KeyMode.OWN, algorithm)
        self._wants_spare = spare
        self._address = address
        self._certificate = certificate
        self._modes = modes
        self._store = store
        self._bus = bus
        self._clock = clock
        self._timing = timing
        self._configured = configured or timing
        self._audit = audit
        self._served_generation = served
        self._alarms = Alarms(clock=clock, audit=audit)
        self._rejections = Rejections(audit)
        self._custody = Custody(
            issuer,
            node=node,
            signer=signer,
            clock=clock,
            timing=timing,
            audit=audit,
            alarms=self._alarms,
            modes=modes,
        )
        self._evidence = Evidence(
            own_url=own_url,
            proof_urls=proof_urls,
            places=places,
            reader=reader,
            clock=clock,
            timing=timing,
            alarms=self._alarms,
            served=served,
            on_found=bus.announce,
        )
        self._absence = Absence(doorway, address=address, clock=clock, on_found=bus.announce)
        self._differed: KeyKind | None = None
        self._watch: Watch | None = None
        self._beat_at = float("-inf")
        self._beaten: tuple[int, frozenset[KeyMode]] | None = None
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
            await self._custody.follow(found)
            view = self._look(found)
            self.is_waiting = not view.signs()
            self._absence.ask(membership.silent(view) if self.is_waiting else ())
            effects = succession.due(view, self._timing)
            self._slotless &= RaiseAlarm(AlarmKind.NO_SLOT) in effects
            if not any(isinstance(effect, PrepareKey) for effect in effects):
                await self._custody.settle(found.ring)
            if not await self._perform_first(effects, found) and not await self._reseal(found.ring):
                self._evidence.check_unproven(found, self._held(found.ring))
                await self._custody.sweep(found)
                self.leaving.saw(view)
                return

    async def _read(self) -> RingView:
        """The ring, and with it by how much this machine's clock is off."""
        before = self._clock.now()
        view = await self._store.read(self._issuer)
        self._offset = membership.offset(before, view.now, self._clock.now())
        self._rejections.note(view)
        return view

    async def answered(self) -> None:
        """Wait until every key set that is being read back has been, and every node that is being asked."""
        await self._evidence.answered()
        await self._absence.answered()

    async def leave(self) -> None:
        """Sign no more and say so: the keys of this node verify only, and its heartbeat is gone."""
        await self._evidence.close()
        await self._absence.close()
        # A signer that is gone has forgotten everything already.
        with contextlib.suppress(SignerUnavailable):
            await self._custody.release()
        for _ in range(16):
            view = await self._store.read(self._issuer)
            released = keyring.release(view.ring, self._node, now=view.now)
            if released is view.ring or await self._store.swap(view.ring.generation, released):
                break
        await self._store.leave(self._issuer, self._node)
        await self._bus.announce()
        self._audit.record(EventName.NODE_LEFT)

    async def _beat(self) -> None:
        """Write the heartbeat when it is due, and at once when it says something new."""
        now, served = self._clock.monotonic(), self._served_generation()
        # Two that are told to leave in one moment must not rely on each other: each says so here, and then
        # reads, before it decides.
        modes = frozenset[KeyMode]() if self.leaving.begun else self._custody.usable()
        if now - self._beat_at < _BEAT_EVERY and (served, modes) == self._beaten:
            return
        await self._store.beat(
            self._issuer,
            self._node,
            ring_generation=served,
            address=self._address,
            certificate=self._certificate,
            modes=modes,
        )
        # In this order: of two nodes that start with different timing at least one sees the other's.
        await check_agreed(self._store, self._issuer, self._configured, node=self._node, working=self._timing)
        self._beat_at, self._beaten = now, (served, modes)

    # --- evidence ----------------------------------------------------------------------------------

    def _look(self, view: RingView) -> View:
        ring, loaded = view.ring, self._custody.loaded(view.ring)
        held = self._held(ring)
        self._say_what_differs(ring)
        self._watch = self._watch.read(view.now) if self._watch is not None else Watch(view.now, view.now)
        return View(
            ring=view.ring,
            members=view.members,
            node=self._node,
            now=view.now,
            served=self._evidence.served(ring, held, view.now),
            watched_since=self._watch.since,
            interrupted=self._watch.interrupted,
            clock_off=abs(self._offset) > self._timing.clock_skew,
            leaving=self.leaving.begun,
            kind=self._kind,
            spare=self._wants_spare,
            modes=self._modes,
            loaded=loaded,
            gone=self._absence.gone(view.members),
        )

    def _held(self, ring: Ring) -> frozenset[Kid]:
        """The keys that this node takes further: its own, and what it holds of the cluster's."""
        own = frozenset(key.kid for key in ring.keys if key.node == self._node and not key.is_of_cluster())
        return own | self._custody.loaded(ring)

    def _say_what_differs(self, ring: Ring) -> None:
        """Once for each kind of key that the ring wants and this node's settings do not."""
        if ring.kind is not None and ring.kind not in (self._kind, self._differed):
            self._audit.record(EventName.KIND_DIFFERS, wanted=str(ring.kind), configured=str(self._kind))
        self._differed = ring.kind

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
            case PrepareKey(kind):
                return await self._prepare(ring, kind, now)
            case ProveKey(kid):
                return await self._prove(kid, view)
            case ActivateKey(kid, activation):
                if not self._custody.holds(kid):
                    raise SignerUnavailable("the signer lost a key that it had prepared")
                after = keyring.activate(ring, kid, activation, timing=self._timing, now=now)
                await self._swap(ring, after, EventName.KEY_ACTIVATED, kid=kid, cause=activation.value)
            case RenewLease(kids):
                after = keyring.renew(ring, kids, timing=self._timing, now=now)
                await self._swap(ring, after, EventName.LEASE_RENEWED)
            case SupersedeKey(kid):
                await self._swap(ring, keyring.supersede(ring, kid), EventName.KEY_SUPERSEDED, kid=kid)
            case DropKey(kid):
                await self._swap(ring, keyring.drop(ring, kid), EventName.KEY_DROPPED, kid=kid)
            case LapseKey(kid):
                await self._swap(ring, keyring.lapse(ring, kid, now=now), EventName.KEY_LAPSED, kid=kid)
            case RetireKey(kid):
                await self._swap(ring, keyring.retire(ring, kid, now=now), EventName.KEY_RETIRED, kid=kid)
            case ReleaseKeys():
                # The signer counts its leases by a clock that nobody sets, so it would not renew them.
                await self._custody.release()
                after = keyring.rewind(ring, self._node, timing=self._timing, now=now)
                await self._swap(ring, after, EventName.CLOCK_SET_BACK)
            case ResignKeys():
                await self._swap(ring, keyring.resign(ring, self._node), EventName.NODE_RESIGNED)
        # Taken or lost, the ring is another one now.
        return True

    async def _prepare(self, ring: Ring, kind: KeyKind, now: NumericDate) -> bool:
        """Offer a new key to the ring; False where the signer would not make one."""
        try:
            made = await self._custody.make(kind, generation=ring.generation)
        except SignerUnavailable as error:
            # What keeps such keys is away or full, which stops nothing else.
            if not isinstance(error, SignerRefused) and kind.mode is not KeyMode.HSM:
                raise
            self._alarms.sound(EventName.KEY_UNLOADABLE, kind=str(kind), reason=str(error))
            return False
        after = keyring.prepare(
            ring,
            kid=made.public.kid,
            node=self._node,
            alg=kind.alg.value,
            jwk=document.encode(made.public.jwk),
            timing=self._timing,
            now=now,
            mode=kind.mode,
            sealed=made.sealed,
            kind=kind,
        )
        await self._swap(ring, after, EventName.KEY_PREPARED, kid=made.public.kid)
        return True

    async def _reseal(self, ring: Ring) -> bool:
        """Keep a shared key under the first key-encryption key; whether that changed the ring."""
        found = await self._custody.resealed(ring)
        if found is None:
            return False
        kid, sealed = found
        return await self._swap(ring, keyring.reseal(ring, kid, sealed), EventName.KEY_RESEALED, kid=kid)

    async def _prove(self, kid: Kid, view: RingView) -> bool:
        key = view.ring.find(kid)
        if key is None or not self._evidence.proves(key, view):
            return False
        # The lead counts from this view's time, which was read after the proof.
        proven = keyring.prove(view.ring, kid, now=view.now)
        await self._swap(view.ring, proven, EventName.KEY_PROVEN, kid=kid)
        return True

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
                self._alarms.sound(EventName.CLOCK_DRIFTED, kid, offset=self._offset)
            case AlarmKind.NO_SLOT if not self._slotless:
                # Once: it is a state of the cluster, which /readyz goes on to show.
                self._slotless = True
                self._audit.record(EventName.SLOTS_EXHAUSTED, signers=self._timing.signers)
            case AlarmKind.ROTATION_OVERDUE:
                self._alarms.sound(EventName.ROTATION_OVERDUE, kid)
            case AlarmKind.JWKS_LIMIT:
                self._alarms.sound(EventName.JWKS_LIMIT_REACHED, kid)
            case AlarmKind.NO_CUSTODY:
                self._alarms.sound(
                    EventName.KEY_UNLOADABLE,
                    kid,
                    reason="this node is not set up for the keys that are wanted",
                )
