"""Public keys: what a JWK must be to verify anything here (RFC 7517, RFC 7518 s.6, RFC 8037).

Each key is pinned to one algorithm when it is loaded, and named: by its ``kid``, or by its thumbprint
(RFC 7638) where it has none. A key that cannot be used is reported and never stops its neighbours.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from mintmark.core import base64url, strict_json
from mintmark.core.algorithm import Algorithm
from mintmark.errors import MintmarkError
from mintmark.units import Kid

KeyObject: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

MAX_SET_SIZE: Final = 256 * 1024
MAX_SET_KEYS: Final = 128
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
"""Above it one verification takes milliseconds, which makes the key itself an attack."""
MAX_KID: Final = 128

# FIPS 186-5 A.1.1 wants an odd exponent above 2**16; the upper bound keeps verification cheap.
_MIN_EXPONENT: Final = 65537
_MAX_EXPONENT: Final = 2**32 - 1
_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})
_THUMBPRINT_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}
)
_KTY: Final[Mapping[Algorithm, str]] = MappingProxyType(
    {Algorithm.RS256: "RSA", Algorithm.PS256: "RSA", Algorithm.ES256: "EC", Algorithm.EDDSA: "OKP"}
)


class Reason(StrEnum):
    """Why a key was not loaded; stable."""

    OTHER_KTY = "other_kty"
    OTHER_CRV = "other_crv"
    OTHER_ALG = "other_alg"
    OTHER_USE = "other_use"
    REPEATED = "repeated"
    NOT_A_KEY = "not_a_key"
    BAD_MEMBER = "bad_member"
    BAD_KID = "bad_kid"
    SYMMETRIC = "symmetric"
    PRIVATE_KEY_PUBLISHED = "private_key_published"
    DUPLICATE_KID = "duplicate_kid"
    RSA_SIZE = "rsa_size"
    RSA_EXPONENT = "rsa_exponent"
    OFF_CURVE = "off_curve"

    @property
    def incident(self) -> bool:
        """Whether somebody should look, not merely count: the set is wrong, not only newer than we are."""
        return self not in _SKIPPED


_SKIPPED: Final = frozenset(
    {Reason.OTHER_KTY, Reason.OTHER_CRV, Reason.OTHER_ALG, Reason.OTHER_USE, Reason.REPEATED}
)


class UnusableKey(MintmarkError):
    """A JWK that verifies nothing here; ``reason`` says why, and nothing of the key is kept."""

    def __init__(self, reason: Reason, message: str = "") -> None:
        super().__init__(message or reason.value)
        self.reason = reason


class UnusableKeySet(MintmarkError):
    """A document that is no JWK Set, or one without a usable key; ``refused`` says why of each."""

    def __init__(self, message: str, refused: "tuple[RefusedKey, ...]" = ()) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies: its name, its one algorithm, the object to verify with, the JWK to publish.

    ``jwk`` holds ``kty use alg kid`` and the public members, in that order, whatever else the source
    held. Equality is that of ``jwk``: the same name for the same material and algorithm.
    """

    kid: Kid
    alg: Algorithm
    key: KeyObject = field(compare=False, repr=False)
    jwk: Mapping[str, str] = field(hash=False, repr=False)


class RefusedKey(NamedTuple):
    """One key of a set that was not loaded: its place in the set, its ``kid`` if that is printable, why."""

    position: int
    kid: Kid | None
    reason: Reason


class ParsedKeySet(NamedTuple):
    """The usable keys of a set, each ``kid`` once, and a report of each other one."""

    keys: tuple[PublicKey, ...]
    refused: tuple[RefusedKey, ...]


def is_kid(value: object) -> bool:
    """Whether ``value`` can name a key: 1 to 128 printable ASCII characters.

    A ``kid`` comes from whoever wrote the token; this shape is safe to look up, not to put in a path,
    a query, a log line or a metric's label.
    """
    return type(value) is str and 0 < len(value) <= MAX_KID and value.isascii() and value.isprintable()


