"""The programs of the demo: each a process of its own, with its own log, ended with the demo."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from mintmark.system import SYSTEM_CLOCK

PATIENCE: Final = 120.0
"""Seconds for whatever must happen, on a machine that is busy."""

_LEAVING: Final = 1.0


class DemoFailed(Exception):
    """Something that the demo shows did not happen; the message says what."""


class Timeline:
    """Prints what happens, with the seconds since the start."""

    def __init__(self) -> None:
        self._began = SYSTEM_CLOCK.monotonic()

    def seconds(self) -> float:
        """Seconds since the start."""
        return SYSTEM_CLOCK.monotonic() - self._began

    def say(self, what: str) -> None:
        """Print a line."""
        sys.stdout.write(f"{self.seconds():7.2f} s  {what}\n")
        sys.stdout.flush()


class Program:
    """One ``python -m …``, which may be started again once it has ended."""

    def __init__(self, name: str, *arguments: str, environ: dict[str, str], log: Path) -> None:
        self.name: Final = name
        self._arguments = arguments
        self._environ = environ
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; what it needs to be ready is its own business."""
        with self._log.open("ab") as output:
            # Not asyncio's: a signal to one of its processes that just ended is reported on standard error.
            self._process = subprocess.Popen(  # noqa: S603 - programs of our own
                [sys.executable, "-m", *self._arguments],
                env=self._environ, process_group=0, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def check(self) -> None:
        """Raise DemoFailed if it does not run."""
        if not self.runs:
            status = "" if self._process is None else f" with status {self._process.returncode}"
            raise DemoFailed(f"{self.name} ended{status}")

    async def stop(self) -> None:
        """Ask it to leave in good order, and wait; raises DemoFailed if it does not."""
        self.check()
        # A node may wait for another one that can sign, for as long as `handover` says.
        status = await self._wait(signal.SIGTERM, 2 * PATIENCE)
        if status is None:
            raise DemoFailed(f"{self.name} was told to leave, and did not within {2 * PATIENCE:.0f} s")
        if status != 0:
            raise DemoFailed(f"{self.name} was told to leave and ended with status {status}")

    async def kill(self) -> None:
        """SIGKILL, as by a machine that is gone."""
        self.check()
        await self._wait(signal.SIGKILL, PATIENCE)

    async def end(self) -> None:
        """End it if it runs: the demo is over. A second SIGTERM tells a node to wait for nobody."""
        for number, patience in ((signal.SIGTERM, _LEAVING), (signal.SIGTERM, PATIENCE / 2)):
            if await self._wait(number, patience) is not None:
                return
        await self._wait(signal.SIGKILL, PATIENCE)

    def tail(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-2000:].strip() if self._log.exists() else ""

    async def _wait(self, number: signal.Signals, patience: float) -> int | None:
        """Its status after this signal, 0 where it never ran; None if it goes on."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        deadline = SYSTEM_CLOCK.monotonic() + patience
        while (status := self._process.poll()) is None and SYSTEM_CLOCK.monotonic() < deadline:
            await SYSTEM_CLOCK.sleep(0.02)
        return status


async def until_refused(port: int) -> None:
    """Wait until nobody accepts on this port any more."""
    deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            return
        writer.transport.abort()
        if SYSTEM_CLOCK.monotonic() > deadline:
            raise DemoFailed(f"port {port} is still served by a program that was killed")
        await SYSTEM_CLOCK.sleep(0.02)
