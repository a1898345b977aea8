"""Keys one by one: what is due when, and what each effect makes of a ring. Defaults: L = 935 s, H = 120 s."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.core import base64url, keyring
from mintmark.core.keyring import (
    HEARD_WITHIN,
    LIVE_FOR,
    MAX_STALE,
    PUBLISHED,
    REVOCATION_KEPT,
    TRANSITIONS,
    ActivateKey,
    Activation,
    AlarmKind,
    Effect,
    InvalidTransition,
    Key,
    KeyEvent,
    KeyState,
    LapseKey,
    Member,
    PrepareKey,
    ProveKey,
    RaiseAlarm,
    RenewLease,
    RetireKey,
    Ring,
    View,
)
from mintmark.core.revocation import Kind
from mintmark.core.timing import Timing
from mintmark.units import Issuer, Kid, NodeId, NumericDate, Seconds

T = Timing()
A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
NOW = NumericDate(1_000_000)
EMPTY = Ring(issuer=Issuer("https://auth.example.com"))


def at(offset: int) -> NumericDate:
    return NumericDate(NOW + offset)


def prepared(ring: Ring, kid: str, node: NodeId = A, *, now: NumericDate = NOW, timing: Timing = T) -> Ring:
    return keyring.prepare(ring, kid=Kid(kid), node=node, alg="RS256", jwk=b"{}", timing=timing, now=now)


def active(ring: Ring, kid: str, node: NodeId = A, *, now: NumericDate = NOW, timing: Timing = T) -> Ring:
    ring = prepared(ring, kid, node, now=now, timing=timing)
    return keyring.activate(ring, Kid(kid), Activation.BOOTSTRAP, timing=timing, now=now)


def passive(ring: Ring, kid: str, node: NodeId = A, *, now: NumericDate = NOW, timing: Timing = T) -> Ring:
    ring = active(ring, kid, node, now=now, timing=timing)
    return keyring.lapse(ring, Kid(kid), now=NumericDate(now + timing.lease))


def key(ring: Ring, kid: str) -> Key:
    found = ring.find(Kid(kid))
    assert found is not None
    return found


def live(*nodes: NodeId, now: NumericDate = NOW, generation: int = 0) -> tuple[Member, ...]:
    return tuple(Member(node, now, generation) for node in nodes)


def due(
    ring: Ring,
    node: NodeId = A,
    *,
    now: NumericDate = NOW,
    members: tuple[Member, ...] = (),
    served: tuple[str, ...] = (),
    watched_since: NumericDate = NumericDate(0),
    timing: Timing = T,
) -> tuple[Effect, ...]:
    view = View(
        ring=ring,
        members=members,
        node=node,
        now=now,
        served=frozenset(map(Kid, served)),
        watched_since=watched_since,
    )
    return keyring.due(view, timing)


# --- states ----------------------------------------------------------------------------------------


def test_every_state_but_retired_can_be_left_and_reached():
    """No state is a trap: a key moves on from each, and each follows from ``prepared``."""
    reached = {KeyState.PREPARED}
    for _ in KeyState:
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(KeyState)
    assert {before for before, _ in TRANSITIONS} == set(KeyState) - {KeyState.RETIRED}


def test_every_published_key_can_be_revoked_and_no_revoked_one_comes_back():
    """3.1: from any state in the JWKS to ``revoked``, and from there only into oblivion."""
    for state in PUBLISHED:
        assert TRANSITIONS[state, KeyEvent.REVOKED] is KeyState.REVOKED
    assert [after for (before, _), after in TRANSITIONS.items() if before is KeyState.REVOKED] == [
        KeyState.RETIRED
    ]


def test_only_activation_leads_to_signing():
    """K1: a key becomes active in one way, from ``prepared``."""
    assert [pair for pair, after in TRANSITIONS.items() if after is KeyState.ACTIVE] == [
        (KeyState.PREPARED, KeyEvent.ACTIVATED)
    ]


@pytest.mark.parametrize("state", KeyState)
@pytest.mark.parametrize("event", KeyEvent)
def test_a_transition_outside_the_table_is_refused(state: KeyState, event: KeyEvent):
    """``step`` knows the table and nothing beside it."""
    subject = replace(key(prepared(EMPTY, "k"), "k"), state=state)
    if (state, event) in TRANSITIONS:
        assert keyring.step(subject, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(InvalidTransition):
            keyring.step(subject, event)


# --- from ring to ring -------------------------------------------------------------------------------


def test_a_prepared_key_is_public_and_names_the_generation_that_first_had_it():
    """``since`` is the generation that a heartbeat must report before the node is known to serve it."""
    ring = prepared(replace(EMPTY, generation=7), "k")
    assert ring.generation == 8
    assert key(ring, "k").since == 8
    assert [k.kid for k in ring.published()] == ["k"]
    assert key(ring, "k").lease_until == NOW + T.lease


def test_a_name_is_never_bound_twice():
    """3.1: a ``kid`` that the ring knows, revoked or not, is not prepared again."""
    for ring in (prepared(EMPTY, "k"), revoked(prepared(EMPTY, "k"), "k")):
        with pytest.raises(InvalidTransition):
            prepared(ring, "k", B)


def test_the_lead_counts_from_the_first_proof():
    """A second proof does not start the lead anew, and only a prepared key has one."""
    ring = keyring.prove(prepared(EMPTY, "k"), Kid("k"), now=at(10))
    assert key(keyring.prove(ring, Kid("k"), now=at(99)), "k").proven_at == at(10)
    with pytest.raises(InvalidTransition):
        keyring.prove(active(EMPTY, "k"), Kid("k"), now=NOW)


def test_a_proven_activation_waits_for_the_whole_lead():
    """K1: refused one second before the lead has passed and taken at its end; refused without a proof."""
    ring = prepared(EMPTY, "k")
    with pytest.raises(InvalidTransition):
        keyring.activate(ring, Kid("k"), Activation.PROVEN, timing=T, now=at(10**6))
    ring = keyring.prove(ring, Kid("k"), now=NOW)
    with pytest.raises(InvalidTransition):
        keyring.activate(ring, Kid("k"), Activation.PROVEN, timing=T, now=at(T.lead - 1))
    signing = key(keyring.activate(ring, Kid("k"), Activation.PROVEN, timing=T, now=at(T.lead)), "k")
    assert signing.state is KeyState.ACTIVE
    assert signing.activation is Activation.PROVEN
    assert signing.sign_until == at(T.lead + T.rotate_every)
    assert signing.lease_until == at(T.lead + T.lease)
    assert signing.publish_until == T.covered_until(signing.lease_until)


def test_activation_supersedes_the_former_key_of_that_node_alone():
    """The node's former key only verifies from then on; other nodes' keys are untouched."""
    ring = active(active(EMPTY, "b", B), "a1")
    ring = active(ring, "a2", now=at(5))
    assert key(ring, "a1").state is KeyState.PASSIVE
    assert key(ring, "a1").publish_until == T.covered_until(at(T.lease))
    assert key(ring, "b").state is KeyState.ACTIVE
    assert ring.held_by(A, KeyState.ACTIVE) == key(ring, "a2")


def test_renewal_raises_what_is_covered_and_never_lowers_it():
    """K3, RING-7: ``publish_until`` follows the lease up; a late, stale renewal changes neither."""
    ring = active(EMPTY, "k")
    later = keyring.renew(ring, [Kid("k")], timing=T, now=at(60))
    assert key(later, "k").lease_until == at(60 + T.lease)
    assert key(later, "k").publish_until == T.covered_until(at(60 + T.lease))
    stale = keyring.renew(later, [Kid("k")], timing=T, now=at(30))
    assert key(stale, "k") == key(later, "k")


def test_a_prepared_key_renews_its_lease_and_covers_nothing():
    """K6: what never signed stays for its lease alone."""
    ring = keyring.renew(prepared(EMPTY, "k"), [Kid("k")], timing=T, now=at(60))
    assert key(ring, "k").lease_until == at(60 + T.lease)
    assert key(ring, "k").publish_until == 0


def test_keys_that_do_not_sign_renew_nothing():
    """K7: a revoked, passive or forgotten key keeps the lease it had, and the ring its generation."""
    for ring in (passive(EMPTY, "k"), revoked(active(EMPTY, "k"), "k"), EMPTY):
        assert keyring.renew(ring, [Kid("k")], timing=T, now=at(10**6)) is ring


def test_a_key_lapses_when_its_lease_ends_and_not_before():
    """An active key verifies on; one that never signed leaves at once (K6)."""
    with pytest.raises(InvalidTransition):
        keyring.lapse(active(EMPTY, "k"), Kid("k"), now=at(T.lease - 1))
    assert key(keyring.lapse(active(EMPTY, "k"), Kid("k"), now=at(T.lease)), "k").state is KeyState.PASSIVE
    assert keyring.lapse(prepared(EMPTY, "k"), Kid("k"), now=at(T.lease)).keys == ()


def test_a_key_retires_when_its_last_token_is_beyond_every_leeway():
    """K2: the default is lease + 900 + 300 + 30 seconds; one second earlier is refused."""
    ring = passive(EMPTY, "k")
    end = T.lease + 900 + 300 + 30
    with pytest.raises(InvalidTransition):
        keyring.retire(ring, Kid("k"), now=at(end - 1))
    assert keyring.retire(ring, Kid("k"), now=at(end)).keys == ()


def test_a_key_that_signs_or_will_sign_never_retires():
    """Only passive and revoked keys are forgotten, whatever the time."""
    for ring in (active(EMPTY, "k"), prepared(EMPTY, "k")):
        with pytest.raises(InvalidTransition):
            keyring.retire(ring, Kid("k"), now=at(10**9))


def revoked(ring: Ring, kid: str, *, now: NumericDate = NOW) -> Ring:
    return keyring.revoke(ring, Kid(kid), reason="leaked", timing=T, now=now)[0]


def test_revocation_takes_a_key_out_of_the_set_at_once():
    """K7, 3.8: from any state, for any node's key, with an event that lives as long as the row."""
    for ring in (prepared(EMPTY, "k", B), active(EMPTY, "k", B), passive(EMPTY, "k", B)):
        after, event = keyring.revoke(ring, Kid("k"), reason="leaked", timing=T, now=NOW)
        assert after.published() == ()
        assert (key(after, "k").revoked_at, key(after, "k").reason) == (NOW, "leaked")
        assert (event.kind, event.value) == (Kind.KID, "k")
        assert event.expires_at == key(after, "k").publish_until >= NOW + REVOCATION_KEPT


