"""Processes full of verifiers, as the drill that starts and asks them sees them."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from mintmark.cli.drill import wire
from mintmark.cli.status import Failed

A = TypeVar("A", bound=msgspec.Struct)

MOST_PROCESSES: Final = 5
_LONGEST_LINE: Final = 2**24


@dataclass(frozen=True, slots=True)
class _Probe:
    """One process."""

    process: asyncio.subprocess.Process

    def say(self, message: wire.Order) -> None:
        if self.process.stdin is not None:
            self.process.stdin.write(wire.line(message))

    async def hear(self, kind: type[A]) -> A:
        """Its next answer, which is a ``kind``; raises Failed for any other."""
        text = await self.process.stdout.readline() if self.process.stdout is not None else b""
        if not text:
            raise Failed("a process with verifiers ended; its own words stand above")
        found = wire.answer(text)
        if isinstance(found, wire.Broken):
            raise Failed(f"a verifier refused a token that was not revoked: {found.code}")
        if not isinstance(found, kind):
            raise Failed("a process with verifiers said something else than it was asked")
        return found


class Probes:
    """``verifiers`` verifiers of an issuer, in up to five processes, each asked ``every`` so many seconds."""

    def __init__(self, probes: Iterable[_Probe], patience: float) -> None:
        self._probes: Final = tuple(probes)
        self._patience = patience

    @property
    def processes(self) -> int:
        """How many processes there are."""
        return len(self._probes)

    async def until_ready(self) -> None:
        """Wait until every verifier has read keys and revocations; raises Failed."""
        await self._hear(wire.Ready, "verifiers that have read keys and revocations")

    async def show(self, token: str) -> None:
        """Show this token to all from now on; returns once each has accepted it. Raises Failed."""
        self._say(wire.Show(token))
        await self._hear(wire.Accepted, "verifiers that accept a new token")

    async def until_refused(self) -> tuple[wire.Refused, ...]:
        """Wait until all refuse it, and say when; raises Failed."""
        return await self._hear(wire.Refused, "verifiers that refuse a token that was logged out")

    async def idle(self) -> tuple[float, ...]:
        """How late the loops of the processes woke up, in seconds, whenever they had nothing to ask."""
        self._say(wire.Idle(()))
        return tuple(late for one in await self._hear(wire.Idle, "an answer") for late in one.late)

    def _say(self, message: wire.Order) -> None:
        for probe in self._probes:
            probe.say(message)

    async def _hear(self, kind: type[A], what: str) -> tuple[A, ...]:
        hearing = [asyncio.ensure_future(probe.hear(kind)) for probe in self._probes]
        try:
            async with asyncio.timeout(self._patience):
                return tuple(await asyncio.gather(*hearing))
        except TimeoutError:
            raise Failed(f"not all had come after {self._patience:.0f} s: {what}") from None
        finally:
            # The others too: nobody else may read while they do.
            for one in hearing:
                one.cancel()
            await asyncio.gather(*hearing, return_exceptions=True)


@contextlib.asynccontextmanager
async def running(
    issuer: str,
    audience: str,
    *,
    verifiers: int,
    every: float,
    patience: float,
    feed_token: str | None = None,
) -> AsyncIterator[Probes]:
    """Processes with ``verifiers`` verifiers until the block ends; a step may take ``patience`` seconds."""
    count = min(MOST_PROCESSES, verifiers)
    shares = [verifiers // count + (number < verifiers % count) for number in range(count)]
    started: list[_Probe] = []
    try:
        for share in shares:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "mintmark.cli.drill.probing",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                # Ctrl-C is for the drill, which then ends them.
                process_group=0,
                limit=_LONGEST_LINE,
            )
            started.append(_Probe(process))
            started[-1].say(wire.Setup(issuer, audience, share, every, feed_token))
        yield Probes(started, patience)
    finally:
        for probe in started:
            # Not by its own method, which asks first whether it runs: that takes its status from asyncio,
            # which then complains of a process that it does not know.
            if probe.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(probe.process.pid, signal.SIGKILL)
        # Their pipes too are closed by this, so nothing is left to the garbage collector.
        await asyncio.gather(*(probe.process.communicate() for probe in started))
