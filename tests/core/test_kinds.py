"""Keys of the cluster, kinds of key, and the way from one to another. Defaults: L = 935 s, H = 120 s."""

from dataclasses import replace

import pytest
from tests.core.rings import EMPTY, NOW, A, B, C, T, active, at, key, passive, prepared, revoked

from mintmark.core import keyring, succession
from mintmark.core.algorithm import Algorithm
from mintmark.core.key import Activation, KeyKind, KeyMode, KeyState
from mintmark.core.keyring import InvalidTransition, KeyInUse, Member, MixedAlgorithms, Ring
from mintmark.core.membership import Departure, View, departure, wanted
from mintmark.core.succession import (
    ActivateKey,
    AlarmKind,
    DropKey,
    Effect,
    LapseKey,
    PrepareKey,
    ProveKey,
    RaiseAlarm,
    ReleaseKeys,
    RenewLease,
    SupersedeKey,
)
from mintmark.core.timing import MAX_LEEWAY
from mintmark.units import Kid, NodeId, NumericDate

OWN = KeyKind(KeyMode.OWN, Algorithm.RS256)
SHARED = KeyKind(KeyMode.SHARED, Algorithm.RS256)
ES256 = KeyKind(KeyMode.SHARED, Algorithm.ES256)
IN_TOKEN = KeyKind(KeyMode.HSM, Algorithm.RS256)
EDDSA = KeyKind(KeyMode.OWN, Algorithm.EDDSA)
ALL = frozenset(KeyMode)
CLUSTERS = pytest.mark.parametrize("kind", [SHARED, IN_TOKEN], ids=str)


def made(ring: Ring, kid: str, kind: KeyKind, node: NodeId = A, *, now: NumericDate = NOW) -> Ring:
    """A prepared key of the cluster."""
    sealed = b"sealed" if kind.mode is KeyMode.SHARED else None
    return keyring.prepare(
        ring,
        kid=Kid(kid),
        node=node,
        alg=kind.alg.value,
        jwk=b"{}",
        timing=T,
        now=now,
        mode=kind.mode,
        sealed=sealed,
        kind=kind,
    )


def signing(kid: str, kind: KeyKind, ring: Ring = EMPTY, *, now: NumericDate = NOW) -> Ring:
    """An active key of the cluster."""
    return keyring.activate(made(ring, kid, kind, now=now), Kid(kid), Activation.BOOTSTRAP, timing=T, now=now)


def members(*nodes: NodeId, now: NumericDate = NOW, modes: frozenset[KeyMode] = ALL) -> tuple[Member, ...]:
    return tuple(Member(node, now, 1_000, modes=modes) for node in nodes)


def view(
    ring: Ring,
    node: NodeId = A,
    *,
    now: NumericDate = NOW,
    others: tuple[Member, ...] = (),
    loaded: tuple[str, ...] = (),
    served: tuple[str, ...] = (),
    kind: KeyKind = SHARED,
    spare: bool = False,
    leaving: bool = False,
    modes: frozenset[KeyMode] = ALL,
) -> View:
    return View(
        ring=ring,
        members=(*members(node, now=now), *others),
        node=node,
        now=now,
        served=frozenset(map(Kid, served)),
        loaded=frozenset(map(Kid, loaded)),
        kind=kind,
        modes=modes,
        spare=spare,
        leaving=leaving,
    )


def due(seen: View) -> tuple[Effect, ...]:
    return succession.due(seen, T)


# --- one line for the cluster --------------------------------------------------------------------------


@CLUSTERS
def test_the_first_key_of_a_cluster_is_made_once_and_taken_further_by_who_holds_it(kind: KeyKind):
    """K1, K6: with a key prepared nobody prepares another; who holds it activates it once it is served."""
    assert due(view(EMPTY, kind=kind)) == (PrepareKey(kind),)
    ring = made(EMPTY, "k", kind)
    assert ring.kind == kind
    with pytest.raises(InvalidTransition):
        made(ring, "k2", kind, B)
    assert due(view(ring, B, kind=kind)) == ()
    seen = view(ring, B, loaded=("k",), served=("k",))
    assert due(seen) == (ActivateKey(Kid("k"), Activation.BOOTSTRAP),)


