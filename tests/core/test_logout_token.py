"""Logout tokens, and the URIs that they are sent to (OIDC Back-Channel Logout 1.0 s.2.2, s.2.4)."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core import forge

from mintmark.core import logout_token, peering
from mintmark.core.logout_token import EVENT, LIFETIME, LOGOUT_TOKEN_TYP, check_uri, is_loopback, origin_of
from mintmark.core.minting import BACKDATED, RESERVED, Minting
from mintmark.core.policy import Profile
from mintmark.core.refusal import Code
from mintmark.core.verification import Trusted, verify
from mintmark.errors import InvalidToken
from mintmark.units import ClientId, NumericDate, Rid, Seconds, Sub

NOW = forge.NOW
CLIENT = ClientId("spa")


def planned(now: int = NOW, access_ttl: int = 900, random: bytes = bytes(16)) -> Minting:
    return logout_token.plan(
        iss=forge.ISSUER,
        sub=Sub("usr_alice"),
        client_id=CLIENT,
        rid=Rid("BBBBBBBBBBBBBBBBBBBBBA"),
        now=NumericDate(now),
        access_ttl=Seconds(access_ttl),
        random=random,
    )


def claims(minting: Minting) -> dict[str, Any]:
    return dict(json.loads(minting.payload))


def signed(typ: str = LOGOUT_TOKEN_TYP) -> str:
    """A logout token under a good signature, and whatever ``typ`` says."""
    head = forge.header(typ=typ or forge.DROP)
    return forge.token(planned().payload, head)


def test_logout_token_says_exactly_who_where_and_which_session():
    """RV5, s.2.4: issuer, subject, client, session, event, times, a ``jti``; no nonce, and nothing else."""
    assert claims(planned()) == {
        "iss": forge.ISSUER,
        "sub": "usr_alice",
        "aud": "spa",
        "iat": NOW - BACKDATED,
        "exp": NOW - BACKDATED + 120,
        "jti": "AAAAAAAAAAAAAAAAAAAAAA",
        "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        "sid": "BBBBBBBBBBBBBBBBBBBBBA",
    }
    assert LOGOUT_TOKEN_TYP == "logout+jwt"
    assert EVENT in claims(planned())["events"]


@given(
    now=st.integers(1_000_000_000, 4_000_000_000),
    access_ttl=st.integers(1, 86_400),
    random=st.binary(min_size=16, max_size=16),
)
def test_logout_token_lives_two_minutes_and_no_longer_than_its_key_covers(now, access_ttl, random):
    """RV5, K3: ``exp`` is at most two minutes behind ``iat``, in the future, and never later than that of an
    access token made in the same second could be."""
    minting = planned(now, access_ttl, random)
    assert now < minting.exp <= now + access_ttl
    assert minting.exp - minting.iat <= LIFETIME == 120
    assert (claims(minting)["exp"], claims(minting)["iat"]) == (minting.exp, minting.iat)


@given(st.lists(st.binary(min_size=16, max_size=16), unique=True, min_size=2, max_size=4))
def test_jti_has_all_of_its_random_bits(randoms):
    """No two tokens have one ``jti``, unless they were given the same 128 bits."""
    assert len({planned(random=random).jti for random in randoms}) == len(randoms)
    with pytest.raises(ValueError, match="16"):
        planned(random=bytes(15))


# --- a logout token is no other token ------------------------------------------------------------


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("audience", ["orders", "spa"])
def test_logout_token_is_no_access_token(profile, audience):
    """TC3: no verifier takes one for an access token, under no profile, whatever its own audience is."""
    rules = forge.policy(profile=profile, audiences=frozenset({audience}))
    with pytest.raises(InvalidToken) as refused:
        verify(signed(), Trusted([forge.trust(policy=rules)]), NOW)
    assert refused.value.code is Code.TYP_NOT_ALLOWED


@pytest.mark.parametrize("typ", ["at+jwt", "JWT", ""])
@pytest.mark.parametrize("profile", list(Profile))
def test_claims_of_a_logout_token_are_no_access_tokens(profile, typ):
    """TC3: were its ``typ`` another's, or none, what it says would still be no access token's."""
    rules = forge.policy(profile=profile, audiences=frozenset({"spa"}))
    with pytest.raises(InvalidToken):
        verify(signed(typ), Trusted([forge.trust(policy=rules)]), NOW)


def test_no_node_signs_it_for_another_as_an_access_token():
    """TC3: what a node may ask others to sign has neither ``events`` nor ``sid``."""
    assert peering.asked(planned().payload) is None


def test_deployers_claims_cannot_tell_it_from_an_access_token_by_a_nonce():
    """s.2.4 forbids ``nonce``, and no claim here has a name that an access token gives another meaning."""
    assert "nonce" not in claims(planned())
    assert set(claims(planned())) - RESERVED == {"events", "sid"}


# --- where it is sent ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "https://shop.example.com/logout",
        "https://shop.example.com",
        "https://shop.example.com:8443/a%20b?tenant=7&key=x",
        "https://10.0.0.7/logout",
        "https://[2001:db8::7]:8443/logout",
        "http://127.0.0.1:8000/logout",
        "http://127.9.9.9/logout",
        "http://[::1]:8000/logout",
        "http://localhost:8000/logout",
        "HTTPS://Shop.example.com/",
    ],
)
def test_uri_that_may_be_told(uri):
    """An absolute URI over https passes as it is, and one over http for this machine."""
    assert check_uri(uri) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "shop.example.com/logout",
        "/logout",
        "//shop.example.com/logout",
        "https:///logout",
        "https://:443/logout",
        "https://shop.example.com:0/logout",
        "https://shop.example.com:99999/logout",
        "https://shop.example.com:port/logout",
        "https://shop.example.com/logout#here",
        "https://shop.example.com/logout#",
        "https://user:password@shop.example.com/logout",
        "https://user@shop.example.com/logout",
        "https://@shop.example.com/logout",
        "http://shop.example.com/logout",
        "http://10.0.0.7/logout",
        "http://169.254.169.254/latest/meta-data",
        "http://0.0.0.0/logout",
        "http://127.0.0.1.example.com/logout",
        "http://localhost.example.com/logout",
        "http://2130706433/logout",
        "http://0x7f.1/logout",
        "ftp://127.0.0.1/logout",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "https://shop.example.com\\@evil.example.com/",
        "https://shop.example.com/a b",
        "https://shop.example.com/\r\nHost: evil",
        "https://shop.example.com/\x00",
        "https://sh\u00f6p.example.com/logout",
        "https://[::1/logout",
        "https://shop.example.com/" + "a" * 2048,
    ],
)
def test_uri_that_nobody_is_told_at(uri):
    """DP4: plain http beyond this machine, other schemes, user names, fragments and what parsers read
    differently are refused."""
    with pytest.raises(ValueError, match="must "):
        check_uri(uri)


@given(st.text(max_size=60))
def test_whatever_is_written_is_a_uri_or_a_sentence(text):
    """No text brings out another error than ValueError; what passes goes to https or to this machine."""
    try:
        uri = check_uri("https://" + text)
    except ValueError:
        return
    assert uri.startswith("https://")


@pytest.mark.parametrize(
    ("uri", "origin"),
    [
        ("https://shop.example.com/logout?token=secret", "https://shop.example.com"),
        ("https://shop.example.com:8443/secret/path", "https://shop.example.com:8443"),
        ("https://user:secret@shop.example.com/", "https://shop.example.com"),
        ("https://[", ""),
        ("secret", ""),
        ("", ""),
    ],
)
def test_log_gets_the_origin_alone(uri, origin):
    """LG2: neither the path nor the query of a URI, which may hold a secret, nor a user name."""
    assert origin_of(uri) == origin


def test_this_machine_is_known_by_its_names():
    """Only what surely is this machine counts as such: no other name that begins or ends like it."""
    assert is_loopback("http://localhost/x")
    assert is_loopback("https://127.0.0.2/")
    assert not is_loopback("https://localhost.example.com/")
    assert not is_loopback("https://shop.example.com/")
