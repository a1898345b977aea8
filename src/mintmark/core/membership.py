"""Who is there: which nodes live, who signs, whose clock is off, and whether a node may leave.

A node knows the others from their heartbeat rows and from the ring, by the store's time, and nothing else.
:class:`View` is all that it knows when it decides; the functions here read it and do nothing.
"""

from dataclasses import dataclass
from enum import StrEnum

from mintmark.core.key import Activation, Key, KeyState
from mintmark.core.keyring import HEARD_WITHIN, LIVE_FOR, Member, Ring
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


def live_nodes(view: View) -> frozenset[NodeId]:
    """The nodes that are alive, this one with or without a heartbeat."""
    return frozenset({m.node for m in view.members if m.is_live(view.now)} | {view.node})


def has_watched(view: View) -> bool:
    """Whether this node has read the store for long enough to call a silent node dead."""
    return view.now >= view.watched_since + HEARD_WITHIN


def someone_signs(view: View, timing: Timing) -> bool:
    """Whether a live node holds an active key, or a node that might be live one.

    Before a node has watched for long enough, a lease that runs may be that of a node that lives. Where the
    watch was interrupted so may one that has ended: nobody could renew it while the store was away. A node
    that has just started knows of no such time, and waits for no lease that ended before.
    """
    live = live_nodes(view)
    watched = has_watched(view)
    return any(
        key.node in live
        or _was_leased_just_now(key, view, timing)
        or (not watched and (view.interrupted or view.now < key.lease_until))
        for key in view.ring.keys
        if key.state is KeyState.ACTIVE
    )


def _was_leased_just_now(key: Key, view: View, timing: Timing) -> bool:
    """Whether its node wrote the lease so lately that it counts as alive, with or without a heartbeat.

    Else the loser of a bootstrap, reading before the winner's first heartbeat, would bootstrap too (K1).
    """
    return abs(view.now - (key.lease_until - timing.lease)) < LIVE_FOR


def was_set_back(view: View, timing: Timing) -> bool:
    """Whether a lease of this node ends later than any that it could have written by now.

    The clock by which it was written was ahead. By the one that is right the lease is not due for renewal,
    and the signer, which also counts by a clock that nobody sets, will soon refuse to sign under it.
    """
    latest = view.now + timing.lease + timing.clock_skew
    return any(
        key.node == view.node and key.lease_until > latest
        for key in view.ring.keys
        if key.state in (KeyState.PREPARED, KeyState.ACTIVE)
    )


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
    because each resigns by compare-and-swap before it goes: the second one sees that the first has.
    """
    own = view.ring.held_by(view.node, KeyState.ACTIVE)
    if own is None or view.clock_off or view.now >= own.lease_until:
        return Departure.SIGNS_NOTHING
    staying = staying_nodes(view)
    if not staying:
        return Departure.ALONE
    heard = staying & live_nodes(view)
    covered = any(key.node in heard and _covers(key, view.now, timing) for key in view.ring.keys)
    return Departure.COVERED if covered and own.is_resigned() else Departure.AWAITED


def staying_nodes(view: View) -> frozenset[NodeId]:
    """The other nodes that live, or may after an outage of the store, and have not resigned."""
    resigned = {key.node for key in view.ring.keys if key.state is KeyState.ACTIVE and key.is_resigned()}
    unheard = view.interrupted and not has_watched(view)
    there = {m.node for m in view.members} if unheard else live_nodes(view)
    return frozenset(there - resigned - {view.node})


def _covers(key: Key, now: NumericDate, timing: Timing) -> bool:
    """Whether tokens of ``key`` are accepted everywhere, and its node goes on making them."""
    if key.state is not KeyState.ACTIVE or key.activated_at is None:
        return False
    # A node renews at a third of a lease: one that has let two thirds pass cannot, whatever its heartbeat.
    renewed = key.lease_until - now > timing.lease // 3
    known = key.activation is Activation.PROVEN or now >= key.activated_at + timing.lead
    return renewed and known
