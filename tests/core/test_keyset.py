"""The key cache: pure decisions about one issuer's keys, at moments that the test names."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from mintmark.core.keyset import (
    Bucket,
    Change,
    Freshness,
    Instant,
    KeyCache,
    KeysetPolicy,
    Phase,
    Verdict,
    parse_freshness,
)
from mintmark.units import Kid, NumericDate, Seconds

T0 = 1_800_000_000
A, B, C = Kid("a"), Kid("b"), Kid("c")
POLICY = KeysetPolicy()
KEYS = {A: "key of a"}


def at(seconds: float) -> Instant:
    """The moment ``seconds`` after the beginning, on both clocks."""
    return Instant(NumericDate(int(T0 + seconds)), seconds)


def cache_with(keys: dict[Kid, str], *, max_age: int | None = 300, age: int = 0) -> KeyCache[str]:
    """A cache that loaded ``keys`` at the beginning."""
    cache: KeyCache[str] = KeyCache(POLICY)
    load(cache, keys, 0, max_age=max_age, age=age)
    return cache


def load(
    cache: KeyCache[str], keys: dict[Kid, str], when: float, *, max_age: int | None = 300, age: int = 0
) -> None:
    """A fetch at ``when`` that brings ``keys``."""
    cache.began(at(when))
    stated = None if max_age is None else Seconds(max_age)
    cache.loaded(keys, Freshness(max_age=stated, age=Seconds(age), etag='"1"'), at(when), 0.5)


def fail(cache: KeyCache[str], when: float, random: float = 0.5) -> None:
    """A fetch at ``when`` that fails."""
    cache.began(at(when))
    cache.failed(at(when), random)


def ask(cache: KeyCache[str], kid: str, when: float, *, iat: float | None = None) -> Verdict:
    """The verdict about a token that comes at ``when`` and was issued then, unless told otherwise."""
    issued = int(T0 + (when if iat is None else iat))
    return cache.judge(Kid(kid), issued, at(when), since=cache.attempts)


# --- lifetime and refresh ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_age", "age", "lifetime"),
    [
        (None, 0, 300),
        (300, 0, 300),
        (300, 100, 200),
        (300, 299, 60),
        (300, 9999, 60),
        (0, 0, 60),
        (30, 0, 30),
        (30, 29, 30),
        (86_400, 0, 3600),
        (86_400, 86_000, 400),
        (31_536_000, 0, 3600),
    ],
)
def test_soft_lifetime_is_max_age_less_age_within_bounds(max_age, age, lifetime):
    """max-age=0 never storms, a year never pins: the refresh comes at 80 % of the bounded lifetime."""
    cache = cache_with(KEYS, max_age=max_age, age=age)
    assert cache.due_at() == pytest.approx(lifetime * 0.8)


@given(st.floats(0, 1, exclude_max=True))
def test_refresh_is_spread_by_a_tenth_either_way(random):
    """A fleet that loaded in one second does not refresh in one second."""
    cache: KeyCache[str] = KeyCache(POLICY)
    cache.began(at(0))
    cache.loaded(KEYS, Freshness(max_age=Seconds(300)), at(0), random)
    assert 240 * 0.9 <= cache.due_at() <= 240 * 1.1
    assert cache.due_at() == pytest.approx(240 * (0.9 + 0.2 * random))


def test_a_cold_cache_is_due_at_once():
    """Nothing loaded yet: the first attempt needs no timer."""
    cache: KeyCache[str] = KeyCache(POLICY)
    assert cache.phase(0) is Phase.COLD
    assert cache.due_at() == -math.inf


def test_a_304_renews_the_keys_with_the_headers_that_were_stored():
    """RFC 9111 s.4.3.4: what the 304 does not repeat still holds."""
    cache = cache_with(KEYS, max_age=1000)
    cache.began(at(800))
    cache.unchanged(Freshness(), at(800), 0.5)
    assert cache.due_at() == pytest.approx(800 + 800)
    assert cache.etag == '"1"'
    assert dict(cache.snapshot.keys) == KEYS
    assert cache.snapshot.generation == 1


@pytest.mark.parametrize(
    ("etag", "kept"),
    [
        ('"1"', '"1"'),
        ('W/"1"', 'W/"1"'),
        ("x" * 512, "x" * 512),
        ("x" * 513, None),
        ('"\xe9"', None),
        ('"\u20ac"', None),
        ('"a\nb"', None),
        ("", None),
        (None, None),
    ],
)
def test_only_an_etag_that_can_be_sent_back_is_kept(etag, kept):
    """RFC 9110 s.8.8.3 lets it hold bytes that no client can write into a request: they end no fetch."""
    assert parse_freshness(None, None, etag).etag == kept


def test_after_a_failure_the_set_is_asked_for_without_condition():
    """Whatever it is about the condition that fails, it fails once."""
    cache = cache_with(KEYS)
    etags = [cache.etag]
    fail(cache, 240)
    etags.append(cache.etag)
    load(cache, KEYS, 300)
    etags.append(cache.etag)
    assert etags == ['"1"', None, '"1"']


@pytest.mark.parametrize(
    ("cache_control", "age", "expected"),
    [
        (None, None, (None, 0)),
        ("public, max-age=600", "7", (600, 7)),
        ("MAX-AGE=600", None, (600, 0)),
        ('max-age="600"', None, (600, 0)),
        ("max-age=600, max-age=5", None, (600, 0)),
        ("no-cache, max-age=600", None, (0, 0)),
        ("max-age=600, no-store", None, (0, 0)),
        ("s-maxage=9, max-age=600", None, (600, 0)),
        ("max-age=-1", "-5", (None, 0)),
        ("max-age=soon", "soon", (None, 0)),
        ("max-age=" + "9" * 40, "9" * 40, (2**31, 2**31)),
    ],
)
def test_caching_headers_are_read_and_nonsense_is_absent(cache_control, age, expected):
    """RFC 9111 s.5.2: the first max-age counts, no-store and no-cache mean 0, rubbish means nothing."""
    freshness = parse_freshness(cache_control, age, None)
    assert (freshness.max_age, freshness.age) == expected


@given(st.text(max_size=80), st.text(max_size=20))
def test_no_header_is_an_error(cache_control, age):
    """Whatever an origin writes there, an answer comes out, and no negative span."""
    freshness = parse_freshness(cache_control, age, None)
    assert freshness.age >= 0
    assert freshness.max_age is None or freshness.max_age >= 0


# --- failing -----------------------------------------------------------------------------------


def test_back_off_doubles_up_to_a_minute_with_full_jitter():
    """1, 2, 4 … 60 s after each failed attempt, drawn from the whole span."""
    cache = cache_with(KEYS)
    spans = []
    now = 240.0
    for _ in range(9):
        fail(cache, now, random=0.999999)
        spans.append(round(cache.due_at() - now))
        now = cache.due_at()
    assert spans == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    fail(cache, now, random=0.0)
    assert cache.due_at() == now


def test_success_ends_the_back_off():
    """After any success the cache is FRESH and the next failure waits one second again."""
    cache = cache_with(KEYS)
    fail(cache, 240)
    fail(cache, 250)
    assert cache.phase(250) is Phase.STALE
    load(cache, KEYS, 260)
    assert cache.phase(260) is Phase.FRESH
    fail(cache, 500, random=0.999999)
    assert round(cache.due_at() - 500) == 1


def test_last_good_keys_are_served_for_max_stale_and_no_longer():
    """A failing issuer costs nothing for four hours; then keys are too old to be believed."""
    cache = cache_with(KEYS)
    fail(cache, 240)
    assert cache.snapshot.expires_at == 4 * 3600
    assert cache.phase(4 * 3600 - 1) is Phase.STALE
    assert cache.phase(4 * 3600) is Phase.EXPIRED


def test_a_live_feed_lets_keys_live_for_a_day():
    """With a feed that would report a revoked key, only the longer bound counts."""
    cache = cache_with(KEYS)
    for hour in range(1, 24):
        cache.heard(at(hour * 3600), announces=False)
        assert cache.phase(hour * 3600 + 3000) is Phase.FRESH
    assert cache.snapshot.expires_at == 24 * 3600


def test_a_lost_feed_brings_the_shorter_bound_back_from_its_last_word():
    """Keys that were confirmed long ago do not expire the moment the feed is lost."""
    cache = cache_with(KEYS)
    cache.heard(at(10 * 3600), announces=False)
    cache.feed_lost()
    assert cache.snapshot.expires_at == 14 * 3600


def test_one_fetch_at_a_time():
    """A second attempt while one is under way is a mistake of the driver."""
    cache = cache_with(KEYS)
    cache.began(at(1))
    with pytest.raises(RuntimeError):
        cache.began(at(1))


def test_cold_callers_wait_out_the_back_off():
    """While nothing is loaded, callers start one fetch, and none during the back-off."""
    cache: KeyCache[str] = KeyCache(POLICY)
    assert cache.may_load(0)
    cache.began(at(0))
    assert not cache.may_load(0)
    cache.failed(at(0), 0.5)
    assert not cache.may_load(0.4)
    assert cache.retry_after(0.4) == 1
    assert cache.may_load(0.5)


# --- unknown kids ------------------------------------------------------------------------------


def test_a_new_kid_is_fetched_for_and_found():
    """A rotation without overlap costs the first token one fetch."""
    cache = cache_with(KEYS)
    assert ask(cache, B, 100) is Verdict.FETCH
    load(cache, {B: "key of b"}, 100)
    assert ask(cache, B, 100) is Verdict.FOUND
    assert ask(cache, A, 100) is Verdict.FETCH


def test_callers_join_the_fetch_under_way():
    """Any number of tokens with new kids cost one fetch at a time."""
    cache = cache_with(KEYS)
    assert ask(cache, B, 100) is Verdict.FETCH
    cache.began(at(100))
    assert {ask(cache, f"kid{n}", 100) for n in range(100)} == {Verdict.JOIN}


def test_a_fetch_that_began_earlier_proves_nothing():
    """A key published while an answer was on its way is looked for once more."""
    cache = cache_with(KEYS)
    cache.began(at(100))
    since = cache.attempts
    assert cache.judge(B, T0 + 100, at(100), since=since) is Verdict.JOIN
    cache.loaded(KEYS, Freshness(max_age=Seconds(300)), at(100), 0.5)
    assert cache.judge(B, T0 + 100, at(100), since=since) is Verdict.FETCH
    load(cache, KEYS, 100)
    assert cache.judge(B, T0 + 100, at(100), since=since) is Verdict.REFUSE


def test_ten_thousand_garbage_kids_cost_four_fetches_a_minute():
    """Two at once and one each thirty seconds, counted on attempts."""
    cache = cache_with(KEYS)
    fetches = 0
    for n in range(10_000):
        now = 100 + n * 60 / 10_000
        since = cache.attempts
        if cache.judge(Kid(f"garbage{n}"), int(T0 + now), at(now), since=since) is Verdict.FETCH:
            fetches += 1
            load(cache, KEYS, now)
            assert cache.judge(Kid(f"garbage{n}"), int(T0 + now), at(now), since=since) is Verdict.REFUSE
        assert A in cache.snapshot.keys
    assert fetches <= 4


def test_scheduled_refreshes_do_not_spend_the_budget_of_unknown_kids():
    """Neither starves the other."""
    cache = cache_with(KEYS)
    for when in range(240, 2400, 240):
        load(cache, KEYS, when)
    assert ask(cache, B, 2400) is Verdict.FETCH
    assert ask(cache, B, 2400) is Verdict.FETCH


def test_what_cannot_be_checked_is_503_ten_times_a_minute_then_401():
    """Garbage must not make a healthy service look ill."""
    cache = cache_with(KEYS)
    for _ in range(2):
        assert ask(cache, B, 100) is Verdict.FETCH
    verdicts = [ask(cache, f"x{n}", 100) for n in range(50)]
    assert verdicts.count(Verdict.UNCHECKED) == 10
    assert verdicts.count(Verdict.REFUSE) == 40
    assert ask(cache, "y", 106) is Verdict.UNCHECKED


def test_a_failed_fetch_is_not_the_tokens_fault():
    """503 where the issuer could not be asked."""
    cache = cache_with(KEYS)
    since = cache.attempts
    assert cache.judge(B, T0 + 100, at(100), since=since) is Verdict.FETCH
    fail(cache, 100)
    assert cache.judge(B, T0 + 100, at(100), since=since) is Verdict.UNCHECKED


def test_an_absent_kid_is_remembered_for_a_while():
    """The negative cache answers for min(300 s, max-age), and is cleared when the set changes."""
    cache = cache_with(KEYS, max_age=120)
    since = cache.attempts
    assert cache.judge(B, T0 + 10, at(10), since=since) is Verdict.FETCH
    load(cache, KEYS, 10, max_age=120)
    assert cache.judge(B, T0 + 10, at(10), since=since) is Verdict.REFUSE
    assert ask(cache, B, 129) is Verdict.REFUSE
    assert ask(cache, B, 131) is Verdict.FETCH
    since = cache.attempts
    load(cache, KEYS, 131, max_age=120)
    assert cache.judge(C, T0 + 131, at(131), since=since) is Verdict.REFUSE
    load(cache, {B: "key of b"}, 180, max_age=120)
    assert ask(cache, C, 181) is Verdict.FETCH


def test_the_negative_cache_is_bounded():
    """The oldest of 1,024 entries goes first."""
    cache = cache_with(KEYS)
    for n in range(1500):
        # One second apart, each with an attempt of its own.
        when = 10.0
        since = cache.attempts
        load(cache, KEYS, when)
        assert cache.judge(Kid(f"x{n}"), T0 + 10, at(when), since=since) is Verdict.REFUSE
    assert cache.negative_entries == 1024


@pytest.mark.parametrize("kid", ["", "x" * 129, "tab\there", "ключ", "x\x7f"])
def test_a_kid_that_cannot_be_one_costs_nothing(kid):
    """1 to 128 printable ASCII characters, or no fetch."""
    assert ask(cache_with(KEYS), kid, 100) is Verdict.REFUSE


def test_a_mintmark_kid_is_a_thumbprint_or_nobodys():
    """Where every kid is a thumbprint, another shape is refused without a fetch."""
    cache: KeyCache[str] = KeyCache(POLICY, thumbprint_kids=True)
    load(cache, KEYS, 0)
    assert ask(cache, "key-2026", 100) is Verdict.REFUSE
    assert ask(cache, "A" * 43, 100) is Verdict.FETCH


def test_a_token_older_than_the_keys_cannot_have_a_newer_key():
    """Keys are published before use, so an absent kid of an old token is finally invalid."""
    cache = cache_with(KEYS, max_age=120)
    load(cache, KEYS, 1000, max_age=120)
    assert ask(cache, B, 1001, iat=1000 - 120) is Verdict.REFUSE
    assert ask(cache, B, 1001, iat=1000 - 119) is Verdict.FETCH


def test_an_old_copy_out_of_a_cache_widens_that_margin_by_its_age():
    """The Age of the answer counts: the set may be that much older than it looks."""
    cache: KeyCache[str] = KeyCache(POLICY)
    load(cache, KEYS, 1000, max_age=120, age=100)
    assert ask(cache, B, 1001, iat=1000 - 100 - 120) is Verdict.REFUSE
    assert ask(cache, B, 1001, iat=1000 - 100 - 119) is Verdict.FETCH


# --- the feed's keys ---------------------------------------------------------------------------


def test_a_pushed_key_is_usable_at_once():
    """With a live feed nobody waits for a fetch."""
    cache = cache_with(KEYS)
    change = cache.pushed({A: "key of a", B: "key of b"}, frozenset(), at(50))
    assert change.added == (B,)
    assert set(cache.snapshot.keys) == {A, B}


def test_a_key_that_the_feed_dropped_is_gone_though_the_older_document_lists_it():
    """The newest statement counts."""
    cache = cache_with(KEYS)
    cache.pushed({B: "key of b"}, frozenset(), at(50))
    assert set(cache.snapshot.keys) == {B}


def test_an_old_copy_of_the_document_does_not_drop_a_key_that_the_live_feed_lists():
    """A CDN's copy with an Age is older than what the feed said."""
    cache = cache_with(KEYS)
    cache.pushed({A: "key of a", B: "key of b"}, frozenset(), at(50))
    cache.heard(at(60), announces=True)
    load(cache, KEYS, 61, age=30)
    assert set(cache.snapshot.keys) == {A, B}
    load(cache, KEYS, 62)
    assert set(cache.snapshot.keys) == {A, B}, "a live feed's keys are usable beside the newest document's"
    cache.feed_lost()
    assert set(cache.snapshot.keys) == {A}, "without the feed only the newest document counts"


