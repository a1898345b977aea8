"""Following an issuer's revocations: what is denied when, and what an outage of the feed decides."""

import contextlib
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from mintmark import EventName, FeedPolicy, InvalidToken, Issuer, Verifier, VerifierUnavailable
from mintmark.core.base64url import encode
from mintmark.core.feed import Heartbeat, Page
from mintmark.core.feed_table import MEDIA_TYPE, write_page, write_records, write_table
from mintmark.core.jwk import PublicKey
from mintmark.core.keyset import Freshness
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing import FakeIssuer, Fault
from mintmark.testing.origin import Origin, Reply
from mintmark.units import Kid, NumericDate
from mintmark.verifier.discovery import Discovery
from mintmark.verifier.engine import Engine
from mintmark.verifier.event import Reporter
from mintmark.verifier.feed import _catch_up
from mintmark.verifier.fetch import Fetcher, FetchFailed
from mintmark.verifier.link import Link
from mintmark.verifier.setting import check
from mintmark.verifier.source import Source

BOUND = 300
LONG = 3000
"""Seconds that a token of these tests lives, so that it outlives what is tested."""


def refusal(verifier, raw, **options) -> str:
    """The code with which ``raw`` is refused."""
    with pytest.raises((InvalidToken, VerifierUnavailable)) as refused:
        verifier.verify(raw, **options)
    error = refused.value
    assert isinstance(error, InvalidToken | VerifierUnavailable)
    return error.code


def followed(issuer, follow, recorder, **options):
    """A verifier that has taken its first snapshot and heard its first heartbeat."""
    verifier = follow(issuer, **options)
    assert verifier.start()
    recorder.wait_for(EventName.FEED_FOLLOWED, 2)
    return verifier


def cut_off(issuer, clock, recorder):
    """The feed refuses everything, and the verifier has noticed."""
    failed = recorder.count(EventName.FEED_FAILED)
    issuer.fail(Fault.REFUSE, "feed", "stream", "jwks", "discovery")
    issuer.disconnect()
    clock.pass_armed(0.5)  # those whose streams end together come again one by one
    recorder.wait_for(EventName.FEED_FAILED, failed + 1)


def reconnect(issuer, clock, recorder):
    """The feed answers again, and the verifier has caught up."""
    known = recorder.count(EventName.FEED_FOLLOWED)
    issuer.recover()
    recorder.pass_until(clock, EventName.FEED_FOLLOWED, known + 1)


# --- what is denied ----------------------------------------------------------------------------


def test_a_logout_before_the_start_is_known_from_the_snapshot(issuer, follow):
    """The first token already is judged by everything that was revoked."""
    issuer.revoke(rid="session-1")
    verifier = follow(issuer)
    assert refusal(verifier, issuer.mint(rid="session-1")) == "revoked"
    assert verifier.verify(issuer.mint(rid="session-2")).revocation == "checked"
    assert issuer.requests("feed") == 1


def test_a_logout_arrives_by_the_stream(issuer, follow, recorder):
    """The session's tokens are refused as soon as the event came, without another request."""
    verifier = followed(issuer, follow, recorder)
    raw = issuer.mint(rid="session-1")
    verifier.verify(raw)
    issuer.revoke(rid="session-1")
    recorder.wait_for(EventName.REVOCATION_APPLIED)
    assert refusal(verifier, raw) == "revoked"
    assert refusal(verifier, issuer.mint(rid="session-1")) == "revoked"
    assert (issuer.requests("feed"), issuer.requests("stream")) == (1, 1)


@pytest.mark.parametrize("kind", ["rid", "jti", "client_id"])
def test_each_kind_denies_its_tokens_and_no_others(issuer, follow, recorder, kind):
    """A session, a token, a client: what carries that id is refused, what carries another passes."""
    verifier = followed(issuer, follow, recorder)
    issuer.revoke(**{kind: "this"})
    recorder.wait_for(EventName.REVOCATION_APPLIED)
    assert refusal(verifier, issuer.mint(**{kind: "this"})) == "revoked"
    assert verifier.verify(issuer.mint(**{kind: "that"}))
    for other in {"rid", "jti", "client_id"} - {kind}:
        assert verifier.verify(issuer.mint(**{other: "this"}))


