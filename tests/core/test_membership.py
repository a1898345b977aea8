"""Who is there, and whether a node may leave. Defaults: L = 935 s, H = 120 s."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.rings import EMPTY, NOW, A, B, C, T, active, at, key, live, prepared

from mintmark.core import keyring, membership
from mintmark.core.key import Activation, Key, KeyState
from mintmark.core.keyring import HEARD_WITHIN, SILENT_FOR, Member, Ring
from mintmark.core.membership import Departure, View, Watch, departure, offset
from mintmark.core.timing import Timing
from mintmark.units import Kid, NodeId, NumericDate, Seconds

LONG_AGO = NumericDate(NOW - 10_000)
NODES = [NodeId(name) for name in "abcd"]


def proven(ring: Ring, kid: str, node: NodeId) -> Ring:
    """A key that was activated after its lead, and is renewed."""
    ring = keyring.prove(prepared(ring, kid, node, now=LONG_AGO), Kid(kid), now=LONG_AGO)
    ring = keyring.activate(ring, Kid(kid), Activation.PROVEN, timing=T, now=NumericDate(LONG_AGO + T.lead))
    return keyring.renew(ring, [Kid(kid)], timing=T, now=NOW)


def view(ring: Ring, *members: NodeId, node: NodeId = A, now: NumericDate = NOW) -> View:
    return View(ring=ring, members=live(node, *members, now=now), node=node, now=now, leaving=True)


def test_a_watch_lasts_while_the_store_is_read_without_a_gap():
    """Reads less than half of LIVE_FOR apart are one watch; a gap, or a clock that goes back, begins anew."""
    watch = Watch(NOW, NOW)
    for passed in (0, 4, 8, 12):
        watch = watch.read(at(passed))
    assert watch == Watch(NOW, at(12))
    assert watch.read(at(17)) == Watch(at(17), at(17), interrupted=True)
    assert watch.read(at(11)) == Watch(at(11), at(11), interrupted=True)
    assert watch.read(at(17)).read(at(20)) == Watch(at(17), at(20), interrupted=True)


@given(st.integers(-(10**6), 10**6), st.integers(0, 1000), st.data())
def test_what_a_read_takes_is_not_held_against_the_clock(off: int, took: int, data: st.DataObject):
    """The offset that is found is never more than the true one, and all of it where the read took no time."""
    read_at = data.draw(st.integers(0, took))
    found = offset(at(off), at(read_at), at(off + took))
    assert abs(found) <= abs(off)
    assert found == 0 or (found > 0) == (off > 0)
    if took == 0:
        assert found == off


# --- leaving ---------------------------------------------------------------------------------------


def test_a_lone_node_leaves_at_once():
    """3.4: with nobody there to take over, waiting helps nobody; a dead node is nobody."""
    assert departure(view(active(EMPTY, "a")), T) is Departure.ALONE
    dead = replace(view(active(EMPTY, "a")), members=live(B, now=at(-10)))
    assert departure(dead, T) is Departure.ALONE


def test_nobody_is_alone_because_the_store_was_away():
    """While nobody could be heard others may be there, so a node that leaves listens first."""
    back = at(60)
    ring = keyring.renew(active(EMPTY, "a"), [Kid("a")], timing=T, now=back)
    silent = replace(view(ring, now=back), members=live(A, B), watched_since=back, interrupted=True)
    assert departure(silent, T) is Departure.AWAITED
    assert departure(replace(silent, now=at(60 + HEARD_WITHIN)), T) is Departure.ALONE


def test_nobody_relies_on_a_node_that_was_not_heard_after_an_outage():
    """Its lease may still run, but it may have died while nobody could be heard."""
    back = at(60)
    ring = keyring.resign(proven(proven(EMPTY, "a", A), "b", B), A)
    ring = keyring.renew(ring, [Kid("a"), Kid("b")], timing=T, now=at(45))
    silent = replace(
        view(ring, now=back), members=live(A, B, now=at(45)), watched_since=back, interrupted=True
    )
    assert departure(silent, T) is Departure.AWAITED
    assert departure(replace(silent, members=live(A, B, now=back)), T) is Departure.COVERED


def test_a_node_that_signs_nothing_leaves_at_once():
    """Without an active key, past its lease, or with a clock that is off, there is nothing to hand over."""
    joining = prepared(active(EMPTY, "b", B), "a")
    assert departure(view(joining, B), T) is Departure.SIGNS_NOTHING
    ring = active(EMPTY, "a")
    assert departure(view(ring, B, now=at(T.lease)), T) is Departure.SIGNS_NOTHING
    assert departure(replace(view(ring, B), clock_off=True), T) is Departure.SIGNS_NOTHING


def test_a_node_waits_for_another_whose_key_is_known():
    """3.4: beside a node that joins it goes on, until that one's key has been public for the lead."""
    ring = keyring.resign(prepared(active(EMPTY, "a"), "b", B), A)
    assert departure(view(ring, B), T) is Departure.AWAITED
    ring = keyring.prove(ring, Kid("b"), now=NOW)
    ring = keyring.renew(ring, [Kid("a")], timing=T, now=at(T.lead))
    assert departure(view(ring, B, now=at(T.lead)), T) is Departure.AWAITED
    ring = keyring.activate(ring, Kid("b"), Activation.PROVEN, timing=T, now=at(T.lead))
    assert departure(view(ring, B, now=at(T.lead)), T) is Departure.COVERED