def test_what_the_feed_said_last_outlives_it_until_a_newer_document_comes():
    """A copy that was old when it came says nothing about a key announced since."""
    cache = cache_with(KEYS)
    cache.pushed({A: "key of a", B: "key of b"}, frozenset(), at(50))
    cache.feed_lost()
    load(cache, KEYS, 61, age=30)
    assert set(cache.snapshot.keys) == {A, B}
    load(cache, KEYS, 62)
    assert set(cache.snapshot.keys) == {A}


def test_a_revoked_key_stays_away_whatever_a_document_says():
    """Revoked wins over every copy that any cache serves."""
    cache = cache_with({A: "key of a", B: "key of b"})
    assert cache.revoke_many({A: NumericDate(T0 + 900)}).removed == (A,)
    load(cache, {A: "key of a", B: "key of b"}, 500)
    cache.pushed({A: "key of a", B: "key of b"}, frozenset(), at(501))
    assert set(cache.snapshot.keys) == {B}
    assert cache.is_revoked(A)
    assert ask(cache, A, 502) is Verdict.REFUSE


def test_revoked_keys_go_together_and_once():
    """Many kids cost one look at the keys; those known already cost none."""
    cache = cache_with({A: "key of a", B: "key of b", C: "key of c"})
    later = NumericDate(T0 + 900)
    assert cache.revoke_many({A: later, B: later}).removed == (A, B)
    published = cache.snapshot
    assert cache.revoke_many({A: later, B: NumericDate(T0)}) == Change()
    assert cache.snapshot is published
    many = {Kid(f"kid{n}"): later for n in range(50_000)}
    assert cache.revoke_many(many) == Change()
    assert set(cache.snapshot.keys) == {C}
    assert sum(map(cache.is_revoked, many)) == POLICY.revoked_size - 2
    assert cache.revoke_many({C: later}).removed == (C,), "a key that is in use goes however many are gone"


