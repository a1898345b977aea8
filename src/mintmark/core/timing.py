"""The arithmetic of keys, leases and sessions: the settings of time, what follows, what must hold.

Verifiers cache, caches chain and clocks differ, so a key must be public long before it signs and long
after. The numbers that say how long are settings; the rules between them are promises, checked when
the settings are read and not left to whoever turns a knob.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

from mintmark.units import NumericDate, Seconds, format_duration

MAX_LEEWAY: Final = Seconds(300)
"""The largest leeway on ``exp`` that a verifier in use grants; a key stays readable that much longer."""

KEYS_PER_SIGNER: Final = 3
"""What a signer's slot reserves in the key set: a key that comes, one that signs, one that leaves (K6)."""

CROWDED_JWKS: Final = 16
"""From this many public keys on, a key set is worth a warning: some gateways stop at 10, or at 8 KiB."""

LEASE_MARGIN: Final = Seconds(10)
"""Two heartbeats of the feed: what a verifier may need to notice that a node is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The settings of time of one cluster; every node has the same, or does not start.

    Nothing is checked here, so that a test may build what a user must not: see :func:`broken_rules`.
    """

    verifier_cache: Seconds = Seconds(600)
    """C: the longest that any verifier keeps a key set, whatever our headers say (Envoy's default)."""
    jwks_max_age: Seconds = Seconds(300)
    """M: the longest that an HTTP cache keeps a key set, because our Cache-Control says so (K5)."""
    propagation: Seconds = Seconds(5)
    """d: lag of the store and of publication."""
    clock_skew: Seconds = Seconds(30)
    """s: how far clocks may differ; a node further off the store's clock does not mint."""
    access_ttl: Seconds = Seconds(900)
    """T: the longest life of an access token."""
    rotate_every: Seconds = Seconds(14_400)
    """R: how long a key is meant to sign."""
    lease: Seconds = Seconds(120)
    """H: how long a node may sign without renewing its lease in the store."""
    feed_bound: Seconds = Seconds(300)
    """How long a verifier may be without the feed before it counts as cut off."""
    signers: int = 8
    """The most nodes that sign with keys of their own (K6)."""
    jwks_limit: int = 24
    """The most public keys of one issuer."""
    refresh_grace: Seconds = Seconds(30)
    """How long a refresh token's parent still gets the same successor (R2 i, ii)."""
    refresh_retry: Seconds = Seconds(86_400)
    """How long an unused successor can be replaced, because its answer may have been lost (R2 iii)."""
    session_idle: Seconds = Seconds(14 * 86_400)
    """A session that was not refreshed for this long is over (R6)."""
    session_ttl: Seconds = Seconds(90 * 86_400)
    """A session this old is over, however busy (R6)."""
    bounds: "Timing | None" = None
    """No setting: while the timing changes, what this node allows for in others, which work by other
    numbers than its own. None where all work by the same. See :mod:`mintmark.core.timing_change`."""

    @property
    def widest(self) -> "Timing":
        """What this node allows for in any node, itself included; its own numbers are what it promises."""
        return self.bounds or self

    @property
    def lead(self) -> Seconds:
        """L: how long a key is public before it signs (K1).

        An edge keeps a copy for M, a verifier behind it keeps that copy for C, and both got it late
        by up to d, by clocks that differ by up to s.
        """
        most = self.widest
        return Seconds(most.verifier_cache + most.jwks_max_age + most.propagation + most.clock_skew)

    @property
    def prepare_before(self) -> Seconds:
        """How long before ``sign_until`` a successor is prepared: the lead, and one max-age to prove it."""
        return Seconds(self.lead + self.widest.jwks_max_age)

    def latest_exp(self, lease_until: NumericDate) -> NumericDate:
        """The latest ``exp`` that may be signed under a lease until ``lease_until``."""
        return NumericDate(lease_until + self.widest.access_ttl)

    def covered_until(self, lease_until: NumericDate) -> NumericDate:
        """Until when a key leased until ``lease_until`` must stay public (K2, K3).

        Its last token may expire T after the lease, and a verifier may accept it for the largest
        leeway and the skew more. ``publish_until`` is raised to this, and never lowered.
        """
        return NumericDate(self.latest_exp(lease_until) + MAX_LEEWAY + self.widest.clock_skew)


