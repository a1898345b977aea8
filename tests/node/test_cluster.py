"""The way from a worker to other nodes: it can ask for signatures, and nothing else."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest
from tests.http.surface import until
from tests.server.town import Town, TownNode, town

from mintmark.core import jws
from mintmark.errors import SignerUnavailable
from mintmark.node.cluster import Cluster
from mintmark.node.elsewhere import Elsewhere
from mintmark.server.settings import read
from mintmark.signer.client import SignerClient
from mintmark.system import SYSTEM_CLOCK
from mintmark.units import Issuer, Kid

ISSUER = Issuer("https://auth.example.com")


@pytest.fixture
async def world() -> AsyncIterator[Town]:
    async with town() as made:
        yield made


@contextlib.asynccontextmanager
async def cluster_of(node: TownNode) -> AsyncIterator[Cluster]:
    """The cluster's side of ``node``, which calls through it."""
    cluster = Cluster(read({"cluster_listen": "off"}, {}), node.node)
    running = asyncio.create_task(cluster.run((node.peering,), (node.peers,)))
    await until(lambda: cluster._peers)
    try:
        yield cluster
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@contextlib.asynccontextmanager
async def channel(cluster: Cluster) -> AsyncIterator[SignerClient]:
    client = SignerClient(cluster.attach(), clock=SYSTEM_CLOCK)
    try:
        yield client
    finally:
        client.close()


async def claims_at(node: TownNode) -> bytes:
    """The claims of a token that ``node`` has minted for itself."""
    client = await node.town.store.directory.client(ISSUER, "spa")  # type: ignore[arg-type]
    assert client is not None
    tokens = await node.services.sessions.log_in(
        client, username="alice", password="correct horse battery staple"
    )
    return jws.parse(tokens.access.access_token).payload


async def test_worker_mints_through_its_control_process(world: Town):
    """What it asks for is signed by another node, and a probe says so; many issuers share the channel."""
    old, new = await world.join("old", key=True), await world.join("new")
    await world.look()
    claims = await claims_at(old)
    async with cluster_of(new) as cluster, channel(cluster) as client:
        elsewhere, unknown = Elsewhere(ISSUER, client), Elsewhere(Issuer("https://other.example"), client)
        await elsewhere.probe()
        token = await elsewhere.sign(old.kid, "at+jwt", claims)
        assert jws.parse(token).header.kid == old.kid
        with pytest.raises(SignerUnavailable):
            await unknown.probe()
        foreign = json.dumps(json.loads(claims) | {"iss": "https://other.example"}).encode()
        for payload in (foreign, b"", b"{}", b"[1]", b'{"iss":7}', b"\xff"):
            with pytest.raises(SignerUnavailable):
                await elsewhere.sign(old.kid, "at+jwt", payload)
        assert await elsewhere.sign(old.kid, "at+jwt", claims)


async def test_worker_that_says_something_else_is_cut_off_alone(world: Town):
    """A frame that is no request ends its channel; another worker's goes on."""
    old, new = await world.join("old", key=True), await world.join("new")
    await world.look()
    async with cluster_of(new) as cluster, channel(cluster) as good:
        loop = asyncio.get_running_loop()
        for frame in (b"\0\0\0\1x", b"\xff\xff\xff\xff", b"\0\0\0\0"):
            evil: socket.socket = cluster.attach()
            with evil:
                evil.setblocking(False)
                await loop.sock_sendall(evil, frame)
                assert await loop.sock_recv(evil, 1) == b""
        assert await Elsewhere(ISSUER, good).sign(Kid(old.kid), "at+jwt", await claims_at(old))


async def test_worker_without_anybody_to_ask_hears_so(world: Town):
    """Where no other node has a key, a request fails as a signer that is away does."""
    alone = await world.join("alone")
    await world.look()
    async with cluster_of(alone) as cluster, channel(cluster) as client:
        with pytest.raises(SignerUnavailable):
            await Elsewhere(ISSUER, client).probe()