@pytest.mark.parametrize("how", ["snapshot", "stream"])
def test_everything_issued_before_a_time_is_denied_at_once(issuer, follow, recorder, clock, how):
    """``all``: whoever's token it is, one event denies it; what is issued later passes."""
    everything = {
        "kind": "all",
        "value": "",
        "not_before": issuer.clock.now(),
        "expires_at": issuer.clock.now() + 900,
    }
    tokens = [issuer.mint(client_id=f"app{n}", rid=f"r{n}") for n in range(5)]
    if how == "snapshot":
        issuer.announce(everything)
    verifier = followed(issuer, follow, recorder)
    if how == "stream":
        assert all(verifier.verify(raw) for raw in tokens)
        issuer.announce(everything)
        recorder.wait_for(EventName.REVOCATION_APPLIED)
    assert {refusal(verifier, raw) for raw in tokens} == {"revoked"}
    clock.advance(6)
    assert verifier.verify(issuer.mint(client_id="app0", rid="r0"))
    assert refusal(verifier, tokens[0]) == "revoked"


def test_a_token_is_denied_by_its_ids_whatever_its_spelling(issuer, follow, recorder):
    """A signature has a second valid form, and a payload many: what is denied is the ``jti``, not a text."""
    verifier = followed(issuer, follow, recorder)
    first, second = issuer.mint(jti="t1"), issuer.mint(jti="t1", scope="more")
    assert first != second
    issuer.revoke(jti="t1")
    recorder.wait_for(EventName.REVOCATION_APPLIED)
    assert refusal(verifier, first) == refusal(verifier, second) == "revoked"


def test_a_clients_tokens_are_denied_up_to_a_time(issuer, follow, recorder, clock):
    """Tokens issued to it later pass."""
    verifier = followed(issuer, follow, recorder)
    issuer.revoke(client_id="app")
    recorder.wait_for(EventName.REVOCATION_APPLIED)
    raw = issuer.mint(client_id="app")
    assert refusal(verifier, raw) == "revoked"
    clock.advance(6)
    assert verifier.verify(issuer.mint(client_id="app"))
    assert refusal(verifier, raw) == "revoked"


def test_a_revoked_key_is_refused_at_once_and_for_good(issuer, follow, recorder):
    """Every token that it signed, even while some cache still lists it."""
    verifier = followed(issuer, follow, recorder)
    raw = issuer.mint()
    stolen = issuer.kid
    listed = issuer.key_set()
    issuer.rotate()
    issuer.revoke(kid=stolen)
    recorder.wait_for(EventName.KEY_REMOVED, kid=stolen)
    assert refusal(verifier, raw) == "revoked"
    issuer.jwks = listed
    issuer.rotate()
    assert verifier.verify(issuer.mint())
    assert refusal(verifier, raw) == "revoked"


def test_a_pushed_key_needs_no_fetch(issuer, follow, recorder):
    """A prepared key is here before it signs."""
    verifier = followed(issuer, follow, recorder)
    key = issuer.prepare()
    recorder.wait_for(EventName.KEY_ADDED, kid=key.kid)
    issuer.rotate(to=key)
    assert verifier.verify(issuer.mint()).kid == key.kid
    assert issuer.requests("jwks") == 1


def test_a_withdrawn_key_is_refused_within_the_feeds_lag(issuer, follow, recorder):
    """The stream tells of every change of the set, not of additions alone."""
    verifier = followed(issuer, follow, recorder)
    raw, old = issuer.mint(), issuer.kid
    issuer.rotate()
    issuer.withdraw(old)
    recorder.wait_for(EventName.KEY_REMOVED, kid=old)
    assert refusal(verifier, raw) == "unknown_kid"


