"""Following an issuer's keys, counted at the origin, under a clock that the test moves."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from mintmark import EventName, InvalidToken, Issuer, Verifier, VerifierUnavailable
from mintmark.testing import FakeIssuer, Fault, Recorder, SigningKey
from mintmark.verifier import discovery

pytestmark = pytest.mark.anyio

REFRESH = 264
"""Later than any refresh of a set that lives 300 s: 80 % of it and a tenth more."""
SLOW = {Fault.HOLD, Fault.DRIP, Fault.DRIP_HEAD}
"""Faults that only the deadline ends."""


def attempt_at_refresh(issuer, clock, recorder, *, fault=None):
    """Move time to the next refresh; with a ``fault`` until it has failed."""
    failures = recorder.count(EventName.REFRESH_FAILED)
    requests = issuer.requests("jwks")
    clock.wait_armed(beyond=5, within=REFRESH)
    clock.advance(REFRESH)
    if fault is None:
        return
    if fault in SLOW:
        issuer.wait_for_requests("jwks", requests + 1)
        clock.pass_armed(5)
    recorder.wait_for(EventName.REFRESH_FAILED, failures + 1)


def answered(answer, clock):
    """What ``answer`` becomes; time passes only while it is not there yet."""
    while not wait([answer], timeout=0.2).done:
        clock.advance(1)
    return answer.result()


def test_the_first_token_loads_the_keys(plain_issuer, follow):
    """Configured with a URL and an audience and nothing else, the first token passes."""
    token = follow(plain_issuer).verify(plain_issuer.mint(sub="usr_7", scope="a b"))
    assert (token.sub, token.scopes, token.revocation) == ("usr_7", {"a", "b"}, "unsupported")
    assert (plain_issuer.requests("discovery"), plain_issuer.requests("jwks")) == (1, 1)


def test_a_warm_verifier_asks_nobody(plain_issuer, follow):
    """A thousand tokens later the origin was asked once, even while it is down."""
    verifier = follow(plain_issuer)
    verifier.verify(plain_issuer.mint())
    with plain_issuer.outage():
        for _ in range(1000):
            verifier.verify(plain_issuer.mint())
    assert plain_issuer.requests("jwks") == 1


async def test_five_hundred_cold_callers_cost_one_fetch(plain_issuer, follow):
    """Callers in asyncio and in threads share one fetch."""
    verifier = follow(plain_issuer)
    with ThreadPoolExecutor(20) as pool, plain_issuer.fail(Fault.HOLD, "jwks"):
        raw = plain_issuer.mint()
        loop = asyncio.get_running_loop()
        callers = [asyncio.create_task(verifier.averify(raw)) for _ in range(480)]
        threads = [loop.run_in_executor(pool, verifier.verify, raw) for _ in range(20)]
        await asyncio.to_thread(plain_issuer.wait_for_requests, "jwks")
        plain_issuer.recover()
        tokens = await asyncio.gather(*callers, *threads)
    assert len(tokens) == 500
    assert (plain_issuer.requests("discovery"), plain_issuer.requests("jwks")) == (1, 1)


async def test_a_cancelled_caller_does_not_cancel_the_shared_fetch(plain_issuer, follow):
    """Whoever gives up, the others get what they wait for."""
    verifier = follow(plain_issuer)
    with plain_issuer.fail(Fault.HOLD, "jwks"):
        raw = plain_issuer.mint()
        impatient = asyncio.create_task(verifier.averify(raw))
        patient = asyncio.create_task(verifier.averify(raw))
        await asyncio.to_thread(plain_issuer.wait_for_requests, "jwks")
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        plain_issuer.recover()
        assert (await patient).sub == "usr_1"
    assert plain_issuer.requests("jwks") == 1


@pytest.mark.parametrize("fault", Fault)
def test_good_tokens_pass_whatever_the_origin_answers(plain_issuer, follow, clock, recorder, fault):
    """VF13: a refresh that fails, however, costs no token; after four hours the keys are too old."""
    verifier = follow(plain_issuer)
    verifier.verify(plain_issuer.mint())
    with plain_issuer.fail(fault, "jwks"):
        attempt_at_refresh(plain_issuer, clock, recorder, fault=fault)
        verifier.verify(plain_issuer.mint())
        clock.advance(4 * 3600 - 300)
        assert clock.monotonic() < 4 * 3600
        verifier.verify(plain_issuer.mint())
        clock.advance(300)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(verifier.verify, plain_issuer.mint())
            with pytest.raises(VerifierUnavailable) as refused:
                answered(answer, clock)
    assert (refused.value.code, refused.value.status) == ("keys_expired", 503)
    assert refused.value.retry_after >= 1


@pytest.mark.parametrize("name", ["discovery", "jwks"])
@pytest.mark.parametrize("fault", Fault)
def test_a_cold_verifier_answers_503_whatever_the_origin_answers(plain_issuer, follow, clock, fault, name):
    """VF13: whatever the origin does, an outage of the issuer is never the token's fault."""
    verifier = follow(plain_issuer)
    with plain_issuer.fail(fault, name), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(verifier.verify, plain_issuer.mint())
        plain_issuer.wait_for_requests(name)
        if fault in SLOW:
            clock.pass_armed(5)
        with pytest.raises(VerifierUnavailable):
            answered(answer, clock)
        with pytest.raises(InvalidToken):
            verifier.verify("garbage")