@CLUSTERS
def test_whoever_holds_the_clusters_key_renews_it_and_makes_its_successor(kind: KeyKind):
    """Whichever node is first; one that could not open it does neither, and bootstraps nothing beside it."""
    ring = signing("k", kind)
    assert due(view(ring, B, now=at(40), loaded=("k",)))[0] == RenewLease((Kid("k"),))
    when = succession.prepare_at(key(ring, "k"), T)
    renewed = keyring.renew(ring, [Kid("k")], timing=T, now=when)
    assert due(view(renewed, B, now=when, loaded=("k",))) == (PrepareKey(kind),)
    assert due(view(renewed, B, now=when)) == ()
    assert due(view(ring, B, now=at(10 * T.lease))) == ()


@CLUSTERS
def test_the_clusters_key_outlives_its_nodes(kind: KeyKind):
    """After a power cut the first node back renews the same key, however late; nothing ends it meanwhile."""
    ring = signing("k", kind)
    later = at(20 * T.rotate_every)
    assert LapseKey(Kid("k")) not in due(view(ring, B, now=later))
    assert due(view(ring, C, now=later, loaded=("k",)))[0] == RenewLease((Kid("k"),))
    renewed = keyring.renew(ring, [Kid("k")], timing=T, now=later)
    assert key(renewed, "k").lease_until == later + T.lease
    assert key(renewed, "k").publish_until == T.covered_until(NumericDate(later + T.lease))


@CLUSTERS
def test_a_prepared_key_of_the_cluster_that_nobody_renews_leaves(kind: KeyKind):
    """Its maker is gone and nobody else can open it: the next one may be made."""
    ring = made(signing("k", kind), "k2", kind)
    later = at(T.lease)
    assert LapseKey(Kid("k2")) in due(view(ring, B, now=later, loaded=("k",)))
    assert LapseKey(Kid("k2")) not in due(view(ring, B, now=later, loaded=("k", "k2")))


@CLUSTERS
def test_a_revoked_key_of_the_cluster_is_followed_in_an_emergency_or_by_a_proven_spare(kind: KeyKind):
    """3.8: without a spare the successor signs as soon as it is served; a proven one needs no exception."""
    ring = revoked(signing("k", kind), "k")
    assert key(ring, "k").sealed is None
    assert due(view(ring, kind=kind)) == (PrepareKey(kind),)
    next_one = made(ring, "k2", kind)
    seen = view(next_one, loaded=("k2",), served=("k2",))
    assert due(seen) == (ActivateKey(Kid("k2"), Activation.EMERGENCY),)
    spare = keyring.prove(made(signing("k", kind), "k2", kind), Kid("k2"), now=NOW)
    now = at(T.lead)
    spare = keyring.renew(spare, [Kid("k"), Kid("k2")], timing=T, now=now)
    assert due(view(spare, now=now, loaded=("k", "k2"))) == ()
    withdrawn = revoked(spare, "k", now=now)
    assert due(view(withdrawn, now=now, loaded=("k2",))) == (ActivateKey(Kid("k2"), Activation.PROVEN),)


def test_an_emergency_is_over_when_the_next_key_signs():
    """A later bootstrap is called one, although the row of the revoked key stays for a week."""
    ring = signing("k2", SHARED, revoked(signing("k", SHARED), "k"), now=at(10))
    lapsed = keyring.lapse(ring, Kid("k2"), now=at(T.lease + 10))
    ring = made(lapsed, "k3", SHARED, now=at(T.lease + 10))
    seen = view(ring, now=at(T.lease + 10), loaded=("k3",), served=("k3",))
    assert due(seen)[0] == ActivateKey(Kid("k3"), Activation.BOOTSTRAP)


