"""Relying parties over HTTPS: whose certificate is believed, and what a proxy sees."""

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import trustme

from mintmark.adapters.relying_parties import HttpRelyingParties
from mintmark.ports.relying_party import Answered, Unanswered
from mintmark.system import SYSTEM_CLOCK
from mintmark.testing.origin import Origin, Reply, Request

TOKEN = "a.b.c"


@dataclass
class Site:
    """A relying party on this machine whose certificate names ``host``."""

    authority: trustme.CA
    host: str
    seen: list[Request]
    origin: Origin

    @property
    def parties(self) -> HttpRelyingParties:
        """What trusts the authority that made the certificate."""
        trusted = ssl.create_default_context()
        self.authority.configure_trust(trusted)
        return HttpRelyingParties(tls=trusted)

    @property
    def uri(self) -> str:
        return f"https://127.0.0.1:{self.origin.port}/logout"


def site(host: str) -> Site:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(tls)
    seen: list[Request] = []

    def answer(_: str, request: Request) -> Reply:
        seen.append(request)
        return Reply()

    origin = Origin(routes={"/logout": "logout"}, answer=answer, clock=SYSTEM_CLOCK, method="POST", tls=tls)
    origin.start()
    return Site(authority, host, seen, origin)


@pytest.fixture
def proven() -> Iterator[Site]:
    made = site("127.0.0.1")
    yield made
    made.origin.close()


@pytest.fixture
def misnamed() -> Iterator[Site]:
    made = site("shop.example.com")
    yield made
    made.origin.close()


async def test_certificate_that_proves_the_host_is_told(proven: Site):
    """Over https, to an authority that is trusted, the token arrives."""
    assert await proven.parties.tell(proven.uri, TOKEN) == Answered(200)
    assert proven.seen[0].body == b"logout_token=a.b.c"


async def test_certificate_of_nobody_is_told_nothing(proven: Site):
    """PARTY-4, DP1: an authority that is not trusted ends the call before a byte of the token is sent."""
    with pytest.raises(Unanswered) as raised:
        await HttpRelyingParties().tell(proven.uri, TOKEN)
    assert raised.value.reason == "connect"
    assert proven.seen == []


async def test_certificate_of_another_host_is_told_nothing(misnamed: Site):
    """PARTY-4, DP1: nor does a good certificate of another name help."""
    with pytest.raises(Unanswered) as raised:
        await misnamed.parties.tell(misnamed.uri, TOKEN)
    assert raised.value.reason == "connect"
    assert misnamed.seen == []


async def test_proxy_of_the_environment_carries_what_leaves_and_cannot_read_it(monkeypatch):
    """PARTY-4: for another host the proxy is asked for a tunnel, and sees neither path, query nor token."""
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    async with server:
        with pytest.raises(Unanswered) as raised:
            await HttpRelyingParties().tell("https://shop.example.com/secret?token=x", TOKEN)
    assert raised.value.reason == "connect"
    assert asked[0].startswith(b"CONNECT shop.example.com:443 ")
    assert b"secret" not in asked[0]
    assert TOKEN.encode() not in asked[0]
