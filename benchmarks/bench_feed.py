"""The revocation feed at its largest: a snapshot of a million entries, thousands of followers of one node.

    python benchmarks/bench_feed.py [--entries 1000000] [--followers 2000] [--bursts 20] [--json]

*snapshot*: a store (SQLite) with so many unexpired entries, one node that serves it over HTTP, and one
verifier that starts. Bytes and requests are counted on the wire; *memory* is what the verifier's process has
grown by; *lookup* is a whole ``verify`` in another thread, before (idle) and while the snapshot is loaded.
*again* is a second verifier, which finds the pages made. *json* is the bytes that people would get.

*followers*: that many streams of one worker process; *memory* is what the worker has grown by for each; then
bursts of one event and of a thousand, each timed from its commit to its arrival at the first, the middle and
the last follower. One process reads all streams, so half of the time is the reader's on two cores.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import platform
import resource
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx2
import uvicorn
import uvloop

from mintmark import Event, EventName, FeedPolicy, Verifier
from mintmark import Issuer as Trusted
from mintmark.adapters.argon2 import Argon2Hasher
from mintmark.adapters.registry import make_bus, make_store
from mintmark.core import keyring
from mintmark.core.algorithm import Algorithm
from mintmark.core.base64url import encode
from mintmark.core.directory import Client
from mintmark.core.feed_table import MEDIA_TYPE
from mintmark.core.key import Activation
from mintmark.core.minting import ACCESS_TOKEN_TYP
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.timing import Timing
from mintmark.http.app import create_app
from mintmark.http.protocol import bounded_http
from mintmark.ports.store import Store
from mintmark.server import document
from mintmark.server.audit import Audit
from mintmark.server.services import Services, compose
from mintmark.signer.local import LocalSigner
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.units import ClientId, Issuer, NodeId, NumericDate

SECRET = "a-secret-of-the-benchmark"
LIVES = 86_400
TIMING = Timing()
FOLLOWERS = 20_000


# --- the node ----------------------------------------------------------------------------------


async def serve(url: str, descriptor: int) -> None:
    """Serve until standard input ends; a line there asks for something, and its answer is a line too."""
    sock = socket.socket(fileno=descriptor)
    issuer = Issuer(f"http://127.0.0.1:{sock.getsockname()[1]}")
    store = make_store(url, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
    bus = make_bus("none", store=url, clock=SYSTEM_CLOCK)
    await store.open()
    await bus.open()
    signer = LocalSigner(clock=SYSTEM_CLOCK)
    services = compose(
        issuer,
        node=NodeId("bench"),
        timing=TIMING,
        algorithm=Algorithm.ES256,
        store=store,
        bus=bus,
        signer=signer,
        passwords=Argon2Hasher(workers=1, queue=1),
        clock=SYSTEM_CLOCK,
        entropy=SYSTEM_ENTROPY,
        audit=Audit(),
        followers=FOLLOWERS,
        streams_per_address=FOLLOWERS,
    )
    await add_key(services, store, signer)
    await store.directory.add_client(
        Client(
            issuer=issuer,
            client_id=ClientId("stock"),
            name="stock",
            secret_hash=hashlib.sha256(SECRET.encode()).digest(),
            grant_types=("client_credentials",),
            audiences=("orders",),
            scopes=("orders:read",),
            first_party=True,
            created_at=NumericDate(1),
        )
    )
    loops = [asyncio.create_task(loop) for loop in (services.ring.run(), services.feed.run())]
    config = uvicorn.Config(
        create_app(services),
        loop="none",
        http=bounded_http(SYSTEM_CLOCK),
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    while not (services.ring.is_fresh() and services.feed.is_fresh() and server.started):
        await SYSTEM_CLOCK.sleep(0.01)
    print("= ready", flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).split():
        if line[0] == "memory":
            print("=", resident(), services.feed.followers, flush=True)
        else:
            print("=", await append(store, issuer, int(line[1])), flush=True)
            await bus.announce()
    services.feed.close()
    server.should_exit = True
    await serving
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    await bus.close()
    await store.close()


async def add_key(services: Services, store: Store, signer: LocalSigner) -> None:
    """An active key whose lease outlasts the run."""
    made = await signer.generate(
        issuer=services.issuer, alg=Algorithm.ES256, typs=frozenset({ACCESS_TOKEN_TYP})
    )
    public, view = made.public, await store.keyring.read(services.issuer)
    prepared = keyring.prepare(
        view.ring,
        kid=public.kid,
        node=services.node,
        alg=public.alg.value,
        jwk=document.encode(public.jwk),
        timing=TIMING,
        now=view.now,
    )
    active = keyring.activate(prepared, public.kid, Activation.BOOTSTRAP, timing=TIMING, now=view.now)
    if not await store.keyring.swap(view.ring.generation, active):
        raise RuntimeError("somebody else uses this store")
    (key,) = active.keys
    await signer.extend(public.kid, max_exp=TIMING.latest_exp(key.lease_until), lease_until=key.lease_until)


async def append(store: Store, issuer: Issuer, count: int) -> float:
    """Put ``count`` events on the log in one transaction; the monotonic time at which it was committed."""
    view = await store.keyring.read(issuer)
    until = NumericDate(view.now + LIVES)
    events = tuple(
        (RevocationEvent(kind=Kind.RID, value=encode(os.urandom(16)), expires_at=until), "test")
        for _ in range(count)
    )
    after = keyring.request_rotation(view.ring, now=view.now)
    if not await store.keyring.swap(view.ring.generation, after, events=events):
        raise RuntimeError("somebody else uses this store")
    return time.monotonic()


def resident() -> int:
    """Bytes of memory that this process has in RAM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


