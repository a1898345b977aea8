"""Refresh sessions: the token, the row, and the decision on a redemption (rules R1 to R7).

A session has an Ed25519 pair of its own. The refresh token of generation *n* is its ``rid``, *n* and the
signature of both, so the public half in the row recognises every generation that ever was as genuine
without storing any, and a token made without the private half is no evidence of theft (R3). The private
half stands in the row twice at most, sealed under keys derived from the newest token and from its parent:
only who holds one of these can make the next, so a stolen database refreshes nothing (R4). A signature
is deterministic, so a repeated answer is the same token byte for byte (R2 ii).

Residual: a backup together with a token that was newest or parent at that time yields the private half,
unless a :class:`~mintmark.core.sealing.Pepper` that the store never held is mixed into the seals.

A client may do without rotation (FAPI 2.0 s.5.3.2.1 forbids it as a routine): then the newest token is
answered by itself at any age, and what it is worth to a thief depends on what its client has beside it.
"""

import hmac
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mintmark.core import base64url, sealing
from mintmark.core.sealing import UNPEPPERED, Pepper
from mintmark.core.timing import Timing
from mintmark.units import ClientId, Issuer, Kid, NumericDate, Rid, Seconds, Sub

PREFIX: Final = "mmr_"
"""What every refresh token begins with, so that scanners of source code find one that leaked."""
FIRST: Final = 0
"""The generation of the token that a login gives."""

MAX_DEVICE: Final = 200
MAX_ADDRESS: Final = 45
"""Characters of an address: an IPv6 address with an IPv4 one at its end."""

_RID_BYTES: Final = 16
_GENERATION_BYTES: Final = 4
_LAST: Final = 2 ** (8 * _GENERATION_BYTES) - 1
_SIGNATURE_BYTES: Final = 64
_TOKEN_BYTES: Final = _RID_BYTES + _GENERATION_BYTES + _SIGNATURE_BYTES
_TOKEN_CHARACTERS: Final = len(PREFIX) + (_TOKEN_BYTES * 4 + 2) // 3
_DOMAIN: Final = b"mintmark refresh token 1\x00"


@dataclass(frozen=True, slots=True, repr=False)
class RefreshToken:
    """One generation's token. Its text is a secret: it is left out of ``repr`` on purpose."""

    rid: Rid
    generation: int
    signature: bytes

    def text(self) -> str:
        """The token as its client holds it: 116 characters, opaque to it."""
        raw = base64url.decode(self.rid) + self.generation.to_bytes(_GENERATION_BYTES) + self.signature
        return PREFIX + base64url.encode(raw)


def parse(text: str) -> RefreshToken | None:
    """The token that ``text`` has the shape of, or None; says nothing about its signature."""
    if len(text) != _TOKEN_CHARACTERS or not text.startswith(PREFIX):
        return None
    try:
        raw = base64url.decode(text[len(PREFIX) :])
    except ValueError:
        return None
    rid, rest = raw[:_RID_BYTES], raw[_RID_BYTES:]
    return RefreshToken(
        rid=Rid(base64url.encode(rid)),
        generation=int.from_bytes(rest[:_GENERATION_BYTES]),
        signature=rest[_GENERATION_BYTES:],
    )


class EndCause(StrEnum):
    """Why a session ended; kept in its row and in the log."""

    LOGOUT = "logout"
    THEFT = "theft"
    ADMIN = "admin"
    USER_DISABLED = "user_disabled"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - the name of a cause
    CLIENT_REMOVED = "client_removed"
    REVOKED = "revoked"
    """Its client revoked its refresh token, or more of its access tokens than may be listed (RFC 7009)."""
    REPLACED = "replaced"
    """Its browser logged in anew, and keeps the other session's token in place of this one's."""
    UNSIGNED = "unsigned"
    """Nobody could sign the first token of its log-in, so nobody ever held it."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Session:
    """The one row of a session, whatever the number of its refreshes.

    ``version`` rises with each change of who may refresh; the store takes a change only on the version
    that it was decided on.
    """

    issuer: Issuer
    rid: Rid
    sub: Sub
    client_id: ClientId
    scope: tuple[str, ...]
    audience: tuple[str, ...]
    auth_time: NumericDate
    amr: tuple[str, ...]
    created_at: NumericDate
    idle_until: NumericDate
    expires_at: NumericDate
    used_at: NumericDate
    """When a token of it was last asked for."""
    device: str = ""
    """What its last user agent calls itself, cut to printable text: shown to its owner, and no evidence."""
    address: str = ""
    """Where it was last used from."""
    public_key: bytes
    generation: int
    sealed: bytes
    """The private half under the key of the newest token."""
    rotated_at: NumericDate
    presented: bool = False
    """Whether the newest token was presented: then its parent's holder is not the one who lost an answer."""
    parent: int | None = None
    parent_sealed: bytes | None = None
    parent_spent_at: NumericDate | None = None
    last_exp: NumericDate
    """The latest ``exp`` of any access token of this session, fixed before it is minted (R5)."""
    last_kid: Kid | None = None
    version: int = 0
    ended_at: NumericDate | None = None
    end_cause: EndCause | None = None
    """None too where it ended for a cause that newer code knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStart:
    """What a login settles about its session."""

    issuer: Issuer
    sub: Sub
    client_id: ClientId
    scope: tuple[str, ...]
    audience: tuple[str, ...]
    amr: tuple[str, ...] = ("pwd",)
    device: str = ""
    address: str = ""


# --- what a redemption comes to ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Redeem:
    """Answer with ``token`` once the store has taken ``after`` in place of the session's row.

    ``rotated`` tells a new generation from a repeated answer.
    """

    before: Session
    after: Session
    token: RefreshToken
    rotated: bool


@dataclass(frozen=True, slots=True)
class Stolen:
    """A spent token came back: two parties hold this family, so it ends (RFC 9700 s.4.14.2)."""

    rid: Rid


@dataclass(frozen=True, slots=True)
class FromTheFuture:
    """A genuine generation above the row's: the store went back in time, nobody stole anything (R7)."""

    rid: Rid


