"""Very many nodes that start together: whoever has no key yet, or no slot, mints through one that has."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from tests.cluster.coordinators import Site
from tests.server.town import ISSUER, SECRET, Town, TownNode, town

from mintmark.core import jws
from mintmark.core.algorithm import Algorithm
from mintmark.core.events import EventName
from mintmark.core.key import Activation, KeyState
from mintmark.core.keyring import HEARD_WITHIN, LIVE_FOR
from mintmark.server.clients import ClientAuthMethod, Credentials
from mintmark.server.health import Reason
from mintmark.server.rotation import Rotation
from mintmark.units import Kid

MANY = 48
SOON = LIVE_FOR + HEARD_WITHIN + 4
"""Seconds within which one of them signs, whoever died just before."""


@dataclass
class Crowd:
    """Nodes of a town with their rotations; their workers catch up at once."""

    town: Town
    rotations: dict[str, Rotation] = field(default_factory=dict)

    async def join(self, name: str) -> None:
        node = await self.town.join(name)
        await node.follower.refresh()
        keyring = self.town.store.keyring
        self.rotations[name] = Rotation(
            ISSUER,
            node=node.node,
            algorithm=Algorithm.ES256,
            store=keyring,
            signer=node.signer,
            reader=Site(keyring),
            bus=self.town.bus,
            clock=self.town.clock,
            timing=node.services.timing,
            audit=node.audit,
            served=lambda: node.follower.view.ring.generation,
            own_url="http://127.0.0.1:1/.well-known/jwks.json",
            proof_urls=(f"{ISSUER}/.well-known/jwks.json",),
            address=node.address,
            certificate=node.identity.certificate,
        )

    async def second(self) -> None:
        """Every node works, all at the same time, and a second passes."""
        rotations = [self.rotations[node.node] for node in self.town.nodes]
        await asyncio.gather(*(rotation.round() for rotation in rotations))
        await asyncio.gather(*(rotation.answered() for rotation in rotations))
        self.town.clock.advance(1)
        for node in self.town.nodes:
            await node.follower.refresh()
            await node.services.ring.refresh()

    async def until_active(self) -> Kid:
        """The key that signs, once the nodes have done what there is to do."""
        for _ in range(SOON):
            await self.second()
        ring = (await self.town.store.keyring.read(ISSUER)).ring
        names = {node.node for node in self.town.nodes}
        (active,) = (key for key in ring.keys if key.state is KeyState.ACTIVE and key.node in names)
        assert active.activation is Activation.BOOTSTRAP
        assert len({key.node for key in ring.keys if key.node in names}) <= 8, "the default of signers"
        return active.kid

    async def kill(self, node: TownNode) -> None:
        """It is there no more from one moment to the next."""
        self.town.nodes.remove(node)
        await node.close()

    async def minted(self) -> Counter[str | None]:
        """The keys of one token from each node, all asked for in the same instant."""
        service = Credentials(ClientAuthMethod.CLIENT_SECRET_BASIC, "stock", SECRET)
        granted = await asyncio.gather(
            *(
                node.services.tokens.grant(service, {"grant_type": "client_credentials"})
                for node in self.town.nodes
            )
        )
        return Counter(jws.parse(tokens.access_token).header.kid for tokens in granted)

    def count(self, name: EventName) -> int:
        return sum(node.audit.counts[name] for node in self.town.nodes)


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    async with town() as made:
        yield Crowd(made)


async def test_each_of_very_many_nodes_mints_when_they_start_together(crowd: Crowd):
    """F07, K6: 48 nodes start in the same instant, on an empty store, and each mints at once: one with the
    one key that there is, 47 through that node. It dies, and soon the 47 mint with another."""
    for number in range(MANY):
        await crowd.join(f"node-{number}")
    first = await crowd.until_active()
    assert await crowd.minted() == {first: MANY}
    assert crowd.count(EventName.TOKEN_SIGNED_FOR_PEER) == MANY - 1
    for node in crowd.town.nodes:
        assert Reason.NO_ACTIVE_KEY not in await node.services.health.reasons()

    (signing,) = (node for node in crowd.town.nodes if node.audit.counts[EventName.KEY_ACTIVATED])
    await crowd.kill(signing)
    second = await crowd.until_active()
    assert second != first
    assert await crowd.minted() == {second: MANY - 1}
    assert crowd.count(EventName.TOKEN_SIGNED_FOR_PEER) == MANY - 2