class Node:
    """The process that serves, from the one that measures."""

    def __init__(self, url: str, sock: socket.socket) -> None:
        self.issuer = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", url, str(sock.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[sock.fileno()],
        )
        self._answer()

    def ask(self, line: str) -> list[str]:
        """The words of its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> list[str]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            mark, *words = line.split()
            if mark == "=":
                return words
            # What the node logs.
            print(line, end="", file=sys.stderr)
        raise RuntimeError("the node ended")

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@contextlib.contextmanager
def running(entries: int) -> Iterator[Node]:
    """A node over a store with that many entries."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0), backlog=4096) as sock,
    ):
        path = f"{folder}/mintmark.db"
        asyncio.run(filled(path, f"http://127.0.0.1:{sock.getsockname()[1]}", entries))
        node = Node(f"sqlite:///{path}", sock)
        try:
            yield node
        finally:
            node.close()


async def filled(path: str, issuer: str, entries: int) -> None:
    """Put rows into a new store without asking ours to."""
    store = make_store(f"sqlite:///{path}", clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
    await store.open()
    await store.close()
    now = SYSTEM_CLOCK.now()
    rows = (
        (issuer, seq, os.urandom(8), "rid", encode(os.urandom(16)), now + LIVES + seq % 900, "logout", now)
        for seq in range(1, entries + 1)
    )
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executemany(
            "INSERT INTO log_entries (issuer, seq, mark, kind, value, expires_at, cause, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        database.execute(
            "INSERT INTO log_heads (issuer, seq, mark, genesis)"
            " SELECT ?, ?, coalesce((SELECT mark FROM log_entries WHERE seq = ?), zeroblob(8)), zeroblob(8)",
            (issuer, entries, entries),
        )
        database.commit()


# --- a million entries -------------------------------------------------------------------------


class Lookups(threading.Thread):
    """Verifies one token again and again, as a service under load does."""

    def __init__(self, verifier: Verifier, raw: str) -> None:
        super().__init__(daemon=True)
        self.times: list[float] = []
        self._verifier = verifier
        self._raw = raw
        self._ended = threading.Event()

    def run(self) -> None:
        """Until ended."""
        while not self._ended.wait(0.001):
            began = time.perf_counter()
            self._verifier.verify(self._raw)
            self.times.append(time.perf_counter() - began)

    def end(self) -> dict[str, float]:
        """Milliseconds."""
        self._ended.set()
        self.join()
        times = sorted(self.times)
        return {
            "count": len(times),
            "p50_ms": 1000 * statistics.median(times),
            "p99_ms": 1000 * times[len(times) * 99 // 100],
            "max_ms": 1000 * times[-1],
        }


def snapshot(entries: int) -> dict[str, object]:
    """A verifier that starts with so much to learn."""
    with running(entries) as node:
        raw = httpx2.post(
            f"{node.issuer}/token", data={"grant_type": "client_credentials"}, auth=("stock", SECRET)
        ).json()["access_token"]
        found: dict[str, object] = {"entries": entries}
        for name in ("first", "again"):
            found[name] = started(node, raw, entries)
        wire = counted(node, MEDIA_TYPE)
        found |= {"requests": wire[0], "bytes": wire[1], "bytes_an_entry": wire[1] / entries}
        found["json_bytes"] = counted(node, "application/json")[1]
        return found


def started(node: Node, raw: str, entries: int) -> dict[str, object]:
    """Seconds, memory and lookups of one verifier; it lets tokens pass meanwhile, to be looked up."""
    trusted = Trusted(issuer=node.issuer, audience="orders", on_stale="allow", feed=FeedPolicy())
    followed = threading.Event()

    def listen(event: Event) -> None:
        if event.name is EventName.FEED_FOLLOWED and int(event.fields["entries"]) >= entries:
            followed.set()

    before, began = resident(), time.monotonic()
    with Verifier.many(trusted, on_event=listen) as verifier:
        verifier.verify(raw)
        loading = Lookups(verifier, raw)
        loading.start()
        if not followed.wait(600):
            raise RuntimeError("the snapshot was not taken")
        seconds = time.monotonic() - began
        meanwhile = loading.end()
        grown = resident() - before
        idle = Lookups(verifier, raw)
        idle.start()
        time.sleep(1)
        return {
            "seconds": seconds,
            "memory_bytes": grown,
            "lookup": {"meanwhile": meanwhile, "idle": idle.end()},
        }


def counted(node: Node, accept: str) -> tuple[int, int]:
    """Requests and bytes of bodies that the whole log takes."""
    requests = size = 0
    cursor = None
    with httpx2.Client(base_url=node.issuer, headers={"Accept": accept}, timeout=60) as http:
        while True:
            answer = http.get("/revocations", params={} if cursor is None else {"after": cursor})
            if answer.status_code == 503:
                # A machine that has more to do than this; a verifier comes again, too.
                time.sleep(1)
                continue
            answer.raise_for_status()
            requests, size = requests + 1, size + len(answer.content)
            body = answer.content
            page = json.loads(body if accept != MEDIA_TYPE else body[16 : 16 + int.from_bytes(body[4:8])])
            if page["complete"]:
                return requests, size
            cursor = page["cursor"]


# --- thousands of followers --------------------------------------------------------------------


class Reader(asyncio.Protocol):
    """One stream, read for the number of its events alone."""

    def __init__(self, arrived: "Arrivals") -> None:
        self._arrived = arrived
        self._left = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        # uvloop's is none by its class.
        cast("asyncio.Transport", transport).write(b"GET /revocations/stream HTTP/1.1\r\nHost: x\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        """Count events; a mark that was cut in two counts with its second half."""
        data = self._left + data
        self._arrived.note(data.count(b"event: revocation"), data.count(b"event: heartbeat"))
        self._left = data[-16:] if b"event: revocation" not in data[-16:] else b""


class Arrivals:
    """When how many events had arrived in all."""

    def __init__(self) -> None:
        self.beats = 0
        self.events = 0
        self.times: list[tuple[int, float]] = []

    def note(self, events: int, beats: int) -> None:
        """Something came on one of the streams."""
        self.beats += beats
        if events:
            self.events += events
            self.times.append((self.events, time.monotonic()))

    async def until(self, events: int) -> None:
        """Wait for that many."""
        while self.events < events:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    def at(self, events: int) -> float:
        """When that many had come."""
        return next(at for count, at in self.times if count >= events)


async def followed(node: Node, followers: int, bursts: int) -> dict[str, object]:
    """Streams opened, and the time that bursts take to all of them."""
    loop, arrived = asyncio.get_running_loop(), Arrivals()
    host, port = "127.0.0.1", int(node.issuer.rpartition(":")[2])
    before = int(node.ask("memory")[0])
    began = time.monotonic()
    opened = [
        (await loop.create_connection(lambda: Reader(arrived), host, port))[0] for _ in range(followers)
    ]
    while arrived.beats < followers:  # noqa: ASYNC110 - polling costs the measured time nothing
        await asyncio.sleep(0.01)
    opening = time.monotonic() - began
    memory, following = map(int, node.ask("memory"))
    assert following == followers
    found: dict[str, object] = {
        "followers": followers,
        "opening_s": opening,
        "memory_bytes_each": (memory - before) / followers,
    }
    for size in (1, 1_000):
        spans: dict[str, list[float]] = {"first": [], "middle": [], "last": []}
        for _ in range(bursts if size == 1 else max(1, bursts // 10)):
            begin = arrived.events
            arrived.times.clear()
            [text] = await asyncio.to_thread(node.ask, f"append {size}")
            await arrived.until(begin + size * followers)
            for name, share in (("first", 1), ("middle", size * followers // 2), ("last", size * followers)):
                spans[name].append(1000 * (arrived.at(begin + max(share, 1)) - float(text)))
            await asyncio.sleep(0.05)
        found[f"events_{size}"] = {
            name: {"p50_ms": statistics.median(each), "max_ms": max(each)} for name, each in spans.items()
        }
    for transport in opened:
        transport.abort()
    return found


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--followers", type=int, default=2_000)
    parser.add_argument("--bursts", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(given.serve[0], int(given.serve[1])))
        return
    found: dict[str, object] = {}
    if given.entries:
        found["snapshot"] = snapshot(given.entries)
    if given.followers:
        with running(0) as node, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found["followers"] = runner.run(followed(node, given.followers, given.bursts))
    machine = {"python": platform.python_version(), "cores": os.cpu_count()}
    if given.json:
        print(json.dumps({"benchmark": "feed", **machine, **found}, indent=2))
    else:
        show(found)


def show(found: dict[str, object], indent: str = "") -> None:
    """One figure a line."""
    for name, value in found.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            show(value, indent + "  ")
        else:
            print(f"{indent}{name:24}{value:>16,.2f}")


if __name__ == "__main__":
    main()
