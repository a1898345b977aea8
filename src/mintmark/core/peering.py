"""What one node signs for another: claims as minting makes them, about a session or client that is live.

The node that asks may have been taken over, so what it asks for is held against the rows that every node
reads, and not against what it says. It gains no token that its own requests would not have given it: none of
another user, of another client, of more scope, for a longer time, or of a session that has ended.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from mintmark.core import strict_json
from mintmark.core.directory import Client, User, is_barred
from mintmark.core.minting import BACKDATED, MAX_PAYLOAD
from mintmark.core.sessions import Session
from mintmark.core.timing import Timing
from mintmark.units import Issuer, NumericDate, Seconds

LATE: Final = Seconds(15)
"""How long a request may have been under way since its ``iat`` was fixed."""
CLIENT_CREDENTIALS: Final = "client_credentials"

_CLAIMS: Final = {"iss": str, "sub": str, "client_id": str, "exp": int, "iat": int, "jti": str}
_OPTIONAL: Final = {"scope": str, "rid": str, "auth_time": int}
_LISTS: Final = frozenset({"aud", "amr"})
_JTI: Final = re.compile(r"[A-Za-z0-9_-]{22}")


class PeerRefusal(StrEnum):
    """Why a node signs nothing for another; stable, and all that the other learns."""

    BUSY = "busy"
    """It asks for more than its share."""
    NOT_READY = "not_ready"
    """This node has no key that may sign now, or cannot check what it is asked for."""
    STRANGER = "stranger"
    """The caller is no live member of this issuer's cluster."""
    UNKNOWN_ISSUER = "unknown_issuer"
    """This node does not serve the issuer, or the claims name another one."""
    WRONG_TYP = "wrong_typ"
    """Peers sign access tokens and nothing else."""
    BAD_CLAIMS = "bad_claims"
    """Not the claims of an access token as nodes make them."""
    BAD_TIMES = "bad_times"
    """``iat`` is not about now, or ``exp`` is later than may be."""
    NOT_LIVE = "not_live"
    """The session, the user or the client is not there, or not any more; or the user is locked."""
    NOT_COVERED = "not_covered"
    """The session or the client is not one of that subject, client, scope, audience or time."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Asked:
    """The claims that a node asks another to sign, each of its type."""

    iss: str
    sub: str
    client_id: str
    aud: frozenset[str]
    scope: frozenset[str]
    exp: int
    iat: int
    jti: str
    rid: str | None
    auth_time: int | None
    amr: tuple[str, ...]


def asked(payload: bytes) -> Asked | None:
    """The claims that ``payload`` is, or None where it is not what :func:`mintmark.core.minting.plan` makes.

    A claim that nodes do not make is refused: nobody here could say whether it is true.
    """
    try:
        claims = strict_json.decode(payload, max_size=MAX_PAYLOAD)
    except strict_json.NotStrictJson:
        return None
    if not isinstance(claims, dict) or claims.keys() - _CLAIMS.keys() - _OPTIONAL.keys() - _LISTS:
        return None
    if not all(type(claims.get(name)) is kind for name, kind in _CLAIMS.items()):
        return None
    if not all(type(claims[name]) is kind for name, kind in _OPTIONAL.items() if name in claims):
        return None
    aud, amr = _texts(claims.get("aud")), _texts(claims.get("amr", []))
    scope = claims["scope"].split(" ") if "scope" in claims else []
    if not aud or amr is None or "" in scope or _JTI.fullmatch(claims["jti"]) is None:
        return None
    return Asked(
        iss=claims["iss"],
        sub=claims["sub"],
        client_id=claims["client_id"],
        aud=frozenset(aud),
        scope=frozenset(scope),
        exp=claims["exp"],
        iat=claims["iat"],
        jti=claims["jti"],
        rid=claims.get("rid"),
        auth_time=claims.get("auth_time"),
        amr=amr,
    )


def _texts(value: Any) -> tuple[str, ...] | None:
    if type(value) is str:
        value = [value]
    if type(value) is not list or not all(type(item) is str for item in value):
        return None
    return tuple(value)


def untimely(claims: Asked, timing: Timing, now: NumericDate) -> bool:
    """Whether no node whose clock is right makes such times at ``now``, the store's time.

    Clocks may differ by the skew, and the claims are older than the question.
    """
    minted_at, most = claims.iat + BACKDATED, timing.widest
    on_time = now - most.clock_skew - LATE <= minted_at <= now + most.clock_skew + 1
    return not (on_time and minted_at < claims.exp <= minted_at + most.access_ttl)


def refusal(
    claims: Asked,
    *,
    issuer: Issuer,
    client: Client | None,
    user: User | None,
    session: Session | None,
    timing: Timing,
    now: NumericDate,
) -> PeerRefusal | None:
    """Why ``claims`` may not be signed at ``now``, the store's time; None where they may.

    ``client`` and, where there is a ``rid``, ``user`` and ``session`` are the rows that the claims name.
    """
    if claims.iss != issuer:
        return PeerRefusal.UNKNOWN_ISSUER
    if untimely(claims, timing, now):
        return PeerRefusal.BAD_TIMES
    if client is None:
        return PeerRefusal.NOT_LIVE
    if claims.iat <= client.not_before:
        # Revoked before it is signed; who asks read its client earlier, or does not care.
        return PeerRefusal.NOT_COVERED
    # What a first-party client may always ask for in a user's name, and alone.
    is_for_us = claims.aud == {issuer} and client.first_party and claims.rid is not None
    if not (claims.scope <= frozenset(client.scopes) and (is_for_us or claims.aud <= set(client.audiences))):
        return PeerRefusal.NOT_COVERED
    if claims.rid is None:
        return None if _is_own(claims, client) else PeerRefusal.NOT_COVERED
    if session is None or user is None or not _is_live(session, now) or is_barred(user, now):
        return PeerRefusal.NOT_LIVE
    if not (is_for_us or claims.aud <= set(session.audience)):
        return PeerRefusal.NOT_COVERED
    return None if _is_of(claims, session, user) else PeerRefusal.NOT_COVERED


def _is_own(claims: Asked, client: Client) -> bool:
    """Whether a service may have asked for this in its own name (RFC 6749 s.4.4)."""
    return (
        claims.sub == claims.client_id == client.client_id
        and client.secret_hash is not None
        and CLIENT_CREDENTIALS in client.grant_types
        and claims.auth_time is None
        and not claims.amr
    )


def _is_live(session: Session, now: NumericDate) -> bool:
    return session.ended_at is None and now < min(session.idle_until, session.expires_at)


def _is_of(claims: Asked, session: Session, user: User) -> bool:
    return (
        claims.rid == session.rid
        and claims.sub == session.sub == user.sub
        and claims.client_id == session.client_id
        and claims.scope <= frozenset(session.scope) & frozenset(user.scopes)
        and claims.auth_time == session.auth_time
        and claims.amr == session.amr
        # What ends the session denies its tokens until then, and no longer (R5).
        and claims.exp <= session.last_exp
    )
