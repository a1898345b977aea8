"""Posts logout tokens to relying parties over HTTP, each with a connection of its own."""

import asyncio
import ssl
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Final

import httpx2

from mintmark.core.logout_token import check_uri, is_loopback
from mintmark.ports.relying_party import Answered, Unanswered
from mintmark.units import Seconds

_TIMEOUT: Final = 5.0
"""Seconds for the whole of it: looking the name up, connecting, and the head of the answer."""
_LONGEST: Final = 7
"""Digits of a Retry-After that is believed: more than a hundred days are no number of seconds."""


class HttpRelyingParties:
    """:class:`mintmark.ports.relying_party.RelyingParties`.

    ``tls`` says which authorities are trusted: those of the HTTP client where it is None. A proxy that the
    environment names carries what leaves this machine, through a tunnel that it cannot read.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, timeout: float = _TIMEOUT) -> None:
        self._given = tls
        self._timeout = timeout

    async def tell(self, uri: str, logout_token: str) -> Answered:
        """Post ``logout_token`` to ``uri``; see the port."""
        try:
            # What was checked when it was stored may have been written by somebody else.
            check_uri(uri)
        except ValueError:
            raise Unanswered("uri") from None
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(uri, logout_token)
        except (httpx2.TimeoutException, TimeoutError) as error:
            raise Unanswered("timeout") from error
        except (httpx2.ConnectError, httpx2.ProxyError) as error:
            raise Unanswered("connect") from error
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise Unanswered("uri") from error
        except Exception as error:  # a client's library may raise what it does not document
            raise Unanswered("network") from error

    async def _post(self, uri: str, logout_token: str) -> Answered:
        # A client for each: no cookie, and no connection that somebody holds, is left for the next one.
        client = httpx2.AsyncClient(
            verify=self._tls,
            timeout=self._timeout,
            follow_redirects=False,
            trust_env=not is_loopback(uri),
            headers={"User-Agent": "mintmark", "Accept-Encoding": "identity"},
        )
        async with (
            client,
            client.stream("POST", uri, data={"logout_token": logout_token}) as response,
        ):
            # The body says nothing that is needed, so a long one costs its sender alone.
            return Answered(response.status_code, _retry_after(response.headers))

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        # Reading the authorities takes as long as many deliveries.
        return self._given or httpx2.create_ssl_context()


def _retry_after(headers: httpx2.Headers) -> Seconds | None:
    """Retry-After as a span; a date counts from when the answer says that it was sent."""
    text = headers.get("retry-after", "")
    if text.isascii() and text.isdecimal() and len(text) <= _LONGEST:
        return Seconds(int(text))
    try:
        span = parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("date", ""))
    except (TypeError, ValueError, OverflowError):
        return None
    return Seconds(max(0, int(span.total_seconds())))
