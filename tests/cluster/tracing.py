"""strace on a running process: it stands still after each call of a kind, and the test says what then."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from tests.cluster.cluster import PATIENCE
from tests.cluster.running import alive, until

_ENDING = 10.0
"""Seconds that strace gets to end by itself."""
_SIGNALLED = re.compile(r"^(\d+) +--- SIGSTOP ")


def _cannot(reason: str) -> NoReturn:
    # A node lets nobody but root trace it, and a machine may forbid that too.
    if os.environ.get("CI") == "true" and os.geteuid() == 0:
        pytest.fail(reason)
    pytest.skip(reason)


class Trace:
    """What strace has written so far."""

    def __init__(self, path: Path, pid: int) -> None:
        self._path = path
        self._pid = pid
        self._stops = 0

    def lines(self) -> list[str]:
        """One line a call or a signal; two lines where another thread's came between its begin and end."""
        return self._path.read_text(errors="replace").splitlines() if self._path.exists() else []

    def stopped_after(self) -> str:
        """The call, or calls, after which the process stands still now, once; empty while it runs."""
        lines = self.lines()
        signals = [number for number, line in enumerate(lines) if _SIGNALLED.match(line)]
        if len(signals) == self._stops or not self._stands_still():
            return ""
        new, self._stops = signals[self._stops :], len(signals)
        return "\n".join(self._call_before(lines[:number], lines[number].split()[0]) for number in new)

    def _call_before(self, lines: list[str], thread: str) -> str:
        """What ``thread`` called last, with its arguments."""
        said: list[str] = []
        for line in reversed(lines):
            if line.split()[0] == thread and not line.split(maxsplit=1)[1].startswith(("---", "+++")):
                said.insert(0, line.split(maxsplit=1)[1])
                if not said[0].startswith("<..."):
                    break
        return " ".join(said)

    def _stands_still(self) -> bool:
        """Whether every thread does: one that runs could still do something."""
        return all(_thread_state(task) in "tTZX" for task in Path(f"/proc/{self._pid}/task").iterdir())

    def go_on(self) -> None:
        os.kill(self._pid, signal.SIGCONT)


def _thread_state(task: Path) -> str:
    with contextlib.suppress(OSError):
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    return "X"


@contextlib.contextmanager
def traced(pid: int, folder: Path, calls: Sequence[str], inject: str) -> Iterator[Trace]:
    """``calls`` of all threads of ``pid`` are traced, and ``inject``, as strace spells it, happens at each.

    Without strace, or the right to trace, the test is skipped; it fails where CI runs it as root.
    """
    strace = shutil.which("strace")
    if strace is None:
        _cannot("strace is not installed")
    path = folder / f"trace-{pid}"
    kinds = ",".join(calls)
    command = [strace, "-f", "-s", "1000", "-p", str(pid), "-o", str(path)]
    command += ["-e", f"trace={kinds}", "-e", f"inject={kinds}:{inject}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        try:
            if "attached" not in said:
                _cannot(f"strace may not trace here: {said.strip()}")
            yield Trace(path, pid)
        finally:
            _end(tracer, pid)


def _end(tracer: "subprocess.Popen[str]", pid: int) -> None:
    """Let strace see the end of a process that was killed, and detach from one that was not.

    Told to detach from threads that are about to end it may wait for ever; its own end sets them free.
    """
    if alive(pid):
        tracer.terminate()
    try:
        tracer.wait(_ENDING)
    except subprocess.TimeoutExpired:
        tracer.kill()
        tracer.wait()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def kill_after(
    pid: int, folder: Path, calls: Sequence[str], is_it: Callable[[str], bool], begin: Callable[[], object]
) -> str:
    """SIGKILL right after the first of ``calls`` for which ``is_it``, while nothing else of it moves.

    ``begin`` is called once the process is watched; it must not wait for the process. What strace says of
    the call.
    """
    with traced(pid, folder, calls, "signal=SIGSTOP") as trace:
        begin()
        deadline = time.monotonic() + PATIENCE
        while alive(pid) and time.monotonic() < deadline:
            if call := trace.stopped_after():
                if is_it(call):
                    os.kill(pid, signal.SIGKILL)
                    until(lambda: not alive(pid), "it was killed")
                    return call
                trace.go_on()
            else:
                time.sleep(0.003)
        raise AssertionError(f"in {PATIENCE:.0f} s there was no such call: {trace.lines()[-40:]}")