def test_a_cold_verifier_recovers_with_its_issuer(plain_issuer, follow, clock, recorder):
    """During the back-off callers are answered at once; after it the first one loads the keys."""
    verifier = follow(plain_issuer)
    with plain_issuer.fail(Fault.ERROR):
        for _ in range(3):
            with pytest.raises(VerifierUnavailable):
                verifier.verify(plain_issuer.mint())
        recorder.wait_for(EventName.REFRESH_FAILED)
    clock.advance(1)
    assert verifier.verify(plain_issuer.mint()).sub == "usr_1"


def test_rotation_without_overlap_costs_the_first_token_one_round_trip(plain_issuer, follow):
    """A key that nobody announced is fetched for, once."""
    verifier = follow(plain_issuer)
    old = plain_issuer.mint()
    verifier.verify(old)
    plain_issuer.rotate(keep=False)
    assert verifier.verify(plain_issuer.mint()).kid == plain_issuer.kid
    assert plain_issuer.requests("jwks") == 2
    assert plain_issuer.requests("discovery") == 1


def test_a_key_that_was_removed_is_refused_within_its_lifetime(plain_issuer, follow, clock, recorder):
    """Withdrawn from the set: tokens pass until the next refresh and no longer."""
    verifier = follow(plain_issuer)
    verifier.verify(plain_issuer.mint())
    old = plain_issuer.kid
    raw = plain_issuer.mint()
    plain_issuer.rotate()
    plain_issuer.withdraw(old)
    assert verifier.verify(raw).kid == old
    attempt_at_refresh(plain_issuer, clock, recorder)
    recorder.wait_for(EventName.KEY_REMOVED, kid=old)
    with pytest.raises(InvalidToken) as refused:
        verifier.verify(raw)
    assert refused.value.code == "unknown_kid"


def test_a_refresh_that_brings_nothing_new_is_a_304(plain_issuer, follow, clock, recorder):
    """Conditional requests: the document crosses the network once."""
    verifier = follow(plain_issuer)
    verifier.verify(plain_issuer.mint())
    attempt_at_refresh(plain_issuer, clock, recorder)
    recorder.wait_for(EventName.KEYSET_UNCHANGED)
    assert recorder.count(EventName.KEYSET_LOADED) == 1


def test_ten_thousand_garbage_kids_in_a_minute_cost_four_fetches(plain_issuer, follow, clock):
    """And no good token is refused meanwhile."""
    verifier = follow(plain_issuer)
    verifier.verify(plain_issuer.mint())
    stranger = SigningKey.generate()
    for n in range(10_000):
        garbage = plain_issuer.mint(signed_by=stranger, header={"kid": f"{n:043}"})
        with pytest.raises((InvalidToken, VerifierUnavailable)):
            verifier.verify(garbage)
        if n % 100 == 0:
            verifier.verify(plain_issuer.mint())
            clock.advance(0.6)
    assert plain_issuer.requests("jwks") <= 1 + 4


def test_a_new_kid_waits_a_second_for_a_slow_origin(plain_issuer, follow, clock):
    """Then 503, and the fetch goes on for the next one."""
    verifier = follow(plain_issuer)
    verifier.verify(plain_issuer.mint())
    plain_issuer.rotate()
    with plain_issuer.fail(Fault.HOLD, "jwks"), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(verifier.verify, plain_issuer.mint())
        clock.pass_armed(1)
        with pytest.raises(VerifierUnavailable) as refused:
            answer.result(20)
        assert refused.value.code == "key_unchecked"
        plain_issuer.recover()
    assert verifier.verify(plain_issuer.mint()).kid == plain_issuer.kid
    assert plain_issuer.requests("jwks") == 2


def test_a_key_under_a_name_that_is_not_its_own_is_dropped(issuer, follow, recorder):
    """A Mintmark's kid is its key's thumbprint: whoever puts another key under it is not believed."""
    stranger = SigningKey.generate()
    forged = stranger.public_jwk | {"kid": "A" * 43}
    issuer.jwks = json.dumps({"keys": [*json.loads(issuer.key_set())["keys"], forged]}).encode()
    verifier = follow(issuer)
    assert verifier.verify(issuer.mint()).kid == issuer.kid
    recorder.wait_for(EventName.INCIDENT, code="kid_rebound")
    with pytest.raises(InvalidToken) as refused:
        verifier.verify(issuer.mint(signed_by=stranger, header={"kid": "A" * 43}))
    assert refused.value.code == "unknown_kid"


@pytest.mark.parametrize("kid", ["short", "B" * 44])
def test_a_kid_that_no_mintmark_key_can_have_is_never_asked_about(issuer, follow, kid):
    """Another shape than a thumbprint's costs the issuer nothing."""
    verifier = follow(issuer)
    verifier.verify(issuer.mint())
    with pytest.raises(InvalidToken):
        verifier.verify(issuer.mint(signed_by=SigningKey.generate(), header={"kid": kid}))
    assert issuer.requests("jwks") == 1


