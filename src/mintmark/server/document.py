"""The public documents of an issuer: discovery, the key set, one key (RFC 8414, RFC 7517)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from mintmark.core.jws import Algorithm
from mintmark.core.key import Key
from mintmark.core.keyring import Ring
from mintmark.units import Issuer, Kid, Seconds

_encode: Final = msgspec.json.Encoder(order="sorted").encode

JWKS_PATH: Final = "/.well-known/jwks.json"
REVOKE_PATH: Final = "/revoke"
INTROSPECT_PATH: Final = "/introspect"
FEED_PATH: Final = "/revocations"
STREAM_PATH: Final = "/revocations/stream"
_WITH_SECRET: Final = ["client_secret_basic", "client_secret_post"]
_ANY_CLIENT: Final = [*_WITH_SECRET, "none"]
_METADATA: Final = "/.well-known/oauth-authorization-server"
_OPENID: Final = "/.well-known/openid-configuration"

JSON: Final = "application/json; charset=utf-8"
"""The media type of every document here."""


@dataclass(frozen=True, slots=True)
class Document:
    """Bytes to serve, their entity tag (RFC 9110 s.8.8.3) and how long caches may keep them."""

    body: bytes
    etag: str
    max_age: Seconds

    @property
    def cache_control(self) -> str:
        """What tells caches so (RFC 9111 s.5.2.2; K5)."""
        return f"public, max-age={self.max_age}"


def encode(value: Mapping[str, Any]) -> bytes:
    """``value`` as JSON with sorted members, so that every node gives the same bytes."""
    return _encode(dict(value))


def jwks(ring: Ring, *, max_age: Seconds) -> Document:
    """The key set: every published key, and nothing of where it is in its life (RFC 7517 s.5)."""
    keys = sorted((key.kid, msgspec.Raw(key.jwk)) for key in ring.published())
    return _document({"keys": [raw for _, raw in keys]}, max_age)


def key(found: Key, *, max_age: Seconds) -> Document:
    """One key, with its state and the time until which it stays published, for people and tools.

    ``exp`` is absent while nothing was signed, because nothing sets an end yet.
    """
    members: dict[str, Any] = msgspec.json.decode(found.jwk)
    members["state"] = found.state.value
    if found.publish_until:
        members["exp"] = found.publish_until
    return _document(members, max_age)


def algorithms(ring: Ring, configured: Algorithm) -> tuple[str, ...]:
    """What a verifier has to take, sorted: the algorithms of the published keys, and the one that is wanted.

    Some verifiers refuse what the metadata does not list, so a new algorithm is there as early as its first
    key, and the one before as long as its last: the metadata is cached like the key set. ``configured`` is
    for a ring of which nobody has yet said what its keys are to be.
    """
    wanted = ring.kind.alg if ring.kind is not None else configured.value
    return tuple(sorted({str(key.alg) for key in ring.published()} | {str(wanted)}))


def discovery(
    ring: Ring, *, configured: Algorithm, grant_types: tuple[str, ...], max_age: Seconds
) -> Document:
    """The metadata of the issuer, which both well-known forms serve (RFC 8414 s.2, OIDC Discovery s.3)."""
    issuer, signed_with = ring.issuer, list(algorithms(ring, configured))
    return _document(
        {
            "issuer": issuer,
            "jwks_uri": issuer + JWKS_PATH,
            "token_endpoint": issuer + "/token",
            "token_endpoint_auth_methods_supported": _ANY_CLIENT,
            "revocation_endpoint": issuer + REVOKE_PATH,
            "revocation_endpoint_auth_methods_supported": _ANY_CLIENT,
            "introspection_endpoint": issuer + INTROSPECT_PATH,
            "introspection_endpoint_auth_methods_supported": _WITH_SECRET,
            "grant_types_supported": list(grant_types),
            "response_types_supported": [],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": signed_with,
            "access_token_signing_alg_values_supported": signed_with,
            "backchannel_logout_supported": True,
            "backchannel_logout_session_supported": True,
            "mintmark_sessions": issuer + "/v1/sessions",
            "mintmark_feed": issuer + FEED_PATH,
            "mintmark_feed_stream": issuer + STREAM_PATH,
        },
        max_age,
    )


def _document(value: Mapping[str, Any], max_age: Seconds) -> Document:
    body = _encode(value)
    return Document(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"', max_age)


def path_of(issuer: Issuer) -> str:
    """The path of the issuer's URL, empty or beginning with a slash: what its endpoints are under."""
    return urlsplit(issuer).path.rstrip("/")


def jwks_path(issuer: Issuer) -> str:
    """The path at which the key set is served."""
    return path_of(issuer) + JWKS_PATH


def key_path(issuer: Issuer, kid: Kid | str) -> str:
    """The path at which one key is served."""
    return f"{path_of(issuer)}/keys/{kid}.json"


def discovery_paths(issuer: Issuer) -> tuple[str, ...]:
    """The paths at which the metadata is served.

    RFC 8414 s.3.1 puts the issuer's path behind the well-known one, OIDC Discovery s.4 before it.
    """
    path = path_of(issuer)
    return tuple(dict.fromkeys([path + _METADATA, path + _OPENID, _METADATA + path, _OPENID + path]))
