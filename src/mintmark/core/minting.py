"""What goes into an access token: from who asked for what to the exact bytes that are signed.

An access token is an RFC 9068 JWT. Its payload is planned here, once, with all its times in it, and
only then signed elsewhere: ``iat`` and ``exp`` are fixed *before* the store's redeeming commit, so the
session's row can keep ``last_exp``, the latest time at which one of its tokens is still good. A payload
planned after the commit could outlive the revocation that a logout wrote in between.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from mintmark.core import base64url, strict_json
from mintmark.errors import ConfigurationError
from mintmark.units import ClientId, Issuer, Jti, NumericDate, Rid, Seconds, Sub

ACCESS_TOKEN_TYP: Final = "at+jwt"  # noqa: S105 - a media type
"""The header's ``typ`` (RFC 9068 s.2.1); an ID token's is ``JWT``, so neither passes for the other."""

BACKDATED: Final = Seconds(5)
"""How far ``iat`` lies in the past: PyJWT refuses a token issued one second ahead of its own clock."""

ID_BYTES: Final = 16
JITTER_BYTES: Final = 8
RANDOM_BYTES: Final = ID_BYTES + JITTER_BYTES
"""How many random bytes :func:`plan` wants: a ``jti`` of 128 bits, and the jitter's."""

JITTER_DIVISOR: Final = 20
"""Jitter takes off at most one twentieth (5 %) of the life."""

MAX_PAYLOAD: Final = 5632
"""Bytes. With header and the signature of a 3072-bit key the token stays under the 8 KiB at which
verifiers stop reading."""

RESERVED: Final = frozenset(
    {
        "iss", "sub", "aud", "client_id", "exp", "iat", "nbf", "jti", "scope", "rid", "auth_time", "amr",
        "acr", "cnf", "act", "may_act",
    }
)  # fmt: skip
"""Claims that only this module sets, or that would give a token a meaning that it has not."""

# RFC 6749 s.3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E ).
_SCOPE_TOKEN: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """Who gets an access token for what; everything that a caller has already checked.

    ``extra`` holds the deployer's own claims, JSON values under names that are not :data:`RESERVED`.
    """

    iss: Issuer
    sub: Sub
    client_id: ClientId
    aud: tuple[str, ...]
    scope: tuple[str, ...] = ()
    rid: Rid | None = None
    auth_time: NumericDate | None = None
    amr: tuple[str, ...] = ()
    acr: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Minting:
    """A planned token: the bytes to sign, and what the session's row keeps of them."""

    payload: bytes = field(repr=False)
    exp: NumericDate
    iat: NumericDate
    jti: Jti


def random_id(random: bytes) -> str:
    """22 characters of base64url that name one thing: the form of every ``jti`` and ``rid``."""
    if len(random) != ID_BYTES:
        raise ValueError(f"an id is made of {ID_BYTES} random bytes, not {len(random)}")
    return base64url.encode(random)


def expiry(now: NumericDate, ttl: Seconds, jitter: bytes) -> NumericDate:
    """When a token minted at ``now`` ends: ``now + ttl``, less up to 5 % of ``ttl``, by ``jitter``.

    Jitter spreads the refreshes of clients that logged in together. It only shortens: what is promised
    about ``access_ttl`` (how long a key stays published, how long a revocation is kept) stays true.
    """
    if ttl <= 0:
        raise ValueError("a token's life is at least one second")
    if len(jitter) != JITTER_BYTES:
        raise ValueError(f"jitter takes {JITTER_BYTES} random bytes, not {len(jitter)}")
    steps = ttl // JITTER_DIVISOR + 1
    # A multiplication and a shift map 64 bits evenly enough onto 0 … ttl // 20, without a float.
    return NumericDate(now + ttl - (int.from_bytes(jitter) * steps >> 8 * JITTER_BYTES))


def plan(request: TokenRequest, *, now: NumericDate, ttl: Seconds, random: bytes) -> Minting:
    """The payload of one access token (RFC 9068 s.2.2), with ``iat`` and ``exp`` fixed.

    ``ttl`` is the issuer's ``access_ttl``; ``random`` is :data:`RANDOM_BYTES` fresh bytes. ``aud`` is
    text when there is one audience and a list when there are more; ``scope`` is left out when empty
    (RFC 6749 s.3.3 has no empty scope). Call it before the commit that redeems a refresh token.

    Raises ConfigurationError when a claim of ``extra`` is reserved, is not JSON that every verifier
    reads alike, or makes the token larger than verifiers accept; ValueError for a request without an
    audience or with a scope that is none.
    """
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"a token takes {RANDOM_BYTES} random bytes, not {len(random)}")
    if not request.aud:
        raise ValueError("an access token names its audience")
    for token in request.scope:
        if _SCOPE_TOKEN.fullmatch(token) is None:
            raise ValueError("a scope is printable ASCII without spaces, quotes and backslashes")
    jti = Jti(random_id(random[:ID_BYTES]))
    iat = NumericDate(now - BACKDATED)
    exp = expiry(now, ttl, random[ID_BYTES:])
    claims: dict[str, Any] = {
        "iss": request.iss,
        "sub": request.sub,
        "aud": request.aud[0] if len(request.aud) == 1 else request.aud,
        "client_id": request.client_id,
        "exp": exp,
        "iat": iat,
        "jti": jti,
    }
    if request.scope:
        claims["scope"] = " ".join(request.scope)
    if request.rid is not None:
        claims["rid"] = request.rid
    if request.auth_time is not None:
        claims["auth_time"] = request.auth_time
    if request.amr:
        claims["amr"] = request.amr
    if request.acr is not None:
        claims["acr"] = request.acr
    if request.extra:
        _refuse_ambiguous(request.extra)
        claims.update(request.extra)
    payload = _encode(claims)
    if len(payload) > MAX_PAYLOAD:
        raise ConfigurationError("claims", f"the token's claims take {len(payload)} bytes of {MAX_PAYLOAD}")
    return Minting(payload, exp, iat, jti)


def _refuse_ambiguous(extra: Mapping[str, Any]) -> None:
    """Refuse claims that are not ours to overwrite, or that would reach a verifier as something else.

    Encoding turns NaN into null without a word, and an integer beyond 64 bits is another number to every
    parser that reads numbers as doubles: what comes back must be what went in.
    """
    reserved = sorted(RESERVED.intersection(extra))
    if reserved:
        raise ConfigurationError(f"claims.{reserved[0]}", "this claim is the issuer's own")
    try:
        same = strict_json.decode(_encode(extra)) == msgspec.to_builtins(extra, str_keys=True)
    except (strict_json.NotStrictJson, TypeError, ValueError, OverflowError, RecursionError):
        same = False
    if not same:
        raise ConfigurationError("claims", "the extra claims are not JSON that every verifier reads alike")