@given(st.integers(0, 40 * 86_400), st.integers(0, 40 * 86_400))
def test_a_revocation_outlives_whatever_a_verifier_may_hold(cached: int, published: int):
    """3.8: max(max_stale, remaining publication) + C, at least seven days; never less than was published."""
    timing = replace(T, verifier_cache=Seconds(cached))
    ring = passive(EMPTY, "k")
    ring = replace(ring, keys=(replace(key(ring, "k"), publish_until=at(published)),))
    after, event = keyring.revoke(ring, Kid("k"), reason="", timing=timing, now=NOW)
    assert event.expires_at == at(max(max(MAX_STALE, published) + cached, 7 * 86_400))
    assert key(after, "k").publish_until >= at(published)


def test_nothing_moves_a_revoked_key_but_time():
    """K7: it is not activated, proven, renewed, lapsed or revoked again; it is forgotten when its row may."""
    ring = revoked(active(EMPTY, "k"), "k")
    far = at(10**6)
    with pytest.raises(InvalidTransition):
        keyring.activate(ring, Kid("k"), Activation.EMERGENCY, timing=T, now=far)
    with pytest.raises(InvalidTransition):
        keyring.prove(ring, Kid("k"), now=far)
    with pytest.raises(InvalidTransition):
        keyring.lapse(ring, Kid("k"), now=far)
    with pytest.raises(InvalidTransition):
        revoked(ring, "k", now=far)
    with pytest.raises(InvalidTransition):
        keyring.retire(ring, Kid("k"), now=at(REVOCATION_KEPT - 1))
    assert keyring.retire(ring, Kid("k"), now=at(REVOCATION_KEPT)).keys == ()