def test_unknown_events_disturb_nothing(issuer, follow, recorder):
    """A newer issuer's events are passed over, without a gap."""
    verifier = followed(issuer, follow, recorder)
    issuer.announce({"kind": "tenant", "value": "t", "expires_at": issuer.clock.now() + 60, "more": [1]})
    issuer.revoke(rid="session-1")
    recorder.wait_for(EventName.REVOCATION_APPLIED)
    issuer.beat()
    recorder.wait_for(EventName.FEED_FOLLOWED, 3)
    assert refusal(verifier, issuer.mint(rid="session-1")) == "revoked"
    assert issuer.requests("feed") == 1


class MeasuredLock:
    """A lock that notes how many entries the denylist had grown by whenever it was let go."""

    def __init__(self) -> None:
        self.source: Source | None = None
        self.grown: list[int] = []
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._before = 0 if self.source is None else len(self.source.denylist)

    def __exit__(self, *_: object) -> None:
        if self.source is not None:
            self.grown.append(len(self.source.denylist) - self._before)
        self._lock.release()


async def catching_up(issuer, clock, recorder, **numbers):
    """One attempt to catch up with ``issuer`` under other ``numbers``; its source and its lock."""
    terms = check(Issuer(issuer=issuer.issuer, audience="api", feed=FeedPolicy(**numbers)))
    reporter = Reporter(issuer.issuer, recorder, clock)
    source = Source(terms, clock=clock, entropy=SYSTEM_ENTROPY, reporter=reporter)
    feed = issuer.discovery.get("mintmark_feed", f"{issuer.issuer}/revocations")
    source.discovered(Discovery(jwks_uri=f"{issuer.issuer}/.well-known/jwks.json", feed=feed))
    fetcher = Fetcher(limits=terms.limits, clock=clock, tls=None, proxies=False)
    lock = MeasuredLock()
    lock.source = source
    async with fetcher:
        engine = cast("Engine", SimpleNamespace(lock=lock))
        link = Link(source, fetcher, engine, clock, reporter.flush)
        try:
            await _catch_up(link)
        finally:
            link.news()
    return source, lock


@pytest.mark.anyio
async def test_a_long_page_lets_others_have_the_lock(issuer, clock, recorder):
    """Revoked kids by the thousand are applied in slices, so that no other issuer's tokens wait for them."""
    for n in range(2_000):
        issuer.announce({"kind": "kid", "value": f"kid{n}", "expires_at": clock.now() + 900})
    source, lock = await catching_up(issuer, clock, recorder)
    assert len(source.denylist) == 2_000
    assert source.cache.is_revoked("kid1999")
    assert max(lock.grown) <= 500
    assert recorder.count(EventName.REVOCATION_APPLIED) == 1


@pytest.mark.anyio
async def test_a_compact_page_lets_others_have_the_lock(clock, recorder):
    """Ten thousand sessions in records are made and applied in slices too, and asked for by name."""
    events = [
        RevocationEvent(
            kind=Kind.RID, value=encode(n.to_bytes(16)), expires_at=NumericDate(clock.now() + 900)
        )
        for n in range(10_000)
    ]
    asked = []

    def reply(name, request):
        asked.append(request.headers["accept"])
        records, others = write_records(events, base=clock.now())
        page = write_page(issuer=issuer.issuer, cursor="c", complete=True, at=clock.now(), events=[])
        assert others == []
        body = write_table(page, records, base=clock.now())
        return Reply(headers={"Content-Type": MEDIA_TYPE}, body=body)

    origin = Origin(routes={"/revocations": "feed"}, answer=reply, clock=clock)
    origin.start()
    issuer = SimpleNamespace(issuer=f"http://127.0.0.1:{origin.port}", discovery={}, origin=origin)
    source, lock = await catching_up(issuer, clock, recorder)
    origin.close()
    assert len(source.denylist) == 10_000
    assert max(lock.grown) <= 500
    assert asked == [f"{MEDIA_TYPE}, application/json;q=0.5"]


