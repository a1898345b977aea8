"""One process of several on one store: says "ready", waits for a line, works, and prints what it got.

Run as ``python worker.py COMMAND PATH-OR-URL [ARGUMENT]``; see the functions for the commands.
"""

import asyncio
import json
import resource
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from mintmark.adapters.sql.postgres import Bounds, PostgresStore
from mintmark.adapters.sql.sqlite import SqliteStore
from mintmark.adapters.sqlite_bus import SqliteBus
from mintmark.core.keyring import Ring
from mintmark.core.sessions import EndCause, Redeem, parse
from mintmark.errors import StoreUnavailable
from mintmark.ports.sessions import SessionStore
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.conformance.rig import ISSUER, TIMING, redeem
from mintmark.units import NodeId


def say(value: object) -> None:
    """One line of JSON to the test."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def go() -> None:
    """Wait until the test says so."""
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)


Where = Path | str
"""A file, or the URL of a database."""
PATIENT = Bounds(idle=30_000, lock=40_000, statement=50_000, operation=60_000)


def new_store(path: Where) -> SqliteStore | PostgresStore:
    """A store there, not yet open."""
    if isinstance(path, str):
        return PostgresStore(make_url(path), entropy=SYSTEM_ENTROPY, bounds=PATIENT)
    return SqliteStore(path, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)


async def open_at_once(path: Where, _: str) -> None:
    """Open the store when told, write to it, and say what all have written so far."""
    store = new_store(path)
    await go()
    await store.open()
    node = NodeId(SYSTEM_ENTROPY.token_bytes(8).hex())
    await store.keyring.beat(ISSUER, node, ring_generation=0)
    head, _now = await store.revocations.head(ISSUER)
    say({"node": node, "genesis": head.text()})
    await store.close()


async def swap(path: Where, rounds: str) -> None:
    """Raise the ring's generation ``rounds`` times; the generations that this process won."""
    store = new_store(path)
    await store.open()
    await go()
    won: list[int] = []
    while len(won) < int(rounds):
        view = await store.keyring.read(ISSUER)
        generation = view.ring.generation
        if await store.keyring.swap(generation, Ring(issuer=ISSUER, generation=generation + 1)):
            won.append(generation + 1)
    say(won)
    await store.close()


async def redeem_often(path: Where, text: str) -> None:
    """Redeem one refresh token 25 times at once; the refresh tokens, and how many were new."""
    store = new_store(path)
    await store.open()
    token = parse(text)
    assert token is not None
    session = (await store.sessions.read(ISSUER, token.rid)).session
    assert session is not None
    await go()
    answers = await asyncio.gather(*(redeem(store, session, token) for _ in range(25)))
    say(
        {
            "tokens": [answer.token.text() for answer in answers if isinstance(answer, Redeem)],
            "rotated": sum(answer.rotated for answer in answers if isinstance(answer, Redeem)),
        }
    )
    await store.close()


async def follow(path: Path, _: str) -> None:
    """Wait for the bus, then read the log; whether the bus woke it and what it read."""
    store, bus = new_store(path), SqliteBus(path, clock=SYSTEM_CLOCK)
    await store.open()
    await bus.open()
    subscription = bus.subscribe()
    before, _now = await store.revocations.head(ISSUER)
    await go()
    woken = 0
    while (head := (await store.revocations.head(ISSUER))[0]) == before:
        assert await subscription.wait(60)
        woken += 1
    say({"woken": woken, "head": head.seq})
    await bus.close()
    await store.close()


async def write_for_ever(path: Where, _: str) -> None:
    """Log sessions in, rotate and end them for ever; says each thing once the store has answered."""
    store = new_store(path)
    await store.open()
    (user,) = await store.directory.users(ISSUER)
    (template,) = await store.sessions.list(ISSUER)
    await go()

    async def one(n: int) -> None:
        while True:
            rid = SYSTEM_ENTROPY.token_bytes(16).hex()
            session = replace(template, rid=rid)  # type: ignore[arg-type]
            assert await store.sessions.start(session, user=user)
            say(["started", rid])
            await _rotate(store.sessions, session.rid)
            say(["rotated", rid])
            if n % 2:
                await store.sessions.end(ISSUER, session.rid, cause=EndCause.LOGOUT, timing=TIMING)
                say(["ended", rid])

    await asyncio.gather(*(one(n) for n in range(8)))


async def _rotate(sessions: SessionStore, rid: str) -> None:
    row = (await sessions.read(ISSUER, rid)).session  # type: ignore[arg-type]
    assert row is not None
    after = replace(row, generation=1, version=1)
    assert await sessions.redeem(Redeem(before=row, after=after, token=None, rotated=True))  # type: ignore[arg-type]


async def hold_lock(path: Path, _: str) -> None:
    """Hold the write lock from when it says so until told to let go."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    await go()
    connection.execute("ROLLBACK")
    connection.close()
    say("released")


async def file_limit(path: Path, limit: str) -> None:
    """Write under a limit on the size of files, an error of the disk to SQLite; what was answered."""
    store = new_store(path)
    await store.open()
    (user,) = await store.directory.users(ISSUER)
    (template,) = await store.sessions.list(ISSUER)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    await go()
    started, refused = [], []
    for _ in range(3_000):
        rid = SYSTEM_ENTROPY.token_bytes(16).hex()
        try:
            assert await store.sessions.start(replace(template, rid=rid), user=user)  # type: ignore[arg-type]
            started.append(rid)
        except StoreUnavailable as error:
            refused.append(str(error))
            if len(refused) == 3:
                break
    read = (await store.sessions.read(ISSUER, template.rid)).session == template
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    rid = SYSTEM_ENTROPY.token_bytes(16).hex()
    again = await store.sessions.start(replace(template, rid=rid), user=user)  # type: ignore[arg-type]
    say({"started": started, "refused": refused, "read": read, "again": again})
    await store.close()


async def beat_often(path: Where, _: str) -> None:
    """Write two hundred rows, ten callers at a time; which were answered and why the others were not."""
    store = new_store(path)
    await store.open()
    await go()
    kept: list[str] = []
    refused: dict[str, str] = {}

    async def caller(number: int) -> None:
        for n in range(20):
            node = NodeId(f"{number}-{n}")
            try:
                await store.keyring.beat(ISSUER, node, ring_generation=n)
                kept.append(node)
            except StoreUnavailable as error:
                refused[node] = str(error)

    await asyncio.gather(*(caller(number) for number in range(10)))
    say({"kept": kept, "refused": refused})
    await store.close()


COMMANDS: dict[str, Callable[[Path, str], Awaitable[None]]] = {
    "open": open_at_once,
    "swap": swap,
    "redeem": redeem_often,
    "follow": follow,
    "write": write_for_ever,
    "lock": hold_lock,
    "limit": file_limit,
    "beat": beat_often,
}


if __name__ == "__main__":
    where: Any = sys.argv[2] if "://" in sys.argv[2] else Path(sys.argv[2])
    asyncio.run(COMMANDS[sys.argv[1]](where, (*sys.argv, "")[3]))  # type: ignore[arg-type]
