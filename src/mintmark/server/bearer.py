"""Access tokens that come back to their issuer: whose session is this, and what does it say?"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NewType, cast

import msgspec

from mintmark.core import jws, strict_json
from mintmark.core.jwk import PublicKey, is_thumbprint, parse_jwk
from mintmark.core.jws import Jws
from mintmark.core.key import Key
from mintmark.core.minting import ACCESS_TOKEN_TYP
from mintmark.core.refusal import Code
from mintmark.errors import InvalidToken
from mintmark.server.ring import RingFollower
from mintmark.units import ClientId, Issuer, Jti, Kid, NumericDate, Rid

_ABSENT: Final = "the issuer publishes no such key"

Claims = NewType("Claims", dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ReturnedToken:
    """An access token that this issuer signed with a key that it publishes; nothing else was asked.

    It may have expired, and it may have been revoked. ``claims`` is its whole payload.
    """

    client_id: ClientId
    audience: frozenset[str]
    jti: Jti
    rid: Rid | None
    iat: NumericDate
    exp: NumericDate
    claims: Mapping[str, object]


class BearerTokens:
    """Reads the access tokens of one issuer, with the keys of the ring."""

    def __init__(self, issuer: Issuer, ring: RingFollower) -> None:
        self._issuer = issuer
        self._ring = ring

    async def session_of(self, raw: str) -> Rid:
        """The session of a token that this issuer signed, **expired or revoked as it may be**.

        That is enough to end the session and for nothing else: whoever wants to log out often holds a token
        that has just expired, and what is ended stays ended. Raises InvalidToken; Unavailable where
        the key may be too new for this node.
        """
        parsed, kid, claims = self._parse(raw)
        # Who hears that his token is none takes himself for logged out.
        _verify(parsed, self._ring.find(kid) or await self._published(kid))
        rid = claims.get("rid")
        if type(rid) is not str:
            raise InvalidToken(Code.MISSING_CLAIM, "the token belongs to no session")
        return Rid(rid)

    async def read(self, raw: str) -> ReturnedToken:
        """The token that ``raw`` is, by the keys as the store has them now: a revoked key made none.

        Raises InvalidToken for what this issuer did not sign as an access token, and Unavailable.
        """
        parsed, kid, claims = self._parse(raw)
        # Whoever is believed at once elsewhere, because a key cannot yet be known, would be refused here for
        # good. So the ring is read now, and what was read is used, whatever another task reads meanwhile.
        _verify(parsed, await self._published(kid))
        return _returned(claims)

    async def _published(self, kid: Kid) -> Key | None:
        """The key of that name, if the store has one now that is published."""
        found = (await self._ring.refresh()).ring.find(kid)
        return found if found is not None and found.is_published() else None

    def _parse(self, raw: str) -> tuple[Jws, Kid, Claims]:
        """``raw`` in its parts, unverified, if it claims to be an access token of this issuer."""
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
        return parsed, kid, claims


def _verify(parsed: Jws, found: Key | None) -> None:
    if found is None:
        raise InvalidToken(Code.UNKNOWN_KID, _ABSENT)
    key = _key(found.jwk)
    if key.alg is not parsed.header.alg:
        raise InvalidToken(Code.ALG_MISMATCH, "the key is for another algorithm than the header names")
    jws.verify(key, parsed.signing_input, parsed.signature)


def _returned(claims: Claims) -> ReturnedToken:
    """What was signed; every token that we mint has these claims, each of its type."""
    aud = claims.get("aud")
    audience = [aud] if type(aud) is str else aud
    texts = (claims.get("sub"), claims.get("client_id"), claims.get("jti"), claims.get("rid", ""))
    times = (claims.get("iat"), claims.get("exp"))
    if (
        not all(type(text) is str for text in texts)
        or not all(type(time) is int for time in times)
        or type(audience) is not list
        or not all(type(one) is str for one in audience)
    ):
        raise InvalidToken(Code.BAD_CLAIM, "a claim is missing, or has the wrong type")
    return ReturnedToken(
        client_id=cast("ClientId", claims["client_id"]),
        audience=frozenset(audience),
        jti=cast("Jti", claims["jti"]),
        rid=cast("Rid | None", claims.get("rid")),
        iat=cast("NumericDate", claims["iat"]),
        exp=cast("NumericDate", claims["exp"]),
        claims=claims,
    )


def _claims(payload: bytes) -> Claims:
    try:
        claims = strict_json.decode(payload)
    except strict_json.NotStrictJson:
        claims = None
    if not isinstance(claims, dict):
        raise InvalidToken(Code.BAD_PAYLOAD, "the payload is not one strict JSON object")
    return Claims(claims)


# Loading an RSA key costs as much as many verifications; a ring has few keys.
@lru_cache(maxsize=64)
def _key(jwk: bytes) -> PublicKey:
    return parse_jwk(msgspec.json.decode(jwk))