@pytest.mark.anyio
async def test_after_a_restore_no_cache_is_believed(clock, recorder):
    """Beginning anew, a verifier asks for pages that no HTTP cache has kept: theirs lead to the same end."""
    asked = []

    def reply(name, request):
        asked.append((request.query.get("after"), request.headers.get("cache-control")))
        if request.query.get("after") == "old":
            return Reply(status=410)
        page = {"issuer": issuer.issuer, "cursor": "old", "complete": len(asked) > 2, "at": clock.now()}
        body = json.dumps(page | {"events": [logout(1, clock)]}).encode()
        return Reply(headers={"Content-Type": "application/json"}, body=body)

    origin = Origin(routes={"/revocations": "feed"}, answer=reply, clock=clock)
    origin.start()
    issuer = SimpleNamespace(issuer=f"http://127.0.0.1:{origin.port}", discovery={}, origin=origin)
    await catching_up(issuer, clock, recorder)
    origin.close()
    assert asked == [(None, None), ("old", None), (None, "no-cache")]


@pytest.mark.parametrize(("held_up", "is_word"), [(0, True), (60, True), (7200, False)])
def test_old_news_does_not_keep_keys_in_use(clock, recorder, held_up, is_word):
    """Keys serve for longer while the feed would tell of a revoked one; what a cache kept tells nothing."""
    terms = check(Issuer(issuer="http://127.0.0.1", audience="api"))
    reporter = Reporter(terms.policy.issuer, recorder, clock)
    for how in ("page", "heartbeat"):
        source = Source(terms, clock=clock, entropy=SYSTEM_ENTROPY, reporter=reporter)
        source.cache.began(source.instant())
        source.cache.loaded({Kid("k"): cast("PublicKey", None)}, Freshness(), source.instant(), 0.5)
        page = Page(cursor="c", complete=True, events=(), ignored=0, at=clock.now())
        source.paged(page, source.instant())
        until = source.cache.snapshot.expires_at
        clock.advance(3600)
        written = NumericDate(clock.now() - held_up)
        if how == "page":
            source.paged(replace(page, at=written), source.instant())
        else:
            assert source.beat(Heartbeat("c", written), announces=True)
        assert source.cache.snapshot.expires_at == until + 3600 * is_word


@contextlib.contextmanager
def serving(clock, answer):
    """An issuer of pages alone: ``answer`` makes one, or None for 410, of the cursor that is asked for."""

    def reply(name, request):
        page = answer(request.query.get("after"))
        if page is None:
            return Reply(status=410)
        body = {"issuer": issuer.issuer, "complete": False, "events": [], "at": clock.now()} | page
        return Reply(headers={"Content-Type": "application/json"}, body=json.dumps(body).encode())

    origin = Origin(routes={"/revocations": "feed"}, answer=reply, clock=clock)
    origin.start()
    issuer = SimpleNamespace(issuer=f"http://127.0.0.1:{origin.port}", discovery={}, origin=origin)
    try:
        yield issuer
    finally:
        origin.close()


def logout(n, clock):
    """The event of one more session."""
    return {"kind": "rid", "value": f"r{n}", "expires_at": clock.now() + 900}


def endless(clock, cursor_of):
    """Pages of one event each that never end; ``cursor_of`` gives the cursor of the n-th."""
    numbers = itertools.count(1)

    def answer(after):
        n = next(numbers)
        return {"cursor": cursor_of(n), "events": [logout(n, clock)]}

    return answer


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("cursor_of", "events", "requests"),
    [("same".format, True, 2), (lambda n: f"c{n % 3}", True, 4), ("c{}".format, False, 1)],
)
async def test_pages_that_lead_nowhere_are_a_failure(clock, recorder, cursor_of, events, requests):
    """The same cursor again, a circle of them, a page of nothing with more to come: the feed fails."""
    log = endless(clock, cursor_of)
    with serving(clock, lambda after: log(after) | ({} if events else {"events": []})) as issuer:
        with pytest.raises(FetchFailed, match="no_progress"):
            await catching_up(issuer, clock, recorder)
        assert issuer.origin.count("feed") == requests


