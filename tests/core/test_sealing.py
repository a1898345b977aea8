"""Seals: what opens them, and what does not."""

import base64

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mintmark.core import sealing
from mintmark.core.mark import MarkKey
from mintmark.core.sealing import (
    UNPEPPERED,
    Pepper,
    SealBroken,
    SealKey,
    SealKeyUnknown,
    read_seal_key,
    seal,
    seal_once,
    unseal,
    unseal_once,
)

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


# --- under a key-encryption key ------------------------------------------------------------------------

KEK, OLD = SealKey.from_bytes(b"k" * 32), SealKey.from_bytes(b"o" * 32)
NONCE = b"n" * 12
SEALED = seal(PLAIN, key=KEK, nonce=NONCE, context=CONTEXT)


@given(st.binary(), st.binary(min_size=32, max_size=32), st.binary(min_size=12, max_size=12), st.binary())
def test_what_is_sealed_opens_with_any_ring_that_has_its_key(plain, secret, nonce, context):
    """Whichever place its key has among those that are given, a seal opens to what was sealed."""
    key = SealKey.from_bytes(secret)
    sealed = seal(plain, key=key, nonce=nonce, context=context)
    for keys in ([key], [OLD, key], [key, OLD]):
        assert unseal(sealed, keys=keys, context=context) == plain


def test_seal_is_version_id_nonce_and_aes_gcm():
    """SP 800-38D: what comes before the ciphertext is authenticated with the context, and derived apart."""

    def derived(info: bytes) -> bytes:
        kdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"mintmark seal 1\x00" + info)
        return kdf.derive(b"k" * 32)

    head = b"\x01" + derived(b"key-encryption key: id")[:8]
    box = AESGCM(derived(b"key-encryption key")).encrypt(NONCE, PLAIN, head + CONTEXT)
    assert head + NONCE + box == SEALED


def test_other_key_and_broken_seal_are_told_apart():
    """A key that is missing is a matter of settings; anything else was changed or never sealed."""
    with pytest.raises(SealKeyUnknown):
        unseal(SEALED, keys=[OLD], context=CONTEXT)
    with pytest.raises(SealKeyUnknown):
        unseal(SEALED, keys=[], context=CONTEXT)
    with pytest.raises(SealBroken) as broken:
        unseal(SEALED, keys=[KEK], context=CONTEXT + b"x")
    assert type(broken.value) is SealBroken


def test_key_that_only_claims_the_id_opens_nothing():
    """The id chooses a key and proves nothing: with another secret behind it the seal is broken."""
    with pytest.raises(SealBroken) as broken:
        unseal(SEALED, keys=[SealKey(KEK.id, OLD.secret)], context=CONTEXT)
    assert type(broken.value) is SealBroken


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_any_changed_byte_breaks_it(place: int, change: int):
    """Version, id, nonce, ciphertext and tag: each byte counts."""
    changed = bytearray(SEALED)
    changed[place] ^= change
    with pytest.raises(SealBroken):
        unseal(bytes(changed), keys=[KEK, OLD], context=CONTEXT)


@given(st.integers(0, len(SEALED) - 1), st.binary(min_size=1, max_size=3))
def test_cut_or_lengthened_seal_breaks(length: int, more: bytes):
    """Nothing shorter or longer opens, however short."""
    for other in (SEALED[:length], SEALED + more):
        with pytest.raises(SealBroken):
            unseal(other, keys=[KEK, OLD], context=CONTEXT)


@given(st.binary(max_size=80))
def test_bytes_that_nobody_sealed_break(sealed: bytes):
    """Whatever stands in a row gives SealBroken, and no other error."""
    with pytest.raises(SealBroken):
        unseal(sealed, keys=[KEK, OLD], context=CONTEXT)
    with pytest.raises(SealBroken):
        unseal(b"\x01" + KEK.id + sealed, keys=[KEK, OLD], context=CONTEXT)


def test_seal_says_which_key_it_is_under():
    """It can be told without opening it whether a seal is to be made anew."""
    assert sealing.is_sealed_with(SEALED, KEK)
    assert not sealing.is_sealed_with(SEALED, OLD)


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_no_two_contexts_are_the_same(parts: list[str], others: list[str]):
    """What is in one part cannot pass for the end of it and the beginning of the next."""
    assert (sealing.context_of(*parts) == sealing.context_of(*others)) == (parts == others)


@given(st.binary(min_size=32, max_size=32))
def test_key_is_read_in_every_form_that_programs_write(secret: bytes):
    """Bytes, hex, base64 and base64url, padded or not, with the newline that an editor adds."""
    standard, url = base64.b64encode(secret), base64.urlsafe_b64encode(secret)
    written = [secret.hex().encode(), secret.hex().upper().encode(), standard, url, standard.rstrip(b"=")]
    for content in (secret, *written, *(text + b"\r\n" for text in written)):
        assert read_seal_key(content) == SealKey.from_bytes(secret)


@given(st.binary(max_size=100).filter(lambda content: len(content) != 32))
@example(b"c" * 42)
@example(b"not base64! " * 4)
@example(b"g" * 64)
def test_content_of_another_form_is_refused_and_not_repeated(content: bytes):
    """LG2: no key is made of too few bytes, and the error has nothing of what was read."""
    assume(len(content.strip().rstrip(b"=")) != 43)
    with pytest.raises(ValueError, match="neither 32 bytes nor their base64 or hex") as refused:
        read_seal_key(content)
    assert refused.value.__cause__ is None


def test_key_shows_nothing():
    """LG2: neither form of it has the secret in its repr."""
    assert "k" * 8 not in repr(KEK)
    assert KEK.secret.hex() not in repr(KEK)


@given(st.binary(min_size=16), st.binary(min_size=16))
def test_a_pepper_opens_what_it_sealed_and_what_was_sealed_without_one(first: bytes, second: bytes):
    """What it is given opens, what was made without any too, and nothing else does."""
    assume(first != second)
    ours, theirs = (Pepper(key=Pepper.derive(each)) for each in (first, second))
    both = Pepper(key=ours.key, also=(theirs.key,))
    seals = {each: each.seal(PLAIN, secret=SECRET, context=CONTEXT) for each in (UNPEPPERED, ours, theirs)}
    assert len(set(seals.values())) == 3
    for opening, opened in (
        (UNPEPPERED, [UNPEPPERED]),
        (ours, [UNPEPPERED, ours]),
        (theirs, [UNPEPPERED, theirs]),
        (both, [UNPEPPERED, ours, theirs]),
    ):
        for made, sealed in seals.items():
            if made in opened:
                assert opening.unseal(sealed, secret=SECRET, context=CONTEXT) == PLAIN
            else:
                with pytest.raises(SealBroken):
                    opening.unseal(sealed, secret=SECRET, context=CONTEXT)


def test_the_key_of_a_pepper_is_derived_for_it_alone():
    """RFC 5869: the secret that marks rows gives another key here, so that one tells nothing of the other."""
    secret = b"k" * 32
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"mintmark cluster_key sessions 1")
    assert Pepper.derive(secret) == derived.derive(secret)
    assert Pepper.derive(secret) not in (secret, MarkKey.from_bytes(secret).derived)


def test_a_pepper_is_not_shown():
    """Nothing that prints one prints its key."""
    assert "secret" not in repr([Pepper(key=b"secret", also=(b"secret",))])
