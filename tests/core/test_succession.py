"""What is due when: leases, the first key, the next one, and the bounds. Defaults: L = 935 s, H = 120 s."""

import hashlib
from dataclasses import replace

from tests.core.rings import EMPTY, NOW, A, B, C, T, active, at, due, key, live, passive, prepared, revoked

from mintmark.core import base64url, keyring, succession
from mintmark.core.algorithm import Algorithm
from mintmark.core.key import DEFAULT_KIND, Activation, KeyKind, KeyMode
from mintmark.core.keyring import HEARD_WITHIN, LIVE_FOR, Member, Ring
from mintmark.core.succession import (
    ActivateKey,
    AlarmKind,
    DropKey,
    Effect,
    LapseKey,
    PrepareKey,
    ProveKey,
    RaiseAlarm,
    RenewLease,
    ResignKeys,
    RetireKey,
)
from mintmark.core.timing import Timing
from mintmark.units import Kid, NodeId, NumericDate

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
    assert due(EMPTY) == (PrepareKey(DEFAULT_KIND),)
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


def test_a_node_that_comes_back_waits_for_others_that_come_back():
    """K1: after an outage longer than the lease every lease has ended, and those who signed may be there."""
    ring = prepared(active(EMPTY, "a"), "b", B, now=at(T.lease))
    back = at(2 * T.lease)
    begin = ActivateKey(Kid("b"), Activation.BOOTSTRAP)

    def effects(passed: int, *, interrupted: bool) -> tuple[Effect, ...]:
        now = NumericDate(back + passed)
        return due(ring, B, served=("b",), now=now, watched_since=back, interrupted=interrupted)

    assert begin in effects(0, interrupted=False)
    assert begin not in effects(HEARD_WITHIN - 1, interrupted=True)
    assert begin in effects(HEARD_WITHIN, interrupted=True)


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
    assert due(ring, B, members=members) == (PrepareKey(DEFAULT_KIND),)


def test_an_emergency_is_told_from_a_bootstrap():
    """3.8: the lone node whose signing key was revoked activates its next key as an emergency."""
    ring = revoked(active(EMPTY, "a1"), "a1")
    assert due(ring) == (PrepareKey(DEFAULT_KIND),)
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
    when = succession.prepare_at(key(ring, "k"), T)
    assert latest - (T.rotate_every - T.prepare_before) // 10 <= when <= latest
    assert PrepareKey(DEFAULT_KIND) not in due(ring, now=NumericDate(when - 1))
    assert PrepareKey(DEFAULT_KIND) in due(ring, now=when)


def test_nodes_that_started_together_prepare_apart():
    """Of a hundred nodes that activated in one second, no ten prepare in the same ten seconds."""
    kids = [base64url.encode(hashlib.sha256(bytes([number])).digest()) for number in range(100)]
    when = sorted(succession.prepare_at(key(active(EMPTY, kid), kid), T) for kid in kids)
    assert all(later - sooner >= 10 for sooner, later in zip(when, when[9:], strict=False))


def test_a_proven_key_signs_after_the_lead_and_not_before():
    """K1: nothing is due in the lead; at its end the activation is, as a proven one."""
    asked = keyring.request_rotation(active(EMPTY, "k1"), now=NOW)
    ring = keyring.prove(prepared(asked, "k2"), Kid("k2"), now=NOW)
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
    assert PrepareKey(DEFAULT_KIND) in due(ring, now=at(5))
    ring = active(ring, "k2", now=at(6))
    assert PrepareKey(DEFAULT_KIND) not in due(ring, now=at(6))


def test_nodes_that_lag_behind_are_named():
    """3.3: a live node whose heartbeat reports an older ring than the key's may still answer 404."""
    ring = prepared(replace(EMPTY, generation=4), "k")
    members = (Member(A, NOW, 5), Member(B, NOW, 4), Member(C, at(-LIVE_FOR), 0))
    assert succession.unserved(key(ring, "k"), members, NOW) == (B,)


# --- what is due: bounds -------------------------------------------------------------------------------

SMALL = Timing(signers=2, jwks_limit=6)


def test_a_node_beyond_the_signers_takes_no_slot_and_says_so():
    """K6: as many sign as may, so it waits, and an operator hears of it; a slot that falls free is taken."""
    ring = active(active(EMPTY, "a"), "b", B)
    members = live(A, B, C)
    assert due(ring, C, members=members, timing=SMALL) == (RaiseAlarm(AlarmKind.NO_SLOT),)
    assert PrepareKey(DEFAULT_KIND) in due(
        keyring.release(ring, B, now=NOW), C, members=members, timing=SMALL
    )


