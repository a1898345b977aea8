"""What is said of answers: whose keys, how old, in which form, by whose clock."""

import dataclasses
import gzip
import json
from email.utils import formatdate

import pytest

from mintmark.core.key import Key, KeyState
from mintmark.core.keyring import Ring
from mintmark.core.timing import Timing
from mintmark.server.diagnosis import discovery, publication
from mintmark.server.diagnosis.answer import Answer, NoAnswer, Trouble
from mintmark.server.diagnosis.finding import Check, Verdict
from mintmark.units import Issuer, Kid, NodeId, NumericDate

ISSUER = Issuer("https://auth.example.com")
URL = ISSUER + "/.well-known/jwks.json"
NOW = NumericDate(1_800_000_000)
TIMING = Timing()
HEADERS = {
    "content-type": "application/json; charset=utf-8",
    "cache-control": "public, max-age=300",
    "date": formatdate(NOW, usegmt=True),
}


def key(kid: str, state: KeyState = KeyState.ACTIVE, *, age: int = 1000, revoked: int | None = None) -> Key:
    return Key(
        kid=Kid(kid),
        node=NodeId("n"),
        alg="ES256",
        jwk=json.dumps({"kid": kid, "kty": "EC"}).encode(),
        state=state,
        since=1,
        prepared_at=NumericDate(NOW - age),
        lease_until=NumericDate(NOW + 60),
        revoked_at=None if revoked is None else NumericDate(NOW - revoked),
    )


def answer(*kids: str, status: int = 200, body: bytes | None = None, **headers: str) -> Answer:
    document = json.dumps({"keys": [{"kid": kid, "kty": "EC"} for kid in kids]}).encode()
    given = HEADERS | {name.replace("_", "-"): value for name, value in headers.items()}
    given = {name: value for name, value in given.items() if value}
    return Answer(status, given, document if body is None else body, NOW, NOW)


def found(plain, *keys, zipped=None, running=True, needed=True, rings=None):
    ring = Ring(issuer=ISSUER, keys=keys)
    findings = publication.of_key_set(
        URL,
        plain,
        zipped or answer("a"),
        rings=(ring,) if rings is None else rings,
        now=NOW,
        timing=TIMING,
        running=running,
        needed=needed,
    )
    return {one.check: one for one in findings}


def test_answer_of_a_node_is_all_well():
    """The key set as a node sends it gives no reason for a word."""
    said = found(answer("a"), key("a"))
    assert len(said) == 5
    assert all(one.verdict is Verdict.OK for one in said.values())


@pytest.mark.parametrize(
    ("plain", "running", "verdict"),
    [
        (NoAnswer(Trouble.REFUSED, "connection refused"), False, Verdict.WARNING),
        (NoAnswer(Trouble.REFUSED, "connection refused"), True, Verdict.FAILED),
        (NoAnswer(Trouble.TIMEOUT, "5 s"), False, Verdict.WARNING),
        (NoAnswer(Trouble.NAME, "unknown"), False, Verdict.FAILED),
        (NoAnswer(Trouble.TLS, "certificate has expired"), False, Verdict.FAILED),
        (answer(status=502), False, Verdict.WARNING),
        (answer(status=502), True, Verdict.FAILED),
        (answer(status=404), False, Verdict.FAILED),
        (answer(status=301, location="https://elsewhere.example/"), False, Verdict.FAILED),
        (answer(body=b"<h1>It works</h1>"), False, Verdict.FAILED),
        (answer(body=b'{"keys": "none"}'), False, Verdict.FAILED),
    ],
)
def test_silence_is_a_failure_where_a_node_should_answer(plain, running, verdict):
    """Before the first start nobody answers; a wrong name, certificate or page is wrong even then."""
    said = found(plain, key("a"), running=running)
    assert said[Check.PUBLICATION_REACH].verdict is verdict
    assert said[Check.PUBLICATION_REACH].fix
    assert all(
        one.verdict is Verdict.SKIPPED for check, one in said.items() if check != Check.PUBLICATION_REACH
    )


def test_issuer_that_nodes_need_not_reach_is_only_a_warning():
    """With `proof_urls` a node may live where the public URL does not lead."""
    said = found(NoAnswer(Trouble.NAME, "unknown"), key("a"), needed=False)[Check.PUBLICATION_REACH]
    assert said.verdict is Verdict.WARNING
    assert "verifiers need it" in (said.fix or "")


