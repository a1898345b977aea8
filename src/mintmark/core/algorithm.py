"""The four signature algorithms that exist here (RFC 7518 s.3.1, RFC 8037 s.3.1).

There is no ``none`` and no HS*: a verifier that knows no symmetric algorithm cannot be talked into
using a public key as its secret (RFC 8725 s.3.1).
"""

from enum import StrEnum


class Algorithm(StrEnum):
    """A value of ``alg``, compared with its exact case."""

    RS256 = "RS256"
    PS256 = "PS256"
    ES256 = "ES256"
    EDDSA = "EdDSA"
