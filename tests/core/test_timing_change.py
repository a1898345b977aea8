"""Nodes with former and wanted settings side by side."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.core.key import Activation, KeyState
from mintmark.core.keyring import Ring, activate, prepare, renew
from mintmark.core.membership import View, is_ahead, someone_signs
from mintmark.core.minting import BACKDATED
from mintmark.core.peering import Asked, untimely
from mintmark.core.timing import MAX_LEEWAY, NAMES, RULES, Timing, broken_rules
from mintmark.core.timing_change import (
    PROMISED,
    Agreement,
    ChangeRefused,
    begin,
    finish,
    mixed,
    obstacles,
    stands_beside,
    uncovered,
    withdraw,
)
from mintmark.units import Issuer, Kid, NodeId, NumericDate, Seconds

FORMER = Timing()
NOW = NumericDate(1_800_000_000)
OLD, NEW, THIRD = NodeId("old"), NodeId("new"), NodeId("third")


def sound() -> st.SearchStrategy[Timing]:
    """Timings that may start, of all sizes: every number is drawn within what the others leave to it."""

    @st.composite
    def drawn(draw: st.DrawFn) -> Timing:
        cache = draw(st.integers(0, 2_000))
        max_age, propagation = draw(st.integers(0, cache)), draw(st.integers(0, 60))
        skew, ttl, lease = draw(st.integers(0, 120)), draw(st.integers(1, 5_000)), draw(st.integers(1, 600))
        signers = draw(st.integers(1, 20))
        lead = cache + max_age + propagation + skew
        idle = ttl + draw(st.integers(1, 100_000))
        grace = draw(st.integers(0, 100))
        return Timing(
            verifier_cache=Seconds(cache),
            jwks_max_age=Seconds(max_age),
            propagation=Seconds(propagation),
            clock_skew=Seconds(skew),
            access_ttl=Seconds(ttl),
            rotate_every=Seconds(lead + max_age + ttl + draw(st.integers(1, 20_000))),
            lease=Seconds(lease),
            feed_bound=Seconds(lease + 2 * skew + 10 + draw(st.integers(0, 1_000))),
            signers=signers,
            jwks_limit=3 * signers + draw(st.integers(0, 30)),
            refresh_grace=Seconds(grace),
            refresh_retry=Seconds(grace + draw(st.integers(0, 90_000))),
            session_idle=Seconds(idle),
            session_ttl=Seconds(idle + draw(st.integers(0, 100_000))),
        )

    return drawn()


@given(sound())
def test_drawn_timings_may_start(timing: Timing):
    """The strategy draws nothing that the settings would refuse."""
    assert broken_rules(timing) == ()


@given(sound(), sound())
def test_of_what_two_promise_and_allow_the_safe_one_counts(former: Timing, wanted: Timing):
    """A node that knows both promises no more than either, and allows for no less than either."""
    for own, other in ((former, wanted), (wanted, former)):
        both = mixed(own, other)
        for name in PROMISED:
            assert getattr(both, name) == min(getattr(own, name), getattr(other, name))
            assert getattr(both.widest, name) == max(getattr(own, name), getattr(other, name))
        assert both.verifier_cache == max(own.verifier_cache, other.verifier_cache)
        assert both.signers == both.widest.signers == min(own.signers, other.signers)
        assert both.jwks_limit == both.widest.jwks_limit == min(own.jwks_limit, other.jwks_limit)
        assert both.refresh_grace == max(own.refresh_grace, other.refresh_grace)
        assert (both.session_idle, both.session_ttl) == (own.session_idle, own.session_ttl)
        for timing in (own, other):
            assert both.lead >= timing.lead
            assert both.prepare_before >= timing.prepare_before
            assert both.covered_until(NOW) >= timing.covered_until(NOW)


@given(sound(), sound())
def test_a_change_keeps_every_rule_or_is_refused(former: Timing, wanted: Timing):
    """Two sound timings together break at most the two rules with sums on one side, and then are refused;
    where they are not, nodes that know both keep every rule in what they promise and in what they allow."""
    both = mixed(wanted, former)
    may_break = {"rotation_outlasts_lead", "lease_within_feed_bound"}
    assert {broken.name for broken in broken_rules(both.widest)} <= may_break
    if obstacles(former, wanted):
        with pytest.raises(ChangeRefused):
            begin(Agreement(current=former), wanted, now=NOW)
    else:
        for own, other in ((former, wanted), (wanted, former)):
            assert broken_rules(mixed(own, other)) == broken_rules(mixed(own, other).widest) == ()


@given(sound(), sound(), sound())
def test_nodes_that_live_at_once_keep_within_what_each_other_allows(
    first: Timing, second: Timing, third: Timing
):
    """While a change is under way former nodes live beside those that know both, and once it is finished
    those beside nodes that know only the wanted timing, or that and the next one."""
    both, back = mixed(second, first), mixed(first, second)
    following = mixed(third, second)
    for one, other in (
        (first, both),
        (first, back),
        (both, back),
        (second, both),
        (second, following),
        (both, mixed(second, third)),
        (both, following),
    ):
        for promising, allowing in ((one, other), (other, one)):
            for name in PROMISED:
                assert getattr(promising, name) <= getattr(allowing.widest, name), name


@given(sound(), sound(), st.integers(50, 200))
def test_nodes_that_know_both_stand_beside_those_of_either(former: Timing, wanted: Timing, percent: int):
    """Whatever else differs, as long as the leases are of a like length."""
    wanted = replace(wanted, lease=Seconds(-(-former.lease * percent // 100)))
    both = mixed(wanted, former)
    assert stands_beside(both, former)
    assert stands_beside(both, wanted)
    assert stands_beside(both, mixed(former, wanted))


@given(sound(), sound())
def test_nodes_that_do_not_know_both_may_not_meet(former: Timing, wanted: Timing):
    """Where any promise differs, nodes with the former and with the wanted settings alone break one."""
    differs = any(getattr(former, name) != getattr(wanted, name) for name in PROMISED)
    assert stands_beside(former, wanted) is not differs


def test_one_timing_is_what_it_is():
    """Beside nodes with the same settings there is nothing to allow for."""
    assert mixed(FORMER) == mixed(FORMER, FORMER) == FORMER
    assert FORMER.widest is FORMER


def test_every_setting_is_thought_of():
    """A setting that is new must be placed: promise, bound, own, or the larger one."""
    larger = {"verifier_cache", "rotate_every", "refresh_grace", "refresh_retry"}
    low, high = Timing(**dict.fromkeys(NAMES, 10)), Timing(**dict.fromkeys(NAMES, 20))  # type: ignore[arg-type]
    placed = {name: (getattr(mixed(low, high), name), getattr(mixed(high, low), name)) for name in NAMES}
    assert {name for name in NAMES if placed[name] == (20, 20)} == larger
    assert {name for name in NAMES if placed[name] == (10, 20)} == {"session_idle", "session_ttl"}
    assert {name for name in NAMES if placed[name] == (10, 10)} == {
        *PROMISED,
        "signers",
        "jwks_limit",
        "feed_bound",
    }


# --- the course of a change ------------------------------------------------------------------------

SHORTER = replace(FORMER, access_ttl=Seconds(300))
LONGER = replace(FORMER, access_ttl=Seconds(3600))
EMPTY = Ring(issuer=Issuer("https://auth.example.com"))


def signing(timing: Timing, *, node: NodeId = OLD) -> Ring:
    """A ring with a key whose lease was renewed by ``timing`` just now."""
    ring = prepare(EMPTY, kid=Kid("k"), node=node, alg="ES256", jwk=b"{}", timing=timing, now=NOW)
    return activate(ring, Kid("k"), Activation.BOOTSTRAP, timing=timing, now=NOW)


def test_a_change_begins_once():
    """The same again changes nothing; another one is refused until this one is finished or withdrawn."""
    begun = begin(Agreement(current=FORMER), SHORTER, now=NOW)
    assert (begun.current, begun.wanted) == (FORMER, SHORTER)
    assert begin(begun, SHORTER, now=NOW) is begun
    with pytest.raises(ChangeRefused, match="another change is not finished"):
        begin(begun, LONGER, now=NOW)
    same = Agreement(current=FORMER)
    assert begin(same, FORMER, now=NOW) is same


@pytest.mark.parametrize(
    ("former", "wanted", "rule"),
    [
        (
            {"access_ttl": 3000, "rotate_every": 5000},
            {"verifier_cache": 2000, "access_ttl": 900, "rotate_every": 5000},
            "rotation_outlasts_lead",
        ),
        (
            {"lease": 230},
            {"lease": 120, "clock_skew": 60, "feed_bound": 250},
            "lease_within_feed_bound",
        ),
    ],
)
def test_a_change_that_no_node_could_work_by_in_between_is_refused(former, wanted, rule):
    """Each timing is sound, but not what nodes must allow for that stand beside nodes of both."""
    one, other = replace(FORMER, **former), replace(FORMER, **wanted)
    assert broken_rules(one) == broken_rules(other) == ()
    (reason,) = obstacles(one, other)
    formula = next(each.formula for each in RULES if each.name == rule)
    assert reason.startswith(f"while nodes work by both timings, {formula} does not hold")


@pytest.mark.parametrize("lease", [59, 241])
def test_a_lease_changes_by_a_factor_of_two_at_the_most(lease):
    """Or a node that leaves takes those that stay for nodes that renew nothing."""
    wanted = replace(FORMER, lease=Seconds(lease), feed_bound=Seconds(400))
    former = replace(FORMER, feed_bound=Seconds(400))
    (reason,) = obstacles(former, wanted)
    assert reason.startswith("lease = ")
    assert obstacles(former, replace(wanted, lease=Seconds(60 if lease < 100 else 240))) == ()


def test_a_change_is_finished_when_every_node_that_is_there_has_the_wanted_settings():
    """Nodes that never said so, and those with the current settings, are named."""
    begun = begin(Agreement(current=FORMER), SHORTER, now=NOW)
    begun = begun.joined(NEW, SHORTER, {OLD, NEW}).joined(THIRD, FORMER, {OLD, NEW, THIRD})
    assert (begun.on_wanted, begun.on_current) == ((NEW,), (THIRD,))
    with pytest.raises(ChangeRefused, match=r"wanted settings first: old, third$"):
        finish(begun, EMPTY, present={OLD, NEW, THIRD}, now=NOW)
    assert finish(begun, EMPTY, present={NEW}, now=NOW) == Agreement(current=SHORTER)
    done = Agreement(current=SHORTER)
    assert finish(done, EMPTY, present={NEW}, now=NOW) is done


def test_a_change_is_not_finished_before_keys_cover_the_tokens_to_come():
    """K2: a key whose lease was last renewed for shorter tokens could sign one that outlives it."""
    begun = begin(Agreement(current=FORMER), LONGER, now=NOW).joined(NEW, LONGER, {NEW})
    ring = signing(FORMER)
    assert [key.kid for key in uncovered(ring, LONGER, NOW)] == ["k"]
    with pytest.raises(ChangeRefused, match=r"token of k could outlive it \(K2\)"):
        finish(begun, ring, present={NEW}, now=NOW)
    renewed = renew(ring, [Kid("k")], timing=mixed(LONGER, FORMER), now=NOW)
    assert finish(begun, renewed, present={NEW}, now=NOW).current == LONGER
    # One that nobody may sign with holds nobody up.
    ended = NumericDate(NOW + FORMER.lease)
    assert finish(begun, ring, present={NEW}, now=ended).current == LONGER


@given(sound(), sound(), st.integers(0, 300))
def test_whoever_renewed_a_key_no_token_outlives_it(former: Timing, wanted: Timing, later: int):
    """K2, K3: a token minted by any node that may live then expires before its key leaves, with the largest
    leeway, while the change is under way and once it is finished."""
    both, back = mixed(wanted, former), mixed(former, wanted)
    for renewing, minting in ((former, both), (both, former), (back, former), (both, wanted), (wanted, both)):
        (key,) = signing(renewing).keys
        at = min(NOW + later, key.lease_until)
        # A node of the wanted timing alone mints once the change is finished, and it is not before that.
        assert key.state is KeyState.ACTIVE
        assert at + minting.access_ttl + MAX_LEEWAY <= key.publish_until


def test_copies_from_before_a_change_are_waited_for():
    """K1: caches keep what was served under the former max-age for that long, so whoever starts meanwhile
    keeps the former lead, and no other change begins."""
    wanted = replace(FORMER, jwks_max_age=Seconds(60))
    begun = begin(Agreement(current=FORMER), wanted, now=NOW).joined(NEW, wanted, {NEW})
    done = finish(begun, EMPTY, present={NEW}, now=NOW)
    assert done == Agreement(current=wanted, copies_age=Seconds(300), copies_until=NumericDate(NOW + 300))
    early = mixed(wanted, *done.beside(wanted, NumericDate(NOW + 299)))
    assert early.lead == FORMER.lead
    assert early.jwks_max_age == 60
    assert done.beside(wanted, NumericDate(NOW + 300)) == ()
    with pytest.raises(ChangeRefused, match=r"for 10s more \(K1\)"):
        begin(done, SHORTER, now=NumericDate(NOW + 290))
    assert begin(done, SHORTER, now=NumericDate(NOW + 300)).wanted == SHORTER


def test_a_change_is_withdrawn_when_no_node_has_the_wanted_settings():
    """Nodes with the former settings go on; those with the wanted ones are named."""
    begun = begin(Agreement(current=FORMER), SHORTER, now=NOW).joined(NEW, SHORTER, {NEW})
    with pytest.raises(ChangeRefused, match=r"former settings first: new$"):
        withdraw(begun, present={OLD, NEW})
    assert withdraw(begun, present={OLD}) == Agreement(current=FORMER)
    none = Agreement(current=FORMER)
    assert withdraw(none, present={OLD}) is none


def test_nodes_of_an_agreement_are_those_that_are_known():
    """A node that crashes again and again leaves nothing behind."""
    begun = begin(Agreement(current=FORMER), SHORTER, now=NOW)
    for number in range(20):
        node = NodeId(f"node-{number}")
        begun = begun.joined(node, SHORTER, {node, NodeId("node-0")})
    assert begun.on_wanted == ("node-0", "node-19")


# --- what one node takes of another ------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
def test_a_lease_of_the_other_timing_is_no_clock_that_was_set_back(flip: bool):
    """Of a key that the cluster holds any node writes the lease: one with longer leases is not ahead, and
    one that was written just now is known as that, whichever timing it was written by."""
    short, long = (
        replace(FORMER, lease=Seconds(60)),
        replace(FORMER, lease=Seconds(120), clock_skew=Seconds(5)),
    )
    one, other = (long, short) if flip else (short, long)
    working = mixed(one, other)
    for writing in (one, other, working):
        (key,) = signing(writing).keys
        view = View(ring=EMPTY, members=(), node=NEW, now=NOW)
        assert not is_ahead(key, view, working)
        ring = replace(EMPTY, keys=(key,))
        assert someone_signs(replace(view, ring=ring, watched_since=NumericDate(NOW - 100)), working)


def asked(at: int, *, lifetime: int) -> Asked:
    """The claims of a token that a node minted at ``at``."""
    return Asked(
        iss=EMPTY.issuer,
        sub="s",
        client_id="c",
        aud=frozenset(),
        scope=frozenset(),
        exp=at + lifetime,
        iat=at - BACKDATED,
        jti="j",
        rid=None,
        auth_time=None,
        amr=(),
    )


def test_what_nodes_of_either_timing_mint_is_not_forged():
    """A node that signs for others allows for the longest lifetime and the largest skew."""
    wide = replace(FORMER, access_ttl=Seconds(3600), clock_skew=Seconds(60))
    for working in (mixed(FORMER, wide), mixed(wide, FORMER)):
        assert not untimely(asked(NOW, lifetime=3600), working, NOW)
        assert not untimely(asked(NOW - 60, lifetime=900), working, NOW)
        assert untimely(asked(NOW, lifetime=3601), working, NOW)
    assert untimely(asked(NOW, lifetime=3600), FORMER, NOW)
