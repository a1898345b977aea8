"""The sessions of one person, as he sees them: where he is logged in, and how to end it there."""

from dataclasses import dataclass
from typing import Final

from mintmark.core import directory
from mintmark.core.refusal import Code
from mintmark.core.sessions import EndCause, Session
from mintmark.errors import InvalidToken, NotFound, UnauthorizedClient
from mintmark.ports.store import Store
from mintmark.server.bearer import BearerTokens
from mintmark.server.issuing import Issuing
from mintmark.server.sessions import Sessions
from mintmark.units import ClientId, Issuer, NumericDate, Rid

MAX_LISTED: Final = 100
"""How many sessions are listed at once; who has more ends all others."""

_OVER: Final = "the session is over; log in again"


@dataclass(frozen=True, slots=True)
class OwnSession:
    """One live session, the name of its client, and whether it is the one that was asked with."""

    session: Session
    client_name: str
    current: bool


@dataclass(frozen=True, slots=True)
class OwnListing:
    """Live sessions, newest first, the current one always among them; ``complete`` where these are all."""

    sessions: tuple[OwnSession, ...]
    complete: bool


class OwnSessions:
    """What people do with their sessions of one issuer. Each call names the session that it is made with."""

    def __init__(
        self, issuer: Issuer, *, store: Store, sessions: Sessions, bearers: BearerTokens, issuing: Issuing
    ) -> None:
        self._issuer = issuer
        self._store = store
        self._sessions = sessions
        self._bearers = bearers
        self._issuing = issuing

    async def of_refresh_token(self, refresh_token: str) -> Session:
        """The live session that ``refresh_token`` would refresh now; it is not redeemed by this.

        Raises InvalidToken for any other token, spent ones too; Unavailable.
        """
        session = await self._sessions.held_by(refresh_token)
        if session is None:
            raise InvalidToken(Code.REVOKED, _OVER)
        await self._check(session, issued_at=None, now=await self._store.now())
        return session

    async def of_access_token(self, raw: str) -> Session:
        """The live session of an access token that is for this issuer alone.

        Any service gets tokens of its users, and must not be able to list where they are or to log them out;
        so its own audience does not do. Raises InvalidToken; UnauthorizedClient where the session's client
        is not first-party; Unavailable.
        """
        token = await self._bearers.read(raw)
        if token.audience != {self._issuer}:
            raise InvalidToken(
                Code.WRONG_AUDIENCE,
                f'the token is not for this issuer alone; refresh with the audience "{self._issuer}" for one',
            )
        if token.rid is None:
            raise InvalidToken(Code.MISSING_CLAIM, "the token belongs to no session")
        before = self._issuing.moment()
        view = await self._store.sessions.read(self._issuer, token.rid)
        self._issuing.check_time(before, view.now)
        if view.now >= token.exp:
            raise InvalidToken(Code.EXPIRED, "the token has expired; refresh it")
        session = view.session
        if (
            session is None
            or session.ended_at is not None
            or view.now >= min(session.idle_until, session.expires_at)
        ):
            raise InvalidToken(Code.REVOKED, _OVER)
        await self._check(session, issued_at=token.iat, now=view.now)
        if await self._store.revocations.is_revoked(self._issuer, token.jti):
            raise InvalidToken(Code.REVOKED, "the token was revoked")
        return session

    async def _check(self, session: Session, *, issued_at: NumericDate | None, now: NumericDate) -> None:
        """Raise where client or user may not act now, or a token of ``issued_at`` was revoked by time."""
        client = await self._store.directory.client(self._issuer, session.client_id)
        user = await self._store.directory.user(self._issuer, session.sub)
        if client is None or user is None or directory.is_barred(user, now):
            raise InvalidToken(Code.REVOKED, _OVER)
        if not client.first_party:
            raise UnauthorizedClient("this client may not see its users' sessions")
        if issued_at is not None and issued_at <= client.not_before:
            raise InvalidToken(Code.REVOKED, "the token was revoked; refresh it")

    async def listed(self, current: Session, *, limit: int = MAX_LISTED) -> OwnListing:
        """The person's live sessions, at most ``limit`` of the newest, and the current one."""
        found = await self._store.sessions.list(self._issuer, sub=current.sub, limit=limit)
        complete = len(found) < limit
        if all(session.rid != current.rid for session in found):
            found = (*found, current)
        names: dict[ClientId, str] = {}
        for client_id in {session.client_id for session in found}:
            client = await self._store.directory.client(self._issuer, client_id)
            names[client_id] = client.name if client is not None else client_id
        return OwnListing(
            tuple(OwnSession(one, names[one.client_id], one.rid == current.rid) for one in found), complete
        )

    async def end(self, current: Session, rid: str) -> None:
        """End one of the person's sessions; one that had ended stays so. Raises NotFound for any other."""
        session = (await self._store.sessions.read(self._issuer, Rid(rid))).session
        if session is None or session.sub != current.sub:
            raise NotFound("you have no such session")
        await self._sessions.end(session.rid, EndCause.LOGOUT)

    async def end_all(self, current: Session) -> int:
        """End every session of the person, the current one too; how many this ended."""
        return await self._sessions.end_all(current.sub, EndCause.LOGOUT)

    async def end_others(self, current: Session) -> int:
        """End every session of the person but the current one; how many this ended.

        One after the other: where the store stops it, some have ended, and asking again ends the rest.
        """
        ended = 0
        while others := [
            session.rid
            for session in await self._store.sessions.list(self._issuer, sub=current.sub, limit=MAX_LISTED)
            if session.rid != current.rid
        ]:
            for rid in others:
                ended += await self._sessions.end(rid, EndCause.LOGOUT)
        return ended
