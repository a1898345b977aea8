"""Looks at the store: the place of a file, the schema, and the rows of one issuer."""

import asyncio
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mintmark.adapters.sql.examine import Examined, examine
from mintmark.adapters.sql.migrate import SchemaState
from mintmark.core.keyring import Ring
from mintmark.errors import ConfigurationError, MintmarkError, StoreDamaged
from mintmark.node.secret import read_marks
from mintmark.ports.clock import Clock, Entropy
from mintmark.ports.keyring import RingView
from mintmark.server.diagnosis import store
from mintmark.server.diagnosis.finding import Check, Finding, Verdict, skipped
from mintmark.server.diagnosis.place import Place, of_place
from mintmark.server.settings import Settings
from mintmark.units import NumericDate

_FILE: Final = "sqlite:///"
_CHECKS: Final = tuple(check for check in Check if check.startswith("store."))


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found, and what others need of it: the ring, the store's time, and whether a node lives.

    ``ring`` is None where it could not be read.
    """

    findings: tuple[Finding, ...]
    ring: Ring | None = None
    now: NumericDate = NumericDate(0)
    live: int = 0


async def look_at_store(settings: Settings, *, clock: Clock, entropy: Entropy) -> Looked:
    """Everything about the store, without a change to it."""
    subject = place_of(settings.store)
    is_file = settings.store.startswith(_FILE)
    findings = list(of_place(await asyncio.to_thread(_place, Path(subject)))) if is_file else []
    reach = next((finding for finding in findings if finding.check == Check.STORE_REACH), None)
    if reach is not None:
        why = "there is no database yet" if reach.verdict is Verdict.OK else "the database is not usable"
        return Looked(_completed(findings, subject, why))
    try:
        marks = await read_marks(settings)
        found = await examine(settings.store, settings.issuer, clock=clock, entropy=entropy, marks=marks)
    except ConfigurationError as error:
        findings.append(store.of_unreadable_key(error.reason))
        return Looked(_completed(findings, subject, "the key of the cluster cannot be read"))
    except StoreDamaged as error:
        findings.append(store.of_damage(subject, str(error)))
        return Looked(_completed(findings, subject, "the database is not usable"))
    except MintmarkError as error:
        findings.append(store.of_outage(subject, str(error), is_file=is_file))
        return Looked(_completed(findings, subject, "the store is away"))
    if not is_file:
        findings += [skipped(check, subject, "no file") for check in (Check.STORE_MODE, Check.STORE_SPACE)]
    findings += store.of_database(
        subject,
        found.product,
        empty=found.schema is SchemaState.EMPTY,
        older=found.schema is SchemaState.OLDER,
        unwritable=found.unwritable,
        lossy=found.lossy,
    )
    if found.view is None:
        return Looked(_completed(findings, subject, "there is no schema to read yet"))
    live = store.live_nodes(found.view)
    findings += _of_rows(settings, found, found.view, live=live)
    return Looked(
        _completed(findings, subject, "it was not looked at"), found.view.ring, found.view.now, live
    )


async def read_ring(settings: Settings, *, clock: Clock, entropy: Entropy) -> Ring | None:
    """The ring as it is now; None where it cannot be read."""
    try:
        marks = await read_marks(settings)
        found = await examine(settings.store, settings.issuer, clock=clock, entropy=entropy, marks=marks)
    except MintmarkError:
        return None
    return None if found.view is None else found.view.ring


def _of_rows(settings: Settings, found: Examined, view: RingView, *, live: int) -> tuple[Finding, ...]:
    timing = settings.timing
    clock = store.of_same_clock()
    if not settings.store.startswith(_FILE):
        clock = store.of_clock(
            before=found.asked_at, now=view.now, after=found.answered_at, skew=timing.clock_skew
        )
    return (
        clock,
        store.of_timing(found.timing, timing, live=live),
        store.of_rows(
            view,
            keyed=settings.cluster_key is not None,
            replacing=settings.cluster_key_also is not None,
            is_file=settings.store.startswith(_FILE),
        ),
        store.of_nodes(view),
        store.of_keys(view),
        store.of_rotation(view, timing),
        store.of_jwks(view, timing),
    )


def _completed(findings: list[Finding], subject: str, why: str) -> tuple[Finding, ...]:
    """``findings`` in the order of the checks, and for each check that has none that it was skipped."""
    there = {finding.check for finding in findings}
    missing = [skipped(check, subject, why) for check in _CHECKS if check not in there]
    return tuple(sorted((*findings, *missing), key=lambda finding: _CHECKS.index(Check(finding.check))))


def place_of(url: str) -> str:
    """Where the store is, for people: a path, or server and database without user and password."""
    if url.startswith(_FILE):
        return str(Path(url.removeprefix(_FILE)).absolute())
    return url.partition("://")[2].rpartition("@")[2].partition("?")[0]


def _place(path: Path) -> Place:
    folder = path.parent
    exists = folder.is_dir()
    try:
        found = path.stat() if exists else None
    except OSError:
        found = None
    space = os.statvfs(folder) if exists else None
    return Place(
        path=path,
        mode=None if found is None else found.st_mode,
        is_file=found is not None and stat.S_ISREG(found.st_mode),
        folder_exists=exists,
        folder_writable=exists and os.access(folder, os.W_OK | os.X_OK, effective_ids=True),
        writable=found is not None and os.access(path, os.R_OK | os.W_OK, effective_ids=True),
        free=0 if space is None else space.f_bavail * space.f_frsize,
        file_system=_file_system(folder) if exists else "",
    )


def _file_system(folder: Path) -> str:
    """The type of the file system that ``folder`` is on (proc(5), mountinfo); ``unknown`` elsewhere."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
        real = folder.resolve()
    except OSError:
        return "unknown"
    best, name = -1, "unknown"
    for line in lines:
        head, _, tail = line.partition(" - ")
        at = Path(head.split()[4].encode().decode("unicode_escape"))
        # A later mount hides an earlier one at the same place.
        if real.is_relative_to(at) and len(at.parts) >= best:
            best, name = len(at.parts), tail.split()[0]
    return name
