"""JSON Web Signatures in compact form, signed and taken apart (RFC 7515, RFC 7518 s.3, RFC 8037 s.3.1).

The JSON serialization, detached payloads and every header parameter that brings a key or changes what
the bytes mean do not exist here. Parsing needs no key and trusts nothing; :func:`verify` needs a key
that is already pinned to its algorithm, so a token never chooses how it is checked.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from mintmark.core import base64url, jwk, strict_json
from mintmark.core.algorithm import Algorithm as Algorithm  # noqa: PLC0414 - part of this module's interface
from mintmark.core.jwk import PublicKey
from mintmark.core.refusal import Code
from mintmark.errors import InvalidToken
from mintmark.units import Kid

PrivateKeyObject: TypeAlias = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey

MAX_SIZE: Final = 8192
"""The default limit of a token, in characters."""

FORBIDDEN: Final = frozenset({"crit", "b64", "zip", "enc", "jwk", "jku", "x5u", "x5c"})
"""Header parameters that are refused, not ignored: an extension that must be understood (``crit``,
``b64``), another form (``zip``, ``enc``), or a key that the sender chose (the others; RFC 8725 s.3.10)."""

# Made once: each costs as much to construct as a claim to check. RFC 7518 s.3.5: the salt is as long
# as the hash.
_SHA256: Final = SHA256()
_PKCS1: Final = PKCS1v15()
_PSS: Final = PSS(MGF1(_SHA256), 32)
_ECDSA: Final = ECDSA(_SHA256)
_ENCODER: Final = msgspec.json.Encoder()
_DOT: Final = ord(".")
# What precedes r and s in DER, by whether they need a zero before their first octet.
_DER_S: Final = (b"\x02\x20", b"\x02\x21\0")
_DER_R: Final = (
    (b"\x30\x44\x02\x20", b"\x30\x45\x02\x20"),
    (b"\x30\x45\x02\x21\0", b"\x30\x46\x02\x21\0"),
)
# Looking up a member of an enum takes longer than comparing with it.
_RS256: Final = Algorithm.RS256
_ES256: Final = Algorithm.ES256
_EDDSA: Final = Algorithm.EDDSA


class Header(msgspec.Struct, frozen=True, gc=False):
    """A JOSE header that asks for nothing we refuse.

    ``typ`` is a media type in lower case without ``application/`` (RFC 7515 s.4.1.9), so ``AT+JWT`` and
    ``application/at+jwt`` are both ``at+jwt``. ``members`` is the whole header, read-only.
    """

    alg: Algorithm
    kid: Kid | None
    typ: str | None
    members: Mapping[str, Any]


class Jws(msgspec.Struct, frozen=True):
    """A compact JWS in its parts; nothing of it is verified."""

    header: Header
    payload: bytes
    signing_input: bytes
    signature: bytes


# --- making --------------------------------------------------------------------------------------


def signing_input(header: Mapping[str, Any], payload: bytes) -> bytes:
    """What is signed (RFC 7515 s.5.1): ``header`` as compact JSON, a dot, ``payload``, both base64url."""
    return f"{base64url.encode(_ENCODER.encode(dict(header)))}.{base64url.encode(payload)}".encode()


def sign(alg: Algorithm, private_key: PrivateKeyObject, message: bytes) -> bytes:
    """The JWS signature of ``message``; for ES256 it is r and s, 32 octets each (RFC 7518 s.3.4).

    Raises ValueError when ``private_key`` does not fit ``alg``.
    """
    match alg, private_key:
        case Algorithm.RS256, RSAPrivateKey():
            return private_key.sign(message, _PKCS1, _SHA256)
        case Algorithm.PS256, RSAPrivateKey():
            return private_key.sign(message, _PSS, _SHA256)
        case Algorithm.ES256, EllipticCurvePrivateKey() if isinstance(private_key.curve, SECP256R1):
            r, s = decode_dss_signature(private_key.sign(message, _ECDSA))
            return r.to_bytes(32) + s.to_bytes(32)
        case Algorithm.EDDSA, Ed25519PrivateKey():
            return private_key.sign(message)
    raise ValueError(f"the private key does not fit {alg.value}")


def compact(message: bytes, signature: bytes) -> str:
    """The compact serialization of a signing input and its signature."""
    return f"{message.decode()}.{base64url.encode(signature)}"


# --- checking ------------------------------------------------------------------------------------


def verify(key: PublicKey, message: bytes, signature: bytes) -> None:
    """Return if ``signature`` is ``key``'s over ``message`` under the key's own algorithm.

    Raises InvalidToken (``bad_signature``) otherwise. An ES256 signature has a second valid form,
    (r, n - s): both are accepted, as RFC 7518 s.3.4 demands, so a token is never known by its signature.
    """
    alg = key.alg
    public: Any = key.key
    try:
        if alg is _RS256:
            public.verify(signature, message, _PKCS1, _SHA256)
            return
        if alg is _ES256:
            # Exactly r and s: the library wants DER, and DER must never come in from outside.
            if len(signature) == 64:
                public.verify(to_der(signature), message, _ECDSA)
                return
        elif alg is _EDDSA:
            public.verify(signature, message)
            return
        else:
            public.verify(signature, message, _PSS, _SHA256)
            return
    except InvalidSignature:
        pass
    raise InvalidToken(Code.BAD_SIGNATURE, "the signature is not this key's")


def to_der(signature: bytes) -> bytes:
    """The DER form (RFC 3279 s.2.2.3) of r and s in 32 octets each."""
    r, s = signature[0], signature[32]
    if r and s:
        # Neither begins with a zero octet, as in all but one of 128: each is its 32 octets, after a zero
        # where the first bit would be read as a sign. Four times as fast as through two integers.
        return b"%b%b%b%b" % (_DER_R[r > 127][s > 127], signature[:32], _DER_S[s > 127], signature[32:])
    return encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))


def parse(raw: object, *, max_size: int = MAX_SIZE) -> Jws:
    """``raw`` in its parts: the form and the header are checked, nothing is verified.

    Raises InvalidToken: ``not_text``, ``too_large``, ``not_compact``, ``not_base64url``, ``bad_header``,
    and for what a header may not ask ``alg_not_allowed``, ``bad_kid``, ``typ_not_allowed``,
    ``forbidden_header``.
    """
    message, header, payload, signature = split(raw, max_size)
    header_bytes, payload_bytes, signature_bytes = decode(header), decode(payload), decode(signature)
    return Jws(parse_header(header_bytes), payload_bytes, message, signature_bytes)


def split(raw: object, max_size: int = MAX_SIZE) -> tuple[bytes, bytes, bytes, bytes]:
    """Signing input, header, payload and signature, still encoded: the work on any input ends here.

    Raises InvalidToken: ``not_text``, ``too_large``, ``not_compact``.
    """
    if type(raw) is str and len(raw) <= max_size and raw.isascii():
        data = raw.encode()
    else:
        data = _text(raw, max_size)
    message, _, signature = data.rpartition(b".")
    header, dot, payload = message.partition(b".")
    if not dot or _DOT in payload:
        raise InvalidToken(Code.NOT_COMPACT, "the token is not three parts with a dot between them")
    return message, header, payload, signature


def _text(raw: object, max_size: int) -> bytes:
    """``raw`` as bytes; the base types' own methods are called, so that no subclass runs code here."""
    # By type(): isinstance would also believe what an object says of its own class.
    kind = type(raw)
    if issubclass(kind, str):
        text = cast("str", raw)
        _check_form(str.__len__(text), str.isascii(text), max_size)
        return str.encode(text)
    if issubclass(kind, bytes):
        data = cast("bytes", raw)
        _check_form(bytes.__len__(data), bytes.isascii(data), max_size)
        # A slice of the whole copies a subclass; bytes() and memoryview() would ask it for its content.
        return bytes.__getitem__(data, slice(None))
    raise InvalidToken(Code.NOT_TEXT, "the token is not text")