@pytest.mark.anyio
async def test_a_log_begins_anew_once_in_an_attempt(clock, recorder):
    """An issuer that forgets each cursor as soon as it gave it is asked again after a pause, not at once."""
    with serving(
        clock, lambda after: None if after else {"cursor": "c", "events": [logout(1, clock)]}
    ) as issuer:
        with pytest.raises(FetchFailed, match="status_410"):
            await catching_up(issuer, clock, recorder)
        assert issuer.origin.count("feed") == 4


@pytest.mark.anyio
async def test_catching_up_ends_in_time(clock, recorder):
    """However fast new pages come, an attempt is over after its span; the next goes on from there."""
    log = endless(clock, lambda n: f"c{n}")

    def answer(after):
        clock.advance(1)
        return log(after)

    with serving(clock, answer) as issuer:
        with pytest.raises(FetchFailed, match="too_slow"):
            await catching_up(issuer, clock, recorder, catch_up=30)
        assert issuer.origin.count("feed") == 30


@pytest.mark.anyio
async def test_the_denylist_is_bounded(clock, recorder):
    """More revocations than the setting allows are a feed that fails, until some have expired."""
    log = endless(clock, lambda n: f"c{n}")
    with serving(clock, log) as issuer:
        with pytest.raises(FetchFailed, match="too_many_revocations"):
            await catching_up(issuer, clock, recorder, entries=20)
        assert issuer.origin.count("feed") == 21


def test_a_flood_on_the_stream_makes_the_feed_fail(issuer, recorder, clock):
    """Loudly, with what is known kept; it goes on once enough has expired."""
    small = Issuer(issuer=issuer.issuer, audience="api", on_stale="deny", feed=FeedPolicy(entries=20))
    with Verifier.many(small, clock=clock, on_event=recorder) as verifier:
        assert verifier.start()
        recorder.wait_for(EventName.FEED_FOLLOWED, 2)
        for n in range(21):
            issuer.announce(logout(n, clock))
        recorder.wait_for(EventName.FEED_FAILED, reason="too_many_revocations")
        assert refusal(verifier, issuer.mint(rid="r19")) == "revoked"
        issuer.revoke(rid="late")
        known = recorder.count(EventName.FEED_FOLLOWED)
        clock.advance(1300)
        recorder.pass_until(clock, EventName.FEED_FOLLOWED, known + 1)
        assert refusal(verifier, issuer.mint(rid="late")) == "revoked"
        assert verifier.verify(issuer.mint()).sub == "usr_1"


def test_a_stream_that_states_too_much_is_a_gap(issuer, follow, recorder, clock):
    """It is told, nothing of the message is believed, and the page tells what was revoked."""
    verifier = followed(issuer, follow, recorder)
    raw, stolen = issuer.mint(), issuer.kid
    issuer.rotate()
    recorder.wait_for(EventName.KEY_ADDED, 2)
    issuer.disconnect()
    for n in range(1_025):
        issuer.revoke(kid=f"kid{n}", lose=True)
    issuer.revoke(kid=stolen, lose=True)
    issuer.disconnect()
    recorder.pass_until(clock, EventName.FEED_FAILED, reason="stream_malformed")
    recorder.pass_until(clock, EventName.KEY_REMOVED, kid=stolen)
    assert refusal(verifier, raw) == "revoked"
    assert verifier.verify(issuer.mint())


# --- gaps --------------------------------------------------------------------------------------


def test_a_lost_event_is_found_by_the_next_heartbeat(issuer, follow, recorder):
    """The head differs from what was applied: another page fills the gap."""
    verifier = followed(issuer, follow, recorder)
    issuer.revoke(rid="session-1", lose=True)
    assert verifier.verify(issuer.mint(rid="session-1"))
    issuer.beat()
    recorder.wait_for(EventName.REVOCATION_APPLIED)
    assert refusal(verifier, issuer.mint(rid="session-1")) == "revoked"
    assert issuer.requests("feed") == 2