def test_effects_on_a_key_that_left_are_refused():
    """A ring that changed meanwhile is noticed, not written over."""
    for effect in (
        lambda: keyring.prove(EMPTY, Kid("k"), now=NOW),
        lambda: keyring.activate(EMPTY, Kid("k"), Activation.BOOTSTRAP, timing=T, now=NOW),
        lambda: keyring.lapse(EMPTY, Kid("k"), now=NOW),
        lambda: keyring.retire(EMPTY, Kid("k"), now=NOW),
        lambda: revoked(EMPTY, "k"),
    ):
        with pytest.raises(InvalidTransition):
            effect()


def test_a_node_that_leaves_keeps_its_tokens_valid():
    """3.4: its active key verifies on for as long as it would have, its prepared one goes, others stay."""
    ring = prepared(active(active(EMPTY, "b", B), "a1"), "a2")
    after = keyring.release(ring, A, now=at(5))
    assert key(after, "a1").state is KeyState.PASSIVE
    assert key(after, "a1").publish_until == key(ring, "a1").publish_until
    assert key(after, "a1").lease_until == at(5)
    assert after.find(Kid("a2")) is None
    assert key(after, "b") == key(ring, "b")
    assert keyring.release(after, A, now=at(6)) is after


def test_every_change_is_a_new_generation():
    """The store's compare-and-swap sees each change, because each counts the generation up by one."""
    ring = EMPTY
    for change in (
        lambda r: prepared(r, "k"),
        lambda r: keyring.prove(r, Kid("k"), now=NOW),
        lambda r: keyring.activate(r, Kid("k"), Activation.PROVEN, timing=T, now=at(T.lead)),
        lambda r: keyring.renew(r, [Kid("k")], timing=T, now=at(T.lead + 60)),
        lambda r: keyring.request_rotation(r, now=NOW),
        lambda r: keyring.lapse(r, Kid("k"), now=at(10**5)),
        lambda r: keyring.retire(r, Kid("k"), now=at(10**6)),
    ):
        after = change(ring)
        assert after.generation == ring.generation + 1
        ring = after


