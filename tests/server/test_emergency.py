"""What operators do to one ring at once: each change is decided on the ring as it then is."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mintmark.adapters.memory import MemoryStore
from mintmark.core.algorithm import Algorithm
from mintmark.core.key import Activation, KeyKind, KeyMode, KeyState
from mintmark.core.keyring import InvalidTransition, KeyInUse, MixedAlgorithms, activate, prepare
from mintmark.core.timing import Timing
from mintmark.server.emergency import (
    ModeUnavailable,
    hold_key,
    remove_key,
    request_rotation,
    revoke_key,
    switch_kind,
)
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.units import Issuer, Kid, NodeId

ISSUER = Issuer("https://auth.example.com")
TIMING = Timing()
KID = Kid("k")
SHARED = KeyKind(KeyMode.SHARED, Algorithm.ES256)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(clock: FakeClock) -> AsyncIterator[MemoryStore]:
    """A ring with one active key."""
    made = MemoryStore(clock=clock, entropy=SYSTEM_ENTROPY)
    await made.open()
    view = await made.keyring.read(ISSUER)
    ring = prepare(view.ring, kid=KID, node=NodeId("a"), alg="ES256", jwk=b"{}", timing=TIMING, now=view.now)
    ring = activate(ring, KID, Activation.BOOTSTRAP, timing=TIMING, now=view.now)
    assert await made.keyring.swap(0, ring)
    yield made
    await made.close()


async def test_of_many_that_change_a_ring_at_once_none_is_lost(store):
    """Holding, asking for a rotation and switching all take effect; a second to do the same is told so."""
    ring = store.keyring
    held = await asyncio.gather(
        hold_key(ring, ISSUER, KID, held=True),
        hold_key(ring, ISSUER, KID, held=True),
        request_rotation(ring, ISSUER),
        switch_kind(ring, ISSUER, SHARED),
        switch_kind(ring, ISSUER, SHARED),
    )
    assert sorted([held[0], held[1]]) == sorted([held[3], held[4]]) == [False, True]
    view = await ring.read(ISSUER)
    assert (view.ring.kind, view.ring.rotate_requested_at) == (SHARED, view.now)
    assert view.ring.find(KID).held


async def test_revocation_is_stronger_than_holding(store):
    """Whichever comes first, the key is out of the set; who is late to hold it is told."""
    ring = store.keyring
    assert await hold_key(ring, ISSUER, KID, held=True)
    assert await revoke_key(ring, ISSUER, KID, reason="x", timing=TIMING)
    assert (await ring.read(ISSUER)).ring.published() == ()
    with pytest.raises(InvalidTransition):
        await hold_key(ring, ISSUER, KID, held=True)


async def test_key_is_removed_from_the_second_on_that_it_may_be(store, clock):
    """K2: not a second before `publish_until`, which the refusal names, with the latest exp under it."""
    key = (await store.keyring.read(ISSUER)).ring.find(KID)
    clock.advance(key.publish_until - clock.now() - 1)
    with pytest.raises(KeyInUse) as refused:
        await remove_key(store.keyring, ISSUER, KID, timing=TIMING)
    assert refused.value.publish_until == key.publish_until
    assert refused.value.latest_exp == TIMING.latest_exp(key.lease_until)
    clock.advance(1)
    await remove_key(store.keyring, ISSUER, KID, timing=TIMING)
    assert (await store.keyring.read(ISSUER)).ring.keys == ()
    with pytest.raises(InvalidTransition):
        await remove_key(store.keyring, ISSUER, KID, timing=TIMING)


async def test_switch_asks_those_who_live_and_stay(store, clock):
    """A node that cannot stands in the way while it lives, not once it is dead or while it leaves."""
    ring = store.keyring
    await ring.beat(ISSUER, NodeId("able"), ring_generation=1, modes=frozenset(KeyMode))
    await ring.beat(ISSUER, NodeId("unable"), ring_generation=1)
    await ring.beat(ISSUER, NodeId("leaving"), ring_generation=1, modes=frozenset())
    with pytest.raises(ModeUnavailable) as refused:
        await switch_kind(ring, ISSUER, SHARED)
    assert [member.node for member in refused.value.nodes] == ["unable"]
    clock.advance(10)
    assert await switch_kind(ring, ISSUER, SHARED)
    await ring.beat(ISSUER, NodeId("unable"), ring_generation=1)
    assert not await switch_kind(ring, ISSUER, SHARED)


async def test_switch_to_eddsa_waits_for_the_last_key_of_the_others(store, clock):
    """From the second on that it names the switch is taken, and the old key is out with it."""
    kind = KeyKind(KeyMode.OWN, Algorithm.EDDSA)
    with pytest.raises(MixedAlgorithms) as refused:
        await switch_kind(store.keyring, ISSUER, kind)
    clock.advance(refused.value.until - clock.now())
    assert await switch_kind(store.keyring, ISSUER, kind)
    ring = (await store.keyring.read(ISSUER)).ring
    assert (ring.kind, [key.state for key in ring.keys if key.state is not KeyState.REVOKED]) == (kind, [])