class Refusal(StrEnum):
    """Why a token redeems nothing and changes nothing; its client hears ``invalid_grant`` each time."""

    UNKNOWN = "unknown"
    FORGED = "forged"
    ENDED = "ended"
    EXPIRED = "expired"
    OTHER_CLIENT = "other_client"


Verdict = Redeem | Stolen | FromTheFuture | Refusal


def start(
    begin: SessionStart,
    *,
    rid: bytes,
    seed: bytes,
    timing: Timing,
    now: NumericDate,
    pepper: Pepper = UNPEPPERED,
) -> tuple[Session, RefreshToken]:
    """A new session and its first token; ``rid`` is 16 random bytes and ``seed`` 32, each used once."""
    private = Ed25519PrivateKey.from_private_bytes(seed)
    token = _sign(private, Rid(base64url.encode(rid)), FIRST)
    session = Session(
        issuer=begin.issuer,
        rid=token.rid,
        sub=begin.sub,
        client_id=begin.client_id,
        scope=begin.scope,
        audience=begin.audience,
        auth_time=now,
        amr=begin.amr,
        created_at=now,
        idle_until=NumericDate(now + min(timing.session_idle, timing.session_ttl)),
        expires_at=NumericDate(now + timing.session_ttl),
        used_at=now,
        device=shown_device(begin.device),
        address=begin.address[:MAX_ADDRESS],
        public_key=private.public_key().public_bytes_raw(),
        generation=FIRST,
        sealed=_seal(seed, token, pepper),
        rotated_at=now,
        last_exp=now,
    )
    return session, token


def decide(
    session: Session | None,
    token: RefreshToken,
    client_id: ClientId,
    *,
    timing: Timing,
    now: NumericDate,
    rotates: bool = True,
    pepper: Pepper = UNPEPPERED,
) -> Verdict:
    """What the redemption of ``token`` by ``client_id`` comes to, with ``now`` the store's time.

    Where the client's tokens do not rotate (``rotates``), the newest stays what it is and a parent of it that
    is there from before gets it within its time; whatever is older is theft as ever.
    The answer is only a proposal: of any number of proposals on one version the store takes one (R1).
    Raises SealBroken where the row does not fit a token that is genuine: it was damaged or changed.
    """
    if session is None:
        return Refusal.UNKNOWN
    if not is_genuine(session, token):
        return Refusal.FORGED
    # From here the caller has held a token of this family.
    if session.ended_at is not None:
        return Refusal.ENDED
    if now >= session.expires_at or now >= session.idle_until or session.generation >= _LAST:
        return Refusal.EXPIRED
    if token.generation > session.generation:
        return FromTheFuture(session.rid)
    # A client that presents another's token has it from somewhere; it is refused without ending the
    # session of a client that did nothing (RFC 6749 s.10.4).
    if client_id != session.client_id:
        return Refusal.OTHER_CLIENT
    # On both sides: a clock that was set back must not stretch the window in which a parent may return.
    # The last second counts: times are rounded down, and two tabs must get the whole of the grace.
    within_grace = abs(now - session.rotated_at) <= timing.refresh_grace
    if token.generation == session.generation:
        if not rotates or (within_grace and session.generation != FIRST):
            return _repeat(session, token, token, timing, now)
        return _succeed(session, token, timing, now, pepper)
    if token.generation == session.parent:
        spent_at = session.parent_spent_at if session.parent_spent_at is not None else session.rotated_at
        may_be_lost = not session.presented and now < spent_at + timing.refresh_retry
        if within_grace or (may_be_lost and not rotates):
            successor = _sign(_unseal(session, token, pepper), token.rid, session.generation)
            return _repeat(session, token, successor, timing, now)
        if may_be_lost:
            return _succeed(session, token, timing, now, pepper)
    return Stolen(session.rid)


