"""One endpoint as an ASGI application: bounded in time, and with an answer to whatever is raised."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mintmark.errors import MintmarkError, StoreUnavailable
from mintmark.http.errors import ErrorForm, error_response
from mintmark.http.request import BodyReader, Incoming
from mintmark.ports.budget import Budget
from mintmark.ports.clock import Clock
from mintmark.server.audit import Audit
from mintmark.server.deadline import Deadline

STORE_WITHIN: Final = 1.75
"""Seconds that the store may take for all operations of a request; then it is answered with 503.

As long as one operation may take, so that a store that is slow costs no more than one that hangs, however
often a request asks it. What a request waits for besides, a password's hash or a signature, has bounds of its
own and does not count."""
ANSWER_WITHIN: Final = 5.0
"""Seconds after which a request whose body is here is answered with 503, whatever still hangs."""
SEND_WITHIN: Final = 20.0
"""Seconds in which a reader must take what is sent to it."""
ABORT: Final = "mintmark.abort"
"""The ASGI extension of :mod:`mintmark.http.protocol`: a callable that drops the connection."""
_BODILESS: Final = frozenset({"GET", "HEAD"})

Respond = Callable[[Incoming], Awaitable[Response]]


class ReaderTooSlow(MintmarkError):
    """Nobody takes what is sent; there is nobody to be told so."""


class Bounds:
    """The deadlines that all endpoints of one application share."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.bodies = BodyReader(clock)
        self.answers = Deadline(clock, ANSWER_WITHIN, _too_late)
        self._sends = Deadline(clock, SEND_WITHIN, ReaderTooSlow)

    async def answer(self, response: Awaitable[Response]) -> Response:
        """What ``response`` comes to; raises StoreUnavailable where it, or the store in it, is too slow."""
        with Budget(self._clock, STORE_WITHIN).covering():
            return await self.answers.hold(response)

    async def send(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response ``app``; drops the connection of a reader that does not take it in time."""
        try:
            await self._sends.hold(app(scope, receive, send))
        except ReaderTooSlow:
            drop(scope)

    async def push(self, send: Send, message: Message) -> None:
        """Send one message of a stream; raises ReaderTooSlow."""
        await self._sends.hold(send(message))


def drop(scope: Scope) -> None:
    """Let go of the connection at once: what its reader did not take is thrown away."""
    abort = scope.get("extensions", {}).get(ABORT)
    if abort is not None:
        abort()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Calls ``respond`` and sends what it returns, or what its error becomes, with ``headers`` on either."""

    respond: Respond
    form: ErrorForm = field(kw_only=True)
    headers: Mapping[str, str] = field(kw_only=True)
    audit: Audit = field(kw_only=True)
    bounds: Bounds = field(kw_only=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, for the scope ``http``."""
        request = Incoming(scope, receive)
        try:
            if request.method not in _BODILESS:
                request.content = await self.bounds.bodies.read(request)
            response = await self.bounds.answer(self.respond(request))
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - every error becomes a response, and only here
            response = error_response(error, request, self.form, self.audit)
        response.headers.update(self.headers)
        if request.method == "HEAD":
            response.body = b""  # RFC 9110 s.9.3.2: with the headers of GET, Content-Length too.
        await self.bounds.send(response, scope, receive, send)


def _too_late() -> MintmarkError:
    return StoreUnavailable("the request took too long")
