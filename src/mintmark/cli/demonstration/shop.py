"""What clients of the demo do: ada in her shop, and others who keep the cluster busy meanwhile.

They do what clients in use do: an answer that did not come, or says 503, is asked for again, at whatever
node the front chooses. A 400 or 401 is never repeated: it means that the session is over.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import httpx2

from mintmark.cli.demonstration.program import PATIENCE, DemoFailed
from mintmark.core import jws
from mintmark.system import SYSTEM_CLOCK

AUDIENCE: Final = "orders"
SCOPE: Final = "orders:read"
USER: Final = "ada"
CLIENT_ID: Final = "shop"

_CLIENTS: Final = 3
_PAUSE: Final = 0.03
_REFRESH_EVERY: Final = 8
"""Calls of a client between two refreshes."""
_MORE: Final = 60
_HELD_FOR: Final = 45.0
"""Seconds for which a token is shown again and again: less than any token lives here."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a log-in or a refresh was answered with."""

    access_token: str
    refresh_token: str

    @property
    def kid(self) -> str:
        """The key that signed the access token."""
        return str(jws.parse(self.access_token).header.kid)

    @property
    def key(self) -> str:
        """The same, as short as people want it."""
        return self.kid[:8]


class Shop:
    """A client of the issuer, and of the service that takes its tokens."""

    def __init__(self, issuer: str, service: str, password: str, http: httpx2.AsyncClient) -> None:
        self.issuer: Final = issuer
        self.service: Final = service
        self.repeated = 0
        """Requests that were sent again, because no answer came or one that said «later»."""
        self._password = password
        self._http = http

    async def log_in(self, at: str = "") -> Tokens:
        """Ada's tokens from the node ``at``, or from whichever the front chooses."""
        body = {"username": USER, "password": self._password, "client_id": CLIENT_ID}
        answer = await self._ask(
            lambda: self._http.post(f"{at or self.issuer}/v1/sessions", json=body), 201, "a log-in"
        )
        return _tokens(answer)

    async def refresh(self, tokens: Tokens, at: str = "") -> Tokens:
        """What these are exchanged for."""
        return _tokens(await self._refresh(tokens, at, 200, "a refresh"))

    async def is_logged_out(self, tokens: Tokens, at: str) -> None:
        """Raise DemoFailed if the node ``at`` does not refuse to refresh these."""
        await self._refresh(tokens, at, 400, f"a refresh at {at} after the logout")

    async def _refresh(self, tokens: Tokens, at: str, wanted: int, what: str) -> httpx2.Response:
        body = {"refresh_token": tokens.refresh_token, "client_id": CLIENT_ID}
        url = f"{at or self.issuer}/v1/sessions/refresh"
        return await self._ask(lambda: self._http.post(url, json=body), wanted, what)

    async def log_out(self, tokens: Tokens, at: str = "") -> None:
        """End the session of these."""
        headers = {"Authorization": f"Bearer {tokens.access_token}"}
        url = f"{at or self.issuer}/v1/sessions/current"
        await self._ask(lambda: self._http.delete(url, headers=headers), 204, "the log-out")

    async def call(self, access_token: str) -> httpx2.Response:
        """The service's answer to this token, whatever it is."""
        headers = {"Authorization": f"Bearer {access_token}"}
        return await self._answer(
            lambda: self._http.get(f"{self.service}/orders", headers=headers), "the service"
        )

    async def accepted(self, tokens: Tokens, what: str) -> None:
        """Raise DemoFailed if the service does not accept the token, which is ``what``."""
        expect((await self.call(tokens.access_token)).status_code, 200, f"the service, shown {what},")

    async def until_warm(self, tokens: Tokens) -> None:
        """Wait until the service has read the issuer's keys and revocations: before that it says 503."""
        await self._answer(lambda: self.call(tokens.access_token), "the service", later=True)

    async def _ask(
        self, ask: Callable[[], Awaitable[httpx2.Response]], wanted: int, what: str
    ) -> httpx2.Response:
        answer = await self._answer(ask, what, later=True)
        expect(answer.status_code, wanted, what, answer.text)
        return answer

    async def _answer(
        self, ask: Callable[[], Awaitable[httpx2.Response]], what: str, *, later: bool = False
    ) -> httpx2.Response:
        """The first answer; with ``later`` the first that does not say «later»."""
        deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
        while True:
            try:
                answer = await ask()
            except httpx2.TransportError as error:
                said = type(error).__name__
            else:
                if not later or answer.status_code != httpx2.codes.SERVICE_UNAVAILABLE:
                    return answer
                said = answer.text
            if SYSTEM_CLOCK.monotonic() > deadline:
                raise DemoFailed(f"{what} was not answered for {PATIENCE:.0f} s; last: {said}")
            self.repeated += 1
            await SYSTEM_CLOCK.sleep(0.05)


