"""Durable writes per second through the SQLite store, beside the bare database in the same run.

    python benchmarks/bench_store.py [--seconds 0.5] [--rounds 5] [--folder /tmp] [--json]

*raw* is sqlite3 in this thread: one UPDATE of one session in a transaction of its own, synced, over and
over. *redeem* is ``store.sessions.redeem`` with 1, 8 or 64 callers, which share transactions; *refresh* is a
read and a redemption, which is what a refresh asks of the store. Rounds interleave all of them and medians
are shown; the disk decides what a sync costs, so only ratios carry over to another machine. What the bus
costs, a look at the file 40 times a second, follows.
"""

import argparse
import asyncio
import json
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from mintmark.adapters.sql.sqlite import SqliteStore
from mintmark.adapters.sqlite_bus import INTERVAL, SqliteBus
from mintmark.core.sessions import Redeem, RefreshToken
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.rig import Rig
from mintmark.units import NumericDate, Rid

CALLERS = (1, 8, 64)
TOKEN = RefreshToken(rid=Rid(""), generation=0, signature=b"")


async def per_second(seconds: float, callers: int, once: Callable[[int], Awaitable[None]]) -> float:
    """How often ``once`` is done in a second, with ``callers`` that do it over and over."""
    done, start = 0, time.perf_counter()

    async def caller(number: int) -> None:
        nonlocal done
        while time.perf_counter() - start < seconds:
            await once(number)
            done += 1

    await asyncio.gather(*(caller(number) for number in range(callers)))
    return done / (time.perf_counter() - start)


def raw_per_second(path: Path, seconds: float) -> float:
    """The same of the bare database."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    (rid,) = connection.execute("SELECT rid FROM sessions").fetchone()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE sessions SET last_exp = last_exp + 1 WHERE rid = ?", (rid,))
        connection.execute("COMMIT")
        done += 1
    connection.close()
    return done / (time.perf_counter() - start)


async def measure(folder: Path, seconds: float, rounds: int) -> dict[str, float]:
    """Medians of interleaved rounds, by contender; the bus in microseconds a look."""
    path = folder / "store.db"
    store = SqliteStore(path, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
    await store.open()
    rig = Rig(store, FakeClock(SYSTEM_CLOCK.now()), SYSTEM_ENTROPY)
    user, client = await rig.someone()
    sessions = [(await rig.logged_in(user, client))[0] for _ in range(max(CALLERS))]

    async def redeem(number: int) -> None:
        row = sessions[number]
        # Something must change: SQLite writes and syncs nothing for a row that stays as it is.
        sessions[number] = after = replace(row, last_exp=NumericDate(row.last_exp + 1))
        assert await store.sessions.redeem(Redeem(before=row, after=after, token=TOKEN, rotated=False))

    async def refresh(number: int) -> None:
        row = (await store.sessions.read(sessions[number].issuer, sessions[number].rid)).session
        assert row is not None
        after = replace(row, version=row.version + 1)
        assert await store.sessions.redeem(Redeem(before=row, after=after, token=TOKEN, rotated=True))
        sessions[number] = after

    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        rates.setdefault("raw", []).append(raw_per_second(path, seconds))
        for name, once in (("redeem", redeem), ("refresh", refresh)):
            for callers in CALLERS:
                rate = await per_second(seconds, callers, once)
                rates.setdefault(f"{name}, {callers} callers", []).append(rate)
    medians = {name: statistics.median(measured) for name, measured in rates.items()}
    medians["bus"] = await look_cost(path)
    await store.close()
    return medians


async def look_cost(path: Path) -> float:
    """Microseconds of processor time that the bus takes to look at the file once."""
    bus = SqliteBus(path, clock=SYSTEM_CLOCK)
    await bus.open()
    seconds, before = 2.0, time.process_time()
    await asyncio.sleep(seconds)
    spent = time.process_time() - before
    await bus.close()
    return spent / (seconds / INTERVAL) * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to put the file: which disk is measured"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        medians = asyncio.run(measure(Path(folder), options.seconds, options.rounds))
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
        print(json.dumps({"benchmark": "store", "unit": "writes/s", **machine, "medians": medians}, indent=2))
        return
    look = medians.pop("bus")
    print(f"{'':22}{'writes/s':>10}{'of raw':>9}")
    for name, rate in medians.items():
        print(f"{name:22}{rate:>10,.0f}{rate / medians['raw']:>9.2f}")
    share = look / INTERVAL / 1e4
    print(f"\nbus: {look:.0f} us of processor time a look, {share:.1f} % of one processor")


if __name__ == "__main__":
    main()