NAMES: Final = tuple(field.name for field in fields(Timing) if field.name != "bounds")
"""The settings of time, in their order."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One relation between settings, and what would go wrong without it."""

    name: str
    formula: str
    """The relation in the names of the settings, as documentation prints it."""
    settings: tuple[str, ...]
    """The settings in it; the first one is what a person most likely wants to change."""
    why: str
    holds: Callable[[Timing], bool]


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """A rule that some timing breaks; ``message`` names the settings and their values."""

    name: str
    settings: tuple[str, ...]
    message: str


_LEAD: Final = "verifier_cache + jwks_max_age + propagation + clock_skew"

RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "max_age_within_cache",
        "jwks_max_age <= verifier_cache",
        ("jwks_max_age", "verifier_cache"),
        "an HTTP cache must not keep a key set longer than verifiers are assumed to",
        lambda t: t.jwks_max_age <= t.verifier_cache,
    ),
    Rule(
        "rotation_outlasts_lead",
        f"rotate_every > ({_LEAD}) + jwks_max_age + access_ttl",
        ("rotate_every", "verifier_cache", "jwks_max_age", "propagation", "clock_skew", "access_ttl"),
        "a successor must be public for the lead before it signs, and the key before it must have left",
        lambda t: t.rotate_every > t.lead + t.jwks_max_age + t.access_ttl,
    ),
    Rule(
        "lease_within_feed_bound",
        f"lease + 2 x clock_skew + {format_duration(LEASE_MARGIN)} <= feed_bound",
        ("lease", "clock_skew", "feed_bound"),
        "a node that is cut off must stop signing before verifiers that are cut off with it give up",
        lambda t: t.lease + 2 * t.clock_skew + LEASE_MARGIN <= t.feed_bound,
    ),
    Rule(
        "keys_fit_jwks",
        f"{KEYS_PER_SIGNER} x signers <= jwks_limit",
        ("signers", "jwks_limit"),
        "each signer needs room for a key that comes, one that signs and one that leaves",
        lambda t: KEYS_PER_SIGNER * t.signers <= t.jwks_limit,
    ),
    Rule(
        "grace_within_retry",
        "refresh_grace <= refresh_retry",
        ("refresh_grace", "refresh_retry"),
        "a repeated refresh gets the same successor first, a replacement later",
        lambda t: t.refresh_grace <= t.refresh_retry,
    ),
    Rule(
        "token_within_idle",
        "access_ttl < session_idle",
        ("access_ttl", "session_idle"),
        "a client that refreshes when its token expires must still find its session",
        lambda t: t.access_ttl < t.session_idle,
    ),
    Rule(
        "idle_within_session",
        "session_idle <= session_ttl",
        ("session_idle", "session_ttl"),
        "an idle limit past the end of the session would never act",
        lambda t: t.session_idle <= t.session_ttl,
    ),
)
"""What must hold before anything starts: first the keys' four rules, then the sessions'."""

COUNTS: Final = frozenset({"signers", "jwks_limit"})
"""The settings that are no spans."""


def broken_rules(timing: Timing) -> tuple[BrokenRule, ...]:
    """The rules that ``timing`` breaks, in the order of :data:`RULES`; empty when it is sound."""
    return tuple(
        BrokenRule(rule.name, rule.settings, _message(rule, timing))
        for rule in RULES
        if not rule.holds(timing)
    )


def _message(rule: Rule, timing: Timing) -> str:
    values = ", ".join(f"{name} = {_text(name, timing)}" for name in rule.settings)
    return f"{rule.formula} does not hold with {values}: {rule.why}"


def _text(name: str, timing: Timing) -> str:
    value: int = getattr(timing, name)
    return str(value) if name in COUNTS else f'"{format_duration(Seconds(value))}"'
