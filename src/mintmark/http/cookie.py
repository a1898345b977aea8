"""The session cookie: the refresh token of a browser's session, where no script can read it."""

import hashlib
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from mintmark.errors import InvalidRequest
from mintmark.units import Issuer, Seconds

PREFIX: Final = "__Host-mintmark-"
"""Browsers take a cookie of such a name only if it is Secure, for this host alone and for all its paths, so
no neighbour's domain and no plain http can plant one (RFC 6265bis s.4.1.3.2)."""
_NAME_DIGITS: Final = 16
# Strict: only scripts ask for it, and those of pages that are of the issuer's site send it all the same.
_ATTRIBUTES: Final = "Path=/; Secure; HttpOnly; SameSite=Strict"


class SessionCookie:
    """The cookie of one issuer.

    Cookies know hosts and neither ports nor, with this prefix, paths. So the name is made of the issuer's
    whole URL, and issuers that share a host do not share a cookie.
    """

    def __init__(self, issuer: Issuer) -> None:
        self.name: Final = PREFIX + hashlib.sha256(issuer.encode()).hexdigest()[:_NAME_DIGITS]

    def read(self, request: Request) -> str | None:
        """The token in the request's cookie; None without one. Raises InvalidRequest where there are two."""
        pairs = [
            pair.strip(" \t").partition("=")
            for header in request.headers.getlist("cookie")
            for pair in header.split(";")
        ]
        values = [value for name, _, value in pairs if name == self.name]
        if len(values) > 1:
            raise InvalidRequest("the session cookie comes more than once")
        return values[0] if values and values[0] else None

    def keep(self, response: Response, refresh_token: str, lasts: Seconds) -> None:
        """Have the browser keep ``refresh_token``, in place of any other, for as long as it can be used."""
        response.headers.append("set-cookie", f"{self.name}={refresh_token}; Max-Age={lasts}; {_ATTRIBUTES}")

    def clear(self, response: Response) -> None:
        """Have the browser forget it."""
        response.headers.append("set-cookie", f"{self.name}=; Max-Age=0; {_ATTRIBUTES}")