def is_thumbprint(kid: str) -> bool:
    """Whether ``kid`` has the shape of every Mintmark ``kid``: base64url of 32 bytes."""
    if len(kid) != 43:
        return False
    try:
        base64url.decode(kid)
    except base64url.NotBase64url:
        return False
    return True


def thumbprint(jwk: Mapping[str, Any]) -> Kid:
    """The RFC 7638 thumbprint (SHA-256, base64url) of a public JWK (RFC 8037 s.2 for OKP).

    Members that the thumbprint does not cover are ignored. Raises :class:`UnusableKey`.
    """
    kty = jwk.get("kty")
    names = _THUMBPRINT_MEMBERS.get(kty) if type(kty) is str else None
    if names is None:
        raise UnusableKey(Reason.OTHER_KTY)
    # Values are base64url or curve names; anything that JSON would escape is no such value.
    parts = [f'"{name}":"{_text(jwk, name)}"' for name in names]
    digest = Hash(SHA256())
    digest.update(("{" + ",".join(parts) + "}").encode())
    return Kid(base64url.encode(digest.finalize()))


def parse_jwk(jwk: Mapping[str, Any], *, rsa_alg: Algorithm = Algorithm.RS256) -> PublicKey:
    """The key that ``jwk`` is, pinned to one algorithm.

    Without ``alg`` an EC key is for ES256, an OKP key for EdDSA, and an RSA key for ``rsa_alg``: RS256
    or PS256. Without ``kid`` its name is its thumbprint. Raises :class:`UnusableKey`.
    """
    if not isinstance(jwk, Mapping):
        raise UnusableKey(Reason.NOT_A_KEY)
    kty = jwk.get("kty")
    if type(kty) is not str:
        raise UnusableKey(Reason.BAD_MEMBER, "kty is missing or no text")
    # First of all: a published private key is an incident even where we would not use the key.
    if kty == "oct":
        raise UnusableKey(Reason.SYMMETRIC)
    if not _PRIVATE_MEMBERS.isdisjoint(jwk):
        raise UnusableKey(Reason.PRIVATE_KEY_PUBLISHED)
    if kty not in _THUMBPRINT_MEMBERS:
        raise UnusableKey(Reason.OTHER_KTY)
    _check_use(jwk)
    alg = _pinned(jwk, kty, rsa_alg)
    key, public = _LOADERS[kty](jwk)
    kid = jwk["kid"] if "kid" in jwk else thumbprint(jwk)
    if not is_kid(kid):
        raise UnusableKey(Reason.BAD_KID)
    members = {"kty": kty, "use": "sig", "alg": alg.value, "kid": kid, **public}
    return PublicKey(Kid(kid), alg, key, MappingProxyType(members))


def parse_jwk_set(
    document: bytes | Mapping[str, Any], *, rsa_alg: Algorithm = Algorithm.RS256
) -> ParsedKeySet:
    """The usable keys of a JWK Set (RFC 7517 s.5), each parsed alone.

    Two different keys under one ``kid`` are both dropped: nothing says which of them is meant. Raises
    :class:`UnusableKeySet` for a document that is no set, is too large, or leaves no key.
    """
    entries = _entries(document)
    refused: list[RefusedKey] = []
    loaded: dict[Kid, tuple[int, PublicKey]] = {}
    ambiguous: set[Kid] = set()
    for index, entry in enumerate(entries):
        try:
            key = parse_jwk(entry, rsa_alg=rsa_alg)
        except UnusableKey as error:
            refused.append(RefusedKey(index, _printable_kid(entry), error.reason))
            continue
        if key.kid in ambiguous:
            refused.append(RefusedKey(index, key.kid, Reason.DUPLICATE_KID))
        elif key.kid not in loaded:
            loaded[key.kid] = (index, key)
        elif loaded[key.kid][1] == key:
            refused.append(RefusedKey(index, key.kid, Reason.REPEATED))
        else:
            earlier, _ = loaded.pop(key.kid)
            ambiguous.add(key.kid)
            refused.append(RefusedKey(earlier, key.kid, Reason.DUPLICATE_KID))
            refused.append(RefusedKey(index, key.kid, Reason.DUPLICATE_KID))
    if not loaded:
        raise UnusableKeySet("the set holds no usable key", tuple(refused))
    return ParsedKeySet(tuple(key for _, key in loaded.values()), tuple(refused))


