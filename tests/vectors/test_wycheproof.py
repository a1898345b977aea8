"""Project Wycheproof's JOSE cases, graded at the JWS layer, with the corrections of the overrides file.

Symmetric keys and other algorithms than our four do not exist here, so cases that need them must be
refused, valid or not; what those cases try is tried again with ES256, or it would prove nothing.
"""

import json
import re
from collections import Counter

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mintmark.core import base64url, jwk, jws
from mintmark.errors import InvalidToken

OURS = {"RS256", "PS256", "ES256", "EdDSA"}


def accepts(key: object, raw: object) -> bool:
    """Whether ``raw`` is a signature of ``key`` under the key's algorithm, and names that algorithm."""
    try:
        public = jwk.parse_jwk(key)  # type: ignore[arg-type]
        parts = jws.parse(raw)
        if parts.header.alg is not public.alg:
            return False
        jws.verify(public, parts.signing_input, parts.signature)
    except (jwk.UnusableKey, InvalidToken):
        return False
    return True


@pytest.fixture(scope="module")
def signatures(vectors):
    return json.loads((vectors / "json_web_signature_test.json").read_text())


@pytest.fixture(scope="module")
def keys(vectors):
    return json.loads((vectors / "json_web_key_test.json").read_text())


@pytest.fixture(scope="module")
def overrides(vectors):
    return json.loads((vectors / "wycheproof_overrides.json").read_text())


def test_every_signature_case(signatures, overrides):
    """All 401 cases get the published verdict, corrected; those that need another algorithm are refused."""
    corrected = overrides["json_web_signature_test.json"]
    graded: Counter[str] = Counter()
    wrong = []
    for group in signatures["testGroups"]:
        key = group.get("public") or group["private"]
        for case in group["tests"]:
            verdict = corrected.get(str(case["tcId"]), [case["result"]])[0]
            if verdict == "skip":
                continue
            possible = key["kty"] != "oct" and key.get("alg", "RS256") in OURS
            expected = verdict == "valid" and possible
            graded["accepted" if expected else "refused"] += 1
            if accepts(key, case["jws"]) is not expected:
                wrong.append((case["tcId"], case["comment"], verdict))
    assert not wrong
    assert graded == {"accepted": 16, "refused": 381}


def test_every_key_case(keys, overrides):
    """All 26 key cases: none is accepted but the one good RS256 key, and the one that is policy."""
    # A RSA key with the ROCA weakness has no outward defect but a statistical one; that is not looked for.
    policy = overrides["json_web_key_test.json"]
    accepted = set()
    for group in keys["testGroups"]:
        for case in group["tests"]:
            try:
                parsed = jwk.parse_jwk_set(group.get("public") or group["private"])
                kid = jws.parse(case["jws"]).header.kid
            except (jwk.UnusableKeySet, InvalidToken):
                continue
            if any(accepts(key.jwk, case["jws"]) for key in parsed.keys if key.kid == kid):
                accepted.add(case["tcId"])
    assert accepted == {5, 7}
    assert policy["7"][0] == "policy"


def test_private_members_make_a_key_unusable(signatures):
    """The private halves that the file lists beside the public ones load nowhere."""
    seen = 0
    for group in signatures["testGroups"]:
        private = group.get("private")
        if private is None or not group.get("public"):
            continue
        seen += 1
        with pytest.raises(jwk.UnusableKey) as caught:
            jwk.parse_jwk(private)
        assert caught.value.reason is jwk.Reason.PRIVATE_KEY_PUBLISHED
    assert seen > 5


@pytest.fixture(scope="module")
def signer():
    return ec.generate_private_key(ec.SECP256R1())


def resigned(signer: ec.EllipticCurvePrivateKey, header: str, payload: str, mac: str) -> str:
    """The same token with ES256 in HS256's place: what was wrong with each part is wrong again."""
    if "JIUzI1Ni" in header:
        header = header.replace("JIUzI1Ni", "JFUzI1Ni")
    else:
        header = base64url.encode(base64url.decode(header).replace(b"HS256", b"ES256"))
    signature = base64url.encode(jws.sign(jws.Algorithm.ES256, signer, f"{header}.{payload}".encode()))
    found = re.fullmatch(r"([^\w-]*)([\w-]*)([^\w-]*)", mac)
    assert found is not None
    before, kept, after = found.groups()
    replaced = 43 - len(kept) if before or after else 0
    return f"{header}.{payload}.{before}{signature[replaced:]}{after}"


def test_base64_cases_signed_again(signatures, overrides, signer):
    """The 21 cases of lenient base64, signed with ES256: the spelling decides, not the missing key."""
    public = jwk.public_key(signer.public_key(), jws.Algorithm.ES256).jwk
    corrected = overrides["json_web_signature_test.json"]
    (group,) = [g for g in signatures["testGroups"] if g["comment"] == "base64"]
    verdicts: Counter[str] = Counter()
    for case in group["tests"]:
        verdict = corrected.get(str(case["tcId"]), [case["result"]])[0]
        raw = resigned(signer, *case["jws"].split("."))
        # Wycheproof signs what a lenient decoder would have read; here the text itself is signed.
        assert accepts(public, raw) is (verdict == "valid"), (case["tcId"], case["comment"])
        verdicts[verdict] += 1
    assert verdicts == {"valid": 7, "invalid": 14}


def test_structural_cases_signed_again(signatures, signer):
    """The 17 cases of missing, added and changed parts, with an ES256 signature in the MAC's place."""
    public = jwk.public_key(signer.public_key(), jws.Algorithm.ES256).jwk
    (group,) = [g for g in signatures["testGroups"] if g["comment"] == "hs256"]
    header, payload, mac = group["tests"][0]["jws"].split(".")
    good = resigned(signer, header, payload, mac)
    new_header, _, signature = good.split(".")
    assert accepts(public, good)
    for case in group["tests"][1:]:
        raw = case["jws"]
        text = raw if isinstance(raw, str) else json.dumps(raw)
        text = text.replace(mac[1:], signature[1:]).replace(header, new_header)
        assert not accepts(public, text), (case["tcId"], case["comment"])