def test_a_full_set_delays_a_rotation_and_alarms():
    """K6: at the limit a signer's successor waits, and an operator hears of it."""
    ring = active(EMPTY, "k")
    for number in range(5):
        ring = passive(ring, f"old{number}", C)
    ring = keyring.request_rotation(ring, now=NOW)
    assert due(ring, timing=SMALL) == (RaiseAlarm(AlarmKind.JWKS_LIMIT),)
    one_less = replace(ring, keys=ring.keys[:-1])
    assert due(one_less, timing=SMALL) == (PrepareKey(DEFAULT_KIND),)


def full() -> Ring:
    ring = EMPTY
    for number in range(6):
        ring = passive(ring, f"old{number}", C)
    return ring


def test_no_bound_prevents_a_bootstrap():
    """K6: with nobody signing a key is prepared beyond the limit, and the limit alarms."""
    later = at(T.lease)
    assert due(full(), now=later, timing=SMALL) == (PrepareKey(DEFAULT_KIND),)
    ring = active(full(), "a", now=later)
    assert RaiseAlarm(AlarmKind.JWKS_LIMIT) in due(ring, now=later, timing=SMALL)


def test_fifty_nodes_that_start_at_once_prepare_no_more_keys_than_there_are_slots():
    """K6: on an empty store only as many keys are prepared as nodes may sign."""
    nodes = [NodeId(f"n{number}") for number in range(50)]
    ring = EMPTY
    for node in nodes:
        if PrepareKey(DEFAULT_KIND) in due(ring, node, members=live(*nodes), timing=SMALL):
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
    assert PrepareKey(DEFAULT_KIND) in due(ring, B, now=later, members=live(B, now=later), timing=SMALL)
    stuck = at(2 * T.lease)
    assert PrepareKey(DEFAULT_KIND) in due(ring, B, now=stuck, members=live(A, B, now=stuck), timing=SMALL)


# --- what is due: leaving, and a clock that is off ------------------------------------------------------


def test_a_leaving_node_keeps_its_key_alive_and_takes_no_other():
    """3.4: it resigns first, renews its lease, and prepares, proves and activates nothing, however late."""
    ring = prepared(active(EMPTY, "a1"), "a2")
    assert due(ring, members=live(A, B), leaving=True) == (ResignKeys(),)
    ring = keyring.resign(ring, A)
    assert due(ring, members=live(A, B), leaving=True) == ()
    assert due(ring, now=at(40), members=live(A, B, now=at(40)), leaving=True) == (RenewLease((Kid("a1"),)),)
    late = at(2 * T.rotate_every)
    assert due(ring, now=late, members=live(A, B, now=late), leaving=True) == (RenewLease((Kid("a1"),)),)


def test_a_leaving_node_that_is_alone_tells_nobody():
    """A swap that nobody reads would only keep it."""
    assert due(active(EMPTY, "a"), members=live(A), leaving=True) == ()


def test_a_leaving_node_begins_no_cluster():
    """Told to leave before its first key signs, it prepares and activates none."""
    assert due(EMPTY, leaving=True) == ()
    assert due(prepared(EMPTY, "a"), served=("a",), leaving=True) == ()


def test_the_slot_of_a_node_that_leaves_is_free():
    """K6: with as many signers as may be, the one that takes over need not wait until it is gone."""
    ring = active(active(EMPTY, "a"), "b", B)
    members = live(A, B, C)
    assert due(ring, C, members=members, timing=SMALL) == (RaiseAlarm(AlarmKind.NO_SLOT),)
    assert due(keyring.resign(ring, A), C, members=members, timing=SMALL) == (PrepareKey(DEFAULT_KIND),)


def test_a_node_whose_clock_is_off_takes_no_key_further():
    """I10, F08: it prepares, proves, activates and renews nothing, and says so."""
    drifted = RaiseAlarm(AlarmKind.CLOCK_DRIFTED)
    assert due(EMPTY, clock_off=True) == (drifted,)
    assert due(prepared(EMPTY, "a"), served=("a",), clock_off=True) == (drifted,)
    ring = keyring.prove(prepared(active(EMPTY, "a1"), "a2"), Kid("a2"), now=NOW)
    late = at(T.lead)
    assert due(ring, now=late, clock_off=True) == (drifted,)


