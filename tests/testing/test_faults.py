"""The fault wrappers do what they promise: tests that use them rely on it."""

import asyncio

import pytest

from mintmark.adapters.memory import MemoryStore
from mintmark.adapters.memory_bus import MemoryBus
from mintmark.core.keyring import Ring
from mintmark.core.sessions import Redeem
from mintmark.errors import StoreUnavailable
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.rig import ISSUER, Rig, redeem
from mintmark.testing.faults import Faults, FaultyBus, FaultyStore


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def inner(clock):
    store = MemoryStore(clock=clock, entropy=SYSTEM_ENTROPY)
    await store.open()
    return store


@pytest.fixture
def faults(clock):
    return Faults(clock=clock)


@pytest.fixture
def store(inner, faults):
    return FaultyStore(inner, faults)


def ring(generation):
    return Ring(issuer=ISSUER, generation=generation)


async def test_failure_before_changes_nothing(store, inner, faults):
    """A call that fails before has no effect, and only the named operation fails, as often as told."""
    faults.fail_before("keyring.swap", times=1)
    with pytest.raises(StoreUnavailable):
        await store.keyring.swap(0, ring(1))
    assert (await store.keyring.read(ISSUER)).ring.generation == 0
    assert await store.keyring.swap(0, ring(1))
    assert (await inner.keyring.read(ISSUER)).ring.generation == 1
    assert faults.calls == {"keyring.swap": 2, "keyring.read": 1}


async def test_failure_after_has_done_it(store, faults):
    """A call that fails after raises although it was committed."""
    faults.fail_after("keyring")
    with pytest.raises(StoreUnavailable):
        await store.keyring.swap(0, ring(1))
    faults.recover()
    assert (await store.keyring.read(ISSUER)).ring.generation == 1


async def test_lost_answer_of_a_redemption_loses_no_session(clock, inner, store, faults):
    """F19, I4: the commit's answer is lost, the client asks again, and gets the one successor."""
    rig = Rig(inner, clock, SYSTEM_ENTROPY)
    session, token = await rig.logged_in(*await rig.someone())
    faults.fail_after("sessions.redeem", times=1)
    with pytest.raises(StoreUnavailable):
        await redeem(store, session, token)
    first, second = await redeem(store, session, token), await redeem(store, session, token)
    assert isinstance(first, Redeem)
    assert isinstance(second, Redeem)
    assert not first.rotated
    assert first.token == second.token
    assert (await inner.sessions.read(ISSUER, session.rid)).session.generation == 1


async def test_held_call_waits_at_its_gate(store, inner, faults):
    """What is held before has not happened, what is held after has; both go on when the gate opens."""
    gate = faults.hold_before("keyring.swap")
    swapping = asyncio.ensure_future(store.keyring.swap(0, ring(1)))
    await gate.reached()
    assert (await inner.keyring.read(ISSUER)).ring.generation == 0
    gate.open()
    assert await swapping
    faults.recover()
    gate = faults.hold_after("*")
    swapping = asyncio.ensure_future(store.keyring.swap(1, ring(2)))
    await gate.reached()
    assert (await inner.keyring.read(ISSUER)).ring.generation == 2
    assert not swapping.done()
    faults.recover()
    assert await swapping


async def test_delayed_call_takes_the_clocks_time(store, faults, clock):
    """A delay of five seconds is over when the clock has moved five seconds, not before."""
    faults.delay(5, "now")
    asking = asyncio.ensure_future(store.now())
    await clock.armed(within=5, beyond=4)
    clock.advance(4)
    await asyncio.sleep(0)
    assert not asking.done()
    clock.advance(1)
    assert await asking == clock.now()


async def test_bus_loses_repeats_and_delays(clock):
    """Lost announcements wake nobody, late ones come in another order, copies wake more than once."""
    bus = FaultyBus(MemoryBus(clock=clock), clock=clock)
    await bus.open()
    listener = bus.subscribe()
    bus.losing = True
    await bus.announce()
    assert not await listener.wait(0)
    bus.losing = False
    bus.lateness = [10, 5]
    await bus.announce()
    await bus.announce()
    await clock.armed(within=10, count=2)
    assert not await listener.wait(0)
    for _ in range(2):
        clock.advance(5)
        assert await listener.wait(600)
    bus.copies = 3
    waking = asyncio.ensure_future(bus.announce())
    assert [await listener.wait(600) for _ in range(3)] == [True] * 3
    await waking
    await bus.close()
