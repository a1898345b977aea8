"""Whether a database file can be used where it is, or made where it would be."""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mintmark.server.diagnosis.finding import Check, Finding, failed, ok, warning
from mintmark.server.setting import shown

LITTLE_SPACE: Final = 1 << 30
NO_SPACE: Final = 64 << 20
"""The write-ahead log alone may grow to this."""

_REMOTE: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "ceph", "glusterfs", "fuse.glusterfs", "lustre"}
)
"""File systems on which SQLite's locks or its shared memory do not work between machines."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a database file is, or would be made. ``mode`` is None where there is no file."""

    path: Path
    mode: int | None
    is_file: bool
    folder_exists: bool
    folder_writable: bool
    writable: bool
    """Whether the user who asks may read and write the file."""
    free: int
    """Bytes that this user may still write on that disk."""
    file_system: str


def of_place(place: Place) -> tuple[Finding, ...]:
    """Whether the file can be used, or made; its mode and its disk where it is there."""
    subject, folder = str(place.path), place.path.parent
    if not place.folder_exists:
        fix = f"`mkdir -p {folder}`, or change `store`"
        return (failed(Check.STORE_REACH, subject, f"the folder {folder} does not exist", fix=fix),)
    findings = [_of_disk(place)]
    if place.mode is not None and not place.is_file:
        fix = "change `store` to the path of a file"
        findings.append(failed(Check.STORE_REACH, subject, "this is no file", fix=fix))
    elif not place.folder_writable or (place.mode is not None and not place.writable):
        what = f"the folder {folder}" if not place.folder_writable else "the file"
        fix = "run it as the node's user, or give it both: `chown -R USER` the folder and the file"
        findings.append(failed(Check.STORE_REACH, subject, f"this user may not write {what}", fix=fix))
    elif place.mode is None:
        found = "no database yet: the first start makes it"
        findings.append(ok(Check.STORE_REACH, subject, found))
    else:
        findings.append(_of_mode(subject, place.mode))
    return tuple(findings)


def _of_mode(subject: str, mode: int) -> Finding:
    found = f"mode {stat.S_IMODE(mode):04o}"
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return warning(
            Check.STORE_MODE,
            subject,
            f"{found}: others may read or change hashes of passwords, sessions and keys",
            fix=f"`chmod go-rwx {subject}*`",
        )
    return ok(Check.STORE_MODE, subject, found)


def _of_disk(place: Place) -> Finding:
    subject, free = str(place.path.parent), place.free
    found = f"{free >> 20:,} MiB free on {shown(place.file_system)}"
    if place.file_system in _REMOTE:
        return failed(
            Check.STORE_SPACE,
            subject,
            f"a file system of the network ({place.file_system}): SQLite loses data on those",
            fix="put the file on a local disk, or use PostgreSQL",
        )
    if free >= LITTLE_SPACE:
        return ok(Check.STORE_SPACE, subject, found)
    tell = failed if free < NO_SPACE else warning
    return tell(Check.STORE_SPACE, subject, found, fix="make room: a store that is full answers 503")
