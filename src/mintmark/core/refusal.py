"""Why a verifier refuses: every stable code, its answer and its meaning, in one table.

The reference page and the tests are derived from :data:`FACTS`; nothing else lists the codes.
A code is never renamed or reused: callers log, count and match them.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple


class Code(StrEnum):
    """The first check that failed, in the order in which checks are made."""

    # 1 to 3: the form of the token.
    NOT_TEXT = "not_text"
    TOO_LARGE = "too_large"
    NOT_COMPACT = "not_compact"
    NOT_BASE64URL = "not_base64url"
    BAD_HEADER = "bad_header"
    # 4: what the header asks for.
    ALG_NOT_ALLOWED = "alg_not_allowed"
    TYP_NOT_ALLOWED = "typ_not_allowed"
    FORBIDDEN_HEADER = "forbidden_header"
    BAD_KID = "bad_kid"
    # 5 to 7: what needs no key.
    BAD_PAYLOAD = "bad_payload"
    MISSING_CLAIM = "missing_claim"
    BAD_CLAIM = "bad_claim"
    UNKNOWN_ISSUER = "unknown_issuer"
    WRONG_AUDIENCE = "wrong_audience"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    # 8 and 9: the key and the signature.
    UNKNOWN_KID = "unknown_kid"
    ALG_MISMATCH = "alg_mismatch"
    BAD_SIGNATURE = "bad_signature"
    # 10 to 13: what a signed token says.
    ISSUED_IN_FUTURE = "issued_in_future"
    LIFETIME_TOO_LONG = "lifetime_too_long"
    NOT_ACCESS_TOKEN = "not_access_token"  # noqa: S105
    SENDER_CONSTRAINED = "sender_constrained"
    REVOKED = "revoked"
    REVOCATION_STALE = "revocation_stale"
    INSUFFICIENT_SCOPE = "insufficient_scope"


class Fact(NamedTuple):
    """One line of the table: the step of the order of checks, the HTTP status, what it means."""

    step: int
    status: int
    meaning: str


FACTS: Final[Mapping[Code, Fact]] = MappingProxyType(
    {
        Code.NOT_TEXT: Fact(1, 401, "not text, or text outside ASCII"),
        Code.TOO_LARGE: Fact(1, 401, "longer than the limit, 8 KiB unless set otherwise"),
        Code.NOT_COMPACT: Fact(1, 401, "not three parts with a dot between them (a JWE has five, JSON none)"),
        Code.NOT_BASE64URL: Fact(2, 401, "a part has padding, a stray character or a second spelling"),
        Code.BAD_HEADER: Fact(3, 401, "the header is not one strict JSON object"),
        Code.ALG_NOT_ALLOWED: Fact(4, 401, "alg is missing, unknown, or not allowed for the issuer"),
        Code.TYP_NOT_ALLOWED: Fact(4, 401, "typ is not an access token's"),
        Code.FORBIDDEN_HEADER: Fact(4, 401, "the header brings a key, an extension or an encoding"),
        Code.BAD_KID: Fact(4, 401, "kid is not 1 to 128 printable ASCII characters"),
        Code.BAD_PAYLOAD: Fact(5, 401, "the payload is not one strict JSON object"),
        Code.UNKNOWN_ISSUER: Fact(6, 401, "iss is not exactly a configured issuer"),
        Code.MISSING_CLAIM: Fact(7, 401, "a required claim is absent (also found in step 10)"),
        Code.BAD_CLAIM: Fact(7, 401, "a claim has the wrong type (also found in steps 6 and 10)"),
        Code.WRONG_AUDIENCE: Fact(7, 401, "aud names no audience of this service"),
        Code.EXPIRED: Fact(7, 401, "exp has passed, leeway included"),
        Code.NOT_YET_VALID: Fact(7, 401, "nbf has not come, leeway included"),
        Code.UNKNOWN_KID: Fact(8, 401, "the issuer publishes no such key"),
        Code.ALG_MISMATCH: Fact(8, 401, "the key is for another algorithm than the header names"),
        Code.BAD_SIGNATURE: Fact(9, 401, "the signature is not the key's, or has the wrong form"),
        Code.ISSUED_IN_FUTURE: Fact(10, 401, "iat is later than now, leeway included"),
        Code.LIFETIME_TOO_LONG: Fact(10, 401, "exp is further from iat than allowed, or before it"),
        Code.NOT_ACCESS_TOKEN: Fact(10, 401, "an ID, refresh or logout token in an access token's place"),
        Code.SENDER_CONSTRAINED: Fact(11, 401, "cnf binds the token to a key, and a bearer cannot prove it"),
        Code.REVOKED: Fact(12, 401, "the token, its session, key or client was revoked"),
        Code.REVOCATION_STALE: Fact(12, 503, "revocations are too old to judge this token by"),
        Code.INSUFFICIENT_SCOPE: Fact(13, 403, "a good token that lacks a scope"),
    }
)
