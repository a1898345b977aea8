"""What is wrong with a request as HTTP: refusals that no use case knows of."""

from typing import ClassVar

from mintmark.errors import RequestError


class HttpRefusal(RequestError):
    """The base of these; ``code`` is stable."""

    code: ClassVar[str]


class NoCredentials(HttpRefusal):
    """The request carries no token."""

    status = 401
    code = "no_credentials"


class OriginRefused(HttpRefusal):
    """A request with the session cookie, or for it, that no page which may use it has made."""

    status = 403
    code = "origin_refused"


class BodyTooSlow(HttpRefusal):
    """A body that did not arrive in time."""

    status = 408
    code = "body_too_slow"


class CursorUnknown(HttpRefusal):
    """The log never gave this cursor, or keeps nothing from there on: take a snapshot."""

    status = 410
    code = "cursor_gone"


class BodyTooLarge(HttpRefusal):
    """A body over the limit."""

    status = 413
    code = "body_too_large"


class UrlTooLong(HttpRefusal):
    """A URL over the limit."""

    status = 414
    code = "url_too_long"


class WrongMediaType(HttpRefusal):
    """A body of another type than the endpoint takes."""

    status = 415
    code = "unsupported_media_type"


class Misdirected(HttpRefusal):
    """A request that could be for more than one of the node's issuers."""

    status = 421
    code = "misdirected_request"


class HeadersTooLarge(HttpRefusal):
    """Headers over the limit."""

    status = 431
    code = "headers_too_large"
