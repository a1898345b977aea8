"""Seals: what opens them, and what does not."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from mintmark.core.sealing import SealBroken, seal_once, unseal_once

SECRET, CONTEXT, PLAIN = b"s" * 64, b"context", b"p" * 32


@given(st.binary(), st.binary(min_size=1), st.binary())
def test_who_has_secret_and_context_reads_what_was_sealed(plaintext: bytes, secret: bytes, context: bytes):
    """A seal opens to exactly what was sealed, and the same call seals to the same bytes."""
    sealed = seal_once(plaintext, secret=secret, context=context)
    assert unseal_once(sealed, secret=secret, context=context) == plaintext
    assert sealed == seal_once(plaintext, secret=secret, context=context)


def test_a_seal_is_hkdf_and_aes_gcm():
    """RFC 5869, SP 800-38D: 256 bits from secret and context, one zero nonce, the context authenticated."""
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"mintmark seal 1\x00" + CONTEXT)
    expected = AESGCM(derived.derive(SECRET)).encrypt(bytes(12), PLAIN, CONTEXT)
    assert seal_once(PLAIN, secret=SECRET, context=CONTEXT) == expected
    assert len(expected) == len(PLAIN) + 16


def test_another_secret_or_context_opens_nothing():
    """The key depends on both, and so does the tag."""
    sealed = seal_once(PLAIN, secret=SECRET, context=CONTEXT)
    for secret, context in ((SECRET[:-1], CONTEXT), (SECRET + b"\0", CONTEXT), (SECRET, b"contexs")):
        with pytest.raises(SealBroken):
            unseal_once(sealed, secret=secret, context=context)


@given(st.integers(0, len(PLAIN) + 15), st.integers(1, 255))
def test_a_single_changed_byte_breaks_the_seal(place: int, change: int):
    """Not a byte of ciphertext or tag can be changed."""
    sealed = bytearray(seal_once(PLAIN, secret=SECRET, context=CONTEXT))
    sealed[place] ^= change
    with pytest.raises(SealBroken):
        unseal_once(bytes(sealed), secret=SECRET, context=CONTEXT)


@given(st.binary(max_size=64))
def test_bytes_that_were_never_sealed_break(sealed: bytes):
    """Short, empty or invented bytes give SealBroken, and no other error."""
    with pytest.raises(SealBroken):
        unseal_once(sealed, secret=SECRET, context=CONTEXT)


def test_a_broken_seal_says_nothing():
    """The error holds neither secret nor plaintext, and no cause that might."""
    with pytest.raises(SealBroken) as caught:
        unseal_once(b"x" * 40, secret=SECRET, context=CONTEXT)
    assert str(caught.value) == "the seal does not open"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
