"""Signing keys for tests, made with the crypto library alone: an oracle beside the code under test."""

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

Alg = Literal["RS256", "PS256", "ES256", "EdDSA"]


def encode(octets: bytes) -> str:
    """``octets`` in base64url without padding (RFC 7515 s.2)."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key with its public JWK; ``kid`` is the RFC 7638 thumbprint."""

    alg: Alg
    kid: str
    public_jwk: dict[str, Any]
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

    @classmethod
    def generate(cls, alg: Alg = "ES256") -> Self:
        """A fresh key for ``alg``: RSA of 2048 bits, P-256 or Ed25519."""
        private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
        members: dict[str, str]
        match alg:
            case "RS256" | "PS256":
                private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
                numbers = private.public_key().public_numbers()
                members = {"kty": "RSA", "n": _integer(numbers.n), "e": _integer(numbers.e)}
            case "ES256":
                private = ec.generate_private_key(ec.SECP256R1())
                point = private.public_key().public_numbers()
                members = {
                    "kty": "EC",
                    "crv": "P-256",
                    "x": encode(point.x.to_bytes(32, "big")),
                    "y": encode(point.y.to_bytes(32, "big")),
                }
            case _:
                private = ed25519.Ed25519PrivateKey.generate()
                members = {
                    "kty": "OKP",
                    "crv": "Ed25519",
                    "x": encode(private.public_key().public_bytes_raw()),
                }
        canonical = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
        kid = encode(hashlib.sha256(canonical).digest())
        return cls(
            alg=alg, kid=kid, public_jwk=members | {"kid": kid, "alg": alg, "use": "sig"}, private=private
        )

    def sign(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        """``header`` and ``claims`` as a compact JWS (RFC 7515 s.3.1), whatever they say."""
        parts = [encode(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims)]
        signed = ".".join(parts).encode()
        return f"{signed.decode()}.{encode(self.signature(signed))}"

    def signature(self, signed: bytes) -> bytes:
        """The raw signature of ``signed`` (RFC 7518 s.3, RFC 8037 s.3.1)."""
        match self.private:
            case rsa.RSAPrivateKey() as key if self.alg == "PS256":
                pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
                return key.sign(signed, pss, hashes.SHA256())
            case rsa.RSAPrivateKey() as key:
                return key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
            case ec.EllipticCurvePrivateKey() as key:
                r, s = utils.decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
                return r.to_bytes(32, "big") + s.to_bytes(32, "big")
            case ed25519.Ed25519PrivateKey() as key:
                return key.sign(signed)


def _integer(number: int) -> str:
    return encode(number.to_bytes((number.bit_length() + 7) // 8, "big"))
