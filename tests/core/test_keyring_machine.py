"""The key ring over nodes that crash, pause, lag and race: K1, K2, K3, K6, K7, and that somebody can mint.

Each promise has rules planted wrong that break it, and the search must find every one of them.
"""

import contextlib
from dataclasses import replace
from types import ModuleType

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from tests.core.keyring_world import TIMING, Node, StoreAway, World
from tests.core.plant import find, names_of, planted_in, search

from mintmark.core import key, keyring, membership, succession
from mintmark.units import Seconds

MODULES = (key, keyring, membership, succession)
picks = st.integers(0, 5)


class KeyRings(RuleBasedStateMachine):
    """One to five nodes on one store, and everything that may go wrong between them."""

    code = names_of(MODULES)
    world: World

    @initialize(
        nodes=st.sampled_from([1, 2, 3, 3, 5]),
        signers=st.sampled_from([3, 3, 2, 1]),
        limit=st.sampled_from([24, 5]),
        # A third of the longer one is more than a node may be silent.
        lease=st.sampled_from([24, 24, 40]),
    )
    def begin(self, nodes: int, signers: int, limit: int, lease: int):
        timing = replace(TIMING, signers=signers, jwks_limit=limit, lease=Seconds(lease))
        self.world = World(self.code, timing=timing)
        self.settled = self.grown = False
        for _ in range(nodes):
            self.world.start()

    def node(self, pick: int) -> Node:
        nodes = list(self.world.nodes.values())
        return nodes[pick % len(nodes)]

    def has_nodes(self) -> bool:
        return bool(self.world.nodes)

    # Time, and a cluster at work.

    @rule(seconds=st.sampled_from([1, 2, 4, 9, 11, 23, 30, 70, 400]))
    def wait(self, seconds: int):
        self.world.wait(seconds)

    @rule(seconds=st.sampled_from([3, 6, 12, 30, 66, 90, 180]))
    def run(self, seconds: int):
        self.world.run(seconds)

    # One node, step by step.

    @precondition(has_nodes)
    @rule(pick=picks)
    def round(self, pick: int):
        self._try(lambda: self.world.round(self.node(pick)))

    @precondition(has_nodes)
    @rule(pick=picks)
    def look(self, pick: int):
        self._try(lambda: self.world.look(self.node(pick)))

    @precondition(has_nodes)
    @rule(pick=picks)
    def act_on_what_was_seen(self, pick: int):
        self._try(lambda: self.world.act(self.node(pick)))

    @precondition(has_nodes)
    @rule(pick=picks, key=picks, late=st.sampled_from([0, 0, 1, 10, 29]))
    def sign(self, pick: int, key: int, late: int):
        node = self.node(pick)
        if node.signer:
            self.world.sign(node, list(node.signer)[key % len(node.signer)], late)

    @precondition(has_nodes)
    @rule(first=picks, second=picks, delay=st.sampled_from([0, 1, 5, 25]))
    def race(self, first: int, second: int, delay: int):
        """Two nodes, or two loops of one, act on what they saw before either acted."""
        self._try(lambda: self.world.look(self.node(first)))
        self._try(lambda: self.world.look(self.node(second)))
        self.world.wait(delay)
        self._try(lambda: self.world.act(self.node(first)))
        self._try(lambda: self.world.act(self.node(second)))

    # Operators.

    @rule(pick=picks)
    def revoke(self, pick: int):
        published = self.world.store.ring.published()
        if published:
            self._try(lambda: self.world.revoke(published[pick % len(published)].kid))

    @rule()
    def rotate(self):
        self._try(self.world.rotate)

    # Faults.

    @precondition(lambda self: len(self.world.nodes) < 5)
    @rule()
    def start(self):
        self.world.start()

    @precondition(has_nodes)
    @rule(pick=picks)
    def crash(self, pick: int):
        del self.world.nodes[self.node(pick).name]

    @precondition(has_nodes)
    @rule(pick=picks)
    def restart(self, pick: int):
        del self.world.nodes[self.node(pick).name]
        self.world.start()

    @precondition(has_nodes)
    @rule(pick=picks)
    def leave(self, pick: int):
        """Twice told to leave: it waits for nobody."""
        self._try(lambda: self.world.go(self.node(pick)))

    @precondition(has_nodes)
    @rule(picked=st.lists(picks, min_size=1, max_size=3), seconds=st.sampled_from([0, 0, 3, 30]))
    def tell_to_leave(self, picked: list[int], seconds: int):
        self.tell(picked)
        self.world.run(seconds)

    def tell(self, picked: list[int]) -> None:
        for pick in picked:
            node = self.node(pick)
            if node.told_at is None:
                node.told_at = self.world.now

    @precondition(has_nodes)
    @rule(pick=picks)
    def go(self, pick: int):
        node = self.node(pick)
        if node.departing:
            self._try(lambda: self.world.go(node))

    # Courses of events that single steps would seldom put together.

    @precondition(has_nodes)
    @rule(pick=picks, seconds=st.sampled_from([12, 15, 30]), leave=st.booleans())
    def stand_still(self, pick: int, seconds: int, leave: bool):
        """A node is taken for dead, and comes back; it may be told to leave then."""
        node = self.node(pick)
        node.paused = True
        self.world.run(seconds)
        node.paused = False
        self.world.run(3)
        if leave and node.told_at is None:
            node.told_at = self.world.now
            self.world.run(3)

    @precondition(has_nodes)
    @rule(first=picks, second=picks)
    def come_back_late(self, first: int, second: int):
        """A node comes back between what another one sees of it and what that one does."""
        back, other = self.node(first), self.node(second)
        for _ in range(5):
            # Where it has just renewed, its lease is not due when it is back.
            self.world.run(3)
            leases = [key.lease_until for key in self.world.store.ring.keys if key.node == back.name]
            if self.world.now + self.world.timing.lease in leases:
                break
        back.paused = True
        self.world.run(9)
        self.world.wait(2)
        back.paused = False
        self._try(lambda: self.world.look(other))
        if any(isinstance(effect, self.code.RenewLease) for effect in other.effects):
            self._try(lambda: self.world.act(other))
            self._try(lambda: self.world.look(other))
        self.world.wait(1)
        self._try(lambda: self.world.round(back))
        self._try(lambda: self.world.act(other))

    @precondition(has_nodes)
    @rule(pick=picks)
    def leave_after_an_outage(self, pick: int):
        node = self.node(pick)
        self.world.set_store(up=False)
        self.world.wait(12)
        self.world.set_store(up=True)
        if node.told_at is None:
            node.told_at = self.world.now
        self._try(lambda: self.world.round(node))

    @precondition(lambda self: not self.grown and len(self.world.nodes) > 1)
    @rule(picked=st.lists(picks, min_size=1, max_size=3))
    def leave_a_grown_cluster(self, picked: list[int]):
        """Nodes whose keys are known are told to leave in one moment, beside one that joins."""
        self.grown = True
        self.world.heal()
        if self.world.nodes:
            self.world.run(120)
            self.world.start()
            self.world.run(6)
            self.tell(picked)
            self.world.run(6)

    @precondition(has_nodes)
    @rule(pick=picks, off=st.sampled_from([0, 1, 4, -4, 5, -5, 60, -600]))
    def set_clock(self, pick: int, off: int):
        self.node(pick).off = off

    @precondition(has_nodes)
    @rule(pick=picks, paused=st.booleans())
    def pause(self, pick: int, paused: bool):
        self.node(pick).paused = paused

    @precondition(has_nodes)
    @rule(pick=picks, seconds=st.sampled_from([3, 30, 90]))
    def lag(self, pick: int, seconds: int):
        """A node's workers go on with an old ring while the node itself works."""
        node = self.node(pick)
        node.stalled = True
        self.world.run(seconds)
        node.stalled = False

    @precondition(has_nodes)
    @rule(pick=picks, times=st.integers(2, 4), seconds=st.sampled_from([12, 18, 30]))
    def crash_loop(self, pick: int, times: int, seconds: int):
        for _ in range(times):
            self.restart(pick)
            self.world.run(seconds)

    @rule(up=st.booleans())
    def store(self, up: bool):
        self.world.set_store(up=up)

    @rule(works=st.booleans())
    def publication(self, works: bool):
        self.world.publishing = works

    @rule(number=st.integers(0, 2), choice=picks)
    def fetch(self, number: int, choice: int):
        self.world.fetch(number, choice)

    # What must come back.

    @rule()
    def settle(self):
        self.world.settle()

    @precondition(has_nodes)
    @rule(pick=picks)
    def settle_beside_a_clock_that_is_off(self, pick: int):
        self.world.settle_beside(self.node(pick))

    @precondition(lambda self: not self.settled and self.world.timing.jwks_limit == 24)
    @rule()
    def settle_all(self):
        self.settled = True
        self.world.settle_all()

    @invariant()
    def promises_hold(self):
        self.world.check()

    def _try(self, step):
        with contextlib.suppress(StoreAway):
            step()


