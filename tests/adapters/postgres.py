"""A PostgreSQL store under test, and what the tests see of its server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import make_url

from mintmark.adapters.sql.database import ClockTime
from mintmark.adapters.sql.postgres import Bounds, PostgresStore
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.rig import Rig

PATIENT = Bounds(idle=30_000, lock=40_000, statement=50_000, operation=60_000)
"""For what must not fail on a busy machine; the default ones are for tests of what fails in time."""
PATIENCE = 60.0
"""Real seconds after which a wait has failed."""

_WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def new_store(url: str, *, bounds: Bounds = PATIENT, clock: FakeClock | None = None) -> PostgresStore:
    """A store that is not open; by the server's clock unless it gets one."""
    time = None if clock is None else ClockTime(clock)
    return PostgresStore(make_url(url), entropy=SYSTEM_ENTROPY, time=time, bounds=bounds)


@asynccontextmanager
async def opened(url: str, *, bounds: Bounds = PATIENT) -> AsyncIterator[Any]:
    """A rig on an open PostgresStore, by the server's clock, which is this machine's."""
    store = new_store(url, bounds=bounds)
    await store.open()
    try:
        yield Rig(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)  # type: ignore[arg-type]
    finally:
        await store.close()


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[Any]:
    """A connection of somebody else."""
    connection = await asyncpg.connect(url, timeout=PATIENCE)
    try:
        yield connection
    finally:
        await connection.close()


async def waiting(observer: Any, count: int) -> None:
    """Return once ``count`` statements in the observer's database wait for a lock."""
    async with asyncio.timeout(PATIENCE):
        while True:
            # Within a transaction what was seen once is shown again.
            await observer.execute("SELECT pg_stat_clear_snapshot()")
            if await observer.fetchval(_WAITING) >= count:
                return
            await asyncio.sleep(0.01)


async def until(condition: Callable[[], object]) -> None:
    """Return once ``condition`` is true; TimeoutError where it does not become so."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


def left_behind() -> list[str]:
    """The tasks of stores and of their driver that are still there."""
    found = [getattr(task.get_coro(), "cr_code", None) for task in asyncio.all_tasks()]
    return [
        str(code)
        for code in found
        if code and any(part in code.co_filename for part in ("adapters/sql", "asyncpg", "sqlalchemy"))
    ]
