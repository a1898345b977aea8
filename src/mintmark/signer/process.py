"""The process that holds private keys: ``python -I -m mintmark.signer FD``.

FD is one end of a socket pair, inherited from the control process; when it closes, this process exits.
There is no other way in: no name in the file system, no socket that listens, no signal but SIGKILL.

Two processes are forked out of that one command. The first hides its memory and forks; the second holds
the keys. Between exec and hiding, any process of the same user may open ``/proc/PID/mem``, and such an
open file goes on reading for as long as that memory lives, whatever is hidden later. A forked child has
memory of its own that was never open to anyone. The first process only waits for the second.
"""

import argparse
import asyncio
import contextlib
import ctypes
import json  # noqa: F401  Parsing loads it late, when no file can be opened any more.
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final

from mintmark.ports.signer import HardeningReport
from mintmark.signer import hardening
from mintmark.signer.logline import JsonFormatter
from mintmark.signer.service import SignerService
from mintmark.system import SUSPEND_CLOCK

_PR_SET_PDEATHSIG: Final = 1
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

log: Final = logging.getLogger("mintmark.signer")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until control closes its channel; the exit status, 0 for that.

    In the waiting parent it returns the child's status, or 128 + N when signal N ended it.
    """
    parser = argparse.ArgumentParser(
        prog="mintmark.signer", description="holds private keys; started by a node"
    )
    parser.add_argument("fd", type=int, help="the inherited descriptor of the control channel")
    parser.add_argument("--rsa-bits", type=int, choices=(2048, 3072), default=2048)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--log-level", choices=_LEVELS, default="WARNING")
    parser.add_argument("--log-json", action="store_true", help="log lines as JSON")
    options = parser.parse_args(arguments)
    # Only control ends a signer: a terminal's or a service manager's signal to the whole group must not
    # take it away while requests that were accepted are still to be answered.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    hardening.hide_memory()
    parent = os.getpid()
    child = os.fork()
    if child:
        os.close(options.fd)
        return _wait_for(child)
    if not _die_with(parent):
        return 1
    logging.basicConfig(
        level=options.log_level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    if options.log_json:
        logging.getLogger().handlers[0].setFormatter(JsonFormatter())
    sock = socket.socket(fileno=options.fd)
    sock.set_inheritable(False)
    report = hardening.harden(hardening.Profile.SIGNER)
    for item in report:
        log.log(logging.INFO if item.on else logging.WARNING, "%s: %s", item.name, item.reason)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(sock, options.rsa_bits, options.threads, report), debug=False)
    return 0


async def _serve(sock: socket.socket, rsa_bits: int, threads: int, report: HardeningReport) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_say_quietly)
    ended = asyncio.Event()
    service = SignerService(clock=SUSPEND_CLOCK, rsa_bits=rsa_bits, threads=threads, hardening=report)
    service.serve_control(sock, ended.set)
    await ended.wait()
    # Threads may be in the middle of a key; nobody waits for it, and the kernel clears the memory.
    logging.shutdown()
    os._exit(0)


def _say_quietly(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio's own report prints the call that failed with its arguments: requests, that is."""
    error = context.get("exception")
    if isinstance(error, BaseException):
        sys.excepthook(type(error), error, error.__traceback__)
    else:
        log.error("the event loop reports a fault")


def _wait_for(child: int) -> int:
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _die_with(parent: int) -> bool:
    """Have the kernel end this process when ``parent`` ends; False when it already has."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent
