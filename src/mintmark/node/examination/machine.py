"""What the kernel and the service manager say of this machine."""

import asyncio
import ctypes
import errno
import os
import re
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from mintmark.node.examination.web import Web
from mintmark.server.diagnosis.answer import Answer
from mintmark.server.diagnosis.machine import Free, Held, Unit, Unusable, WallClock
from mintmark.server.document import path_of
from mintmark.server.setting import Address
from mintmark.units import Issuer, Seconds

UNIT: Final = "mintmark.service"
_STA_UNSYNC: Final = 0x0040
_SYSTEMCTL: Final = 3.0
_SPANS: Final = {"y": 31_557_600, "w": 604_800, "d": 86_400, "h": 3600, "min": 60, "s": 1, "ms": 0, "us": 0}


class _Timex(ctypes.Structure):
    """The beginning of ``struct timex`` (adjtimex(2)), and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("max_error", ctypes.c_long),
        ("estimated_error", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def wall_clock() -> WallClock | str:
    """Whether something keeps the clock right, or why the kernel does not tell."""
    if not sys.platform.startswith("linux"):
        return f"not known on {sys.platform}"
    libc, found = ctypes.CDLL(None, use_errno=True), _Timex()
    # With no mode it only reads, which needs no privilege.
    if libc.adjtimex(ctypes.byref(found)) < 0:
        return f"the kernel does not tell: {os.strerror(ctypes.get_errno())}"
    return WallClock(synchronised=not found.status & _STA_UNSYNC, max_error=found.max_error)


def open_files() -> int | None:
    """The hard limit of open files; None where there is none."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def has_swap() -> bool:
    """Whether the kernel could write memory to a disk now; True where it does not tell."""
    try:
        return len(Path("/proc/swaps").read_text().splitlines()) > 1
    except OSError:
        return True


async def unit() -> Unit | str:
    """The unit of a node as systemd has loaded it, or why there is none to look at."""
    return await asyncio.to_thread(_unit)


def _unit() -> Unit | str:
    command = ["systemctl", "show", UNIT, "--property=LoadState,TimeoutStopUSec"]
    try:
        done = subprocess.run(  # noqa: S603 - our own words; the program is found where the user finds it
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SYSTEMCTL, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "no systemd here"
    if done.returncode != 0:
        return "no systemd here"
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    if found.get("LoadState") != "loaded":
        return f"there is no {UNIT}"
    text = found.get("TimeoutStopUSec", "")
    return Unit(UNIT, None if text == "infinity" else seconds_of(text))


def seconds_of(text: str) -> Seconds:
    """The whole seconds of a span as systemd prints it: ``16min 35s``, ``1min 30s``, ``500ms``."""
    parts = re.findall(r"(\d+)([a-z]+)", text)
    return Seconds(sum(int(number) * _SPANS.get(of, 0) for number, of in parts))


async def listening(address: Address, issuer: Issuer, web: Web) -> Free | Unusable | Held:
    """Whether ``address`` could be listened on, or who answers there already."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Bound and not listened on: nobody's connection ends here.
            sock.bind(place)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return Unusable(error.errno or 0, error.strerror or str(error))
    else:
        return Free()
    own = _own_url(address)
    discovery, ready = await asyncio.gather(
        # A node of several issuers knows them by their hosts.
        web.get(f"{own}{path_of(issuer)}/.well-known/openid-configuration", host=urlsplit(issuer).netloc),
        web.get(f"{own}/readyz"),
    )
    return Held(
        discovery=discovery.body if isinstance(discovery, Answer) else b"",
        ready=ready.body if isinstance(ready, Answer) else b"",
        ready_status=ready.status if isinstance(ready, Answer) else 0,
    )


def _own_url(address: Address) -> str:
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104 - compared
    return f"http://{Address(local, address.port)}"
