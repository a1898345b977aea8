"""Over TLS a bus says nothing, least of all a password, before its server has shown who it is."""

import asyncio
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from tests.adapters import wakeups
from tests.adapters.wakeups import heard, listening, missed
from tests.bus_servers import ESCAPED, PASSWORD, BusServer, NatsServer, RedisServer, running

from mintmark.adapters.registry import make_bus
from mintmark.testing.clock import FakeClock

KINDS = ["rediss", "tls"]


class Secrets:
    """An authority, a certificate of the server's and one of a client's, in files."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        self.stranger = folder / "stranger.pem"
        trustme.CA().cert_pem.write_to_path(str(self.stranger))
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        made = authority.issue_cert("127.0.0.1", "client@example.com")
        made.private_key_pem.write_to_path(str(self.key))
        for part in made.cert_chain_pems:
            part.write_to_path(str(self.cert), append=True)


class SecureRedis(RedisServer):
    scheme = "rediss"

    def __init__(self) -> None:
        super().__init__()
        self.secrets = Secrets(self.folder)
        self.extra = (
            f"tls-port {self.admin_port}\ntls-cert-file {self.secrets.cert}\n"
            f"tls-key-file {self.secrets.key}\ntls-ca-cert-file {self.secrets.ca}\ntls-auth-clients yes"
        )

    def url(self, name: str = "", *, port: int | None = None) -> str:
        return super().url(name, port=port or self.admin_port)


class SecureNats(NatsServer):
    scheme = "tls"

    def __init__(self) -> None:
        super().__init__()
        self.secrets = Secrets(self.folder)
        self.extra = (
            f"tls {{cert_file: '{self.secrets.cert}', key_file: '{self.secrets.key}', "
            f"ca_file: '{self.secrets.ca}', verify: true}}"
        )


@pytest.fixture(scope="module", params=[SecureRedis, SecureNats])
def server(request: pytest.FixtureRequest) -> Iterator[BusServer]:
    """A server that speaks TLS, with clients that show a certificate."""
    with running(request.param) as started:
        yield started


def opened(url, clock=None):
    return wakeups.opened(make_bus(url, store="", clock=clock or FakeClock()))


async def test_announcement_is_heard_over_tls(server):
    """BUS-2: with the authority and the certificate that the URL names."""
    found = server.secrets
    url = f"{server.url()}?sslrootcert={found.ca}&sslcert={found.cert}&sslkey={found.key}"
    async with opened(url) as bus, opened(url) as peer:
        await listening(bus)
        subscription = await listening(peer)
        await bus.announce()
        await heard(subscription, bus, peer)
        assert bus.state.place.startswith(f"{server.scheme} 127.0.0.1:")


@pytest.mark.parametrize("trusted", ["system", "stranger"])
async def test_server_of_an_unknown_authority_is_told_nothing(server, trusted, caplog):
    """A certificate that nobody vouches for ends the attempt, with a reason that says so."""
    caplog.set_level(logging.DEBUG)
    options = "" if trusted == "system" else f"?sslrootcert={server.secrets.stranger}"
    async with opened(server.url() + options) as bus:
        assert await missed(bus) == ["the server's certificate is not trusted, or is for another name"]
        assert PASSWORD not in caplog.text + repr(bus.state)


async def test_certificate_for_another_name_is_none(server):
    """It is checked for which name a certificate is."""
    found = server.secrets
    url = f"{server.url()}?sslrootcert={found.ca}&sslcert={found.cert}&sslkey={found.key}"
    async with opened(url.replace("127.0.0.1", "localhost")) as bus:
        assert await missed(bus) == ["the server's certificate is not trusted, or is for another name"]


@pytest.mark.parametrize("scheme", KINDS)
async def test_file_that_is_not_there_is_named_as_the_reason(scheme):
    """A path that leads nowhere is told apart from a server that is away."""
    with tempfile.TemporaryDirectory() as folder:
        silent = await asyncio.start_server(_offer(b'INFO {"tls_required": true}\r\n'), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        async with opened(f"{scheme}://127.0.0.1:{port}?sslrootcert={folder}/none.pem") as bus:
            assert await missed(bus) == ["a file that the URL names cannot be read"]
        silent.close()
        await silent.wait_closed()


@pytest.mark.parametrize("scheme", KINDS)
@pytest.mark.parametrize(
    "offer",
    [
        b'INFO {"version": "2.9.0", "auth_required": true}\r\n',
        b'INFO {"version": "2.9.0", "auth_required": true, "tls_required": false}\r\n',
    ],
)
async def test_password_is_not_said_in_clear_to_who_leaves_tls_out(scheme, offer):
    """Somebody in between, who hides that the server speaks TLS, is told no password: NATS says so in clear,
    and a client that believes it goes on in clear."""
    told = bytearray()
    between = await asyncio.start_server(_offer(offer, told), "127.0.0.1", 0)
    port = between.sockets[0].getsockname()[1]
    try:
        async with opened(f"{scheme}://mintmark:{ESCAPED}@127.0.0.1:{port}") as bus:
            (reason,) = await missed(bus)
            assert "TLS" in reason or "ended the connection" in reason
    finally:
        between.close()
        await between.wait_closed()
    assert PASSWORD.encode() not in told
    assert b"CONNECT" not in told
    assert b"HELLO" not in told


def _offer(offer, told=None):
    async def serve(reader, writer):
        writer.write(offer)
        if told is not None:
            told.extend(await reader.read(65536))
        writer.close()

    return serve