def test_a_node_whose_clock_is_off_ends_no_key():
    """K2, I8: where all are off it is the store's clock that moved, and by that one nothing has expired."""
    ring = passive(active(EMPTY, "b", B), "c", C)
    late = at(10 * T.rotate_every)
    assert due(ring, now=late, clock_off=True) == (RaiseAlarm(AlarmKind.CLOCK_DRIFTED),)
    assert due(ring, now=late) != due(ring, now=late, clock_off=True)


def test_a_signer_whose_clock_is_off_holds_up_others_for_a_lease():
    """It is live and mints nothing: once its lease has ended another begins, and it goes on when it can."""
    ring = prepared(active(EMPTY, "a"), "b", B, now=at(60))
    for passed, begins in ((T.lease - 1, False), (T.lease, True)):
        now = at(passed)
        members = live(A, B, now=now)
        if begins:
            assert LapseKey(Kid("a")) in due(ring, B, now=now, members=members, served=("b",))
            ring = keyring.lapse(ring, Kid("a"), now=now)
        bootstrap = ActivateKey(Kid("b"), Activation.BOOTSTRAP)
        assert (bootstrap in due(ring, B, now=now, members=members, served=("b",))) is begins
    assert PrepareKey(DEFAULT_KIND) in due(ring, now=at(T.lease), members=live(A, B, now=at(T.lease)))


def test_a_node_that_was_not_heard_of_renews_at_once():
    """K1: who took it for dead has decided on a ring that is another one now."""
    ring = active(EMPTY, "a")
    back = at(15)
    assert due(ring, now=back, watched_since=back) == (RenewLease((Kid("a"),)),)
    ring = keyring.renew(ring, [Kid("a")], timing=T, now=back)
    assert due(ring, now=back, watched_since=back) == ()


# --- nodes that are known to be gone ---------------------------------------------------------------


def test_nobody_waits_for_a_node_that_is_known_to_be_gone():
    """K6: its young heartbeat, its running lease and its prepared key hold up no bootstrap."""
    ring = prepared(active(EMPTY, "b", B), "a")
    now, beaten = at(5), live(B)

    def effects(*gone: NodeId) -> tuple[Effect, ...]:
        return due(ring, now=now, members=beaten, served=("a",), watched_since=now, gone=gone)

    assert ActivateKey(Kid("a"), Activation.BOOTSTRAP) in effects(B)
    assert not any(isinstance(effect, ActivateKey) for effect in effects() + effects(C))

    later = at(T.lease)
    begun = prepared(full(), "b", B, now=later)

    def preparing(*gone: NodeId) -> bool:
        effects = due(begun, now=later, members=live(B, now=later), timing=SMALL, gone=gone)
        return PrepareKey(DEFAULT_KIND) in effects

    assert preparing(B)
    assert not preparing()


def test_a_key_of_a_gone_node_leaves_without_a_watch_and_never_before_its_time():
    """K2: one that never signed goes at once, one that signs when its lease has ended, others as ever."""
    ring = prepared(active(passive(EMPTY, "c", C), "b1", B), "b2", B)

    def ends(passed: int, *gone: NodeId) -> list[Effect]:
        now = at(passed)
        return [
            effect
            for effect in due(ring, now=now, watched_since=now, gone=gone)
            if isinstance(effect, DropKey | LapseKey | RetireKey)
        ]

    assert ends(5, B) == [DropKey(Kid("b2"))]
    assert ends(T.lease - 1, B) == [DropKey(Kid("b2"))]
    assert ends(T.lease, B) == [LapseKey(Kid("b1")), DropKey(Kid("b2"))]
    assert ends(T.lease) == []


def test_a_key_of_the_cluster_is_not_gone_with_the_node_that_made_it():
    """Whoever made it, others hold it: it is neither dropped nor passed over."""
    wanted = KeyKind(KeyMode.SHARED, Algorithm.RS256)
    ring = keyring.prepare(
        EMPTY,
        kid=Kid("s"),
        node=B,
        alg="RS256",
        jwk=b"{}",
        timing=T,
        now=NOW,
        mode=KeyMode.SHARED,
        sealed=b"s",
        kind=wanted,
    )
    assert DropKey(Kid("s")) not in due(ring, now=at(5), gone=(B,))
    signing = prepared(keyring.activate(ring, Kid("s"), Activation.BOOTSTRAP, timing=T, now=NOW), "a")
    own = replace(signing, kind=DEFAULT_KIND)
    effects = due(own, now=at(5), members=live(B), served=("a",), watched_since=at(5), gone=(B,))
    assert not any(isinstance(effect, ActivateKey) for effect in effects)
