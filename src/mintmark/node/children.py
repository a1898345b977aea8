"""The worker processes of a node: started with what they need, watched, and ended."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from mintmark.node.cluster import Cluster
from mintmark.node.custody import secret_variables
from mintmark.node.link import Assignment, Line, Served, encode_assignment
from mintmark.ports.signer import SignerControl
from mintmark.units import Issuer

_STOPPING: Final = 15.0
"""Real seconds between asking a worker to leave and ending it: its drain time and some more."""


class Worker:
    """A running worker and the line to it; ``generations`` are those of the rings that it serves."""

    def __init__(self, process: "subprocess.Popen[bytes]", line: Line) -> None:
        self.process = process
        self.generations: dict[Issuer, int] = {}
        self._line = line

    async def listen(self, on_report: Callable[[], Awaitable[None]]) -> int:
        """Take in what the worker tells until it is gone, with ``on_report`` each time; its exit status."""
        while line := await self._line.receive():
            served = msgspec.json.decode(line, type=Served)
            self.generations[served.issuer] = served.generation
            await on_report()
        return await asyncio.to_thread(self.process.wait)

    async def stop(self, *, at_once: bool = False) -> None:
        """Ask it to finish what it has begun and leave, and end it if it does not. Idempotent."""
        if at_once:
            self.process.kill()
        elif self.process.poll() is None:
            self.process.terminate()
        await asyncio.to_thread(self._wait)
        self._line.close()

    def _wait(self) -> None:
        try:
            self.process.wait(_STOPPING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


async def start_worker(
    assignment: Assignment, *, listening: socket.socket, signer: SignerControl, cluster: Cluster
) -> Worker:
    """A new worker that was told what to do; it is not serving yet.

    It inherits four descriptors and nothing else, and is in a process group of its own, so that a
    terminal's Ctrl-C reaches the control process alone. Raises SignerUnavailable.
    """
    signing = await signer.attach()
    ours, theirs = socket.socketpair()
    withheld = secret_variables(assignment.settings)
    with signing, theirs, cluster.attach() as elsewhere:
        descriptors = (listening.fileno(), signing.fileno(), elsewhere.fileno(), theirs.fileno())
        process = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-m", "mintmark.node.worker", *map(str, descriptors)],
            stdin=subprocess.DEVNULL,
            # What is the signer's alone is in no process that requests reach.
            env={name: value for name, value in os.environ.items() if name not in withheld},
            pass_fds=descriptors,
            process_group=0,
        )
    line = await Line.open(ours)
    line.send(encode_assignment(assignment))
    return Worker(process, line)