def public_key(key: KeyObject, alg: Algorithm) -> PublicKey:
    """``key`` as a signer publishes it, under its thumbprint.

    Raises :class:`UnusableKey` where ``key`` does not fit ``alg``, or no verifier would take it.
    """
    members: dict[str, str] = {"alg": alg.value}
    match key:
        case RSAPublicKey():
            numbers = key.public_numbers()
            members |= {"kty": "RSA", "n": _uint(numbers.n), "e": _uint(numbers.e)}
        case EllipticCurvePublicKey():
            if not isinstance(key.curve, SECP256R1):
                raise UnusableKey(Reason.OTHER_CRV)
            point = key.public_numbers()
            members |= {"kty": "EC", "crv": "P-256"}
            members |= {
                name: base64url.encode(value.to_bytes(32)) for name, value in (("x", point.x), ("y", point.y))
            }
        case Ed25519PublicKey():
            members |= {"kty": "OKP", "crv": "Ed25519", "x": base64url.encode(key.public_bytes_raw())}
        case _:
            raise UnusableKey(Reason.OTHER_KTY)
    return parse_jwk(members)


# --- steps of parse_jwk --------------------------------------------------------------------------


def _check_use(jwk: Mapping[str, Any]) -> None:
    """RFC 7517 s.4.2 and s.4.3: a key for something else is no signature key."""
    if "use" in jwk and _text(jwk, "use") != "sig":
        raise UnusableKey(Reason.OTHER_USE)
    if "key_ops" in jwk:
        operations = jwk["key_ops"]
        if type(operations) is not list:
            raise UnusableKey(Reason.BAD_MEMBER, "key_ops is no list")
        if "verify" not in operations:
            raise UnusableKey(Reason.OTHER_USE)


def _pinned(jwk: Mapping[str, Any], kty: str, rsa_alg: Algorithm) -> Algorithm:
    if "alg" in jwk:
        try:
            alg = Algorithm(_text(jwk, "alg"))
        except ValueError:
            raise UnusableKey(Reason.OTHER_ALG) from None
    elif kty == "RSA":
        alg = rsa_alg
    else:
        alg = Algorithm.ES256 if kty == "EC" else Algorithm.EDDSA
    if _KTY[alg] != kty:
        raise UnusableKey(Reason.BAD_MEMBER, "alg does not fit kty")
    return alg


def _load_rsa(jwk: Mapping[str, Any]) -> tuple[KeyObject, dict[str, str]]:
    n, e = _integer(jwk, "n"), _integer(jwk, "e")
    if not MIN_RSA_BITS <= n.bit_length() <= MAX_RSA_BITS:
        raise UnusableKey(Reason.RSA_SIZE)
    # e = 1 makes every message its own signature; an even one belongs to no key.
    if not _MIN_EXPONENT <= e <= _MAX_EXPONENT or e % 2 == 0:
        raise UnusableKey(Reason.RSA_EXPONENT)
    if n % 2 == 0:
        raise UnusableKey(Reason.BAD_MEMBER, "n is even")
    try:
        key = RSAPublicNumbers(e, n).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableKey(Reason.BAD_MEMBER, "n and e are no RSA key") from None
    return key, {"n": jwk["n"], "e": jwk["e"]}


def _load_ec(jwk: Mapping[str, Any]) -> tuple[KeyObject, dict[str, str]]:
    if _text(jwk, "crv") != "P-256":
        raise UnusableKey(Reason.OTHER_CRV)
    x, y = _octets(jwk, "x"), _octets(jwk, "y")
    try:
        numbers = EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), SECP256R1())
        key = numbers.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableKey(Reason.OFF_CURVE) from None
    return key, {"crv": "P-256", "x": jwk["x"], "y": jwk["y"]}


