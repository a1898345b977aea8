"""Landlock and seccomp for the process that holds private keys, by bare system calls.

Landlock (landlock(7)) takes the file system away, and TCP where the kernel can; a small seccomp filter
(seccomp(2)) takes away sockets of every other family, new programs, and the ways into other processes.
Neither can be undone, and both apply to the calling thread and what it starts later, so both are put on
while there is one thread. Each returns what it did in words; a kernel without it is no error.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Collection
from typing import Final

_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2

_CREATE_RULESET: Final = 444
_RESTRICT_SELF: Final = 446
_RULESET_VERSION: Final = 1
_ADD_RULE: Final = 445
_PATH_BENEATH: Final = 1
# How many rights on files each version of Landlock knows: a kernel refuses a ruleset with a bit that it
# has never heard of.
_FS_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
# What a folder that is left open may be used for: no program, no device, no socket is made or run there.
_USE: Final = sum(1 << bit for bit in (1, 2, 3, 4, 5, 7, 8, 13, 14, 15))
_USE_FILE: Final = sum(1 << bit for bit in (1, 2, 14, 15))
_NET_RIGHTS: Final = 0b11  # bind and connect by TCP, from version 4
_BIND: Final = 0b01
_SCOPES: Final = 0b11  # abstract Unix sockets and signals outside the sandbox, from version 6

# Numbers by machine: what the filter refuses with EPERM. None of it is used once the signer runs.
_REFUSED: Final = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "accept4": 288,
            "fork": 57, "vfork": 58, "execve": 59, "execveat": 322,
            "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438,
            "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
            "open_by_handle_at": 304, "bpf": 321, "userfaultfd": 323, "perf_event_open": 298,
            "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308,
            "add_key": 248, "request_key": 249, "keyctl": 250,
            "kexec_load": 246, "kexec_file_load": 320, "init_module": 175, "finit_module": 313,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket": 198, "bind": 200, "listen": 201, "accept": 202, "connect": 203, "accept4": 242,
            "execve": 221, "execveat": 281,
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_getfd": 438,
            "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
            "open_by_handle_at": 265, "bpf": 280, "userfaultfd": 282, "perf_event_open": 241,
            "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268,
            "add_key": 217, "request_key": 218, "keyctl": 219,
            "kexec_load": 104, "kexec_file_load": 294, "init_module": 105, "finit_module": 273,
        },
    ),
}  # fmt: skip

_CONNECTING: Final = frozenset({"socket", "connect"})

# Classic BPF (linux/filter.h), on struct seccomp_data { int nr; u32 arch; … }.
_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EPERM
_KILL: Final = 0x80000000
_X32: Final = 0x40000000


def deny_files(libc: ctypes.CDLL, *, paths: Collection[str] = (), network: bool = False) -> tuple[bool, str]:
    """Take files, TCP, and signals to others away from this thread for good; (whether, why).

    All but ``paths``, which stay readable and writable with what is in them; with ``network`` connecting
    stays too. Reads are denied, so whatever is imported later fails: import first. Needs no_new_privs.
    Raises OSError when one of ``paths`` is not there.
    """
    version = libc.syscall(_CREATE_RULESET, None, 0, _RULESET_VERSION)
    if version < 1:
        return False, f"the kernel has no Landlock: {os.strerror(ctypes.get_errno())}"
    rights = (1 << _FS_RIGHTS[min(version, max(_FS_RIGHTS))]) - 1
    fields = [rights]
    if version >= 4:
        fields.append(_BIND if network else _NET_RIGHTS)
    if version >= 6:
        fields.append(_SCOPES)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False, f"Landlock refused its rules: {os.strerror(ctypes.get_errno())}"
    try:
        for path in paths:
            if not _leave_open(libc, ruleset, path, rights):
                return False, f"Landlock refused a rule: {os.strerror(ctypes.get_errno())}"
        if libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
            return False, f"Landlock would not start: {os.strerror(ctypes.get_errno())}"
    finally:
        os.close(ruleset)
    tcp = ", no TCP but to connect" if network else ", no TCP"
    denied = "no files" + (f" but in {', '.join(paths)}" if paths else "")
    denied += (tcp if version >= 4 else "") + (", no signals" if version >= 6 else "")
    return True, f"version {version}: {denied}"


def _leave_open(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> bool:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        use = (_USE if os.path.isdir(path) else _USE_FILE) & rights
        # struct landlock_path_beneath_attr is packed.
        rule = struct.pack("=Qi", use, opened)
        return bool(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0) == 0)
    finally:
        os.close(opened)


def deny_calls(libc: ctypes.CDLL, *, network: bool = False) -> tuple[bool, str]:
    """Refuse the system calls that a signer never makes, for good; (whether, why).

    The filter lists what is refused rather than what is allowed: an interpreter's and a C library's
    calls change with their versions, and a signer that dies of a new one would be an outage.
    With ``network`` it may make sockets and connect them. Needs no_new_privs.
    """
    machine = platform.machine()
    if machine not in _REFUSED:
        return False, f"no table of system calls for {machine}"
    architecture, listed = _REFUSED[machine]
    refused = {name: call for name, call in listed.items() if not (network and name in _CONNECTING)}
    steps = [
        # Calls of another architecture have other numbers, so none of them may pass the filter.
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        steps += [(_JUMP_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _REFUSE)]
    for number in refused.values():
        steps += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0) != 0:
        return False, f"seccomp would not start: {os.strerror(ctypes.get_errno())}"
    return True, f"{len(refused)} system calls refused"
