"""Access tokens as a FastAPI dependency, with OpenAPI, scopes, WebSockets and a lifespan.

::

    auth = Auth(Verifier("https://auth.example.com", audience="orders"))
    app = FastAPI(lifespan=auth.lifespan)

    @app.get("/orders")
    async def orders(token: Annotated[AccessToken, auth.require("orders:read")]) -> list[Order]: ...
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import HTTPException, Security, WebSocketException
from fastapi.openapi.models import OpenIdConnect
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from mintmark.core.claims import AccessToken
from mintmark.errors import InsufficientScope, VerificationError, VerifierUnavailable
from mintmark.integrations.asgi import BadRequest, NoToken, bearer_token, close_code, refuse
from mintmark.verifier.discovery import documents
from mintmark.verifier.verifier import Verifier


class Auth(SecurityBase):
    """A security scheme whose dependency is the verified :class:`~mintmark.AccessToken`.

    Answers 401 and 403 with a challenge (RFC 6750), and 503 with Retry-After where the token could not
    be judged. With ``auto_error=False`` a request without a good token gets None in place of the token;
    a missing scope and a 503 are still answered, since neither means that nobody is there.
    """

    def __init__(
        self,
        verifier: Verifier,
        *,
        scheme_name: str = "mintmark",
        description: str | None = None,
        auto_error: bool = True,
    ) -> None:
        self.verifier = verifier
        self.scheme_name = scheme_name
        self.auto_error = auto_error
        self.model = OpenIdConnect(
            openIdConnectUrl=documents(verifier.issuers[0])[0], description=description
        )
        self._fresh_revocation = False

    async def __call__(
        self, security_scopes: SecurityScopes, connection: HTTPConnection
    ) -> AccessToken | None:
        """The token of this request or WebSocket."""
        try:
            return await self.verifier.averify(
                bearer_token(connection.scope["headers"]),
                scopes=security_scopes.scopes,
                fresh_revocation=self._fresh_revocation,
            )
        except (NoToken, BadRequest, VerificationError) as error:
            answered = isinstance(error, InsufficientScope | VerifierUnavailable)
            if not self.auto_error and not answered:
                return None
            raise self._exception(error, security_scopes, connection) from None

    def require(self, *scopes: str, fresh_revocation: bool = False) -> Any:
        """What goes into ``Annotated[AccessToken, …]``: a token that has all ``scopes``.

        Each of them is one scope, or several with a space between them.
        ``fresh_revocation`` answers 503 rather than rely on revocations older than the verifier's bound.
        """
        # One by one: FastAPI passes them on, and writes them into the OpenAPI document, as they are.
        single = [scope for text in scopes for scope in text.split()]
        return Security(self._fresh() if fresh_revocation else self, scopes=single)

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Load keys and revocations before the first request, and stop following after the last."""
        del app
        await self.verifier.astart()
        try:
            yield
        finally:
            await self.verifier.aclose()

    def _fresh(self) -> "Auth":
        """The same scheme, for a route of its own: FastAPI keeps one answer a request for each object."""
        twin = object.__new__(Auth)
        twin.__dict__.update(self.__dict__)
        twin._fresh_revocation = True
        return twin

    def _exception(
        self, error: Exception, security_scopes: SecurityScopes, connection: HTTPConnection
    ) -> HTTPException | WebSocketException:
        refusal = refuse(error, scopes=security_scopes.scopes)
        can_answer = "websocket.http.response" in connection.scope.get("extensions", {})
        if connection.scope["type"] == "websocket" and not can_answer:
            return WebSocketException(close_code(refusal), refusal.error)
        return HTTPException(refusal.status, refusal.body, refusal.headers)
