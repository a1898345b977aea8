# ruff: noqa: E501 - a table: one case a line, however long
"""Hostile tokens as data: each with its source, how it is made, and the one code that refuses it.

A case makes its token from :mod:`tests.core.forge`. Unless its point is the signature, a token here is
properly signed over its own bytes: then nothing but the named check can refuse it.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.core import forge
from tests.core.forge import DROP, NOW, claims, header, resign, to_base64, to_json, token

from mintmark.core import jws
from mintmark.core.algorithm import Algorithm
from mintmark.core.refusal import Code

RS256, PS256, ES256, EDDSA = Algorithm.RS256, Algorithm.PS256, Algorithm.ES256, Algorithm.EDDSA
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order of P-256."""
L = 2**252 + 27742317777372353535851937790883648493
"""The order of Ed25519's base point."""


class Case(NamedTuple):
    """One hostile input: its name, where the attack or the rule comes from, the code, how to make it."""

    name: str
    source: str
    code: Code
    make: Callable[[], object]


def good() -> str:
    return token()


def with_header(**changes: Any) -> Callable[[], str]:
    return lambda: token(head=header(**changes))


def raw_header(text: str | bytes) -> Callable[[], str]:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda: token(head=data)


def with_claims(**changes: Any) -> Callable[[], str]:
    return lambda: token(claims(**changes))


def foreign(head: dict[str, Any] | None = None, **changes: Any) -> Callable[[], str]:
    return lambda: forge.foreign_token(changes, head)


def raw_payload(text: str | bytes) -> Callable[[], str]:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda: token(data)


def payload_with(member: str) -> Callable[[], str]:
    """The good payload with the text of one more member at its end."""
    return raw_payload(to_json(claims())[:-1] + b"," + member.encode() + b"}")


def header_with(member: str) -> Callable[[], str]:
    return lambda: token(head=to_json(header())[:-1] + b"," + member.encode() + b"}")


def spelled(change: Callable[[str, str], tuple[str, str]]) -> Callable[[], str]:
    """Header and payload as ``change`` spells them, with a good signature over that spelling."""

    def make() -> str:
        head, payload = change(to_base64(to_json(header())), to_base64(to_json(claims())))
        return resign(f"{head}.{payload}")

    return make


def signed_by(sign: Callable[[bytes], bytes], alg: Algorithm = ES256, **changes: Any) -> Callable[[], str]:
    return lambda: token(head=header(alg, **changes), sign=sign)


def after(change: Callable[[str], object]) -> Callable[[], object]:
    """What ``change`` makes of a good token."""
    return lambda: change(good())


def parts(raw: str) -> list[str]:
    return raw.split(".")


def hmac_with(secret: Callable[[], bytes], alg: str = "HS256", key: Algorithm = RS256) -> Callable[[], str]:
    """Signed with HMAC under a secret that everybody knows: the public key in some spelling."""

    def sign(message: bytes) -> bytes:
        mac = hmac.HMAC(secret(), hashes.SHA256())
        mac.update(message)
        return mac.finalize()

    return lambda: token(head=header(key, alg=alg), sign=sign)


def pem(alg: Algorithm = RS256) -> bytes:
    return forge.PUBLIC[alg].key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def der(alg: Algorithm = RS256) -> bytes:
    return forge.PUBLIC[alg].key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def ecdsa_der(message: bytes) -> bytes:
    private = forge.PRIVATE[ES256]
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return private.sign(message, ec.ECDSA(hashes.SHA256()))


def ecdsa_with(change: Callable[[int, int], bytes]) -> Callable[[], str]:
    return signed_by(lambda message: change(*decode_dss_signature(ecdsa_der(message))))


def numbers(r: int, s: int) -> Callable[[bytes], bytes]:
    return lambda _message: r.to_bytes(32) + s.to_bytes(32)


def honest(alg: Algorithm) -> Callable[[bytes], bytes]:
    return lambda message: jws.sign(alg, forge.PRIVATE[alg], message)


def flipped(alg: Algorithm, at: int) -> Callable[[], str]:
    """A good token with one bit of its signature changed."""

    def sign(message: bytes) -> bytes:
        signature = bytearray(honest(alg)(message))
        signature[at] ^= 1
        return bytes(signature)

    return signed_by(sign, alg)


def moved(alg: Algorithm) -> Callable[[], str]:
    """The signature of one good token under the payload of another."""

    def make() -> str:
        mine, other = token(alg=alg), token(claims(sub="usr_somebodyelse"), alg=alg)
        return ".".join([*parts(other)[:2], parts(mine)[2]])

    return make


def swapped_header(alg: Algorithm) -> Callable[[], str]:
    """A good token whose header is spelled otherwise afterwards: the same members, another order."""

    def make() -> str:
        _, payload, signature = parts(token(alg=alg))
        head = dict(reversed(header(alg).items()))
        return ".".join([to_base64(to_json(head)), payload, signature])

    return make


def rsa_sign(scheme: padding.AsymmetricPadding, hashed: hashes.HashAlgorithm, alg: Algorithm):
    def sign(message: bytes) -> bytes:
        private = forge.PRIVATE[alg]
        assert isinstance(private, rsa.RSAPrivateKey)
        return private.sign(message, scheme, hashed)

    return sign


def pss(salt: int, mgf: hashes.HashAlgorithm | None = None) -> padding.PSS:
    return padding.PSS(padding.MGF1(mgf or hashes.SHA256()), salt)


def eddsa_malleable(message: bytes) -> bytes:
    """S + L in the place of S: RFC 8032 s.5.1.7 demands S < L."""
    signature = honest(EDDSA)(message)
    s = int.from_bytes(signature[32:], "little") + L
    return signature[:32] + s.to_bytes(32, "little")


def json_serialization(flattened: bool) -> Callable[[], str]:
    def make() -> str:
        protected, payload, signature = parts(good())
        if flattened:
            return json.dumps({"payload": payload, "protected": protected, "signature": signature})
        return json.dumps(
            {"payload": payload, "signatures": [{"protected": protected, "signature": signature}]}
        )

    return make


def unsigned(alg: str) -> Callable[[], str]:
    return lambda: token(head=header(alg=alg), sign=lambda _message: b"")


def under(alg: Algorithm, other: Algorithm) -> Callable[[], str]:
    """A good token, but for the name of another algorithm's key."""
    return lambda: token(head=header(alg, kid=forge.PUBLIC[other].kid), alg=alg)


