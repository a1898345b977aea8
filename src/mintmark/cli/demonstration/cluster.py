"""The cluster of the demo: three nodes of one issuer, one store, and the front that they stand behind."""

import asyncio
import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from mintmark.cli.demonstration.front import Backend, Front, running_front
from mintmark.cli.demonstration.loopback import free_ports
from mintmark.cli.demonstration.postgresql import PostgresqlServer
from mintmark.cli.demonstration.program import PATIENCE, DemoFailed, Program, until_refused
from mintmark.core.timing import Timing
from mintmark.system import SYSTEM_CLOCK
from mintmark.units import Seconds, format_duration

STORES: Final = ("sqlite", "postgresql")

TIMING: Final = Timing(
    access_ttl=Seconds(60),
    rotate_every=Seconds(90),
    verifier_cache=Seconds(1),
    jwks_max_age=Seconds(1),
    # A node reads the store each second: with less than a few, a busy machine makes it unready.
    propagation=Seconds(3),
    clock_skew=Seconds(1),
    lease=Seconds(10),
    feed_bound=Seconds(30),
)
"""As short as the rules between them allow, so that what takes minutes and hours elsewhere takes seconds."""

_SPANS: Final = (
    "access_ttl", "rotate_every", "verifier_cache", "jwks_max_age", "propagation", "clock_skew", "lease",
    "feed_bound",
)  # fmt: skip
_NAMES: Final = ("a", "b", "c")
_START: Final = 2 * PATIENCE
"""Seconds for a node to be ready: several programs to start, and the lead."""


@dataclass(frozen=True, slots=True)
class Node:
    """One ``mintmark serve``."""

    name: str
    port: int
    program: Program

    @property
    def url(self) -> str:
        """Where it answers itself, without the front."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def backend(self) -> Backend:
        """What it is to the front."""
        return Backend("127.0.0.1", self.port)


class Cluster:
    """Three nodes that share an issuer and a store; use it as an asynchronous context manager."""

    def __init__(self, folder: Path, store: str) -> None:
        self._folder = folder
        self._store = store
        self._stack = contextlib.AsyncExitStack()
        self._ports = dict(zip(_NAMES, free_ports(len(_NAMES)), strict=True))
        self._server: PostgresqlServer | None = None
        self._front: Front | None = None
        self.issuer = ""
        self.nodes: dict[str, Node] = {}
        kept = ("PATH", "HOME", "LANG", "LC_ALL", "TERM", "VIRTUAL_ENV", "SSL_CERT_FILE")
        self.environ: Final = {name: os.environ[name] for name in kept if name in os.environ}

    async def __aenter__(self) -> Self:
        try:
            url = await self._open_store()
            backends = [Backend("127.0.0.1", port) for port in self._ports.values()]
            self._front = self._stack.enter_context(running_front(backends))
            self.issuer = f"http://127.0.0.1:{self._front.port}"
            self.nodes = {name: self._node(name, port, url) for name, port in self._ports.items()}
            self._stack.push_async_callback(self._end)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def start(self, name: str) -> float:
        """Start a node and wait until it is ready; how many seconds that took."""
        began = SYSTEM_CLOCK.monotonic()
        node = self.nodes[name]
        node.program.start()
        while not self.is_ready(node):
            node.program.check()
            if SYSTEM_CLOCK.monotonic() - began > _START:
                raise DemoFailed(f"node {name} was not ready after {_START:.0f} s")
            await SYSTEM_CLOCK.sleep(0.05)
        return SYSTEM_CLOCK.monotonic() - began

    async def stop(self, name: str) -> float:
        """Tell a node to leave, and wait until it has; how many seconds that took."""
        began = SYSTEM_CLOCK.monotonic()
        node = self.nodes[name]
        await node.program.stop()
        took = SYSTEM_CLOCK.monotonic() - began
        await self._until_noticed(node)
        return took

    async def kill(self, name: str) -> None:
        """SIGKILL a node; its other processes end when they notice."""
        node = self.nodes[name]
        await node.program.kill()
        await until_refused(node.port)
        await self._until_noticed(node)

    @property
    def store(self) -> str:
        """What the nodes share."""
        if self._server is None:
            return "an SQLite file, which all three nodes share"
        return f"a PostgreSQL server of the demo's own, on port {self._server.port}"

    def is_ready(self, node: Node) -> bool:
        """Whether the front sends it connections."""
        return self._front is not None and self._front.is_ready(node.backend)

    async def command(self, *arguments: str, given: str = "") -> None:
        """Run a command of ``mintmark`` with the settings of the first node."""
        config = str(self._config(_NAMES[0]))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mintmark", "--config", config, *arguments,
            env=self.environ, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            _, said = await process.communicate(given.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise DemoFailed(f"mintmark {' '.join(arguments[:2])}: {said.decode(errors='replace').strip()}")

    def tails(self) -> str:
        """The end of every log that is not empty."""
        logs = {node.program.name: node.program.tail() for node in self.nodes.values()}
        if self._server is not None:
            logs["the database server"] = self._server.tail()
        return "".join(f"\n--- {name}:\n{tail}\n" for name, tail in logs.items() if tail)

    async def _until_noticed(self, node: Node) -> None:
        """Wait until the front knows that a node is gone, or what it says of the next one is old."""
        began = SYSTEM_CLOCK.monotonic()
        while self.is_ready(node):
            if SYSTEM_CLOCK.monotonic() - began > PATIENCE:
                raise DemoFailed(f"node {node.name} is gone, and the front still passes connections to it")
            await SYSTEM_CLOCK.sleep(0.02)

    async def _open_store(self) -> str:
        if self._store != "postgresql":
            return f"sqlite:///{self._folder}/mintmark.db"
        self._server = server = PostgresqlServer()
        # A thread cannot be interrupted: who is told to stop meanwhile waits for it, and then ends it.
        starting = asyncio.create_task(asyncio.to_thread(server.__enter__))
        self._stack.callback(server.end)
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.gather(starting, return_exceptions=True)
            raise
        return server.create_database("mintmark")

    def _config(self, name: str) -> Path:
        return self._folder / f"node-{name}.toml"

    def _node(self, name: str, port: int, store: str) -> Node:
        settings = {
            "issuer": self.issuer,
            "listen": f"127.0.0.1:{port}",
            "store": store,
            "cold_start": "wait",
            "log_level": "warning",
            **{span: format_duration(getattr(TIMING, span)) for span in _SPANS},
        }
        self._config(name).write_text("".join(f'{key} = "{value}"\n' for key, value in settings.items()))
        program = Program(
            f"node {name}", "mintmark", "--config", str(self._config(name)), "serve",
            environ=self.environ, log=self._folder / f"node-{name}.log",
        )  # fmt: skip
        return Node(name, port, program)

    async def _end(self) -> None:
        await asyncio.gather(*(node.program.end() for node in self.nodes.values()))
