"""Ports of this machine for servers that are about to be started."""

import contextlib
import os
import socket
import sys
from collections import deque
from pathlib import Path
from typing import Final

from mintmark.ports.clock import Entropy
from mintmark.system import SYSTEM_ENTROPY

_LOWEST: Final = 10_000
_UNASKED: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FEWEST: Final = 1_000
"""Ports to choose among; where the kernel leaves fewer to be asked for, it chooses."""
_KEPT: Final = 64

_taken: Final[deque[int]] = deque()
"""What keeps other processes off the last ports that this one was given."""


def free_ports(count: int, entropy: Entropy = SYSTEM_ENTROPY) -> list[int]:
    """``count`` ports of loopback that nobody listens on, and that nobody else is given by this function.

    Nor are they any that the kernel gives to whoever asks for any port. So a server finds its own free when
    it starts, and when it starts again, whatever other demos and tests start meanwhile.
    """
    among = _ports()
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            number = int.from_bytes(entropy.token_bytes(4))
            port = among[number % len(among)] if len(among) >= _FEWEST else 0
            sock = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                port = sock.getsockname()[1]
                if _take(port):
                    found.append(port)
    return found


def _ports() -> range:
    try:
        lowest = int(_UNASKED.read_text().split()[0])
    except OSError:
        lowest = 32_768
    return range(_LOWEST, lowest)


def _take(port: int) -> bool:
    """Whether no other process was given ``port``: a name, in no folder, says so while a process lives."""
    if sys.platform != "linux":
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(f"\0mintmark-port-{port}")
        except OSError:
            return False
        _taken.append(sock.detach())
    if len(_taken) > _KEPT:
        # Its server has started long ago, or never will.
        os.close(_taken.popleft())
    return True