def test_a_cut_connection_is_taken_up_where_it_ended(issuer, follow, recorder, clock):
    """Events of the meantime come with the next page."""
    verifier = followed(issuer, follow, recorder)
    issuer.disconnect()
    issuer.revoke(rid="session-1")
    # The cut may take the next page's connection too; then that is asked for again after a pause.
    recorder.pass_until(clock, EventName.REVOCATION_APPLIED)
    assert refusal(verifier, issuer.mint(rid="session-1")) == "revoked"


def test_an_issuer_that_forgot_our_cursor_is_asked_for_everything(issuer, follow, recorder, clock):
    """After a restore: a new snapshot; what was revoked stays revoked."""
    verifier = followed(issuer, follow, recorder)
    issuer.revoke(rid="session-1")
    recorder.wait_for(EventName.REVOCATION_APPLIED)
    issuer.revoke(rid="session-2", lose=True)
    issuer.restore()
    recorder.pass_until(clock, EventName.REVOCATION_APPLIED, events=2)
    assert refusal(verifier, issuer.mint(rid="session-1")) == "revoked"
    assert refusal(verifier, issuer.mint(rid="session-2")) == "revoked"


def test_a_silent_stream_is_replaced_by_pages(issuer, follow, recorder, clock):
    """A proxy that holds the stream back costs seconds, not revocations."""
    verifier = followed(issuer, follow, recorder)
    issuer.mute()
    issuer.revoke(rid="session-1")
    clock.wait_armed(beyond=10, within=15)
    clock.advance(15)
    recorder.wait_for(EventName.REVOCATION_APPLIED)
    assert refusal(verifier, issuer.mint(rid="session-1")) == "revoked"


def test_without_a_stream_pages_keep_up(clock, follow, recorder):
    """A feed of pages alone is asked at every heartbeat."""
    with FakeIssuer(clock=clock) as issuer:
        issuer.discovery["mintmark_feed_stream"] = None
        verifier = follow(issuer)
        verifier.start()
        issuer.revoke(rid="session-1")
        clock.wait_armed(beyond=5, within=10)
        clock.advance(10)
        recorder.wait_for(EventName.REVOCATION_APPLIED)
        assert refusal(verifier, issuer.mint(rid="session-1")) == "revoked"
        assert issuer.requests("stream") == 0


def test_a_stream_that_never_works_does_not_stop_pages(issuer, follow, recorder, clock):
    """Refused streams are tried again as often as heartbeats would come, with a page each time."""
    with issuer.fail(Fault.NOT_FOUND, "stream"):
        verifier = follow(issuer)
        verifier.start()
        issuer.revoke(rid="session-1")
        recorder.wait_for(EventName.FEED_FOLLOWED, 4)
        clock.wait_armed(within=10)
        before = issuer.requests("stream")
        clock.advance(10)
        issuer.wait_for_requests("stream", before + 1)
        assert refusal(verifier, issuer.mint(rid="session-1")) == "revoked"
        assert issuer.requests("stream") <= 6


# --- staleness ---------------------------------------------------------------------------------


@pytest.mark.parametrize("on_stale", ["deny", "allow", "prove"])
def test_a_short_silence_marks_tokens_and_refuses_none(issuer, follow, recorder, clock, on_stale):
    """Between 15 s and the bound tokens pass and say ``stale``; an event tells of it."""
    verifier = followed(issuer, follow, recorder, on_stale=on_stale)
    raw = issuer.mint(expires_in=LONG)
    cut_off(issuer, clock, recorder)
    clock.advance(16)
    assert verifier.verify(raw).revocation == "stale"
    recorder.wait_for(EventName.FEED_DEGRADED)
    clock.advance(BOUND - 17)
    assert verifier.verify(raw).revocation == "stale"
    reconnect(issuer, clock, recorder)
    recorder.wait_for(EventName.FEED_RESTORED)
    assert verifier.verify(raw).revocation == "checked"


