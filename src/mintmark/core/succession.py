"""What is due: how keys follow one another on a node, and what time makes superfluous.

:func:`due` looks at what a node knows and lists what it must do; it does nothing itself. Whoever performs
an effect applies the function of :mod:`mintmark.core.keyring` that belongs to it, and has the store take the
result by compare-and-swap.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from mintmark.core.key import Activation, Key, KeyState
from mintmark.core.keyring import Member, Ring
from mintmark.core.membership import View, has_watched, live_nodes, someone_signs, staying_nodes, was_set_back
from mintmark.core.timing import Timing
from mintmark.units import Kid, NodeId, NumericDate


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
    own = (key for key in view.ring.keys if key.node == view.node)
    unsaid = any(
        key.state is KeyState.PREPARED or (key.state is KeyState.ACTIVE and not key.is_resigned())
        for key in own
    )
    if unsaid and staying_nodes(view):
        yield ResignKeys()


def _renewals(view: View, timing: Timing) -> Iterable[Effect]:
    """A lease is renewed at a third of its life, so that two attempts may fail before it ends.

    A node that has not read the store for a while renews at once: it may have been taken for dead, and what
    others have decided since, on a ring that did not show its return, is not taken then.
    """
    own = tuple(
        key.kid
        for key in view.ring.keys
        if key.node == view.node and key.state in (KeyState.PREPARED, KeyState.ACTIVE)
    )
    oldest = min((key.lease_until for key in view.ring.keys if key.kid in own), default=None)
    if oldest is None:
        return
    if view.now >= oldest - timing.lease * 2 // 3 or oldest < view.watched_since + timing.lease:
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
            elif has_slot(ring, view.node, timing):
                crowded = True
            else:
                yield RaiseAlarm(AlarmKind.NO_SLOT)
    elif prepared.proven_at is not None and now >= prepared.proven_at + timing.lead:
        yield ActivateKey(prepared.kid, Activation.PROVEN)
    elif not someone_signs(view, timing):
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


def _must_begin(view: View, timing: Timing) -> bool:
    """Whether this node goes beyond the bounds of the set, because no key at all is an outage (K6).

    One node at a time does: of fifty that start on an empty store the others wait for the one whose key
    is in the set, and only should it not have come to sign within a lease does the next one begin.
    """
    others = live_nodes(view) - {view.node}
    someone_begins = any(
        key.state is KeyState.PREPARED and key.node in others and view.now < key.prepared_at + timing.lease
        for key in view.ring.keys
    )
    return not someone_begins and not someone_signs(view, timing)


def unserved(key: Key, members: Iterable[Member], now: NumericDate) -> tuple[NodeId, ...]:
    """The live nodes whose heartbeat reports an older ring than that of ``key``: they may answer 404."""
    return tuple(m.node for m in members if m.is_live(now) and m.ring_generation < key.since)


def _unproven_cause(ring: Ring, node: NodeId) -> Activation:
    """An emergency where a key of this very node was revoked while it signed, else a bootstrap."""
    revoked = (key for key in ring.keys if key.state is KeyState.REVOKED and key.node == node)
    return Activation.EMERGENCY if any(key.activated_at for key in revoked) else Activation.BOOTSTRAP


def has_room(ring: Ring, node: NodeId, timing: Timing) -> bool:
    """Whether ``node`` may add a key (K6): it has a slot or one is free, and the set is not full."""
    return has_slot(ring, node, timing) and len(ring.published()) < timing.jwks_limit


def has_slot(ring: Ring, node: NodeId, timing: Timing) -> bool:
    """Whether ``node`` may sign with keys of its own; one that may not mints through a peer."""
    signers = {
        key.node
        for key in ring.keys
        if key.state in (KeyState.PREPARED, KeyState.ACTIVE) and not key.is_resigned()
    }
    return node in signers or len(signers) < timing.signers


def _decay(view: View) -> Iterable[Effect]:
    for key in view.ring.keys:
        match key.state:
            # A node renews its own lease however late: the key is still public, so nothing is lost.
            case KeyState.PREPARED | KeyState.ACTIVE:
                if key.node != view.node and view.now >= key.lease_until and has_watched(view):
                    yield LapseKey(key.kid)
            case KeyState.PASSIVE | KeyState.REVOKED:
                if view.now >= key.publish_until:
                    yield RetireKey(key.kid)
