"""Sealing: bytes that only who holds a secret can read or change (AES-256-GCM, NIST SP 800-38D).

There are two kinds. :func:`seal_once` derives a key for one plaintext. :func:`seal` uses a key-encryption key
that seals many: its seals say which key that was, and under which version of the form they were made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mintmark.core import base64url

_KEY_BYTES: Final = 32
_ZERO_NONCE: Final = bytes(12)
_VERSION: Final = b"\x01"
_ID_BYTES: Final = 8
NONCE_BYTES: Final = 12
SEAL_KEY_BYTES: Final = 32


class SealBroken(ValueError):
    """The secret does not fit, or the bytes were changed."""


class SealKeyUnknown(SealBroken):
    """The bytes name a key-encryption key that is none of those that were given."""


@dataclass(frozen=True, slots=True, repr=False)
class SealKey:
    """A key-encryption key as :func:`seal` uses it. ``id`` is public: it is part of every seal."""

    id: bytes
    secret: bytes

    @classmethod
    def from_bytes(cls, secret: bytes) -> "SealKey":
        """The key-encryption key that ``secret`` is: 32 random bytes. Raises ValueError for another size.

        What encrypts and what names it are derived apart (RFC 5869), so the name tells nothing of the key.
        """
        if len(secret) != SEAL_KEY_BYTES:
            raise ValueError(f"a key-encryption key has {SEAL_KEY_BYTES} bytes")
        return cls(
            _derive(secret, b"key-encryption key: id")[:_ID_BYTES], _derive(secret, b"key-encryption key")
        )


def read_seal_key(content: bytes) -> SealKey:
    """The key-encryption key in ``content``: 32 bytes as they are, or text of their base64(url) or hex.

    Raises ValueError, which never repeats the content.
    """
    if len(content) == SEAL_KEY_BYTES:
        return SealKey.from_bytes(content)
    try:
        written = content.decode("ascii").strip()
        if len(written) == 2 * SEAL_KEY_BYTES:
            return SealKey.from_bytes(bytes.fromhex(written))
        return SealKey.from_bytes(base64url.decode(written.rstrip("=").replace("+", "-").replace("/", "_")))
    except ValueError:
        raise ValueError("neither 32 bytes nor their base64 or hex") from None


def seal(plaintext: bytes, *, key: SealKey, nonce: bytes, context: bytes) -> bytes:
    """``plaintext`` under ``key``: version, id of the key, ``nonce``, then what AES-256-GCM makes of it.

    ``nonce`` is 12 random bytes, new for each seal: two plaintexts under one nonce reveal both. ``context``,
    and everything before the ciphertext, is authenticated and has to be the same to open it.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
    head = _VERSION + key.id
    return head + nonce + AESGCM(key.secret).encrypt(nonce, plaintext, head + context)


def unseal(sealed: bytes, *, keys: Sequence[SealKey], context: bytes) -> bytes:
    """What :func:`seal` sealed with one of ``keys``.

    Raises SealKeyUnknown when it was sealed with none of them, SealBroken for anything else that is wrong.
    """
    size = len(_VERSION) + _ID_BYTES
    head, nonce, ciphertext = sealed[:size], sealed[size : size + NONCE_BYTES], sealed[size + NONCE_BYTES :]
    if head[:1] != _VERSION or len(nonce) < NONCE_BYTES:
        raise SealBroken("no seal of a known form")
    for key in keys:
        if key.id == head[1:]:
            try:
                return AESGCM(key.secret).decrypt(nonce, ciphertext, head + context)
            except (InvalidTag, ValueError):
                raise SealBroken("the seal does not open") from None
    raise SealKeyUnknown("sealed with a key-encryption key that is not here")


def is_sealed_with(sealed: bytes, key: SealKey) -> bool:
    """Whether ``sealed`` says that it was sealed with ``key``; opening it proves it."""
    return sealed.startswith(_VERSION + key.id)


def context_of(*parts: str) -> bytes:
    """``parts`` as one context; no two lists of parts give the same one."""
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4) + part for part in encoded)


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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Pepper:
    """What is mixed into the secrets of :func:`seal_once` and stands in no store, so that who has the store
    and one of those secrets still opens nothing."""

    key: bytes = b""
    """With this seals are made; empty where there is none."""
    also: tuple[bytes, ...] = ()
    """What opens seals too, while one key comes or goes. One that was made without any always opens."""

    @staticmethod
    def derive(secret: bytes) -> bytes:
        """The key that the secret of the setting ``cluster_key`` gives for this purpose alone (RFC 5869)."""
        return HKDF(
            algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=b"mintmark cluster_key sessions 1"
        ).derive(secret)

    def seal(self, plaintext: bytes, *, secret: bytes, context: bytes) -> bytes:
        """As :func:`seal_once`; all of ``secret`` must be of one length, or two pairs could be one."""
        return seal_once(plaintext, secret=secret + self.key, context=context)

    def unseal(self, sealed: bytes, *, secret: bytes, context: bytes) -> bytes:
        """What was sealed with any of these keys, or before there was one; raises SealBroken."""
        for key in dict.fromkeys((self.key, *self.also, b"")):
            try:
                return unseal_once(sealed, secret=secret + key, context=context)
            except SealBroken:
                pass
        raise SealBroken("the seal does not open")


UNPEPPERED: Final = Pepper()
"""Nothing is mixed in: the setting ``cluster_key`` has no value."""


def _derive(secret: bytes, context: bytes) -> bytes:
    return HKDF(
        algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=b"mintmark seal 1\x00" + context
    ).derive(secret)