def test_a_shared_key_stays_sealed_in_the_store_only_while_it_may_sign():
    """The private half leaves the row with the right to sign, however that ends."""
    ring = made(signing("k", SHARED), "k2", SHARED)
    assert [key.sealed for key in ring.keys] == [b"sealed", b"sealed"]
    later = keyring.activate(
        keyring.prove(ring, Kid("k2"), now=NOW), Kid("k2"), Activation.PROVEN, timing=T, now=at(T.lead)
    )
    assert [key.sealed for key in later.keys] == [None, b"sealed"]
    assert key(keyring.reseal(later, Kid("k2"), b"anew"), "k2").sealed == b"anew"
    with pytest.raises(InvalidTransition):
        keyring.reseal(later, Kid("k"), b"anew")
    assert key(keyring.lapse(ring, Kid("k"), now=at(T.lease)), "k").sealed is None
    assert "sealed" not in repr(key(ring, "k"))


def test_only_a_shared_key_has_a_sealed_half():
    """A row that says something else is a defect of ours."""
    for mode, sealed in ((KeyMode.OWN, b"x"), (KeyMode.HSM, b"x"), (KeyMode.SHARED, None)):
        with pytest.raises(InvalidTransition):
            keyring.prepare(
                EMPTY,
                kid=Kid("k"),
                node=A,
                alg="RS256",
                jwk=b"{}",
                timing=T,
                now=NOW,
                mode=mode,
                sealed=sealed,
            )


def test_a_node_that_is_not_set_up_for_what_is_wanted_says_so():
    """It makes no key, and an operator hears of it."""
    seen = view(EMPTY, modes=frozenset({KeyMode.OWN}))
    assert due(seen) == (RaiseAlarm(AlarmKind.NO_CUSTODY),)


# --- spare ----------------------------------------------------------------------------------------------


def test_a_spare_is_prepared_at_once_and_waits_past_its_lead():
    """K1: it is proven like any other; only when its predecessor is due, or by request, does it sign."""
    ring = signing("k", SHARED)
    assert due(view(ring, loaded=("k",))) == ()
    assert due(view(ring, loaded=("k",), spare=True)) == (PrepareKey(SHARED),)
    ring = made(ring, "k2", SHARED)
    assert due(view(ring, loaded=("k", "k2"), spare=True)) == (ProveKey(Kid("k2")),)
    ring = keyring.prove(ring, Kid("k2"), now=NOW)
    now = at(2 * T.lead)
    ring = keyring.renew(ring, [Kid("k"), Kid("k2")], timing=T, now=now)
    for spare in (True, False):
        assert due(view(ring, now=now, loaded=("k", "k2"), spare=spare)) == (), "no matter who looks"
    asked = keyring.request_rotation(ring, now=now)
    activation = ActivateKey(Kid("k2"), Activation.PROVEN)
    assert due(view(asked, now=now, loaded=("k", "k2"), spare=True)) == (activation,)
    then = NumericDate(succession.prepare_at(key(ring, "k"), T) + T.lead)
    ring = keyring.renew(ring, [Kid("k"), Kid("k2")], timing=T, now=then)
    assert due(view(ring, now=then, loaded=("k", "k2"), spare=True)) == (activation,)
    sign_until = key(ring, "k").sign_until
    assert sign_until is not None
    assert then < sign_until


# --- switching -----------------------------------------------------------------------------------------


def test_the_ring_says_what_is_wanted_and_settings_only_before_it_does():
    """The first key that is prepared writes it; a switch changes it in one swap, and again is no change."""
    assert wanted(view(EMPTY, kind=IN_TOKEN)) == IN_TOKEN
    ring = made(EMPTY, "k", SHARED)
    assert wanted(view(ring, kind=IN_TOKEN)) == SHARED
    switched = keyring.switch(ring, IN_TOKEN, now=NOW)
    assert wanted(view(switched)) == IN_TOKEN
    assert switched.generation == ring.generation + 1
    assert keyring.switch(switched, IN_TOKEN, now=NOW) is switched


