"""Refreshes per second, beside the bare transaction of the same shape on the same server in the same run.

    python benchmarks/bench_refresh.py [--refreshes 2000] [--rounds 3] [--stores sqlite,postgresql] [--json]

*bare* is what one refresh asks of the database, by its driver and nothing else: the client, then the session
with its user are read and the session's row is updated, each in a transaction of its own, with the statements
that the store makes, prepared, on the same rows. With SQLite it is sqlite3 in this thread; with PostgreSQL as
many connections as the store has, at most 8. *update* is the last of the three alone, synced like the rest.
*store* is the same three through the adapter. *HTTP* is a refresh of a session at a node, with a process for
each of control, signer and HTTP, algorithm ES256: the token is checked, rotated and sealed, an access token
signed; each session is refreshed once, so that every refresh rotates.

Callers wait for one answer before they ask for the next. With SQLite writers that come together share one
sync, so that many callers pass what one thread can do alone. Medians of rounds; times are of all rounds. Only
ratios carry over to another machine.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import httpx2
from sqlalchemy import make_url
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import asyncpg as postgresql

from mintmark.adapters.registry import make_store
from mintmark.adapters.sql.postgres import CONNECTIONS, PostgresStore, dsn_of
from mintmark.adapters.sql.sqlite import SqliteStore
from mintmark.cli.demonstration.loopback import free_ports
from mintmark.cli.demonstration.postgresql import PostgresqlServer
from mintmark.cli.demonstration.program import Program
from mintmark.core import sessions
from mintmark.core.directory import Client, User
from mintmark.core.sessions import Redeem, RefreshToken, Session, SessionStart
from mintmark.core.timing import Timing
from mintmark.ports.store import Store
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.units import ClientId, Issuer, NumericDate, Rid, Sub

CALLERS = (1, 8, 64)
STORES = ("sqlite", "postgresql")
TARGET = 0.5
PATIENCE = 120.0
TIMING = Timing()
TOKEN = RefreshToken(rid=Rid(""), generation=0, signature=b"")

Once = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Ran:
    """So many a second, and how long each took."""

    rate: float
    spans: list[float]


async def run(count: int, callers: int, once: Once) -> Ran:
    """Do ``once`` with each number below ``count``, ``callers`` at a time."""
    numbers, spans, start = iter(range(count)), list[float](), time.perf_counter()

    async def caller() -> None:
        for number in numbers:
            began = time.perf_counter()
            await once(number)
            spans.append(time.perf_counter() - began)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return Ran(count / (time.perf_counter() - start), spans)


# --- rows ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Rows:
    """What there is to refresh: sessions with the refresh token of each."""

    user: User
    client: Client
    sessions: list[Session]
    tokens: list[str]


async def rows(store: Store, issuer: Issuer, count: int) -> Rows:
    """A user and a client, made once, and ``count`` new sessions of theirs."""
    user = User(
        issuer=issuer,
        sub=Sub("usr_AAECAwQFBgcICQoLDA0ODw"),
        username="ada",
        password_hash="",
        scopes=("openid", "orders:read"),
        created_at=NumericDate(0),
        password_changed_at=NumericDate(0),
    )
    client = Client(
        issuer=issuer,
        client_id=ClientId("web"),
        name="web",
        secret_hash=None,
        grant_types=("refresh_token",),
        audiences=("orders",),
        scopes=("openid", "orders:read"),
        first_party=True,
        created_at=NumericDate(0),
    )
    if await store.directory.user(issuer, user.sub) is None:
        await store.directory.add_user(user)
        await store.directory.add_client(client)
    begin = SessionStart(
        issuer=issuer,
        sub=user.sub,
        client_id=client.client_id,
        scope=client.scopes,
        audience=client.audiences,
    )
    now = await store.now()
    made = [
        sessions.start(
            begin,
            rid=SYSTEM_ENTROPY.token_bytes(16),
            seed=SYSTEM_ENTROPY.token_bytes(32),
            timing=TIMING,
            now=now,
        )
        for _ in range(count)
    ]
    for first in range(0, count, 64):
        starts = (store.sessions.start(session, user=user) for session, _ in made[first : first + 64])
        if not all(await asyncio.gather(*starts)):
            raise RuntimeError("a session was not taken")
    return Rows(user, client, [session for session, _ in made], [token.text() for _, token in made])


def changed(row: Session) -> Session:
    """The row after one more refresh: something must change, or SQLite syncs nothing."""
    return replace(row, version=row.version + 1, last_exp=NumericDate(row.last_exp + 1))


# --- statements, as the store makes them -------------------------------------------------------------------


class Recording:
    """In place of a connection: keeps what it is asked to do."""

    def __init__(self) -> None:
        self.asked: tuple[Any, dict[str, Any]] | None = None

    def execute(self, statement: Any, parameters: dict[str, Any]) -> Any:
        self.asked = (statement, parameters)
        raise LookupError


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement in the driver's own words, and its values in their order."""

    text: str
    names: list[str]
    fixed: dict[str, Any]

    def values(self, given: dict[str, Any]) -> list[Any]:
        merged = {**self.fixed, **given}
        return [merged[name] for name in self.names]