@pytest.mark.parametrize(
    ("kids", "keys", "verdict", "text"),
    [
        ("ab", [key("a"), key("b")], Verdict.OK, "2 keys"),
        ("a", [key("a"), key("b")], Verdict.FAILED, "lacks b"),
        ("a", [key("a"), key("b", age=305)], Verdict.OK, "1 of them too new"),
        ("a", [key("a"), key("b", age=306)], Verdict.FAILED, "lacks b"),
        ("ax", [key("a")], Verdict.WARNING, "holds x"),
        ("xy", [key("a")], Verdict.FAILED, "another database"),
        ("ar", [key("a"), key("r", KeyState.REVOKED, revoked=306)], Verdict.FAILED, "which was revoked"),
        ("ar", [key("a"), key("r", KeyState.REVOKED, revoked=10)], Verdict.WARNING, "holds r"),
        ("", [], Verdict.OK, "0 keys"),
    ],
)
def test_key_set_is_compared_with_what_the_store_publishes(kids, keys, verdict, text):
    """A key may be missing for as long as a cache may keep the set, and no stranger is taken for ours."""
    said = found(answer(*kids), *keys)[Check.PUBLICATION_KEYS]
    assert said.verdict is verdict
    assert text in said.found


def test_key_that_came_or_left_between_two_questions_is_no_stranger():
    """With the ring read before and after, what either publishes is known."""
    rings = (Ring(issuer=ISSUER, keys=(key("a"), key("b", age=0))), Ring(issuer=ISSUER, keys=(key("a"),)))
    assert found(answer("a", "b"), rings=rings)[Check.PUBLICATION_KEYS].verdict is Verdict.OK


def test_keys_are_not_judged_without_the_store():
    """Where the store is away nothing is said about whose keys these are."""
    assert found(answer("a"), rings=())[Check.PUBLICATION_KEYS].verdict is Verdict.SKIPPED


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({}, Verdict.OK),
        ({"age": "299"}, Verdict.OK),
        ({"age": "301"}, Verdict.FAILED),
        ({"age": "300"}, Verdict.OK),
        ({"cache_control": "public, max-age=301"}, Verdict.FAILED),
        ({"cache_control": "max-age=60, s-maxage=86400"}, Verdict.FAILED),
        ({"cache_control": "max-age=60"}, Verdict.OK),
        ({"cache_control": ""}, Verdict.WARNING),
        ({"cache_control": "no-store"}, Verdict.WARNING),
    ],
)
def test_no_cache_keeps_the_set_longer_than_it_may(headers, verdict):
    """K5: a longer max-age, or an Age that shows that one was ignored, is a failure."""
    assert found(answer("a", **headers), key("a"))[Check.PUBLICATION_CACHE].verdict is verdict


def zipped(body: bytes, coding: str = "gzip") -> Answer:
    return dataclasses.replace(answer(content_encoding=coding), body=body)


@pytest.mark.parametrize(
    ("plain", "other", "verdict"),
    [
        (answer("a"), zipped(gzip.compress(answer("a").body)), Verdict.OK),
        (answer("a"), zipped(b"\x1f\x8bbroken"), Verdict.FAILED),
        (answer("a"), NoAnswer(Trouble.BROKEN, "reset"), Verdict.FAILED),
        (answer("a"), zipped(answer("a").body, "br"), Verdict.FAILED),
        (zipped(gzip.compress(answer("a").body)), answer("a"), Verdict.FAILED),
        (answer("a", content_type="text/html"), answer("a"), Verdict.WARNING),
        (answer("a", content_type="application/jwk-set+json"), answer("a"), Verdict.OK),
        (answer(body=b'{"keys":[{"kid":"a","kty":"RSA"}]}'), answer("a"), Verdict.FAILED),
    ],
)
def test_what_changes_the_key_set_on_its_way_is_told(plain, other, verdict):
    """Another key under the same name, a coding that nobody asked for or can read, a wrong type."""
    assert found(plain, key("a"), zipped=other)[Check.PUBLICATION_FORM].verdict is verdict