def test_a_switch_of_the_algorithm_prepares_a_successor_at_once():
    """K1: with the same proof and lead as ever; the key that signs goes on until then."""
    ring = keyring.switch(signing("k", SHARED), ES256, now=NOW)
    assert due(view(ring, loaded=("k",))) == (PrepareKey(ES256),)
    own = keyring.switch(active(EMPTY, "a"), replace(OWN, alg=Algorithm.ES256), now=NOW)
    assert due(view(own)) == (PrepareKey(replace(OWN, alg=Algorithm.ES256)),)


def test_a_prepared_key_of_another_kind_leaves_before_the_next_is_made():
    """It has signed nothing, so nothing can break."""
    ring = keyring.switch(made(signing("k", SHARED), "k2", SHARED), ES256, now=NOW)
    assert due(view(ring, B, loaded=("k", "k2"))) == (DropKey(Kid("k2")),)
    assert due(view(keyring.drop(ring, Kid("k2")), loaded=("k",))) == (PrepareKey(ES256),)
    with pytest.raises(InvalidTransition):
        keyring.drop(ring, Kid("k"))


@CLUSTERS
def test_all_nodes_go_over_to_the_clusters_key_in_one_swap(kind: KeyKind):
    """Own keys sign until it has been public for the lead; then all of them verify only, dead nodes' too."""
    ring = keyring.switch(active(active(EMPTY, "a"), "b", B), kind, now=NOW)
    assert due(view(ring, others=members(B))) == (PrepareKey(kind),)
    ring = keyring.prove(made(ring, "k", kind), Kid("k"), now=NOW)
    now = at(T.lead)
    seen = view(ring, now=now, loaded=("k",))
    assert ActivateKey(Kid("k"), Activation.PROVEN) in due(seen)
    ring = keyring.activate(ring, Kid("k"), Activation.PROVEN, timing=T, now=now)
    assert [key.state for key in ring.keys] == [KeyState.PASSIVE, KeyState.PASSIVE, KeyState.ACTIVE]


@CLUSTERS
def test_own_keys_go_on_while_a_live_node_cannot_open_the_clusters_first_key(kind: KeyKind):
    """A node that lost its own key to one that it cannot open would sign nothing; a dead one would not."""
    ring = keyring.switch(active(active(EMPTY, "a"), "b", B), kind, now=NOW)
    ring = keyring.prove(made(ring, "k", kind), Kid("k"), now=NOW)
    now = at(T.lead)
    go = ActivateKey(Kid("k"), Activation.PROVEN)
    unable = members(B, now=now, modes=frozenset({KeyMode.OWN}))
    assert go not in due(view(ring, now=now, others=unable, loaded=("k",)))
    assert go in due(view(ring, now=now, others=members(B, now=now), loaded=("k",)))
    assert go in due(view(ring, now=at(T.lead + 60), others=unable, loaded=("k",)))


def test_a_key_of_an_unknown_algorithm_stops_nothing_and_is_left_alone():
    """A newer node may have written it, or a stranger: nothing is raised, and nobody else drops it."""
    for state in (prepared(EMPTY, "a"), active(EMPTY, "a"), made(EMPTY, "a", SHARED), signing("a", SHARED)):
        strange = replace(state, keys=tuple(replace(each, alg="ML-DSA-44") for each in state.keys))
        for ring in (strange, replace(strange, kind=None)):
            effects = due(view(ring, loaded=("a",)))
            assert not any(isinstance(effect, DropKey) for effect in effects), effects
            assert wanted(view(ring)) == SHARED