def test_deny_answers_503_after_the_bound_until_the_feed_is_back(issuer, follow, recorder, clock):
    """VF14: nothing is accepted that might have been revoked, and nothing is blamed on the token."""
    verifier = followed(issuer, follow, recorder, on_stale="deny")
    raw = issuer.mint(expires_in=LONG)
    cut_off(issuer, clock, recorder)
    clock.advance(BOUND + 1)
    assert refusal(verifier, raw) == "revocation_stale"
    assert not verifier.ready()
    reconnect(issuer, clock, recorder)
    assert verifier.verify(raw).revocation == "checked"
    assert verifier.ready()


def test_allow_accepts_after_the_bound_and_says_so(issuer, follow, recorder, clock):
    """The token carries what was not checked; what was revoked before stays revoked."""
    verifier = followed(issuer, follow, recorder, on_stale="allow")
    issuer.revoke(rid="session-1")
    recorder.wait_for(EventName.REVOCATION_APPLIED)
    cut_off(issuer, clock, recorder)
    clock.advance(BOUND + 1)
    assert verifier.verify(issuer.mint()).revocation == "stale"
    assert refusal(verifier, issuer.mint(rid="session-1")) == "revoked"
    assert verifier.ready()


def test_fresh_revocation_denies_on_one_route(issuer, follow, recorder, clock):
    """A route can ask for ``deny`` where the rest allows."""
    verifier = followed(issuer, follow, recorder, on_stale="allow")
    raw = issuer.mint(expires_in=LONG)
    strict = verifier.require(fresh_revocation=True)
    assert strict.verify(raw)
    cut_off(issuer, clock, recorder)
    clock.advance(BOUND - 1)
    assert strict.verify(raw)
    clock.advance(2)
    assert verifier.verify(raw)
    assert refusal(verifier, raw, fresh_revocation=True) == "revocation_stale"


def test_prove_goes_on_until_a_newer_token_shows_that_we_are_cut_off(issuer, follow, recorder, clock):
    """VF14, the default: an issuer that is down costs nothing, the first new token shows a partition."""
    verifier = followed(issuer, follow, recorder)
    old = issuer.mint(expires_in=LONG)
    cut_off(issuer, clock, recorder)
    clock.advance(BOUND + 10)
    assert verifier.verify(old).revocation == "stale"
    assert verifier.ready()
    assert refusal(verifier, issuer.mint()) == "revocation_stale"
    assert refusal(verifier, old) == "revocation_stale"
    assert not verifier.ready()
    recorder.wait_for(EventName.INCIDENT, code="partition_suspected")
    reconnect(issuer, clock, recorder)
    assert verifier.verify(old).revocation == "checked"


def test_a_forged_token_proves_nothing(issuer, follow, recorder, clock):
    """Only a valid signature shows that the issuer lives."""
    verifier = followed(issuer, follow, recorder)
    old = issuer.mint(expires_in=LONG)
    cut_off(issuer, clock, recorder)
    clock.advance(BOUND + 10)
    forged = issuer.mint()[:-8] + "AAAAAAAA"
    assert refusal(verifier, forged) == "bad_signature"
    assert verifier.verify(old)


@pytest.mark.parametrize("on_stale", ["deny", "prove"])
def test_without_a_first_snapshot_there_is_no_answer(issuer, follow, recorder, clock, on_stale):
    """VF14: COLD is 503 while keys alone are there; then it recovers."""
    verifier = follow(issuer, on_stale=on_stale)
    with issuer.fail(Fault.ERROR, "feed"):
        assert refusal(verifier, issuer.mint()) == "revocation_stale"
        assert not verifier.ready()
        assert not verifier.start()
    recorder.pass_until(clock, EventName.FEED_FOLLOWED)
    assert verifier.start()
    assert verifier.verify(issuer.mint()).revocation == "checked"


def test_allow_needs_no_snapshot(issuer, follow):
    """``allow`` accepts with ``stale`` from the first token on."""
    verifier = follow(issuer, on_stale="allow")
    with issuer.fail(Fault.ERROR, "feed"):
        assert verifier.verify(issuer.mint()).revocation == "stale"


