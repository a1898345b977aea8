"""Nodes' coordinators in one process, on a real store and a clock that the test moves.

What a process adds to a coordinator (a signer of its own, workers that serve the ring) is here at once.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.registry import STORES

from mintmark.adapters.memory_bus import MemoryBus, MemoryHub
from mintmark.core.algorithm import Algorithm
from mintmark.core.events import EventName
from mintmark.core.key import Key, KeyState
from mintmark.core.keyring import Ring
from mintmark.core.timing import Timing
from mintmark.errors import StoreUnavailable
from mintmark.ports.keyring import KeyRingStore
from mintmark.ports.signer import SignerRefused
from mintmark.ports.store import Store
from mintmark.server.audit import Audit
from mintmark.server.rotation import Rotation
from mintmark.signer.local import LocalSigner
from mintmark.testing.clock import FakeClock
from mintmark.units import Issuer, Kid, NodeId

ISSUER = Issuer("https://auth.example.com")


@dataclass
class Site:
    """Every listener and every public URL answers with the ring of the store."""

    store: KeyRingStore

    async def kids(self, url: str) -> frozenset[Kid]:
        view = await self.store.read(ISSUER)
        return frozenset(key.kid for key in view.ring.published())


@dataclass
class Doors:
    """Each node listens at its name for as long as it lives, whatever its row says."""

    world: "World"

    async def is_refused(self, address: str) -> bool:
        return address not in {node.name for node in self.world.nodes}


class Coordinator:
    """What one node's control process does about keys, with a signer that dies with it."""

    def __init__(self, world: "World", name: str, store: Store, *, address: str = "") -> None:
        self.name = NodeId(name)
        self.audit = Audit()
        self._clock = world.clock
        self._ring_store = store.keyring
        self._signer = LocalSigner(clock=world.clock)
        self._served = 0
        self._rotation = Rotation(
            ISSUER,
            node=self.name,
            algorithm=Algorithm.ES256,
            store=self._ring_store,
            signer=self._signer,
            reader=Site(self._ring_store),
            bus=MemoryBus(clock=world.clock, hub=world.hub),
            clock=world.clock,
            timing=world.timing,
            audit=self.audit,
            served=lambda: self._served,
            own_url="http://127.0.0.1:1/.well-known/jwks.json",
            proof_urls=(f"{ISSUER}/.well-known/jwks.json",),
            address=address or name,
            doorway=Doors(world),
        )

    async def work(self) -> None:
        """What a node does in a second, however long the store takes on this machine.

        While it waits for a key it looks as often as a process does, which makes three rounds at least.
        """
        for _ in range(3):
            await self._round()
            if not self._rotation.is_waiting:
                return

    async def _round(self) -> None:
        for _ in range(20):
            with contextlib.suppress(StoreUnavailable):
                await self._rotation.round()
                await self._rotation.answered()
                self._served = (await self._ring_store.read(ISSUER)).ring.generation
                return
        raise AssertionError("the store does not answer")

    async def can_mint(self, ring: Ring, timing: Timing) -> bool:
        """Whether it signs a token of the full lifetime with a key of its own.

        Who mints through a peer is asked elsewhere: here everybody has a signer, and no listener.
        """
        key = ring.held_by(self.name, KeyState.ACTIVE)
        if key is None:
            return False
        claims = b'{"iss":"%s","exp":%d}' % (ISSUER.encode(), self._clock.now() + timing.access_ttl)
        with contextlib.suppress(SignerRefused):
            await self._signer.sign(key.kid, "at+jwt", claims)
            return True
        return False

    async def holds(self, kid: Kid) -> bool:
        """Whether its signer has the private half."""
        return kid in {key.kid for key in (await self._signer.status()).keys}

    def die(self) -> None:
        """What is in memory is gone; nobody hears of it."""
        self._signer.close()


@dataclass
class World:
    """A database that outlives all nodes, and the time."""

    clock: FakeClock
    stores: list[Store]
    timing: Timing = field(default_factory=Timing)
    hub: MemoryHub = field(default_factory=MemoryHub)
    nodes: list[Coordinator] = field(default_factory=list)
    counts: Counter[EventName] = field(default_factory=Counter)
    """The events of nodes that died."""
    started: int = 0

    def start(self, *, address: str = "") -> Coordinator:
        """One more node; others are told its name for an address, or this one."""
        self.started += 1
        node = Coordinator(
            self, f"node-{self.started}", self.stores[self.started % len(self.stores)], address=address
        )
        self.nodes.append(node)
        return node

    def kill(self, node: Coordinator) -> None:
        """A node that is there no more from one moment to the next."""
        self.nodes.remove(node)
        self.counts.update(node.audit.counts)
        node.die()

    async def second(self) -> Ring:
        """Every node works, all at the same time, and a second passes; the ring thereafter."""
        await asyncio.gather(*(node.work() for node in self.nodes))
        self.clock.advance(1)
        return await self.ring()

    async def ring(self) -> Ring:
        return (await self.stores[0].keyring.read(ISSUER)).ring

    def count(self, name: EventName) -> int:
        return self.counts[name] + sum(node.audit.counts[name] for node in self.nodes)


def keys_in(ring: Ring, state: KeyState) -> list[Key]:
    return [key for key in ring.keys if key.state is state]


@contextlib.asynccontextmanager
async def world_on(name: str, folder: Path, fixture: Any, *, stores: int = 1) -> AsyncIterator[World]:
    """A world on an empty database of the kind ``name``, which so many stores share."""
    clock = FakeClock()
    make = STORES[name](clock, folder, fixture)
    opened = [make() for _ in range(stores)]
    async with AsyncExitStack() as stack:
        for store in opened:
            stack.push_async_callback(store.close)
        await asyncio.gather(*(store.open() for store in opened))
        world = World(clock, opened)
        yield world
        for node in list(world.nodes):
            world.kill(node)