@CLUSTERS
def test_the_clusters_key_signs_until_every_node_with_a_place_has_its_own(kind: KeyKind):
    """Back to own keys: a node that has none yet holds the end up; one that finds no place does not."""
    ring = keyring.switch(signing("k", kind), OWN, now=NOW)
    two = replace(T, signers=2)
    assert due(view(ring, others=members(B), loaded=("k",))) == (PrepareKey(OWN),)
    ring = active(ring, "a", A)
    proven = replace(key(ring, "a"), activation=Activation.PROVEN)
    ring = replace(ring, keys=tuple(proven if key.kid == "a" else key for key in ring.keys))
    end = SupersedeKey(Kid("k"))
    assert end not in due(view(ring, others=members(B), loaded=("k",)))
    assert end in due(view(ring, others=(), loaded=("k",)))
    full = prepared(ring, "c", C)
    assert end in succession.due(view(full, others=members(B), loaded=("k",)), two)
    after = keyring.supersede(ring, Kid("k"))
    assert key(after, "k").state is KeyState.PASSIVE
    assert key(after, "k").sealed is None
    with pytest.raises(InvalidTransition, match="no other"):
        keyring.supersede(after, Kid("a"))


def test_own_keys_that_sign_beside_the_clusters_after_a_switch_and_back_end():
    """The cluster's key signed all the time, so it is known."""
    ring = active(signing("k", SHARED), "a")
    assert SupersedeKey(Kid("a")) in due(view(ring, loaded=("k",)))
    assert SupersedeKey(Kid("a")) not in due(view(ring, B, loaded=("k",)))


def test_a_key_of_the_cluster_that_nobody_can_open_ends_once_own_keys_are_wanted():
    """An operator who has lost the key-encryption key switches, or revokes: nothing happens in silence."""
    ring = signing("k", SHARED)
    later = at(T.lease)
    assert due(view(ring, now=later)) == ()
    ring = keyring.switch(ring, OWN, now=later)
    assert LapseKey(Kid("k")) in due(view(ring, now=later))
    assert LapseKey(Kid("k")) not in due(view(ring, now=later, others=members(B, now=later)))


@pytest.mark.parametrize("signs", [OWN, SHARED, EDDSA], ids=str)
def test_eddsa_is_never_mixed_with_another_family(signs: KeyKind):
    """3.2: neither by a switch, nor by a key; once nothing of the other family is needed the way is free."""
    other = SHARED if signs.alg is Algorithm.EDDSA else EDDSA
    ring = (
        signing("k", signs)
        if signs.mode is KeyMode.SHARED
        else keyring.activate(
            keyring.prepare(EMPTY, kid=Kid("k"), node=A, alg=signs.alg.value, jwk=b"", timing=T, now=NOW),
            Kid("k"),
            Activation.BOOTSTRAP,
            timing=T,
            now=NOW,
        )
    )
    with pytest.raises(MixedAlgorithms) as raised:
        keyring.switch(ring, other, now=at(T.lease))
    assert raised.value.until == key(ring, "k").publish_until
    with pytest.raises(MixedAlgorithms):
        keyring.prepare(
            ring,
            kid=Kid("x"),
            node=B,
            alg=other.alg.value,
            jwk=b"",
            timing=T,
            now=NOW,
            mode=other.mode,
            sealed=b"x" if other.mode is KeyMode.SHARED else None,
        )
    assert wanted(view(replace(ring, kind=None), kind=other)) == signs
    gone = keyring.switch(ring, other, now=raised.value.until)
    assert gone.keys == ()
    assert gone.kind == other


def test_no_token_signs_with_eddsa():
    """PKCS#11 modules do not agree on it."""
    with pytest.raises(InvalidTransition):
        keyring.switch(EMPTY, KeyKind(KeyMode.HSM, Algorithm.EDDSA), now=NOW)


# --- held, and removed by hand ---------------------------------------------------------------------------