def test_fresh_revocation_is_denied_while_nothing_is_known(issuer, follow):
    """A route that asks for it refuses before the first snapshot too, where the rest allows."""
    verifier = follow(issuer, on_stale="allow")
    with issuer.fail(Fault.ERROR, "feed"):
        assert refusal(verifier, issuer.mint(), fresh_revocation=True) == "revocation_stale"
        with pytest.raises(VerifierUnavailable, match="revocations"):
            verifier.require("orders:read", fresh_revocation=True).verify(issuer.mint(scope="orders:read"))


def test_a_process_that_was_suspended_waits_for_the_first_attempt_to_catch_up(
    issuer, follow, recorder, clock
):
    """After a pause longer than the bound the first token is not refused because of the pause."""
    verifier = followed(issuer, follow, recorder, on_stale="deny")
    issuer.mute()
    with issuer.fail(Fault.HOLD, "feed"), ThreadPoolExecutor(1) as pool:
        clock.wait_armed(beyond=10, within=15)
        clock.advance(BOUND + 100)
        answer = pool.submit(verifier.verify, issuer.mint())
        clock.wait_armed(within=1)
        issuer.recover()
        assert answer.result(20).revocation == "checked"


@pytest.mark.parametrize(
    "fault", [Fault.ERROR, Fault.EMPTY, Fault.GARBAGE, Fault.HTML, Fault.REDIRECT, Fault.HUGE]
)
def test_a_feed_that_answers_nonsense_is_a_feed_that_fails(issuer, follow, recorder, clock, fault):
    """Nothing of it is applied, and tokens pass within the bound."""
    verifier = followed(issuer, follow, recorder)
    issuer.revoke(rid="session-1")
    recorder.wait_for(EventName.REVOCATION_APPLIED)
    issuer.fail(fault, "feed", "stream")
    issuer.disconnect()
    clock.pass_armed(0.5)
    recorder.wait_for(EventName.FEED_FAILED)
    assert verifier.verify(issuer.mint()).revocation == "stale"
    assert refusal(verifier, issuer.mint(rid="session-1")) == "revoked"


def test_an_issuer_without_a_feed_says_unsupported(plain_issuer, follow):
    """Its tokens are good until ``exp``; a route that needs fresh revocations refuses them."""
    verifier = follow(plain_issuer, on_stale="deny")
    assert verifier.verify(plain_issuer.mint()).revocation == "unsupported"
    assert refusal(verifier, plain_issuer.mint(), fresh_revocation=True) == "revocation_stale"


def test_a_discovery_document_without_the_feed_takes_nothing_back(issuer, follow, recorder, clock):
    """An old copy of the document neither accepts who was logged out nor turns the feed off."""
    verifier = followed(issuer, follow, recorder, on_stale="deny")
    issuer.revoke(rid="session-1")
    recorder.wait_for(EventName.REVOCATION_APPLIED)
    issuer.discovery |= {"mintmark_feed": None, "mintmark_feed_stream": None}
    known = recorder.count(EventName.FEED_FOLLOWED)
    clock.advance(3600)
    issuer.wait_for_requests("discovery", 2)
    recorder.wait_for(EventName.INCIDENT, code="feed_withdrawn")
    recorder.pass_until(clock, EventName.FEED_FOLLOWED, known + 1)
    assert refusal(verifier, issuer.mint(rid="session-1")) == "revoked"
    assert verifier.verify(issuer.mint()).revocation != "unsupported"
    issuer.revoke(rid="session-2")
    recorder.wait_for(EventName.REVOCATION_APPLIED, 2)
    assert refusal(verifier, issuer.mint(rid="session-2")) == "revoked"
    assert refusal(verifier, issuer.mint(header={"kid": "not-a-thumbprint"})) == "unknown_kid"
    assert issuer.requests("jwks") == 2


def test_another_issuers_page_is_not_believed(issuer, follow):
    """The feed must name the issuer, like every document."""
    with FakeIssuer(clock=issuer.clock) as other:
        issuer.discovery["mintmark_feed"] = f"{other.issuer}/revocations"
        assert refusal(follow(issuer), issuer.mint()) == "keys_cold"
