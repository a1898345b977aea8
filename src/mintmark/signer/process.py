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
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from mintmark.signer import hardening
from mintmark.signer.custody import NETWORK, Custody, HsmCustody
from mintmark.signer.keeping import Unusable, take_seals, take_token
from mintmark.signer.logline import JsonFormatter
from mintmark.signer.service import SignerService
from mintmark.system import SUSPEND_CLOCK, SYSTEM_ENTROPY

_PR_SET_PDEATHSIG: Final = 1
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

log: Final = logging.getLogger("mintmark.signer")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until control closes its channel; the exit status, 0 for that.

    A :class:`mintmark.signer.custody.Fault` when something that it was given is of no use. In the waiting
    parent it returns the child's status, or 128 + N when signal N ended it.
    """
    parser = argparse.ArgumentParser(
        prog="mintmark.signer", description="holds private keys; started by a node"
    )
    parser.add_argument("fd", type=int, help="the inherited descriptor of the control channel")
    parser.add_argument("--rsa-bits", type=int, choices=(2048, 3072), default=2048)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    for name in ("seal-key", "seal-key-previous", "hsm-pin"):
        parser.add_argument(f"--{name}", type=int, help="an inherited descriptor that gives it")
    parser.add_argument("--hsm-module", help="path of a PKCS#11 module")
    parser.add_argument("--hsm-token", default="", help="label of its token")
    parser.add_argument("--hsm-variable", action="append", default=[], help="NAME=VALUE for the module")
    parser.add_argument("--hsm-allow", action="append", default=[], help='a path left open, or "network"')
    parser.add_argument("--log-level", choices=_LEVELS, default="WARNING")
    parser.add_argument("--log-json", action="store_true", help="log lines as JSON")
    options = parser.parse_args(arguments)
    # Only control ends a signer: a terminal's or a service manager's signal to the whole group must not
    # take it away while requests that were accepted are still to be answered.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    custody = _custody(options)
    hardening.hide_memory()
    parent = os.getpid()
    child = os.fork()
    if child:
        for inherited in (options.fd, *custody.descriptors):
            os.close(inherited)
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
    try:
        seals = take_seals(custody, entropy=SYSTEM_ENTROPY)
        token = take_token(custody.hsm, rsa_bits=options.rsa_bits, clock=SUSPEND_CLOCK)
    except Unusable as unusable:
        log.error("%s", unusable)
        return unusable.fault
    allow = set() if custody.hsm is None else set(custody.hsm.allow)
    report = hardening.harden(
        hardening.Profile.SIGNER, paths=sorted(allow - {NETWORK}), network=NETWORK in allow
    )
    service = partial(
        SignerService,
        clock=SUSPEND_CLOCK,
        rsa_bits=options.rsa_bits,
        threads=options.threads,
        seals=seals,
        token=token,
        hardening=report,
    )
    for item in report:
        log.log(logging.INFO if item.on else logging.WARNING, "%s: %s", item.name, item.reason)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(sock, service), debug=False)
    return 0


def _custody(options: argparse.Namespace) -> Custody:
    hsm = None
    if options.hsm_module is not None:
        variables = tuple(each.partition("=")[::2] for each in options.hsm_variable)
        hsm = HsmCustody(
            module=options.hsm_module,
            token=options.hsm_token,
            pin=options.hsm_pin,
            environment=variables,
            allow=tuple(options.hsm_allow),
        )
    return Custody(seal_key=options.seal_key, seal_key_previous=options.seal_key_previous, hsm=hsm)


async def _serve(sock: socket.socket, make: Callable[[], SignerService]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_say_quietly)
    ended = asyncio.Event()
    make().serve_control(sock, ended.set)
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
