"""The arithmetic of core.timing."""

import re
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mintmark.core.timing import KEYS_PER_SIGNER, MAX_LEEWAY, NAMES, RULES, Rule, Timing, broken_rules
from mintmark.units import NumericDate, Seconds


def timings() -> st.SearchStrategy[Timing]:
    return st.builds(Timing, **dict.fromkeys(NAMES, st.integers(0, 10_000)))


def test_defaults_are_those_of_the_design_and_break_no_rule():
    """The default lead is 935 s, and the defaults may start."""
    assert Timing().lead == 935
    assert broken_rules(Timing()) == ()


@pytest.mark.parametrize(
    ("name", "edge", "past"),
    [
        ("max_age_within_cache", {"jwks_max_age": 600}, {"jwks_max_age": 601}),
        ("rotation_outlasts_lead", {"rotate_every": 2136}, {"rotate_every": 2135}),
        ("lease_within_feed_bound", {"lease": 230}, {"lease": 231}),
        ("keys_fit_jwks", {"jwks_limit": 24}, {"jwks_limit": 23}),
        ("grace_within_retry", {"refresh_grace": 86_400}, {"refresh_grace": 86_401}),
        ("token_within_idle", {"session_idle": 901}, {"session_idle": 900}),
        ("idle_within_session", {"session_ttl": 14 * 86_400}, {"session_ttl": 14 * 86_400 - 1}),
    ],
)
def test_each_rule_breaks_one_step_past_its_edge(name, edge, past):
    """At the edge nothing is broken; one second (or key) further exactly this rule is."""
    assert broken_rules(replace(Timing(), **edge)) == ()
    assert [rule.name for rule in broken_rules(replace(Timing(), **past))] == [name]


def test_every_rule_has_an_edge_case_above():
    """No rule is without a test of its edge."""
    (mark,) = test_each_rule_breaks_one_step_past_its_edge.pytestmark
    assert [case[0] for case in mark.args[1]] == [rule.name for rule in RULES]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_formula_names_exactly_the_settings_of_the_rule(rule: Rule):
    """The formula that people read speaks of the settings that the message prints."""
    assert set(re.findall(r"[a-z]+_[a-z_]+|lease|propagation|signers", rule.formula)) == set(rule.settings)
    assert set(rule.settings) <= set(NAMES)


@given(timings())
def test_a_rule_reads_no_setting_that_it_does_not_name(timing: Timing):
    """Changing every setting that a rule does not name changes nothing about the rule."""
    for rule in RULES:
        kept = {name: getattr(timing, name) for name in rule.settings}
        assert rule.holds(Timing(**(dict.fromkeys(NAMES, 1) | kept))) == rule.holds(timing)


@given(timings())
def test_broken_rules_name_each_setting_with_its_value(timing: Timing):
    """Whoever reads the message sees every setting of the rule, with the value that it has."""
    for broken in broken_rules(timing):
        for name in broken.settings:
            (text,) = re.findall(rf'\b{name} = "?(\d+)([smhd]?)', broken.message)
            assert int(text[0]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}[text[1]] == getattr(
                timing, name
            )


@given(timings())
def test_a_key_is_prepared_soon_enough_to_be_proven_and_led(timing: Timing):
    """Between preparing and the end of signing lie a max-age for the proof and the whole lead."""
    assert timing.prepare_before - timing.jwks_max_age == timing.lead
    assert timing.lead >= timing.verifier_cache + timing.jwks_max_age


@given(timings(), st.integers(1, 10_000))
def test_rotation_on_schedule_needs_no_more_than_three_keys(timing: Timing, extra):
    """K6: at no time are more than three keys of one signer public, if keys outlast lease and leeway."""
    timing = replace(
        timing, rotate_every=Seconds(timing.lead + timing.jwks_max_age + timing.access_ttl + extra)
    )
    # With shorter caches and tokens the leeway of five minutes alone spans several rotations.
    assume(timing.lease + MAX_LEEWAY <= timing.prepare_before + timing.access_ttl - timing.clock_skew)
    public = [
        (
            start - timing.prepare_before,
            timing.covered_until(NumericDate(start + timing.rotate_every + timing.lease)),
        )
        for start in range(0, 6 * timing.rotate_every, timing.rotate_every)
    ]
    for start, _ in public:
        assert sum(began <= start < gone for began, gone in public) <= KEYS_PER_SIGNER


@given(timings(), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, MAX_LEEWAY))
def test_a_public_key_outlives_every_token_of_its_lease(timing: Timing, lease_until, exp, leeway):
    """K2, K3: whatever was signed under the lease expires, leeway and skew included, before the key goes."""
    lease_until = NumericDate(lease_until)
    signed = min(NumericDate(exp), timing.latest_exp(lease_until))
    assert timing.covered_until(lease_until) >= signed + leeway + timing.clock_skew


@given(timings(), st.integers(0, 2**40), st.integers(0, 2**40))
def test_renewing_a_lease_never_shortens_publication(timing: Timing, first, second):
    """A later lease covers at least what an earlier one covers."""
    early, late = sorted((NumericDate(first), NumericDate(second)))
    assert timing.covered_until(early) <= timing.covered_until(late)


def test_coverage_is_lease_and_token_and_leeway_and_skew():
    """K3: publish_until is lease_until + T + 300 s + s."""
    assert Timing().covered_until(NumericDate(1_000)) == 1_000 + 900 + 300 + 30
    assert Timing(access_ttl=Seconds(60)).latest_exp(NumericDate(1_000)) == 1_060
