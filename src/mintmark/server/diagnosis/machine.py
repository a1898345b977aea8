"""What the machine offers a node: a clock that is kept right, files, protections, an address to listen on."""

import errno
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mintmark.ports.signer import HardeningReport
from mintmark.server.diagnosis.finding import Check, Finding, failed, ok, skipped, warning
from mintmark.server.setting import Address, shown
from mintmark.units import Issuer, Seconds, spoken

ENOUGH_FILES: Final = 4096
"""Each follower of the revocation feed and each idle client is an open file of a worker."""

_SHELL: Final = "in a shell `ulimit"


# --- clock and limits ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WallClock:
    """What the kernel says of its clock (adjtimex(2)), and by how many microseconds it may be wrong."""

    synchronised: bool
    max_error: int


def of_wall_clock(found: WallClock | str) -> Finding:
    """``found`` is text where the kernel could not be asked."""
    match found:
        case str(why):
            return skipped(Check.MACHINE_CLOCK, "wall clock", why)
        case WallClock(synchronised=True, max_error=wrong):
            return ok(Check.MACHINE_CLOCK, "wall clock", f"synchronised, at most {wrong / 1e6:.3f} s wrong")
    return warning(
        Check.MACHINE_CLOCK,
        "wall clock",
        "nothing keeps it right: it will drift until tokens are refused or outlive their revocation",
        fix="run chrony or systemd-timesyncd: `timedatectl set-ntp true`; in a container, on its host",
    )


def of_open_files(hard: int | None) -> Finding:
    """``hard`` is the hard limit, to which workers raise the soft one; None where there is none."""
    if hard is None or hard >= ENOUGH_FILES:
        found = "no limit" if hard is None else f"up to {hard} open files a process"
        return ok(Check.MACHINE_FILES, "RLIMIT_NOFILE", found)
    return warning(
        Check.MACHINE_FILES,
        "RLIMIT_NOFILE",
        f"{hard} open files a process: a worker takes no more connections than that, idle ones included",
        fix=f"systemd: `LimitNOFILE=65536`; {_SHELL} -Hn 65536`; docker: `--ulimit nofile=65536`",
    )


# --- systemd -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as systemd has loaded it; ``stop_after`` is None for infinity."""

    name: str
    stop_after: Seconds | None


def of_unit(found: Unit | str, *, needed: Seconds) -> Finding:
    """Whether a node that leaves is given ``needed`` seconds; ``found`` is text where there is no unit."""
    match found:
        case str(why):
            return skipped(Check.MACHINE_UNIT, "systemd", why)
        case Unit(name, stop_after):
            given = "infinity" if stop_after is None else spoken(stop_after)
            if stop_after is None or stop_after >= needed:
                found = f"TimeoutStopSec is {given}; a node has left after {spoken(needed)} at most"
                return ok(Check.MACHINE_UNIT, name, found)
            return warning(
                Check.MACHINE_UNIT,
                name,
                f"TimeoutStopSec is {given}, but leaving may take {spoken(needed)}: the node would be killed",
                fix=f"`systemctl edit {name}`: TimeoutStopSec={needed} under [Service]",
            )


# --- hardening -----------------------------------------------------------------------------------

_MEMLOCK: Final = (
    f"systemd: `LimitMEMLOCK=infinity`; {_SHELL} -l unlimited`; docker: `--ulimit memlock=-1`; "
    "or `swapoff -a`"
)
_FIXES: Final[Mapping[str, str]] = {
    "no_core_file": "allow the process to set RLIMIT_CORE",
    "not_dumpable": "allow prctl(PR_SET_DUMPABLE) in the container's seccomp profile",
    "not_traced": "start the node without strace, a debugger or a profiler",
    "no_new_privileges": "systemd: `NoNewPrivileges=yes`; docker: `--security-opt no-new-privileges`",
    "memory_locked": _MEMLOCK,
    "landlock": "run Linux 5.13 or later with landlock in /sys/kernel/security/lsm, and allow its calls in "
    "the container's seccomp profile",
    "seccomp": "run a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64",
    "all": "run nodes on Linux",
}
_WITHOUT: Final = "see docs/concepts/signer.md"
# Without these, any process of the same user reads private keys: a promise, not a second line.
_VITAL: Final = frozenset({"no_core_file", "not_dumpable"})


def of_hardening(reports: Mapping[str, HardeningReport | str], *, swap: bool) -> tuple[Finding, ...]:
    """One finding for each protection and outcome, naming the processes that had it so.

    ``reports`` is what processes like those of a node said of themselves, by profile; text where one could
    not be tried. ``swap`` is whether this machine could write memory to a disk.
    """
    outcomes: dict[tuple[str, bool, str], list[str]] = {}
    findings = []
    for profile, report in reports.items():
        if isinstance(report, str):
            findings.append(
                failed(Check.HARDENING, profile, report, fix="run `mintmark serve`, and see what it logs")
            )
            continue
        for item in report:
            outcomes.setdefault((item.name, item.on, item.reason), []).append(profile)
    for (name, on, reason), profiles in outcomes.items():
        findings.append(_protection(name, on, reason, ", ".join(profiles), swap=swap))
    return tuple(findings)


def _protection(name: str, on: bool, reason: str, subject: str, *, swap: bool) -> Finding:
    check = f"{Check.HARDENING}.{name}"
    if on:
        return ok(check, subject, f"on: {reason}")
    if name == "memory_locked" and not swap:
        return ok(check, subject, f"off, and not needed, since this machine has no swap: {reason}")
    tell = failed if name in _VITAL else warning
    return tell(check, subject, f"off: {reason}", fix=_FIXES.get(name, _WITHOUT))


