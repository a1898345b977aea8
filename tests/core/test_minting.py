"""The claims of access tokens: core.minting."""

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from mintmark.core import jwk, jws, strict_json
from mintmark.core.algorithm import Algorithm
from mintmark.core.minting import (
    ACCESS_TOKEN_TYP,
    BACKDATED,
    MAX_PAYLOAD,
    RANDOM_BYTES,
    RESERVED,
    TokenRequest,
    expiry,
    plan,
    random_id,
)
from mintmark.core.policy import Policy
from mintmark.core.verification import Trust, Trusted, verify
from mintmark.errors import ConfigurationError
from mintmark.units import ClientId, Issuer, NumericDate, Rid, Seconds, Sub

NOW = NumericDate(1_800_000_000)
TTL = Seconds(900)
RANDOM = bytes(range(RANDOM_BYTES))
REQUEST = TokenRequest(
    iss=Issuer("https://auth.example.com"),
    sub=Sub("usr_1"),
    client_id=ClientId("web"),
    aud=("orders",),
    scope=("orders:read", "orders:write"),
)

PRIVATE = ec.generate_private_key(ec.SECP256R1())
PUBLIC = jwk.public_key(PRIVATE.public_key(), Algorithm.ES256)


def minted(request: TokenRequest = REQUEST, **options: Any) -> dict[str, Any]:
    """The claims of a token that is planned with fixed time and randomness."""
    planned = plan(request, **{"now": NOW, "ttl": TTL, "random": RANDOM, **options})
    value = strict_json.decode(planned.payload)
    assert isinstance(value, dict)
    return value


texts = st.text(min_size=1, max_size=20)
scope_tokens = st.text(st.sampled_from("!#$azAZ09[]^~:/._-"), min_size=1, max_size=10)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
extras = st.dictionaries(
    texts.filter(lambda name: name not in RESERVED),
    st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
    ),
    max_size=4,
)
requests = st.builds(
    TokenRequest,
    iss=texts,
    sub=texts,
    client_id=texts,
    aud=st.lists(texts, min_size=1, max_size=3).map(tuple),
    scope=st.lists(scope_tokens, max_size=4).map(tuple),
    rid=st.none() | texts,
    auth_time=st.none() | st.integers(0, 2**33),
    amr=st.lists(texts, max_size=2).map(tuple),
    acr=st.none() | texts,
)


def test_claims_are_those_of_rfc_9068():
    """TC1: the claims of a token without a session are exactly these (RFC 9068 s.2.2)."""
    assert minted() == {
        "iss": "https://auth.example.com",
        "sub": "usr_1",
        "aud": "orders",
        "client_id": "web",
        "exp": NOW + 900 - 2,  # the jitter 0x1011… of 2**64 takes 2.9 of 46 seconds
        "iat": NOW - 5,
        "jti": "AAECAwQFBgcICQoLDA0ODw",
        "scope": "orders:read orders:write",
    }
    assert ACCESS_TOKEN_TYP == "at+jwt"


def test_what_is_known_of_the_session_is_in_the_token():
    """rid, auth_time, amr and acr appear when they are known, and only then."""
    session: dict[str, Any] = {
        "rid": Rid("r" * 22),
        "auth_time": NumericDate(NOW - 60),
        "amr": ("pwd", "otp"),
        "acr": "2",
    }
    known = minted(replace(REQUEST, **session))
    assert {name: known[name] for name in session} == {**session, "amr": ["pwd", "otp"]}
    assert not minted().keys() & session.keys()


def test_one_audience_is_text_and_more_are_a_list():
    """RFC 7519 s.4.1.3: the special case of one audience is used, as most issuers do."""
    assert minted(replace(REQUEST, aud=("a",)))["aud"] == "a"
    assert minted(replace(REQUEST, aud=("a", "b")))["aud"] == ["a", "b"]


def test_no_scope_leaves_the_claim_out():
    """RFC 6749 s.3.3 has no empty scope, so the claim is absent rather than empty."""
    assert "scope" not in minted(replace(REQUEST, scope=()))


def test_iat_is_backdated_and_exp_is_not():
    """iat lies five seconds in the past; exp counts from now."""
    planned = plan(REQUEST, now=NOW, ttl=TTL, random=bytes(RANDOM_BYTES))
    assert (planned.iat, planned.exp) == (NOW - BACKDATED, NOW + TTL)


@given(st.integers(1, 10**6), st.binary(min_size=8, max_size=8))
def test_jitter_only_shortens_and_by_five_percent_at_most(ttl, jitter):
    """TC4: exp is never later than now + T, and never earlier than 95 % of T."""
    exp = expiry(NOW, Seconds(ttl), jitter)
    assert NOW + ttl - ttl // 20 <= exp <= NOW + ttl
    assert exp > NOW


def test_jitter_reaches_both_ends():
    """The least jitter leaves the whole life, the greatest takes exactly a twentieth."""
    assert expiry(NOW, TTL, bytes(8)) == NOW + 900
    assert expiry(NOW, TTL, b"\xff" * 8) == NOW + 855