def covering(session: Session, *, exp: NumericDate, kid: Kid) -> Session:
    """``session`` with an access token noted in its row, before it is minted (R5)."""
    return replace(session, last_exp=max(session.last_exp, exp), last_kid=kid)


def lasts(session: Session, now: NumericDate) -> Seconds:
    """How long the session lives on if nobody uses it."""
    return Seconds(max(0, min(session.idle_until, session.expires_at) - now))


def seen(redeem: Redeem, *, device: str, address: str) -> Redeem:
    """``redeem`` with who asked for it noted in the row."""
    after = replace(redeem.after, device=shown_device(device), address=address[:MAX_ADDRESS])
    return replace(redeem, after=after)


def shown_device(user_agent: str) -> str:
    """A User-Agent header as it is kept: at most ``MAX_DEVICE`` printable ASCII characters, or none."""
    return "".join(c for c in user_agent if " " <= c <= "~").strip()[:MAX_DEVICE]


def with_access_token(redeem: Redeem, *, exp: NumericDate, kid: Kid) -> Redeem:
    """``redeem`` with the access token that will go with it noted in the row."""
    return replace(redeem, after=covering(redeem.after, exp=exp, kid=kid))


def _succeed(
    session: Session, token: RefreshToken, timing: Timing, now: NumericDate, pepper: Pepper
) -> Redeem:
    """Rotate: the presented token becomes the parent, whether it was the newest or has been already.

    Where it has been already, its successor was never presented: that one is replaced, and counts as spent.
    """
    private = _unseal(session, token, pepper)
    successor = _sign(private, token.rid, session.generation + 1)
    seed = private.private_bytes_raw()
    again = token.generation == session.parent
    after = replace(
        session,
        generation=successor.generation,
        sealed=_seal(seed, successor, pepper),
        rotated_at=now,
        presented=False,
        parent=token.generation,
        parent_sealed=session.parent_sealed if again else session.sealed,
        parent_spent_at=session.parent_spent_at if again else now,
        used_at=now,
        idle_until=_idle_until(session, timing, now),
        version=session.version + 1,
    )
    return Redeem(before=session, after=after, token=successor, rotated=True)


def _repeat(
    session: Session, token: RefreshToken, answer: RefreshToken, timing: Timing, now: NumericDate
) -> Redeem:
    """Answer with the newest token again; the first presentation of that very token is noted."""
    first_sight = token.generation == session.generation and not session.presented
    after = replace(
        session,
        presented=session.presented or first_sight,
        used_at=now,
        idle_until=_idle_until(session, timing, now),
        version=session.version + first_sight,
    )
    return Redeem(before=session, after=after, token=answer, rotated=False)


def _idle_until(session: Session, timing: Timing, now: NumericDate) -> NumericDate:
    return min(NumericDate(max(session.idle_until, now + timing.session_idle)), session.expires_at)


# --- the construction ------------------------------------------------------------------------------


def _message(rid: Rid, generation: int) -> bytes:
    return _DOMAIN + base64url.decode(rid) + generation.to_bytes(_GENERATION_BYTES)


def _sign(private: Ed25519PrivateKey, rid: Rid, generation: int) -> RefreshToken:
    return RefreshToken(rid, generation, private.sign(_message(rid, generation)))


def is_genuine(session: Session, token: RefreshToken) -> bool:
    """Whether ``token`` was made by this session, in whatever generation."""
    if not hmac.compare_digest(session.rid, token.rid):
        return False
    public = Ed25519PublicKey.from_public_bytes(session.public_key)
    try:
        public.verify(token.signature, _message(token.rid, token.generation))
    except InvalidSignature:
        return False
    return True


def _seal(seed: bytes, token: RefreshToken, pepper: Pepper) -> bytes:
    return pepper.seal(seed, secret=token.signature, context=_message(token.rid, token.generation))


def _unseal(session: Session, token: RefreshToken, pepper: Pepper) -> Ed25519PrivateKey:
    """The private half, with the key that only the holder of ``token`` has.

    Raises SealBroken where the row does not fit the token: it was tampered with or damaged, or sealed with a
    key of the cluster that is not here.
    """
    sealed = session.sealed if token.generation == session.generation else session.parent_sealed
    if sealed is None:
        raise sealing.SealBroken
    context = _message(token.rid, token.generation)
    return Ed25519PrivateKey.from_private_bytes(
        pepper.unseal(sealed, secret=token.signature, context=context)
    )
