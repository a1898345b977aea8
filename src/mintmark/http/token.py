"""POST /token: the token endpoint (RFC 6749 s.3.2)."""

from typing import Any

import msgspec
from starlette.responses import Response

from mintmark.grants.grant import Granted
from mintmark.http.errors import JSON, NO_STORE
from mintmark.http.request import Incoming, address_of, credentials_of, device_of, form_of
from mintmark.server.tokens import Tokens


class TokenEndpoint:
    """The token endpoint of one issuer."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def answer(self, request: Incoming) -> Response:
        """Tokens for the grant that the form asks for."""
        form = form_of(request)
        parameters = form.parameters
        credentials = credentials_of(request, parameters.get("client_id"), parameters.get("client_secret"))
        granted = await self._tokens.grant(
            credentials,
            parameters,
            audience=form.audience(),
            device=device_of(request),
            address=address_of(request),
        )
        return token_response(granted)


def token_response(
    granted: Granted, *, status: int = 200, rid: bool = False, refresh_token: bool = True
) -> Response:
    """``granted`` as RFC 6749 s.5.1 has it; with ``rid`` it names the session too.

    Without ``refresh_token`` that is left out, for it goes into a cookie.
    """
    answer: dict[str, Any] = {
        "access_token": granted.access_token,
        "token_type": "Bearer",
        "expires_in": granted.expires_in,
    }
    if granted.refresh_token is not None and refresh_token:
        answer["refresh_token"] = granted.refresh_token
    if granted.scope:
        answer["scope"] = " ".join(granted.scope)
    if rid:
        answer["rid"] = granted.rid
    headers = {"Content-Type": JSON, "Cache-Control": NO_STORE}
    return Response(msgspec.json.encode(answer), status, headers=headers)
