"""Sealing: bytes that only who holds a secret can read or change (AES-256-GCM, NIST SP 800-38D)."""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_KEY_BYTES: Final = 32
_ZERO_NONCE: Final = bytes(12)


class SealBroken(ValueError):
    """The secret does not fit, or the bytes were changed."""


def seal_once(plaintext: bytes, *, secret: bytes, context: bytes) -> bytes:
    """``plaintext`` sealed under a key that is derived from ``secret`` and ``context`` (RFC 5869).

    That key must never seal two different plaintexts: the nonce is fixed, so the same call gives the same
    bytes, and a second plaintext under it would reveal both.
    """
    return AESGCM(_derive(secret, context)).encrypt(_ZERO_NONCE, plaintext, context)


def unseal_once(sealed: bytes, *, secret: bytes, context: bytes) -> bytes:
    """What :func:`seal_once` sealed; raises SealBroken for another secret, context or bytes."""
    try:
        return AESGCM(_derive(secret, context)).decrypt(_ZERO_NONCE, sealed, context)
    except (InvalidTag, ValueError):
        raise SealBroken("the seal does not open") from None


def _derive(secret: bytes, context: bytes) -> bytes:
    return HKDF(
        algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=b"mintmark seal 1\x00" + context
    ).derive(secret)