def bent(alg: Algorithm, change: Callable[[bytes], bytes]) -> Callable[[], str]:
    """A good token, but for what ``change`` made of its signature."""
    return signed_by(lambda message: change(honest(alg)(message)), alg)


def each(*values: Any) -> tuple[Any, ...]:
    return values


class Loud(str):
    """Text that would run its own code if anybody asked it anything."""

    __slots__ = ()

    def __len__(self) -> int:
        raise RuntimeError("asked")

    def __str__(self) -> str:
        raise RuntimeError("asked")

    def encode(self, *_args: Any, **_options: Any) -> bytes:
        raise RuntimeError("asked")

    def isascii(self) -> bool:
        raise RuntimeError("asked")


# fmt: off
FORM = [
    Case("None", "checklist VF12", Code.NOT_TEXT, lambda: None),
    Case("integer", "checklist VF12", Code.NOT_TEXT, lambda: 5),
    Case("list of a good token", "checklist VF12", Code.NOT_TEXT, lambda: [good()]),
    Case("dict", "checklist VF12", Code.NOT_TEXT, lambda: {"token": good()}),
    Case("bytearray", "checklist VF12: bytes, not a buffer that changes", Code.NOT_TEXT, lambda: bytearray(good().encode())),
    Case("memoryview", "checklist VF12", Code.NOT_TEXT, lambda: memoryview(good().encode())),
    Case("an object", "checklist VF12", Code.NOT_TEXT, object),
    Case("hostile text class, garbage", "checklist VF12", Code.NOT_COMPACT, lambda: Loud("x")),
    Case("not ASCII", "RFC 7515 s.3", Code.NOT_TEXT, after(lambda raw: raw + "\u00e9")),
    Case("fullwidth dot", "RFC 7515 s.3.1", Code.NOT_TEXT, after(lambda raw: raw.replace(".", "\uff0e"))),
    Case("lone surrogate", "RFC 7515 s.3", Code.NOT_TEXT, after(lambda raw: raw + "\ud800")),
    Case("byte beyond ASCII", "RFC 7515 s.3", Code.NOT_TEXT, after(lambda raw: raw.encode() + b"\xff")),
    Case("byte order mark", "RFC 7515 s.3", Code.NOT_TEXT, after(lambda raw: "\ufeff" + raw)),
    Case("UTF-16", "RFC 7515 s.3", Code.NOT_TEXT, after(lambda raw: raw.encode("utf-16"))),
    Case("one character too long", "verifier s.1; CVE-2025-61920 (Authlib)", Code.TOO_LARGE, lambda: "a" * 8193),
    Case("eight thousand dots", "CVE-2025-27144 (go-jose), CVE-2025-30204 (golang-jwt)", Code.NOT_COMPACT, lambda: "." * 8192),
    Case("a million dots", "CVE-2025-30204", Code.TOO_LARGE, lambda: "." * 1_000_000),
    Case("a megabyte of bytes", "CVE-2025-30204", Code.TOO_LARGE, lambda: b"." * 1_000_000),
    Case("long and not ASCII", "checklist VF10", Code.TOO_LARGE, lambda: "\u00e9" * 100_000),
    Case("empty text", "RFC 7515 s.5.2", Code.NOT_COMPACT, lambda: ""),
    Case("empty bytes", "RFC 7515 s.5.2", Code.NOT_COMPACT, lambda: b""),
    Case("no dot", "RFC 7515 s.5.2", Code.NOT_COMPACT, after(lambda raw: raw.replace(".", ""))),
    Case("one dot", "RFC 7515 s.5.2; Wycheproof 4", Code.NOT_COMPACT, after(lambda raw: raw.rpartition(".")[0])),
    Case("three dots", "RFC 7515 s.5.2; Wycheproof 14", Code.NOT_COMPACT, after(lambda raw: raw + ".")),
    Case("four parts", "Wycheproof 15", Code.NOT_COMPACT, after(lambda raw: raw + ".eyJhIjoxfQ")),
    Case("a JWE's five parts", "RFC 7516 s.3.1; CVE-2023-51774 (json-jwt)", Code.NOT_COMPACT, lambda: "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.AA.AA.AA.AA"),
    Case("JSON serialization, general", "RFC 7515 s.7.2.1; Wycheproof 17", Code.NOT_COMPACT, json_serialization(False)),
    Case("JSON serialization, flattened", "RFC 7515 s.7.2.2; CVE-2022-39227 (python_jwt)", Code.NOT_COMPACT, json_serialization(True)),
    Case("polyglot of JSON and compact", "CVE-2022-39227", Code.NOT_BASE64URL, lambda: '{" ' + good() + '":"","protected":"e30","payload":"e30"}'),
    Case("scheme left on", "RFC 6750 s.2.1", Code.NOT_BASE64URL, after(lambda raw: "Bearer " + raw)),
    Case("two tokens", "RFC 6750 s.2", Code.NOT_COMPACT, after(lambda raw: raw + "," + raw)),
]

