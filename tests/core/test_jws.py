"""Signing, taking apart and verifying compact JWS."""

from unittest.mock import Mock

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from tests.core import forge

from mintmark.core import jwk, jws
from mintmark.core.algorithm import Algorithm
from mintmark.core.refusal import Code
from mintmark.errors import InvalidToken


@pytest.mark.parametrize("alg", list(Algorithm))
@given(payload=st.binary(max_size=60))
def test_what_is_signed_verifies_and_reads_back(alg, payload):
    """Any payload: header, payload and signature come back, and the signature is the key's."""
    head = {"alg": alg.value, "kid": forge.PUBLIC[alg].kid, "typ": "at+jwt"}
    message = jws.signing_input(head, payload)
    raw = jws.compact(message, jws.sign(alg, forge.PRIVATE[alg], message))
    parts = jws.parse(raw)
    assert (parts.payload, parts.signing_input) == (payload, message)
    assert (parts.header.alg, parts.header.kid, parts.header.typ) == (alg, head["kid"], "at+jwt")
    assert dict(parts.header.members) == head
    jws.verify(forge.PUBLIC[alg], parts.signing_input, parts.signature)


@pytest.mark.parametrize("alg", list(Algorithm))
def test_pyjwt_accepts_our_signatures(alg):
    """An independent library verifies what we sign."""
    raw = forge.token(b'{"a":1}', alg=alg)
    assert jwt.api_jws.decode(raw, forge.PUBLIC[alg].key, algorithms=[alg.value]) == b'{"a":1}'


def test_an_es256_signature_is_r_and_s():
    """RFC 7518 s.3.4: 64 octets, never DER, also where r or s begins with zeros."""
    lengths = {len(jws.sign(Algorithm.ES256, forge.PRIVATE[Algorithm.ES256], bytes([i]))) for i in range(200)}
    assert lengths == {64}


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.integers(0, 3))
def test_der_is_what_the_library_writes(r, s, zeros):
    """For any r and s, with any leading zeros and signs, our DER is the library's, octet for octet."""
    for first, second in ((r, s), (bytes(zeros) + r[zeros:], s), (r, bytes(zeros) + s[zeros:])):
        expected = encode_dss_signature(int.from_bytes(first), int.from_bytes(second))
        assert jws.to_der(first + second) == expected


@pytest.mark.parametrize("first", [0, 1, 127, 128, 255])
@pytest.mark.parametrize("second", [0, 1, 127, 128, 255])
def test_der_at_the_edges_of_sign_and_length(first, second):
    """The first octets decide on zeros before r and s; each combination is the library's."""
    for rest in (bytes(31), b"\x80" + bytes(30), b"\xff" * 31):
        signature = bytes([first]) + rest + bytes([second]) + rest
        expected = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
        assert jws.to_der(signature) == expected


@pytest.mark.parametrize("alg", list(Algorithm))
def test_a_signature_verifies_under_its_own_key_alone(alg):
    """VF3: no other algorithm's key takes it, and no other message."""
    message = b"message"
    signature = jws.sign(alg, forge.PRIVATE[alg], message)
    for other, public in forge.PUBLIC.items():
        if other is alg:
            jws.verify(public, message, signature)
            continue
        with pytest.raises(InvalidToken) as caught:
            jws.verify(public, message, signature)
        assert caught.value.code == Code.BAD_SIGNATURE
    with pytest.raises(InvalidToken):
        jws.verify(forge.PUBLIC[alg], b"other", signature)


@pytest.mark.parametrize("alg", list(Algorithm))
@given(signature=st.binary(max_size=300))
def test_no_bytes_are_a_signature(alg, signature):
    """Random bytes of any length are refused, and never with an error of the library."""
    with pytest.raises(InvalidToken) as caught:
        jws.verify(forge.PUBLIC[alg], b"message", signature)
    assert caught.value.code == Code.BAD_SIGNATURE


def test_a_private_key_signs_its_own_algorithm_alone():
    """A key that does not fit is refused before anything is signed, another curve too."""
    for alg in Algorithm:
        for other, private in forge.PRIVATE.items():
            fits = alg is other or {alg, other} == {Algorithm.RS256, Algorithm.PS256}
            if not fits:
                with pytest.raises(ValueError, match="does not fit"):
                    jws.sign(alg, private, b"message")
    with pytest.raises(ValueError, match="does not fit"):
        jws.sign(Algorithm.ES256, ec.generate_private_key(ec.SECP384R1()), b"message")