class Traffic:
    """Clients that refresh and call the service without pause, and count which valid tokens are refused.

    Each shows its newest token and, in turn, those of the last 45 s, by whatever key they were signed.
    """

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._held = deque[tuple[float, Tokens]]()
        self._task: asyncio.Task[None] | None = None
        self.calls = 0
        self.refreshed = 0
        self.refusals: list[str] = []
        self.keys: set[str] = set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def go_on(self) -> None:
        """Wait until the clients have made some more calls."""
        wanted = self.calls + _MORE
        while self.calls < wanted and self._task is not None and not self._task.done():
            await SYSTEM_CLOCK.sleep(0.05)

    async def report(self, since: "Report | None" = None) -> "Report":
        """What was counted, or what was since then; raises DemoFailed if a valid token was refused."""
        if self._task is not None and self._task.done():
            self._task.result()
        if self.refusals:
            raise DemoFailed(f"{len(self.refusals)} valid tokens were refused, the first: {self.refusals[0]}")
        now = Report(self.calls, self.refreshed, self._shop.repeated)
        return now if since is None else now.since(since)

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as clients:
                for _ in range(_CLIENTS):
                    clients.create_task(self._shop_around())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _shop_around(self) -> None:
        tokens = await self._shop.log_in()
        while True:
            self._held.append((SYSTEM_CLOCK.monotonic(), tokens))
            self.keys.add(tokens.kid)
            for _ in range(_REFRESH_EVERY // 2):
                await self._show(tokens)
                await self._show_older()
            tokens = await self._shop.refresh(tokens)
            self.refreshed += 1

    async def _show_older(self) -> None:
        while self._held:
            since, tokens = self._held.popleft()
            if SYSTEM_CLOCK.monotonic() - since < _HELD_FOR:
                self._held.append((since, tokens))
                await self._show(tokens)
                return

    async def _show(self, tokens: Tokens) -> None:
        answer = await self._shop.call(tokens.access_token)
        self.calls += 1
        if answer.status_code != httpx2.codes.OK:
            self.refusals.append(f"by key {tokens.key}: {answer.status_code} {answer.text}")
        await SYSTEM_CLOCK.sleep(_PAUSE)


@dataclass(frozen=True, slots=True)
class Report:
    """What the traffic came to."""

    calls: int
    refreshed: int
    repeated: int

    def since(self, before: "Report") -> "Report":
        """What came after ``before``."""
        return Report(
            self.calls - before.calls, self.refreshed - before.refreshed, self.repeated - before.repeated
        )

    def __str__(self) -> str:
        checks = f"{self.calls} checks of valid tokens, 0 refused"
        repeated = "1 request" if self.repeated == 1 else f"{self.repeated} requests"
        return f"{checks}; {self.refreshed} refreshes, {repeated} repeated"


def expect(status: int, wanted: int, what: str, said: str = "") -> None:
    """Raise DemoFailed unless the status is the wanted one."""
    if status != wanted:
        raise DemoFailed(f"{what} was answered with {status} instead of {wanted}. {said}".rstrip())


def _tokens(answer: httpx2.Response) -> Tokens:
    body: dict[str, Any] = answer.json()
    return Tokens(body["access_token"], body["refresh_token"])
