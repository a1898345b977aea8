"""Processes beside the test's own, on the same SQLite file or PostgreSQL database."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

WORKER = Path(__file__).with_name("worker.py")


def _cannot(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class Workers:
    """Starts processes of ``worker.py`` and lets all of them go at one moment."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[str]] = []

    def start(self, command: str, path: Path | str, argument: str = "", *, count: int = 1) -> None:
        """Start ``count`` more, and wait until each is ready."""
        started = [
            subprocess.Popen(
                [sys.executable, "-W", "error", str(WORKER), command, str(path), argument],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(count)
        ]
        self._all += started
        for process in started:
            assert self.read(process) == "ready"

    @contextmanager
    def injecting(self, *faults: str) -> Iterator[None]:
        """Have system calls of the first process fail from now on, as strace spells it.

        Without strace the test is skipped, or in CI fails.
        """
        strace = shutil.which("strace")
        if strace is None:
            _cannot("strace is not installed")
        calls = ",".join(fault.partition(":")[0] for fault in faults)
        command = [strace, "-f", "-p", str(self._all[0].pid), "-o", "/dev/null", "-e", f"trace={calls}"]
        command += [part for fault in faults for part in ("-e", f"inject={fault}")]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            said = tracer.stderr.readline()
            try:
                if "attached" not in said:
                    _cannot(f"strace may not trace here: {said.strip()}")
                yield
            finally:
                tracer.terminate()

    def go(self) -> None:
        """Let them all work."""
        for process in self._all:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    def read(self, process: subprocess.Popen[str] | None = None) -> Any:
        """The next thing that a process (the first, where none is named) says."""
        found = process or self._all[0]
        assert found.stdout is not None
        return json.loads(found.stdout.readline() or '"it ended"')

    def results(self) -> list[Any]:
        """What each says last, once all have ended well."""
        said = [self.read(process) for process in self._all]
        assert [process.wait(60) for process in self._all] == [0] * len(self._all)
        return said

    def kill(self) -> list[Any]:
        """End the first with SIGKILL; everything that it said and was not read yet."""
        self._all[0].kill()
        return self.drain()

    def drain(self) -> list[Any]:
        """Everything that the first says until it ends."""
        first = self._all[0]
        assert first.stdout is not None
        rest = first.stdout.read().splitlines(keepends=True)
        first.wait()
        # The last line may be cut off: it was not said.
        return [json.loads(line) for line in rest if line.endswith("\n")]

    def close(self) -> None:
        """End those that are left."""
        for process in self._all:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@pytest.fixture
def workers() -> Iterator[Workers]:
    """Processes that end with the test."""
    started = Workers()
    try:
        yield started
    finally:
        started.close()
