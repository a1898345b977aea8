"""/v1/sessions: log in, refresh and log out in JSON, for first-party applications; and what a user has.

A page may have its refresh token kept in a cookie that no script reads. A request with that cookie could be
any page's, so wherever it comes along the page's origin is checked before anything else is looked at: a
foreign page changes nothing, and learns nothing, whatever it sends besides (ASVS 3.5.1, RFC 9700 s.4.16).
"""

import contextlib

import msgspec
from starlette.responses import Response

from mintmark.core.sessions import EndCause, Session
from mintmark.errors import InvalidGrant, InvalidRequest, InvalidToken, Unavailable
from mintmark.http.cookie import SessionCookie
from mintmark.http.errors import JSON, NO_STORE, ErrorForm, error_response
from mintmark.http.origin import check_page
from mintmark.http.refusal import NoCredentials
from mintmark.http.request import (
    Incoming,
    address_of,
    bearer_of,
    credentials_of,
    device_of,
    json_of,
    query_of,
)
from mintmark.http.token import token_response
from mintmark.server.bearer import BearerTokens
from mintmark.server.own_sessions import MAX_LISTED, OwnSession
from mintmark.server.services import Services
from mintmark.server.tokens import GRANT_TYPE, wish


class LogIn(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of a log-in; the client may name itself in a Basic header instead."""

    username: str
    password: str
    client_id: str | None = None
    client_secret: str | None = None
    scope: str | None = None
    audience: str | list[str] | None = None
    cookie: bool = False
    """Whether the refresh token goes into the cookie, and not into the answer."""


class Refresh(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of a refresh."""

    refresh_token: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    scope: str | None = None
    audience: str | list[str] | None = None
    cookie: bool = False
    """Whether the refresh token is the cookie's; the next one goes there too."""


class LogOut(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of a log-out without an access token."""

    refresh_token: str


class SessionEndpoints:
    """The session endpoints of one issuer."""

    def __init__(self, services: Services) -> None:
        self._issuer = services.issuer
        self._tokens = services.tokens
        self._clients = services.clients
        self._sessions = services.sessions
        self._own = services.own_sessions
        self._origins = services.web_origins
        self._audit = services.audit
        self._bearers = BearerTokens(services.issuer, services.ring)
        self._cookie = SessionCookie(services.issuer)

    # --- one session -------------------------------------------------------------------------------

    async def log_in(self, request: Incoming) -> Response:
        """A new session, 201. In the cookie it takes the place of the session there, which ends."""
        replaced = self._cookie.read(request)
        if replaced is not None:
            # Another client's page may log its user in where this one's was. It is one of ours at least.
            check_page(request, self._origins.own, await self._origins.known())
        body = json_of(request, LogIn)
        credentials = credentials_of(request, body.client_id, body.client_secret)
        if body.cookie:
            # Or a foreign page could log its reader in as somebody else, and read what he enters there.
            client = await self._clients.authenticate(credentials)
            check_page(request, self._origins.own, frozenset({self._origins.own, *client.origins}))
        granted = await self._tokens.log_in(
            credentials,
            username=body.username,
            password=body.password,
            asked=wish(body.scope or None, _audience(body.audience)),
            device=device_of(request),
            address=address_of(request),
        )
        response = token_response(granted, status=201, rid=True, refresh_token=not body.cookie)
        if body.cookie:
            if replaced is not None:
                # Nobody will hold its token any more (ASVS 7.2.4).
                await self._log_out(replaced, EndCause.REPLACED)
            self._cookie.keep(response, granted.refresh_token or "", granted.refresh_lasts)
        return response

    async def refresh(self, request: Incoming) -> Response:
        """New tokens of a session: what the grant ``refresh_token`` of /token gives, asked for in JSON."""
        kept = await self._kept(request)
        body = json_of(request, Refresh)
        token = _refresh_token(body, kept)
        parameters = {GRANT_TYPE: "refresh_token", "refresh_token": token}
        if body.scope:
            parameters["scope"] = body.scope
        credentials = credentials_of(request, body.client_id, body.client_secret)
        try:
            granted = await self._tokens.grant(
                credentials,
                parameters,
                audience=_audience(body.audience),
                device=device_of(request),
                address=address_of(request),
            )
        except InvalidGrant as refusal:
            response = error_response(refusal, request, ErrorForm.PROBLEM, self._audit)
            await self._forget(kept, response)
            return response
        response = token_response(granted, rid=True, refresh_token=not body.cookie)
        if body.cookie:
            # Each time, also where the answer repeats one: what the browser has may be the token before.
            self._cookie.keep(response, granted.refresh_token or "", granted.refresh_lasts)
        return response

    async def log_out(self, request: Incoming) -> Response:
        """End the session that the caller holds a token of; 204 also where it had ended before.

        Takes an access token, also an expired one, or any refresh token that the session ever gave, in the
        body or in the cookie. Of an access token and a cookie together, both sessions end.
        """
        kept = await self._kept(request)
        bearer = bearer_of(request)
        if kept is not None and request.content:
            raise InvalidRequest("there is a session cookie, so the body holds nothing")
        response = _nothing()
        if kept is not None:
            genuine = await self._log_out(kept)
            self._cookie.clear(response)
            if bearer is not None:
                await self._end_session_of(bearer, beside_another=genuine)
        elif bearer is not None:
            await self._end_session_of(bearer)
        elif request.content:
            await self._sessions.log_out(json_of(request, LogOut).refresh_token)
        else:
            raise NoCredentials(
                "an access token in the Authorization header, a refresh token in the body, or the cookie"
            )
        return response

    async def _log_out(self, kept: str, cause: EndCause = EndCause.LOGOUT) -> bool:
        """Whether a session gave ``kept``; it has ended now."""
        try:
            await self._sessions.log_out(kept, cause)
        except InvalidToken:
            return False
        return True

    async def _end_session_of(self, bearer: str, *, beside_another: bool = False) -> None:
        try:
            rid = await self._bearers.session_of(bearer)
        except InvalidToken:
            # Its key may be long gone; whoever has the session's other token is logged out by that.
            if not beside_another:
                raise
        else:
            await self._sessions.end(rid, EndCause.LOGOUT)

    # --- all sessions of one person ------------------------------------------------------------------

    async def listed(self, request: Incoming) -> Response:
        """Where the caller is logged in; ``?limit=`` bounds it."""
        current = await self._current(request, await self._kept(request))
        listing = await self._own.listed(current, limit=_limit(query_of(request, "limit")))
        answer = {"sessions": [_shown(one) for one in listing.sessions], "complete": listing.complete}
        headers = {"Content-Type": JSON, "Cache-Control": NO_STORE}
        return Response(msgspec.json.encode(answer), headers=headers)

    async def end_one(self, request: Incoming) -> Response:
        """End one of the caller's sessions; 204 also where it had ended before, 404 for anybody else's."""
        kept = await self._kept(request)
        await self._own.end(await self._current(request, kept), request.path_params["rid"])
        response = _nothing()
        await self._forget(kept, response)
        return response

    async def end_all(self, request: Incoming) -> Response:
        """End all of the caller's sessions, or with ``?keep=current`` all others; how many that ended."""
        kept = await self._kept(request)
        current = await self._current(request, kept)
        keeps = {b"": False, b"keep=current": True}.get(request.scope["query_string"])
        if keeps is None:
            # A misspelt wish to keep something must not end it.
            raise InvalidRequest("there is nothing but keep=current to ask for in the URL here")
        ended = await (self._own.end_others(current) if keeps else self._own.end_all(current))
        headers = {"Content-Type": JSON, "Cache-Control": NO_STORE}
        response = Response(msgspec.json.encode({"ended": ended}), headers=headers)
        await self._forget(kept, response)
        return response

    async def _current(self, request: Incoming, kept: str | None) -> Session:
        """The live session that the caller holds an access token for this issuer of, or the cookie."""
        bearer = bearer_of(request)
        if bearer is not None:
            return await self._own.of_access_token(bearer)
        if kept is not None:
            return await self._own.of_refresh_token(kept)
        raise NoCredentials(
            f'an access token with the audience "{self._issuer}" in the Authorization header, or the cookie'
        )

    async def _kept(self, request: Incoming) -> str | None:
        """The token in the cookie, which a page that may act on its session has sent; None without one.

        Raises OriginRefused.
        """
        kept = self._cookie.read(request)
        if kept is not None:
            session = await self._sessions.find(kept)
            check_page(request, self._origins.own, await self._origins.of(session))
        return kept

    async def _forget(self, kept: str | None, response: Response) -> None:
        """Have the browser forget ``kept`` if no session goes on with it: a lock ends, and no refusal of
        another client's, and no end of another session, is one of this.

        In place of one that a log-in replaced it keeps that log-in's by now, or will at once.
        """
        # Where the store does not say, it stays: it is refused again, or it is somebody's session.
        with contextlib.suppress(Unavailable):
            if kept is not None and await self._sessions.held_by(kept) is None:
                session = await self._sessions.find(kept)
                if session is None or session.end_cause is not EndCause.REPLACED:
                    self._cookie.clear(response)


def _refresh_token(body: Refresh, kept: str | None) -> str:
    if body.refresh_token is not None:
        if body.cookie or kept is not None:
            raise InvalidRequest("refresh_token: there is a cookie too; one of them is enough")
        return body.refresh_token
    if not body.cookie:
        raise InvalidRequest("refresh_token: missing; where it is in the cookie, say so with `cookie`: true")
    if kept is None:
        raise NoCredentials("there is no session cookie")
    return kept


def _nothing() -> Response:
    return Response(status_code=204, headers={"Cache-Control": NO_STORE})


def _shown(one: OwnSession) -> dict[str, object]:
    session = one.session
    return {
        "rid": session.rid,
        "client_id": session.client_id,
        "client_name": one.client_name,
        "device": session.device,
        "address": session.address,
        "created_at": session.created_at,
        "used_at": session.used_at,
        "ends_at": min(session.idle_until, session.expires_at),
        "current": one.current,
    }


def _limit(written: str | None) -> int:
    if written is None:
        return MAX_LISTED
    if not (
        written.isascii() and written.isdecimal() and len(written) <= 3 and 1 <= int(written) <= MAX_LISTED
    ):
        raise InvalidRequest(f"limit: must be from 1 to {MAX_LISTED}")
    return int(written)


def _audience(audience: str | list[str] | None) -> tuple[str, ...]:
    return tuple(audience.split() if isinstance(audience, str) else audience or ())