def test_a_revoked_kid_is_forgotten_once_its_event_expired_and_no_set_lists_it():
    """The latest expiry counts; what the feed stated without one, or a set still lists, stays away."""
    cache = cache_with(KEYS)
    cache.revoke_many({A: NumericDate(T0 + 100), B: NumericDate(T0 + 100)})
    cache.revoke_many({B: NumericDate(T0 + 200)})
    cache.pushed({C: "key of c"}, frozenset({Kid("d")}), at(0))
    cache.forget_revoked(NumericDate(T0 + 100))
    assert [cache.is_revoked(kid) for kid in (A, B, Kid("d"))] == [True, True, True]
    cache.forget_revoked(NumericDate(T0 + 200))
    assert [cache.is_revoked(kid) for kid in (A, B, Kid("d"))] == [True, False, True]
    load(cache, {C: "key of c"}, 300)
    cache.forget_revoked(NumericDate(T0 + 300))
    assert [cache.is_revoked(kid) for kid in (A, B, Kid("d"))] == [False, False, True]


def test_an_unannounced_kid_is_401_while_the_feed_is_live():
    """At most one fetch, then no benefit of the doubt: an announced key would be here."""
    cache = cache_with(KEYS)
    cache.pushed(KEYS, frozenset(), at(50))
    cache.heard(at(50), announces=True)
    assert ask(cache, B, 51) is Verdict.FETCH
    assert ask(cache, B, 51) is Verdict.FETCH
    assert ask(cache, B, 51) is Verdict.REFUSE
    cache.feed_lost()
    assert ask(cache, B, 51) is Verdict.UNCHECKED