@pytest.mark.parametrize(
    ("typ", "read"),
    [
        ("at+jwt", "at+jwt"),
        ("AT+JWT", "at+jwt"),
        ("application/at+jwt", "at+jwt"),
        ("APPLICATION/AT+JWT", "at+jwt"),
        ("JWT", "jwt"),
        ("application/application/at+jwt", "application/at+jwt"),
        ("text/at+jwt", "text/at+jwt"),
        (" at+jwt", " at+jwt"),
        ("", ""),
    ],
)
def test_typ_is_a_media_type(typ, read):
    """VF7, RFC 7515 s.4.1.9: without case, and with ``application/`` left out."""
    assert jws.parse_header(forge.to_json({"alg": "ES256", "typ": typ})).typ == read


@pytest.mark.parametrize(
    ("name", "code"), [("alg", Code.ALG_NOT_ALLOWED), ("kid", Code.BAD_KID), ("typ", Code.TYP_NOT_ALLOWED)]
)
def test_null_is_not_absent(name, code):
    """A parameter that is there and null has the wrong type."""
    with pytest.raises(InvalidToken) as caught:
        jws.parse_header(forge.to_json({"alg": "ES256", "kid": "k", "typ": "JWT", name: None}))
    assert caught.value.code == code


def test_a_header_needs_only_its_algorithm():
    """kid and typ are optional at this layer: other tokens than ours are read by it too."""
    header = jws.parse_header(b'{"alg":"RS256"}')
    assert (header.alg, header.kid, header.typ) == (Algorithm.RS256, None, None)
    with pytest.raises(TypeError):
        header.members["alg"] = "none"  # type: ignore[index]


@pytest.mark.parametrize("name", sorted(jws.FORBIDDEN))
@pytest.mark.parametrize("value", [None, True, [], "x", {}])
def test_forbidden_parameters_are_refused_whatever_they_hold(name, value):
    """VF2, VF4: presence is enough."""
    with pytest.raises(InvalidToken) as caught:
        jws.parse_header(forge.to_json({"alg": "ES256", name: value}))
    assert caught.value.code == Code.FORBIDDEN_HEADER


def test_the_size_limit_is_the_callers():
    """A larger limit lets a larger token be read; the limit itself is allowed."""
    raw = forge.token(forge.to_json({"x": "y" * 9000}))
    with pytest.raises(InvalidToken):
        jws.parse(raw)
    assert jws.parse(raw, max_size=len(raw)).payload
    with pytest.raises(InvalidToken):
        jws.parse(raw, max_size=len(raw) - 1)


@given(st.text(max_size=40) | st.binary(max_size=40))
def test_splitting_is_reversible(raw):
    """What splits is exactly three parts that join to the input; what does not raises InvalidToken."""
    try:
        message, header, payload, signature = jws.split(raw)
    except InvalidToken:
        return
    data = raw if isinstance(raw, bytes) else raw.encode()
    assert b".".join([header, payload, signature]) == data
    assert message == data.rpartition(b".")[0]
    assert b"." not in header + payload + signature


def test_a_class_of_bytes_or_text_runs_no_code_of_its_own():
    """Subclasses are read by the base types' methods; a lying ``__len__`` does not pass the limit."""

    class Small(bytes):
        def __len__(self) -> int:
            return 1

    with pytest.raises(InvalidToken) as caught:
        jws.parse(Small(b"a" * 10_000))
    assert caught.value.code == Code.TOO_LARGE
    assert jws.parse(Small(forge.token().encode())).header.alg is Algorithm.ES256


@pytest.mark.parametrize("lie", [str, bytes])
def test_an_object_that_lies_about_its_class_is_no_text(lie):
    """What it says that it is does not count, nor what it would run where it is believed."""
    liar = type("Liar", (), {"__class__": property(lambda _: lie)})
    for raw in (liar(), Mock(spec=lie)):
        assert isinstance(raw, lie)
        with pytest.raises(InvalidToken) as caught:
            jws.parse(raw)
        assert caught.value.code == Code.NOT_TEXT


def test_bytes_that_hook_their_own_reading_are_read_as_they_are():
    """Neither conversion, slicing nor the buffer of a subclass is asked."""

    class Hooked(bytes):
        def other(self, *_args):
            raise AssertionError("asked")

        __bytes__ = __buffer__ = __getitem__ = __iter__ = __len__ = decode = rpartition = other

    raw = forge.token().encode()
    message, *_ = jws.split(Hooked(raw))
    assert message == raw.rpartition(b".")[0]
    assert type(message) is bytes


def test_the_public_half_is_found_by_its_thumbprint():
    """A signer's header names the key that it publishes."""
    parts = jws.parse(forge.token())
    assert parts.header.kid == jwk.thumbprint(forge.PUBLIC[Algorithm.ES256].jwk)
