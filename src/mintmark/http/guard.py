"""What holds for every request and every response, whatever the endpoint."""

from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mintmark.http.errors import ErrorForm, error_response
from mintmark.http.refusal import HeadersTooLarge, HttpRefusal, UrlTooLong
from mintmark.server.audit import Audit

MAX_URL: Final = 4096
MAX_HEADERS: Final = 100
MAX_HEADER_BYTES: Final = 16 * 1024

_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
_HSTS: Final = (b"strict-transport-security", b"max-age=31536000")


class Guard:
    """Refuses URLs and headers over the limits, and adds what a browser must hear of every answer."""

    def __init__(self, app: ASGIApp, *, audit: Audit, https: bool) -> None:
        self._app = app
        self._audit = audit
        self._added = [_NOSNIFF, _HSTS] if https else [_NOSNIFF]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, for any scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._added]
            await send(message)

        app = self._app
        refusal = _refusal(scope)
        if refusal is not None:
            app = error_response(refusal, Request(scope), ErrorForm.PROBLEM, self._audit)
        await app(scope, receive, guarded)


def _refusal(scope: Scope) -> HttpRefusal | None:
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL:
        return UrlTooLong("the URL is too long")
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS or sum(len(n) + len(v) for n, v in headers) > MAX_HEADER_BYTES:
        return HeadersTooLarge("the headers are too large")
    return None
