"""An access token's claims, typed (RFC 9068 s.2.2, RFC 7519 s.4.1).

A claim of the wrong type is invalid and never "absent": a verifier that shrugs at ``"exp": "soon"``
has accepted a token that does not expire.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from mintmark.core.policy import Policy, Profile
from mintmark.core.refusal import Code
from mintmark.errors import InvalidToken
from mintmark.units import ClientId, Issuer, Jti, Kid, NumericDate, Rid, Sub

T = TypeVar("T")

_NO_SCOPES: Final[frozenset[str]] = frozenset()
_NO_WORD: Final = frozenset({""})
_REMEMBERED: Final = 512
_LONGEST_REMEMBERED: Final = 256


class Revocation(StrEnum):
    """What is known about a token's revocation."""

    CHECKED = "checked"
    """The issuer's feed is live, and has not revoked it."""
    STALE = "stale"
    """The feed is behind; nothing that it had reported revokes it."""
    UNSUPPORTED = "unsupported"
    """The issuer has no feed: the token is good until ``exp``."""


class AccessToken(msgspec.Struct, frozen=True, gc=False):
    """A verified access token.

    Times are NumericDates. ``client_id`` and ``jti`` are None only under the profile ``jwt``. ``aud``
    holds what the audience claim held. ``claims`` is the whole payload, read-only at its top level;
    what is nested in it belongs to this token alone and should not be changed.
    """

    # gc=False: a frozen value made of JSON is in no cycle, so the collector need not visit it.

    iss: Issuer
    sub: Sub
    aud: tuple[str, ...]
    client_id: ClientId | None
    exp: NumericDate
    iat: NumericDate
    jti: Jti | None
    scopes: frozenset[str]
    rid: Rid | None
    auth_time: NumericDate | None
    amr: tuple[str, ...]
    acr: str | None
    nbf: NumericDate | None
    kid: Kid
    revocation: Revocation
    claims: Mapping[str, Any]

    def __repr__(self) -> str:
        """Enough to find the token in a log, and nothing of what it says about a person."""
        return (
            f"AccessToken(iss={self.iss!r}, client_id={self.client_id!r}, jti={self.jti!r}, exp={self.exp})"
        )


def refuse_claim(claims: Mapping[str, Any], name: str) -> NoReturn:
    """Raise InvalidToken for the claim ``name``: ``missing_claim`` or ``bad_claim``."""
    if name in claims:
        raise InvalidToken(Code.BAD_CLAIM, f"the claim {name} has the wrong type")
    raise InvalidToken(Code.MISSING_CLAIM, f"the claim {name} is missing")


def time_of(claims: Mapping[str, Any], name: str) -> NumericDate:
    """The NumericDate ``name``, an integer; raises InvalidToken for anything else, bool and float too."""
    value = claims.get(name)
    if type(value) is not int:
        refuse_claim(claims, name)
    return value  # type: ignore[return-value]