def test_a_key_rebound_to_other_material_is_reported():
    """The newest document is believed, and somebody is told."""
    cache = cache_with(KEYS)
    cache.began(at(10))
    change = cache.loaded({A: "another key"}, Freshness(), at(10), 0.5)
    assert change.rebound == (A,)
    assert cache.snapshot.keys[A] == "another key"
    assert cache.snapshot.generation == 2


# --- budget ------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 120), max_size=60))
def test_a_bucket_never_gives_more_than_its_size_and_what_time_earned(gaps):
    """size + elapsed / every is the most that can be had."""
    bucket = Bucket(2, 30)
    now = given_out = 0.0
    for gap in gaps:
        now += gap
        given_out += bucket.take(now)
        assert given_out <= 2 + now / 30 + 1e-6


def test_a_bucket_says_how_long_until_the_next():
    """An empty one names the time that it takes to earn one."""
    bucket = Bucket(1, 30)
    assert bucket.take(0)
    assert bucket.wait(10) == pytest.approx(20)
    assert bucket.take(30)


# --- everything together -----------------------------------------------------------------------


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens in whatever order, what is promised about every moment holds."""

    kids = Bundle("kids")

    @initialize()
    def start(self):
        """A cold cache at time 0."""
        self.cache: KeyCache[str] = KeyCache(POLICY)
        self.now = 0.0
        self.fetches_for_unknown = 0
        self.began = 0.0
        self.listed: set[str] = set()
        self.revoked: set[str] = set()

    @rule(target=kids, n=st.integers(0, 5))
    def name_a_kid(self, n):
        """A kid that keys and tokens may have."""
        return Kid(f"kid{n}")

    @rule(span=st.floats(0, 5000))
    def pass_time(self, span):
        """Time goes on."""
        self.now += span

    @rule(which=st.frozensets(st.integers(0, 5), min_size=1), random=st.floats(0, 1, exclude_max=True))
    def succeed(self, which, random):
        """A fetch brings some keys."""
        if not self.cache.fetching:
            self.cache.began(at(self.now))
        self.cache.loaded({Kid(f"kid{n}"): f"key {n}" for n in which}, Freshness(), at(self.now), random)
        self.listed |= {f"kid{n}" for n in which}
        assert self.cache.phase(self.now) is Phase.FRESH

    @rule(random=st.floats(0, 1, exclude_max=True))
    def fail(self, random):
        """A fetch fails."""
        before = self.cache.snapshot
        if not self.cache.fetching:
            self.cache.began(at(self.now))
        self.cache.failed(at(self.now), random)
        assert self.cache.snapshot.keys == before.keys
        assert self.now <= self.cache.due_at() <= self.now + 60

    @rule(which=st.frozensets(st.integers(0, 5), min_size=1))
    def push(self, which):
        """The feed states the set."""
        self.cache.pushed({Kid(f"kid{n}"): f"key {n}" for n in which}, frozenset(), at(self.now))
        self.cache.heard(at(self.now), announces=True)
        self.listed |= {f"kid{n}" for n in which}

    @rule()
    def lose_the_feed(self):
        """The feed falls silent."""
        self.cache.feed_lost()

    @rule(kid=kids)
    def revoke(self, kid):
        """A key is revoked."""
        self.cache.revoke_many({kid: NumericDate(T0 + 900)})
        self.revoked.add(kid)

    @rule(kid=kids)
    def judge(self, kid):
        """A token comes with a kid."""
        verdict = self.cache.judge(kid, int(T0 + self.now), at(self.now), since=self.cache.attempts)
        if verdict is Verdict.FOUND:
            assert kid in self.cache.snapshot.keys
        if verdict is Verdict.FETCH:
            self.fetches_for_unknown += 1
            self.cache.began(at(self.now))

    @invariant()
    def budget_holds(self):
        """Unknown kids never cost more than two fetches and one each thirty seconds."""
        assert self.fetches_for_unknown <= 2 + self.now / 30 + 1e-6

    @invariant()
    def only_listed_and_unrevoked_keys_are_served(self):
        """A key that nobody ever listed, or that was revoked, is not in the snapshot."""
        assert set(self.cache.snapshot.keys) <= self.listed - self.revoked

    @invariant()
    def keys_never_outlive_their_bound(self):
        """No snapshot is served more than a day after the last word about keys."""
        assert self.cache.snapshot.expires_at <= self.now + 24 * 3600


TestAnyHistory = AnyHistory.TestCase
