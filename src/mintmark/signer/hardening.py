"""What keeps a node's processes from giving their memory away.

Every process of a node calls :func:`harden` before it holds a secret. It never fails: a protection that
the machine does not offer is reported as off, with the reason, for whoever called it to log.
"""

import ctypes
import faulthandler
import os
import resource
import sys
import threading
import traceback
from collections.abc import Collection
from enum import Enum
from types import TracebackType
from typing import Final

from mintmark.errors import MintmarkError
from mintmark.ports.signer import Hardened, HardeningReport
from mintmark.signer import sandbox

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
_CAP_IPC_LOCK: Final = 14


class Profile(Enum):
    """Which process of a node this is."""

    CONTROL = "control"
    WORKER = "worker"
    SIGNER = "signer"
    """All of it, and no file, network or program any more: import everything first."""


def harden(
    profile: Profile, *, secrets: Collection[str] = (), paths: Collection[str] = (), network: bool = False
) -> HardeningReport:
    """Protect this process for good, and say what worked; call it early, in the only thread.

    ``secrets`` names environment variables that hold one: read them first, they are wiped, from the
    block that ``/proc/PID/environ`` shows as well. A program started later is dumpable again until it
    hardens itself, because exec resets that.

    A signer whose keys are in a token needs more: ``paths`` that its module reads and writes, and ``network``
    where the token is elsewhere. Raises OSError when one of ``paths`` is not there, and nothing otherwise.
    """
    if not sys.platform.startswith("linux"):
        return (Hardened("all", on=False, reason=f"not on {sys.platform}"), *_python_only())
    libc = ctypes.CDLL(None, use_errno=True)
    report = [
        _no_core_limit(),
        _not_dumpable(libc),
        _not_traced(),
        _no_new_privileges(libc),
        _wiped_environment(libc, secrets),
        *_python_only(),
    ]
    if profile is Profile.SIGNER:
        report += [
            _memory_locked(libc),
            Hardened("landlock", *sandbox.deny_files(libc, paths=paths, network=network)),
            Hardened("seccomp", *sandbox.deny_calls(libc, network=network)),
        ]
    return tuple(report)


def hide_memory() -> None:
    """No core, no debugger and no ``/proc/PID/mem`` for this process and those it forks; Linux only.

    The part of :func:`harden` that must come before a fork: a child that is forked afterwards has
    memory that nobody could ever open.
    """
    if sys.platform.startswith("linux"):
        _no_core_limit()
        _not_dumpable(ctypes.CDLL(None, use_errno=True))


def _no_core_limit() -> Hardened:
    """The hard limit too, so that nothing in this process can raise it again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return Hardened("no_core_file", on=True, reason="RLIMIT_CORE is 0, soft and hard")


def _not_dumpable(libc: ctypes.CDLL) -> Hardened:
    # Beyond core files, which a handler in core_pattern would get whatever the limit, this is what
    # keeps processes of the same user out of /proc/PID/mem, /proc/PID/environ and ptrace.
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        return Hardened("not_dumpable", on=False, reason=os.strerror(ctypes.get_errno()))
    return Hardened("not_dumpable", on=True, reason="no dump, ptrace or /proc/PID/mem by the same user")


def _not_traced() -> Hardened:
    """A tracer that came before :func:`_not_dumpable` keeps its hold, so it is worth an alarm."""
    tracer = _status(b"TracerPid")
    if tracer not in {"0", ""}:
        return Hardened("not_traced", on=False, reason=f"process {tracer} traces this one")
    return Hardened("not_traced", on=True, reason="no tracer")


def _no_new_privileges(libc: ctypes.CDLL) -> Hardened:
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return Hardened("no_new_privileges", on=False, reason=os.strerror(ctypes.get_errno()))
    return Hardened("no_new_privileges", on=True, reason="set")


def _wiped_environment(libc: ctypes.CDLL, secrets: Collection[str]) -> Hardened:
    libc.getenv.restype = ctypes.c_void_p
    wiped = 0
    for name in secrets:
        if name not in os.environ:
            continue
        address = libc.getenv(os.fsencode(name))
        if address is not None:
            # The kernel shows the first block of the stack as /proc/PID/environ: unsetting a variable
            # forgets where it was, and leaves it there to read.
            ctypes.memset(address, 0, len(ctypes.string_at(address)))
        del os.environ[name]
        wiped += 1
    return Hardened("environment_wiped", on=True, reason=f"{wiped} of {len(secrets)} variables were set")


def _python_only() -> tuple[Hardened, ...]:
    faulthandler.disable()
    sys.excepthook = _print_quietly
    threading.excepthook = lambda args: _print_quietly(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _print_quietly(args.exc_type, args.exc_value, args.exc_traceback)
    return (Hardened("quiet_tracebacks", on=True, reason="types and lines, no foreign text, no values"),)


def _print_quietly(
    kind: type[BaseException], error: BaseException | None, where: TracebackType | None
) -> None:
    """Print what failed and where, without any value that the failure may have had in its hands.

    Only the messages of our own errors and of the operating system's are known to hold no secret.
    """
    frames = traceback.StackSummary.extract(traceback.walk_tb(where), lookup_lines=False)
    said = f": {error}" if isinstance(error, MintmarkError | OSError) else ""
    sys.stderr.write("Traceback (most recent call last):\n")
    for frame in frames:
        sys.stderr.write(f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}\n')
    sys.stderr.write(f"{kind.__qualname__}{said}\n")


def _memory_locked(libc: ctypes.CDLL) -> Hardened:
    """Lock pages as they are touched; threads reserve far more address space than they use.

    Under a finite limit a later allocation would fail instead of being swapped, which trades a leak that
    may happen for an outage that will, so the limit must be infinite.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard != resource.RLIM_INFINITY and not _has_capability(_CAP_IPC_LOCK):
        reason = f"RLIMIT_MEMLOCK is {hard} bytes: keys may be swapped out (systemd: LimitMEMLOCK=infinity)"
        return Hardened("memory_locked", on=False, reason=reason)
    if hard == resource.RLIM_INFINITY and soft != hard:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return Hardened("memory_locked", on=False, reason=os.strerror(ctypes.get_errno()))
    return Hardened("memory_locked", on=True, reason="mlockall, now and later")


def _has_capability(number: int) -> bool:
    return bool(int(_status(b"CapEff") or "0", 16) >> number & 1)


def _status(name: bytes) -> str:
    """A field of this process's status, as the kernel tells it; empty when it does not."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(name + b":"):
                return line.split()[1].decode()
    return ""
