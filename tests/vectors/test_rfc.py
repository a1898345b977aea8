"""The examples that RFC 7515, 7517, 7520, 7638 and 8037 print."""

import json
from pathlib import Path

import pytest

from mintmark.core import jwk, jws
from mintmark.core.refusal import Code
from mintmark.errors import InvalidToken

PUBLIC = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y"), "OKP": ("kty", "crv", "x")}


def public_half(key: dict[str, str], **more: str) -> dict[str, str]:
    return {name: key[name] for name in PUBLIC[key["kty"]]} | more


def appendix(vectors: Path, name: str) -> str:
    return (vectors / "rfc_appendix_vectors" / name).read_text().strip()


@pytest.mark.parametrize("example", ["A.2", "A.3"])
def test_rfc7515_signatures_verify(vectors, example):
    """RFC 7515 A.2 (RS256) and A.3 (ES256) verify under the printed keys."""
    key = jwk.parse_jwk(public_half(json.loads(appendix(vectors, f"rfc7515_{example}.jwk"))))
    parts = jws.parse(appendix(vectors, f"rfc7515_{example}.jwsc"))
    assert parts.header.alg is key.alg
    jws.verify(key, parts.signing_input, parts.signature)
    assert json.loads(parts.payload)["iss"] == "joe"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("rfc7515_A.1.jwsc", Code.ALG_NOT_ALLOWED),  # HS256
        ("rfc7515_A.4.jwsc", Code.ALG_NOT_ALLOWED),  # ES512
        ("rfc7515_A.5.jwsc", Code.ALG_NOT_ALLOWED),  # none
        ("rfc7515_A.6.jwsg", Code.NOT_COMPACT),  # general JSON serialization
        ("rfc7515_A.7.jwsf", Code.NOT_COMPACT),  # flattened JSON serialization
    ],
)
def test_rfc7515_examples_of_what_does_not_exist_here(vectors, name, code):
    """HS256, ES512, none and the JSON serializations are refused while parsing, before any key."""
    with pytest.raises(InvalidToken) as caught:
        jws.parse(appendix(vectors, name))
    assert caught.value.code == code


def test_rfc7517_sets(vectors):
    """Of A.1 the signature key loads and the encryption key is skipped; A.2 is private, A.3 symmetric."""
    parsed = jwk.parse_jwk_set(appendix(vectors, "rfc7517_A.1.jwkset").encode())
    assert [(key.kid, key.alg) for key in parsed.keys] == [("2011-04-29", jws.Algorithm.RS256)]
    assert [(r.position, r.kid, r.reason) for r in parsed.refused] == [(0, "1", jwk.Reason.OTHER_USE)]
    for name, reason in (("A.2", jwk.Reason.PRIVATE_KEY_PUBLISHED), ("A.3", jwk.Reason.SYMMETRIC)):
        with pytest.raises(jwk.UnusableKeySet) as caught:
            jwk.parse_jwk_set(appendix(vectors, f"rfc7517_{name}.jwkset").encode())
        assert {refused.reason for refused in caught.value.refused} == {reason}


def test_rfc7517_certificate_members_are_ignored(vectors):
    """The key of RFC 7517 B, with its x5c, is known by its own members and published without the rest."""
    key = jwk.parse_jwk(json.loads(appendix(vectors, "rfc7517_B.jwk")))
    assert set(key.jwk) == {"kty", "use", "alg", "kid", "n", "e"}


def test_thumbprints(vectors):
    """RFC 7638 s.3.1 and RFC 8037 A.3: order, extra members and kid change nothing."""
    cases = json.loads((vectors / "jwk_thumbprints.json").read_text())["cases"]
    assert len(cases) == 3
    for case in cases:
        assert jwk.thumbprint(case["jwk"]) == case["sha-256"], case["name"]
        members = {name: value for name, value in case["jwk"].items() if name != "kid"}
        assert jwk.parse_jwk(members).kid == case["sha-256"]
    assert jwk.thumbprint(json.loads(appendix(vectors, "rfc7638_3.1.jwk"))) == appendix(
        vectors, "rfc7638_3.1.thp"
    )


@pytest.mark.parametrize("name", ["4_1.rsa_v15_signature", "curve25519"])
def test_rfc7520_and_rfc8037_examples_verify(vectors, name):
    """RFC 7520 s.4.1 (RS256) and RFC 8037 A.4 (EdDSA) verify, and the second is reproduced exactly."""
    folder = vectors / "rfc7520_cookbook"
    path = folder / "curve25519" / "jws.json" if name == "curve25519" else folder / "jws" / f"{name}.json"
    example = json.loads(path.read_text())
    private = example["input"]["key"]
    key = jwk.parse_jwk(public_half(private, kid=private.get("kid", "example")))
    parts = jws.parse(example["output"]["compact"])
    assert parts.payload.decode() == example["input"]["payload"]
    jws.verify(key, parts.signing_input, parts.signature)
    made = jws.signing_input(example["signing"]["protected"], example["input"]["payload"].encode())
    assert made.decode() == example["signing"]["sig-input"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("4_2.rsa-pss_signature", Code.ALG_NOT_ALLOWED),  # PS384
        ("4_3.ecdsa_signature", Code.ALG_NOT_ALLOWED),  # ES512
        ("4_4.hmac-sha2_integrity_protection", Code.ALG_NOT_ALLOWED),
    ],
)
def test_rfc7520_examples_of_other_algorithms(vectors, name, code):
    """PS384, ES512 and HS256 are valid JOSE, and unknown here."""
    example = json.loads((vectors / "rfc7520_cookbook" / "jws" / f"{name}.json").read_text())
    with pytest.raises(InvalidToken) as caught:
        jws.parse(example["output"]["compact"])
    assert caught.value.code == code
