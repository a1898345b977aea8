"""Every hostile token gets its documented code, in bounded work, and never another error."""

import math
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core import forge, hostile
from tests.core.forge import DROP, NOW, claims, header, token

from mintmark.core import base64url
from mintmark.core.algorithm import Algorithm
from mintmark.core.claims import AccessToken
from mintmark.core.refusal import FACTS, Code
from mintmark.core.verification import KeyAbsent, Trusted, verify
from mintmark.errors import InvalidToken

COLD = forge.trusted()


def warmed() -> Trusted:
    """Trust that has verified a good token of every key, so that it remembers their headers."""
    trusted = forge.trusted()
    for alg in Algorithm:
        assert verify(token(alg=alg), trusted, NOW).kid == forge.PUBLIC[alg].kid
    assert verify(forge.foreign_token(), trusted, NOW).client_id == "spa"
    assert len(trusted.headers) == 5
    return trusted


WARM = warmed()


def test_the_battery_is_broad():
    """At least 500 cases, each under a name of its own with its source, and every code of 401 among them."""
    assert len(hostile.CASES) >= 500
    assert len({case.name for case in hostile.CASES}) == len(hostile.CASES)
    assert all(case.source for case in hostile.CASES)
    without_case = {Code.UNKNOWN_KID, Code.REVOKED}  # These depend on keys and denylist, not on the token.
    assert {case.code for case in hostile.CASES} == {
        code for code, fact in FACTS.items() if fact.status == 401 and code not in without_case
    }


@pytest.mark.parametrize("case", hostile.CASES, ids=lambda case: f"{case.code.value}-{case.name}")
def test_each_is_refused_with_its_code(case):
    """VF12, VF9, TC3: cold, warm, as text and as bytes the same one code, and nothing of it quoted."""
    raw = case.make()
    spellings = [raw]
    if type(raw) is str and raw.isascii():
        spellings.append(raw.encode())
    for spelling in spellings:
        for trusted in (forge.trusted(), COLD, WARM):
            with pytest.raises(InvalidToken) as caught:
                verify(spelling, trusted, NOW)
            assert caught.value.code == case.code
            assert type(caught.value) is InvalidToken
            assert caught.value.status == 401
            if type(raw) is str:
                assert not any(part in str(caught.value) for part in raw.split(".") if len(part) > 12)
    assert not COLD.headers.keys() - WARM.headers.keys()


def test_refusals_leave_nothing_behind():
    """No hostile token gets its header remembered: only a good signature does."""
    trusted = forge.trusted()
    for case in hostile.CASES:
        if case.code in {Code.BAD_SIGNATURE, Code.ALG_MISMATCH, Code.BAD_CLAIM}:
            with pytest.raises(InvalidToken):
                verify(case.make(), trusted, NOW)
    signed_well = {token(alg=alg).partition(".")[0].encode() for alg in Algorithm}
    signed_well.add(forge.foreign_token().partition(".")[0].encode())
    assert set(trusted.headers) <= signed_well


def work(raw: object, trusted: Trusted) -> Counter[str]:
    """How many lines and calls of Python it takes to judge ``raw``."""
    done: Counter[str] = Counter()

    def tracer(_frame, event, _arg):
        done[event] += 1
        return tracer

    sys.settrace(tracer)
    try:
        verify(raw, trusted, NOW)
    except (InvalidToken, KeyAbsent):
        pass
    finally:
        sys.settrace(None)
    return done


def test_no_hostile_token_costs_much():
    """Ten milliseconds are some hundred thousand lines: no case comes near, warm or cold.

    The parts that are not Python (base64, JSON, one signature) are linear in at most 8 KiB.
    """
    costs = {case.name: sum(work(case.make(), forge.trusted()).values()) for case in hostile.CASES}
    dearest = max(costs, key=lambda name: costs[name])
    assert costs[dearest] < 10_000, dearest


@pytest.mark.parametrize(
    "raw",
    ["." * 10**7, "\u00e9" * 10**7, b"a" * 10**7, "a" * 8193],
    ids=["dots", "not ASCII", "bytes", "edge"],
)
def test_size_is_checked_before_anything_else(raw):
    """A token of ten megabytes is refused in as few lines as one of eight kilobytes and a byte."""
    assert sum(work(raw, WARM).values()) < 40


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (lambda: token(head=header(typ="AT+JWT")), "RFC 7515 s.4.1.9: media types compare without case"),
        (lambda: token(head=header(typ="application/at+jwt")), "RFC 9068 s.4"),
        (lambda: token(head=header(typ="Application/At+Jwt")), "RFC 7515 s.4.1.9"),
        (lambda: token(head=header(x5t="abc", cty="x", unknown={"a": [1]})), "RFC 7515 s.4: ignored"),
        (lambda: token(claims(aud=["billing", "orders"])), "RFC 7519 s.4.1.3"),
        (lambda: token(claims(aud=["orders"])), "RFC 7519 s.4.1.3"),
        (lambda: token(claims(exp=NOW - 29)), "exp within its leeway"),
        (lambda: token(claims(iat=NOW + 60)), "iat within its leeway"),
        (lambda: token(claims(nbf=NOW + 60)), "nbf within its leeway"),
        (lambda: token(claims(nbf=-(2**63))), "nbf long ago"),
        (lambda: token(claims(iat=NOW, exp=NOW + 86_400)), "the longest life"),
        (lambda: token(claims(scope="")), "no scope"),
        (lambda: token(claims(scope=DROP, rid=DROP, amr=DROP, acr=DROP, auth_time=DROP)), "optional claims"),
        (lambda: token(claims(amr=[])), "an empty list is a list"),
        (lambda: token(claims(sub="\u7528\u6237\U0001f600")), "text beyond ASCII"),
        (lambda: token(claims(big=2**63 - 1, small=-(2**63), deep=[[[[[[[[1.5]]]]]]]])), "within bounds"),
        (lambda: token(b" " + forge.to_json(claims()).replace(b",", b" ,\r\n\t")), "white space is JSON"),
        (lambda: token(forge.to_json(claims()).replace(b'"sub"', b'"\\u0073ub"')), "escapes are JSON"),
        (lambda: hostile.Loud(token()), "a class of text is text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_looks_odd_and_is_good_is_accepted(raw, why):
    """Strictness has an edge: these are valid, and a verifier that refuses them breaks somebody."""
    for trusted in (forge.trusted(), WARM):
        assert isinstance(verify(raw(), trusted, NOW), AccessToken), why


def test_the_second_form_of_an_es256_signature_is_valid():
    """(r, n - s) verifies too, as RFC 7518 s.3.4 has it: so no token is denied or known by its hash."""
    message, _, signature = token().rpartition(".")
    raw = base64url.decode(signature)
    other = raw[:32] + (hostile.N - int.from_bytes(raw[32:])).to_bytes(32)
    assert verify(f"{message}.{forge.to_base64(other)}", WARM, NOW).jti == claims()["jti"]


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, str]:
    """A good token and the same after one to three edits."""
    good = token(alg=draw(st.sampled_from([Algorithm.ES256, Algorithm.EDDSA])))
    raw = good
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw)))
        piece = draw(st.text(ALPHABET + "..=+/ \n\u00e9", max_size=4))
        end = draw(st.sampled_from([at, at + 1, at + len(piece), at + 40]))
        raw = raw[:at] + piece + raw[end:]
    return good, raw