def _check_form(size: int, is_ascii: bool, max_size: int) -> None:
    if size > max_size:
        raise InvalidToken(Code.TOO_LARGE, f"the token is longer than {max_size} characters")
    if not is_ascii:
        raise InvalidToken(Code.NOT_TEXT, "the token is not ASCII")


def decode(part: bytes) -> bytes:
    """The bytes of one part; raises InvalidToken (``not_base64url``)."""
    try:
        return base64url.decode_ascii(part)
    except base64url.NotBase64url:
        pass
    raise InvalidToken(Code.NOT_BASE64URL, "a part of the token is not base64url in its one spelling")


def parse_header(data: bytes) -> Header:
    """The header that ``data`` is; raises InvalidToken as :func:`parse` does."""
    try:
        members = strict_json.decode(data)
    except strict_json.NotStrictJson as error:
        raise InvalidToken(Code.BAD_HEADER, f"the header is refused: {error}") from None
    if not isinstance(members, dict):
        raise InvalidToken(Code.BAD_HEADER, "the header is no object")
    try:
        # Exact case: RFC 7515 s.4.1.1. Not text, and not hashable, is as unknown as any other value.
        alg = Algorithm(members.get("alg", ""))
    except ValueError:
        raise InvalidToken(Code.ALG_NOT_ALLOWED, "alg is missing or unknown") from None
    kid = members.get("kid")
    if "kid" in members and not jwk.is_kid(kid):
        raise InvalidToken(Code.BAD_KID, "kid is not 1 to 128 printable ASCII characters")
    typ = members.get("typ")
    if "typ" in members:
        if type(typ) is not str:
            raise InvalidToken(Code.TYP_NOT_ALLOWED, "typ is no text")
        typ = typ.lower().removeprefix("application/")
    if not FORBIDDEN.isdisjoint(members):
        raise InvalidToken(Code.FORBIDDEN_HEADER, "the header brings a key, an extension or an encoding")
    return Header(alg, kid, typ, MappingProxyType(members))
