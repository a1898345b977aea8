"""Who is there: which nodes live, who signs, whose clock is off, and whether a node may leave.

A node knows the others from their heartbeat rows and from the ring, by the store's time, and nothing else.
:class:`View` is all that it knows when it decides; the functions here read it and do nothing.
"""

from dataclasses import dataclass
from enum import StrEnum

from mintmark.core.key import DEFAULT_KIND, SIGNING, Activation, Key, KeyKind, KeyMode, KeyState
from mintmark.core.keyring import HEARD_WITHIN, LIVE_FOR, SILENT_FOR, Member, Ring, mixes
from mintmark.core.timing import Timing
from mintmark.units import Kid, NodeId, NumericDate


def offset(before: NumericDate, store: NumericDate, after: NumericDate) -> int:
    """Seconds by which a clock that said ``before`` and ``after`` around a read is surely off the store's.

    Positive where it is ahead. The store's time was taken in between, so only what lies outside is proof:
    a slow store makes no clock look wrong.
    """
    return max(0, before - store) - max(0, store - after)


@dataclass(frozen=True, slots=True)
class Watch:
    """Since when a node has read the store without a gap; a first read at ``now`` is ``Watch(now, now)``.

    While the store is away nobody can write a heartbeat or a lease. Who reads first when it is back would
    take every other node for dead: silence counts only where somebody would have been heard.
    """

    since: NumericDate
    last: NumericDate
    interrupted: bool = False
    """Whether this node has read the store before it began: then others may have been cut off likewise."""

    def read(self, now: NumericDate) -> "Watch":
        """The watch after another read; it begins anew after a gap, or when the clock was set back."""
        if 0 <= now - self.last < LIVE_FOR // 2:
            return Watch(self.since, now, self.interrupted)
        return Watch(now, now, interrupted=True)


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
    interrupted: bool = False
    """Whether that watch followed a gap in which this node read nothing."""
    clock_off: bool = False
    """Whether this machine's clock is further from the store's than ``clock_skew``."""
    leaving: bool = False
    """Whether this node was told to leave."""
    kind: KeyKind = DEFAULT_KIND
    """What keys are to sign by this node's settings; it counts only where the ring does not say so."""
    spare: bool = False
    """Whether this node keeps a successor ready all the time."""
    modes: frozenset[KeyMode] = frozenset({KeyMode.OWN})
    """Whose keys the signer of this node was configured for."""
    loaded: frozenset[Kid] = frozenset()
    """The keys of the cluster that it holds."""
    gone: frozenset[NodeId] = frozenset()
    """The nodes of which this one knows that they are dead: :func:`silent` ones where nobody listens now."""

    def holds(self, key: Key) -> bool:
        """Whether the signer of this node has the private half of ``key``."""
        return key.kid in self.loaded if key.is_of_cluster() else key.node == self.node

    def signs(self) -> bool:
        """Whether it has that of an active key."""
        return any(key.state is KeyState.ACTIVE and self.holds(key) for key in self.ring.keys)


def wanted(view: View) -> KeyKind:
    """What keys are to sign: what the ring says, and before it does, what this node's settings say.

    Except where that would mix EdDSA into the set of another family: then what is there goes on.
    """
    ring = view.ring
    if ring.kind is not None:
        return ring.kind
    there = None if mixes(ring, view.kind.alg) is None else ring.published()[-1].kind()
    return there or view.kind


def live_nodes(view: View) -> frozenset[NodeId]:
    """The nodes that are alive, this one with or without a heartbeat."""
    return frozenset({m.node for m in view.members if m.is_live(view.now)} - view.gone | {view.node})