def _load_okp(jwk: Mapping[str, Any]) -> tuple[KeyObject, dict[str, str]]:
    if _text(jwk, "crv") != "Ed25519":
        raise UnusableKey(Reason.OTHER_CRV)
    x = _octets(jwk, "x")
    # The library takes any 32 bytes. A point of small order would make signatures forgeable.
    if not _is_ed25519_point(x):
        raise UnusableKey(Reason.OFF_CURVE)
    return Ed25519PublicKey.from_public_bytes(x), {"crv": "Ed25519", "x": jwk["x"]}


_LOADERS: Final = MappingProxyType({"RSA": _load_rsa, "EC": _load_ec, "OKP": _load_okp})

_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P


def _is_ed25519_point(encoded: bytes) -> bool:
    """Whether ``encoded`` decodes (RFC 8032 s.5.1.3) to a point whose order does not divide 8."""
    y = int.from_bytes(encoded, "little") & (1 << 255) - 1
    if y >= _P:
        return False
    # x*x = (y*y - 1) / (d*y*y + 1) has a root exactly if Euler's criterion says so.
    xx = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if pow(xx, (_P - 1) // 2, _P) != 1:
        return False  # Not on the curve; or x = 0, which is a point of order 1 or 2.
    # Doubling needs only x*x and y: y(2P) = (y*y + x*x) / (2 - y*y + x*x), and x(2P)**2 follows from the
    # curve. After three doublings a point of small order is the neutral element, y = 1.
    for _ in range(3):
        y = (y * y + xx) * pow(2 - y * y + xx, -1, _P) % _P
        xx = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    return y != 1


def _text(jwk: Mapping[str, Any], name: str) -> str:
    value = jwk.get(name)
    if (
        type(value) is not str
        or not value.isascii()
        or not value.isprintable()
        or '"' in value
        or "\\" in value
    ):
        raise UnusableKey(Reason.BAD_MEMBER, f"{name} is missing or no text")
    return value


def _bytes(jwk: Mapping[str, Any], name: str) -> bytes:
    text = _text(jwk, name)
    try:
        return base64url.decode(text)
    except base64url.NotBase64url:
        raise UnusableKey(Reason.BAD_MEMBER, f"{name} is not base64url") from None


def _octets(jwk: Mapping[str, Any], name: str) -> bytes:
    """A coordinate: exactly 32 octets, leading zeros included (RFC 7518 s.6.2.1.2, RFC 8037 s.2)."""
    data = _bytes(jwk, name)
    if len(data) != 32:
        raise UnusableKey(Reason.BAD_MEMBER, f"{name} is not 32 octets long")
    return data


def _integer(jwk: Mapping[str, Any], name: str) -> int:
    """A Base64urlUInt: the fewest octets that hold it (RFC 7518 s.2), or one key would have two names."""
    data = _bytes(jwk, name)
    if not data or data[0] == 0 or len(data) > MAX_RSA_BITS // 8 + 1:
        raise UnusableKey(Reason.BAD_MEMBER, f"{name} is no positive integer in its shortest form")
    return int.from_bytes(data)


def _uint(value: int) -> str:
    return base64url.encode(value.to_bytes((value.bit_length() + 7) // 8))


# --- steps of parse_jwk_set ----------------------------------------------------------------------


def _entries(document: bytes | Mapping[str, Any]) -> Iterable[Any]:
    parsed: object = document
    if isinstance(document, bytes):
        try:
            parsed = strict_json.decode(document, max_size=MAX_SET_SIZE)
        except strict_json.NotStrictJson as error:
            raise UnusableKeySet(f"the set is not strict JSON: {error}") from None
    entries = parsed.get("keys") if isinstance(parsed, Mapping) else None
    if not isinstance(entries, list | tuple):
        raise UnusableKeySet("the document is no JWK Set: it has no list of keys")
    if len(entries) > MAX_SET_KEYS:
        raise UnusableKeySet(f"the set holds more than {MAX_SET_KEYS} keys")
    return entries


def _printable_kid(entry: object) -> Kid | None:
    kid = entry.get("kid") if isinstance(entry, Mapping) else None
    return Kid(kid) if type(kid) is str and is_kid(kid) else None
