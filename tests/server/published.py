"""Rings whose public documents tests publish, and the names that these have."""

from mintmark.core import base64url, keyring
from mintmark.core.algorithm import Algorithm
from mintmark.core.key import Activation
from mintmark.core.keyring import Ring
from mintmark.core.timing import Timing
from mintmark.grants import GRANTS
from mintmark.server import document
from mintmark.units import Issuer, Kid, NodeId, NumericDate

ISSUER = Issuer("https://auth.example.com")
NODE = NodeId("node-1")
NOW = NumericDate(1_800_000_000)
TIMING = Timing()
JWKS = ".well-known/jwks.json"
OPENID = ".well-known/openid-configuration"
METADATA = document.discovery(
    Ring(issuer=ISSUER), configured=Algorithm.ES256, grant_types=tuple(GRANTS), max_age=TIMING.jwks_max_age
)


def metadata_of(ring: Ring) -> document.Document:
    """The discovery document; every key of these tests is of the same algorithm."""
    return METADATA


def kid(number: int) -> Kid:
    return Kid(base64url.encode(b"%032d" % number))


def named(number: int) -> str:
    return f"keys/{kid(number)}.json"


def add(ring: Ring, number: int) -> Ring:
    """The ring with another active key."""
    jwk = document.encode({"kid": kid(number), "kty": "EC"})
    prepared = keyring.prepare(
        ring, kid=kid(number), node=NODE, alg="ES256", jwk=jwk, timing=TIMING, now=NOW
    )  # fmt: skip
    return keyring.activate(prepared, kid(number), Activation.BOOTSTRAP, timing=TIMING, now=NOW)


def revoke(ring: Ring, number: int) -> Ring:
    return keyring.revoke(ring, kid(number), reason="test", timing=TIMING, now=NOW)[0]