@pytest.mark.parametrize(
    ("off", "age", "verdict"),
    [
        (0, "", Verdict.OK),
        (31, "", Verdict.OK),
        (33, "", Verdict.WARNING),
        (-33, "", Verdict.WARNING),
        (-200, "200", Verdict.OK),
    ],
)
def test_clock_of_who_answers_is_compared_with_ours(off, age, verdict):
    """A Date further away than clock_skew is a warning, unless the answer is as old as its Age says."""
    date = formatdate(NOW + off, usegmt=True)
    assert found(answer("a", date=date, age=age), key("a"))[Check.PUBLICATION_DATE].verdict is verdict


def test_answer_without_a_date_is_skipped():
    """Nothing is claimed of a clock that was not told."""
    for date in ("", "yesterday"):
        assert found(answer("a", date=date), key("a"))[Check.PUBLICATION_DATE].verdict is Verdict.SKIPPED


DOCUMENT = {
    "issuer": ISSUER,
    "jwks_uri": URL,
    "mintmark_feed": ISSUER + "/revocations",
    "mintmark_feed_stream": ISSUER + "/revocations/stream",
}


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, "names this issuer"),
        ({"issuer": ISSUER + "/"}, "names the issuer https://auth.example.com/"),
        ({"jwks_uri": "http://10.0.0.1/jwks"}, "jwks_uri"),
        ({"mintmark_feed_stream": None}, "mintmark_feed_stream"),
    ],
)
def test_discovery_names_the_issuer_byte_for_byte(changed, text):
    """A document of another issuer, or with other URLs, is one that verifiers refuse."""
    got = answer(body=json.dumps(DOCUMENT | changed).encode())
    said = discovery.of_discovery(ISSUER, URL, got, first=True)
    assert said.verdict is (Verdict.FAILED if changed else Verdict.OK)
    assert text in said.found


def test_second_form_of_discovery_may_be_missing():
    """Our SDK asks for the first form; the other one is for others, so its absence only warns."""
    for got in (answer(status=404), NoAnswer(Trouble.BROKEN, "reset")):
        assert discovery.of_discovery(ISSUER, URL, got, first=True).verdict is Verdict.FAILED
        assert discovery.of_discovery(ISSUER, URL, got, first=False).verdict is Verdict.WARNING


@pytest.mark.parametrize(
    ("got", "verdict"),
    [
        (answer(body=b"event: keys\n", content_type="text/event-stream; charset=utf-8"), Verdict.OK),
        (answer(body=b"", content_type="text/event-stream"), Verdict.FAILED),
        (NoAnswer(Trouble.TIMEOUT, "5 s"), Verdict.FAILED),
        (NoAnswer(Trouble.REFUSED, "no"), Verdict.FAILED),
        (answer(body=b"x", content_type="text/html"), Verdict.FAILED),
        (answer(body=b"x", content_type="text/event-stream", content_encoding="gzip"), Verdict.WARNING),
        (answer(status=503), Verdict.WARNING),
        (answer(status=404), Verdict.FAILED),
    ],
)
def test_stream_must_come_through_at_once(got, verdict):
    """What holds events back makes a logout late, so silence after the header is a failure."""
    said = discovery.of_stream(URL, got)
    assert said.verdict is verdict
    assert (said.fix is None) is (verdict is Verdict.OK)


def test_what_strangers_send_is_not_repeated_raw():
    """Control characters in headers and documents of others do not reach a terminal."""
    evil = "\x1b]0;x\x07" + "y" * 9_000
    texts = [
        found(answer(status=302, location=evil))[Check.PUBLICATION_REACH].found,
        found(answer(evil), key("a"))[Check.PUBLICATION_KEYS].found,
        found(answer("a", evil), key("a"))[Check.PUBLICATION_KEYS].found,
        found(answer("a", cache_control="max-age=9999, " + evil), key("a"))[Check.PUBLICATION_CACHE].found,
        found(answer("a", content_type=evil), key("a"))[Check.PUBLICATION_FORM].found,
        discovery.of_discovery(
            ISSUER, URL, answer(body=json.dumps({"issuer": evil}).encode()), first=True
        ).found,
    ]
    for text in texts:
        assert text.isprintable()
        assert len(text) < 500
