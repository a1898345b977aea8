"""A few nodes of one cluster in one process: one store in memory, and real cluster listeners on loopback."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests.http.surface import ISSUER, PASSWORD, SECRET, client, password_hash, user

from mintmark.adapters.argon2 import Argon2Hasher
from mintmark.adapters.cluster_caller import ClusterCaller
from mintmark.adapters.cluster_listener import ClusterListener, Limits
from mintmark.adapters.cluster_wire import Identity
from mintmark.adapters.memory import MemoryStore
from mintmark.adapters.memory_bus import MemoryBus
from mintmark.core import keyring
from mintmark.core.algorithm import Algorithm
from mintmark.core.key import Activation
from mintmark.core.keyring import Member
from mintmark.core.logout_token import LOGOUT_TOKEN_TYP
from mintmark.core.minting import ACCESS_TOKEN_TYP
from mintmark.core.timing import Timing
from mintmark.ports.peer import PeerService
from mintmark.server import document
from mintmark.server.audit import Audit
from mintmark.server.peering import Desk, Peering
from mintmark.server.peers import Peers
from mintmark.server.ring import RingFollower
from mintmark.server.services import Services, compose
from mintmark.signer.local import LocalSigner
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.units import Kid, NodeId

__all__ = ["ISSUER", "PASSWORD", "SECRET", "Town", "TownNode", "town"]


@dataclass
class TownNode:
    """One node, and what a test does to it."""

    town: "Town"
    node: NodeId
    services: Services
    signer: LocalSigner
    identity: Identity
    follower: RingFollower
    """The control process's sight of the ring."""
    peering: Peering
    peers: Peers
    caller: ClusterCaller
    audit: Audit
    address: str = ""
    listening: "asyncio.Task[None] | None" = None
    kid: Kid = field(default=Kid(""))

    @property
    def member(self) -> Member:
        """Its row, as it is now."""
        return next(m for m in self.follower.view.members if m.node == self.node)

    async def beat(self) -> None:
        await self.town.store.keyring.beat(
            ISSUER, self.node, ring_generation=1, address=self.address,
            certificate=self.identity.certificate,
        )  # fmt: skip

    async def listen(self, service: PeerService | None = None, limits: Limits | None = None) -> None:
        """Open the cluster listener; ``service`` stands in for its desk."""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        self.address = f"127.0.0.1:{sock.getsockname()[1]}"
        desk = Desk((self.peering,), clock=self.town.clock, audit=self.audit)
        listener = ClusterListener(
            sock, identity=self.identity, callers=desk.callers, service=service or desk,
            clock=self.town.clock, limits=limits,
        )  # fmt: skip
        self.listening = asyncio.create_task(listener.run())

    async def deafen(self) -> None:
        """Its listener is gone; its heartbeat is not."""
        if self.listening is not None:
            self.listening.cancel()
            await asyncio.gather(self.listening, return_exceptions=True)
            self.listening = None

    async def add_key(self, activation: Activation = Activation.BOOTSTRAP) -> Kid:
        """A new active key of this node."""
        store, timing = self.town.store.keyring, self.services.timing
        made = await self.signer.generate(
            issuer=ISSUER, alg=Algorithm.ES256, typs=frozenset({ACCESS_TOKEN_TYP, LOGOUT_TOKEN_TYP})
        )
        public, view = made.public, await store.read(ISSUER)
        prepared = keyring.prepare(
            view.ring, kid=public.kid, node=self.node, alg=public.alg.value,
            jwk=document.encode(public.jwk), timing=timing, now=view.now,
        )  # fmt: skip
        active = keyring.activate(prepared, public.kid, activation, timing=timing, now=view.now)
        assert await store.swap(view.ring.generation, active)
        found = active.find(public.kid)
        assert found is not None
        await self.signer.extend(
            public.kid, max_exp=timing.latest_exp(found.lease_until), lease_until=found.lease_until
        )
        self.kid = public.kid
        return public.kid

    async def close(self) -> None:
        await self.deafen()
        await self.caller.close()
        self.signer.close()


@dataclass
class Town:
    """The cluster: nodes by name, a store, a clock that stands still."""

    clock: FakeClock
    store: MemoryStore
    bus: MemoryBus
    passwords: Argon2Hasher
    nodes: list[TownNode] = field(default_factory=list)

    async def join(self, name: str, *, key: bool = False, listens: bool = True) -> TownNode:
        """A new node; the others know it after :meth:`look`."""
        node, timing, signer = NodeId(name), Timing(), LocalSigner(clock=self.clock)
        audit = Audit(node=node)
        identity = Identity(node, SYSTEM_ENTROPY)
        caller = ClusterCaller(identity, clock=self.clock)
        ring = RingFollower(
            ISSUER, store=self.store.keyring, bus=self.bus, clock=self.clock, timing=timing, audit=audit
        )
        peers = Peers(ISSUER, node=node, ring=ring, caller=caller, clock=self.clock, audit=audit)
        services = compose(
            ISSUER, node=node, timing=timing, algorithm=Algorithm.ES256, store=self.store, bus=self.bus,
            signer=signer, passwords=self.passwords, clock=self.clock, entropy=SYSTEM_ENTROPY, audit=audit,
            followers=10, peers=peers,
        )  # fmt: skip
        peering = Peering(
            ISSUER, node=node, ring=ring, store=self.store, signer=signer, timing=timing, clock=self.clock,
            audit=audit,
        )  # fmt: skip
        made = TownNode(self, node, services, signer, identity, ring, peering, peers, caller, audit)
        self.nodes.append(made)
        if listens:
            await made.listen()
        if key:
            await made.add_key()
        await made.beat()
        return made

    async def look(self) -> None:
        """Every node beats and reads the ring."""
        for node in self.nodes:
            await node.beat()
        for node in self.nodes:
            await node.follower.refresh()
            await node.services.ring.refresh()

    async def age(self, span: float, *, silent: TownNode) -> None:
        """Time passes, in which every node but ``silent`` beats."""
        self.clock.advance(span)
        self.nodes.remove(silent)
        await self.look()
        self.nodes.append(silent)


@contextlib.asynccontextmanager
async def town() -> AsyncIterator[Town]:
    """A cluster without nodes, with Alice, a public client ``spa`` and a service ``stock``."""
    clock = FakeClock()
    store, bus = MemoryStore(clock=clock, entropy=SYSTEM_ENTROPY), MemoryBus(clock=clock)
    await store.open()
    await bus.open()
    passwords = Argon2Hasher(workers=1, queue=8)
    made = Town(clock, store, bus, passwords)
    try:
        await store.directory.add_user(user(password_hash()))
        await store.directory.add_client(client("spa"))
        await store.directory.add_client(
            client("stock", secret=SECRET, grant_types=("client_credentials", "refresh_token"))
        )
        yield made
    finally:
        for node in made.nodes:
            await node.close()
        passwords.close()
        await bus.close()
        await store.close()
