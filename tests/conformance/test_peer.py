"""The cluster listener and its caller keep every clause of their port, over real TLS on loopback."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest

from mintmark.adapters.cluster_caller import ClusterCaller
from mintmark.adapters.cluster_listener import ClusterListener, Limits
from mintmark.adapters.cluster_wire import Identity
from mintmark.cli.demonstration.loopback import free_ports
from mintmark.core.keyring import Member
from mintmark.ports.peer import PeerCaller
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.peer import (
    BURST,
    SILENCE,
    PeerConformance,
    PeerRig,
    RecordingService,
)
from mintmark.units import NodeId, NumericDate

LIMITS = Limits(burst=BURST, every=1.0, silence=SILENCE, handshakes=4)


def bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen()
    return sock


def identity(node: str) -> Identity:
    return Identity(NodeId(node), SYSTEM_ENTROPY)


def member_of(node: str, own: Identity, port: int) -> Member:
    return Member(NodeId(node), NumericDate(0), 0, address=f"127.0.0.1:{port}", certificate=own.certificate)


@dataclass
class Place:
    """A listener that can be stopped and started again where it was."""

    clock: FakeClock
    service: RecordingService
    name: str
    callers: dict[bytes, Member]
    own: Identity = field(init=False)
    port: int = field(default_factory=lambda: free_ports(1)[0])
    """One that nobody else gets while it is stopped."""
    task: "asyncio.Task[None] | None" = None

    def __post_init__(self) -> None:
        self.own = identity(self.name)

    async def start(self) -> None:
        sock = bound(self.port)
        listener = ClusterListener(
            sock, identity=self.own, callers=lambda: self.callers, service=self.service, clock=self.clock,
            limits=LIMITS,
        )  # fmt: skip
        self.task = asyncio.create_task(listener.run())

    async def stop(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def rig() -> AsyncIterator[PeerRig]:
    clock = FakeClock()
    service, impostors = RecordingService(), RecordingService()
    callers: dict[bytes, Member] = {}
    identities: dict[str, Identity] = {}
    made: list[ClusterCaller] = []
    place, false = Place(clock, service, "member", callers), Place(clock, impostors, "member", callers)

    def known(node: str) -> Identity:
        own = identities.setdefault(node, identity(node))
        callers[own.certificate] = member_of(node, own, 0)
        return own

    def caller_with(own: Identity) -> PeerCaller:
        made.append(ClusterCaller(own, clock=clock))
        return made[-1]

    def leave(node: str) -> None:
        del callers[identities[node].certificate]

    async def send(node: str, raw: bytes) -> bytes:
        tls = known(node).calling(place.own.certificate)
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port, ssl=tls, server_hostname="x")
        try:
            writer.write(raw)
            return await reader.read()
        finally:
            writer.transport.abort()

    async def connect() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        try:
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async with contextlib.AsyncExitStack() as stack:
        for listening in (place, false):
            await listening.start()
            stack.push_async_callback(listening.stop)
        member = member_of("member", place.own, place.port)
        yield PeerRig(
            clock=clock,
            service=service,
            member=member,
            impostor=replace(member, address=f"127.0.0.1:{false.port}"),
            impostors=impostors,
            join=lambda node: caller_with(known(node)),
            leave=leave,
            stranger=lambda: caller_with(identity("stranger")),
            stop=place.stop,
            restart=place.start,
            send=send,
            connect=connect,
        )
        for caller in made:
            await caller.close()


class TestPeer(PeerConformance):
    """The suite, on real sockets."""