BASE64 = [
    Case("space before", "RFC 7515 s.2", Code.NOT_BASE64URL, after(lambda raw: " " + raw)),
    Case("newline after", "RFC 7515 s.2", Code.NOT_BASE64URL, after(lambda raw: raw + "\n")),
    Case("carriage return inside", "RFC 7515 s.2", Code.NOT_BASE64URL, after(lambda raw: raw[:20] + "\r\n" + raw[20:])),
    Case("tab beside a dot", "RFC 7515 s.2", Code.NOT_BASE64URL, after(lambda raw: raw.replace(".", "\t.", 1))),
    Case("NUL after", "RFC 7515 s.2", Code.NOT_BASE64URL, after(lambda raw: raw + "\0")),
    Case("spaces in a signed header", "Wycheproof 365", Code.NOT_BASE64URL, spelled(lambda h, p: (h + "    ", p))),
    Case("hashes in a signed header", "Wycheproof 366", Code.NOT_BASE64URL, spelled(lambda h, p: (h + "####", p))),
    Case("spaces in a signed payload", "Wycheproof 368", Code.NOT_BASE64URL, spelled(lambda h, p: (h, "    " + p))),
    Case("question mark in a signed payload", "Wycheproof 373", Code.NOT_BASE64URL, spelled(lambda h, p: (h, p + "?"))),
    Case("padding on a signed header", "RFC 7515 s.2", Code.NOT_BASE64URL, spelled(lambda h, p: (h + "=" * (-len(h) % 4 or 4), p))),
    Case("padding on a signed payload", "RFC 7515 s.2", Code.NOT_BASE64URL, spelled(lambda h, p: (h, p + "=" * (-len(p) % 4 or 4)))),
    Case("padding on the signature", "RFC 7515 s.2", Code.NOT_BASE64URL, after(lambda raw: raw + "==")),
    Case("one pad too few", "RFC 4648 s.3.2", Code.NOT_BASE64URL, after(lambda raw: raw + "=")),
    Case("length that no encoding has", "RFC 4648 s.4", Code.NOT_BASE64URL, after(lambda raw: raw + "AAA")),
    Case("plus and slash in a signed payload", "RFC 4648 s.5", Code.NOT_BASE64URL, spelled(lambda h, _p: (h, "e30+" + "/" * 4))),
    Case("percent encoding", "RFC 7515 s.2", Code.NOT_BASE64URL, after(lambda raw: raw.replace(".", "%2E.", 1))),
    Case("unused bits set in the signature", "RFC 4648 s.3.5; Wycheproof 374", Code.NOT_BASE64URL, after(lambda raw: raw[:-1] + chr(ord(raw[-1]) + 1))),
    Case("unused bits set in a signed payload", "RFC 4648 s.3.5; Wycheproof 374", Code.NOT_BASE64URL, spelled(lambda h, _p: (h, "e31"))),
    Case("unused bits set in a signed header", "RFC 4648 s.3.5", Code.NOT_BASE64URL, spelled(lambda _h, p: ("e31", p))),
    Case("a whole second signature's worth of pads", "RFC 7515 s.2", Code.NOT_BASE64URL, after(lambda raw: raw + "=" * 400)),
]

HEADER_JSON = [
    Case("empty header", "RFC 7515 s.5.2; Wycheproof 26", Code.BAD_HEADER, after(lambda raw: "." + raw.partition(".")[2])),
    Case("three empty parts", "RFC 7515 s.5.2", Code.BAD_HEADER, lambda: ".."),
    Case("header is a list", "RFC 7515 s.4", Code.BAD_HEADER, raw_header('["alg","ES256"]')),
    Case("header is text", "RFC 7515 s.4", Code.BAD_HEADER, raw_header('"ES256"')),
    Case("header is null", "RFC 7515 s.4", Code.BAD_HEADER, raw_header("null")),
    Case("header is a number", "RFC 7515 s.4", Code.BAD_HEADER, raw_header("7")),
    Case("header is not JSON", "RFC 7515 s.5.2", Code.BAD_HEADER, raw_header(b"\x00\x01\x02")),
    Case("header cut short", "RFC 8259", Code.BAD_HEADER, raw_header('{"alg":"ES256"')),
    Case("something after the header", "RFC 8259", Code.BAD_HEADER, raw_header('{"alg":"ES256"}{}')),
    Case("comment in the header", "RFC 8259", Code.BAD_HEADER, raw_header('{"alg":"ES256"/**/}')),
    Case("alg twice, none last", "RFC 7515 s.4; RFC 8725 s.3.7", Code.BAD_HEADER, header_with('"alg":"none"')),
    Case("alg twice, none first", "RFC 7515 s.4", Code.BAD_HEADER, raw_header('{"alg":"none","alg":"ES256"}')),
    Case("kid twice", "RFC 7515 s.4", Code.BAD_HEADER, header_with('"kid":"other"')),
    Case("alg twice, once escaped", "RFC 7515 s.4; RFC 8259 s.7", Code.BAD_HEADER, header_with('"\\u0061lg":"none"')),
    Case("duplicate in a nested object", "RFC 7493 s.2.3", Code.BAD_HEADER, header_with('"x":{"a":1,"a":2}')),
    Case("byte order mark in the header", "RFC 8259 s.8.1", Code.BAD_HEADER, raw_header(b"\xef\xbb\xbf" + to_json(header()))),
    Case("header in UTF-16", "RFC 7515 s.4; RFC 8259 s.8.1", Code.BAD_HEADER, raw_header(to_json(header()).decode().encode("utf-16-le"))),
    Case("header in Latin-1", "RFC 8259 s.8.1", Code.BAD_HEADER, raw_header(to_json(header())[:-1] + b',"x":"\xe9"}')),
    Case("lone surrogate in the header", "RFC 7493 s.2.1", Code.BAD_HEADER, header_with('"x":"\\ud800"')),
    Case("surrogate as UTF-8 in the header", "RFC 3629 s.3", Code.BAD_HEADER, raw_header(to_json(header())[:-1] + b',"x":"\xed\xa0\x80"}')),
    Case("NaN in the header", "RFC 8259 s.6", Code.BAD_HEADER, header_with('"x":NaN')),
    Case("1e400 in the header", "RFC 7493 s.2.2", Code.BAD_HEADER, header_with('"x":1e400')),
    Case("huge integer in the header", "RFC 7493 s.2.2; CVE-2020-10735", Code.BAD_HEADER, header_with('"x":' + "9" * 5000)),
    Case("deep header", "CVE-2025-52999 (jackson-core)", Code.BAD_HEADER, header_with('"x":' + "[" * 2000 + "]" * 2000)),
    Case("deep header, unclosed", "checklist VF10", Code.BAD_HEADER, raw_header("[" * 5000)),
]

