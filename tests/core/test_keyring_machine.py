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
from tests.core.keyring_world import ANOTHER, EVERYTHING, NOTHING, TIMING, Means, Node, StoreAway, World
from tests.core.plant import find, names_of, planted_in, search

from mintmark.core import key, keyring, membership, succession
from mintmark.core.algorithm import Algorithm
from mintmark.units import Seconds

MODULES = (key, keyring, membership, succession)
picks = st.integers(0, 5)

Wish = tuple[str, str]
OWN, SHARED, IN_TOKEN, EDDSA = ("own", "RS256"), ("shared", "RS256"), ("hsm", "RS256"), ("own", "EdDSA")
"""Kinds of key, as names: a copy of the code has classes of its own."""


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
        self.prepare(signers=signers, limit=limit, lease=lease)
        for _ in range(nodes):
            self.world.start()

    def prepare(self, *, signers: int = 3, limit: int = 24, lease: int = 24, kind: Wish = OWN) -> None:
        timing = replace(TIMING, signers=signers, jwks_limit=limit, lease=Seconds(lease))
        self.world = World(self.code, timing=timing)
        self.world.kind = self.kind(kind)
        self.settled = self.grown = False

    def kind(self, wish: Wish):
        mode, alg = wish
        return self.code.KeyKind(self.code.KeyMode(mode), Algorithm(alg))

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

    @rule(show=st.booleans())
    def deaths_show(self, show: bool):
        """Whether who looks where a dead node listened is refused."""
        self.world.deaths_show = show

    @precondition(has_nodes)
    @rule(pick=picks)
    def restart(self, pick: int):
        node = self.node(pick)
        del self.world.nodes[node.name]
        self.world.start(node.means, spare=node.spare)

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
                node.told_at = self.world.t

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
            node.told_at = self.world.t
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
            node.told_at = self.world.t
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
    @rule(pick=picks, times=st.integers(2, 4), seconds=st.sampled_from([6, 12, 18, 30]))
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

    def can_settle_all(self) -> bool:
        return not self.settled and self.world.timing.jwks_limit == 24 and self.world.set_back < 100

    @precondition(can_settle_all)
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


class KeyRingsOfAllKinds(KeyRings):
    """The same nodes where keys may be shared or in a token, and everything that may be switched or lost."""

    @initialize(
        means=st.lists(st.sampled_from([EVERYTHING] * 4 + [NOTHING, ANOTHER]), min_size=1, max_size=4),
        kind=st.sampled_from([OWN, SHARED, SHARED, IN_TOKEN]),
        spare=st.sampled_from([False, False, True]),
        signers=st.sampled_from([3, 1]),
    )
    def begin(self, means: list[Means], kind: Wish, spare: bool, signers: int):
        self.prepare(kind=kind, signers=signers)
        for number, has in enumerate(means):
            self.world.start(has, spare=spare and number != 1)

    @rule(kind=st.sampled_from([OWN, SHARED, IN_TOKEN, (OWN[0], "ES256"), (SHARED[0], "ES256"), EDDSA]))
    def switch(self, kind: Wish):
        self._try(lambda: self.world.switch(self.kind(kind)))

    @rule(kind=st.sampled_from([OWN, SHARED, IN_TOKEN]), seconds=st.sampled_from([6, 66, 120, 240]))
    def switch_and_run(self, kind: Wish, seconds: int):
        self._try(lambda: self.world.switch(self.kind(kind)))
        self.world.run(seconds)

    @rule(pick=picks, held=st.booleans())
    def hold(self, pick: int, held: bool):
        published = self.world.store.ring.published()
        if published:
            self._try(lambda: self.world.hold(published[pick % len(published)].kid, held=held))

    @rule(pick=picks)
    def discard(self, pick: int):
        published = self.world.store.ring.published()
        if published:
            self._try(lambda: self.world.discard(published[pick % len(published)].kid))

    @precondition(lambda self: len(self.world.nodes) < 5)
    @rule(means=st.sampled_from([EVERYTHING, EVERYTHING, NOTHING, ANOTHER]))
    def start_with(self, means: Means):
        self.world.start(means)

    @rule(away=st.sampled_from([0, 12, 60, 600]), nodes=st.integers(1, 3))
    def cut_power(self, away: int, nodes: int):
        """Every node is gone; what the cluster holds signs on with whoever is back."""
        self.world.nodes.clear()
        self.world.wait(away)
        for _ in range(nodes):
            self.world.start()

    @precondition(lambda self: self.world.kind.mode != "own")
    @rule(away=st.sampled_from([0, 12, 60, 600]), nodes=st.integers(1, 3))
    def cut_power_and_go_on(self, away: int, nodes: int):
        self.world.settle()
        self.world.cut_power(away, nodes)

    @precondition(KeyRings.has_nodes)
    @rule(pick=picks)
    def act_late(self, pick: int):
        """The store is asked for a change, and takes it later or never."""
        self._try(lambda: self.world.act(self.node(pick), late=True))

    @rule()
    def arrive(self):
        self.world.arrive()

    @rule(up=st.booleans())
    def set_token(self, up: bool):
        self.world.token_up = up

    @rule(seconds=st.sampled_from([2, 20, 60, 900]))
    def set_clock_back(self, seconds: int):
        self.world.set_clock_back(seconds)

    @rule(seconds=st.sampled_from([60, 900]))
    def set_clock_back_and_settle(self, seconds: int):
        self.world.settle()
        self.world.set_clock_back(seconds)
        self.world.settle()


def machine(code: ModuleType, base: type[KeyRings] = KeyRings) -> type[KeyRings]:
    """A machine over another module than the one that we use."""
    return type(base.__name__, (base,), {"code": code})


