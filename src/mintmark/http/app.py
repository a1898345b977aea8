"""The HTTP surface of one issuer: which path leads where."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mintmark.http.documents import CORS, Documents
from mintmark.http.endpoint import Bounds, Endpoint, Respond
from mintmark.http.errors import ErrorForm, error_response
from mintmark.http.feed import FeedPages
from mintmark.http.guard import Guard
from mintmark.http.probes import Probes
from mintmark.http.sessions import SessionEndpoints
from mintmark.http.stream import FeedStream
from mintmark.http.token import TokenEndpoint
from mintmark.server import document
from mintmark.server.services import Services

_NONE: Final[Mapping[str, str]] = {}


def create_app(services: Services) -> Starlette:
    """The ASGI application that answers for ``services.issuer``.

    Its endpoints are under the issuer's path; the probes are at the root. Starting and stopping the
    services is for whoever made them.
    """
    path = document.path_of(services.issuer)
    bounds = Bounds(services.clock)
    documents, feed = Documents(services), FeedPages(services)
    sessions, probes = SessionEndpoints(services), Probes(services)

    def route(
        path: str,
        method: str,
        respond: Respond,
        *,
        form: ErrorForm = ErrorForm.PROBLEM,
        headers: Mapping[str, str] = _NONE,
    ) -> Route:
        endpoint = Endpoint(respond, form=form, headers=headers, audit=services.audit, bounds=bounds)
        return Route(path, endpoint, methods=[method])

    discovery = document.discovery_paths(services.issuer)
    routes = [
        route(path + "/token", "POST", TokenEndpoint(services.tokens).answer, form=ErrorForm.OAUTH),
        route(document.jwks_path(services.issuer), "GET", documents.jwks, headers=CORS),
        route(document.key_path(services.issuer, "{kid}"), "GET", documents.key, headers=CORS),
        *(route(place, "GET", documents.discovery, headers=CORS) for place in discovery),
        route(path + "/v1/sessions", "POST", sessions.log_in),
        route(path + "/v1/sessions/refresh", "POST", sessions.refresh),
        route(path + "/v1/sessions/current", "DELETE", sessions.log_out),
        route(path + document.FEED_PATH, "GET", feed.page),
        Route(path + document.STREAM_PATH, FeedStream(services, bounds), methods=["GET"]),
        route("/livez", "GET", probes.live),
        route("/readyz", "GET", probes.ready),
        route("/metrics", "GET", probes.metrics),
    ]

    async def unrouted(request: Request, error: Exception) -> Response:
        return error_response(error, request, ErrorForm.PROBLEM, services.audit)

    https = urlsplit(services.issuer).scheme == "https"
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: unrouted},
        middleware=[Middleware(Guard, audit=services.audit, https=https)],
    )
    # A path is right or wrong; a redirect would send a form, and what is in it, once more.
    app.router.redirect_slashes = False
    return app