ALG = [
    *(
        Case(f"alg {name!r}", "RFC 8725 s.3.2; CVE-2015-9235 (jsonwebtoken), CVE-2018-1000531 (prime-jwt), CVE-2022-23540", Code.ALG_NOT_ALLOWED, unsigned(name))
        for name in each("none", "None", "NONE", "nOnE", "NoNe", "none ", " none", "", "null", "unsigned")
    ),
    Case("alg none with a good signature", "CVE-2015-9235", Code.ALG_NOT_ALLOWED, with_header(alg="none")),
    Case("alg none without kid and typ", "Wycheproof 341", Code.ALG_NOT_ALLOWED, lambda: token(head={"alg": "none"}, sign=lambda _m: b"")),
    Case("alg missing", "RFC 7515 s.4.1.1", Code.ALG_NOT_ALLOWED, with_header(alg=DROP)),
    Case("empty header object", "RFC 7515 s.4.1.1", Code.ALG_NOT_ALLOWED, raw_header("{}")),
    *(
        Case(f"alg {name!r}", "RFC 7515 s.4.1.1: exact case", Code.ALG_NOT_ALLOWED, with_header(alg=name))
        for name in each("es256", "Es256", "ES256 ", "ES256\0", "ES256K", "ES384", "ES512", "RS512", "EdDsa", "EDDSA", "Ed25519", "Ed448", "dir", "RSA-OAEP", "ML-DSA-44", "ES-256", "\uff25S256")
    ),
    *(
        Case(f"alg {value!r}", "RFC 7515 s.4.1.1: a string", Code.ALG_NOT_ALLOWED, with_header(alg=value))
        for value in each(None, 0, 1.5, True, [], ["ES256"], {}, {"ES256": 1})
    ),
    Case("HS256 under the PEM", "CVE-2015-9235, CVE-2016-5431, CVE-2022-29217", Code.ALG_NOT_ALLOWED, hmac_with(pem)),
    Case("HS256 under the PEM without its last newline", "CVE-2016-5431", Code.ALG_NOT_ALLOWED, hmac_with(lambda: pem().rstrip())),
    Case("HS256 under the DER", "CVE-2024-33663", Code.ALG_NOT_ALLOWED, hmac_with(der)),
    Case("HS256 under the JWK", "CVE-2015-9235", Code.ALG_NOT_ALLOWED, hmac_with(lambda: to_json(forge.PUBLIC[RS256].jwk))),
    Case("HS256 under the EC key", "CVE-2024-33663; Wycheproof 31", Code.ALG_NOT_ALLOWED, hmac_with(lambda: der(ES256), key=ES256)),
    Case("HS256 under an empty secret", "CVE-2019-20933 (InfluxDB)", Code.ALG_NOT_ALLOWED, hmac_with(lambda: b"\0")),
    Case("HS384", "RFC 8725 s.3.1", Code.ALG_NOT_ALLOWED, hmac_with(pem, "HS384")),
    Case("HS512", "RFC 8725 s.3.1", Code.ALG_NOT_ALLOWED, hmac_with(pem, "HS512")),
    Case("RS256 header, HMAC signature", "CVE-2016-10555", Code.BAD_SIGNATURE, hmac_with(pem, "RS256")),
    Case("an algorithm that only the other issuer lacks", "design: per-issuer algorithms", Code.ALG_NOT_ALLOWED, lambda: token({**claims(), "iss": forge.FOREIGN}, header(PS256), alg=PS256)),
]

HEADER_POLICY = [
    *(
        Case(f"typ {typ!r}", "RFC 9068 s.4; RFC 8725 s.3.11", Code.TYP_NOT_ALLOWED, with_header(typ=typ))
        for typ in each("JWT", "jwt", "", "at+jwt ", " at+jwt", "at", "id+jwt", "logout+jwt", "secevent+jwt", "dpop+jwt", "rt+jwt", "entity-statement+jwt", "application/", "application/jwt", "application/application/at+jwt", "application/at+jwt;charset=utf-8", "text/at+jwt", "at+jwt\0", "\u0430t+jwt")
    ),
    Case("typ missing", "RFC 9068 s.4", Code.TYP_NOT_ALLOWED, with_header(typ=DROP)),
    *(
        Case(f"typ {typ!r}", "RFC 7515 s.4.1.9: a string", Code.TYP_NOT_ALLOWED, with_header(typ=typ))
        for typ in each(None, 1, True, ["at+jwt"], {})
    ),
    *(
        Case(f"crit {value!r}", "RFC 7515 s.4.1.11; CVE-2025-59420 (Authlib); PyJWT before 2.12", Code.FORBIDDEN_HEADER, with_header(crit=value))
        for value in each(["exp"], ["b64"], ["alg"], ["http://example.invalid/UNDEFINED"], [], None, "exp", {})
    ),
    Case("b64 false, critical", "RFC 7797 s.6; RFC 8725 s.3.10", Code.FORBIDDEN_HEADER, with_header(b64=False, crit=["b64"])),
    Case("b64 false, uncritical", "RFC 7797 s.6", Code.FORBIDDEN_HEADER, with_header(b64=False)),
    Case("b64 true", "RFC 7797 s.7", Code.FORBIDDEN_HEADER, with_header(b64=True)),
    Case("zip", "RFC 7516 s.4.1.3; RFC 8725 s.3.6; CVE-2024-21319", Code.FORBIDDEN_HEADER, with_header(zip="DEF")),
    Case("enc", "RFC 7516 s.4.1.2", Code.FORBIDDEN_HEADER, with_header(enc="A256GCM")),
    Case("embedded jwk, signed with it", "CVE-2018-0114 (node-jose), CVE-2026-27962 (Authlib); Wycheproof 32", Code.FORBIDDEN_HEADER, lambda: token(head=header(jwk=dict(forge.FOREIGN_PUBLIC.jwk)), key=forge.FOREIGN_PRIVATE)),
    Case("embedded jwk of the right key", "CVE-2018-0114", Code.FORBIDDEN_HEADER, lambda: token(head=header(jwk=dict(forge.PUBLIC[ES256].jwk)))),
    Case("jwk null", "RFC 7515 s.4.1.3", Code.FORBIDDEN_HEADER, with_header(jwk=None)),
    Case("jku of a stranger", "RFC 8725 s.3.10", Code.FORBIDDEN_HEADER, with_header(jku="https://evil.example/jwks.json")),
    Case("jku of the issuer itself", "RFC 8725 s.3.10", Code.FORBIDDEN_HEADER, with_header(jku=forge.ISSUER + "/.well-known/jwks.json")),
    Case("jku to the metadata service", "RFC 8725 s.3.10 (SSRF)", Code.FORBIDDEN_HEADER, with_header(jku="http://169.254.169.254/latest/meta-data")),
    Case("x5u", "RFC 7515 s.4.1.5", Code.FORBIDDEN_HEADER, with_header(x5u="https://evil.example/cert.pem")),
    Case("x5c", "RFC 7515 s.4.1.6; RFC 8725 s.3.10", Code.FORBIDDEN_HEADER, with_header(x5c=["MIIB"])),
    *(
        Case(f"kid {name}", source, Code.BAD_KID, with_header(kid=value))
        for name, source, value in (
            ("missing", "RFC 7515 s.4.1.4; design s.3", DROP),
            ("empty", "verifier: 1 to 128 characters", ""),
            ("129 characters", "verifier: 1 to 128 characters", "k" * 129),
            ("null", "RFC 7515 s.4.1.4: a string", None),
            ("integer", "RFC 7515 s.4.1.4: a string", 1),
            ("list", "RFC 7515 s.4.1.4: a string", ["a"]),
            ("object", "RFC 7515 s.4.1.4: a string", {"a": 1}),
            ("bool", "RFC 7515 s.4.1.4: a string", True),
            ("with a newline", "log injection: checklist LG3, VF11", "a\nWARN forged line"),
            ("with a NUL", "checklist VF11", "key\0.pem"),
            ("with an escape sequence", "terminal injection: checklist LG3", "\x1b[2Jk"),
            ("in Cyrillic", "verifier: printable ASCII", "\u043a\u043b\u044e\u0447"),
            ("right-to-left override", "verifier: printable ASCII", "a\u202eb"),
            ("DEL", "verifier: printable ASCII", "a\x7f"),
        )
    ),
]