# --- what is due: leases -----------------------------------------------------------------------------


def test_a_lease_is_renewed_at_a_third_of_its_life():
    """Two attempts may fail before it ends: due from 40 s of 120 on, for prepared and active keys at once."""
    ring = prepared(active(EMPTY, "a1"), "a2")
    assert RenewLease((Kid("a1"), Kid("a2"))) not in due(ring, now=at(39))
    assert due(ring, now=at(40))[0] == RenewLease((Kid("a1"), Kid("a2")))


def test_a_node_renews_no_lease_but_its_own():
    """A lease is renewed by the node whose signer holds the key, and by nobody for a dead one."""
    assert not [e for e in due(active(EMPTY, "b", B), now=at(60)) if isinstance(e, RenewLease)]


def test_a_node_renews_its_own_lease_however_late():
    """After a pause past its lease the key is still public, so nothing is lost by going on with it."""
    effects = due(active(EMPTY, "k"), now=at(10 * T.lease))
    assert effects[0] == RenewLease((Kid("k"),))
    assert LapseKey(Kid("k")) not in effects


def test_a_lease_that_ended_is_noted_by_others():
    """A dead node's key is noted at the very end of its lease, by any other node."""
    ring = active(active(EMPTY, "a"), "b", B)
    assert LapseKey(Kid("b")) not in due(ring, now=at(T.lease - 1))
    assert LapseKey(Kid("b")) in due(ring, now=at(T.lease))


