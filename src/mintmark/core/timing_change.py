"""Two timings at once: how nodes with the former and with the wanted settings work side by side.

Every number is a promise to others, or an allowance for what others do, or both: a node serves key sets for
``jwks_max_age``, and lets no key sign before copies that *any* node served have run out. While the timing
changes, a node that knows both promises the smaller numbers and allows for the larger ones. So it may stand
beside nodes that work by either, which need not know of each other: at any time there is one timing that all
live nodes are within, the former one until the change is finished and the wanted one from then on.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from mintmark.core.key import Key, KeyState
from mintmark.core.keyring import Ring
from mintmark.core.timing import NAMES, Timing, broken_rules
from mintmark.units import NodeId, NumericDate, Seconds, format_duration

PROMISED: Final = ("jwks_max_age", "propagation", "clock_skew", "access_ttl", "lease")
"""What others allow for: no node may exceed what another one takes it to do."""
_BOUNDS: Final = ("signers", "jwks_limit", "feed_bound")
"""What is never to be exceeded, so that of two the smaller one counts."""
_OWN: Final = ("session_idle", "session_ttl")
"""What ends up in a session's row, whichever node writes it; no node relies on another's."""
_LEASES: Final = 2
"""A node that renewed a lease less than a third of it ago is counted on: the shortest there is must be
longer than that third of the longest."""


def mixed(own: Timing, *others: Timing) -> Timing:
    """What a node with the settings ``own`` works by, beside nodes with the settings ``others``.

    Its numbers are what it promises, its ``bounds`` what it allows for. Without others, or where they have
    the same settings, it is ``own``.
    """
    every = (own, *(plain(other) for other in others))
    if all(timing == own for timing in every):
        return own
    most = {name: max(getattr(timing, name) for timing in every) for name in NAMES}
    least = {name: min(getattr(timing, name) for timing in every) for name in NAMES}
    within = {name: least[name] for name in _BOUNDS}
    return Timing(
        **most
        | {name: least[name] for name in PROMISED}
        | within
        | {name: getattr(own, name) for name in _OWN},
        bounds=Timing(**most | within),
    )


def plain(timing: Timing) -> Timing:
    """The numbers alone."""
    return replace(timing, bounds=None)


def stands_beside(one: Timing, other: Timing) -> bool:
    """Whether a node that works by ``one`` may live beside nodes that work by ``other``.

    Each keeps within what the other allows for, and their leases are of a like length.
    """
    return all(
        getattr(promising, name) <= getattr(allowing.widest, name)
        for name in PROMISED
        for promising, allowing in ((one, other), (other, one))
    ) and max(one.lease, other.lease) <= _LEASES * min(one.lease, other.lease)


def obstacles(former: Timing, wanted: Timing) -> tuple[str, ...]:
    """Why nodes with ``former`` and with ``wanted`` settings cannot work side by side; empty where they can.

    A rule may hold for both and not for what such nodes must allow for.
    """
    both = mixed(wanted, former).widest
    found = [f"while nodes work by both timings, {broken.message}" for broken in broken_rules(both)]
    shorter, longer = sorted((former.lease, wanted.lease))
    if longer > _LEASES * shorter:
        found.append(
            f'lease = "{format_duration(wanted.lease)}" is more than {_LEASES} times as long or as short as '
            f'"{format_duration(former.lease)}": nodes that leave would not count on those that stay'
        )
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What the nodes of an issuer have agreed on: one timing, or two while it changes."""

    current: Timing
    wanted: Timing | None = None
    """What a change leads to; nodes may have either settings until it is finished."""
    on_current: tuple[NodeId, ...] = ()
    """Nodes with the current settings that stand beside the wanted ones, by what they said themselves."""
    on_wanted: tuple[NodeId, ...] = ()
    """Nodes with the wanted settings."""
    copies_age: Seconds = Seconds(0)
    """For how long HTTP caches keep what nodes served before the last change was finished..."""
    copies_until: NumericDate = NumericDate(0)
    """... and until when there may be such copies."""

    def has(self, settings: Timing) -> bool:
        """Whether a node with these settings may work."""
        return settings in (self.current, self.wanted)

    def beside(self, settings: Timing, now: NumericDate) -> tuple[Timing, ...]:
        """What others may work by, where a node with ``settings`` starts at ``now``."""
        if self.wanted is not None:
            return (self.wanted if settings == self.current else self.current,)
        if now < self.copies_until and self.copies_age > settings.jwks_max_age:
            return (replace(settings, jwks_max_age=self.copies_age),)
        return ()

    def joined(self, node: NodeId, settings: Timing, known: Collection[NodeId]) -> "Agreement":
        """The agreement that knows of ``node``; of others only those that are ``known`` are kept."""
        others = set(known) - {node}
        on_wanted, on_current = others & set(self.on_wanted), others & set(self.on_current)
        (on_wanted if settings == self.wanted else on_current).add(node)
        return replace(self, on_wanted=tuple(sorted(on_wanted)), on_current=tuple(sorted(on_current)))