PAYLOAD = [
    Case("empty payload, properly signed", "RFC 7519 s.7.2", Code.BAD_PAYLOAD, raw_payload(b"")),
    Case("payload is a list", "RFC 7519 s.7.2", Code.BAD_PAYLOAD, raw_payload("[]")),
    Case("payload is text", "RFC 7519 s.7.2", Code.BAD_PAYLOAD, raw_payload('"claims"')),
    Case("payload is null", "RFC 7519 s.7.2", Code.BAD_PAYLOAD, raw_payload("null")),
    Case("payload is true", "RFC 7519 s.7.2", Code.BAD_PAYLOAD, raw_payload("true")),
    Case("payload is a number", "RFC 7519 s.7.2", Code.BAD_PAYLOAD, raw_payload("1")),
    Case("payload is a token", "RFC 7519 s.5.2 (nested)", Code.BAD_PAYLOAD, lambda: token(good().encode())),
    Case("payload is not JSON", "RFC 7519 s.7.2", Code.BAD_PAYLOAD, raw_payload(b"\xff\xfe\xfd")),
    Case("payload cut short", "RFC 8259", Code.BAD_PAYLOAD, lambda: token(to_json(claims())[:-1])),
    Case("two payloads", "RFC 8259", Code.BAD_PAYLOAD, lambda: token(to_json(claims()) * 2)),
    Case("NUL after the payload", "RFC 8259", Code.BAD_PAYLOAD, lambda: token(to_json(claims()) + b"\0")),
    Case("comma too many", "RFC 8259", Code.BAD_PAYLOAD, lambda: token(to_json(claims())[:-1] + b",}")),
    Case("single quotes", "RFC 8259", Code.BAD_PAYLOAD, raw_payload("{'iss':'x'}")),
    *(
        Case(f"{name} twice", "RFC 7519 s.4; RFC 8725 s.3.7; checklist VF10", Code.BAD_PAYLOAD, payload_with(f'"{name}":{json.dumps(value)}'))
        for name, value in (("iss", forge.FOREIGN), ("sub", "usr_admin"), ("aud", "billing"), ("exp", NOW + 10**9), ("scope", "admin"), ("client_id", "x"), ("jti", "x"), ("iat", 1), ("rid", "x"), ("acr", "9"))
    ),
    Case("sub twice, the same value", "RFC 7519 s.4", Code.BAD_PAYLOAD, payload_with('"sub":"usr_0123456789abcdefghijkl"')),
    Case("exp twice, once escaped", "RFC 8259 s.7", Code.BAD_PAYLOAD, payload_with('"e\\u0078p":9999999999')),
    Case("aud twice, with spaces", "RFC 7519 s.4", Code.BAD_PAYLOAD, payload_with(' "aud" : "billing" ')),
    Case("duplicate in a nested claim", "RFC 7493 s.2.3", Code.BAD_PAYLOAD, payload_with('"org":{"role":"user","role":"admin"}')),
    Case("byte order mark before the payload", "RFC 8259 s.8.1", Code.BAD_PAYLOAD, lambda: token(b"\xef\xbb\xbf" + to_json(claims()))),
    Case("payload in UTF-16", "RFC 7519 s.7.2", Code.BAD_PAYLOAD, lambda: token(to_json(claims()).decode().encode("utf-16"))),
    Case("overlong UTF-8", "RFC 3629 s.3", Code.BAD_PAYLOAD, lambda: token(to_json(claims())[:-1] + b',"x":"\xc0\xaf"}')),
    Case("lone surrogate, escaped", "RFC 7493 s.2.1", Code.BAD_PAYLOAD, payload_with('"x":"\\udfff"')),
    Case("lone surrogate as a name", "RFC 7493 s.2.1", Code.BAD_PAYLOAD, payload_with('"\\ud800":1')),
    Case("lone surrogate as UTF-8", "RFC 3629 s.3", Code.BAD_PAYLOAD, with_claims(name="\ud800")),
    Case("raw control character", "RFC 8259 s.7", Code.BAD_PAYLOAD, lambda: token(to_json(claims())[:-1] + b',"x":"\x01"}')),
    Case("exp NaN", "RFC 8259 s.6", Code.BAD_PAYLOAD, with_claims(exp=float("nan"))),
    Case("exp Infinity", "RFC 8259 s.6", Code.BAD_PAYLOAD, with_claims(exp=float("inf"))),
    Case("exp -Infinity", "RFC 8259 s.6", Code.BAD_PAYLOAD, with_claims(exp=float("-inf"))),
    Case("exp 1e400", "RFC 7493 s.2.2", Code.BAD_PAYLOAD, lambda: token(to_json(claims(exp=0)).replace(b'"exp":0', b'"exp":1e400'))),
    Case("exp beyond 64 bits", "RFC 7493 s.2.2", Code.BAD_PAYLOAD, with_claims(exp=2**63)),
    Case("exp of five thousand digits", "CVE-2020-10735", Code.BAD_PAYLOAD, lambda: token(to_json(claims(exp=0)).replace(b'"exp":0', b'"exp":1' + b"0" * 5000))),
    Case("huge integer in a private claim", "RFC 7493 s.2.2", Code.BAD_PAYLOAD, with_claims(plan=[[{"n": -(2**64)}]])),
    Case("leading zero", "RFC 8259 s.6", Code.BAD_PAYLOAD, payload_with('"x":01')),
    Case("hexadecimal", "RFC 8259 s.6", Code.BAD_PAYLOAD, payload_with('"x":0x10')),
    Case("deep payload", "CVE-2025-52999 (jackson-core)", Code.BAD_PAYLOAD, payload_with('"x":' + "[" * 1500 + "]" * 1500)),
    Case("deep objects", "checklist VF10", Code.BAD_PAYLOAD, payload_with('"x":' + '{"a":' * 500 + "1" + "}" * 500)),
    Case("seventeen levels", "strict JSON: sixteen", Code.BAD_PAYLOAD, payload_with('"x":' + "[" * 16 + "]" * 16)),
    Case("a thousand empty objects, loosely written", "bounded work", Code.BAD_PAYLOAD, payload_with('"x": [' + "{}," * 1100 + "{}]")),
]