def recorded(ask: Callable[[Any], object], dialect: Any) -> tuple[Statement, dict[str, Any]]:
    """The first statement that ``ask`` gives a connection, and what it gives with it."""
    connection = Recording()
    with contextlib.suppress(LookupError):
        ask(connection)
    if connection.asked is None:
        raise RuntimeError("nothing was asked")
    statement, given = connection.asked
    compiled = statement.compile(dialect=dialect)
    return Statement(str(compiled), list(compiled.positiontup or ()), dict(compiled.params)), given


def reading(statement: Any, given: dict[str, Any], dialect: Any) -> tuple[Statement, dict[str, Any]]:
    """The same for a statement of which the values are known."""
    return recorded(lambda connection: connection.execute(statement, given), dialect)


def shape(
    store: SqliteStore | PostgresStore, made: Rows, dialect: Any
) -> tuple[
    list[tuple[Statement, list[Any]]], Callable[[Session], tuple[Statement, list[Any]]], Callable[..., Any]
]:
    """The readings of a refresh, how the session is read and how it is updated."""
    from mintmark.adapters.sql import directory  # noqa: PLC0415 - only for its statements

    held = store.sessions._rows  # noqa: SLF001
    issuer = made.user.issuer
    client = reading(directory._CLIENT, {"issuer": issuer, "client_id": made.client.client_id}, dialect)  # noqa: SLF001
    session, _ = recorded(lambda c: held.read(c, issuer, made.sessions[0].rid), dialect)
    update, _ = recorded(lambda c: held.redeem(c, redemption(made.sessions[0])), dialect)
    held_redeem: Callable[[Any, Redeem], bool] = held.redeem

    def read(row: Session) -> tuple[Statement, list[Any]]:
        return session, session.values({"issuer": issuer, "rid": row.rid, **store.time.parameters()})

    def redeem(row: Session) -> tuple[Statement, list[Any]]:
        connection = Recording()
        with contextlib.suppress(LookupError):
            held_redeem(connection, redemption(row))
        if connection.asked is None:
            raise RuntimeError("nothing was asked")
        return update, update.values(connection.asked[1])

    return [(client[0], client[0].values(client[1]))], read, redeem


def redemption(row: Session) -> Redeem:
    """What a refresh changes."""
    return Redeem(before=row, after=changed(row), token=TOKEN, rotated=True)


# --- contenders -----------------------------------------------------------------------------------------


def through_store(store: Store, made: Rows) -> Once:
    """The three operations of a refresh."""
    issuer = made.user.issuer

    async def once(number: int) -> None:
        at = number % len(made.sessions)
        await store.directory.client(issuer, made.client.client_id)
        row = (await store.sessions.read(issuer, made.sessions[at].rid)).session
        if row is None or not await store.sessions.redeem(redemption(row)):
            raise RuntimeError("a redemption lost")
        made.sessions[at] = changed(row)

    return once