def test_a_key_without_proof_covers_nobody_before_its_lead_has_passed():
    """A bootstrap key is known everywhere a lead after its activation, and not sooner."""
    for passed, found in ((T.lead - 1, Departure.AWAITED), (T.lead, Departure.COVERED)):
        now = at(passed)
        ring = keyring.resign(proven(active(EMPTY, "b", B), "a", A), A)
        ring = keyring.renew(ring, [Kid("a"), Kid("b")], timing=T, now=now)
        assert departure(view(ring, B, now=now), T) is found


def test_a_node_that_does_not_renew_covers_nobody():
    """A node that is live but lets its lease pass will sign no more, so nobody leaves because of it."""
    ring = keyring.resign(proven(proven(EMPTY, "a", A), "b", B), A)
    assert departure(view(ring, B), T) is Departure.COVERED
    later = at(T.lease * 2 // 3)
    ring = keyring.renew(ring, [Kid("a")], timing=T, now=later)
    assert departure(view(ring, B, now=later), T) is Departure.AWAITED


def test_of_two_that_leave_beside_one_that_joins_both_wait():
    """Who has resigned covers nobody: else each would go because of the other, and no key would be left."""
    ring = prepared(proven(proven(EMPTY, "a", A), "b", B), "c", C)
    ring = keyring.resign(keyring.resign(ring, A), B)
    assert departure(view(ring, B, C), T) is Departure.AWAITED
    assert departure(view(ring, A, C, node=B), T) is Departure.AWAITED


def test_a_whole_cluster_stops_without_waiting():
    """Where every other live node has resigned too, nobody is there to hand over to."""
    ring = active(active(active(EMPTY, "a"), "b", B), "c", C)
    for node in (A, B, C):
        ring = keyring.resign(ring, node)
    for node in (A, B, C):
        assert departure(view(ring, A, B, C, node=node), T) is Departure.ALONE


def test_nobody_leaves_because_of_another_before_having_resigned():
    """Resigning comes first, or two could rely on one another; alone there is nobody to tell."""
    ring = proven(proven(EMPTY, "a", A), "b", B)
    assert departure(view(ring, B), T) is Departure.AWAITED
    assert departure(view(keyring.resign(ring, A), B), T) is Departure.COVERED


def test_resigning_changes_the_ring_once():
    """The active key signs on under its lease, a prepared one leaves, others' stay; twice is nothing new."""
    ring = prepared(proven(proven(EMPTY, "a", A), "b", B), "a2", A)
    after = keyring.resign(ring, A)
    assert after.generation == ring.generation + 1
    resigned = key(after, "a")
    assert resigned.is_resigned()
    assert replace(resigned, sign_until=key(ring, "a").sign_until) == key(ring, "a")
    assert after.find(Kid("a2")) is None
    assert not key(after, "b").is_resigned()
    assert keyring.resign(after, A) is after
    assert keyring.resign(EMPTY, A) is EMPTY


def test_no_key_looks_resigned_by_itself():
    """An activation sets a target after itself, however short ``rotate_every`` is."""
    assert not key(active(EMPTY, "a"), "a").is_resigned()
    assert not key(active(EMPTY, "a", timing=replace(T, rotate_every=Seconds(1))), "a").is_resigned()
    assert not key(prepared(EMPTY, "a"), "a").is_resigned()


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Ring, tuple[Member, ...]]:
    """Up to four nodes in any mix of states, ages and leases, some of them resigned, some of them dead."""
    ring, members = EMPTY, []
    for node in NODES[: draw(st.integers(1, 4))]:
        kind = draw(st.sampled_from(["none", "prepared", "bootstrap", "proven"]))
        if kind == "prepared":
            ring = prepared(ring, f"k-{node}", node)
        elif kind == "bootstrap":
            age = draw(st.sampled_from([0, 100, T.lead, 5000]))
            ring = active(ring, f"k-{node}", node, now=at(-age))
        elif kind == "proven":
            ring = proven(ring, f"k-{node}", node)
        renewed = draw(st.sampled_from([0, -30, -80, -119, -120, -500]))
        ring = replace(
            ring,
            keys=tuple(
                replace(k, lease_until=at(renewed + T.lease)) if k.node == node else k for k in ring.keys
            ),
        )
        if draw(st.booleans()):
            ring = keyring.resign(ring, node)
        if draw(st.booleans()):
            members.append(Member(node, at(draw(st.sampled_from([0, -9, -10, 60]))), 0))
    return ring, tuple(members)