WRONG_TYPES: list[Any] = [None, True, 1, 1.5, [], {}, ["a"], {"a": 1}]

CLAIMS = [
    Case("no claims", "RFC 9068 s.4", Code.MISSING_CLAIM, raw_payload("{}")),
    Case("iss missing", "RFC 9068 s.2.2", Code.MISSING_CLAIM, with_claims(iss=DROP)),
    *(
        Case(f"iss {value!r}", "RFC 7519 s.4.1.1; CVE-2024-53861 (PyJWT)", Code.BAD_CLAIM, with_claims(iss=value))
        for value in each(None, 1, True, {}, [], [forge.ISSUER], [forge.ISSUER, "https://evil.example"])
    ),
    *(
        Case(f"iss {value!r}", "RFC 8725 s.3.8; RFC 8414 s.3.3: exact; CVE-2024-53861 (PyJWT: substring)", Code.UNKNOWN_ISSUER, with_claims(iss=value))
        for value in each("", "https://evil.example", forge.ISSUER + "/", forge.ISSUER.upper(), forge.ISSUER[:-1], forge.ISSUER + "\0", forge.ISSUER + ".evil.example", "http" + forge.ISSUER[5:], forge.ISSUER + "?", "auth.example.com", "https://auth.example.com:443", "https://\u0430uth.example.com")
    ),
    Case("aud missing", "RFC 9068 s.4; checklist VF6", Code.MISSING_CLAIM, with_claims(aud=DROP)),
    *(
        Case(f"aud {value!r}", "RFC 7519 s.4.1.3", Code.BAD_CLAIM, with_claims(aud=value))
        for value in each(None, 1, True, {}, {"orders": 1}, [1], ["orders", None], ["orders", ["orders"]], [["orders"]])
    ),
    *(
        Case(f"aud {value!r}", "RFC 8725 s.3.9", Code.WRONG_AUDIENCE, with_claims(aud=value))
        for value in each("", "billing", "Orders", "orders ", "order", "orders2", "*", "orders,billing", "orders billing", [], [""], ["billing"], ["*"], ["o", "r", "d", "e", "r", "s"])
    ),
    Case("exp missing", "RFC 9068 s.4", Code.MISSING_CLAIM, with_claims(exp=DROP)),
    *(
        Case(f"exp {value!r}", "RFC 7519 s.4.1.4; CVE-2026-25537 (jsonwebtoken: a wrong type passed for absent)", Code.BAD_CLAIM, with_claims(exp=value))
        for value in each(None, True, False, "", "never", str(NOW + 800), NOW + 800.0, NOW + 800.5, 1e18, [], [NOW + 800], {})
    ),
    Case("expired to the second", "RFC 7519 s.4.1.4", Code.EXPIRED, with_claims(exp=NOW - 30)),
    Case("expired long ago", "RFC 7519 s.4.1.4", Code.EXPIRED, with_claims(exp=NOW - 10**6, iat=NOW - 10**6 - 900)),
    Case("exp zero", "RFC 7519 s.4.1.4", Code.EXPIRED, with_claims(exp=0)),
    Case("exp negative", "RFC 7519 s.4.1.4", Code.EXPIRED, with_claims(exp=-1)),
    Case("exp the least integer", "RFC 7519 s.4.1.4", Code.EXPIRED, with_claims(exp=-(2**63))),
    *(
        Case(f"nbf {value!r}", "RFC 7519 s.4.1.5", Code.BAD_CLAIM, with_claims(nbf=value))
        for value in each(None, True, "0", str(NOW), NOW + 0.5, [], {})
    ),
    Case("not yet valid", "RFC 7519 s.4.1.5", Code.NOT_YET_VALID, with_claims(nbf=NOW + 61)),
    Case("nbf the greatest integer", "RFC 7519 s.4.1.5", Code.NOT_YET_VALID, with_claims(nbf=2**63 - 1)),
    Case("iat missing", "RFC 9068 s.2.2", Code.MISSING_CLAIM, with_claims(iat=DROP)),
    *(
        Case(f"iat {value!r}", "RFC 7519 s.4.1.6", Code.BAD_CLAIM, with_claims(iat=value))
        for value in each(None, True, "", str(NOW), NOW - 5.0, NOW - 0.5, [], {})
    ),
    Case("issued in the future", "FAPI 2.0 s.5.3.2.1-13; checklist VF8", Code.ISSUED_IN_FUTURE, with_claims(iat=NOW + 61)),
    Case("lives a second too long", "checklist TC4", Code.LIFETIME_TOO_LONG, with_claims(iat=NOW, exp=NOW + 86_401)),
    Case("lives for ever", "checklist TC4", Code.LIFETIME_TOO_LONG, with_claims(exp=2**63 - 1)),
    Case("issued at the beginning of time", "checklist TC4", Code.LIFETIME_TOO_LONG, with_claims(iat=0)),
    Case("issued at the least integer", "checklist TC4", Code.LIFETIME_TOO_LONG, with_claims(iat=-(2**63))),
    Case("expires when it is issued", "RFC 7519 s.4.1.4", Code.LIFETIME_TOO_LONG, with_claims(iat=NOW, exp=NOW)),
    Case("expires before it is issued", "RFC 7519 s.4.1.4", Code.LIFETIME_TOO_LONG, with_claims(iat=NOW + 10, exp=NOW - 10)),
    *(
        Case(f"{name} missing", "RFC 9068 s.2.2", Code.MISSING_CLAIM, with_claims(**{name: DROP}))
        for name in each("sub", "client_id", "jti")
    ),
    *(
        Case(f"{name} {value!r}", "RFC 9068 s.2.2; RFC 7519 s.4.1: a string", Code.BAD_CLAIM, with_claims(**{name: value}))
        for name in each("sub", "client_id", "jti", "rid", "acr", "scope")
        for value in WRONG_TYPES
    ),
    *(
        Case(f"{name} empty", "a name that names nothing", Code.BAD_CLAIM, with_claims(**{name: ""}))
        for name in each("sub", "client_id", "jti", "rid", "acr")
    ),
    *(
        Case(f"amr {value!r}", "RFC 8176 s.1: a list of strings", Code.BAD_CLAIM, with_claims(amr=value))
        for value in each(None, "pwd", 1, True, {}, [1], [None], ["pwd", ["otp"]])
    ),
    *(
        Case(f"auth_time {value!r}", "OIDC Core s.2: a number", Code.BAD_CLAIM, with_claims(auth_time=value))
        for value in each(None, True, "0", 1.5, [], {})
    ),
    *(
        Case(f"cnf {value!r}", "RFC 7800 s.3.1; RFC 8705 s.3; RFC 9449 s.6", Code.SENDER_CONSTRAINED, with_claims(cnf=value))
        for value in each({"jkt": "a" * 43}, {"x5t#S256": "a" * 43}, {}, None, "", [])
    ),
]

