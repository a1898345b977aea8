"""Rows that can matter to nobody go by themselves, and a store that is away is asked again."""

import asyncio

import pytest

from mintmark.adapters.memory import MemoryStore
from mintmark.core.directory import Client, User
from mintmark.core.events import EventName
from mintmark.core.sessions import EndCause, SessionStart, start
from mintmark.core.timing import Timing
from mintmark.server.audit import Audit
from mintmark.server.pruning import EVERY, prune
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults, FaultyStore
from mintmark.units import ClientId, Issuer, NumericDate, Rid, Sub

ISSUER = Issuer("https://auth.example.com")
TIMING = Timing()


@pytest.fixture
def clock():
    return FakeClock()


async def with_ended_session(clock: FakeClock) -> tuple[MemoryStore, Rid]:
    """A store with one session that was logged out, and its ``rid``."""
    store = MemoryStore(clock=clock, entropy=SYSTEM_ENTROPY)
    await store.open()
    now = clock.now()
    user = User(
        issuer=ISSUER, sub=Sub("usr_ada"), username="ada", password_hash="x", scopes=(), created_at=now,
        password_changed_at=now,
    )  # fmt: skip
    await store.directory.add_user(user)
    client = Client(
        issuer=ISSUER, client_id=ClientId("shop"), name="Shop", secret_hash=None, grant_types=(),
        audiences=("orders",), scopes=(), first_party=True, created_at=now,
    )  # fmt: skip
    await store.directory.add_client(client)
    begin = SessionStart(
        issuer=ISSUER, sub=user.sub, client_id=client.client_id, scope=(), audience=("orders",)
    )
    session, _ = start(begin, rid=bytes(16), seed=bytes(32), timing=TIMING, now=NumericDate(now))
    assert await store.sessions.start(session, user=user)
    assert await store.sessions.end(ISSUER, session.rid, cause=EndCause.LOGOUT, timing=TIMING)
    return store, session.rid


async def test_expired_rows_go_once_the_store_answers(clock):
    """Six months on, the session that ended and its revocation are gone, though the first try failed."""
    store, rid = await with_ended_session(clock)
    clock.advance(180 * 86_400)

    faults, audit = Faults(clock=clock), Audit()
    faults.fail_before("revocations.prune", times=1)
    pruning = asyncio.create_task(
        prune(ISSUER, store=FaultyStore(store, faults), clock=clock, timing=TIMING, audit=audit)
    )
    for _ in range(3):
        await clock.armed(within=EVERY, beyond=EVERY / 2)
        clock.advance(EVERY)
    await clock.armed(within=EVERY, beyond=EVERY / 2)
    pruning.cancel()
    await asyncio.gather(pruning, return_exceptions=True)
    assert (await store.sessions.read(ISSUER, rid)).session is None
    assert audit.counts[EventName.ROWS_PRUNED] == 1


async def test_clock_of_the_store_that_jumped_removes_nothing(clock):
    """F14, V2: what only one of two clocks calls expired is kept until they agree, revocations above all."""
    store, rid = await with_ended_session(clock)
    clock.step(180 * 86_400)
    machine, audit = FakeClock(), Audit()
    pruning = asyncio.create_task(prune(ISSUER, store=store, clock=machine, timing=TIMING, audit=audit))
    for _ in range(2):
        await machine.armed(within=EVERY, beyond=EVERY / 2)
        machine.advance(EVERY)
    await machine.armed(within=EVERY, beyond=EVERY / 2)
    pruning.cancel()
    await asyncio.gather(pruning, return_exceptions=True)
    assert (await store.sessions.read(ISSUER, rid)).session is not None
    assert audit.counts[EventName.ROWS_PRUNED] == 0