@pytest.mark.hypothesis
@pytest.mark.timeout(3600)  # A failure takes minutes to be made small.
@pytest.mark.parametrize("kinds", [KeyRings, KeyRingsOfAllKinds])
def test_promises_hold_over_crashes_pauses_lags_and_races(kinds: type[KeyRings]):
    """K1, K2, K3, K6, K7: whatever the nodes, the store and the caches do, no promise of the ring breaks."""
    search(kinds, steps=60, factor=4)


PROVEN_AND_LED = "prepared.proven_at is not None and now >= prepared.proven_at + timing.lead"
ROOM_OR_BEGIN = "elif _has_room(view, timing) or _must_begin(view, timing):"
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
            "        is_held(key, view)\n        or _was_leased_just_now(key, view, timing)\n",
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
        ("        or (not key.is_of_cluster() and key.lease_until < is_back)\n", ""),
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
            "    return Departure.COVERED if covered and said else",
            "    return Departure.COVERED if True else",
        ),
    ),
    "two that leave rely on one another": (
        "a node left and nobody signs",
        ("frozenset(there - resigned - leaving - {view.node})", "frozenset(there - {view.node})"),
    ),
    "a node relies on a key that is not known yet": (
        "a node left and nobody signs",
        ("(key is same or _is_known(key, now, timing))", "True"),
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
        (" and has_watched(view) and _has_died", " and _has_died"),
    ),
    "a lease is ended while it runs": (
        "a lease was ended while it ran",
        ("view.now >= key.lease_until and has", "view.now >= key.lease_until - 8 and has"),
        ("    if now < key.lease_until:\n", "    if now < key.lease_until - 8:\n"),
    ),
    "a key retires when its tokens expire, whatever the leeway": (
        "K2",
        ("if view.now >= key.publish_until and not", "if view.now >= key.publish_until - 300 and not"),
        ("    if now < key.publish_until or key.held:", "    if now < key.publish_until - 300:"),
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
    "the bounds hold for nobody": ("K6", (ROOM_OR_BEGIN, "elif True:")),
    "nobody may begin where the set is full": (
        "nobody can mint",
        (ROOM_OR_BEGIN, "elif _has_room(view, timing):"),
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

OF_ALL_KINDS: dict[str, tuple[str, *tuple[tuple[str, str], ...]]] = {
    "a node takes a key further that it could not open": (
        "a node activated a key that it does not hold",
        ("    elif not view.holds(prepared):\n", "    elif False:\n"),
    ),
    "a key of the cluster dies with its nodes": (
        "the cluster's key was ended|the cluster's key is gone",
        ("    return wanted(view).mode is KeyMode.OWN and not is_held(key, view)\n", "    return True\n"),
    ),
    "something is begun beside a key of the cluster that nobody holds": (
        "K1: bootstrap beside|a key was begun beside the cluster's|nobody signs with",
        ("(clusters_wanted or view.now < key.lease_until)", "False"),
    ),
    "the cluster prepares as many keys as there are nodes": (
        "two keys prepared|two active keys|nobody|cluster has",
        (
            "if mode is not KeyMode.OWN and ring.held_by_cluster(KeyState.PREPARED) is not None:",
            "if False:",
        ),
        (
            "timing, clusters, ring.held_by_cluster(KeyState.PREPARED))",
            "timing, clusters, ring.held_by(view.node, KeyState.PREPARED))",
        ),
    ),
    "a switch ends the cluster's key before nodes have their own": (
        "a switch left nobody",
        ("        if all_have_keys(view, timing):\n", "        if True:\n"),
        (
            "    if not any(key.state is KeyState.ACTIVE and key.kid != kid for key in ring.keys):\n",
            "    if False:\n",
        ),
    ),
    "the first key of the cluster leaves others beside it": (
        "another key signs beside|two active keys, or the cluster",
        ("        and (key.is_of_cluster() or (old.node", "        and ((old.node"),
    ),
    "a switch mixes EdDSA into the set": (
        "EdDSA is mixed",
        ("if (until := _others_until(after, kind.alg)) is not None:", "if (until := None) is not None:"),
        ("if (until := mixes(ring, alg)) is not None:", "if (until := None) is not None:"),
    ),
    "a key is removed when an operator asks, whatever it signed": (
        "K2",
        ("    if signs or key.held or now < key.publish_until:\n", "    if signs or key.held:\n"),
    ),
    "a held key retires": (
        "a key left that an operator holds",
        (" and not key.held:", ":"),
        ("    if now < key.publish_until or key.held:\n", "    if now < key.publish_until:\n"),
    ),
    "what may not sign stays sealed in the store": (
        "a key that may not sign is still in the store",
        ("sealed=key.sealed if state in SIGNING else None", "sealed=key.sealed"),
    ),
    "a store's clock that is set back is not noticed": (
        "nobody can mint|no active key|cannot sign",
        ("    if was_set_back(view, timing):\n", "    if False:\n"),
    ),
    "the cluster's key keeps a lease from a time that has not come yet": (
        "nobody can mint|nobody signs|cannot sign",
        (
            "            lease_until=min(key.lease_until, now),\n            activated_at",
            "            activated_at",
        ),
    ),
}
"""What is planted where keys are of all kinds."""


@pytest.mark.timeout(900)  # Seconds by itself; but a machine that does much else at once is slow.
@pytest.mark.parametrize("name", [*PLANTED, *OF_ALL_KINDS])
def test_the_search_finds_a_rule_planted_wrong(name: str):
    """A search that cannot fail shows nothing: this one fails, for the right reason, on each wrong rule."""
    promise, *changes = (PLANTED | OF_ALL_KINDS)[name]
    base = KeyRingsOfAllKinds if name in OF_ALL_KINDS else KeyRings
    find(machine(planted_in(MODULES, *changes), base), promise, steps=60, within=3_000)