KEYS = [
    *(
        Case(f"{alg.value} header, {other.value} kid", "RFC 8725 s.3.1; checklist VF3; CVE-2023-48238 (json-web-token)", Code.ALG_MISMATCH, under(alg, other))
        for alg in Algorithm
        for other in Algorithm
        if other is not alg
    ),
    Case("RS256 signature of the PS256 key", "RFC 8725 s.3.5", Code.ALG_MISMATCH, lambda: token(head=header(RS256, kid=forge.PUBLIC[PS256].kid), sign=rsa_sign(padding.PKCS1v15(), hashes.SHA256(), PS256))),
]

SIGNATURES = [
    *(Case(f"{alg.value}, no signature", "RFC 7515 s.5.2; CVE-2020-28042 (ServiceStack)", Code.BAD_SIGNATURE, signed_by(lambda _m: b"", alg)) for alg in Algorithm),
    *(Case(f"{alg.value}, one byte", "RFC 7518 s.3", Code.BAD_SIGNATURE, signed_by(lambda _m: b"\0", alg)) for alg in Algorithm),
    *(Case(f"{alg.value}, {at} flipped", "RFC 7515 s.5.2", Code.BAD_SIGNATURE, flipped(alg, at)) for alg in Algorithm for at in (0, 31, 32, -1)),
    *(Case(f"{alg.value}, another's payload", "RFC 7515 s.5.2", Code.BAD_SIGNATURE, moved(alg)) for alg in Algorithm),
    *(Case(f"{alg.value}, header reordered", "RFC 7515 s.5.2", Code.BAD_SIGNATURE, swapped_header(alg)) for alg in Algorithm),
    *(Case(f"{alg.value}, zeros", "CVE-2022-21449; Wycheproof 312", Code.BAD_SIGNATURE, bent(alg, lambda sig: bytes(len(sig)))) for alg in Algorithm),
    *(Case(f"{alg.value}, ones", "Wycheproof 316", Code.BAD_SIGNATURE, bent(alg, lambda sig: b"\xff" * len(sig))) for alg in Algorithm),
    *(Case(f"{alg.value}, a byte cut off", "RFC 7518 s.3; Wycheproof 319", Code.BAD_SIGNATURE, bent(alg, lambda sig: sig[:-1])) for alg in Algorithm),
    *(Case(f"{alg.value}, a byte before", "RFC 7518 s.3; Wycheproof 317", Code.BAD_SIGNATURE, bent(alg, lambda sig: b"\0" + sig)) for alg in Algorithm),
    *(Case(f"{alg.value}, a byte after", "RFC 7518 s.3; Wycheproof 318", Code.BAD_SIGNATURE, bent(alg, lambda sig: sig + b"\0")) for alg in Algorithm),
    *(Case(f"{alg.value}, twice", "RFC 7518 s.3", Code.BAD_SIGNATURE, bent(alg, lambda sig: sig * 2)) for alg in Algorithm),
    *(Case(f"{alg.value}, another key's", "RFC 7515 s.5.2", Code.BAD_SIGNATURE, signed_by(honest(other), alg)) for alg, other in ((RS256, PS256), (PS256, RS256), (ES256, EDDSA), (EDDSA, ES256))),
    Case("ES256 in DER", "RFC 7518 s.3.4", Code.BAD_SIGNATURE, signed_by(ecdsa_der)),
    Case("ES256 in DER, cut to 64 octets", "RFC 7518 s.3.4", Code.BAD_SIGNATURE, signed_by(lambda m: ecdsa_der(m)[:64])),
    *(
        Case(f"ES256, r = {r_name}, s = {s_name}", "CVE-2022-21449 (psychic signatures); Wycheproof 386-401", Code.BAD_SIGNATURE, signed_by(numbers(r, s)))
        for r_name, r in (("0", 0), ("1", 1), ("n-1", N - 1), ("n", N))
        for s_name, s in (("0", 0), ("1", 1), ("n-1", N - 1), ("n", N))
    ),
    Case("ES256, a zero before s", "RFC 7518 s.3.4: 64 octets", Code.BAD_SIGNATURE, ecdsa_with(lambda r, s: r.to_bytes(32) + s.to_bytes(33))),
    Case("ES256, many zeros before s", "RFC 7518 s.3.4: 64 octets", Code.BAD_SIGNATURE, ecdsa_with(lambda r, s: r.to_bytes(32) + s.to_bytes(96))),
    Case("ES256, r + n", "Wycheproof 381", Code.BAD_SIGNATURE, ecdsa_with(lambda r, s: (r + N if r + N < 2**256 else 2**256 - 1).to_bytes(32) + s.to_bytes(32))),
    Case("ES256, r and s swapped", "RFC 7518 s.3.4", Code.BAD_SIGNATURE, ecdsa_with(lambda r, s: s.to_bytes(32) + r.to_bytes(32))),
    Case("ES256, little-endian", "RFC 7518 s.3.4", Code.BAD_SIGNATURE, ecdsa_with(lambda r, s: r.to_bytes(32, "little") + s.to_bytes(32, "little"))),
    Case("ES256, 66 octets each", "RFC 7518 s.3.4 (P-521's length)", Code.BAD_SIGNATURE, ecdsa_with(lambda r, s: r.to_bytes(66) + s.to_bytes(66))),
    Case("RS256, SHA-384", "RFC 7518 s.3.3", Code.BAD_SIGNATURE, signed_by(rsa_sign(padding.PKCS1v15(), hashes.SHA384(), RS256), RS256)),
    Case("RS256, SHA-1", "RFC 7518 s.3.3", Code.BAD_SIGNATURE, signed_by(rsa_sign(padding.PKCS1v15(), hashes.SHA1(), RS256), RS256)),
    Case("RS256, PSS padding", "RFC 7518 s.3.3", Code.BAD_SIGNATURE, signed_by(rsa_sign(pss(32), hashes.SHA256(), RS256), RS256)),
    Case("PS256, PKCS 1 padding", "RFC 7518 s.3.5", Code.BAD_SIGNATURE, signed_by(rsa_sign(padding.PKCS1v15(), hashes.SHA256(), PS256), PS256)),
    *(Case(f"PS256, salt of {salt}", "RFC 7518 s.3.5: as long as the hash; Wycheproof 281-286", Code.BAD_SIGNATURE, signed_by(rsa_sign(pss(salt), hashes.SHA256(), PS256), PS256)) for salt in (0, 20, 31, 33, 222)),
    Case("PS256, MGF1 with SHA-1", "RFC 7518 s.3.5", Code.BAD_SIGNATURE, signed_by(rsa_sign(pss(32, hashes.SHA1()), hashes.SHA256(), PS256), PS256)),
    Case("PS256, SHA-384", "RFC 7518 s.3.5", Code.BAD_SIGNATURE, signed_by(rsa_sign(pss(32), hashes.SHA384(), PS256), PS256)),
    Case("EdDSA, S + L", "RFC 8032 s.5.1.7; CVE-2020-36843 (EdDSA-Java)", Code.BAD_SIGNATURE, signed_by(eddsa_malleable, EDDSA)),
    Case("EdDSA, R the neutral element", "RFC 8032 s.5.1.7", Code.BAD_SIGNATURE, signed_by(lambda _m: (1).to_bytes(32, "little") + bytes(32), EDDSA)),
    Case("another issuer's key, its own kid", "RFC 9068 s.4; checklist VF5", Code.BAD_SIGNATURE, lambda: token(key=forge.FOREIGN_PRIVATE)),
    Case("a stranger's key", "RFC 7515 s.5.2", Code.BAD_SIGNATURE, lambda: token(key=ec.generate_private_key(ec.SECP256R1()))),
    Case("signed before the payload was changed", "RFC 7515 s.5.2", Code.BAD_SIGNATURE, after(lambda raw: ".".join([parts(raw)[0], to_base64(to_json(claims(scope="admin"))), parts(raw)[2]]))),
    Case("nbf null before a wrong signature", "order of checks: 7 before 9", Code.BAD_CLAIM, lambda: token(claims(nbf=None), key=forge.FOREIGN_PRIVATE)),
    Case("kid missing before a wrong payload", "order of checks: 4 before 5", Code.BAD_KID, lambda: token(b"[", header(kid=DROP))),
    Case("wrong in the signature and in a typed claim", "order of checks: 9 before 10", Code.BAD_SIGNATURE, lambda: token(claims(jti=DROP), key=forge.FOREIGN_PRIVATE)),
]

