"""Which keys load, under which name and algorithm, and what is said about the others."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from tests.core import forge

from mintmark.core import base64url, jwk
from mintmark.core.algorithm import Algorithm
from mintmark.core.jwk import Reason
from mintmark.errors import MintmarkError

RSA = dict(forge.PUBLIC[Algorithm.RS256].jwk)
EC = dict(forge.PUBLIC[Algorithm.ES256].jwk)
OKP = dict(forge.PUBLIC[Algorithm.EDDSA].jwk)
GOOD = [RSA, dict(forge.PUBLIC[Algorithm.PS256].jwk), EC, OKP]
DROP = object()

P = 2**255 - 19
SMALL_ORDER = [
    # The points whose order divides 8, and their encodings with y >= p or the wrong sign of zero.
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


def changed(key: dict[str, str], **changes: object) -> dict[str, object]:
    return {name: value for name, value in {**key, **changes}.items() if value is not DROP}


def number(value: int, length: int | None = None) -> str:
    return base64url.encode(value.to_bytes(length or (value.bit_length() + 7) // 8))


def reason(key: object) -> Reason:
    with pytest.raises(jwk.UnusableKey) as caught:
        jwk.parse_jwk(key)  # type: ignore[arg-type]
    return caught.value.reason


@pytest.mark.parametrize("key", GOOD, ids=lambda key: key["alg"])
def test_a_published_key_reads_back_the_same(key):
    """JM2: what a signer publishes loads as the same key under its thumbprint: members, order and all."""
    loaded = jwk.parse_jwk(key)
    assert list(loaded.jwk.items()) == list(key.items())
    assert loaded.kid == key["kid"] == jwk.thumbprint(key)
    assert loaded == jwk.parse_jwk(json.loads(json.dumps(key)))
    assert hash(loaded) == hash(jwk.parse_jwk(key))
    assert list(loaded.jwk)[:4] == ["kty", "use", "alg", "kid"]


def test_a_published_key_is_small():
    """A public RSA-2048 JWK takes 451 bytes, P-256 204, Ed25519 157: what limits on key sets count with."""
    sizes = [len(json.dumps(dict(key), separators=(",", ":"))) for key in (RSA, EC, OKP)]
    assert sizes == [451, 204, 157]


def test_a_public_key_is_immutable_and_shows_no_material():
    """The published mapping cannot be changed, and the repr is a name and an algorithm."""
    key = jwk.parse_jwk(EC)
    with pytest.raises(TypeError):
        key.jwk["alg"] = "none"  # type: ignore[index]
    with pytest.raises(AttributeError):
        key.alg = Algorithm.RS256  # type: ignore[misc]
    assert EC["x"] not in repr(key)


def test_equality_is_name_material_and_algorithm():
    """The same material under another kid or algorithm is another key."""
    assert jwk.parse_jwk(RSA) != jwk.parse_jwk(changed(RSA, kid="other"))
    assert jwk.parse_jwk(RSA) != jwk.parse_jwk(changed(RSA, alg="PS256"))
    assert jwk.parse_jwk(RSA) != jwk.parse_jwk(changed(GOOD[1], kid=RSA["kid"], alg="RS256"))


@pytest.mark.parametrize(
    ("key", "alg"),
    [
        (changed(RSA, alg=DROP), Algorithm.RS256),
        (changed(EC, alg=DROP), Algorithm.ES256),
        (changed(OKP, alg=DROP), Algorithm.EDDSA),
        (changed(RSA, alg="PS256"), Algorithm.PS256),
        (changed(RSA, use=DROP, key_ops=["verify"], alg=DROP), Algorithm.RS256),
        (changed(RSA, alg=DROP, x5t="a", x5c=["MIIC"], issuer="entra"), Algorithm.RS256),
    ],
)
def test_every_key_is_pinned_to_one_algorithm(key, alg):
    """KY2, VF3. Entra publishes no alg: an RSA key is then for RS256, EC for ES256, OKP for EdDSA."""
    assert jwk.parse_jwk(key).alg is alg
    assert jwk.parse_jwk(key).jwk["alg"] == alg.value


def test_a_caller_may_pin_rsa_without_alg_to_ps256():
    """An issuer that signs with PS256 and publishes no alg is one option away; a stated alg stands."""
    assert jwk.parse_jwk(changed(RSA, alg=DROP), rsa_alg=Algorithm.PS256).alg is Algorithm.PS256
    assert jwk.parse_jwk(RSA, rsa_alg=Algorithm.PS256).alg is Algorithm.RS256
    (key,) = jwk.parse_jwk_set({"keys": [changed(RSA, alg=DROP)]}, rsa_alg=Algorithm.PS256).keys
    assert key.alg is Algorithm.PS256


def test_a_key_without_kid_is_named_by_its_thumbprint():
    """RFC 7517 s.4.5: kid is optional; the thumbprint is a name that cannot be wrong."""
    assert jwk.parse_jwk(changed(EC, kid=DROP)).kid == EC["kid"]
    assert jwk.parse_jwk(changed(EC, kid="2024-01")).kid == "2024-01"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        # Skipped: for somebody else, or newer than we are.
        (changed(RSA, kty="AKP", alg="ML-DSA-44", pub="AA"), Reason.OTHER_KTY),
        (changed(RSA, kty="rsa"), Reason.OTHER_KTY),
        (changed(RSA, kty=""), Reason.OTHER_KTY),
        (changed(EC, crv="P-384", alg=DROP), Reason.OTHER_CRV),
        (changed(EC, crv="secp256k1", alg=DROP), Reason.OTHER_CRV),
        (changed(EC, crv="p-256"), Reason.OTHER_CRV),
        (changed(OKP, crv="Ed448", alg=DROP), Reason.OTHER_CRV),
        (changed(OKP, crv="X25519", alg=DROP), Reason.OTHER_CRV),
        (changed(EC, crv="P-384", alg="ES384"), Reason.OTHER_ALG),
        (changed(RSA, alg="RS512"), Reason.OTHER_ALG),
        (changed(RSA, alg="rs256"), Reason.OTHER_ALG),
        (changed(RSA, alg="none"), Reason.OTHER_ALG),
        (changed(RSA, alg="HS256"), Reason.OTHER_ALG),
        (changed(RSA, alg=""), Reason.OTHER_ALG),
        (changed(OKP, alg="Ed25519"), Reason.OTHER_ALG),
        (changed(RSA, use="enc", alg="RSA-OAEP"), Reason.OTHER_USE),
        (changed(RSA, use="SIG"), Reason.OTHER_USE),
        (changed(RSA, key_ops=["encrypt"]), Reason.OTHER_USE),
        (changed(RSA, key_ops=[]), Reason.OTHER_USE),
        # Incidents: the set is wrong.
        (changed(EC, alg="RS256"), Reason.BAD_MEMBER),
        (changed(RSA, alg="ES256"), Reason.BAD_MEMBER),
        (changed(OKP, alg="ES256"), Reason.BAD_MEMBER),
        (changed(RSA, use=["sig"]), Reason.BAD_MEMBER),
        (changed(RSA, use=None), Reason.BAD_MEMBER),
        (changed(RSA, alg=None), Reason.BAD_MEMBER),
        (changed(RSA, key_ops="verify"), Reason.BAD_MEMBER),
        (changed(RSA, kty=DROP), Reason.BAD_MEMBER),
        (changed(RSA, kty=["RSA"]), Reason.BAD_MEMBER),
        (changed(RSA, n=DROP), Reason.BAD_MEMBER),
        (changed(RSA, e=DROP), Reason.BAD_MEMBER),
        (changed(RSA, n=5), Reason.BAD_MEMBER),
        (changed(RSA, n=RSA["n"] + "=="), Reason.BAD_MEMBER),
        (changed(RSA, n=RSA["n"].replace("A", "+")[:-1] + "/"), Reason.BAD_MEMBER),
        (changed(RSA, n="AA" + RSA["n"]), Reason.BAD_MEMBER),
        (changed(RSA, n=""), Reason.BAD_MEMBER),
        (changed(RSA, n=number(2**2047)), Reason.BAD_MEMBER),
        (changed(RSA, e="AAEAAQ"), Reason.BAD_MEMBER),
        (changed(EC, x=DROP), Reason.BAD_MEMBER),
        (changed(EC, y=DROP), Reason.BAD_MEMBER),
        (changed(EC, x=number(5)), Reason.BAD_MEMBER),
        (changed(EC, x=base64url.encode(b"\0" + base64url.decode(EC["x"]))), Reason.BAD_MEMBER),
        (changed(OKP, x=number(5)), Reason.BAD_MEMBER),
        (changed(OKP, x=OKP["x"] + "AA"), Reason.BAD_MEMBER),
        (changed(OKP, crv=DROP), Reason.BAD_MEMBER),
        (changed(RSA, kid=""), Reason.BAD_KID),
        (changed(RSA, kid="a\nb"), Reason.BAD_KID),
        (changed(RSA, kid="k" * 129), Reason.BAD_KID),
        (changed(RSA, kid=7), Reason.BAD_KID),
        (changed(RSA, kid=None), Reason.BAD_KID),
        ({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}, Reason.SYMMETRIC),
        ({"kty": "oct"}, Reason.SYMMETRIC),
        (changed(EC, x=number(1, 32)), Reason.OFF_CURVE),
        (changed(EC, x=number(0, 32), y=number(0, 32)), Reason.OFF_CURVE),
        (changed(EC, y=number(2**256 - 1, 32)), Reason.OFF_CURVE),
        (changed(OKP, x=base64url.encode((2).to_bytes(32, "little"))), Reason.OFF_CURVE),
        (changed(RSA, e="AQ"), Reason.RSA_EXPONENT),
        (changed(RSA, e="Aw"), Reason.RSA_EXPONENT),
        (changed(RSA, e=number(65536)), Reason.RSA_EXPONENT),
        (changed(RSA, e=number(65538)), Reason.RSA_EXPONENT),
        (changed(RSA, e=number(2**32 + 1)), Reason.RSA_EXPONENT),
        (changed(RSA, n=number(2**2047 - 1)), Reason.RSA_SIZE),
        (changed(RSA, n=number(2**8192 + 1)), Reason.RSA_SIZE),
        (changed(RSA, n="Aw"), Reason.RSA_SIZE),
    ],
    ids=lambda value: value.value if isinstance(value, Reason) else "",
)
def test_each_reason_has_its_key(key, expected):
    """VF3, KY1: one defect, one reason; what is merely other is skipped, what is wrong is an incident."""
    assert reason(key) is expected
    skipped = {Reason.OTHER_KTY, Reason.OTHER_CRV, Reason.OTHER_ALG, Reason.OTHER_USE, Reason.REPEATED}
    assert expected.incident is (expected not in skipped)


@pytest.mark.parametrize("value", [None, 5, "key", b"key", [], [("kty", "RSA")]])
def test_what_is_no_object_is_no_key(value):
    """A set may hold anything; only an object can be a key."""
    assert reason(value) is Reason.NOT_A_KEY


@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"])
@pytest.mark.parametrize("key", [RSA, EC, OKP, changed(RSA, use="enc"), changed(EC, kty="AKP")])
def test_a_published_private_member_is_an_incident_first(key, member):
    """JM1: a private member is reported as that, also in a key that we would have skipped."""
    assert reason({**key, member: "AAAA"}) is Reason.PRIVATE_KEY_PUBLISHED
    assert reason({**key, member: None}) is Reason.PRIVATE_KEY_PUBLISHED


@pytest.mark.parametrize("encoded", SMALL_ORDER)
def test_points_of_small_order_are_refused(encoded):
    """Under such a key a signature can be made for any message without a private key."""
    x = base64url.encode(bytes.fromhex(encoded))
    assert reason(changed(OKP, x=x, kid=DROP)) is Reason.OFF_CURVE


@pytest.mark.parametrize("y", range(P, 2**255))
def test_a_point_has_one_encoding(y):
    """RFC 8032 s.5.1.3: a y of p or more is refused although it names a point, or a key had two names."""
    assert reason(changed(OKP, x=base64url.encode(y.to_bytes(32, "little")), kid=DROP)) is Reason.OFF_CURVE


@given(st.binary(min_size=32, max_size=32))
def test_ed25519_points_agree_with_the_curve(seed):
    """Every real public key is a point; of arbitrary bytes those that are none are refused."""
    public = ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    assert jwk._is_ed25519_point(public)
    y = int.from_bytes(seed, "little") & (1 << 255) - 1
    d = -121665 * pow(121666, P - 2, P) % P
    xx = (y * y - 1) * pow(d * y * y + 1, P - 2, P) % P
    # A square root, if there is one (RFC 8032 s.5.1.3): another way than the code's.
    root = pow(xx, (P + 3) // 8, P)
    square = root * root % P in {xx, -xx % P} and y < P
    if seed.hex() not in SMALL_ORDER:
        assert jwk._is_ed25519_point(seed) is square


@pytest.mark.parametrize(
    ("make", "alg", "expected"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), Algorithm.RS256, Reason.RSA_SIZE),
        (lambda: rsa.generate_private_key(3, 2048), Algorithm.RS256, Reason.RSA_EXPONENT),
        (lambda: ec.generate_private_key(ec.SECP384R1()), Algorithm.ES256, Reason.OTHER_CRV),
        (lambda: ec.generate_private_key(ec.SECP256R1()), Algorithm.RS256, Reason.BAD_MEMBER),
        (ed25519.Ed25519PrivateKey.generate, Algorithm.ES256, Reason.BAD_MEMBER),
        (ed448.Ed448PrivateKey.generate, Algorithm.EDDSA, Reason.OTHER_KTY),
    ],
)
def test_a_signer_publishes_no_key_that_verifiers_refuse(make, alg, expected):
    """A key object that does not fit its algorithm, or is too weak, never becomes a JWK."""
    with pytest.raises(jwk.UnusableKey) as caught:
        jwk.public_key(make().public_key(), alg)
    assert caught.value.reason is expected


def test_leading_zeros_of_coordinates_are_kept():
    """A coordinate is 32 octets whatever its value: one key in 128 has a leading zero."""
    candidates = (ec.derive_private_key(secret, ec.SECP256R1()).public_key() for secret in range(1, 2_000))
    public = next(
        key for key in candidates if min(key.public_numbers().x, key.public_numbers().y).bit_length() <= 248
    )
    published = jwk.public_key(public, Algorithm.ES256).jwk
    assert {len(base64url.decode(published[name])) for name in ("x", "y")} == {32}
    assert jwk.parse_jwk(published).key == public


@pytest.mark.parametrize(
    "key",
    [{}, {"kty": "oct", "k": "AA"}, {"kty": "RSA", "n": "AA"}, {"kty": "EC", "crv": "P-256", "x": 1, "y": 2},
     {"kty": "OKP", "crv": 'a"b', "x": "AA"}, {"kty": ["RSA"]}],
)  # fmt: skip
def test_no_thumbprint_of_what_is_no_key(key):
    """RFC 7638 s.3: the required members are required, and a value that JSON would escape is none."""
    with pytest.raises(jwk.UnusableKey):
        jwk.thumbprint(key)


@pytest.mark.parametrize(
    ("kid", "good"),
    [
        ("a", True),
        ("k" * 128, True),
        ("a b", True),
        ("~", True),
        ("", False),
        ("k" * 129, False),
        ("\n", False),
        ("\x7f", False),
        ("\u00e9", False),
        (None, False),
        (b"a", False),
        (1, False),
    ],
)
def test_what_can_be_a_kid(kid, good):
    """VF11: 1 to 128 printable ASCII characters, so never a path, a line of a log or a control sequence."""
    assert jwk.is_kid(kid) is good


def test_what_has_the_shape_of_a_thumbprint():
    """43 characters of canonical base64url, as every Mintmark kid."""
    assert jwk.is_thumbprint(EC["kid"])
    for kid in ("", "k" * 42 + "l", EC["kid"][:-1], EC["kid"] + "A", EC["kid"][:-1] + "=", "é" * 43):
        assert not jwk.is_thumbprint(kid)


# --- sets ----------------------------------------------------------------------------------------


def test_each_key_of_a_set_is_parsed_alone():
    """One key of the future, one broken and one private one leave the good ones usable, each reported."""
    ml_dsa = {"kty": "AKP", "alg": "ML-DSA-65", "kid": "pq", "pub": "AA"}
    entries = [ml_dsa, EC, "nonsense", {**OKP, "d": "AA"}, RSA, changed(RSA, kid="a\x1b[2J", n=5), EC]
    parsed = jwk.parse_jwk_set({"keys": entries})
    assert [key.kid for key in parsed.keys] == [EC["kid"], RSA["kid"]]
    assert parsed.refused == (
        (0, "pq", Reason.OTHER_KTY),
        (2, None, Reason.NOT_A_KEY),
        (3, OKP["kid"], Reason.PRIVATE_KEY_PUBLISHED),
        (5, None, Reason.BAD_MEMBER),
        (6, EC["kid"], Reason.REPEATED),
    )


def test_two_keys_of_one_name_are_both_dropped():
    """Nothing says which is meant; a third of that name does not come back either, and order is no matter."""
    other = changed(dict(forge.FOREIGN_PUBLIC.jwk), kid=EC["kid"])
    for entries in ([EC, other, RSA], [other, EC, RSA], [EC, other, EC, RSA], [EC, EC, other, RSA]):
        parsed = jwk.parse_jwk_set({"keys": entries})
        assert [key.kid for key in parsed.keys] == [RSA["kid"]]
        assert sum(r.reason is Reason.DUPLICATE_KID for r in parsed.refused) >= 2
    same_material = changed(RSA, alg="PS256")
    with pytest.raises(jwk.UnusableKeySet) as caught:
        jwk.parse_jwk_set({"keys": [RSA, same_material]})
    assert {r.reason for r in caught.value.refused} == {Reason.DUPLICATE_KID}


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"keys"',
        b'{"keys":{}}',
        b'{"keys":null}',
        b'{"keys":[]}',
        b'{"keys":[{}]}',
        b'{"keys":[],"keys":[]}',
        b"<html></html>",
        b"\xff\xfe",
        b'{"keys":[' + b"[" * 5000,
        b'{"keys": "' + b"a" * (256 * 1024) + b'"}',
        {"keys": [EC] * 129},
        {"keys": [changed(EC, alg="HS256")]},
        {"Keys": [EC]},
    ],
    ids=lambda document: repr(document)[:20],
)
def test_a_document_that_is_no_set_is_rejected_whole(document):
    """No list of keys, no usable key, more than 128 or over 256 KiB: UnusableKeySet, and nothing else."""
    with pytest.raises(jwk.UnusableKeySet) as caught:
        jwk.parse_jwk_set(document)
    assert isinstance(caught.value, MintmarkError)


def test_a_set_is_read_from_bytes_as_from_a_mapping():
    """Compact or pretty, with other members beside keys."""
    document = {"keys": GOOD, "issuer": "x"}
    for text in (json.dumps(document), json.dumps(document, indent=2)):
        assert jwk.parse_jwk_set(text.encode()) == jwk.parse_jwk_set(document)
    assert len(jwk.parse_jwk_set(document).keys) == 4
    many = [changed(EC, kid=f"k{number}") for number in range(128)]
    assert len(jwk.parse_jwk_set(json.dumps({"keys": many}, indent=1).encode()).keys) == 128


MEMBERS = ["kty", "use", "alg", "kid", "crv", "x", "y", "n", "e", "key_ops", "d", "k"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(list(EC.values())),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(GOOD), st.dictionaries(st.sampled_from(MEMBERS), VALUES, max_size=3))
def test_a_bent_key_loads_whole_or_not_at_all(key, changes):
    """A JWK of any content loads as a key that publishes public members alone, or is unusable."""
    try:
        loaded = jwk.parse_jwk({**key, **changes})
    except jwk.UnusableKey:
        return
    public = {"RSA": {"n", "e"}, "EC": {"crv", "x", "y"}, "OKP": {"crv", "x"}}[loaded.jwk["kty"]]
    assert set(loaded.jwk) == {"kty", "use", "alg", "kid"} | public
    assert jwk.parse_jwk(loaded.jwk) == loaded
