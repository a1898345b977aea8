"""The one place where an error becomes a response.

On the endpoints of OAuth it has the form of RFC 6749 s.5.2, elsewhere that of RFC 9457. A failure of ours is
503 and never an answer that would make a client throw its session away; what nobody foresaw is 500, says
nothing to the caller, and is logged by where it happened, because its message could hold anything.
"""

import traceback
from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mintmark.core.events import EventName
from mintmark.errors import (
    Conflict,
    InvalidClient,
    InvalidCredentials,
    InvalidToken,
    NotFound,
    OAuthError,
    RequestError,
    TooManyRequests,
    Unavailable,
)
from mintmark.http.refusal import BodyTooLarge, BodyTooSlow, HttpRefusal, NoCredentials
from mintmark.server.audit import Audit

NO_STORE: Final = "no-store"
PROBLEM: Final = "application/problem+json; charset=utf-8"
JSON: Final = "application/json; charset=utf-8"
TYPE_PREFIX: Final = "urn:mintmark:problem:"
_CHALLENGE_BASIC: Final = 'Basic realm="mintmark", charset="UTF-8"'
_CHALLENGE_BEARER: Final = 'Bearer realm="mintmark"'
_FRAMES: Final = 4

_encode: Final = msgspec.json.Encoder().encode


class ErrorForm(Enum):
    """How an endpoint writes its errors."""

    OAUTH = "oauth"
    PROBLEM = "problem"


def error_response(error: Exception, request: Request, form: ErrorForm, audit: Audit) -> Response:
    """What the caller hears of ``error``; logs what nobody foresaw, once."""
    headers = {"Cache-Control": NO_STORE}
    match error:
        case Unavailable():
            # Its message may name parts of ours that are no business of the caller's.
            audit.record(
                EventName.REQUEST_DEFERRED,
                path=request.url.path,
                reason=str(error),
                cause=type(error).__name__,
            )
            status, code, detail = 503, "temporarily_unavailable", "this cannot be done now; try again"
            headers["Retry-After"] = str(error.retry_after)
        case InvalidToken():
            status, code, detail = 401, "invalid_token", str(error)
            headers["WWW-Authenticate"] = f'{_CHALLENGE_BEARER}, error="invalid_token"'
        case RequestError():
            status, code, detail = error.status, _code(error, form), str(error)
            if isinstance(error, NoCredentials):
                # RFC 6750 s.3.1: no error code where no token came.
                headers["WWW-Authenticate"] = _CHALLENGE_BEARER
            elif isinstance(error, BodyTooLarge | BodyTooSlow):
                # Whatever still comes of the body is not waited for.
                headers["Connection"] = "close"
            elif isinstance(error, InvalidClient) and "authorization" in request.headers:
                headers["WWW-Authenticate"] = _CHALLENGE_BASIC
            elif isinstance(error, TooManyRequests):
                headers["Retry-After"] = str(error.retry_after)
        case HTTPException():
            status, detail = error.status_code, HTTPStatus(error.status_code).phrase
            code = detail.lower().replace(" ", "_")
            headers |= error.headers or {}
        case _:
            report(error, request, audit)
            status, code, detail = 500, "server_error", "something went wrong here"
    return _response(status, code, detail, form, headers)


def report(error: BaseException, request: Request, audit: Audit) -> None:
    """Log what nobody foresaw by its type and its place: its message could hold anything."""
    audit.record(
        EventName.REQUEST_FAILED, path=request.url.path, cause=type(error).__name__, where=_where(error)
    )


def _code(error: RequestError, form: ErrorForm) -> str:
    match error:
        case OAuthError():
            return error.error
        case _ if form is ErrorForm.OAUTH:
            # RFC 6749 s.5.2 has no other word for a request that cannot be read.
            return "invalid_request"
        case InvalidCredentials():
            return "invalid_credentials"
        case NotFound():
            return "not_found"
        case Conflict():
            return "conflict"
        case HttpRefusal():
            return error.code
        case _:
            return HTTPStatus(error.status).phrase.lower().replace(" ", "_")


def _response(status: int, code: str, detail: str, form: ErrorForm, headers: Mapping[str, str]) -> Response:
    if form is ErrorForm.OAUTH:
        body, media_type = _encode({"error": code, "error_description": _described(detail)}), JSON
    else:
        title = HTTPStatus(status).phrase
        problem = {
            "type": TYPE_PREFIX + code,
            "title": title,
            "status": status,
            "detail": detail,
            "code": code,
        }
        body, media_type = _encode(problem), PROBLEM
    return Response(body, status, headers={**headers, "Content-Type": media_type})


def _described(detail: str) -> str:
    # RFC 6749 s.5.2: printable ASCII without quotes and backslashes.
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in detail)


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    return " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames))
