"""What doctor says of real servers at the public URLs: good ones, bad proxies, and nobody."""

import asyncio
import datetime as dt
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from email.utils import formatdate

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mintmark.cli.demonstration.loopback import free_ports
from mintmark.core.algorithm import Algorithm
from mintmark.core.key import Key, KeyState
from mintmark.core.keyring import Ring
from mintmark.node.examination import machine
from mintmark.node.examination.examination import ENDING
from mintmark.node.examination.publication import look_at_publication
from mintmark.node.examination.store import Looked
from mintmark.node.examination.web import Web
from mintmark.node.worker import DRAIN
from mintmark.server import document
from mintmark.server.diagnosis.answer import NoAnswer, Trouble
from mintmark.server.diagnosis.machine import Free, Held, Unit, Unusable, WallClock
from mintmark.server.setting import Address
from mintmark.server.settings import read
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.origin import Fault, Origin, Reply, Request
from mintmark.units import Issuer, Kid, NodeId, NumericDate, Seconds

ROUTES = {
    "/.well-known/jwks.json": "jwks",
    "/.well-known/openid-configuration": "openid",
    "/.well-known/oauth-authorization-server": "metadata",
    "/revocations/stream": "stream",
    "/readyz": "readyz",
}


def ring(*kids: str) -> Ring:
    keys = tuple(
        Key(
            kid=Kid(kid),
            node=NodeId("n"),
            alg="ES256",
            jwk=json.dumps({"kid": kid, "kty": "EC"}).encode(),
            state=KeyState.ACTIVE,
            since=1,
            prepared_at=NumericDate(1),
            lease_until=NumericDate(2),
        )
        for kid in kids
    )
    return Ring(issuer=Issuer("http://127.0.0.1"), keys=keys)


class Site:
    """A node's documents behind a proxy whose mistakes a test can choose."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.holds_stream = False
        self.zips_always = False
        self.origin = Origin(routes=ROUTES, answer=self._answer, clock=SYSTEM_CLOCK)
        self.origin.start()
        self.issuer = Issuer(f"http://127.0.0.1:{self.origin.port}")

    def _answer(self, name: str, request: Request) -> Reply:
        common = {"Content-Type": "application/json", "Cache-Control": "public, max-age=300"}
        common |= {"Date": formatdate(SYSTEM_CLOCK.now(), usegmt=True), **self.headers}
        match name:
            case "jwks":
                body = document.jwks(ring("a"), max_age=Seconds(300)).body
                if self.zips_always:
                    return Reply(headers=common | {"Content-Encoding": "gzip"}, body=gzip.compress(body))
                return Reply(headers=common, body=body)
            case "stream":
                return Reply(headers={"Content-Type": "text/event-stream"}, stream=self._events())
            case "readyz":
                return Reply(headers=common, body=b'{"status": "ready", "reasons": []}')
            case _:
                made = document.discovery(
                    Ring(issuer=self.issuer), configured=Algorithm.RS256, grant_types=(), max_age=Seconds(300)
                )
                return Reply(headers=common, body=made.body)

    async def _events(self) -> AsyncIterator[bytes]:
        if not self.holds_stream:
            yield b"event: keys\ndata: {}\n\n"
        await asyncio.Event().wait()


@pytest.fixture
def site() -> Iterator[Site]:
    """A site that makes no mistake yet."""
    made = Site()
    yield made
    made.origin.close()


async def looked(issuer: str, *, proof_urls: tuple[str, ...] = (), running=True, patience=20.0, kids="a"):
    settings = read({"issuer": issuer, "proof_urls": list(proof_urls)}, {})
    store = Looked((), ring(*kids), SYSTEM_CLOCK.now(), int(running))
    async with Web(SYSTEM_CLOCK, patience=patience) as web:
        return await look_at_publication(
            settings, store, running=running, web=web, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY
        )


def verdicts(findings) -> dict[str, str]:
    worst = ("failed", "warning", "skipped", "ok")
    ordered = sorted(findings, key=lambda finding: -worst.index(finding.verdict))
    return {finding.check.removeprefix("publication."): finding.verdict.value for finding in ordered}


WELL = {
    "reach": "ok",
    "keys": "ok",
    "cache": "ok",
    "form": "ok",
    "date": "ok",
    "discovery": "ok",
    "stream": "ok",
}


async def test_site_without_mistakes_is_all_well(site: Site):
    """Every check of a site that passes on what a node sends is ok."""
    assert verdicts(await looked(site.issuer)) == WELL


@pytest.mark.parametrize(
    ("headers", "check", "verdict"),
    [
        ({"Cache-Control": "public, max-age=86400"}, "cache", "failed"),
        ({"Age": "4000"}, "cache", "failed"),
        ({"Date": formatdate(1_000_000_000, usegmt=True)}, "date", "warning"),
        ({"Content-Type": "text/plain"}, "form", "warning"),
    ],
)
async def test_header_that_a_proxy_rewrites_is_found(site: Site, headers, check, verdict):
    """A rewritten header is one finding, and only its own."""
    site.headers = headers
    found = verdicts(await looked(site.issuer))
    # An Age makes the answer older than its Date says.
    assert {name for name, got in found.items() if got != "ok"} - {"date"} <= {check}
    assert found[check] == verdict


async def test_compression_that_nobody_asked_for_is_found(site: Site):
    """A proxy that compresses for everybody breaks clients that cannot read it."""
    site.zips_always = True
    assert verdicts(await looked(site.issuer)) == WELL | {"form": "failed"}


async def test_stream_that_is_held_back_is_found(site: Site):
    """A proxy that waits for a full buffer makes a logout late: silence after the header is a failure."""
    site.holds_stream = True
    found = verdicts(await looked(site.issuer, patience=1.0))
    assert found == WELL | {"stream": "failed"}


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.NOT_FOUND, Fault.HTML, Fault.REDIRECT, Fault.GARBAGE])
async def test_key_set_that_is_no_key_set_is_a_failure(site: Site, fault: Fault):
    """What verifiers could not use is no publication, and nothing else is claimed about it."""
    site.origin.fail(fault, "jwks")
    found = verdicts(await looked(site.issuer))
    assert found.pop("reach") == "failed"
    assert set(found.values()) == {"skipped"}


async def test_missing_discovery_is_told_by_form(site: Site):
    """The first form is needed, the second one is for others."""
    site.origin.fail(Fault.NOT_FOUND, "metadata")
    assert verdicts(await looked(site.issuer))["discovery"] == "warning"
    site.origin.fail(Fault.NOT_FOUND, "openid")
    assert verdicts(await looked(site.issuer))["discovery"] == "failed"


async def test_nobody_there_is_a_warning_until_a_node_runs():
    """Where no node runs the fix is to start one; beside live nodes nobody can verify."""
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    assert verdicts(await looked(url, running=False))["reach"] == "warning"
    found = await looked(url, running=True)
    assert verdicts(found)["reach"] == "failed"
    assert "nobody listens there" in found[0].found


async def test_each_url_is_judged_for_itself(site: Site):
    """With `proof_urls` the issuer's own silence is a warning, and the others are asked all the same."""
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    findings = await looked(dead, proof_urls=(site.issuer,))
    reach = {f.subject: f.verdict.value for f in findings if f.check == "publication.reach"}
    assert reach == {
        dead + "/.well-known/jwks.json": "warning",
        site.issuer + "/.well-known/jwks.json": "ok",
    }