def silent(view: View) -> tuple[Member, ...]:
    """The nodes with keys of their own that missed a heartbeat: whoever waits for one of them may ask there.

    That nobody listens at a node's address is no proof by itself: the address may be wrong, and its node live
    and sign. With a heartbeat missing as well it is: a node listens before its first one, and ends when its
    listener does. While the store was away nobody could beat, so silence counts from its return.
    """
    since = view.watched_since if view.interrupted else NumericDate(0)
    waited_for = {key.node for key in view.ring.keys if key.state in SIGNING and not key.is_of_cluster()}
    return tuple(
        member
        for member in view.members
        if member.node in waited_for - {view.node}
        and member.address
        and view.now - max(member.seen_at, since) >= SILENT_FOR
    )


def has_watched(view: View) -> bool:
    """Whether this node has read the store for long enough to call a silent node dead."""
    return view.now >= view.watched_since + HEARD_WITHIN


def is_held(key: Key, view: View) -> bool:
    """Whether a live node can sign with ``key``, as far as this one knows."""
    if not key.is_of_cluster():
        return key.node in live_nodes(view)
    others = (m for m in view.members if m.is_live(view.now) and m.node != view.node)
    return view.holds(key) or any(key.mode in member.modes for member in others)


def someone_signs(view: View, timing: Timing) -> bool:
    """Whether a live node holds an active key, or a node that might be live one.

    Before a node has watched for long enough, a lease that runs may be that of a node that lives. Where the
    watch was interrupted so may one that has ended: nobody could renew it while the store was away. A node
    that has just started knows of no such time, and waits for no lease that ended before.

    A key of the cluster outlives its nodes. As long as such keys are wanted nothing is begun beside one, even
    if nobody who lives can open it: that is for an operator to say, by revoking it.

    A node's own key whose lease the store's clock was set back below counts for none: a node that can sign
    gives it up at once. Nor does that of a node that is known to be gone, whatever its lease says.
    """
    watched = has_watched(view)
    clusters_wanted = wanted(view).mode is not KeyMode.OWN
    return any(
        is_held(key, view)
        or _was_leased_just_now(key, view, timing)
        or (key.is_of_cluster() and (clusters_wanted or view.now < key.lease_until))
        or (not watched and (view.interrupted or view.now < key.lease_until))
        for key in view.ring.keys
        if key.state is KeyState.ACTIVE
        and (key.is_of_cluster() or not (is_ahead(key, view, timing) or key.node in view.gone))
    )


def _was_leased_just_now(key: Key, view: View, timing: Timing) -> bool:
    """Whether its node wrote the lease so lately that it counts as alive, with or without a heartbeat.

    Else the loser of a bootstrap, reading before the winner's first heartbeat, would bootstrap too (K1).
    """
    leases = {timing.lease, timing.widest.lease}
    return any(abs(view.now - (key.lease_until - lease)) < LIVE_FOR for lease in leases)


def was_set_back(view: View, timing: Timing) -> bool:
    """Whether a lease of a key that this node holds ends later than any that was written by now.

    The clock by which it was written was ahead. By the one that is right the lease is not due for renewal,
    and the signer, which also counts by a clock that nobody sets, will soon refuse to sign under it.
    """
    return any(
        view.holds(key) and is_ahead(key, view, timing) for key in view.ring.keys if key.state in SIGNING
    )


def is_ahead(key: Key, view: View, timing: Timing) -> bool:
    """Whether the lease of ``key`` ends later than any that was written by now."""
    return key.lease_until > view.now + timing.widest.lease + timing.widest.clock_skew


class Departure(StrEnum):
    """Whether a node that was told to leave may go, and why."""

    ALONE = "alone"
    """No other node lives that is not leaving as well: nobody takes over, now or later."""
    SIGNS_NOTHING = "signs_nothing"
    """It has no key that may sign, so nobody would miss it."""
    COVERED = "covered"
    """Another node that stays signs with a key that verifiers have had the time to learn."""
    AWAITED = "awaited"
    """Others live, and none signs with such a key yet: this node goes on serving."""