def test_keys_at_another_origin_need_leave(plain_issuer, follow, clock):
    """An issuer whose keys lie elsewhere is followed only where the deployer named that origin."""
    with FakeIssuer(clock=clock, feed=False) as other:
        elsewhere = other.issuer.replace("127.0.0.1", "localhost")
        plain_issuer.discovery["jwks_uri"] = f"{elsewhere}/.well-known/jwks.json"
        with pytest.raises(VerifierUnavailable):
            follow(plain_issuer).verify(plain_issuer.mint())
        assert other.requests("jwks") == 0
        other.jwks = plain_issuer.key_set()
        allowed = Verifier.many(
            Issuer(issuer=plain_issuer.issuer, audience="api", allow_origins=[elsewhere]), clock=clock
        )
        try:
            assert allowed.verify(plain_issuer.mint()).sub == "usr_1"
        finally:
            allowed.close()
        assert other.requests("jwks") == 1


@pytest.mark.parametrize(
    ("host", "public"), [("localhost", False), ("127.0.0.1", False), ("93.184.216.34", True)]
)
async def test_a_name_that_leads_into_our_own_network_is_not_public(host, public):
    """Each address that it has is looked at."""
    assert await discovery.is_public(host) is public


@pytest.mark.parametrize("refused", ["jwks", "feed", "stream"])
def test_no_url_of_a_public_issuer_leads_into_our_own_network(issuer, clock, monkeypatch, refused):
    """Keys, pages and stream are not asked for at an allowed origin whose name is made to point there."""
    elsewhere = issuer.issuer.replace("127.0.0.1", "localhost")
    names = {"jwks": "jwks_uri", "feed": "mintmark_feed", "stream": "mintmark_feed_stream"}
    path = {"jwks": "/.well-known/jwks.json", "feed": "/revocations", "stream": "/revocations/stream"}
    issuer.discovery[names[refused]] = elsewhere + path[refused]

    async def is_public(name):
        return name == "127.0.0.1"  # as if: the issuer is on the Internet, and localhost is ours

    monkeypatch.setattr(discovery, "is_public", is_public)
    recorder = Recorder()
    asked = Issuer(issuer=issuer.issuer, audience="api", allow_origins=[elsewhere])
    verifier = Verifier.many(asked, clock=clock, on_event=recorder)
    try:
        verifier.start()
        match refused:
            case "jwks":
                recorder.wait_for(EventName.REFRESH_FAILED, reason="private_address")
            case "feed":
                recorder.wait_for(EventName.FEED_FAILED, reason="private_address")
            case "stream":
                recorder.wait_for(EventName.FEED_FOLLOWED, 3)  # by pages, taken up again at once
        assert issuer.requests(refused) == 0
    finally:
        verifier.close()


@pytest.fixture
def two_issuers(plain_issuer, clock):
    """A verifier of two issuers' tokens, and the second issuer."""
    with FakeIssuer(clock=clock, feed=False) as other:
        verifier = Verifier.many(
            Issuer(issuer=plain_issuer.issuer, audience="api"),
            Issuer(issuer=other.issuer, audience="api"),
            clock=clock,
        )
        yield verifier, other
        verifier.close()


def test_one_issuers_outage_does_not_slow_another(plain_issuer, two_issuers):
    """While one origin hangs, and no time passes, the other's tokens pass."""
    verifier, other = two_issuers
    with plain_issuer.fail(Fault.HOLD), ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(verifier.verify, plain_issuer.mint())
        plain_issuer.wait_for_requests("discovery")
        assert verifier.verify(other.mint()).iss == other.issuer
        assert not stuck.done()
        plain_issuer.recover()
        assert stuck.result(20).iss == plain_issuer.issuer


def test_a_token_of_one_issuer_never_uses_the_key_of_another(plain_issuer, two_issuers):
    """VF5: a key is looked up only among the keys of the token's own issuer."""
    verifier, other = two_issuers
    verifier.verify(plain_issuer.mint())
    verifier.verify(other.mint())
    with pytest.raises(InvalidToken) as refused:
        verifier.verify(other.mint(iss=plain_issuer.issuer))
    assert refused.value.code == "unknown_kid"


def test_callers_in_many_threads_see_one_rotation(plain_issuer, follow):
    """Fifty threads with the first tokens of a new key cost one fetch."""
    verifier = follow(plain_issuer)
    verifier.verify(plain_issuer.mint())
    plain_issuer.rotate(keep=False)
    with plain_issuer.fail(Fault.HOLD, "jwks"), ThreadPoolExecutor(50) as pool:
        together = threading.Barrier(50)

        def verify(raw):
            together.wait(20)
            return verifier.verify(raw).kid

        answers = [pool.submit(verify, plain_issuer.mint()) for _ in range(50)]
        plain_issuer.wait_for_requests("jwks", 2)
        plain_issuer.recover()
        assert {answer.result(20) for answer in answers} == {plain_issuer.kid}
    assert plain_issuer.requests("jwks") == 2
