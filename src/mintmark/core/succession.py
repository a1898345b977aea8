"""What is due: how keys follow one another on a node, and what time makes superfluous.

:func:`due` looks at what a node knows and lists what it must do; it does nothing itself. Whoever performs
an effect applies the function of :mod:`mintmark.core.keyring` that belongs to it, and has the store take the
result by compare-and-swap.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from mintmark.core.key import SIGNING, Activation, Key, KeyKind, KeyMode, KeyState
from mintmark.core.keyring import Member, Ring
from mintmark.core.membership import (
    View,
    all_have_keys,
    has_room,
    has_slot,
    has_watched,
    is_ahead,
    is_full,
    is_held,
    live_nodes,
    someone_signs,
    staying_nodes,
    wanted,
    was_set_back,
)
from mintmark.core.timing import Timing
from mintmark.units import Kid, NodeId, NumericDate


@dataclass(frozen=True, slots=True)
class PrepareKey:
    """Make a key pair in the signer and publish its public half."""

    kind: KeyKind


@dataclass(frozen=True, slots=True)
class ProveKey:
    """Read the key back the way verifiers do, and see that every live node serves it."""

    kid: Kid


@dataclass(frozen=True, slots=True)
class ActivateKey:
    """Let the key sign; what it takes the place of verifies only from then on."""

    kid: Kid
    activation: Activation


@dataclass(frozen=True, slots=True)
class RenewLease:
    """Renew the permission to sign, and with it the time for which the key stays published."""

    kids: tuple[Kid, ...]


@dataclass(frozen=True, slots=True)
class SupersedeKey:
    """Let the key verify only: since a switch of the mode, others sign in its place."""

    kid: Kid


@dataclass(frozen=True, slots=True)
class DropKey:
    """Take out a prepared key that will not sign: another kind is wanted by now, or its node is gone."""

    kid: Kid


@dataclass(frozen=True, slots=True)
class LapseKey:
    """Take note that nobody renewed this key's lease."""

    kid: Kid


@dataclass(frozen=True, slots=True)
class RetireKey:
    """Forget a key under which nothing valid is left."""

    kid: Kid


@dataclass(frozen=True, slots=True)
class ResignKeys:
    """Tell the others that this node is leaving, before any of them counts on it."""


@dataclass(frozen=True, slots=True)
class ReleaseKeys:
    """Give up what this node holds and begin anew: the store's clock was set back below its leases."""


class AlarmKind(StrEnum):
    """What an operator should know about a ring."""

    ROTATION_OVERDUE = "rotation_overdue"
    JWKS_LIMIT = "jwks_limit"
    NO_SLOT = "no_slot"
    """As many other nodes sign as may: this one will not, until one of them is gone."""
    NO_CUSTODY = "no_custody"
    """The signer of this node was not configured for the keys that are wanted."""
    CLOCK_DRIFTED = "clock_drifted"
    """This machine's clock is further from the store's than ``clock_skew``."""


@dataclass(frozen=True, slots=True)
class RaiseAlarm:
    """Tell the operator; ``kid`` where one key is meant."""

    alarm: AlarmKind
    kid: Kid | None = None


Effect = (
    PrepareKey
    | ProveKey
    | ActivateKey
    | RenewLease
    | SupersedeKey
    | DropKey
    | LapseKey
    | RetireKey
    | ResignKeys
    | ReleaseKeys
    | RaiseAlarm
)


def due(view: View, timing: Timing) -> tuple[Effect, ...]:
    """What ``view.node`` must do at ``view.now``, most urgent first; does nothing itself.

    Leases come first (they are permission to sign), then succession, then what time has made
    superfluous. Perform the first effects, then read the ring again: each is decided on the ring as it is.

    A node whose clock is off mints nothing, so it takes no key further either: it would win a bootstrap,
    sign nothing and hold up the others. Its leases end, and with them its claim to be a signer. Nor does it
    end any key: where all nodes are off it is the store's clock that moved, and by that one nothing has
    expired. One that is leaving keeps its active key alive and takes no other.
    """
    if view.clock_off:
        return (RaiseAlarm(AlarmKind.CLOCK_DRIFTED),)
    if was_set_back(view, timing):
        return (ReleaseKeys(),)
    if view.leaving:
        return (*_resignation(view), *_renewals(view, timing), *_decay(view))
    return (*_renewals(view, timing), *_succession(view, timing), *_decay(view))


def _resignation(view: View) -> Iterable[Effect]:
    """Said before anything else, and only where somebody is there to hear it."""
    own = (key for key in view.ring.keys if key.node == view.node and not key.is_of_cluster())
    unsaid = any(
        key.state is KeyState.PREPARED or (key.state is KeyState.ACTIVE and not key.is_resigned())
        for key in own
    )
    if unsaid and staying_nodes(view):
        yield ResignKeys()


