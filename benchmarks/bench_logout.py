"""From the answer to a logout to the last acceptance anywhere: three nodes, fifty verifiers, several buses.

    python benchmarks/bench_logout.py [--verifiers 50] [--logouts 200] [--every 5] [--one-way 0,25]
                                      [--bus postgresql,redis,nats,dead] [--json]

For each bus a cluster of three nodes on one PostgreSQL server of its own is started on this machine, behind
the round-robin front of the demo; logging in and out and every verifier go through that front. *dead* is
Redis whose server was killed after the nodes were ready. With ``--one-way`` a proxy lies before the front: it
holds every chunk back for so many milliseconds in each direction, on the connections of clients and verifiers
alike, so that 25 is a round trip of 50 ms and 50 one of 100 ms. It measures with what ``mintmark drill
logout`` does: each verifier, an object in one of five processes, is shown the token every ``--every``
milliseconds.

*last acceptance* counts by logout, at whichever verifier accepted longest; *at each* counts every verifier.
*idle* is how late the loops that ask woke up before anything was asked: with as many programs as a machine
has processors or more, nothing can be earlier than that. Targets are for the p99 of the last acceptance.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

from mintmark.cli.demonstration.cluster import TIMING
from mintmark.cli.demonstration.front import Backend, running_front
from mintmark.cli.demonstration.loopback import free_ports
from mintmark.cli.demonstration.postgresql import PostgresqlServer
from mintmark.cli.demonstration.program import Program
from mintmark.cli.drill import picture, probes
from mintmark.cli.drill.guest import guest
from mintmark.cli.drill.logout import Measured, measure
from mintmark.cli.invocation import Invocation
from mintmark.cli.output import Output
from mintmark.system import SYSTEM_CLOCK
from mintmark.units import format_duration

NODES = 3
BUSES = ("postgresql", "redis", "nats", "dead")
TARGETS = {"dead": 1.2}
TARGET = 0.05
"""Seconds for the p99 with a bus; network delay is added to it, as no answer travels faster."""
PATIENCE = 120.0
SPANS = (
    "access_ttl", "rotate_every", "verifier_cache", "jwks_max_age", "propagation", "clock_skew", "lease",
    "feed_bound",
)  # fmt: skip


# --- a slow line -------------------------------------------------------------------------------------


class SlowLine:
    """Passes connections on to a port, every chunk so many seconds later, in both directions."""

    def __init__(self, port: int, onward: int, one_way: float) -> None:
        self.port, self._onward, self._one_way = port, onward, one_way
        self._tasks = set[asyncio.Task[None]]()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen until the block ends."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._join(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other = None
        try:
            back, other = await asyncio.open_connection("127.0.0.1", self._onward)
            await asyncio.gather(self._pass(reader, other), self._pass(back, writer))
        except OSError:
            pass
        finally:
            writer.transport.abort()
            if other is not None:
                other.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """As a long cable does: chunks are under way together, each as long as every other."""
        under_way = deque[tuple[float, bytes]]()
        came = asyncio.Event()

        async def read() -> None:
            chunk = b"-"
            while chunk:
                chunk = await reader.read(2**16)
                under_way.append((SYSTEM_CLOCK.monotonic() + self._one_way, chunk))
                came.set()

        reading = asyncio.create_task(read())
        try:
            while True:
                while not under_way:
                    if reading.done():
                        reading.result()
                    came.clear()
                    await came.wait()
                due, chunk = under_way.popleft()
                await asyncio.sleep(max(0.0, due - SYSTEM_CLOCK.monotonic()))
                if not chunk:
                    writer.write_eof()
                    return
                writer.write(chunk)
                await writer.drain()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


# --- servers and nodes ---------------------------------------------------------------------------------


@contextlib.contextmanager
def server(*command: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A server program until the block ends."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def end(process: "subprocess.Popen[bytes]") -> None:
    """End it now, as a machine that is gone."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def bus(kind: str, folder: Path, stack: contextlib.ExitStack) -> tuple[dict[str, str], Callable[[], None]]:
    """The settings that name the bus, and what to call once the nodes are ready."""
    (port,) = free_ports(1)
    log = folder / f"{kind}.log"
    match kind:
        case "redis" | "dead":
            command = ("redis-server", "--port", str(port), "--save", "", "--appendonly", "no")
            process = stack.enter_context(server(*command, log=log))
            kills = functools.partial(end, process) if kind == "dead" else lambda: None
            return {"bus": f"redis://127.0.0.1:{port}"}, kills
        case "nats":
            stack.enter_context(server("nats-server", "-a", "127.0.0.1", "-p", str(port), log=log))
            return {"bus": f"nats://127.0.0.1:{port}"}, lambda: None
        case _:
            return {}, lambda: None