def texts_of(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The claim ``name``, text or a list of text, as a tuple; raises InvalidToken for anything else."""
    value = claims.get(name)
    if type(value) is str:
        return (value,)
    if type(value) is not list:
        refuse_claim(claims, name)
    return _list_of_text(claims, name)


def access_token(  # noqa: PLR0917 - called for every token; passing by keyword costs as much as two checks
    claims: dict[str, Any],
    policy: Policy,
    now: NumericDate,
    aud: tuple[str, ...],
    exp: int,
    kid: Kid,
    revocation: Revocation,
    memory: dict[str, frozenset[str]],
) -> AccessToken:
    """The token that ``claims`` are, if each is of its type and the times make sense (steps 10 and 11).

    ``iss``, ``aud``, ``exp`` and ``nbf`` were checked before. ``memory`` holds what some scopes are as sets,
    and gets this token's; without a valid signature pass a new one. Raises InvalidToken (``missing_claim``,
    ``bad_claim``, ``lifetime_too_long``, ``issued_in_future``, ``not_access_token``,
    ``sender_constrained``).
    """
    # Written out, without a helper for each claim: a call costs more than the check that it makes.
    iat = claims.get("iat")
    if type(iat) is not int:
        refuse_claim(claims, "iat")
    if not 0 < exp - iat <= policy.max_lifetime:
        raise InvalidToken(Code.LIFETIME_TOO_LONG, "exp is too far from iat, or not behind it")
    if iat > now + policy.leeway:
        raise InvalidToken(Code.ISSUED_IN_FUTURE, "iat is in the future")
    sub = claims.get("sub")
    if type(sub) is not str or not sub:
        refuse_claim(claims, "sub")
    if policy.profile is _RFC9068:
        client_id = claims.get("client_id")
        if type(client_id) is not str or not client_id:
            refuse_claim(claims, "client_id")
        jti = claims.get("jti")
        if type(jti) is not str or not jti:
            refuse_claim(claims, "jti")
        scopes = _NO_SCOPES
        if "scope" in claims:
            scope = claims["scope"]
            if type(scope) is not str:
                refuse_claim(claims, "scope")
            scopes = memory.get(scope) or _words(scope, memory)
    else:
        _refuse_other_kinds(claims)
        client_id = _first_text(claims, "client_id", "azp", "appid")
        jti = _first_text(claims, "jti")
        scopes = _foreign_scopes(claims)
    rid = auth_time = acr = None
    amr: tuple[str, ...] = ()
    if "rid" in claims:
        rid = claims["rid"]
        if type(rid) is not str or not rid:
            refuse_claim(claims, "rid")
    if "auth_time" in claims:
        auth_time = claims["auth_time"]
        if type(auth_time) is not int:
            refuse_claim(claims, "auth_time")
    if "amr" in claims:
        methods = claims["amr"]
        if type(methods) is not list:
            refuse_claim(claims, "amr")
        for method in methods:
            if type(method) is not str:
                refuse_claim(claims, "amr")
        amr = tuple(methods)
    if "acr" in claims:
        acr = claims["acr"]
        if type(acr) is not str or not acr:
            refuse_claim(claims, "acr")
    if "cnf" in claims:
        # RFC 7800 s.3.1: whoever merely shows such a token has not proved that it is his.
        raise InvalidToken(Code.SENDER_CONSTRAINED, "cnf binds the token to a key, which no bearer proves")
    # For the same reason the NewTypes are not called here: the types were checked above.
    return AccessToken(
        claims["iss"],
        sub,  # type: ignore[arg-type]
        aud,
        client_id,  # type: ignore[arg-type]
        exp,  # type: ignore[arg-type]
        iat,  # type: ignore[arg-type]
        jti,  # type: ignore[arg-type]
        scopes,
        rid,
        auth_time,
        amr,
        acr,
        claims.get("nbf"),
        kid,
        revocation,
        MappingProxyType(claims),
    )


_RFC9068: Final = Profile.RFC9068


def _scopes(claims: Mapping[str, Any], name: str) -> frozenset[str]:
    scope = claims[name]
    if type(scope) is not str:
        refuse_claim(claims, name)
    return _words(scope, {})


def _foreign_scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """``scope`` as RFC 9068 has it, or ``scp``: text (Entra) or a list of text (Okta)."""
    if "scope" in claims:
        return _scopes(claims, "scope")
    if "scp" not in claims:
        return _NO_SCOPES
    if type(claims["scp"]) is str:
        return _scopes(claims, "scp")
    return frozenset(_list_of_text(claims, "scp"))


def _words(scope: str, memory: dict[str, frozenset[str]]) -> frozenset[str]:
    """RFC 6749 s.3.3: words with one space between them; an empty word, which is none, is dropped."""
    words = frozenset(scope.split(" ")) - _NO_WORD
    if len(memory) < _REMEMBERED and len(scope) <= _LONGEST_REMEMBERED:
        memory[scope] = words
    return words


def _first_text(claims: Mapping[str, Any], *names: str) -> Any:
    """The first of ``names`` that is there, as text that is not empty; None if none is."""
    for name in names:
        if name in claims:
            value = claims[name]
            if type(value) is not str or not value:
                refuse_claim(claims, name)
            return value
    return None


def _list_of_text(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = claims[name]
    if type(value) is not list:
        refuse_claim(claims, name)
    for item in value:
        if type(item) is not str:
            refuse_claim(claims, name)
    return tuple(value)


def _refuse_other_kinds(claims: Mapping[str, Any]) -> None:
    """Without ``typ: at+jwt`` the claims must tell an access token from an ID, refresh or logout token.

    RFC 8725 s.3.12. Cognito says ``token_use``, Keycloak the claim ``typ``; ``at_hash`` and ``c_hash`` are
    an ID token's (OIDC Core s.3.1.3.6, s.3.3.2.11), ``events`` a logout token's (Back-Channel s.2.4).
    """
    if claims.get("token_use", "access") != "access":
        raise InvalidToken(Code.NOT_ACCESS_TOKEN, "token_use is not access")
    typ = claims.get("typ", "Bearer")
    if type(typ) is not str or typ.lower() != "bearer":
        raise InvalidToken(Code.NOT_ACCESS_TOKEN, "the claim typ is not Bearer")
    for name in ("at_hash", "c_hash", "events"):
        if name in claims:
            raise InvalidToken(Code.NOT_ACCESS_TOKEN, f"an access token has no {name}")