class ChangeRefused(ValueError):
    """The timing may not change like that, or not yet; ``reasons`` are sentences for whoever asked."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


def begin(agreement: Agreement, wanted: Timing, *, now: NumericDate) -> Agreement:
    """The agreement under which nodes may be restarted with ``wanted``; the same one where that is so.

    Raises ChangeRefused where a change is under way already, or the two cannot be worked by side by side.
    """
    if wanted == (agreement.wanted or agreement.current):
        return agreement
    if agreement.wanted is not None:
        raise ChangeRefused(
            "another change is not finished: finish it, or withdraw it with the current settings"
        )
    reasons = list(obstacles(agreement.current, wanted))
    if now < agreement.copies_until:
        left = format_duration(Seconds(agreement.copies_until - now))
        reasons.append(
            f"HTTP caches may hold key sets from before the last change for {left} more (K1): try again then"
        )
    if reasons:
        raise ChangeRefused(*reasons)
    return Agreement(current=agreement.current, wanted=wanted)


def withdraw(agreement: Agreement, *, present: Collection[NodeId]) -> Agreement:
    """The agreement as it was before the change; the same one where none is under way.

    Raises ChangeRefused while a node that is ``present`` has the wanted settings.
    """
    if agreement.wanted is None:
        return agreement
    if waiting := sorted(set(present) & set(agreement.on_wanted)):
        raise ChangeRefused(f"restart these nodes with the former settings first: {_named(waiting)}")
    return Agreement(current=agreement.current)


def finish(agreement: Agreement, ring: Ring, *, present: Collection[NodeId], now: NumericDate) -> Agreement:
    """The agreement on the wanted timing alone; the same one where no change is under way.

    Raises ChangeRefused while a node that is ``present`` works by the former one, and while a key signs that
    was not renewed for tokens of the wanted lifetime (K2).
    """
    wanted = agreement.wanted
    if wanted is None:
        return agreement
    reasons = []
    if waiting := sorted(set(present) - set(agreement.on_wanted)):
        reasons.append(f"restart these nodes with the wanted settings first: {_named(waiting)}")
    if short := uncovered(ring, wanted, now):
        names = ", ".join(key.kid for key in short)
        reasons.append(f"a token of {names} could outlive it (K2): wait until its lease is renewed")
    if reasons:
        raise ChangeRefused(*reasons)
    former = agreement.current.jwks_max_age
    if former <= wanted.jwks_max_age:
        return Agreement(current=wanted)
    return Agreement(current=wanted, copies_age=former, copies_until=NumericDate(now + former))


def uncovered(ring: Ring, timing: Timing, now: NumericDate) -> tuple[Key, ...]:
    """The keys that could sign a token of ``timing`` which they do not stay public for (K2)."""
    return tuple(
        key
        for key in ring.keys
        if key.state is KeyState.ACTIVE
        and now < key.lease_until
        and key.publish_until < timing.covered_until(key.lease_until)
    )


def _named(nodes: Collection[NodeId]) -> str:
    return ", ".join(nodes)
