"""Certificates of nodes: what is pinned is one certificate, and nothing that it could vouch for."""

import asyncio
import datetime as dt
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from mintmark.adapters.cluster_caller import ClusterCaller
from mintmark.adapters.cluster_listener import ClusterListener
from mintmark.adapters.cluster_wire import Identity
from mintmark.core.keyring import Member
from mintmark.ports.peer import PeerUnavailable
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.peer import ISSUER, RecordingService
from mintmark.units import NodeId, NumericDate


def own(node: str) -> Identity:
    return Identity(NodeId(node), SYSTEM_ENTROPY)


def vouched_for() -> Identity:
    """Registers a certificate that may sign others, and shows one that it has signed."""
    made = own("family")
    authority, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    above = _certificate("above", "above", authority.public_key(), authority, ca=True)
    below = _certificate("below", "above", leaf.public_key(), authority, ca=False)
    made._private = leaf.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    made._shown = below.public_bytes(Encoding.PEM)
    made.certificate = above.public_bytes(Encoding.DER)
    return made


def _certificate(
    name: str,
    by: str,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
) -> x509.Certificate:
    subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, by))
    begins = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
    return (
        x509.CertificateBuilder(issuer, subject, key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + dt.timedelta(days=36_500))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(signer, SHA256())
    )


@dataclass
class Listening:
    """A listener that knows some callers."""

    service: RecordingService
    address: str


@pytest.fixture
async def listen() -> AsyncIterator[object]:
    tasks: list[asyncio.Task[None]] = []

    async def start(identity: Identity, *callers: bytes) -> Listening:
        sock = socket.create_server(("127.0.0.1", 0))
        service = RecordingService()
        known = {each: Member(NodeId("known"), NumericDate(0), 0, certificate=each) for each in callers}
        listener = ClusterListener(
            sock, identity=identity, callers=lambda: known, service=service, clock=FakeClock()
        )
        tasks.append(asyncio.create_task(listener.run()))
        return Listening(service, f"127.0.0.1:{sock.getsockname()[1]}")

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def ask(caller: Identity, listening: Listening, certificate: bytes) -> str:
    member = Member(NodeId("m"), NumericDate(0), 0, address=listening.address, certificate=certificate)
    calling = ClusterCaller(caller, clock=FakeClock())
    try:
        return await calling.sign(member, ISSUER, "at+jwt", b"claims")
    finally:
        await calling.close()


async def test_caller_whose_certificate_was_signed_by_a_known_one_is_unknown(listen):
    """Whoever can register an authority registers one node by it, not any number of them."""
    here, family = own("here"), vouched_for()
    listening = await listen(here, family.certificate)
    with pytest.raises(PeerUnavailable):
        await ask(family, listening, here.certificate)
    assert listening.service.asked == []
    assert [reason for _, reason in listening.service.turned] == ["its certificate is no live node's"]


async def test_listener_whose_certificate_was_signed_by_the_pinned_one_is_another(listen):
    """What is sent reaches the certificate that the row has, and no other."""
    here, family = own("here"), vouched_for()
    listening = await listen(family, here.certificate)
    with pytest.raises(PeerUnavailable):
        await ask(here, listening, family.certificate)
    assert listening.service.asked == []


async def test_row_with_rubbish_for_a_certificate_locks_nobody_out(listen):
    """Whoever can write one row of the table keeps no other node from calling."""
    here, caller = own("here"), own("caller")
    listening = await listen(here, b"rubbish", b"", caller.certificate)
    assert await ask(caller, listening, here.certificate) == "claims"


@pytest.mark.parametrize("address", ["", "nowhere", "127.0.0.1:", "127.0.0.1:99999999", ":1", "[::1", "\0:1"])
async def test_address_that_is_none_is_nobody(address):
    """A row says what it likes: the node is unavailable, and nothing else goes wrong."""
    caller = ClusterCaller(own("here"), clock=FakeClock())
    member = Member(NodeId("m"), NumericDate(0), 0, address=address, certificate=own("m").certificate)
    with pytest.raises(PeerUnavailable):
        await caller.probe(member, ISSUER)
    await caller.close()


def test_identity_leaves_no_file_and_shows_no_key(tmp_path, monkeypatch):
    """The private key is in memory alone, each node's is another, and no descriptor stays open (DP1)."""
    monkeypatch.chdir(tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    first, second = own("node"), own("node")
    first.serving((second.certificate,))
    first.calling(second.certificate)
    assert set(os.listdir("/proc/self/fd")) == before
    assert first.certificate != second.certificate
    assert list(tmp_path.iterdir()) == []
    assert "PRIVATE" not in repr(first)


def test_calls_work_on_the_loop_that_nodes_run_on():
    """uvloop has TLS of its own."""

    async def call() -> str:
        here, caller = own("here"), own("caller")
        sock = socket.create_server(("127.0.0.1", 0))
        known = {caller.certificate: Member(NodeId("c"), NumericDate(0), 0, certificate=caller.certificate)}
        service = RecordingService()
        listener = ClusterListener(
            sock, identity=here, callers=lambda: known, service=service, clock=FakeClock()
        )
        listening = Listening(service, f"127.0.0.1:{sock.getsockname()[1]}")
        task = asyncio.create_task(listener.run())
        try:
            with pytest.raises(PeerUnavailable):
                await ask(own("stranger"), listening, here.certificate)
            return await ask(caller, listening, here.certificate)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(call()) == "claims"
