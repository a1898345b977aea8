"""Signatures through another node, beside those of a node's own signer in the same run.

    python benchmarks/bench_peer.py [--seconds 0.5] [--rounds 5] [--json]

*own* is a call to the signer process of this node. *peer* is the same for a node without a key: the claims
go over TLS on loopback to the control process of another node, which reads client, user and session from the
shared store (SQLite), holds the claims against them and has its signer sign; the answer is verified here. The
share that one node may take of another is not bounded here, as it is when nodes serve. Rounds interleave all
of them and medians are shown: only ratios carry over to another machine.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

import structlog
import uvloop

from mintmark.adapters.cluster_caller import ClusterCaller
from mintmark.adapters.cluster_listener import ClusterListener, Limits
from mintmark.adapters.cluster_wire import Identity
from mintmark.adapters.registry import make_bus, make_store
from mintmark.core import keyring, minting, sessions
from mintmark.core.algorithm import Algorithm
from mintmark.core.directory import Client, User
from mintmark.core.key import Activation
from mintmark.core.minting import ACCESS_TOKEN_TYP, RANDOM_BYTES, TokenRequest
from mintmark.core.sessions import Session, SessionStart
from mintmark.core.timing import Timing
from mintmark.errors import Unavailable
from mintmark.ports.store import Store
from mintmark.server import document
from mintmark.server.audit import Audit
from mintmark.server.peering import Desk, Peering
from mintmark.server.peers import Peers
from mintmark.server.ring import RingFollower
from mintmark.signer.client import SignerClient
from mintmark.signer.launch import SignerProcess, start_signer
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.units import ClientId, Issuer, Kid, NodeId, NumericDate, Sub

ISSUER = Issuer("https://auth.example.com")
TIMING = Timing()
ALGORITHMS = (Algorithm.RS256, Algorithm.ES256)
IN_FLIGHT = (1, 32)
NO_BOUND = Limits(burst=10**9)

USER = User(
    issuer=ISSUER,
    sub=Sub("usr_AAECAwQFBgcICQoLDA0ODw"),
    username="ada",
    password_hash="",
    scopes=("openid", "orders:read", "orders:write"),
    created_at=NumericDate(0),
    password_changed_at=NumericDate(0),
)
CLIENT = Client(
    issuer=ISSUER,
    client_id=ClientId("web"),
    name="web",
    secret_hash=None,
    grant_types=("refresh_token",),
    audiences=("https://orders.example.com",),
    scopes=("openid", "orders:read", "orders:write"),
    first_party=True,
    created_at=NumericDate(0),
)

Sign = Callable[[bytes], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to have claims signed."""

    name: str
    in_flight: int
    sign: Sign


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Store, RingFollower]]:
    """The store, and a loop that follows its ring."""
    store = make_store(url, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
    await store.open()
    bus = make_bus("none", store=url, clock=SYSTEM_CLOCK)
    await bus.open()
    ring = RingFollower(
        ISSUER, store=store.keyring, bus=bus, clock=SYSTEM_CLOCK, timing=TIMING, audit=Audit()
    )
    following = asyncio.create_task(ring.run())
    try:
        yield store, ring
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await bus.close()
        await store.close()


async def main_of_peer(url: str, alg: Algorithm) -> None:
    """The other node: prepares the rows, says so, and signs until its standard input ends."""
    signer = await start_signer(clock=SYSTEM_CLOCK)
    signing = SignerClient(await signer.control.attach(), clock=SYSTEM_CLOCK)
    node, audit = NodeId("peer"), Audit()
    async with opened(url) as (store, ring):
        await store.directory.add_user(USER)
        await store.directory.add_client(CLIENT)
        kid = await give_key(store, signer, node, alg)
        identity = Identity(node, SYSTEM_ENTROPY)
        peering = Peering(
            ISSUER,
            node=node,
            ring=ring,
            store=store,
            signer=signing,
            timing=TIMING,
            clock=SYSTEM_CLOCK,
            audit=audit,
        )
        desk = Desk((peering,), clock=SYSTEM_CLOCK, audit=audit)
        sock = socket.create_server(("127.0.0.1", 0))
        listener = ClusterListener(
            sock,
            identity=identity,
            callers=desk.callers,
            service=desk,
            clock=SYSTEM_CLOCK,
            limits=NO_BOUND,
        )
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        tasks = [
            asyncio.create_task(listener.run()),
            asyncio.create_task(live(store, node, address, identity)),
        ]
        print(kid, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    signing.close()
    await signer.stop()


async def give_key(store: Store, signer: SignerProcess, node: NodeId, alg: Algorithm) -> Kid:
    """An active key of ``node`` whose lease outlasts the run."""
    made = await signer.control.generate(issuer=ISSUER, alg=alg, typs=frozenset({ACCESS_TOKEN_TYP}))
    public, view = made.public, await store.keyring.read(ISSUER)
    prepared = keyring.prepare(
        view.ring,
        kid=public.kid,
        node=node,
        alg=alg.value,
        jwk=document.encode(public.jwk),
        timing=TIMING,
        now=view.now,
    )
    active = keyring.activate(prepared, public.kid, Activation.BOOTSTRAP, timing=TIMING, now=view.now)
    if not await store.keyring.swap(view.ring.generation, active):
        raise RuntimeError("somebody else uses this store")
    (key,) = active.keys
    await signer.control.extend(
        public.kid, max_exp=TIMING.latest_exp(key.lease_until), lease_until=key.lease_until
    )
    return public.kid


async def live(store: Store, node: NodeId, address: str, identity: Identity) -> None:
    """Beat, without end."""
    while True:
        await store.keyring.beat(
            ISSUER, node, ring_generation=1, address=address, certificate=identity.certificate
        )
        await SYSTEM_CLOCK.sleep(2)


async def a_session(store: Store) -> Session:
    """A session of the user that is live and covers what is minted."""
    now = await store.now()
    begin = SessionStart(
        issuer=ISSUER,
        sub=USER.sub,
        client_id=CLIENT.client_id,
        scope=CLIENT.scopes,
        audience=CLIENT.audiences,
    )
    session, _ = sessions.start(
        begin,
        rid=SYSTEM_ENTROPY.token_bytes(16),
        seed=SYSTEM_ENTROPY.token_bytes(32),
        timing=TIMING,
        now=now,
    )
    session = replace(session, last_exp=NumericDate(now + 2 * TIMING.access_ttl))
    await store.sessions.start(session, user=USER)
    return session


def payload(session: Session) -> bytes:
    """A fresh token's claims."""
    request = TokenRequest(
        iss=ISSUER,
        sub=session.sub,
        client_id=session.client_id,
        aud=session.audience,
        scope=session.scope,
        rid=session.rid,
        auth_time=session.auth_time,
        amr=session.amr,
    )
    random = SYSTEM_ENTROPY.token_bytes(RANDOM_BYTES)
    return minting.plan(request, now=SYSTEM_CLOCK.now(), ttl=TIMING.access_ttl, random=random).payload


async def run(contender: Contender, session: Session, seconds: float) -> tuple[float, list[float]]:
    """Tokens per second, and how long each call took."""
    spans: list[float] = []
    start = time.perf_counter()

    async def mint() -> None:
        while (began := time.perf_counter()) - start < seconds:
            await contender.sign(payload(session))
            spans.append(time.perf_counter() - began)

    await asyncio.gather(*(mint() for _ in range(contender.in_flight)))
    return len(spans) / (time.perf_counter() - start), spans


async def measure(alg: Algorithm, seconds: float, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of interleaved rounds, by contender: tokens per second, and the times of a call in ms."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/mintmark.db"
        command = [sys.executable, __file__, "--peer", url, alg.value]
        other = await asyncio.to_thread(
            subprocess.Popen, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            return await measure_beside(other, url, alg, seconds, rounds)
        finally:
            await asyncio.to_thread(other.communicate)


async def measure_beside(
    other: "subprocess.Popen[str]", url: str, alg: Algorithm, seconds: float, rounds: int
) -> dict[str, dict[str, float]]:
    """As :func:`measure`, with the other node running."""
    if other.stdout is None:
        raise RuntimeError("the other node has no output")
    kid = Kid((await asyncio.to_thread(other.stdout.readline)).strip())
    node, identity = NodeId("asks"), Identity(NodeId("asks"), SYSTEM_ENTROPY)
    signer = await start_signer(clock=SYSTEM_CLOCK)
    signing = SignerClient(await signer.control.attach(), clock=SYSTEM_CLOCK)
    made = await signer.control.generate(issuer=ISSUER, alg=alg, typs=frozenset({ACCESS_TOKEN_TYP}))
    own, now = made.public.kid, SYSTEM_CLOCK.now()
    await signer.control.extend(own, max_exp=NumericDate(now + 9000), lease_until=NumericDate(now + 8000))
    async with opened(url) as (store, ring):
        beating = asyncio.create_task(live(store, node, "", identity))
        caller = ClusterCaller(identity, clock=SYSTEM_CLOCK)
        peers = Peers(ISSUER, node=node, ring=ring, caller=caller, clock=SYSTEM_CLOCK, audit=Audit())
        session = await a_session(store)
        await until_signed(peers)
        contenders = [
            Contender(name, in_flight, sign)
            for in_flight in IN_FLIGHT
            for name, sign in (
                ("own", lambda claims: signing.sign(own, ACCESS_TOKEN_TYP, claims)),
                ("peer", lambda claims: peers.sign(kid, ACCESS_TOKEN_TYP, claims)),
            )
        ]
        measured: dict[str, list[tuple[float, list[float]]]] = {}
        for _ in range(rounds):
            for contender in contenders:
                found = await run(contender, session, seconds)
                measured.setdefault(f"{contender.name}, {contender.in_flight} in flight", []).append(found)
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await caller.close()
    signing.close()
    await signer.stop()
    return {name: summary(rates) for name, rates in measured.items()}


async def until_signed(peers: Peers) -> None:
    """Wait until each of the two nodes has read the other's row."""
    while True:
        try:
            return await peers.probe()
        except Unavailable:
            await SYSTEM_CLOCK.sleep(0.1)


def summary(rates: list[tuple[float, list[float]]]) -> dict[str, float]:
    """Medians over the rounds; percentiles over all calls."""
    spans = sorted(span for _, each in rates for span in each)
    return {
        "rate": statistics.median(rate for rate, _ in rates),
        "p50_ms": 1000 * spans[len(spans) // 2],
        "p99_ms": 1000 * spans[len(spans) * 99 // 100],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peer", nargs=2, metavar=("STORE", "ALG"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Each signature for another node is a line in the log of that node, as it is when nodes serve.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(open(os.devnull, "w")))  # noqa: SIM115
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if options.peer:
            runner.run(main_of_peer(options.peer[0], Algorithm(options.peer[1])))
            return
        found = {alg.value: runner.run(measure(alg, options.seconds, options.rounds)) for alg in ALGORITHMS}
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
        print(json.dumps({"benchmark": "peer", **machine, "medians": found}, indent=2))
        return
    print(f"{'':25}{'tokens/s':>10}{'of own':>8}{'p50 ms':>9}{'p99 ms':>9}")
    for alg, by_name in found.items():
        for name, each in by_name.items():
            ratio = each["rate"] / by_name[name.replace("peer", "own")]["rate"]
            times = f"{each['p50_ms']:>9.2f}{each['p99_ms']:>9.2f}"
            print(f"{alg:7}{name:18}{each['rate']:>10,.0f}{ratio:>8.2f}{times}")


if __name__ == "__main__":
    main()