# --- the address to listen on --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Free:
    """Nobody listens, and a node could."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """The system refuses the address with this error number, for this reason."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody listens: what it answered as discovery document and to /readyz; b"" where it did not."""

    discovery: bytes
    ready: bytes
    ready_status: int


_BINDING: Final = {
    errno.EACCES: "take a port above 1023 behind a proxy, or systemd: "
    "`AmbientCapabilities=CAP_NET_BIND_SERVICE`",
    errno.EADDRNOTAVAIL: "set `listen` to an address of this machine (`ip address`), or to 0.0.0.0",
    errno.EADDRINUSE: "find who holds it (`ss -ltnp`) and end that, or change `listen`",
}
_REASONS: Final[Mapping[str, tuple[str, str]]] = {
    "leaving": ("it was told to leave", "wait until it has gone"),
    "ring_stale": ("it cannot read the key ring", "see the store's checks; the node's log says store.failed"),
    "no_active_key": (
        "it has no key that may sign, and no other node signs for it",
        "see whether nodes reach each other (`cluster_listen`), store.keys and publication.keys",
    ),
    "no_slot": (
        "as many other nodes sign as `signers` allows",
        "it mints through them once it reaches one; or raise `signers` and `jwks_limit` on every node",
    ),
    "clock_off": ("its clock is too far from the store's", "see machine.clock and store.clock"),
    "log_stale": ("it cannot read the revocation log", "see the store's checks"),
    "signer_away": (
        "its signer, or its token, does not answer",
        "see the node's log for process.ended, hsm.lost",
    ),
}


_WAITING: Final = frozenset({"no_active_key", "no_slot"})
"""What a node says that joined others and is in order."""


def of_listen(address: Address, issuer: Issuer, found: Free | Unusable | Held) -> tuple[Finding, ...]:
    """Whether a node can listen there, or one does; then also whether it is ready."""
    subject = str(address)
    match found:
        case Free():
            return (
                ok(Check.NODE_LISTEN, subject, "free: no node runs here"),
                skipped(Check.NODE_READY, subject, "no node runs here"),
            )
        case Unusable(number, reason):
            fix = _BINDING.get(number, "change `listen`")
            return (
                failed(Check.NODE_LISTEN, subject, f"cannot be listened on: {reason}", fix=fix),
                skipped(Check.NODE_READY, subject, "no node runs here"),
            )
        case Held():
            taken = _of_holder(subject, issuer, found)
            if taken is not None:
                return taken, skipped(Check.NODE_READY, subject, "no node of this issuer answers here")
            listening = ok(Check.NODE_LISTEN, subject, "a node of this issuer answers")
            return listening, _of_ready(subject, issuer, found)


def _of_holder(subject: str, issuer: Issuer, held: Held) -> Finding | None:
    """What is wrong with who listens; None where it is a node of ``issuer``."""
    named = _member(held.discovery, "issuer")
    is_node = isinstance(_member(held.ready, "reasons"), list)
    if named == issuer or (is_node and not held.discovery):
        return None
    fix = _BINDING[errno.EADDRINUSE]
    if is_node or _member(held.discovery, "mintmark_feed") is not None:
        other = f" ({shown(named, limit=200)})" if isinstance(named, str) else ""
        found = f"a node of another issuer listens here{other}"
        fix = "change `listen` or `issuer`, or end that node"
    elif held.discovery or held.ready:
        found = "another program listens here"
    else:
        found = "somebody listens here and does not answer: a node that hangs, or another program"
        fix = f"see the node's log; else {fix}"
    return failed(Check.NODE_LISTEN, subject, found, fix=fix)


def _of_ready(subject: str, issuer: Issuer, held: Held) -> Finding:
    reasons = _member(held.ready, "reasons")
    of_each = _member(held.ready, "issuers")
    lacking = of_each.get(issuer) if isinstance(of_each, dict) else None
    if isinstance(reasons, list) and isinstance(lacking, list):
        # What this issuer lacks may be no reason for the node, which serves others.
        reasons = list(dict.fromkeys(map(str, (*lacking, *reasons))))
    if not isinstance(reasons, list) or held.ready_status not in {200, 503}:
        return failed(
            Check.NODE_READY,
            subject,
            f"/readyz answers with status {held.ready_status}"
            if held.ready_status
            else "/readyz says nothing",
            fix="see the node's log; a worker that hangs is replaced once it has ended",
        )
    if held.ready_status == 200 and not reasons:
        return ok(Check.NODE_READY, subject, "ready")
    # Others may sign meanwhile: where nobody does, the keys in the store say so.
    tell = warning if reasons and set(map(str, reasons)) <= _WAITING else failed
    known = [_REASONS.get(str(reason), (_unknown(reason), "see the node's log")) for reason in reasons]
    return tell(
        Check.NODE_READY,
        subject,
        "not ready: " + ("; ".join(text for text, _ in known) or "it does not say why"),
        fix="; ".join(dict.fromkeys(fix for _, fix in known)) or "see the node's log",
    )


def _unknown(reason: object) -> str:
    text = str(reason)
    return text if re.fullmatch(r"[a-z_]{1,40}", text) else "a reason that this version does not know"


def _member(body: bytes, name: str) -> object:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found.get(name) if isinstance(found, dict) else None
