"""GET /revocations: the revocation log in pages (design 6.2)."""

from typing import Any, Final

import msgspec
from starlette.responses import Response

from mintmark.core.log import parse_cursor
from mintmark.core.revocation import RevocationEvent
from mintmark.errors import InvalidRequest
from mintmark.http.errors import JSON, NO_STORE
from mintmark.http.refusal import CursorUnknown
from mintmark.http.request import Incoming, query_of
from mintmark.ports.revocations import CursorGone
from mintmark.server.services import Services

_encode: Final = msgspec.json.Encoder().encode


class FeedPages:
    """The log of one issuer, from the store itself."""

    def __init__(self, services: Services) -> None:
        self._issuer = services.issuer
        self._feed = services.feed

    async def page(self, request: Incoming) -> Response:
        """The events behind ``after``, or from the first that has not expired."""
        text = query_of(request, "after")
        after = None if text is None else parse_cursor(text)
        if text is not None and after is None:
            raise InvalidRequest("after: not a cursor")
        page = await self._feed.page(after)
        if isinstance(page, CursorGone):
            raise CursorUnknown("the log cannot continue from this cursor: begin without one")
        body = {
            "issuer": self._issuer,
            "cursor": page.cursor.text(),
            "complete": page.complete,
            "events": [event_members(entry.event) for entry in page.entries],
            "at": page.now,
        }
        return Response(_encode(body), headers={"Content-Type": JSON, "Cache-Control": NO_STORE})


def event_members(event: RevocationEvent) -> dict[str, Any]:
    """The members of one event, in pages and in the stream alike."""
    members: dict[str, Any] = {"kind": event.kind.value, "value": event.value}
    if event.not_before is not None:
        members["not_before"] = event.not_before
    members["expires_at"] = event.expires_at
    return members
