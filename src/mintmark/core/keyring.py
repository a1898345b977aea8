"""The key ring: every key of one issuer, the states they pass through, and what is due next.

One table, :data:`TRANSITIONS`, says which state follows which. :func:`due` looks at a ring, at the nodes
and at the time, and lists what a node must do; it does nothing itself. The effects that change the ring
are plain functions from a ring to a ring, and the store takes the result by compare-and-swap on the
ring's generation, so that of two nodes that act on the same ring one acts again on the new one.

All times are the store's. The arithmetic is in :mod:`mintmark.core.timing`; the rules it keeps:

- K1 no key signs before it has been readable for the lead, except a bootstrap or an emergency;
- K2 a key stays readable until every token that it signed has expired, plus leeway and skew;
- K3 no token's ``exp`` is later than what its key's ``publish_until`` covers;
- K6 the number of keys is bounded, but no bound ever prevents a bootstrap;
- K7 a revoked key is out of the set at once and signs nowhere once its lease has ended.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.timing import Timing
from mintmark.units import Issuer, Kid, NodeId, NumericDate, Seconds

MAX_STALE: Final = Seconds(86_400)
"""The longest that a verifier goes on with the keys it has while it cannot fetch any (``max_stale``)."""
REVOCATION_KEPT: Final = Seconds(7 * 86_400)

LIVE_FOR: Final = Seconds(10)
"""A node is live while its heartbeat is younger than this, by the store's clock."""


HEARD_WITHIN: Final = Seconds(6)
"""Three heartbeats: whoever lives while the store answers has been heard from by then."""


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
    """Its node signs with another key now."""
    LAPSED = "lapsed"
    """Its lease ended without renewal: its node is gone, or was paused."""
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
    """A target, not a limit: past it the key signs on and an alarm sounds."""
    publish_until: NumericDate = NumericDate(0)
    """Only ever raised. Readers use it as it is and never compute it again."""
    revoked_at: NumericDate | None = None
    reason: str | None = None

    def is_published(self) -> bool:
        """Whether the JWKS holds this key."""
        return self.state in PUBLISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """Every key of one issuer as of one generation; ``keys`` are in the order of ``prepared_at``."""

    issuer: Issuer
    generation: int = 0
    keys: tuple[Key, ...] = ()
    rotate_requested_at: NumericDate | None = None
    """An operator asked at this time for new keys: active keys that are older are due."""

    def find(self, kid: Kid) -> Key | None:
        """The key under ``kid``, whatever its state."""
        return next((key for key in self.keys if key.kid == kid), None)

    def published(self) -> tuple[Key, ...]:
        """The keys of the JWKS."""
        return tuple(key for key in self.keys if key.is_published())

    def held_by(self, node: NodeId, state: KeyState) -> Key | None:
        """The newest key of ``node`` in ``state``."""
        return next((key for key in reversed(self.keys) if key.node == node and key.state is state), None)


@dataclass(frozen=True, slots=True)
class Member:
    """A node's heartbeat row: when it was last seen, and the ring generation that it serves."""

    node: NodeId
    seen_at: NumericDate
    ring_generation: int

    def is_live(self, now: NumericDate) -> bool:
        """Whether the heartbeat is young enough; a lease is permission to sign, not a sign of life.

        One from the future is none: the store's clock was set back, and who lives has beaten since.
        """
        return abs(now - self.seen_at) < LIVE_FOR