def departure(view: View, timing: Timing) -> Departure:
    """Whether ``view.node``, which was told to leave, may go (design 3.4).

    Nobody relies on a node that is leaving too. That holds for two that were told in the same moment,
    because each says so before it decides, by compare-and-swap where it has a key of its own and else in its
    heartbeat: the second one sees that the first has.
    """
    ring, now = view.ring, view.now
    own, clusters = ring.held_by(view.node, KeyState.ACTIVE), ring.held_by_cluster(KeyState.ACTIVE)
    signing = [
        key for key in (own, clusters) if key is not None and view.holds(key) and now < key.lease_until
    ]
    if not signing or view.clock_off:
        return Departure.SIGNS_NOTHING
    staying = staying_nodes(view)
    if not staying:
        return Departure.ALONE
    heard = [m for m in view.members if m.node in staying and m.is_live(now)]
    # Who signs with the very same key makes no verifier learn another.
    same = clusters if own is None else None
    covered = any(
        _is_renewed(key, now, timing) and (key is same or _is_known(key, now, timing))
        for key in ring.keys
        if key.state is KeyState.ACTIVE and any(can_sign(member, key) for member in heard)
    )
    said = own is None or own.is_resigned()
    return Departure.COVERED if covered and said else Departure.AWAITED


def staying_nodes(view: View) -> frozenset[NodeId]:
    """The other nodes that live, or may after an outage of the store, and have not said that they leave."""
    resigned = {key.node for key in view.ring.keys if key.state is KeyState.ACTIVE and key.is_resigned()}
    leaving = {member.node for member in view.members if member.is_leaving()}
    unheard = view.interrupted and not has_watched(view)
    there = {m.node for m in view.members} if unheard else live_nodes(view)
    return frozenset(there - resigned - leaving - {view.node})


def can_sign(member: Member, key: Key) -> bool:
    """Whether ``member`` can sign with ``key``, by its row; whoever made a key of the cluster."""
    return key.mode in member.modes if key.is_of_cluster() else key.node == member.node


def _is_renewed(key: Key, now: NumericDate, timing: Timing) -> bool:
    """A node renews at a third of a lease: one that let two thirds pass cannot, whatever its heartbeat."""
    return key.lease_until - now > timing.lease // 3


def _is_known(key: Key, now: NumericDate, timing: Timing) -> bool:
    """Whether tokens of the active ``key`` are accepted everywhere."""
    if key.activation is Activation.PROVEN:
        return True
    return key.activated_at is not None and now >= key.activated_at + timing.lead


def has_slot(ring: Ring, node: NodeId, timing: Timing) -> bool:
    """Whether ``node`` may sign with keys of its own (K6); one that may not mints through a peer."""
    signers = {
        key.node
        for key in ring.keys
        if key.state in SIGNING and not key.is_of_cluster() and not key.is_resigned()
    }
    return node in signers or len(signers) < timing.signers


def has_room(ring: Ring, node: NodeId, timing: Timing) -> bool:
    """Whether ``node`` may add a key (K6): it has a slot or one is free, and the set is not full."""
    return has_slot(ring, node, timing) and not is_full(ring, timing)


def is_full(ring: Ring, timing: Timing) -> bool:
    """Whether the set holds as many keys as it may (K6)."""
    return len(ring.published()) >= timing.jwks_limit


def all_have_keys(view: View, timing: Timing) -> bool:
    """Whether every live node that may have a key of its own signs with it, so that the cluster's may go."""
    ring, now = view.ring, view.now
    staying = {m.node for m in view.members if m.is_live(now) and not m.is_leaving()} | {view.node}
    own = [key for node in staying if (key := ring.held_by(node, KeyState.ACTIVE)) and now < key.lease_until]
    without = staying - {key.node for key in own}
    return (
        has_watched(view)
        and any(_is_known(key, now, timing) and not key.is_resigned() for key in own)
        and not any(has_slot(ring, node, timing) for node in without)
    )