@contextlib.asynccontextmanager
async def bare_sqlite(path: Path, store: SqliteStore, made: Rows) -> AsyncIterator[dict[str, Once]]:
    """sqlite3 in this thread."""
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    connection.execute("PRAGMA synchronous = FULL")
    fixed, read, redeem = shape(store, made, sqlite.dialect())

    async def update(number: int) -> None:
        at = number % len(made.sessions)
        statement, values = redeem(made.sessions[at])
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute(statement.text, values).rowcount != 1:
            raise RuntimeError("a redemption lost")
        connection.execute("COMMIT")
        made.sessions[at] = changed(made.sessions[at])

    async def whole(number: int) -> None:
        for statement, values in (*fixed, read(made.sessions[number % len(made.sessions)])):
            if connection.execute(statement.text, values).fetchone() is None:
                raise RuntimeError("a row is missing")
        await update(number)

    try:
        yield {"bare": whole, "update": update}
    finally:
        connection.close()


@contextlib.asynccontextmanager
async def bare_postgresql(url: str, store: PostgresStore, made: Rows) -> AsyncIterator[dict[str, Once]]:
    """asyncpg on as many connections as the store has."""
    fixed, read, redeem = shape(store, made, postgresql.dialect())  # type: ignore[no-untyped-call]
    free: asyncio.Queue[tuple[Any, dict[str, Any]]] = asyncio.Queue()
    opened = []
    texts = {one.text for one, _ in (*fixed, read(made.sessions[0]), redeem(made.sessions[0]))}
    for _ in range(CONNECTIONS):
        connection = await asyncpg.connect(dsn_of(make_url(url)), server_settings={"jit": "off"})
        opened.append(connection)
        free.put_nowait((connection, {text: await connection.prepare(text) for text in texts}))

    async def on_one(numbers: list[tuple[Statement, list[Any]]]) -> None:
        place = await free.get()
        try:
            for statement, values in numbers:
                prepared = place[1][statement.text]
                found = await prepared.fetch(*values)
                if not found and prepared.get_statusmsg() != "UPDATE 1":
                    raise RuntimeError("a row is missing")
        finally:
            free.put_nowait(place)

    async def update(number: int) -> None:
        at = number % len(made.sessions)
        await on_one([redeem(made.sessions[at])])
        made.sessions[at] = changed(made.sessions[at])

    async def whole(number: int) -> None:
        at = number % len(made.sessions)
        # Each on whichever connection is free, as the store does.
        for each in (*fixed, read(made.sessions[at])):
            await on_one([each])
        await update(number)

    try:
        yield {"bare": whole, "update": update}
    finally:
        for connection in opened:
            await connection.close()