@dataclass(frozen=True, slots=True)
class Watch:
    """Since when a node has read the store without a gap; a first read at ``now`` is ``Watch(now, now)``.

    While the store is away nobody can write a heartbeat or a lease. Who reads first when it is back would
    take every other node for dead: silence counts only where somebody would have been heard.
    """

    since: NumericDate
    last: NumericDate

    def read(self, now: NumericDate) -> "Watch":
        """The watch after another read; it begins anew after a gap, or when the clock was set back."""
        return Watch(self.since if 0 <= now - self.last < LIVE_FOR // 2 else now, now)


class InvalidTransition(ValueError):
    """The table has no such transition: a defect of ours, or a ring that changed meanwhile."""


# --- what is due -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PrepareKey:
    """Make a key pair in the signer and publish its public half."""


@dataclass(frozen=True, slots=True)
class ProveKey:
    """Read the key back the way verifiers do, and see that every live node serves it."""

    kid: Kid


@dataclass(frozen=True, slots=True)
class ActivateKey:
    """Let the key sign; the node's former key verifies only from then on."""

    kid: Kid
    activation: Activation


@dataclass(frozen=True, slots=True)
class RenewLease:
    """Renew the permission to sign, and with it the time for which the key stays published."""

    kids: tuple[Kid, ...]


@dataclass(frozen=True, slots=True)
class LapseKey:
    """Take note that nobody renewed this key's lease."""

    kid: Kid


@dataclass(frozen=True, slots=True)
class RetireKey:
    """Forget a key under which nothing valid is left."""

    kid: Kid


class AlarmKind(StrEnum):
    """What an operator should know about a ring."""

    ROTATION_OVERDUE = "rotation_overdue"
    JWKS_LIMIT = "jwks_limit"


@dataclass(frozen=True, slots=True)
class RaiseAlarm:
    """Tell the operator; ``kid`` where one key is meant."""

    alarm: AlarmKind
    kid: Kid | None = None


Effect = PrepareKey | ProveKey | ActivateKey | RenewLease | LapseKey | RetireKey | RaiseAlarm


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a node knows when it decides: the ring, all heartbeat rows, itself, and the store's time."""

    ring: Ring
    members: tuple[Member, ...]
    node: NodeId
    now: NumericDate
    served: frozenset[Kid] = frozenset()
    """The keys that this node has seen in the answers of its own listener."""
    watched_since: NumericDate = NumericDate(0)
    """When this node's :class:`Watch` began; as it stands, long ago. No node is taken for dead sooner than
    it has been watched for HEARD_WITHIN."""


def due(view: View, timing: Timing) -> tuple[Effect, ...]:
    """What ``view.node`` must do at ``view.now``, most urgent first; does nothing itself.

    Leases come first (they are permission to sign), then succession, then what time has made
    superfluous. Perform the first effects, then read the ring again: each is decided on the ring as it is.
    """
    return (*_renewals(view, timing), *_succession(view, timing), *_decay(view))


def _renewals(view: View, timing: Timing) -> Iterable[Effect]:
    """A lease is renewed at a third of its life, so that two attempts may fail before it ends."""
    own = tuple(
        key.kid
        for key in view.ring.keys
        if key.node == view.node and key.state in (KeyState.PREPARED, KeyState.ACTIVE)
    )
    oldest = min((key.lease_until for key in view.ring.keys if key.kid in own), default=None)
    if oldest is not None and view.now >= oldest - timing.lease * 2 // 3:
        yield RenewLease(own)


def _succession(view: View, timing: Timing) -> Iterable[Effect]:
    ring, now = view.ring, view.now
    active = ring.held_by(view.node, KeyState.ACTIVE)
    prepared = ring.held_by(view.node, KeyState.PREPARED)
    crowded = len(ring.published()) > timing.jwks_limit

    if prepared is None:
        if active is None or _wants_successor(active, ring, timing, now):
            if has_room(ring, view.node, timing) or _must_begin(view, timing):
                yield PrepareKey()
            else:
                crowded |= _has_slot(ring, view.node, timing)
    elif prepared.proven_at is not None and now >= prepared.proven_at + timing.lead:
        yield ActivateKey(prepared.kid, Activation.PROVEN)
    elif not _someone_signs(view, timing):
        if prepared.kid in view.served:
            yield ActivateKey(prepared.kid, _unproven_cause(ring, view.node))
    elif prepared.proven_at is None:
        yield ProveKey(prepared.kid)

    if active is not None and active.sign_until is not None and now >= active.sign_until:
        yield RaiseAlarm(AlarmKind.ROTATION_OVERDUE, active.kid)
    if crowded:
        yield RaiseAlarm(AlarmKind.JWKS_LIMIT)


def _wants_successor(active: Key, ring: Ring, timing: Timing, now: NumericDate) -> bool:
    asked = ring.rotate_requested_at
    if asked is not None and active.activated_at is not None and active.activated_at <= asked:
        return True
    return active.sign_until is not None and now >= prepare_at(active, timing)


def prepare_at(active: Key, timing: Timing) -> NumericDate:
    """When the successor of ``active`` is due: a lead and a max-age before it should stop signing.

    The ``kid`` spreads nodes that started together over a tenth of the time between, always earlier,
    so that a fleet does not rotate in the same second.
    """
    latest = (active.sign_until or NumericDate(0)) - timing.prepare_before
    span = timing.rotate_every - timing.prepare_before
    spread = sum(active.kid.encode()) * 7919 % 1000
    return NumericDate(latest - span * spread // 10_000)


def _live(view: View) -> frozenset[NodeId]:
    """The nodes that are alive, this one with or without a heartbeat."""
    return frozenset({m.node for m in view.members if m.is_live(view.now)} | {view.node})


def _has_watched(view: View) -> bool:
    """Whether this node has read the store for long enough to call a silent node dead."""
    return view.now >= view.watched_since + HEARD_WITHIN


def _someone_signs(view: View, timing: Timing) -> bool:
    """Whether a live node holds an active key, or a node that might be live one with a running lease."""
    live = _live(view)
    return any(
        key.node in live
        or _was_leased_just_now(key, view, timing)
        or (view.now < key.lease_until and not _has_watched(view))
        for key in view.ring.keys
        if key.state is KeyState.ACTIVE
    )


def _must_begin(view: View, timing: Timing) -> bool:
    """Whether this node goes beyond the bounds of the set, because no key at all is an outage (K6).

    One node at a time does: of fifty that start on an empty store the others wait for the one whose key
    is in the set, and only should it not have come to sign within a lease does the next one begin.
    """
    others = _live(view) - {view.node}
    someone_begins = any(
        key.state is KeyState.PREPARED and key.node in others and view.now < key.prepared_at + timing.lease
        for key in view.ring.keys
    )
    return not someone_begins and not _someone_signs(view, timing)


def _was_leased_just_now(key: Key, view: View, timing: Timing) -> bool:
    """Whether its node wrote the lease so lately that it counts as alive, with or without a heartbeat.

    Else the loser of a bootstrap, reading before the winner's first heartbeat, would bootstrap too (K1).
    """
    return abs(view.now - (key.lease_until - timing.lease)) < LIVE_FOR


def unserved(key: Key, members: Iterable[Member], now: NumericDate) -> tuple[NodeId, ...]:
    """The live nodes whose heartbeat reports an older ring than that of ``key``: they may answer 404."""
    return tuple(m.node for m in members if m.is_live(now) and m.ring_generation < key.since)


def _unproven_cause(ring: Ring, node: NodeId) -> Activation:
    """An emergency where a key of this very node was revoked while it signed, else a bootstrap."""
    revoked = (key for key in ring.keys if key.state is KeyState.REVOKED and key.node == node)
    return Activation.EMERGENCY if any(key.activated_at for key in revoked) else Activation.BOOTSTRAP


def has_room(ring: Ring, node: NodeId, timing: Timing) -> bool:
    """Whether ``node`` may add a key (K6): it has a slot or one is free, and the set is not full."""
    return _has_slot(ring, node, timing) and len(ring.published()) < timing.jwks_limit


def _has_slot(ring: Ring, node: NodeId, timing: Timing) -> bool:
    """Whether ``node`` may sign with keys of its own; one that may not mints through a peer."""
    signers = {key.node for key in ring.keys if key.state in (KeyState.PREPARED, KeyState.ACTIVE)}
    return node in signers or len(signers) < timing.signers


def _decay(view: View) -> Iterable[Effect]:
    for key in view.ring.keys:
        match key.state:
            # A node renews its own lease however late: the key is still public, so nothing is lost.
            case KeyState.PREPARED | KeyState.ACTIVE:
                if key.node != view.node and view.now >= key.lease_until and _has_watched(view):
                    yield LapseKey(key.kid)
            case KeyState.PASSIVE | KeyState.REVOKED:
                if view.now >= key.publish_until:
                    yield RetireKey(key.kid)


# --- from ring to ring ---------------------------------------------------------------------------


def step(key: Key, event: KeyEvent) -> KeyState:
    """The state that follows; raises InvalidTransition where the table has none."""
    try:
        return TRANSITIONS[key.state, event]
    except KeyError:
        raise InvalidTransition(f"a {key.state} key cannot be {event}") from None


def prepare(
    ring: Ring, *, kid: Kid, node: NodeId, alg: str, jwk: bytes, timing: Timing, now: NumericDate
) -> Ring:
    """The ring with a new prepared key; a ``kid`` that it has already is the same key, so a defect."""
    if ring.find(kid) is not None:
        raise InvalidTransition("this key is in the ring already")
    key = Key(
        kid=kid,
        node=node,
        alg=alg,
        jwk=jwk,
        state=KeyState.PREPARED,
        since=ring.generation + 1,
        prepared_at=now,
        lease_until=NumericDate(now + timing.lease),
    )
    return replace(ring, generation=ring.generation + 1, keys=(*ring.keys, key))


def prove(ring: Ring, kid: Kid, *, now: NumericDate) -> Ring:
    """The ring in which the lead of ``kid`` starts to count."""
    key = _require(ring, kid)
    if key.state is not KeyState.PREPARED:
        raise InvalidTransition(f"a {key.state} key needs no proof")
    return _with(ring, replace(key, proven_at=key.proven_at or now))


def activate(ring: Ring, kid: Kid, activation: Activation, *, timing: Timing, now: NumericDate) -> Ring:
    """The ring in which ``kid`` signs, and its node's former key does not.

    Raises InvalidTransition where the key is not prepared or, for a proven activation, not readable
    for the lead yet (K1).
    """
    key = _require(ring, kid)
    if activation is Activation.PROVEN and (key.proven_at is None or now < key.proven_at + timing.lead):
        raise InvalidTransition("the key has not been readable for the lead yet (K1)")
    lease_until = NumericDate(now + timing.lease)
    activated = replace(
        key,
        state=step(key, KeyEvent.ACTIVATED),
        activated_at=now,
        activation=activation,
        sign_until=NumericDate(now + timing.rotate_every),
        lease_until=lease_until,
        publish_until=max(key.publish_until, timing.covered_until(lease_until)),
    )
    former = tuple(
        replace(old, state=step(old, KeyEvent.SUPERSEDED))
        for old in ring.keys
        if old.node == key.node and old.state is KeyState.ACTIVE
    )
    return _with(ring, activated, *former)


def renew(ring: Ring, kids: Iterable[Kid], *, timing: Timing, now: NumericDate) -> Ring:
    """The ring with the leases of ``kids`` renewed; ``publish_until`` of an active key rises with it.

    A key that is no longer prepared or active keeps what it had: its lease cannot be renewed.
    """
    lease_until = NumericDate(now + timing.lease)
    renewed = []
    for kid in kids:
        key = ring.find(kid)
        if key is None or key.state not in (KeyState.PREPARED, KeyState.ACTIVE):
            continue
        until = max(key.lease_until, lease_until)
        covered = timing.covered_until(until) if key.state is KeyState.ACTIVE else key.publish_until
        renewed.append(replace(key, lease_until=until, publish_until=max(key.publish_until, covered)))
    return _with(ring, *renewed) if renewed else ring


def lapse(ring: Ring, kid: Kid, *, now: NumericDate) -> Ring:
    """The ring after the lease of ``kid`` ended: it verifies only, or leaves where it never signed."""
    key = _require(ring, kid)
    if now < key.lease_until:
        raise InvalidTransition("the lease has not ended")
    return _moved(ring, key, KeyEvent.LAPSED)


def retire(ring: Ring, kid: Kid, *, now: NumericDate) -> Ring:
    """The ring without ``kid``; raises InvalidTransition while it may still be needed (K2)."""
    key = _require(ring, kid)
    if now < key.publish_until:
        raise InvalidTransition("tokens of this key may still be valid (K2)")
    return _moved(ring, key, KeyEvent.EXPIRED)


def revoke(
    ring: Ring, kid: Kid, *, reason: str, timing: Timing, now: NumericDate
) -> tuple[Ring, RevocationEvent]:
    """The ring in which ``kid`` is withdrawn, and the event that denies its tokens (design 3.8).

    The row and the event stay for as long as a verifier may still hold the key, and at least for seven
    days: whoever stole a key writes the ``exp`` of his tokens himself.
    """
    key = _require(ring, kid)
    state = step(key, KeyEvent.REVOKED)
    kept = max(max(MAX_STALE, key.publish_until - now) + timing.verifier_cache, REVOCATION_KEPT)
    until = max(key.publish_until, NumericDate(now + kept))
    withdrawn = replace(key, state=state, revoked_at=now, reason=reason, publish_until=until)
    return _with(ring, withdrawn), RevocationEvent(kind=Kind.KID, value=kid, expires_at=until)


def release(ring: Ring, node: NodeId, *, now: NumericDate) -> Ring:
    """The ring after ``node`` gave up signing: its leases end now. The same ring where it held none.

    Call it only when its signer has forgotten the keys.
    """
    given_up = tuple(
        replace(key, state=step(key, KeyEvent.LAPSED), lease_until=min(key.lease_until, now))
        for key in ring.keys
        if key.node == node and key.state in (KeyState.PREPARED, KeyState.ACTIVE)
    )
    return _with(ring, *given_up) if given_up else ring


def request_rotation(ring: Ring, *, now: NumericDate) -> Ring:
    """The ring in which every key that is active now has a successor due."""
    return replace(ring, generation=ring.generation + 1, rotate_requested_at=now)


def _require(ring: Ring, kid: Kid) -> Key:
    key = ring.find(kid)
    if key is None:
        raise InvalidTransition("no such key in the ring")
    return key


def _moved(ring: Ring, key: Key, event: KeyEvent) -> Ring:
    return _with(ring, replace(key, state=step(key, event)))


def _with(ring: Ring, *changed: Key) -> Ring:
    """The next generation, with ``changed`` in place of the keys they came from; retired keys leave."""
    new = {key.kid: key for key in changed}
    keys = (new.get(key.kid, key) for key in ring.keys)
    kept = tuple(key for key in keys if key.state is not KeyState.RETIRED)
    return replace(ring, generation=ring.generation + 1, keys=kept)
