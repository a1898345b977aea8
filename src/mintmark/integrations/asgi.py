"""Bearer tokens over ASGI: finding the token, and answering as RFC 6750 says where it does not do.

:class:`RequireToken` guards a whole application with nothing but the ASGI interface; the frameworks'
own integrations use the two functions below it.
"""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from mintmark.errors import InsufficientScope, InvalidToken, VerificationError, VerifierUnavailable
from mintmark.verifier.verifier import Scopes, Verifier

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOGGER: Final = logging.getLogger("mintmark.verifier")
_CREDENTIALS: Final = re.compile(rb"(?i:bearer) +([A-Za-z0-9._~+/-]+=*) *")
_POLICY_VIOLATION: Final = 1008
_TRY_AGAIN_LATER: Final = 1013


class NoToken(Exception):
    """The request names no bearer token at all (RFC 6750 s.3.1: then the challenge has no error code)."""


class BadRequest(Exception):
    """The request carries credentials that are no single well-formed bearer token."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer: status, headers, and a JSON body that says no more than the headers."""

    status: int
    error: str
    description: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, str]:
        """``error`` and ``error_description``, as OAuth's JSON errors have them."""
        return {"error": self.error, "error_description": self.description}


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The token in the one ``Authorization`` header (RFC 6750 s.2.1); queries and forms are not read.

    Raises NoToken, or BadRequest for two such headers or a malformed one. Another scheme is NoToken.
    """
    found = [value for name, value in headers if name.lower() == b"authorization"]
    if not found:
        raise NoToken
    # Two would be read differently by a proxy and by us.
    if len(found) > 1:
        raise BadRequest
    if found[0].partition(b" ")[0].lower() != b"bearer":
        raise NoToken
    credentials = _CREDENTIALS.fullmatch(found[0])
    if credentials is None:
        raise BadRequest
    return credentials[1].decode("ascii")


def refuse(error: Exception, *, scopes: Iterable[str] = ()) -> Refusal:
    """The answer to ``error``: 400, 401, 403 with a challenge (RFC 6750 s.3), or 503 with Retry-After.

    ``scopes`` are those that the resource needs. Raises ``error`` itself where it is none of ours.
    """
    match error:
        case VerifierUnavailable():
            # No challenge: the client's token may be good, and must not be thrown away for this.
            headers = {"Retry-After": str(error.retry_after), "Cache-Control": "no-store"}
            return Refusal(503, "temporarily_unavailable", error.code, headers)
        case InsufficientScope():
            needed = " ".join(sorted(set(scopes) | set(error.missing)))
            return _challenge(403, "insufficient_scope", "the token lacks a scope", scope=needed)
        case InvalidToken():
            return _challenge(401, "invalid_token", error.code)
        case BadRequest():
            return _challenge(400, "invalid_request", "one Authorization header with one bearer token")
        case NoToken():
            return Refusal(401, "unauthorized", "a bearer token is required", {"WWW-Authenticate": "Bearer"})
    raise error


def _challenge(status: int, error: str, description: str, *, scope: str = "") -> Refusal:
    # Every part is ours and none needs escaping; scopes are checked, since a deployer wrote them.
    parts = [f'error="{error}"', f'error_description="{description}"']
    if scope and re.fullmatch(r"[\x20\x21\x23-\x5b\x5d-\x7e]+", scope):
        parts.append(f'scope="{scope}"')
    headers = {"WWW-Authenticate": "Bearer " + ", ".join(parts), "Cache-Control": "no-store"}
    return Refusal(status, error, description, headers)


def close_code(refusal: Refusal) -> int:
    """The WebSocket close code (RFC 6455 s.7.4) for a server that can only close."""
    return _TRY_AGAIN_LATER if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE else _POLICY_VIOLATION


class RequireToken:
    """An ASGI application that lets only requests with a good token through to ``app``.

    The token is ``scope["token"]`` there. ``exclude`` lists paths that need none. WebSockets are refused
    before they are accepted. The server's lifespan starts and closes the verifier, whether ``app`` has a
    lifespan or not: it begins once the verifier has started, and where that raises (``on_cold="require"``)
    the server is told that startup failed.
    """

    def __init__(
        self,
        app: App,
        verifier: Verifier,
        *,
        scopes: Scopes = (),
        fresh_revocation: bool = False,
        exclude: Iterable[str] = (),
    ) -> None:
        self._app = app
        self._requirement = verifier.require(
            *((scopes,) if isinstance(scopes, str) else scopes), fresh_revocation=fresh_revocation
        )
        self._exclude = frozenset(exclude)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket") or scope.get("path") in self._exclude:
            await self._app(scope, receive, send)
            return
        try:
            token = await self._requirement.averify(bearer_token(scope["headers"]))
        except (NoToken, BadRequest, VerificationError) as error:
            await send_refusal(refuse(error, scopes=self._requirement.scopes), scope, receive, send)
            return
        scope["token"] = token
        await self._app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a lifespan: the verifier is started before the application's, and closed after it."""
        verifier = self._requirement.verifier
        lifespan = _Lifespan(receive, send, verifier.aclose)
        try:
            await lifespan.read()
            try:
                await verifier.astart()
            except VerifierUnavailable as error:
                # Not raised: a server takes that for an application without a lifespan, and serves.
                await send({"type": "lifespan.startup.failed", "message": f"the verifier: {error.code}"})
                return
            try:
                await self._app(scope, lifespan.receive, lifespan.send)
            except Exception as error:
                if lifespan.answered:
                    raise
                # As servers do: an application that ends before it answers has no lifespan.
                _LOGGER.debug("the application has no lifespan: %s", type(error).__name__)
            await lifespan.end()
        finally:
            await verifier.aclose()


