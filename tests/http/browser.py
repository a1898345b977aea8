"""A browser for tests over HTTP: a cookie jar, and the headers that a page's script cannot set."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx2
from tests.http.surface import PASSWORD, Surface, client

from mintmark.http.cookie import SessionCookie
from mintmark.units import Issuer

APP: Final = "https://app.example.com"
"""The origin of the client ``web``."""
OTHER: Final = "https://other.example.com"
"""The origin of the client ``other-web``."""
UNSAFE: Final = (
    ("POST", "/v1/sessions"),
    ("POST", "/v1/sessions/refresh"),
    ("DELETE", "/v1/sessions/current"),
    ("DELETE", "/v1/sessions/{rid}"),
    ("DELETE", "/v1/sessions?keep=current"),
    ("DELETE", "/v1/sessions"),
)
"""Everything that changes something here."""


@dataclass
class Browser:
    """One browser, at a page of ``origin`` unless a call names another."""

    http: httpx2.AsyncClient
    issuer: Issuer
    origin: str = APP
    rid: str = ""

    @property
    def cookie(self) -> str | None:
        """What the jar has; None where nothing is."""
        return self.http.cookies.get(SessionCookie(self.issuer).name)

    @cookie.setter
    def cookie(self, value: str) -> None:
        name, domain = SessionCookie(self.issuer).name, httpx2.URL(self.issuer).host
        if self.cookie is not None:
            self.http.cookies.delete(name, domain=domain, path="/")
        self.http.cookies.set(name, value, domain=domain, path="/")

    async def fetch(
        self, method: str, path: str, *, origin: str | bytes | None = None, **options: Any
    ) -> httpx2.Response:
        """What a script's fetch with credentials is answered."""
        headers = {"Origin": origin or self.origin} | options.pop("headers", {})
        url = self.issuer + path.replace("{rid}", self.rid)
        return await self.http.request(method, url, headers=headers, **options)

    async def log_in(self, client_id: str = "web", **members: Any) -> httpx2.Response:
        """The answer to a log-in whose refresh token goes into the cookie."""
        body = {"username": "alice", "password": PASSWORD, "client_id": client_id, "cookie": True} | members
        answer = await self.fetch("POST", "/v1/sessions", json=body)
        self.rid = answer.json().get("rid", self.rid)
        return answer

    async def refresh(self, client_id: str = "web", **options: Any) -> httpx2.Response:
        """The answer to a refresh by the cookie."""
        return await self.fetch(
            "POST", "/v1/sessions/refresh", json={"cookie": True, "client_id": client_id}, **options
        )

    async def log_out(self, **options: Any) -> httpx2.Response:
        """The answer to a log-out by the cookie."""
        return await self.fetch("DELETE", "/v1/sessions/current", **options)

    async def sessions(self, **options: Any) -> list[dict[str, Any]]:
        """The user's sessions, as the cookie lists them."""
        answer = await self.fetch("GET", "/v1/sessions", **options)
        assert answer.status_code == 200, answer.text
        listed: list[dict[str, Any]] = answer.json()["sessions"]
        return listed


@asynccontextmanager
async def browser_at(node: Surface, **options: Any) -> AsyncIterator[Browser]:
    """A browser that reaches ``node`` alone, with nothing in its jar."""
    transport = httpx2.ASGITransport(app=node.app)
    async with httpx2.AsyncClient(transport=transport) as http:
        yield Browser(http, node.issuer, **options)


async def add_web_clients(node: Surface) -> None:
    """The client of the page APP, and that of the page OTHER."""
    for client_id, origin in (("web", APP), ("other-web", OTHER)):
        added = client(client_id, issuer=node.issuer, name=client_id.title(), origins=(origin,))
        await node.store.directory.add_client(added)