async def test_silence_is_bounded(site: Site):
    """A server that takes the question and never answers is given up."""
    site.origin.fail(Fault.HOLD)
    async with Web(SYSTEM_CLOCK, patience=0.5) as web:
        got = await web.get(site.issuer + "/.well-known/jwks.json")
    assert isinstance(got, NoAnswer)
    assert got.trouble is Trouble.TIMEOUT


@pytest.mark.parametrize("fault", [Fault.HUGE, Fault.REFUSE, Fault.TRUNCATE])
async def test_answer_that_breaks_off_or_never_ends_is_none(site: Site, fault: Fault):
    """No more is read than a document can have, and half of one is none."""
    site.origin.fail(fault)
    async with Web(SYSTEM_CLOCK, patience=20.0) as web:
        got = await web.get(site.issuer + "/.well-known/jwks.json")
    assert isinstance(got, NoAnswer)
    assert got.trouble is Trouble.BROKEN


async def test_certificate_that_nobody_trusts_is_named(tmp_path):
    """A server with a certificate of its own making is a matter of TLS, and so is one without TLS."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with Web(SYSTEM_CLOCK, patience=20.0) as web:
        for tls in (context, None):
            server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
            async with server:
                got = await web.get(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
            assert isinstance(got, NoAnswer)
            assert got.trouble is Trouble.TLS, got


# --- the machine -----------------------------------------------------------------------------------


async def listening(port: int, issuer: str, host: str = "127.0.0.1"):
    async with Web(SYSTEM_CLOCK, patience=20.0) as web:
        return await machine.listening(Address(host, port), Issuer(issuer), web)


async def test_address_is_free_held_or_not_ours(site: Site):
    """A free port, one that a node holds, and an address of another machine are told apart."""
    assert await listening(free_ports(1)[0], site.issuer) == Free()
    held = await listening(site.origin.port, site.issuer)
    assert isinstance(held, Held)
    assert json.loads(held.discovery)["issuer"] == site.issuer
    assert held.ready_status == 200
    # RFC 5737: nobody has this address.
    assert isinstance(await listening(8420, site.issuer, "192.0.2.1"), Unusable)


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("LoadState=loaded\nTimeoutStopUSec=16min 55s\n", Unit("mintmark.service", Seconds(1015))),
        ("LoadState=loaded\nTimeoutStopUSec=1min 30s\n", Unit("mintmark.service", Seconds(90))),
        ("LoadState=loaded\nTimeoutStopUSec=infinity\n", Unit("mintmark.service", None)),
        ("LoadState=not-found\nTimeoutStopUSec=1min 30s\n", "there is no mintmark.service"),
    ],
)
async def test_unit_is_read_as_systemd_prints_it(tmp_path, monkeypatch, printed, found):
    """What `systemctl show` says becomes seconds, and a unit that is not there is none."""
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\ncat <<'END'\n{printed}END\n")
    (tmp_path / "systemctl").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert await machine.unit() == found


async def test_machine_without_systemd_is_no_fault(tmp_path, monkeypatch):
    """Neither an absent program nor one that fails is more than a reason to skip."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await machine.unit() == "no systemd here"
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "systemctl").chmod(0o700)
    assert await machine.unit() == "no systemd here"


def test_time_to_leave_covers_the_requests_under_way():
    """What is asked of systemd is longer than what workers give the requests that they have begun."""
    assert ENDING > DRAIN


def test_kernel_is_asked_for_its_clock():
    """The kernel tells, or the reason why it does not is text."""
    match machine.wall_clock():
        case WallClock(max_error=wrong):
            assert wrong >= 0
        case str(why):
            assert why


def test_client_that_fails_without_a_cause_is_broken():
    """An error of the client that says nothing is still an answer of ours."""
    from mintmark.node.examination.web import no_answer

    assert no_answer(httpx2.RemoteProtocolError("x")).trouble is Trouble.BROKEN
