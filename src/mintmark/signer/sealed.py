"""Private keys of mode ``shared``: sealed for the store, and opened again."""

from collections.abc import Sequence

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from mintmark.core import jwk, sealing
from mintmark.core.algorithm import Algorithm
from mintmark.core.jwk import PublicKey, UnusableKey
from mintmark.core.jws import PrivateKeyObject
from mintmark.core.sealing import SealBroken, SealKey, SealKeyUnknown
from mintmark.ports.clock import Entropy
from mintmark.ports.signer import Refusal, SignerRefused
from mintmark.units import Issuer, Kid


class Seals:
    """Seals and opens private keys; ``keys`` are key-encryption keys, of which the first makes new seals.

    A seal holds for one issuer, ``kid`` and algorithm: whoever can write the store can neither make an old
    key pass for a new one nor give one issuer the key of another. Slow for RSA: call it in a thread.
    """

    def __init__(self, keys: Sequence[SealKey], *, entropy: Entropy) -> None:
        if not keys:
            raise ValueError("there is no key-encryption key")
        self._keys = tuple(keys)
        self._entropy = entropy

    def seal(self, private: PrivateKeyObject, *, kid: Kid, issuer: Issuer, alg: Algorithm) -> bytes:
        """``private`` as the store may have it."""
        plain = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return self._seal(plain, sealing.context_of(issuer, kid, alg.value))

    def open(
        self, sealed: bytes, *, kid: Kid, issuer: Issuer, alg: Algorithm
    ) -> tuple[PublicKey, PrivateKeyObject]:
        """The key that was sealed; raises SignerRefused (``no_custody``, ``sealed``)."""
        try:
            private = load_der_private_key(_open(sealed, self._keys, kid, issuer, alg), password=None)
            if not isinstance(
                private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
            ):
                raise SignerRefused(Refusal.SEALED)
            public = jwk.public_key(private.public_key(), alg)
        except (ValueError, TypeError, UnsupportedAlgorithm, UnusableKey):
            raise SignerRefused(Refusal.SEALED) from None
        # The thumbprint says which key this is, whatever the row beside it claims.
        if public.kid != kid:
            raise SignerRefused(Refusal.SEALED)
        return public, private

    def reseal(self, sealed: bytes, *, kid: Kid, issuer: Issuer, alg: Algorithm) -> bytes | None:
        """``sealed`` under the first key-encryption key, None when it is; raises like :meth:`open`."""
        plain = _open(sealed, self._keys, kid, issuer, alg)
        if sealing.is_sealed_with(sealed, self._keys[0]):
            return None
        return self._seal(plain, sealing.context_of(issuer, kid, alg.value))

    def _seal(self, plain: bytes, context: bytes) -> bytes:
        nonce = self._entropy.token_bytes(sealing.NONCE_BYTES)
        return sealing.seal(plain, key=self._keys[0], nonce=nonce, context=context)


def _open(sealed: bytes, keys: Sequence[SealKey], kid: Kid, issuer: Issuer, alg: Algorithm) -> bytes:
    try:
        return sealing.unseal(sealed, keys=keys, context=sealing.context_of(issuer, kid, alg.value))
    except SealKeyUnknown:
        raise SignerRefused(Refusal.NO_CUSTODY) from None
    except SealBroken:
        raise SignerRefused(Refusal.SEALED) from None
