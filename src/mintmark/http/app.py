"""The HTTP surface of one issuer: which path leads where."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from mintmark.http.introspect import IntrospectionEndpoint
from mintmark.http.origin import CrossOrigin
from mintmark.http.probes import Probes
from mintmark.http.revoke import RevocationEndpoint
from mintmark.http.sessions import SessionEndpoints
from mintmark.http.stream import FeedStream
from mintmark.http.token import TokenEndpoint
from mintmark.server import document
from mintmark.server.audit import Audit
from mintmark.server.services import Services

_NONE: Final[Mapping[str, str]] = {}


def create_app(services: Services) -> Starlette:
    """The ASGI application of a node that answers for ``services.issuer`` alone.

    Its endpoints are under the issuer's path; the probes are at the root. Starting and stopping the
    services is for whoever made them.
    """
    bounds = Bounds(services.clock)
    routes = [*_issuer_routes(services, bounds), *_probe_routes((services,), services.audit, bounds)]
    return _application(routes, services.audit, https=_is_https(services))


def issuer_app(services: Services) -> Starlette:
    """The same without the probes, for one issuer of several."""
    routes = _issuer_routes(services, Bounds(services.clock))
    return _application(routes, services.audit, https=_is_https(services))


def probe_app(served: Sequence[Services], *, audit: Audit) -> Starlette:
    """The probes alone, about all issuers of a node."""
    return _application(_probe_routes(served, audit, Bounds(served[0].clock)), audit, https=False)


def _issuer_routes(services: Services, bounds: Bounds) -> list[Route]:
    path = document.path_of(services.issuer)
    documents, feed = Documents(services), FeedPages(services)
    route = _routing(services.audit, bounds)
    discovery = document.discovery_paths(services.issuer)
    token, revoke = TokenEndpoint(services.tokens), RevocationEndpoint(services.revoking)
    introspect = IntrospectionEndpoint(services.introspection)
    return [
        route(path + "/token", "POST", token.answer, form=ErrorForm.OAUTH),
        route(path + document.REVOKE_PATH, "POST", revoke.answer, form=ErrorForm.OAUTH),
        route(path + document.INTROSPECT_PATH, "POST", introspect.answer, form=ErrorForm.OAUTH),
        route(document.jwks_path(services.issuer), "GET", documents.jwks, headers=CORS),
        route(document.key_path(services.issuer, "{kid}"), "GET", documents.key, headers=CORS),
        *(route(place, "GET", documents.discovery, headers=CORS) for place in discovery),
        *_session_routes(services, bounds, path + "/v1/sessions"),
        route(path + document.FEED_PATH, "GET", feed.page),
        Route(path + document.STREAM_PATH, FeedStream(services, bounds), methods=["GET"]),
    ]


def _session_routes(services: Services, bounds: Bounds, path: str) -> Iterator[Route]:
    sessions = SessionEndpoints(services)
    for place, methods in {
        path: {"POST": sessions.log_in, "GET": sessions.listed, "DELETE": sessions.end_all},
        path + "/refresh": {"POST": sessions.refresh},
        path + "/current": {"DELETE": sessions.log_out},
        path + "/{rid}": {"DELETE": sessions.end_one},
    }.items():
        endpoint = CrossOrigin(methods, origins=services.web_origins, audit=services.audit, bounds=bounds)
        yield Route(place, endpoint)


def _probe_routes(served: Sequence[Services], audit: Audit, bounds: Bounds) -> list[Route]:
    route, probes = _routing(audit, bounds), Probes(served)
    return [
        route("/livez", "GET", probes.live),
        route("/readyz", "GET", probes.ready),
        route("/metrics", "GET", probes.metrics),
    ]


def _routing(audit: Audit, bounds: Bounds) -> Callable[..., Route]:
    def route(
        path: str,
        method: str,
        respond: Respond,
        *,
        form: ErrorForm = ErrorForm.PROBLEM,
        headers: Mapping[str, str] = _NONE,
    ) -> Route:
        endpoint = Endpoint(respond, form=form, headers=headers, audit=audit, bounds=bounds)
        return Route(path, endpoint, methods=[method])

    return route


def _application(routes: Sequence[Route], audit: Audit, *, https: bool) -> Starlette:
    async def unrouted(request: Request, error: Exception) -> Response:
        return error_response(error, request, ErrorForm.PROBLEM, audit)

    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: unrouted},
        middleware=[Middleware(Guard, audit=audit, https=https)],
    )
    # A path is right or wrong; a redirect would send a form, and what is in it, once more.
    app.router.redirect_slashes = False
    return app


def _is_https(services: Services) -> bool:
    return urlsplit(services.issuer).scheme == "https"
