"""POST /introspect: the introspection endpoint (RFC 7662)."""

import msgspec
from starlette.responses import Response

from mintmark.http.errors import JSON, NO_STORE
from mintmark.http.request import Incoming
from mintmark.http.revoke import token_of
from mintmark.server.introspection import Introspection


class IntrospectionEndpoint:
    """The introspection endpoint of one issuer."""

    def __init__(self, introspection: Introspection) -> None:
        self._introspection = introspection

    async def answer(self, request: Incoming) -> Response:
        """What is known of an active token; of any other nothing but that it is none (s.2.2)."""
        told = await self._introspection.introspect(*token_of(request))
        active: dict[str, object] = {"active": told is not None}
        # Once more behind what is told: no claim of a deployer's says whether the token is good.
        answer = active | dict(told or {}) | active
        headers = {"Content-Type": JSON, "Cache-Control": NO_STORE}
        return Response(msgspec.json.encode(answer), headers=headers)