@given(mutations())
def test_no_mutation_of_a_good_token_is_accepted(pair):
    """Whatever is edited in a good token, what comes out is refused with a code of the table."""
    good, raw = pair
    if raw == good:
        return
    with pytest.raises((InvalidToken, KeyAbsent)) as caught:
        verify(raw, WARM, NOW)
    if isinstance(caught.value, InvalidToken):
        assert FACTS[Code(caught.value.code)].status == 401


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200), st.text(ALPHABET + ".", max_size=300)))
def test_random_input_is_refused_by_its_form(raw):
    """Random text and bytes never pass, and never raise anything but InvalidToken."""
    with pytest.raises(InvalidToken) as caught:
        verify(raw, WARM, NOW)
    assert FACTS[Code(caught.value.code)].step <= 7


@given(st.none() | st.integers() | st.floats() | st.lists(st.text()) | st.dictionaries(st.text(), st.text()))
def test_any_object_is_refused_as_no_text(raw):
    """An object of any type is an invalid token and no TypeError."""
    with pytest.raises(InvalidToken) as caught:
        verify(raw, WARM, NOW)
    assert caught.value.code == Code.NOT_TEXT


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(NOW - 100_000, NOW + 100_000),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["orders", forge.ISSUER, forge.FOREIGN, "Bearer"]),
    st.lists(st.text(max_size=4) | st.just("orders") | st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.just(DROP),
)
NAMES = [
    "iss", "sub", "aud", "client_id", "exp", "iat", "nbf", "jti", "scope", "scp", "rid", "auth_time", "amr",
    "acr", "cnf", "azp", "typ", "events",
]  # fmt: skip


def oracle(payload: dict[str, object], now: int) -> bool:
    """Whether a properly signed payload is good: RFC 9068 and the verifier's rules, written once more."""

    def text(name: str) -> bool:
        return isinstance(payload.get(name), str) and payload[name] != ""

    def whole(name: str) -> bool:
        return type(payload.get(name)) is int and -(2**63) <= payload[name] < 2**63  # type: ignore[operator]

    def texts(value: object) -> bool:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)

    aud = payload.get("aud")
    if not (text("sub") and text("client_id") and text("jti") and whole("exp") and whole("iat")):
        return False
    if payload.get("iss") != forge.ISSUER or not (aud == "orders" or (texts(aud) and "orders" in aud)):  # type: ignore[operator]
        return False
    exp, iat = payload["exp"], payload["iat"]
    assert isinstance(exp, int)
    assert isinstance(iat, int)
    return (
        now < exp + 30
        and iat <= now + 60
        and 0 < exp - iat <= 86_400
        and ("nbf" not in payload or (whole("nbf") and payload["nbf"] <= now + 60))  # type: ignore[operator]
        and all(name not in payload or text(name) for name in ("rid", "acr"))
        and ("scope" not in payload or isinstance(payload["scope"], str))
        and ("auth_time" not in payload or whole("auth_time"))
        and ("amr" not in payload or texts(payload["amr"]))
        and "cnf" not in payload
    )


def is_bounded(value: object) -> bool:
    """Whether every number in ``value`` is finite and of 64 bits."""
    if isinstance(value, dict):
        return all(is_bounded(item) for item in value.values())
    if isinstance(value, list):
        return all(is_bounded(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or -(2**63) <= value < 2**63


@given(st.dictionaries(st.sampled_from(NAMES), ODD, max_size=4))
def test_signed_claims_of_any_type_agree_with_the_rules(changes):
    """A signed payload is accepted exactly if a second, independent reading of the rules accepts it."""
    payload = claims(**changes)
    try:
        data = forge.to_json(payload)
        data.decode()
    except UnicodeError:
        return
    strange = not is_bounded(payload)
    try:
        result = verify(token(data), WARM, NOW)
    except InvalidToken:
        assert strange or not oracle(payload, NOW)
    except KeyAbsent:
        assert payload["iss"] == forge.FOREIGN
    else:
        assert not strange
        assert oracle(payload, NOW)
        assert dict(result.claims) == payload
