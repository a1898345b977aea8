"""Becoming a user without rights, and starting the signer as one; run as a script it does the latter.

A test that is root starts everything as ``nobody``: root may read any memory, so against root nothing
would be proved. The interpreter may lie where ``nobody`` cannot read it, so modules are loaded first, and
what exec would have given a process of that user, namely that it is dumpable, is given back.
"""

import ctypes
import os
import pwd
import resource
import shutil  # noqa: F401  Reading arguments loads it late, when it cannot be read any more.
import sys

from mintmark.signer.process import main

PR_SET_DUMPABLE = 4
PR_SET_PTRACER = 0x59616D61


def drop() -> None:
    """Become ``nobody`` if root: dumpable as after exec, open to tracers, with core files allowed."""
    unlimited = resource.RLIM_INFINITY if os.getuid() == 0 else resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (unlimited, unlimited))
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setresgid(nobody.pw_gid, nobody.pw_gid, nobody.pw_gid)
        os.setresuid(nobody.pw_uid, nobody.pw_uid, nobody.pw_uid)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    # Where Yama lets parents alone trace their children, it would protect what we mean to prove unprotected.
    libc.prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    drop()
    sys.stdout.write("up\n")
    sys.stdout.flush()
    sys.stdin.readline()  # An attacker who came early gets his turn here, before anything is hidden.
    sys.exit(main(sys.argv[2:]))