def takes_over(found: Key, now: NumericDate, timing: Timing) -> bool:
    known_since = found.activated_at if found.activation is not Activation.PROVEN else NumericDate(0)
    return (
        found.state is KeyState.ACTIVE
        and found.sign_until != found.activated_at
        and now < found.lease_until
        and known_since is not None
        and now >= known_since + (0 if found.activation is Activation.PROVEN else timing.lead)
    )


@given(clusters())
def test_whoever_leaves_beside_others_leaves_one_that_signs(cluster: tuple[Ring, tuple[Member, ...]]):
    """3.4: a node that signs goes only if no other stays, or one stays that signs with a known key, which
    none of those that go by the same ring holds."""
    ring, members = cluster
    found = {}
    for node in NODES:
        decided = departure(View(ring=ring, members=members, node=node, now=NOW, leaving=True), T)
        found[node] = decided
        live_others = {m.node for m in members if -10 < NOW - m.seen_at < 10} - {node}
        covering = {k.node for k in ring.keys if takes_over(k, NOW, T)} & live_others
        if decided is Departure.COVERED:
            assert covering
        if decided is Departure.ALONE:
            staying = live_others - {k.node for k in ring.keys if k.is_resigned()}
            assert not staying
    gone = {node for node, decided in found.items() if decided is Departure.COVERED}
    assert not gone or {k.node for k in ring.keys if takes_over(k, NOW, T)} - gone


@given(clusters(), st.sampled_from(NODES))
def test_one_who_waits_is_missed(cluster: tuple[Ring, tuple[Member, ...]], node: NodeId):
    """A node waits only where it could sign and another one lives that is not leaving."""
    ring, members = cluster
    seen = View(ring=ring, members=members, node=node, now=NOW, leaving=True)
    if departure(seen, T) is not Departure.AWAITED:
        return
    own = ring.held_by(node, KeyState.ACTIVE)
    assert own is not None
    assert own.lease_until > NOW
    assert membership.staying_nodes(seen)


@pytest.mark.parametrize("state", ["active", "prepared"])
def test_every_departure_ends_once_the_other_has_learned(state: str):
    """Whatever the other node holds, once it is gone or its key is known the wait is over."""
    ring = (active if state == "active" else prepared)(active(EMPTY, "a"), "b", B)
    ring = keyring.resign(ring, A)
    assert departure(view(ring, B), T) is Departure.AWAITED
    assert departure(view(ring), T) is Departure.ALONE


# --- who may be gone -------------------------------------------------------------------------------


def test_only_nodes_that_missed_a_heartbeat_and_are_waited_for_are_silent():
    """A node that beats is never asked whether it is there: its address may be wrong, and itself may sign."""
    ring = prepared(active(EMPTY, "b", B), "c", C)
    placed = tuple(replace(member, address="127.0.0.1:1") for member in live(A, B, C, NODES[3]))

    def names(passed: int, members: tuple[Member, ...] = placed) -> list[NodeId]:
        seen = View(ring=ring, members=members, node=A, now=at(passed))
        return [member.node for member in membership.silent(seen)]

    assert names(SILENT_FOR - 1) == []
    assert names(SILENT_FOR) == [B, C]
    assert names(SILENT_FOR, live(A, B, C)) == [], "without an address there is nowhere to ask"
    heard = replace(placed[1], seen_at=at(3))
    assert names(SILENT_FOR, (placed[0], heard, placed[2])) == [C]


def test_after_an_outage_of_the_store_silence_counts_from_its_return():
    """While nobody could write a heartbeat, a missing one says nothing."""
    back = at(60)
    placed = tuple(replace(member, address="127.0.0.1:1") for member in live(A, B))
    view = View(
        ring=active(EMPTY, "b", B), members=placed, node=A, now=back, watched_since=back, interrupted=True
    )
    assert membership.silent(view) == ()
    assert membership.silent(replace(view, now=at(60 + SILENT_FOR))) == (placed[1],)


def test_a_node_that_is_gone_is_not_live():
    """However young its heartbeat is; and a node never takes itself for dead."""
    seen = View(ring=EMPTY, members=live(A, B, C), node=A, now=NOW, gone=frozenset({A, B}))
    assert membership.live_nodes(seen) == {A, C}
