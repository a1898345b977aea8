"""Another process of the same user, after the key of a process; run as a script, told what to try by lines.

Each line is ``METHOD PID [N]``; each answer is one line of JSON: what came of it, or the errno.
"""

import ctypes
import json
import os
import re
import sys
from typing import Any, BinaryIO

from tests.signer.factors import holds_factor
from tests.signer.unprivileged import drop

PTRACE_ATTACH, PTRACE_DETACH = 16, 17
PIDFD_OPEN, PIDFD_GETFD = 434, 438


class Attacker:
    """The methods, each named for the way in."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.held: dict[int, tuple[BinaryIO, BinaryIO]] = {}

    def hold(self, pid: int, _: int) -> str:
        """Open the memory now, to read it later."""
        self.held[pid] = (self._open(pid, "maps"), self._open(pid, "mem"))
        return "held"

    def read_held(self, pid: int, n: int) -> str:
        """Search the memory that was opened earlier."""
        return self._search(*self.held[pid], n)

    def mem(self, pid: int, n: int) -> str:
        """Search ``/proc/PID/mem``."""
        with self._open(pid, "maps") as maps, self._open(pid, "mem") as mem:
            return self._search(maps, mem, n)

    def mem_alone(self, pid: int, _: int) -> str:
        """Open ``/proc/PID/mem`` alone."""
        self._open(pid, "mem").close()
        return "opened"

    def environ(self, pid: int, _: int) -> str:
        """Read the environment."""
        with self._open(pid, "environ") as environ:
            return environ.read().decode(errors="replace")

    def fds(self, pid: int, _: int) -> str:
        """List the open files."""
        return " ".join(os.listdir(f"/proc/{pid}/fd"))

    def ptrace(self, pid: int, _: int) -> str:
        """Become its debugger."""
        self._call(self.libc.ptrace(PTRACE_ATTACH, pid, None, None))
        os.waitpid(pid, 0)
        self.libc.ptrace(PTRACE_DETACH, pid, None, None)
        return "attached"

    def vm_readv(self, pid: int, _: int) -> str:
        """Read memory by system call; without a map of it, at some address, which is refused earlier."""
        try:
            with self._open(pid, "maps") as maps:
                address = int(maps.readline().split(b"-")[0], 16)
        except OSError:
            address = 0x400000
        buffer = ctypes.create_string_buffer(64)
        local = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 64)
        remote = (ctypes.c_size_t * 2)(address, 64)
        return str(self._call(self.libc.process_vm_readv(pid, local, 1, remote, 1, 0)))

    def steal_fd(self, pid: int, _: int) -> str:
        """Copy a descriptor out of it: whoever had the control channel's could give orders."""
        process = self._call(self.libc.syscall(PIDFD_OPEN, pid, 0))
        try:
            os.close(self._call(self.libc.syscall(PIDFD_GETFD, process, 0, 0)))
        finally:
            os.close(process)
        return "stolen"

    def _open(self, pid: int, name: str) -> BinaryIO:
        return open(f"/proc/{pid}/{name}", "rb", buffering=0)

    def _call(self, result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), "refused")
        return result

    def _search(self, maps: BinaryIO, mem: BinaryIO, n: int) -> str:
        maps.seek(0)
        listing = b""
        while chunk := maps.read(65_536):
            listing += chunk
        searched = 0
        for first, last in re.findall(rb"(?m)^([0-9a-f]+)-([0-9a-f]+) rw", listing):
            start, end = int(first, 16), int(last, 16)
            try:
                mem.seek(start)
                region = mem.read(end - start)
            except OSError:
                continue
            searched += len(region)
            if holds_factor(region, n):
                return "found"
        return f"not found in {searched} bytes" if searched else "nothing could be read"


def main() -> None:
    """Obey until the lines end."""
    drop()
    attacker = Attacker()
    for line in sys.stdin:
        method, pid, *rest = line.split()
        answer: dict[str, Any]
        try:
            answer = {"got": getattr(attacker, method)(int(pid), int(rest[0]) if rest else 0)}
        except OSError as error:
            answer = {"errno": error.errno}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