def test_what_may_be_forgotten_is_forgotten_by_anyone():
    """Passive and revoked keys of dead nodes leave at ``publish_until``."""
    ring = passive(EMPTY, "k", B)
    end = key(ring, "k").publish_until
    assert RetireKey(Kid("k")) not in due(ring, now=NumericDate(end - 1))
    assert RetireKey(Kid("k")) in due(ring, now=end)


# --- what is due: the first key ------------------------------------------------------------------------


def test_an_empty_cluster_begins_at_once():
    """3.4: nobody signs, so a key is prepared, and signs as soon as the node serves it."""
    assert due(EMPTY) == (PrepareKey(),)
    ring = prepared(EMPTY, "k")
    assert due(ring) == ()
    assert due(ring, served=("k",)) == (ActivateKey(Kid("k"), Activation.BOOTSTRAP),)


def test_the_loser_of_a_bootstrap_proves_its_key_like_anyone():
    """K1: once one node signs, the other waits for proof and lead."""
    ring = active(prepared(EMPTY, "b", B), "a")
    assert due(ring, B, members=live(A, B), served=("b",)) == (ProveKey(Kid("b")),)


def test_the_winner_of_a_bootstrap_is_not_contested_for_want_of_a_heartbeat():
    """K1: the write that activated the key is a sign of life, even if no heartbeat row is there yet."""
    ring = active(prepared(EMPTY, "b", B), "a")
    assert due(ring, B, served=("b",)) == (ProveKey(Kid("b")),)
    gone = at(LIVE_FOR)
    assert due(ring, B, served=("b",), now=gone) == (ActivateKey(Kid("b"), Activation.BOOTSTRAP),)


def test_an_active_key_of_a_dead_node_holds_up_nobody():
    """Ten seconds after its last sign of life a node is dead, and the next one may begin."""
    ring = prepared(active(EMPTY, "a"), "b", B, now=at(30))
    members = live(A, now=at(30))
    assert due(ring, B, members=members, served=("b",), now=at(39)) == (ProveKey(Kid("b")),)
    assert due(ring, B, members=members, served=("b",), now=at(40))[0] == ActivateKey(
        Kid("b"), Activation.BOOTSTRAP
    )


def test_an_outage_of_the_store_makes_nobody_look_dead():
    """K1: heartbeats that nobody could write prove nothing, so who has just come back waits and looks."""
    ring = prepared(active(EMPTY, "a"), "b", B)
    stale = live(A, B, now=NOW)
    back = at(60)
    assert due(ring, B, members=stale, served=("b",), now=back, watched_since=back)[-1] == ProveKey(Kid("b"))
    watched = at(60 + LIVE_FOR)
    assert ActivateKey(Kid("b"), Activation.BOOTSTRAP) in due(
        ring, B, members=stale, served=("b",), now=watched, watched_since=back
    )


def test_a_cold_start_waits_for_no_lease_that_has_ended():
    """After a power cut longer than the lease nobody can be signing, so a new node begins at once."""
    ring = prepared(active(EMPTY, "a"), "b", B, now=at(T.lease))
    now = at(T.lease)
    assert ActivateKey(Kid("b"), Activation.BOOTSTRAP) in due(
        ring, B, served=("b",), now=now, watched_since=now
    )


def test_an_outage_of_the_store_ends_no_lease():
    """Who comes back first after an outage longer than the lease does not take others' keys from them."""
    ring = active(active(EMPTY, "a"), "b", B)
    back = at(2 * T.lease)
    assert LapseKey(Kid("b")) not in due(ring, now=back, watched_since=back)
    assert LapseKey(Kid("b")) not in due(ring, now=at(2 * T.lease + HEARD_WITHIN - 1), watched_since=back)
    assert LapseKey(Kid("b")) in due(ring, now=at(2 * T.lease + HEARD_WITHIN), watched_since=back)