def _renewals(view: View, timing: Timing) -> Iterable[Effect]:
    """A lease is renewed at a third of its life, so that two attempts may fail before it ends.

    A node that has not read the store for a while renews its own at once: it may have been taken for dead,
    and what others have decided since, on a ring that did not show its return, is not taken then. A key of
    the cluster is renewed by whichever node that holds it comes first, however late: it died with nobody.
    """
    held = [key for key in view.ring.keys if key.state in SIGNING and view.holds(key)]
    is_back = NumericDate(view.watched_since + timing.lease)
    if any(
        view.now >= key.lease_until - timing.lease * 2 // 3
        or (not key.is_of_cluster() and key.lease_until < is_back)
        for key in held
    ):
        yield RenewLease(tuple(key.kid for key in held))


def _succession(view: View, timing: Timing) -> Iterable[Effect]:
    ring, now, kind = view.ring, view.now, wanted(view)
    own, clusters = ring.held_by(view.node, KeyState.ACTIVE), ring.held_by_cluster(KeyState.ACTIVE)
    unwanted = tuple(_unwanted(view, kind, timing))
    yield from unwanted
    if not any(isinstance(effect, DropKey) for effect in unwanted):
        if kind.mode is KeyMode.OWN:
            yield from _line(view, timing, own, ring.held_by(view.node, KeyState.PREPARED))
        else:
            yield from _line(view, timing, clusters, ring.held_by_cluster(KeyState.PREPARED))
    for key in (own, clusters):
        if key is not None and view.holds(key) and key.is_overdue(now):
            yield RaiseAlarm(AlarmKind.ROTATION_OVERDUE, key.kid)
    if len(ring.published()) > timing.jwks_limit:
        yield RaiseAlarm(AlarmKind.JWKS_LIMIT)


def _line(view: View, timing: Timing, active: Key | None, prepared: Key | None) -> Iterable[Effect]:
    """What one line of succession needs: this node's own, or the cluster's."""
    ring, now, kind = view.ring, view.now, wanted(view)
    if prepared is None:
        if active is None or _wants_successor(active, ring, kind, timing, now):
            yield from _preparation(view, timing, active)
        elif view.spare and _may_make(view, active) and _has_room(view, timing):
            yield PrepareKey(kind)
    elif not view.holds(prepared):
        # Whoever of the cluster has it takes it further.
        return
    elif prepared.proven_at is not None and now >= prepared.proven_at + timing.lead:
        if (active is None or _must_go(active, ring, kind, timing, now)) and _leaves_nobody(prepared, view):
            yield ActivateKey(prepared.kid, Activation.PROVEN)
    elif not someone_signs(view, timing):
        if prepared.kid in view.served:
            yield ActivateKey(prepared.kid, _unproven_cause(ring, prepared))
    elif prepared.proven_at is None:
        yield ProveKey(prepared.kid)


def _leaves_nobody(prepared: Key, view: View) -> bool:
    """Whether every node that lives and stays can go on with ``prepared``, or loses nothing by it.

    The cluster's first key takes the place of every node's own. A node that cannot open it would sign nothing
    from then on, and when those that can are gone nobody would. It says so in its heartbeat and sounds the
    alarm; until that is mended the nodes' own keys go on.
    """
    live = live_nodes(view)
    if not prepared.is_of_cluster() or not any(
        key.state is KeyState.ACTIVE and not key.is_of_cluster() and key.node in live
        for key in view.ring.keys
    ):
        return True
    others = (m for m in view.members if m.node in live - {view.node} and not m.is_leaving())
    return all(prepared.mode in member.modes for member in others)


def _preparation(view: View, timing: Timing, active: Key | None) -> Iterable[Effect]:
    kind = wanted(view)
    if kind.mode not in view.modes:
        yield RaiseAlarm(AlarmKind.NO_CUSTODY)
    elif not _may_make(view, active):
        return
    elif _has_room(view, timing) or _must_begin(view, timing):
        yield PrepareKey(kind)
    elif kind.mode is KeyMode.OWN and not has_slot(view.ring, view.node, timing):
        yield RaiseAlarm(AlarmKind.NO_SLOT)
    elif len(view.ring.published()) == timing.jwks_limit:
        yield RaiseAlarm(AlarmKind.JWKS_LIMIT)


def _may_make(view: View, active: Key | None) -> bool:
    """Whether others will be able to use what this node makes, as far as it knows.

    Who cannot open the key that the cluster signs with seals under another secret, or has another token.
    """
    kind = wanted(view)
    return kind.mode in view.modes and (active is None or active.mode is not kind.mode or view.holds(active))


def _has_room(view: View, timing: Timing) -> bool:
    if wanted(view).mode is KeyMode.OWN:
        return has_room(view.ring, view.node, timing)
    return not is_full(view.ring, timing)


