"""POST /revoke: the revocation endpoint (RFC 7009)."""

from starlette.responses import Response

from mintmark.errors import InvalidRequest
from mintmark.http.errors import NO_STORE
from mintmark.http.request import Form, Incoming, credentials_of, form_of
from mintmark.server.clients import Credentials
from mintmark.server.revoking import Revoking


class RevocationEndpoint:
    """The revocation endpoint of one issuer."""

    def __init__(self, revoking: Revoking) -> None:
        self._revoking = revoking

    async def answer(self, request: Incoming) -> Response:
        """200 without a body where the token works no more, whatever it was."""
        await self._revoking.revoke(*token_of(request))
        return Response(status_code=200, headers={"Cache-Control": NO_STORE})


def token_of(request: Incoming) -> tuple[Credentials | None, str]:
    """Who asks about a token, and the token; ``token_type_hint`` may say anything (RFC 7009 s.2.1).

    Raises InvalidRequest where there is none.
    """
    form: Form = form_of(request)
    given = form.parameters
    if "token" not in given:
        raise InvalidRequest("token: missing")
    return credentials_of(request, given.get("client_id"), given.get("client_secret")), given["token"]