def test_a_held_key_stays_until_it_is_let_go():
    """F10: no time takes it away, a revocation does."""
    ring = keyring.hold(passive(EMPTY, "k"), Kid("k"), True)
    end = key(ring, "k").publish_until
    assert due(view(ring, now=end, kind=OWN)) == (PrepareKey(OWN),)
    for remove in (keyring.retire, lambda *args, **kw: keyring.discard(*args, timing=T, **kw)):
        with pytest.raises(ValueError, match=r"held|K2"):
            remove(ring, Kid("k"), now=end)
    assert keyring.hold(ring, Kid("k"), True) is ring
    free = keyring.hold(ring, Kid("k"), False)
    assert keyring.retire(free, Kid("k"), now=end).keys == ()
    assert not key(revoked(ring, "k"), "k").is_published()
    with pytest.raises(InvalidTransition):
        keyring.hold(revoked(ring, "k"), Kid("k"), True)


def test_a_key_is_removed_by_hand_only_when_nothing_can_break():
    """F10: before, the refusal names the latest ``exp`` that it could break; a prepared key may always go."""
    ring = active(EMPTY, "k")
    until = key(ring, "k").publish_until
    for now in (NOW, at(T.lease), NumericDate(until - 1)):
        with pytest.raises(KeyInUse) as raised:
            keyring.discard(ring, Kid("k"), timing=T, now=now)
        assert raised.value.latest_exp == T.latest_exp(at(T.lease))
        assert raised.value.latest_exp + MAX_LEEWAY + T.clock_skew == raised.value.publish_until == until
    assert keyring.discard(ring, Kid("k"), timing=T, now=until).keys == ()
    assert keyring.discard(prepared(EMPTY, "k"), Kid("k"), timing=T, now=NOW).keys == ()
    assert keyring.discard(passive(EMPTY, "k"), Kid("k"), timing=T, now=until).keys == ()


# --- leaving, and clocks ------------------------------------------------------------------------------


@CLUSTERS
def test_a_node_leaves_at_once_where_another_signs_with_the_same_key(kind: KeyKind):
    """However young the key is: verifiers learn no other one. A node that cannot open it is nobody."""
    ring = signing("k", kind)

    def at_leaving(*others: Member) -> Departure:
        return departure(view(ring, others=others, loaded=("k",), leaving=True), T)

    assert at_leaving(*members(B)) is Departure.COVERED
    assert at_leaving(*members(B, modes=frozenset({KeyMode.OWN}))) is Departure.AWAITED
    assert at_leaving() is Departure.ALONE
    # Who says that it leaves is nobody either: of two that are told in one moment one sees the other.
    assert at_leaving(*members(B, modes=frozenset())) is Departure.ALONE
    assert at_leaving(*members(B, modes=frozenset()), *members(C)) is Departure.COVERED
    cannot = view(ring, others=members(B), leaving=True)
    assert departure(cannot, T) is Departure.SIGNS_NOTHING


@CLUSTERS
def test_who_leaves_gives_up_nothing_of_the_clusters(kind: KeyKind):
    """The key was made by the node that leaves, and is not its own."""
    ring = signing("k", kind)
    assert keyring.release(ring, A, now=NOW) is ring
    assert keyring.resign(ring, A) is ring
    assert due(view(ring, others=members(B), loaded=("k",), leaving=True)) == ()


@CLUSTERS
def test_a_stores_clock_that_was_set_back_costs_the_cluster_no_key(kind: KeyKind):
    """The lease is brought back and then renewed; what was signed under it stays covered."""
    ring = made(signing("k", kind), "k2", kind)
    now = at(-1_000)
    assert due(view(ring, now=now, loaded=("k",))) == (ReleaseKeys(),)
    assert due(view(ring, now=now)) != (ReleaseKeys(),)
    after = keyring.rewind(ring, A, timing=T, now=now)
    (kept,) = after.keys
    assert (kept.state, kept.lease_until, kept.activated_at) == (KeyState.ACTIVE, now, now)
    assert kept.sign_until == now + T.rotate_every
    assert kept.publish_until == key(ring, "k").publish_until
    assert after.generation == ring.generation + 1
    assert due(view(after, now=now, loaded=("k",)))[0] == RenewLease((Kid("k"),))