@given(requests, extras, st.integers(40, 10**6), st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES))
def test_what_was_asked_for_is_what_the_payload_says(request_, extra, ttl, random):
    """Any request comes back, unchanged and unambiguous, from a strict parser; times are as reported."""
    request = replace(request_, extra=extra)
    planned = plan(request, now=NOW, ttl=Seconds(ttl), random=random)
    read = strict_json.decode(planned.payload)
    assert isinstance(read, dict)
    aud = request.aud[0] if len(request.aud) == 1 else list(request.aud)
    expected = {
        "iss": request.iss,
        "sub": request.sub,
        "aud": aud,
        "client_id": request.client_id,
        "exp": planned.exp,
        "iat": planned.iat,
        "jti": planned.jti,
        "scope": " ".join(request.scope) or None,
        "rid": request.rid,
        "auth_time": request.auth_time,
        "amr": list(request.amr) or None,
        "acr": request.acr,
    }
    assert read == {name: value for name, value in expected.items() if value is not None} | extra
    assert planned.iat < planned.exp <= NOW + ttl


@given(requests, st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES))
def test_signed_token_verifies_as_planned(request_, random):
    """A planned payload, signed, passes all of the verifier's checks at once, and says what was planned."""
    planned = plan(request_, now=NOW, ttl=TTL, random=random)
    message = jws.signing_input({"alg": "ES256", "kid": PUBLIC.kid, "typ": ACCESS_TOKEN_TYP}, planned.payload)
    policy = Policy(issuer=request_.iss, audiences=frozenset(request_.aud[:1]))
    token = verify(
        jws.compact(message, jws.sign(Algorithm.ES256, PRIVATE, message)),
        Trusted([Trust(policy=policy, keys={PUBLIC.kid: PUBLIC})]),
        NOW,
    )
    assert (token.sub, token.client_id, token.aud) == (request_.sub, request_.client_id, request_.aud)
    assert (token.exp, token.iat, token.jti) == (planned.exp, planned.iat, planned.jti)
    assert token.scopes == frozenset(request_.scope)
    assert (token.rid, token.auth_time, token.amr) == (request_.rid, request_.auth_time, request_.amr)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_extra_claim_cannot_take_a_reserved_name(name):
    """A hook that sets a claim of the issuer's is an error, not an override; the error names it."""
    with pytest.raises(ConfigurationError, match=name):
        minted(replace(REQUEST, extra={"plan": "pro", name: 1}))


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 2**63, -(2**63) - 1, 2**200, "\ud800", ..., {1: {2: [float("nan")]}}],
    ids=repr,
)
def test_extra_claim_that_parsers_would_read_differently_is_refused(value):
    """What JSON cannot carry exactly is refused, however deep, and never becomes null without a word."""
    with pytest.raises(ConfigurationError):
        minted(replace(REQUEST, extra={"x": value}))


def test_extra_claim_that_nests_beyond_what_verifiers_read_is_refused():
    """A token that our own strict parser would refuse is not minted."""
    nested: Any = 1
    for _ in range(40):
        nested = [nested]
    with pytest.raises(ConfigurationError):
        minted(replace(REQUEST, extra={"x": nested}))


def test_errors_do_not_repeat_the_values_of_claims():
    """LG2: the message of a refused claim has its name at most."""
    with pytest.raises(ConfigurationError) as refused:
        minted(replace(REQUEST, extra={"iss": "canary", "x": "canary"}))
    assert "canary" not in str(refused.value)


def test_largest_token_fits_what_verifiers_read():
    """A payload of the limit, signed by RSA-3072, is a token of at most 8 KiB; one byte more is refused."""
    short = len(plan(replace(REQUEST, extra={"x": ""}), now=NOW, ttl=TTL, random=RANDOM).payload)
    fits = replace(REQUEST, extra={"x": "a" * (MAX_PAYLOAD - short)})
    payload = plan(fits, now=NOW, ttl=TTL, random=RANDOM).payload
    header = {"alg": "RS256", "kid": "k" * 43, "typ": ACCESS_TOKEN_TYP}
    assert len(jws.compact(jws.signing_input(header, payload), bytes(3072 // 8))) <= jws.MAX_SIZE
    with pytest.raises(ConfigurationError):
        minted(replace(REQUEST, extra={"x": "a" * (MAX_PAYLOAD - short + 1)}))


@pytest.mark.parametrize("scope", ["", "a b", 'a"', "a\\", "ä", "a\n"])
def test_scope_that_would_read_as_another_is_refused(scope):
    """RF5: a scope with a space in it would be two; RFC 6749 s.3.3 says what a scope is."""
    with pytest.raises(ValueError, match="scope"):
        minted(replace(REQUEST, scope=("orders:read", scope)))


def test_token_without_audience_is_not_minted():
    """TC2: a token for nobody in particular would be one for everybody."""
    with pytest.raises(ValueError, match="audience"):
        minted(replace(REQUEST, aud=()))


@pytest.mark.parametrize(
    "options",
    [{"random": bytes(RANDOM_BYTES - 1)}, {"random": bytes(RANDOM_BYTES + 1)}, {"ttl": Seconds(0)}],
    ids=str,
)
def test_too_little_randomness_or_life_is_refused(options):
    """A jti of fewer bits, or a token that is expired when it is minted, is a fault of the caller."""
    with pytest.raises(ValueError, match=r"random bytes|life"):
        minted(**options)


def test_id_has_128_bits_in_22_characters():
    """An id is the base64url of 16 bytes, and of nothing shorter."""
    assert random_id(bytes(16)) == "A" * 22
    with pytest.raises(ValueError, match="16"):
        random_id(bytes(15))


def test_minting_shows_no_payload():
    """LG2: what logs a Minting logs no claims."""
    planned = plan(REQUEST, now=NOW, ttl=TTL, random=RANDOM)
    assert "usr_1" not in repr(planned)
    assert json.loads(planned.payload)["sub"] == "usr_1"
