"""Nodes that share one key and rotate in the same instant, on the real stores (F03, K1, K6)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from tests.registry import STORES

from mintmark.adapters.memory_bus import MemoryBus
from mintmark.core.algorithm import Algorithm
from mintmark.core.events import EventName
from mintmark.core.key import Activation, KeyKind, KeyMode, KeyState
from mintmark.core.keyring import Ring
from mintmark.core.sealing import SealKey
from mintmark.core.timing import Timing
from mintmark.errors import StoreUnavailable
from mintmark.ports.keyring import KeyRingStore
from mintmark.ports.store import Store
from mintmark.server.audit import Audit
from mintmark.server.emergency import request_rotation
from mintmark.server.rotation import Rotation
from mintmark.signer.local import LocalSigner
from mintmark.signer.sealed import Seals
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.units import Issuer, Kid, NodeId

ISSUER = Issuer("https://auth.example.com")
SHARED = KeyKind(KeyMode.SHARED, Algorithm.ES256)
TIMING = Timing()
SECRET = SealKey.from_bytes(b"k" * 32)
ROUNDS = {2: 80, 10: 20}
"""How often so many nodes rotate: a hundred times in all, on each store."""


@dataclass
class Site:
    """Every listener and every public URL answers with the ring of the store."""

    store: KeyRingStore

    async def kids(self, url: str) -> frozenset[Kid]:
        view = await self.store.read(ISSUER)
        return frozenset(key.kid for key in view.ring.published())


class Node:
    """The coordinator of one node, with a signer and a store of its own; its workers catch up at once."""

    def __init__(self, clock: FakeClock, store: Store, number: int) -> None:
        self.audit = Audit()
        self.store = store
        self.signer = LocalSigner(clock=clock, seals=Seals([SECRET], entropy=SYSTEM_ENTROPY))
        self.served = 0
        self.rotation = Rotation(
            ISSUER,
            node=NodeId(f"node-{number}"),
            kind=SHARED,
            store=store.keyring,
            signer=self.signer,
            reader=Site(store.keyring),
            bus=MemoryBus(clock=clock),
            clock=clock,
            timing=TIMING,
            audit=self.audit,
            served=lambda: self.served,
            own_url="http://127.0.0.1:1/.well-known/jwks.json",
            proof_urls=(f"{ISSUER}/.well-known/jwks.json",),
            modes=frozenset({KeyMode.OWN, KeyMode.SHARED}),
        )

    async def run(self) -> None:
        """What a node does in a second, however long the store takes on this machine."""
        for _ in range(20):
            with contextlib.suppress(StoreUnavailable):
                await self.rotation.round()
                await self.rotation.answered()
                self.served = (await self.store.keyring.read(ISSUER)).ring.generation
                return
        raise AssertionError("the store does not answer")

    async def holds(self) -> set[Kid]:
        return {key.kid for key in (await self.signer.status()).keys}


@dataclass
class Cluster:
    """Nodes that share a database and a key-encryption key."""

    clock: FakeClock
    nodes: list[Node]

    async def second(self) -> Ring:
        """Every node works at the same time, and a second passes."""
        await asyncio.gather(*(node.run() for node in self.nodes))
        self.clock.advance(1)
        return (await self.nodes[0].store.keyring.read(ISSUER)).ring

    async def until(self, state: KeyState, *, but: set[Kid]) -> Kid:
        """The first key in ``state`` that is none of ``but``, once it is proven or needed no proof."""
        for _ in range(30):
            keys = [key for key in (await self.second()).keys if key.state is state and key.kid not in but]
            if any(key.proven_at is not None or key.activation is Activation.BOOTSTRAP for key in keys):
                (found,) = keys
                return found.kid
        raise AssertionError(f"no key is {state}")

    def count(self, name: EventName) -> int:
        return sum(node.audit.counts[name] for node in self.nodes)


@pytest.fixture(params=[name for name in STORES if name != "memory"])
def make(request, tmp_path):
    """A store that shares its database with all others that it makes."""
    clock = FakeClock()
    return clock, STORES[request.param](clock, tmp_path, request.getfixturevalue)


@contextlib.asynccontextmanager
async def cluster(make, count: int) -> AsyncIterator[Cluster]:
    clock, made = make
    stores = [made() for _ in range(count)]
    async with AsyncExitStack() as stack:
        for store in stores:
            stack.push_async_callback(store.close)
        await asyncio.gather(*(store.open() for store in stores))
        nodes = [Node(clock, store, number) for number, store in enumerate(stores)]
        for node in nodes:
            stack.callback(node.signer.close)
        yield Cluster(clock, nodes)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", ROUNDS)
async def test_nodes_that_rotate_in_the_same_instant_make_one_key(make, count: int):
    """F03: in a hundred rotations each makes one key, which all nodes sign with; none is lost or doubled."""
    async with cluster(make, count) as nodes:
        seen = {await nodes.until(KeyState.ACTIVE, but=set())}
        for _ in range(ROUNDS[count]):
            await request_rotation(nodes.nodes[0].store.keyring, ISSUER)
            prepared = await nodes.until(KeyState.PREPARED, but=seen)
            nodes.clock.advance(TIMING.lead + 5)
            assert await nodes.until(KeyState.ACTIVE, but=seen) == prepared
            seen.add(prepared)
            ring = await nodes.second()
            (active,) = [key for key in ring.keys if key.state is KeyState.ACTIVE]
            assert active.activation is Activation.PROVEN
            may_sign = {key.kid for key in ring.keys if key.lease_until > nodes.clock.now()}
            for node in nodes.nodes:
                assert active.kid in await node.holds() <= may_sign | {active.kid}, "a key too many or few"
        assert len(seen) == ROUNDS[count] + 1
        assert nodes.count(EventName.KEY_PREPARED) == nodes.count(EventName.KEY_ACTIVATED) == len(seen)
        assert nodes.count(EventName.KEY_DROPPED) == nodes.count(EventName.KEY_LAPSED) == 0
