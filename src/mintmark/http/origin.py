"""Pages of other origins: which may read answers (CORS, Fetch s.3.2), and where a request comes from."""

import contextlib
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mintmark.errors import Unavailable
from mintmark.http.endpoint import Bounds, Endpoint, Respond
from mintmark.http.errors import NO_STORE, ErrorForm, error_response
from mintmark.http.refusal import OriginRefused
from mintmark.http.request import Incoming
from mintmark.server.audit import Audit
from mintmark.server.web_origins import WebOrigins

_VARY: Final = "Origin"
_PREFLIGHT_AGE: Final = "600"
"""Seconds for which a browser may remember a preflight."""
_REQUEST_HEADERS: Final = "authorization, content-type"
_READABLE: Final = "Retry-After, WWW-Authenticate"


def page_of(request: Request, own: str) -> str | None:
    """The origin of the page that made a request; None where the browser does not say, or nobody did.

    No script can set either header. Browsers send ``Origin`` with all but a GET of the same origin, and there
    ``Sec-Fetch-Site`` (Fetch Metadata s.2.4) says so; then it is ``own``.
    """
    origins = request.headers.getlist("origin")
    if not origins:
        return own if request.headers.getlist("sec-fetch-site") == ["same-origin"] else None
    return origins[0] if len(origins) == 1 else None


def check_page(request: Request, own: str, allowed: frozenset[str]) -> None:
    """Raise OriginRefused unless a page of an ``allowed`` origin made the request (ASVS 3.5.1)."""
    if page_of(request, own) not in allowed:
        raise OriginRefused(
            "only pages of the issuer's own origin and of those that the client was added with may do this"
        )


class CrossOrigin:
    """ASGI: one path, by method, for pages of the issuer's origins, with credentials.

    Whatever is answered, an error too, such a page can read it, and no other page can.
    """

    def __init__(
        self, methods: Mapping[str, Respond], *, origins: WebOrigins, audit: Audit, bounds: Bounds
    ) -> None:
        self._origins = origins
        self._audit = audit
        self._allow: Final = ", ".join(sorted(methods))
        self._methods = {
            method: Endpoint(
                self._informed(respond), form=ErrorForm.PROBLEM, headers={}, audit=audit, bounds=bounds
            )
            for method, respond in {**methods, "OPTIONS": self._preflight}.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, for the scope ``http``."""
        request = Request(scope)

        async def readable(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                # One page's answer is none for another, in no cache.
                headers.add_vary_header(_VARY)
                origins = request.headers.getlist("origin")
                # While the store is away they are those of before, so that a page can read that it is.
                if len(origins) == 1 and origins[0] in self._origins.last:
                    headers["Access-Control-Allow-Origin"] = origins[0]
                    headers["Access-Control-Allow-Credentials"] = "true"
                    headers["Access-Control-Expose-Headers"] = _READABLE
            await send(message)

        app: ASGIApp | None = self._methods.get(request.method)
        if app is None:
            refused = HTTPException(405, headers={"Allow": self._allow})
            app = error_response(refused, request, ErrorForm.PROBLEM, self._audit)
        await app(scope, receive, readable)

    def _informed(self, respond: Respond) -> Respond:
        """``respond``, once it is known which pages may read what it says, in the same time for the store."""

        async def informed(request: Incoming) -> Response:
            if "origin" in request.headers:
                with contextlib.suppress(Unavailable):
                    await self._origins.known()
            return await respond(request)

        return informed

    async def _preflight(self, request: Incoming) -> Response:
        # Those that were read for this request, or before: no page can read the error of a preflight.
        check_page(request, self._origins.own, self._origins.last or await self._origins.known())
        return Response(
            status_code=204,
            headers={
                "Cache-Control": NO_STORE,
                "Access-Control-Allow-Methods": self._allow,
                "Access-Control-Allow-Headers": _REQUEST_HEADERS,
                "Access-Control-Max-Age": _PREFLIGHT_AGE,
            },
        )
