"""Asks URLs as a verifier would, and keeps what came back as it came."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Self

import httpx2

from mintmark.ports.clock import Clock
from mintmark.server.diagnosis.answer import LARGEST, Answer, NoAnswer, Trouble


class Web:
    """One client without redirects, proxies of the environment and automatic decompression.

    ``patience`` is in real seconds: for a whole answer, and for the first event of a stream.
    """

    def __init__(self, clock: Clock, *, patience: float = 5.0) -> None:
        self._clock = clock
        self._patience = patience
        self._client = httpx2.AsyncClient(timeout=patience, follow_redirects=False, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def get(self, url: str, *, coding: str = "identity", host: str = "") -> Answer | NoAnswer:
        """What ``url`` answers where ``coding`` is the Accept-Encoding; under the name ``host``, if any."""
        headers = {"Accept": "application/json", "Accept-Encoding": coding}
        if host:
            headers["Host"] = host
        try:
            async with asyncio.timeout(self._patience), self._ask(url, headers) as (answer, chunks):
                body = b""
                async for chunk in chunks:
                    body += chunk
                    if len(body) > LARGEST:
                        return NoAnswer(Trouble.BROKEN, "the answer is far larger than a document")
                return _with(answer, body, self._clock)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, OSError) as error:
            return no_answer(error)

    async def first_event(self, url: str) -> Answer | NoAnswer:
        """What the stream at ``url`` begins with; an empty body where it begins and then says nothing."""
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        try:
            async with asyncio.timeout(2 * self._patience), self._ask(url, headers) as (answer, chunks):
                try:
                    async with asyncio.timeout(self._patience):
                        body = await anext(chunks, b"")
                except (TimeoutError, httpx2.ReadTimeout):
                    body = b""
                return _with(answer, body, self._clock)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, OSError) as error:
            return no_answer(error)

    @asynccontextmanager
    async def _ask(
        self, url: str, headers: dict[str, str]
    ) -> AsyncIterator[tuple[Answer, AsyncIterator[bytes]]]:
        asked_at = self._clock.now()
        async with self._client.stream("GET", url, headers=headers) as response:
            given = {name.lower(): value for name, value in response.headers.items()}
            answer = Answer(response.status_code, given, b"", asked_at, self._clock.now())
            yield answer, response.aiter_raw()


def _with(answer: Answer, body: bytes, clock: Clock) -> Answer:
    return Answer(answer.status, answer.headers, body, answer.asked_at, clock.now())


def no_answer(error: BaseException) -> NoAnswer:
    """Which trouble ``error`` of the client was, by what caused it."""
    for cause in _causes(error):
        match cause:
            case socket.gaierror():
                return NoAnswer(Trouble.NAME, cause.strerror or "unknown")
            case ssl.SSLCertVerificationError():
                return NoAnswer(Trouble.TLS, cause.verify_message)
            case ssl.SSLError():
                return NoAnswer(Trouble.TLS, cause.reason or "no TLS is spoken there")
            case ConnectionRefusedError():
                return NoAnswer(Trouble.REFUSED, "connection refused")
            case TimeoutError() | httpx2.TimeoutException():
                return NoAnswer(Trouble.TIMEOUT, "it took too long")
            case OSError() if cause.strerror:
                return NoAnswer(Trouble.BROKEN, cause.strerror)
    return NoAnswer(Trouble.BROKEN, type(error).__name__)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and all that led to it, the innermost first."""
    under = error.__cause__ or error.__context__
    if under is not None:
        yield from _causes(under)
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _causes(part)
    yield error