def machine(code: ModuleType) -> type[KeyRings]:
    """The machine over another module than the one that we use."""
    return type("KeyRings", (KeyRings,), {"code": code})


@pytest.mark.hypothesis
@pytest.mark.timeout(3600)  # A failure takes minutes to be made small.
def test_promises_hold_over_crashes_pauses_lags_and_races():
    """K1, K2, K3, K6, K7: whatever the nodes, the store and the caches do, no promise of the ring breaks."""
    search(KeyRings, steps=60, factor=5)


PROVEN_AND_LED = "prepared.proven_at is not None and now >= prepared.proven_at + timing.lead"
ROOM_OR_BEGIN = "if has_room(ring, view.node, timing) or _must_begin(view, timing):"
REVOKED_WHILE_ACTIVE = "(KeyState.ACTIVE, KeyEvent.REVOKED)"

PLANTED: dict[str, tuple[str, *tuple[tuple[str, str], ...]]] = {
    "a key signs without a lead": (
        "K1",
        (PROVEN_AND_LED, "prepared.proven_at"),
        ("key.proven_at is None or now < key.proven_at + timing.lead", "key.proven_at is None"),
    ),
    "the lead is shorter by what an HTTP cache keeps": (
        "K1",
        (PROVEN_AND_LED, "prepared.proven_at and now >= prepared.proven_at + timing.verifier_cache"),
        ("now < key.proven_at + timing.lead", "now < key.proven_at + timing.verifier_cache"),
    ),
    "the lead counts from the preparation, without a proof": (
        "K1",
        ("        prepared_at=now,\n", "        prepared_at=now,\n        proven_at=now,\n"),
    ),
    "a proof needs not every live node": (
        "K1",
        ("m.is_live(now) and m.ring_generation < key.since", "m.ring_generation < 0"),
    ),
    "a bootstrap ignores live nodes": (
        "K1: bootstrap beside a live node|K6",
        (
            "        key.node in live\n        or _was_leased_just_now(key, view, timing)\n",
            "        key.node == view.node\n",
        ),
    ),
    "a bootstrap ignores that nobody could be heard": (
        "K1: bootstrap beside a node that could not be heard",
        ("        or (not watched and (view.interrupted or view.now < key.lease_until))\n", ""),
    ),
    "a bootstrap takes those who were cut off likewise for dead": (
        "K1: bootstrap beside a node that could not be heard",
        ("(view.interrupted or view.now < key.lease_until)", "view.now < key.lease_until"),
    ),
    "a node that comes back says nothing": (
        "K1: bootstrap beside a node that has come back",
        (" or oldest < view.watched_since + timing.lease:", ":"),
    ),
    "a node whose clock is off goes on as ever": (
        "a node whose clock is off took a key further",
        ("    if view.clock_off:\n        return (Raise", "    if False:\n        return (Raise"),
    ),
    "a signer whose clock is off renews its lease": (
        "a node whose clock is off took a key further|nobody can mint",
        (
            "return (RaiseAlarm(AlarmKind.CLOCK_DRIFTED),)",
            "return (*_renewals(view, timing), *_decay(view))",
        ),
    ),
    "a node that leaves goes on as ever": (
        "a node that is leaving took a key further",
        ("    if view.leaving:\n", "    if False:\n"),
    ),
    "a node leaves whatever others hold": (
        "a node left",
        (
            "    return Departure.COVERED if covered and own.is_resigned() else",
            "    return Departure.COVERED if True else",
        ),
    ),
    "two that leave rely on one another": (
        "a node left and nobody signs",
        ("return frozenset(there - resigned - {view.node})", "return frozenset(there - {view.node})"),
    ),
    "a node relies on a key that is not known yet": (
        "a node left and nobody signs",
        ("    return renewed and known\n", "    return renewed\n"),
    ),
    "a node that was cut off leaves as if it were alone": (
        "a node left that could not hear others",
        (
            "    there = {m.node for m in view.members} if unheard else live_nodes(view)\n",
            "    there = live_nodes(view)\n",
        ),
    ),
    "a bootstrap does not wait until the key is served": (
        "K1: a bootstrap with a key that nobody can read",
        ("        if prepared.kid in view.served:\n", "        if True:\n"),
    ),
    "who is back first ends the others' leases": (
        "took a key",
        (" and has_watched(view):", ":"),
    ),
    "a lease is ended while it runs": (
        "a lease was ended while it ran",
        ("view.now >= key.lease_until and has", "view.now >= key.lease_until - 8 and has"),
        ("    if now < key.lease_until:\n", "    if now < key.lease_until - 8:\n"),
    ),
    "a key retires when its tokens expire, whatever the leeway": (
        "K2",
        ("    if view.now >= key.publish_until:", "    if view.now >= key.publish_until - 300:"),
        ("    if now < key.publish_until:", "    if now < key.publish_until - 300:"),
    ),
    "a renewal does not raise publish_until": (
        "K3",
        ("publish_until=max(key.publish_until, covered)", "publish_until=key.publish_until"),
    ),
    "a renewal takes the end of the lease for that of the tokens": (
        "K3",
        ("timing.covered_until(until) if", "NumericDate(until + timing.access_ttl) if"),
    ),
    "an activation covers no token": (
        "K3",
        ("max(key.publish_until, timing.covered_until(lease_until))", "lease_until"),
    ),
    "a stale renewal lowers publish_until": (
        "RING-7|K3",
        ("until = max(key.lease_until, lease_until)", "until = NumericDate(lease_until - 60)"),
        ("publish_until=max(key.publish_until, covered)", "publish_until=covered"),
    ),
    "an activation does not supersede": (
        "a node has two active keys",
        ("    return _with(ring, activated, *former)\n", "    return _with(ring, activated)\n"),
    ),
    "a revoked key stays published": (
        "K7",
        ("frozenset({KeyState.PREPARED, KeyState.ACTIVE, KeyState.PASSIVE})", "frozenset(KeyState)"),
    ),
    "a revoked key goes on signing": (
        "K7",
        (
            "(KeyState.ACTIVE, KeyEvent.REVOKED): KeyState.REVOKED",
            "(KeyState.ACTIVE, KeyEvent.REVOKED): KeyState.ACTIVE",
        ),
        ("self.state in PUBLISHED", "self.revoked_at is None"),
    ),
    "a revocation is forgotten with the key's last token": (
        "K7",
        ("REVOCATION_KEPT)\n", "0)\n"),
        ("max(MAX_STALE, key.publish_until - now)", "max(0, key.publish_until - now)"),
    ),
    "every node that sees no key goes beyond the bounds": (
        "K6",
        ("    return not someone_begins and not someone_signs", "    return not someone_signs"),
    ),
    "the bounds hold for nobody": ("K6", (ROOM_OR_BEGIN, "if True:")),
    "nobody may begin where the set is full": (
        "nobody can mint",
        (ROOM_OR_BEGIN, "if has_room(ring, view.node, timing):"),
    ),
    "a dead node's key counts as one that signs": (
        "nobody can mint",
        ("{m.node for m in view.members if m.is_live(view.now)}", "{m.node for m in view.members}"),
        (
            "view.now >= key.lease_until and has_watched(view)",
            "view.now >= key.publish_until > 0 and has_watched(view)",
        ),
    ),
    "a node that lost its key prepares no other": (
        "a live node has no active key|nobody can mint",
        ("if active is None or _wants", "if not ring.keys if active is None else _wants"),
    ),
    "a successor is prepared when the key should have gone": (
        "rotation is overdue",
        (
            "(active.sign_until or NumericDate(0)) - timing.prepare_before",
            "(active.sign_until or NumericDate(0))",
        ),
    ),
}
"""What is planted: the promise that it breaks, and what it replaces in the source of the key ring."""


@pytest.mark.parametrize("name", PLANTED)
def test_the_search_finds_a_rule_planted_wrong(name: str):
    """A search that cannot fail shows nothing: this one fails, for the right reason, on each wrong rule."""
    promise, *changes = PLANTED[name]
    find(machine(planted_in(MODULES, *changes)), promise, steps=60, within=3_000)
