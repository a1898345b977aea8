"""/v1/sessions: log in, refresh and log out in JSON, for first-party applications."""

import msgspec
from starlette.responses import Response

from mintmark.core.sessions import EndCause
from mintmark.http.errors import NO_STORE
from mintmark.http.refusal import NoCredentials
from mintmark.http.request import Incoming, address_of, bearer_of, credentials_of, json_of
from mintmark.http.token import token_response
from mintmark.server.bearer import BearerTokens
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


class Refresh(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of a refresh."""

    refresh_token: str
    client_id: str | None = None
    client_secret: str | None = None
    scope: str | None = None
    audience: str | list[str] | None = None


class LogOut(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of a log-out without an access token."""

    refresh_token: str


class SessionEndpoints:
    """The session endpoints of one issuer."""

    def __init__(self, services: Services) -> None:
        self._tokens = services.tokens
        self._sessions = services.sessions
        self._bearers = BearerTokens(services.issuer, services.ring)

    async def log_in(self, request: Incoming) -> Response:
        """A new session, 201."""
        body = json_of(request, LogIn)
        granted = await self._tokens.log_in(
            credentials_of(request, body.client_id, body.client_secret),
            username=body.username,
            password=body.password,
            asked=wish(body.scope or None, _audience(body.audience)),
        )
        return token_response(granted, status=201, rid=True)

    async def refresh(self, request: Incoming) -> Response:
        """New tokens of a session: what the grant ``refresh_token`` of /token gives, asked for in JSON."""
        body = json_of(request, Refresh)
        parameters = {GRANT_TYPE: "refresh_token", "refresh_token": body.refresh_token}
        if body.scope:
            parameters["scope"] = body.scope
        credentials = credentials_of(request, body.client_id, body.client_secret)
        granted = await self._tokens.grant(
            credentials, parameters, audience=_audience(body.audience), address=address_of(request)
        )
        return token_response(granted, rid=True)

    async def log_out(self, request: Incoming) -> Response:
        """End the session that the caller holds a token of; 204 also where it had ended before.

        Takes an access token, also an expired one, or any refresh token that the session ever gave.
        """
        token = bearer_of(request)
        if token is not None:
            await self._sessions.end(self._bearers.session_of(token), EndCause.LOGOUT)
        elif request.content:
            await self._sessions.log_out(json_of(request, LogOut).refresh_token)
        else:
            raise NoCredentials("an access token in the Authorization header, or a refresh token in the body")
        return Response(status_code=204, headers={"Cache-Control": NO_STORE})


def _audience(audience: str | list[str] | None) -> tuple[str, ...]:
    return tuple(audience.split() if isinstance(audience, str) else audience or ())