FOREIGN = [
    Case("other profile, typ of a logout token", "Back-Channel Logout s.2.4; RFC 8725 s.3.12", Code.TYP_NOT_ALLOWED, foreign({"typ": "logout+jwt"})),
    Case("other profile, typ of a proof", "RFC 9449 s.4.2", Code.TYP_NOT_ALLOWED, foreign({"typ": "dpop+jwt"})),
    Case("other profile, typ null", "null is not absent", Code.TYP_NOT_ALLOWED, foreign({"typ": None})),
    Case("Keycloak ID token", "RFC 8725 s.3.12; checklist TC3", Code.NOT_ACCESS_TOKEN, foreign(typ="ID")),
    Case("Keycloak refresh token", "RFC 8725 s.3.12", Code.NOT_ACCESS_TOKEN, foreign(typ="Refresh")),
    Case("Keycloak offline token", "RFC 8725 s.3.12", Code.NOT_ACCESS_TOKEN, foreign(typ="Offline")),
    Case("claim typ is no text", "RFC 8725 s.3.12", Code.NOT_ACCESS_TOKEN, foreign(typ=None)),
    Case("Cognito ID token", "RFC 8725 s.3.12", Code.NOT_ACCESS_TOKEN, foreign(token_use="id")),
    Case("token_use of a wrong type", "RFC 8725 s.3.12", Code.NOT_ACCESS_TOKEN, foreign(token_use=["access"])),
    Case("ID token by its at_hash", "OIDC Core s.3.1.3.6", Code.NOT_ACCESS_TOKEN, foreign(at_hash="x")),
    Case("ID token by its c_hash", "OIDC Core s.3.3.2.11", Code.NOT_ACCESS_TOKEN, foreign(c_hash="x")),
    Case("logout token by its events", "Back-Channel Logout s.2.4", Code.NOT_ACCESS_TOKEN, foreign(events={})),
    Case("azp of a wrong type", "wrong is not absent", Code.BAD_CLAIM, foreign(azp=5)),
    Case("jti of a wrong type", "wrong is not absent", Code.BAD_CLAIM, foreign(jti=5)),
    Case("scp of a wrong type", "wrong is not absent", Code.BAD_CLAIM, foreign(scope=DROP, scp=5)),
    Case("scp list of a wrong type", "wrong is not absent", Code.BAD_CLAIM, foreign(scope=DROP, scp=["a", 5])),
    Case("scope null beside scp", "wrong is not absent", Code.BAD_CLAIM, foreign(scope=None, scp="a")),
    Case("sub missing under the other profile", "a token about nobody", Code.MISSING_CLAIM, foreign(sub=DROP)),
    Case("iat missing under the other profile", "the gate before a fetch needs it", Code.MISSING_CLAIM, foreign(iat=DROP)),
    Case("cnf under the other profile", "RFC 9449 s.6", Code.SENDER_CONSTRAINED, foreign(cnf={"jkt": "x"})),
    Case("our typ rule for our issuer, although the other allows JWT", "RFC 9068 s.4", Code.TYP_NOT_ALLOWED, with_header(typ="JWT")),
]

CASES = [*FORM, *BASE64, *HEADER_JSON, *ALG, *HEADER_POLICY, *PAYLOAD, *CLAIMS, *KEYS, *SIGNATURES, *FOREIGN]
