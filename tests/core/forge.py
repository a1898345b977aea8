"""Tokens good and bad for the tests of verification: keys, claims, and a way to bend each part."""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from mintmark.core import jwk, jws
from mintmark.core.algorithm import Algorithm
from mintmark.core.claims import Revocation
from mintmark.core.denylist import Denylist
from mintmark.core.jws import PrivateKeyObject
from mintmark.core.policy import Policy, Profile
from mintmark.core.verification import Trust, Trusted
from mintmark.units import Issuer, Kid, NumericDate

NOW = NumericDate(1_790_000_000)
ISSUER = Issuer("https://auth.example.com")
FOREIGN = Issuer("https://foreign.example.net/realm")
AUDIENCE = "orders"

PRIVATE: dict[Algorithm, PrivateKeyObject] = {
    Algorithm.RS256: rsa.generate_private_key(65537, 2048),
    Algorithm.PS256: rsa.generate_private_key(65537, 2048),
    Algorithm.ES256: ec.generate_private_key(ec.SECP256R1()),
    Algorithm.EDDSA: ed25519.Ed25519PrivateKey.generate(),
}
PUBLIC = {alg: jwk.public_key(key.public_key(), alg) for alg, key in PRIVATE.items()}
FOREIGN_PRIVATE = ec.generate_private_key(ec.SECP256R1())
FOREIGN_PUBLIC = jwk.public_key(FOREIGN_PRIVATE.public_key(), Algorithm.ES256)

CLAIMS: Mapping[str, Any] = {
    "iss": ISSUER,
    "sub": "usr_0123456789abcdefghijkl",
    "aud": AUDIENCE,
    "client_id": "web-frontend",
    "exp": NOW + 800,
    "iat": NOW - 105,
    "jti": "AAAAAAAAAAAAAAAAAAAAAA",
    "scope": "orders:read orders:write",
    "rid": "BBBBBBBBBBBBBBBBBBBBBA",
    "auth_time": NOW - 3600,
    "amr": ["pwd", "otp"],
    "acr": "2",
}

DROP: Any = object()
"""In place of a value: leave the member out."""


def to_json(members: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(members), separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def to_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**base, **changes}.items() if value is not DROP}


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims with some changed, added, or left out (:data:`DROP`)."""
    return changed(CLAIMS, changes)


def header(alg: Algorithm = Algorithm.ES256, /, **changes: Any) -> dict[str, Any]:
    """The good header of ``alg``'s key, with some members changed, added or left out."""
    return changed({"alg": alg.value, "kid": PUBLIC[alg].kid, "typ": "at+jwt"}, changes)


def token(
    payload: Mapping[str, Any] | bytes = CLAIMS,
    head: Mapping[str, Any] | bytes | None = None,
    *,
    alg: Algorithm = Algorithm.ES256,
    key: PrivateKeyObject | None = None,
    sign: Callable[[bytes], bytes] | None = None,
) -> str:
    """A token, properly signed by ``alg``'s key over whatever header and payload are given.

    ``sign`` makes the signature instead. Bytes in place of a mapping are taken as they are.
    """
    if head is None:
        head = header(alg)
    parts = [part if isinstance(part, bytes) else to_json(part) for part in (head, payload)]
    message = ".".join(to_base64(part) for part in parts)
    signature = sign(message.encode()) if sign else jws.sign(alg, key or PRIVATE[alg], message.encode())
    return f"{message}.{to_base64(signature)}"


def resign(message: str, alg: Algorithm = Algorithm.ES256) -> str:
    """``message`` (two encoded parts, however spelled) with a good signature over that very text."""
    return f"{message}.{to_base64(jws.sign(alg, PRIVATE[alg], message.encode()))}"


def policy(**options: Any) -> Policy:
    return Policy(**({"issuer": ISSUER, "audiences": frozenset({AUDIENCE})} | options))


def trust(denylist: Denylist | None = None, **options: Any) -> Trust:
    """Trust in the issuer with one key of each algorithm; with a denylist its feed is live."""
    keys: dict[Kid, jwk.PublicKey] = {key.kid: key for key in PUBLIC.values()}
    status = Revocation.UNSUPPORTED if denylist is None else Revocation.CHECKED
    defaults: dict[str, Any] = {"policy": policy(), "keys": keys, "denylist": denylist, "revocation": status}
    return Trust(**(defaults | options))


def foreign_trust(**options: Any) -> Trust:
    """Trust in another issuer, whose tokens are not RFC 9068: one ES256 key, ES256 and RS256 allowed."""
    algorithms = frozenset({Algorithm.ES256, Algorithm.RS256})
    rules = policy(issuer=FOREIGN, profile=Profile.JWT, algorithms=algorithms)
    defaults: dict[str, Any] = {"policy": rules, "keys": {FOREIGN_PUBLIC.kid: FOREIGN_PUBLIC}}
    return Trust(**(defaults | options))


def foreign_token(changes: Mapping[str, Any] | None = None, head: Mapping[str, Any] | None = None) -> str:
    """A token of the other issuer as Keycloak writes it, with some claims and header members changed."""
    keycloak = {
        "iss": FOREIGN,
        "sub": "f:1",
        "aud": [AUDIENCE, "account"],
        "azp": "spa",
        "exp": NOW + 300,
        "iat": NOW - 5,
        "jti": "onrtac:1",
        "typ": "Bearer",
        "scope": "openid orders:read",
    }
    members = {"alg": "ES256", "kid": FOREIGN_PUBLIC.kid, "typ": "JWT"}
    return token(changed(keycloak, changes or {}), changed(members, head or {}), key=FOREIGN_PRIVATE)


def trusted(*trusts: Trust, **options: Any) -> Trusted:
    """Both issuers, or those given."""
    return Trusted(trusts or (trust(), foreign_trust()), **options)
