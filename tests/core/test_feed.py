"""Following a revocation log: what messages mean, and how much a follower knows at which moment."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.core.feed import (
    NOTHING_PASSES,
    FeedPolicy,
    Follower,
    Health,
    Heartbeat,
    Keys,
    Malformed,
    OnStale,
    Page,
    Reset,
    Revocation,
    parse_message,
    parse_page,
)
from mintmark.core.keyset import Instant
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.units import NumericDate

T0 = 1_800_000_000
POLICY = FeedPolicy()
ISSUER = "https://auth.example.com"
ANY_TEXT = st.text(st.characters())
EVENT = {"kind": "rid", "value": "r1", "expires_at": T0 + 900}


def at(seconds: float) -> Instant:
    """The moment ``seconds`` after the beginning, on both clocks."""
    return Instant(NumericDate(int(T0 + seconds)), seconds)


def page(**members) -> bytes:
    """A page as an issuer writes it."""
    body = {"issuer": ISSUER, "cursor": "c1", "complete": True, "events": [EVENT], "at": T0}
    return json.dumps(body | members).encode()


def parsed(**members) -> Page:
    """That page, read."""
    return parse_page(page(**members), issuer=ISSUER, policy=POLICY)


def following(cursor: str = "c1", when: float = 0) -> Follower:
    """A follower that took a snapshot at ``when``."""
    follower = Follower(POLICY)
    follower.paged(parsed(cursor=cursor, at=int(T0 + when)), at(when))
    return follower


def beat(follower: Follower, when: float, cursor: str = "c1", sent: float | None = None) -> bool:
    """A heartbeat that arrives at ``when``, and was sent then unless told otherwise."""
    return follower.beat(Heartbeat(cursor, NumericDate(int(T0 + (when if sent is None else sent)))), at(when))


# --- messages ----------------------------------------------------------------------------------


def test_a_page_gives_its_events_and_where_it_ends():
    """Cursor, completeness and typed events come out."""
    client = {"kind": "client", "value": "app", "not_before": T0, "expires_at": T0 + 9}
    read = parsed(events=[EVENT, client], complete=False)
    assert read.events == (
        RevocationEvent(kind=Kind.RID, value="r1", expires_at=NumericDate(T0 + 900)),
        RevocationEvent(
            kind=Kind.CLIENT, value="app", expires_at=NumericDate(T0 + 9), not_before=NumericDate(T0)
        ),
    )
    assert (read.cursor, read.complete, read.ignored) == ("c1", False, 0)


def test_unknown_kinds_and_members_are_ignored_and_counted():
    """A newer issuer does not break an older follower."""
    read = parsed(events=[{"kind": "tenant", "value": "t", "expires_at": 1, "new": []}, EVENT], later=True)
    assert len(read.events) == 1
    assert read.ignored == 1


@pytest.mark.parametrize(
    "members",
    [
        {"issuer": "https://auth.example.com/"},
        {"cursor": ""},
        {"cursor": "x" * 513},
        {"cursor": "line\nbreak"},
        {"cursor": 7},
        {"complete": "yes"},
        {"events": {}},
        {"events": [{"kind": "rid", "value": "r"}]},
        {"events": [{"kind": "rid", "value": "r", "expires_at": "soon"}]},
        {"events": [{"kind": "rid", "value": "r" * 257, "expires_at": 1}]},
        {"events": [{"kind": "rid", "value": "r", "expires_at": 1, "not_before": 1}]},
        {"events": [{"kind": "client", "value": "app", "expires_at": 1}]},
        {"at": 1.5},
        {"at": -(10**400)},
        {"at": 2**63},
        {"events": [{"kind": "rid", "value": "r", "expires_at": 10**400}]},
        {"events": [{"kind": "client", "value": "app", "expires_at": 1, "not_before": -(2**63) - 1}]},
    ],
)
def test_a_page_that_breaks_the_format_is_refused_whole(members):
    """Half of a log is worse than an old one: nothing of such a page is applied."""
    with pytest.raises(Malformed):
        parsed(**members)


def test_a_page_is_bounded():
    """Size and number of events have a limit."""
    small = FeedPolicy(page_size=100, page_events=1)
    with pytest.raises(Malformed, match="too large"):
        parse_page(page(), issuer=ISSUER, policy=small)
    small = FeedPolicy(page_events=1)
    with pytest.raises(Malformed, match="too many"):
        parse_page(page(events=[EVENT, EVENT]), issuer=ISSUER, policy=small)


def test_messages_of_the_stream_are_read():
    """The four kinds of message come out typed."""
    assert parse_message("revocation", "c2", json.dumps(EVENT)) == Revocation(
        "c2", RevocationEvent(kind=Kind.RID, value="r1", expires_at=NumericDate(T0 + 900))
    )
    assert parse_message("heartbeat", "", '{"cursor":"c2","at":7}') == Heartbeat("c2", NumericDate(7))
    keys = parse_message("keys", "", '{"keys":[{"kty":"EC"}],"revoked":["k1"]}')
    assert isinstance(keys, Keys)
    assert msgspec.json.decode(keys.document) == {"keys": [{"kty": "EC"}]}
    assert keys.revoked == {"k1"}
    assert parse_message("reset", "", "{}") == Reset()


@pytest.mark.parametrize(
    "members",
    [
        {"keys": [{}] * 129},
        {"keys": {}},
        {"revoked": [str(n) for n in range(1025)]},
        {"revoked": ["k" * 257]},
    ],
)
def test_a_stated_key_set_is_bounded(members):
    """128 keys and 1,024 revoked kids are more than any issuer has; what states more is refused whole."""
    most = {"keys": [{}] * 128, "revoked": [str(n) for n in range(1024)]}
    keys = parse_message("keys", "", json.dumps(most))
    assert isinstance(keys, Keys)
    assert len(keys.revoked) == 1024
    with pytest.raises(Malformed):
        parse_message("keys", "", json.dumps({"keys": []} | members))


def test_a_time_that_no_clock_shows_is_malformed():
    """Times have 64 bits, in the stream as in pages: what is larger breaks arithmetic later."""
    with pytest.raises(Malformed):
        parse_message("heartbeat", "", f'{{"cursor":"c2","at":{-(10**400)}}}')
    with pytest.raises(Malformed):
        parse_message("revocation", "c2", json.dumps(EVENT | {"expires_at": 10**400}))


def test_unknown_messages_are_none():
    """A newer issuer may send more."""
    assert parse_message("weather", "", "sunny") is None
    assert parse_message("message", "", "") is None


def test_an_unknown_event_still_moves_the_cursor():
    """Else every heartbeat after it would look like a gap."""
    message = parse_message("revocation", "c2", '{"kind":"tenant","value":"t","expires_at":1}')
    assert message == Revocation("c2", None)
    follower = following()
    assert isinstance(message, Revocation)
    follower.applied(message)
    assert beat(follower, 10, "c2")
    assert follower.ignored == 1


@given(st.sampled_from(["revocation", "heartbeat", "keys", "reset", "x"]), ANY_TEXT, ANY_TEXT)
def test_no_message_raises_anything_but_malformed(event, cursor, payload):
    """Whatever a stream sends is a message, nothing, or malformed."""
    with contextlib.suppress(Malformed):
        parse_message(event, cursor, payload)


@given(st.binary(max_size=300))
def test_no_page_raises_anything_but_malformed(body):
    """Whatever bytes come, a page comes out, or malformed."""
    with contextlib.suppress(Malformed):
        parse_page(body, issuer=ISSUER, policy=POLICY)


@pytest.mark.parametrize("nesting", [("[", "]"), ('{"a":', "}")], ids=["lists", "objects"])
def test_what_nests_too_deep_is_malformed(nesting):
    """A member that nobody asked for, nested a hundred thousand times, is no defect of ours."""
    begin, end = nesting
    deep = f'"x":{begin * 100_000}1{end * 100_000}'
    with pytest.raises(Malformed):
        parse_page(page()[:-1] + f",{deep}}}".encode(), issuer=ISSUER, policy=POLICY)
    for event, members in (
        ("revocation", '"kind":"rid","value":"r1","expires_at":1'),
        ("heartbeat", '"cursor":"c1","at":1'),
        ("keys", '"keys":[],"revoked":[]'),
        ("keys", f'"keys":[{{{deep}}}]'),
    ):
        with pytest.raises(Malformed):
            parse_message(event, "c1", f"{{{members},{deep}}}")


# --- how much is known -------------------------------------------------------------------------


def test_without_a_complete_snapshot_nothing_is_known():
    """A first page of several is still COLD."""
    follower = Follower(POLICY)
    assert follower.health(0) is Health.COLD
    follower.paged(parsed(complete=False), at(0))
    assert follower.health(0) is Health.COLD
    assert follower.cursor == "c1"
    follower.paged(parsed(cursor="c2"), at(1))
    assert follower.health(1) is Health.LIVE


def test_silence_degrades_and_then_loses_the_feed():
    """LIVE for 15 s, DEGRADED up to the bound, LOST after it; a heartbeat restores it."""
    follower = following()
    assert [follower.health(t) for t in (14.9, 15, 299.9, 300)] == [
        Health.LIVE,
        Health.DEGRADED,
        Health.DEGRADED,
        Health.LOST,
    ]
    assert beat(follower, 400)
    assert follower.health(414) is Health.LIVE


def test_health_holds_until_it_says():
    """Nothing changes by itself before ``until``."""
    follower = following()
    for now in (0, 10, 14.9, 15, 15.5, 299):
        until = follower.until(now)
        assert until > now, "else whoever waits for it would wait no time, again and again"
        assert follower.health(until - 0.001) is follower.health(now)
        assert follower.health(until) is not follower.health(now)
    assert follower.until(300) == float("inf")


def test_a_heartbeat_of_another_head_means_a_gap():
    """What was missed is not known until a page brings it."""
    follower = following()
    assert not beat(follower, 5, "c2")
    assert follower.health(5) is Health.DEGRADED
    follower.paged(parsed(cursor="c2", at=T0 + 6), at(6))
    assert follower.health(6) is Health.LIVE


def test_a_heartbeat_that_was_held_up_is_old_news():
    """A proxy that keeps messages back cannot make them fresh; a minute of skew is allowed."""
    follower = following()
    assert beat(follower, 100, sent=40)
    assert follower.heard_at == 100
    assert beat(follower, 200, sent=40)
    assert follower.heard_at == 100
    assert follower.health(200) is Health.DEGRADED


def test_a_heartbeat_from_the_future_says_no_more_than_now():
    """One wrong time, a year ahead, would else let tokens of a year pass unproved once the feed is lost."""
    follower = following()
    assert beat(follower, 10, sent=365 * 86_400)
    assert follower.issuer_time == T0 + 10 + POLICY.skew
    assert beat(follower, 200)
    assert follower.issuer_time == T0 + 200
    assert follower.cutoff(501, OnStale.PROVE) == T0 + 200 + 300


def test_reset_forgets_the_cursor_alone():
    """What was learnt stays; the next page is a snapshot."""
    follower = following()
    follower.reset()
    assert follower.cursor is None
    assert follower.health(1) is Health.DEGRADED


# --- what staleness decides --------------------------------------------------------------------


@pytest.mark.parametrize("on_stale", OnStale)
def test_nothing_is_limited_within_the_bound(on_stale):
    """Up to 300 s of silence every policy goes on."""
    assert following().cutoff(299.9, on_stale) is None


def test_deny_lets_nothing_pass_after_the_bound():
    """``deny``: 503 for every token."""
    assert following().cutoff(301, OnStale.DENY) == NOTHING_PASSES


def test_allow_never_limits():
    """``allow``: not even without a snapshot."""
    assert following().cutoff(301, OnStale.ALLOW) is None
    assert Follower(POLICY).cutoff(0, OnStale.ALLOW) is None


@pytest.mark.parametrize("on_stale", [OnStale.DENY, OnStale.PROVE])
def test_without_a_snapshot_nothing_passes(on_stale):
    """COLD is 503 unless ``allow`` was chosen."""
    assert Follower(POLICY).cutoff(0, on_stale) == NOTHING_PASSES


def test_prove_goes_on_for_tokens_issued_before_the_silence_until_a_newer_one_comes():
    """A token newer than the last word plus the bound proves that we are cut off; then nothing passes."""
    follower = following()
    assert follower.cutoff(301, OnStale.PROVE) == T0 + 300
    assert follower.proved()
    assert not follower.proved()
    assert follower.cutoff(302, OnStale.PROVE) == NOTHING_PASSES
    assert beat(follower, 303)
    assert follower.cutoff(303, OnStale.PROVE) is None
    assert follower.cutoff(700, OnStale.PROVE) == T0 + 303 + 300


@pytest.mark.parametrize("how", ["page", "heartbeat"])
def test_old_news_does_not_take_back_that_we_are_cut_off(how):
    """VF14: a copy out of somebody's cache is no sign that the feed is back, so still nothing passes."""
    follower = following()
    assert follower.proved()
    if how == "page":
        follower.paged(parsed(cursor="c1", at=T0), at(500))
    else:
        assert beat(follower, 500, sent=0)
    assert follower.cutoff(500, OnStale.PROVE) == NOTHING_PASSES
    follower.paged(parsed(cursor="c1", at=T0 + 501), at(501))
    assert not follower.is_cut_off
    assert follower.cutoff(501, OnStale.PROVE) is None
