"""Access tokens that come back to their issuer: whose session is this?"""

from functools import lru_cache
from typing import Final

import msgspec

from mintmark.core import jws, strict_json
from mintmark.core.jwk import PublicKey, is_thumbprint, parse_jwk
from mintmark.core.minting import ACCESS_TOKEN_TYP
from mintmark.core.refusal import Code
from mintmark.errors import InvalidToken
from mintmark.server.ring import RingFollower
from mintmark.units import Issuer, Rid

_ABSENT: Final = "the issuer publishes no such key"


class BearerTokens:
    """Reads the access tokens of one issuer, with the keys of the ring."""

    def __init__(self, issuer: Issuer, ring: RingFollower) -> None:
        self._issuer = issuer
        self._ring = ring

    def session_of(self, raw: str) -> Rid:
        """The session of a token that this issuer signed, **expired or revoked as it may be**.

        That is enough to end the session and for nothing else: whoever wants to log out often holds a token
        that has just expired, and what is ended stays ended. Raises InvalidToken; NotReady where the
        key may be too new for this node.
        """
        parsed = jws.parse(raw)
        kid = parsed.header.kid
        # RFC 8725 s.3.11: an ID token must not pass for an access token.
        if parsed.header.typ != ACCESS_TOKEN_TYP:
            raise InvalidToken(Code.TYP_NOT_ALLOWED, "typ is not an access token's")
        if kid is None or not is_thumbprint(kid):
            raise InvalidToken(Code.UNKNOWN_KID, _ABSENT)
        claims = _claims(parsed.payload)
        if claims.get("iss") != self._issuer:
            raise InvalidToken(Code.UNKNOWN_ISSUER, "iss is not this issuer")
        found = self._ring.find(kid)
        if found is None:
            raise InvalidToken(Code.UNKNOWN_KID, _ABSENT)
        key = _key(found.jwk)
        if key.alg is not parsed.header.alg:
            raise InvalidToken(Code.ALG_MISMATCH, "the key is for another algorithm than the header names")
        jws.verify(key, parsed.signing_input, parsed.signature)
        rid = claims.get("rid")
        if type(rid) is not str:
            raise InvalidToken(Code.MISSING_CLAIM, "the token belongs to no session")
        return Rid(rid)


def _claims(payload: bytes) -> dict[str, object]:
    try:
        claims = strict_json.decode(payload)
    except strict_json.NotStrictJson:
        claims = None
    if not isinstance(claims, dict):
        raise InvalidToken(Code.BAD_PAYLOAD, "the payload is not one strict JSON object")
    return claims


# Loading an RSA key costs as much as many verifications; a ring has few keys.
@lru_cache(maxsize=64)
def _key(jwk: bytes) -> PublicKey:
    return parse_jwk(msgspec.json.decode(jwk))
