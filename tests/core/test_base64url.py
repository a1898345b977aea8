"""base64url has one spelling for each value."""

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.core import base64url
from mintmark.errors import MintmarkError

ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def reference(text: bytes) -> bytes | None:
    """What the text spells, from the definition and the standard library; None if it spells nothing."""
    if re.fullmatch(rb"[A-Za-z0-9_-]*", text) is None or len(text) % 4 == 1:
        return None
    data = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    return data if base64.urlsafe_b64encode(data).rstrip(b"=") == text else None


def decoded(text: str | bytes) -> bytes | None:
    try:
        return base64url.decode(text)
    except base64url.NotBase64url:
        return None


def pair_or_none(first: bytes, second: bytes) -> tuple[bytes, bytes] | None:
    try:
        return base64url.decode_both(first, second)
    except base64url.NotBase64url:
        return None


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"f", "Zg"),
        (b"fo", "Zm8"),
        (b"foo", "Zm9v"),
        (b"foob", "Zm9vYg"),
        (b"fooba", "Zm9vYmE"),
        (b"foobar", "Zm9vYmFy"),
        (bytes([3, 236, 255, 224, 193]), "A-z_4ME"),
    ],
)
def test_rfc_vectors_in_both_directions(data, text):
    """RFC 4648 s.10 (without padding) and RFC 7515 Appendix C encode and decode as printed."""
    assert base64url.encode(data) == text
    assert base64url.decode(text) == data
    assert base64url.decode(text.encode()) == data


@given(st.binary(max_size=300))
def test_decode_inverts_encode(data):
    """What was encoded decodes to itself, as text and as bytes."""
    text = base64url.encode(data)
    assert base64url.decode(text) == data
    assert base64url.decode(text.encode()) == data
    assert "=" not in text


TEXTS = st.one_of(
    st.binary(max_size=80),
    st.text(alphabet="AQgw-_+/= \n", max_size=80).map(str.encode),
    st.binary(max_size=80).map(lambda data: base64url.encode(data).encode()),
)


@given(TEXTS)
def test_any_bytes_agree_with_the_definition(text):
    """The decoder accepts a text exactly when the definition does, and gives the same bytes."""
    assert decoded(text) == reference(text)


@given(TEXTS, TEXTS)
def test_two_at_once_are_two_one_by_one(first, second):
    """Decoding two texts in one call gives what two calls give, and refuses if either does."""
    expected = (reference(first), reference(second))
    try:
        both = base64url.decode_both(first, second)
    except base64url.NotBase64url:
        assert None in expected
    else:
        assert both == expected


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 16, 31, 32, 43, 63, 64, 65, 86, 127, 128, 130, 342])
def test_every_byte_at_every_position(length):
    """VF9: at no position of any length does a byte outside the alphabet pass, in vector code neither."""
    body = bytes(ALPHABET[i % 64] for i in range(length - 1)) + b"A"
    if len(body) % 4 == 1:
        assert decoded(body) is None
        body += b"A"
    positions = range(len(body)) if len(body) < 70 else [0, 1, 2, 3, 15, 31, 32, 33, 63, 64, 65, -3, -2, -1]
    for position in positions:
        for byte in range(256):
            text = bytearray(body)
            text[position] = byte
            expected = reference(bytes(text))
            assert decoded(bytes(text)) == expected, (position, byte)
            for pair in ((bytes(text), b"AA"), (b"AA", bytes(text))):
                assert (pair_or_none(*pair) is None) is (expected is None), (position, byte)


@pytest.mark.parametrize(
    "text", ["Zg\u0130", "Zm9\u00e9", "\ud800AAA", "\uff21bcd", "Zm9v\x00", "Zm9v\n", "Zm9v="]
)
def test_text_outside_the_alphabet_is_refused(text):
    """Text that is not ASCII, and ASCII that is not of the alphabet, raise our own error alone."""
    with pytest.raises(base64url.NotBase64url) as caught:
        base64url.decode(text)
    assert isinstance(caught.value, MintmarkError)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_one_value_has_one_spelling():
    """Of the 64 last characters that decode leniently to the same byte, only one is accepted."""
    assert [c for c in ALPHABET.decode() if decoded("Q" + c) is not None] == list("AQgw")