def test_a_heartbeat_from_the_future_is_no_sign_of_life():
    """After the store's clock was set back, a dead node does not live on until time has caught up."""
    assert Member(A, at(LIVE_FOR - 1), 0).is_live(NOW)
    assert not Member(A, at(3600), 0).is_live(NOW)
    ring = active(EMPTY, "a", now=at(3600))
    members = live(A, now=at(3600))
    assert due(ring, B, members=members) == (PrepareKey(),)


def test_an_emergency_is_told_from_a_bootstrap():
    """3.8: the lone node whose signing key was revoked activates its next key as an emergency."""
    ring = revoked(active(EMPTY, "a1"), "a1")
    assert due(ring) == (PrepareKey(),)
    assert due(prepared(ring, "a2"), served=("a2",)) == (ActivateKey(Kid("a2"), Activation.EMERGENCY),)


def test_a_revoked_node_waits_while_another_signs():
    """K1: an emergency needs nobody who signs; with a live signer the successor is proven as usual."""
    ring = prepared(revoked(active(active(EMPTY, "b", B), "a1"), "a1"), "a2")
    assert due(ring, members=live(A, B), served=("a2",)) == (ProveKey(Kid("a2")),)


# --- what is due: the next key -------------------------------------------------------------------------


def test_a_successor_is_prepared_a_lead_and_a_max_age_before_the_end():
    """3.2: at sign_until - L - M at the latest, and at most a tenth of the span earlier."""
    ring = active(EMPTY, "k")
    latest = NOW + T.rotate_every - T.prepare_before
    when = keyring.prepare_at(key(ring, "k"), T)
    assert latest - (T.rotate_every - T.prepare_before) // 10 <= when <= latest
    assert PrepareKey() not in due(ring, now=NumericDate(when - 1))
    assert PrepareKey() in due(ring, now=when)


def test_nodes_that_started_together_prepare_apart():
    """Of a hundred nodes that activated in one second, no ten prepare in the same ten seconds."""
    kids = [base64url.encode(hashlib.sha256(bytes([number])).digest()) for number in range(100)]
    when = sorted(keyring.prepare_at(key(active(EMPTY, kid), kid), T) for kid in kids)
    assert all(later - sooner >= 10 for sooner, later in zip(when, when[9:], strict=False))


def test_a_proven_key_signs_after_the_lead_and_not_before():
    """K1: nothing is due in the lead; at its end the activation is, as a proven one."""
    ring = keyring.prove(prepared(active(EMPTY, "k1"), "k2"), Kid("k2"), now=NOW)
    assert not [e for e in due(ring, now=at(T.lead - 1)) if isinstance(e, ActivateKey)]
    assert ActivateKey(Kid("k2"), Activation.PROVEN) in due(ring, now=at(T.lead))


def test_a_key_without_proof_never_signs_while_another_does():
    """3.3: no proof, no activation, however late; the alarm sounds and the old key signs on."""
    ring = prepared(active(EMPTY, "k1"), "k2")
    effects = due(ring, now=at(10 * T.rotate_every), members=live(A, now=at(10 * T.rotate_every)))
    assert ProveKey(Kid("k2")) in effects
    assert RaiseAlarm(AlarmKind.ROTATION_OVERDUE, Kid("k1")) in effects
    assert not [e for e in effects if isinstance(e, ActivateKey)]


def test_rotation_is_overdue_from_the_target_on():
    """``sign_until`` is a target: past it the alarm sounds and the key is still active."""
    ring = active(EMPTY, "k")
    alarm = RaiseAlarm(AlarmKind.ROTATION_OVERDUE, Kid("k"))
    assert alarm not in due(ring, now=at(T.rotate_every - 1))
    assert alarm in due(ring, now=at(T.rotate_every))


def test_an_operator_can_ask_for_new_keys():
    """Every key that was active when the operator asked has a successor due; a newer one has not."""
    ring = keyring.request_rotation(active(EMPTY, "k1"), now=at(5))
    assert PrepareKey() in due(ring, now=at(5))
    ring = active(ring, "k2", now=at(6))
    assert PrepareKey() not in due(ring, now=at(6))