@contextlib.asynccontextmanager
async def cluster(kind: str, one_way: float) -> AsyncIterator[Path]:
    """Three ready nodes with this bus, until the block ends; the settings of one."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mintmark-bench-")))
        store = stack.enter_context(PostgresqlServer()).create_database("mintmark")
        named, when_ready = bus(kind, folder, stack.enter_context(contextlib.ExitStack()))
        port, *ports = free_ports(NODES + 1)
        backends = [Backend("127.0.0.1", own) for own in ports]
        front = stack.enter_context(running_front(backends, port=0 if one_way else port))
        if one_way:
            await stack.enter_async_context(SlowLine(port, front.port, one_way).running())
        settings = {
            "issuer": f"http://127.0.0.1:{port}",
            "store": store,
            "log_level": "warning",
            **named,
            **{span: format_duration(getattr(TIMING, span)) for span in SPANS},
        }
        programs = []
        for number, own in enumerate(ports):
            config = folder / f"node-{number}.toml"
            values = {**settings, "listen": f"127.0.0.1:{own}"}
            config.write_text("".join(f'{key} = "{value}"\n' for key, value in values.items()))
            arguments = ("mintmark", "--config", str(config), "serve")
            log = folder / f"node-{number}.log"
            program = Program(f"node {number}", *arguments, environ=dict(os.environ), log=log)
            stack.push_async_callback(program.end)
            programs.append(program)
            program.start()
        await until_ready(ports, programs)
        when_ready()
        try:
            yield folder / "node-0.toml"
        except BaseException:
            for program in programs:
                print(program.tail(), file=sys.stderr)
            raise


async def until_ready(ports: list[int], programs: list[Program]) -> None:
    """Wait for every node."""
    until = SYSTEM_CLOCK.monotonic() + PATIENCE
    async with httpx2.AsyncClient(trust_env=False) as http:
        for port, program in zip(ports, programs, strict=True):
            ready = False
            while not ready:
                if SYSTEM_CLOCK.monotonic() > until:
                    raise TimeoutError(f"{program.name} was not ready: {program.tail()}")
                program.check()
                with contextlib.suppress(httpx2.TransportError):
                    ready = (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
                await asyncio.sleep(0.1)


# --- measuring -----------------------------------------------------------------------------------------


async def run(kind: str, one_way: float, *, verifiers: int, logouts: int, every: float) -> Measured:
    """The drill on a cluster with this bus."""
    async with cluster(kind, one_way) as config:
        given = Invocation(output=Output(as_json=True), config=config)
        http = httpx2.AsyncClient(timeout=PATIENCE, trust_env=False)
        async with given.open() as opened, guest(opened, given.entropy) as person, http:
            running = probes.running(
                person.issuer, person.client_id, verifiers=verifiers, every=every, patience=PATIENCE
            )
            async with running as probing:
                return await measure(
                    person, probing, logouts=logouts, http=http, clock=SYSTEM_CLOCK, patience=PATIENCE
                )


def shown(found: list[dict[str, Any]]) -> None:
    """Print everything as a table."""
    columns = ("p50", "p99", "max")
    print(f"{'':22}{'last acceptance':^25}{'at each':^25}{'idle':^25}{'target':>9}{'load':>6}")
    print(f"{'':22}" + "".join(f"{name:>8}" for _ in range(3) for name in columns) + "  of p99")
    for each in found:
        name = f"{each['bus']}, {each['one_way_ms']:.0f} ms one way"
        rows = (each["last_acceptance_ms"], each["each_verifier_ms"], each["idle_wakeup_ms"])
        figures = "".join(f"{row[column]:>8.1f}" for row in rows for column in columns)
        met = "met" if each["last_acceptance_ms"]["p99"] < each["target_ms"] else "MISSED"
        print(f"{name:22}{figures}{each['target_ms']:>6.0f} {met}{each['load']:>6.1f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--verifiers", type=int, default=50)
    parser.add_argument("--logouts", type=int, default=200)
    parser.add_argument("--every", type=float, default=5.0, help="milliseconds between two probes")
    parser.add_argument("--one-way", default="0,25", help="milliseconds in each direction")
    parser.add_argument("--bus", default=",".join(BUSES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = []
    for one_way in map(float, options.one_way.split(",")):
        for kind in options.bus.split(","):
            load = os.getloadavg()[0]
            sizes = {"verifiers": options.verifiers, "logouts": options.logouts}
            measured = asyncio.run(run(kind, one_way / 1000, every=options.every / 1000, **sizes))
            # A logout's answer and the event that follows it travel side by side, so a delay adds nothing.
            target = 1000 * TARGETS.get(kind, TARGET)
            row = {"bus": kind, "one_way_ms": one_way, **sizes, "target_ms": target, "load": load}
            found.append({**row, **picture.document(measured), "unavailable": measured.unavailable})
            print(json.dumps(found[-1]), file=sys.stderr)
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
        print(json.dumps({"benchmark": "logout", **machine, "runs": found}, indent=2))
        return
    shown(found)


if __name__ == "__main__":
    main()
