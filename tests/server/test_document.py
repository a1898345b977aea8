"""The public documents of an issuer."""

from dataclasses import replace
from types import MappingProxyType

import msgspec

from mintmark.core.algorithm import Algorithm
from mintmark.core.key import Key, KeyKind, KeyMode, KeyState
from mintmark.core.keyring import Ring
from mintmark.server import document
from mintmark.units import Issuer, Kid, NodeId, NumericDate, Seconds

ISSUER = Issuer("https://auth.example.com/tenant")


def key(kid: str, state: KeyState = KeyState.ACTIVE, *, publish_until: int = 0) -> Key:
    return Key(
        kid=Kid(kid),
        node=NodeId("n"),
        alg="ES256",
        jwk=msgspec.json.encode({"kid": kid, "kty": "EC"}),
        state=state,
        since=1,
        prepared_at=NumericDate(1),
        lease_until=NumericDate(2),
        publish_until=NumericDate(publish_until),
    )


def test_every_mapping_is_encoded_alike():
    """A read-only mapping, as a key's JWK is, gives the bytes of the dictionary in any order."""
    assert document.encode(MappingProxyType({"b": "1", "a": "2"})) == document.encode({"a": "2", "b": "1"})


def test_key_set_is_the_same_bytes_in_whatever_order_keys_came():
    """Two nodes that hold the same keys in another order answer with one document and one entity tag."""
    one = document.jwks(Ring(issuer=ISSUER, keys=(key("a"), key("b"))), max_age=Seconds(300))
    two = document.jwks(Ring(issuer=ISSUER, keys=(key("b"), key("a"))), max_age=Seconds(300))
    assert one == two


def test_key_set_lists_what_is_published_and_nothing_of_its_state():
    """Prepared, active and passive keys are in the set, a revoked one is not; states are not told (JM1)."""
    ring = Ring(
        issuer=ISSUER,
        keys=(
            key("p", KeyState.PREPARED),
            key("a"),
            key("v", KeyState.PASSIVE),
            key("r", KeyState.REVOKED),
        ),
    )
    found = msgspec.json.decode(document.jwks(ring, max_age=Seconds(300)).body)
    assert found == {"keys": [{"kid": kid, "kty": "EC"} for kid in "apv"]}


def test_entity_tag_changes_with_the_keys():
    """A set with one more key has another entity tag (JM3)."""
    one = document.jwks(Ring(issuer=ISSUER, keys=(key("a"),)), max_age=Seconds(300))
    two = document.jwks(Ring(issuer=ISSUER, keys=(key("a"), key("b"))), max_age=Seconds(300))
    assert one.etag != two.etag


def test_single_key_tells_its_state_and_end():
    """A key's own document says its state, and its end once there is one."""
    prepared = msgspec.json.decode(document.key(key("p", KeyState.PREPARED), max_age=Seconds(1)).body)
    active = msgspec.json.decode(document.key(key("a", publish_until=99), max_age=Seconds(1)).body)
    assert prepared == {"kid": "p", "kty": "EC", "state": "prepared"}
    assert active == {"kid": "a", "kty": "EC", "state": "active", "exp": 99}


def listed(ring: Ring) -> object:
    """The algorithms that the metadata of ``ring`` lists, as access tokens and as ID tokens have them."""
    made = document.discovery(ring, configured=Algorithm.RS256, grant_types=(), max_age=Seconds(1))
    found = msgspec.json.decode(made.body)
    listed = found["access_token_signing_alg_values_supported"]
    assert listed == found["id_token_signing_alg_values_supported"]
    return listed


def test_discovery_lists_the_algorithm_of_each_published_key():
    """A new algorithm is listed as early as its first key, which does not sign yet, and the former one until
    its last key has left: verifiers refuse tokens of what is not listed."""
    old = replace(key("a"), alg="PS256")
    new = replace(key("p", KeyState.PREPARED), alg="ES256")
    wanted = KeyKind(KeyMode.SHARED, Algorithm.ES256)
    assert listed(Ring(issuer=ISSUER)) == ["RS256"]
    assert listed(Ring(issuer=ISSUER, keys=(old,), kind=KeyKind(KeyMode.OWN, Algorithm.PS256))) == ["PS256"]
    assert listed(Ring(issuer=ISSUER, keys=(old, new), kind=wanted)) == ["ES256", "PS256"]
    gone = replace(old, state=KeyState.RETIRED)
    assert listed(Ring(issuer=ISSUER, keys=(gone, new), kind=wanted)) == ["ES256"]


def test_discovery_names_the_issuer_byte_for_byte_and_everything_under_it():
    """``issuer`` is the configured one, and each URL begins with it (JM4)."""
    found = msgspec.json.decode(
        document.discovery(
            Ring(issuer=ISSUER),
            configured=Algorithm.RS256,
            grant_types=("refresh_token",),
            max_age=Seconds(1),
        ).body
    )
    assert found["issuer"] == ISSUER
    urls = {name: value for name, value in found.items() if str(value).startswith("https://")}
    assert set(urls) == {
        "issuer",
        "jwks_uri",
        "token_endpoint",
        "revocation_endpoint",
        "introspection_endpoint",
        "mintmark_sessions",
        "mintmark_feed",
        "mintmark_feed_stream",
    }
    assert all(url == ISSUER or url.startswith(ISSUER + "/") for url in urls.values())


def test_discovery_says_that_clients_are_told_of_logouts():
    """OIDC Back-Channel Logout 1.0 s.2.1: it is supported, with the session in every logout token."""
    found = msgspec.json.decode(
        document.discovery(
            Ring(issuer=ISSUER),
            configured=Algorithm.RS256,
            grant_types=("refresh_token",),
            max_age=Seconds(1),
        ).body
    )
    assert found["backchannel_logout_supported"] is True
    assert found["backchannel_logout_session_supported"] is True
