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

from mintmark.core import keyring, membership, succession

MODULES = (keyring, membership, succession)
picks = st.integers(0, 5)


class KeyRings(RuleBasedStateMachine):
    """One to three nodes on one store, and everything that may go wrong between them."""

    code = names_of(MODULES)
    world: World

    @initialize(
        nodes=st.integers(1, 3), signers=st.sampled_from([3, 3, 2, 1]), limit=st.sampled_from([24, 5])
    )
    def begin(self, nodes: int, signers: int, limit: int):
        self.world = World(self.code, timing=replace(TIMING, signers=signers, jwks_limit=limit))
        self.settled = False
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

    @precondition(lambda self: len(self.world.nodes) < 3)
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
        node = self.node(pick)
        if node.name in self.world.store.beats:
            self._try(lambda: self.world.leave(node))

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
        ("        or (view.now < key.lease_until and not has_watched(view))\n", ""),
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
        ("view.now >= key.lease_until and has_watched(view)", "view.now >= key.publish_until > 0"),
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
