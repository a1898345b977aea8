"""The adapters that run the suites of their ports: one line each, in ``STORES`` and ``BUSES``."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from tests.adapters.wakeups import listening
from tests.bus_servers import BusServer

from mintmark.adapters.line import LineBus
from mintmark.adapters.memory import MemoryStore
from mintmark.adapters.memory_bus import MemoryBus, MemoryHub
from mintmark.adapters.nats_bus import NatsBus
from mintmark.adapters.postgres_bus import PostgresBus
from mintmark.adapters.redis_bus import RedisBus
from mintmark.adapters.sql.database import ClockTime
from mintmark.adapters.sql.postgres import Bounds, PostgresStore
from mintmark.adapters.sql.sqlite import SqliteStore
from mintmark.adapters.sqlite_bus import SqliteBus
from mintmark.cli.demonstration.front import Fault, Front
from mintmark.cli.demonstration.postgresql import PostgresqlServer
from mintmark.core.mark import UNMARKED, Marks
from mintmark.ports.bus import Bus
from mintmark.ports.bus_place import bus_place
from mintmark.ports.store import Store
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.bus import BusRig
from mintmark.testing.conformance.rig import Rig

Fixture = Callable[[str], Any]
"""A fixture by its name, set up when it is asked for."""
PATIENT = Bounds(idle=30_000, lock=40_000, statement=50_000, operation=60_000)
StoreMaker = Callable[[FakeClock, Path, Fixture], Callable[..., Store]]
"""What it makes takes the marks, or none."""


def memory_store(clock: FakeClock, folder: Path, fixture: Fixture) -> Callable[..., Store]:
    """Stores that share one memory."""
    data = MemoryStore(clock=clock, entropy=SYSTEM_ENTROPY).data
    return lambda marks=UNMARKED: MemoryStore(clock=clock, entropy=SYSTEM_ENTROPY, data=data, marks=marks)


def sqlite_store(clock: FakeClock, folder: Path, fixture: Fixture) -> Callable[..., Store]:
    """Stores that share one file."""
    return lambda marks=UNMARKED: SqliteStore(
        folder / "store.db", clock=clock, entropy=SYSTEM_ENTROPY, marks=marks
    )


def postgresql_store(clock: FakeClock, folder: Path, fixture: Fixture) -> Callable[..., Store]:
    """Stores that share one database, and go by the test's clock instead of the server's.

    They have the patience that a machine which runs many tests at once needs.
    """
    url = make_url(fixture("database"))
    return lambda marks=UNMARKED: PostgresStore(
        url, entropy=SYSTEM_ENTROPY, time=ClockTime(clock), bounds=PATIENT, marks=marks
    )


STORES: dict[str, StoreMaker] = {
    "memory": memory_store,
    "postgresql": postgresql_store,
    "sqlite": sqlite_store,
}


@asynccontextmanager
async def store_rig(name: str, folder: Path, fixture: Fixture) -> AsyncIterator[Rig]:
    """A rig on an empty store; whatever it opened is closed at the end."""
    clock = FakeClock()
    make = STORES[name](clock, folder, fixture)
    opened: list[Store] = []

    async def keyed(marks: Marks) -> Store:
        store = make(marks)
        await store.open()
        opened.append(store)
        return store

    async def peer() -> Store:
        return await keyed(UNMARKED)

    try:
        yield Rig(await peer(), clock, SYSTEM_ENTROPY, peer, make, keyed)
    finally:
        for store in opened:
            await store.close()


@dataclass(frozen=True, slots=True)
class Buses:
    """How to make buses of one cluster, and to break what they run on."""

    make: Callable[[], Bus]
    breakdown: Callable[[], None] = lambda: None
    mend: Callable[[], None] | None = None
    """None for a bus that cannot break."""


async def memory_bus(clock: FakeClock, folder: Path, fixture: Fixture) -> Buses:
    """Buses of one hub."""
    hub = MemoryHub()
    return Buses(lambda: MemoryBus(clock=clock, hub=hub))


async def sqlite_bus(clock: FakeClock, folder: Path, fixture: Fixture) -> Buses:
    """Buses on one file, which vanishes when they break."""
    path = folder / "store.db"
    store = SqliteStore(path, clock=clock, entropy=SYSTEM_ENTROPY)
    await store.open()
    await store.close()

    kept = path.read_bytes()

    def breakdown() -> None:
        for file in folder.iterdir():
            file.write_bytes(b"no database" * 1_000)

    def mend() -> None:
        for file in folder.iterdir():
            file.unlink()
        path.write_bytes(kept)

    return Buses(lambda: SqliteBus(path, clock=clock), breakdown, mend)


async def postgresql_bus(clock: FakeClock, folder: Path, fixture: Fixture) -> Buses:
    """Buses on one database, which ends and refuses all connections when they break."""
    url = make_url(fixture("database"))
    server: PostgresqlServer = fixture("postgresql")

    def breakdown() -> None:
        server.execute(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS false')
        server.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{url.database}'"
        )

    def mend() -> None:
        server.execute(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS true')

    return Buses(lambda: PostgresBus(url, clock=clock, entropy=SYSTEM_ENTROPY), breakdown, mend)


def _aside(act: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def acting() -> None:
        await asyncio.to_thread(act)

    return acting


def _behind_a_line(fixture_name: str, scheme: str) -> Callable[[FakeClock, Path, Fixture], Awaitable[Buses]]:
    async def buses(clock: FakeClock, folder: Path, fixture: Fixture) -> Buses:
        """Buses on one server behind a line that resets every connection when they break."""
        server: BusServer = fixture(fixture_name)
        line: Front = fixture("line_to")(server.port)
        place = bus_place(server.url(SYSTEM_ENTROPY.token_bytes(8).hex(), port=line.port))
        kind = {"redis": RedisBus, "nats": NatsBus}[scheme]
        return Buses(
            lambda: kind(place, clock=clock, entropy=SYSTEM_ENTROPY),
            lambda: line.set(Fault.RESET),
            lambda: line.set(Fault.PASS),
        )

    return buses


async def _nothing() -> None:
    """A change that no store has to hold."""


def _commit_to(path: Path) -> Callable[[], Awaitable[None]]:
    async def commit() -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE alembic_version SET version_num = version_num")
        connection.close()

    return commit


redis_bus = _behind_a_line("redis_server", "redis")
nats_bus = _behind_a_line("nats_server", "nats")
BUSES = {
    "memory": memory_bus,
    "nats": nats_bus,
    "postgresql": postgresql_bus,
    "redis": redis_bus,
    "sqlite": sqlite_bus,
}


@asynccontextmanager
async def bus_rig(name: str, folder: Path, fixture: Fixture) -> AsyncIterator[BusRig]:
    """A rig on a quiet bus; whatever it opened is closed at the end."""
    clock = FakeClock()
    made = await BUSES[name](clock, folder, fixture)
    opened: list[Bus] = []

    async def peer() -> Bus:
        bus = made.make()
        await bus.open()
        opened.append(bus)
        if isinstance(bus, LineBus):
            # A connection that comes about wakes everybody, which a test would take for an announcement.
            await listening(bus)
        return bus

    commit = _commit_to(folder / "store.db") if name == "sqlite" else _nothing
    try:
        yield BusRig(
            await peer(), clock, peer, commit, _aside(made.breakdown), made.mend and _aside(made.mend)
        )
    finally:
        for bus in opened:
            await bus.close()