class _Lifespan:
    """A server's lifespan, lent to an application that may not know what one is."""

    def __init__(self, receive: Receive, send: Send, close: Callable[[], Awaitable[None]]) -> None:
        self._receive = receive
        self._send = send
        self._close = close
        self._read: list[Message] = []
        self._last = "lifespan.startup"
        self._sent: set[str] = set()

    @property
    def answered(self) -> bool:
        """Whether the application said that its startup is complete, or failed."""
        return not self._sent.isdisjoint({"lifespan.startup.complete", "lifespan.startup.failed"})

    async def read(self) -> None:
        """Wait for the server's next message, and keep it for the application."""
        self._read.append(await self._receive())

    async def receive(self) -> Message:
        """The application's ``receive``."""
        if not self._read:
            await self.read()
        message = self._read.pop()
        self._last = message["type"]
        return message

    async def send(self, message: Message) -> None:
        """The application's ``send``; the verifier is closed before the server hears of the end."""
        if message["type"].startswith("lifespan.shutdown."):
            await self._close()
        self._sent.add(message["type"])
        await self._send(message)

    async def end(self) -> None:
        """Answer whatever the application, which has returned, left unanswered."""
        if "lifespan.startup.failed" in self._sent:
            return
        if not self.answered:
            await self.send({"type": "lifespan.startup.complete"})
            self._read.clear()
        if not any(kind.startswith("lifespan.shutdown.") for kind in self._sent):
            while self._last != "lifespan.shutdown":
                await self.receive()
            await self.send({"type": "lifespan.shutdown.complete"})


async def send_refusal(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """Send ``refusal`` as a response, or, on a WebSocket that cannot answer, as a close before accept."""
    prefix = ""
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await receive()
            await send({"type": "websocket.close", "code": close_code(refusal), "reason": refusal.error})
            return
        prefix = "websocket."
    body = json.dumps(refusal.body).encode()
    headers = {**refusal.headers, "Content-Type": "application/json", "Content-Length": str(len(body))}
    await send(
        {
            "type": f"{prefix}http.response.start",
            "status": refusal.status,
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        }
    )
    await send({"type": f"{prefix}http.response.body", "body": body})
