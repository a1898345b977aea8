"""Keys one by one: their states, and what each change makes of a ring. Defaults: L = 935 s, H = 120 s."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.rings import EMPTY, NOW, A, B, T, active, at, key, passive, prepared, revoked

from mintmark.core import keyring
from mintmark.core.key import PUBLISHED, TRANSITIONS, Activation, KeyEvent, KeyState
from mintmark.core.keyring import MAX_STALE, REVOCATION_KEPT, InvalidTransition
from mintmark.core.revocation import Kind
from mintmark.units import Kid, Seconds

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
