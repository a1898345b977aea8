"""Several issuers behind one listener: which of them a request is for.

The name in ``Host`` chooses the issuers of that host, and among these the longest path wins. Where the name
is none of theirs, as behind a proxy that sends its own, the path alone decides; if that leaves more than one,
the request is for none (421). Each issuer's application knows only paths below its own, so a request that was
meant for another can find nothing there. ``Host`` chooses, and authorises nothing: anybody can send any.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from mintmark.errors import InvalidRequest, NotFound, RequestError
from mintmark.http.app import create_app, issuer_app, probe_app
from mintmark.http.errors import ErrorForm, error_response
from mintmark.http.guard import Guard
from mintmark.http.refusal import Misdirected
from mintmark.server.audit import Audit
from mintmark.server.document import discovery_paths, path_of
from mintmark.server.services import Services
from mintmark.units import Issuer

PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""What is the node's, whatever the name that it was asked under."""


def create_node_app(served: Sequence[Services], *, audit: Audit) -> ASGIApp:
    """The ASGI application of a node that serves ``served``; ``audit`` is for what is no issuer's.

    With one issuer it answers under any name, as if there were no dispatcher.
    """
    if len(served) == 1:
        return create_app(served[0])
    apps: dict[Issuer, ASGIApp] = {services.issuer: issuer_app(services) for services in served}
    return Dispatcher(apps, probes=probe_app(served, audit=audit), audit=audit)


class Dispatcher:
    """ASGI: gives each request to the application of its issuer, to ``probes``, or to nobody."""

    def __init__(self, apps: Mapping[Issuer, ASGIApp], *, probes: ASGIApp, audit: Audit) -> None:
        self._apps = apps
        self._probes = probes
        self._audit = audit
        by_length = sorted(apps, key=lambda issuer: len(path_of(issuer)), reverse=True)
        self._targets = [
            _Target(issuer, urlsplit(issuer).hostname or "", path_of(issuer), discovery_paths(issuer))
            for issuer in by_length
        ]
        self._hosts = frozenset(target.host for target in self._targets)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, for any scope."""
        await self._app(scope)(scope, receive, send)

    def _app(self, scope: Scope) -> ASGIApp:
        if scope["type"] != "http" or scope["path"] in PROBES:
            return self._probes
        try:
            return self._apps[self.issuer_of(scope)]
        except RequestError as refusal:
            response = error_response(refusal, Request(scope), ErrorForm.PROBLEM, self._audit)
            return Guard(response, audit=self._audit, https=False)

    def issuer_of(self, scope: Scope) -> Issuer:
        """The issuer that a request is for.

        Raises InvalidRequest for two names (RFC 9112 s.3.2), NotFound for a path that is no issuer's,
        Misdirected where it could be for more than one.
        """
        name, path = host_of(scope["headers"]), scope["path"]
        of_host = [one for one in self._targets if name not in self._hosts or one.host == name]
        # Where RFC 8414 s.3.1 has the metadata of a path issuer it looks like a path of the outer one.
        found = [one for one in of_host if path in one.metadata]
        found = found or [one for one in of_host if path == one.path or path.startswith(one.path + "/")]
        if not found:
            raise NotFound("no issuer of this node has this path")
        if len([one for one in found if one.path == found[0].path]) > 1:
            raise Misdirected("no issuer of this node has this host")
        return found[0].issuer


@dataclass(frozen=True, slots=True)
class _Target:
    issuer: Issuer
    host: str
    path: str
    metadata: tuple[str, ...]


def host_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The name in ``Host`` in its one spelling, without a port; empty where it has none that can be read.

    Raises InvalidRequest where there is more than one.
    """
    values = [value for key, value in headers if key == b"host"]
    if len(values) > 1:
        raise InvalidRequest("the Host header comes more than once")
    text = values[0].decode("latin-1") if values else ""
    if not text.isascii() or not text.isprintable() or any(c in text for c in "/?#@\\ ,"):
        return ""
    try:
        name = urlsplit(f"//{text}").hostname or ""
    except ValueError:
        return ""
    return name.lower().removesuffix(".")