def _unwanted(view: View, kind: KeyKind, timing: Timing) -> Iterable[Effect]:
    """What a switch of the kind makes superfluous; a prepared key has signed nothing, so it goes at once.

    A key that signs goes when those that are to take its place do: with the activation of the cluster's first
    key, or here. After a switch and back, keys of a node's own may still sign beside the cluster's.
    """
    ring = view.ring
    for key in ring.keys:
        is_mine = key.is_of_cluster() or key.node == view.node
        if is_mine and key.state is KeyState.PREPARED and key.kind() not in (kind, None):
            yield DropKey(key.kid)
    clusters = ring.held_by_cluster(KeyState.ACTIVE)
    if clusters is None:
        return
    if kind.mode is KeyMode.OWN:
        if all_have_keys(view, timing):
            yield SupersedeKey(clusters.kid)
    elif (own := ring.held_by(view.node, KeyState.ACTIVE)) is not None and clusters.mode is kind.mode:
        yield SupersedeKey(own.kid)


def _wants_successor(active: Key, ring: Ring, kind: KeyKind, timing: Timing, now: NumericDate) -> bool:
    return _is_asked_for(active, ring, kind) or now >= prepare_at(active, timing)


def _must_go(active: Key, ring: Ring, kind: KeyKind, timing: Timing, now: NumericDate) -> bool:
    """Whether a successor that may sign does so now.

    One that was prepared when it was due is never early. A spare waits until that time; were it a matter of
    each node's settings, one without a spare would activate those of another for ever.
    """
    return _is_asked_for(active, ring, kind) or now >= prepare_at(active, timing) + timing.lead


def _is_asked_for(active: Key, ring: Ring, kind: KeyKind) -> bool:
    """Whether somebody wants another key, whatever the time: by a rotation, or by a switch."""
    asked = ring.rotate_requested_at
    if asked is not None and active.activated_at is not None and active.activated_at <= asked:
        return True
    return active.kind() not in (kind, None)


def prepare_at(active: Key, timing: Timing) -> NumericDate:
    """When the successor of ``active`` is due: a lead and a max-age before it should stop signing.

    The ``kid`` spreads nodes that started together over a tenth of the time between, always earlier,
    so that a fleet does not rotate in the same second.
    """
    latest = (active.sign_until or NumericDate(0)) - timing.prepare_before
    span = timing.rotate_every - timing.prepare_before
    spread = sum(active.kid.encode()) * 7919 % 1000
    return NumericDate(latest - span * spread // 10_000)


def _must_begin(view: View, timing: Timing) -> bool:
    """Whether this node goes beyond the bounds of the set, because no key at all is an outage (K6).

    One node at a time does: of fifty that start on an empty store the others wait for the one whose key
    is in the set, and only should it not have come to sign within a lease does the next one begin.
    """
    others = live_nodes(view) - {view.node}
    someone_begins = any(
        key.state is KeyState.PREPARED and key.node in others and view.now < key.prepared_at + timing.lease
        for key in view.ring.keys
        if not is_ahead(key, view, timing)
    )
    return not someone_begins and not someone_signs(view, timing)


def unserved(key: Key, members: Iterable[Member], now: NumericDate) -> tuple[NodeId, ...]:
    """The live nodes whose heartbeat reports an older ring than that of ``key``: they may answer 404."""
    return tuple(m.node for m in members if m.is_live(now) and m.ring_generation < key.since)


def _unproven_cause(ring: Ring, prepared: Key) -> Activation:
    """An emergency where the last key of this line to sign was revoked while it did, else a bootstrap."""
    line = [
        key
        for key in ring.keys
        if key.activated_at is not None
        and key.is_of_cluster() is prepared.is_of_cluster()
        and (key.is_of_cluster() or key.node == prepared.node)
    ]
    last = max((key.activated_at or 0 for key in line if key.state is not KeyState.REVOKED), default=0)
    revoked = (key for key in line if key.state is KeyState.REVOKED)
    emergency = any((key.revoked_at or 0) >= last for key in revoked)
    return Activation.EMERGENCY if emergency else Activation.BOOTSTRAP


def _decay(view: View) -> Iterable[Effect]:
    for key in view.ring.keys:
        is_gone = key.node in view.gone and not key.is_of_cluster()
        match key.state:
            case KeyState.PREPARED if is_gone:
                yield DropKey(key.kid)
            case KeyState.ACTIVE if is_gone and view.now >= key.lease_until:
                yield LapseKey(key.kid)
            # A node renews its own lease however late: the key is still public, so nothing is lost.
            case KeyState.PREPARED | KeyState.ACTIVE:
                if view.now >= key.lease_until and has_watched(view) and _has_died(key, view):
                    yield LapseKey(key.kid)
            case KeyState.PASSIVE | KeyState.REVOKED:
                if view.now >= key.publish_until and not key.held:
                    yield RetireKey(key.kid)


def _has_died(key: Key, view: View) -> bool:
    """Whether nobody will renew the lease of ``key`` that has ended.

    An active key of the cluster lives on without any node, as long as such keys are wanted: whoever is there
    first after a power cut signs with it.
    """
    if not key.is_of_cluster() or key.state is KeyState.PREPARED:
        return not view.holds(key)
    return wanted(view).mode is KeyMode.OWN and not is_held(key, view)