# --- over HTTP -------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def node(folder: Path, url: str) -> AsyncIterator[int]:
    """The port of a node that is ready."""
    (port,) = free_ports(1)
    settings = {
        "issuer": f"http://127.0.0.1:{port}",
        "listen": f"127.0.0.1:{port}",
        "store": url,
        "algorithm": "ES256",
        "log_level": "error",
    }
    config = folder / "mintmark.toml"
    config.write_text("".join(f'{key} = "{value}"\n' for key, value in settings.items()))
    arguments = ("mintmark", "--config", str(config), "serve")
    program = Program("the node", *arguments, environ=dict(os.environ), log=folder / "node.log")
    program.start()
    try:
        until, ready = SYSTEM_CLOCK.monotonic() + PATIENCE, False
        async with httpx2.AsyncClient(trust_env=False) as http:
            while not ready:
                if SYSTEM_CLOCK.monotonic() > until:
                    raise TimeoutError(f"the node was not ready: {program.tail()}")
                program.check()
                with contextlib.suppress(httpx2.TransportError):
                    ready = (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
                await asyncio.sleep(0.1)
        yield port
    finally:
        await program.end()


@contextlib.asynccontextmanager
async def over_http(port: int, tokens: list[str], callers: int) -> AsyncIterator[Once]:
    """A refresh of one session at the node, on connections that stay open."""
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(callers)]
    for each in opened:
        free.put_nowait(each)

    async def once(number: int) -> None:
        reader, writer = place = await free.get()
        body = f'{{"refresh_token":"{tokens[number]}","client_id":"web"}}'.encode()
        head = (
            f"POST /v1/sessions/refresh HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0])
        said = await reader.readexactly(length)
        if not answer.startswith(b"http/1.1 200"):
            raise RuntimeError(f"a refresh was refused: {said[:200]!r}")
        free.put_nowait(place)

    try:
        yield once
    finally:
        for _, writer in opened:
            writer.close()
            await writer.wait_closed()


# --- measuring -------------------------------------------------------------------------------------------


async def measure(kind: str, refreshes: int, rounds: int) -> dict[str, dict[str, float]]:
    """By contender and callers: refreshes per second, and the times of one in ms."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mintmark-bench-")))
        url = f"sqlite:///{folder}/store.db"
        if kind == "postgresql":
            url = stack.enter_context(PostgresqlServer()).create_database("mintmark")
        port = await stack.enter_async_context(node(folder, url))
        issuer = Issuer(f"http://127.0.0.1:{port}")
        store = make_store(url, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
        await store.open()
        stack.push_async_callback(store.close)
        # As many as one measurement changes: two at once on one row would be another kind of transaction.
        made = await rows(store, issuer, refreshes)
        if isinstance(store, SqliteStore):
            bare = bare_sqlite(folder / "store.db", store, made)
        elif isinstance(store, PostgresStore):
            bare = bare_postgresql(url, store, made)
        else:
            raise TypeError(kind)
        contenders = {**await stack.enter_async_context(bare), "store": through_store(store, made)}
        found: dict[str, list[Ran]] = {}
        for _ in range(rounds):
            for callers in CALLERS:
                count = max(refreshes * min(callers, 8) // 8, 10)
                for name, once in contenders.items():
                    if kind == "sqlite" and callers > 1 and name in ("bare", "update"):
                        continue  # one thread is one caller
                    found.setdefault(f"{name}, {callers}", []).append(await run(count, callers, once))
                fresh = (await rows(store, issuer, count)).tokens
                async with over_http(port, fresh, callers) as once:
                    found.setdefault(f"HTTP, {callers}", []).append(await run(count, callers, once))
    return {name: summary(each) for name, each in found.items()}


def summary(each: list[Ran]) -> dict[str, float]:
    """Medians over the rounds; percentiles over everything."""
    spans = sorted(span for one in each for span in one.spans)
    return {
        "rate": statistics.median(one.rate for one in each),
        "p50_ms": 1000 * spans[len(spans) // 2],
        "p99_ms": 1000 * spans[len(spans) * 99 // 100],
    }


def beside(found: dict[str, dict[str, float]], name: str, other: str) -> float:
    """The rate of ``name`` as a share of that of ``other`` with as many callers, or with one."""
    callers = name.partition(", ")[2]
    return found[name]["rate"] / found.get(f"{other}, {callers}", found[f"{other}, 1"])["rate"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--refreshes", type=int, default=2_000, help="of one measurement with many callers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stores", default=",".join(STORES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    found = {
        kind: asyncio.run(measure(kind, options.refreshes, options.rounds))
        for kind in options.stores.split(",")
    }
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
        print(json.dumps({"benchmark": "refresh", **machine, "load": load, "stores": found}, indent=2))
        return
    print(f"load average at the beginning: {load:.1f}")
    print(f"{'callers':>30}{'a second':>10}{'of bare':>9}{'of update':>11}{'p50 ms':>9}{'p99 ms':>9}")
    for kind, by_name in found.items():
        for name, each in by_name.items():
            what, _, callers = name.partition(", ")
            shares = f"{beside(by_name, name, 'bare'):>9.2f}{beside(by_name, name, 'update'):>11.2f}"
            times = f"{each['p50_ms']:>9.2f}{each['p99_ms']:>9.2f}"
            target = f"   target {TARGET}" if what == "HTTP" else ""
            print(f"{kind:12}{what:10}{callers:>8}{each['rate']:>10,.0f}{shares}{times}{target}")


if __name__ == "__main__":
    main()
