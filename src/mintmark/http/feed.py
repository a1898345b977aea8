"""GET /revocations: the revocation log in pages (design 6.2).

A page that is not the last may be kept by HTTP caches. Where the feed is for holders of a token alone, that
is the caller's own cache: a shared one would give it to everybody.
"""

import hashlib
import hmac
from typing import Final

from starlette.responses import Response

from mintmark.core.feed_table import MEDIA_TYPE
from mintmark.core.log import Cursor, parse_cursor
from mintmark.errors import InvalidRequest, InvalidToken
from mintmark.http.errors import JSON, NO_STORE
from mintmark.http.refusal import CursorUnknown, NoCredentials
from mintmark.http.request import Incoming, names_etag, query_of
from mintmark.ports.revocations import CursorGone
from mintmark.server.segment import Form
from mintmark.server.services import Services

_TYPES: Final = {Form.JSON: JSON, Form.TABLE: MEDIA_TYPE}


class FeedGate:
    """Lets the feed be read by everybody, or by holders of a token (RFC 6750) where there are tokens."""

    def __init__(self, services: Services) -> None:
        self._digests = tuple(_digest(token.encode()) for token in services.feed_tokens)

    @property
    def is_open(self) -> bool:
        """Whether it asks for nothing."""
        return not self._digests

    def check(self, request: Incoming) -> None:
        """Raise NoCredentials or InvalidToken, both 401, unless the request may read the feed."""
        if self.is_open:
            return
        headers = request.headers.getlist("authorization")
        if not headers:
            raise NoCredentials("the revocation feed is for holders of its token")
        scheme, _, token = headers[0].partition(" ")
        shown = _digest(token.strip(" ").encode("utf-8", "surrogateescape"))
        # Digests have one length, and each is compared whole: the time tells nothing about any of them.
        matches = [hmac.compare_digest(shown, digest) for digest in self._digests]
        if len(headers) > 1 or scheme.lower() != "bearer" or True not in matches:
            raise InvalidToken("feed_token", "this is no token of the revocation feed")


class FeedPages:
    """The log of one issuer, from the store itself or as it was read a moment ago."""

    def __init__(self, services: Services) -> None:
        self._segments = services.feed.segments
        self._gate = FeedGate(services)
        self._keepers = "public" if self._gate.is_open else "private"

    async def page(self, request: Incoming) -> Response:
        """The events behind ``after``, or from the first that has not expired."""
        self._gate.check(request)
        form = _form(request)
        segment = await self._segments.page(_after(request), form)
        if isinstance(segment, CursorGone):
            raise CursorUnknown("the log cannot continue from this cursor: begin without one")
        headers = {"Content-Type": _TYPES[form], "Vary": "Accept", "Cache-Control": NO_STORE}
        if segment.max_age:
            headers["Cache-Control"] = f"{self._keepers}, max-age={segment.max_age}"
            headers["ETag"] = segment.etag
            if names_etag(request, segment.etag):
                del headers["Content-Type"]
                return Response(status_code=304, headers=headers)
        return Response(segment.body, headers=headers)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _after(request: Incoming) -> Cursor | None:
    text = query_of(request, "after")
    after = None if text is None else parse_cursor(text)
    if text is not None and after is None:
        raise InvalidRequest("after: not a cursor")
    return after


def _form(request: Incoming) -> Form:
    """The form that is asked for: the compact one only by its own name, so that people get JSON."""
    for wanted in request.headers.get("accept", "").split(","):
        name, *parameters = (part.strip().lower() for part in wanted.split(";"))
        # RFC 9110 s.12.4.2: a weight of zero is «not acceptable».
        if name == MEDIA_TYPE and not any(_is_zero(parameter) for parameter in parameters):
            return Form.TABLE
    return Form.JSON


def _is_zero(parameter: str) -> bool:
    name, _, weight = parameter.partition("=")
    return name.strip() == "q" and weight.strip().strip("0") in {"", "."}
