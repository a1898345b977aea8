"""Rotation where copies are published: a key waits for every place, an issuer without a key for none."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from mintmark.adapters.memory import MemoryStore
from mintmark.adapters.memory_bus import MemoryBus
from mintmark.core.algorithm import Algorithm
from mintmark.core.events import EventName
from mintmark.core.key import Activation, KeyState
from mintmark.core.keyring import Ring
from mintmark.core.timing import Timing
from mintmark.ports.proof import ProofFailed
from mintmark.server.audit import Audit
from mintmark.server.emergency import request_rotation
from mintmark.server.rotation import Rotation
from mintmark.signer.local import LocalSigner
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.units import Issuer, Kid, NodeId

ISSUER = Issuer("https://auth.example.com")
OWN = "http://127.0.0.1:1/.well-known/jwks.json"
PUBLIC = "https://auth.example.com/.well-known/jwks.json"
FOLDER, BUCKET = "file:///srv/www", "s3://bucket/auth"
TIMING = Timing()


@dataclass
class World:
    """One node, and what can be read back at each place: the ring as it is, or as it was."""

    clock: FakeClock = field(default_factory=FakeClock)
    away: set[str] = field(default_factory=set)
    stale: dict[str, frozenset[Kid]] = field(default_factory=dict)
    served: int = 0
    audit: Audit = field(default_factory=Audit)

    def __post_init__(self) -> None:
        self.store = MemoryStore(clock=self.clock, entropy=SYSTEM_ENTROPY)
        self.signer = LocalSigner(clock=self.clock)
        self.rotation = Rotation(
            ISSUER,
            node=NodeId("node-1"),
            algorithm=Algorithm.ES256,
            store=self.store.keyring,
            signer=self.signer,
            reader=self,
            bus=MemoryBus(clock=self.clock),
            clock=self.clock,
            timing=TIMING,
            audit=self.audit,
            served=lambda: self.served,
            own_url=OWN,
            proof_urls=(PUBLIC,),
            places=(FOLDER, BUCKET),
        )

    async def kids(self, url: str) -> frozenset[Kid]:
        if url in self.away:
            raise ProofFailed(f"{url}: no answer")
        return self.stale.get(url, frozenset(key.kid for key in (await self.ring()).published()))

    async def ring(self) -> Ring:
        return (await self.store.keyring.read(ISSUER)).ring

    async def states(self) -> list[KeyState]:
        return [key.state for key in (await self.ring()).keys]

    async def rounds(self, seconds: int) -> None:
        """A second passes and the node looks, so many times."""
        for _ in range(seconds):
            self.clock.advance(1)
            self.served = (await self.ring()).generation
            await self.rotation.round()
            await self.rotation.answered()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.store.open()
    yield made
    await made.rotation.leave()
    made.signer.close()
    await made.store.close()


async def test_first_key_waits_for_every_place(world):
    """3.4: while a place may still be about to show it, a bootstrap's key does not sign."""
    world.stale[BUCKET] = frozenset()
    await world.rounds(int(TIMING.propagation))
    assert await world.states() == [KeyState.PREPARED]
    del world.stale[BUCKET]
    await world.rounds(2)
    assert await world.states() == [KeyState.ACTIVE]


@pytest.mark.parametrize("place", [FOLDER, BUCKET])
async def test_place_that_is_away_does_not_keep_an_issuer_without_a_key(world, place):
    """F32: after the lag that publication is allowed a bootstrap goes on without it, which is an alarm."""
    world.away.add(place)
    await world.rounds(int(TIMING.propagation) + 4)
    (key,) = (await world.ring()).keys
    assert key.activation is Activation.BOOTSTRAP
    await world.rounds(int(TIMING.propagation) + 4)
    assert world.audit.counts[EventName.PROOF_FAILED] == 1


@pytest.mark.parametrize("place", [FOLDER, BUCKET])
@pytest.mark.parametrize("fault", ["away", "stale"])
async def test_next_key_signs_only_after_it_was_read_from_every_place(world, place, fault):
    """F11, I2: the lead begins when each place shows the key; until then the one before it signs on."""
    await world.rounds(10)
    first = (await world.ring()).keys[0].kid
    if fault == "away":
        world.away.add(place)
    else:
        world.stale[place] = frozenset({first})
    await request_rotation(world.store.keyring, ISSUER)
    await world.rounds(int(TIMING.lead) + int(TIMING.jwks_max_age) + 60)
    assert await world.states() == [KeyState.ACTIVE, KeyState.PREPARED]
    assert (await world.ring()).keys[1].proven_at is None
    assert world.audit.counts[EventName.PROOF_FAILED] > 0

    world.away.clear()
    world.stale.clear()
    await world.rounds(3)
    proven_at = (await world.ring()).keys[1].proven_at
    assert proven_at is not None
    await world.rounds(int(TIMING.lead) + 2)
    assert await world.states() == [KeyState.PASSIVE, KeyState.ACTIVE]
    activated_at = (await world.ring()).keys[1].activated_at
    assert activated_at is not None
    assert activated_at >= proven_at + TIMING.lead