def test_nodes_that_lag_behind_are_named():
    """3.3: a live node whose heartbeat reports an older ring than the key's may still answer 404."""
    ring = prepared(replace(EMPTY, generation=4), "k")
    members = (Member(A, NOW, 5), Member(B, NOW, 4), Member(C, at(-LIVE_FOR), 0))
    assert keyring.unserved(key(ring, "k"), members, NOW) == (B,)


# --- what is due: bounds -------------------------------------------------------------------------------

SMALL = Timing(signers=2, jwks_limit=6)


def test_a_node_beyond_the_signers_takes_no_slot_and_alarms_nobody():
    """K6: it mints through a peer, which is no fault; a slot that falls free is taken."""
    ring = active(active(EMPTY, "a"), "b", B)
    members = live(A, B, C)
    assert due(ring, C, members=members, timing=SMALL) == ()
    assert PrepareKey() in due(keyring.release(ring, B, now=NOW), C, members=members, timing=SMALL)


def test_a_full_set_delays_a_rotation_and_alarms():
    """K6: at the limit a signer's successor waits, and an operator hears of it."""
    ring = active(EMPTY, "k")
    for number in range(5):
        ring = passive(ring, f"old{number}", C)
    ring = keyring.request_rotation(ring, now=NOW)
    assert due(ring, timing=SMALL) == (RaiseAlarm(AlarmKind.JWKS_LIMIT),)
    one_less = replace(ring, keys=ring.keys[:-1])
    assert due(one_less, timing=SMALL) == (PrepareKey(),)


def full() -> Ring:
    ring = EMPTY
    for number in range(6):
        ring = passive(ring, f"old{number}", C)
    return ring


def test_no_bound_prevents_a_bootstrap():
    """K6: with nobody signing a key is prepared beyond the limit, and the limit alarms."""
    later = at(T.lease)
    assert due(full(), now=later, timing=SMALL) == (PrepareKey(),)
    ring = active(full(), "a", now=later)
    assert RaiseAlarm(AlarmKind.JWKS_LIMIT) in due(ring, now=later, timing=SMALL)


def test_fifty_nodes_that_start_at_once_prepare_no_more_keys_than_there_are_slots():
    """K6: on an empty store only as many keys are prepared as nodes may sign."""
    nodes = [NodeId(f"n{number}") for number in range(50)]
    ring = EMPTY
    for node in nodes:
        if PrepareKey() in due(ring, node, members=live(*nodes), timing=SMALL):
            ring = prepared(ring, f"k-{node}", node)
    assert len(ring.keys) == SMALL.signers


def test_one_node_at_a_time_goes_beyond_the_bounds():
    """K6: while a live node is about to sign, a second one does not go beyond the limit as well."""
    later = at(T.lease)
    ring = prepared(full(), "a", now=later)
    assert due(ring, B, now=later, members=live(A, B, now=later), timing=SMALL) == (
        RaiseAlarm(AlarmKind.JWKS_LIMIT),
    )
    # Should that node be stuck, or dead, the next one does not wait for ever.
    assert PrepareKey() in due(ring, B, now=later, members=live(B, now=later), timing=SMALL)
    stuck = at(2 * T.lease)
    assert PrepareKey() in due(ring, B, now=stuck, members=live(A, B, now=stuck), timing=SMALL)


# --- watching ------------------------------------------------------------------------------------------


def test_a_watch_lasts_while_the_store_is_read_without_a_gap():
    """Reads less than half of LIVE_FOR apart are one watch; a gap, or a clock that goes back, begins anew."""
    watch = keyring.Watch(NOW, NOW)
    for offset in (0, 4, 8, 12):
        watch = watch.read(at(offset))
    assert watch.since == NOW
    assert watch.read(at(17)).since == at(17)
    assert watch.read(at(11)).since == at(11)
