"""What hardening does to a process, seen from inside: signer.hardening and signer.sandbox."""

import ctypes
import json
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mintmark.signer import sandbox

ROOT = Path(__file__).resolve().parent.parent.parent


def run(script: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A fresh interpreter that runs ``script``; hardening cannot be undone in ours."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def result(script: str, **environment: str) -> Any:
    """What ``script`` printed as JSON."""
    done = run(script, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_signer_can_open_nothing_and_start_nothing(tmp_path):
    """Files, sockets, new processes and programs are refused; threads, randomness and socket pairs work."""
    tried = result(
        """
        import ctypes, json, os, socket, subprocess, sys, tempfile, threading
        from mintmark.signer.hardening import Profile, harden
        attempts = {
            "read": lambda: open("/etc/passwd"),
            "write": lambda: open(os.environ["FOLDER"] + "/written", "w"),
            "list": lambda: os.listdir("/"),
            "tcp": lambda: socket.socket(),
            "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            "unix": lambda: socket.socket(socket.AF_UNIX),
            "exec": lambda: os.execv(sys.executable, ["python"]),
            "spawn": lambda: subprocess.Popen([sys.executable]),
            "import": lambda: __import__("wave"),
            "thread": lambda: threading.Thread(target=len, args=("",)).start(),
            "random": lambda: os.urandom(8),
            "pair": lambda: [end.close() for end in socket.socketpair()],
        }
        report = harden(Profile.SIGNER)
        outcome = {}
        for name, attempt in attempts.items():
            try:
                attempt()
                outcome[name] = "works"
            except BaseException as error:
                outcome[name] = type(error).__name__
        print(json.dumps([outcome, {item.name: item.on for item in report}]))
        """,
        FOLDER=str(tmp_path),
    )
    outcome, report = tried
    works = {name for name, what in outcome.items() if what == "works"}
    needs_landlock, needs_seccomp = (
        {"read", "write", "list", "import"},
        {"tcp", "udp", "unix", "exec", "spawn"},
    )
    assert {"thread", "random", "pair"} <= works
    if report["landlock"]:
        assert not works & needs_landlock
    if report["seccomp"]:
        assert not works & needs_seccomp
    if os.environ.get("CI") == "true":
        assert report["landlock"], "this kernel has no Landlock, so nothing was proved"
        assert report["seccomp"], "this kernel has no seccomp, so nothing was proved"


@pytest.mark.parametrize("profile", ["CONTROL", "WORKER"])
def test_other_processes_of_a_node_are_closed_to_others_and_still_work(profile):
    """Control and workers dump no core and gain no privileges, but files, sockets and children work."""
    seen = result(
        f"""
        import json, resource, socket, subprocess
        from mintmark.signer.hardening import Profile, harden
        report = harden(Profile.{profile})
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        socket.socket().close()
        subprocess.run(["/bin/true"], check=True)
        print(json.dumps([
            {{item.name: item.on for item in report}},
            resource.getrlimit(resource.RLIMIT_CORE),
            status["NoNewPrivs"].strip(),
        ]))
        """
    )
    assert seen[0] == dict.fromkeys(
        [
            "no_core_file",
            "not_dumpable",
            "not_traced",
            "no_new_privileges",
            "environment_wiped",
            "quiet_tracebacks",
        ],
        True,
    )
    assert seen[1:] == [[0, 0], "1"]


def test_secrets_leave_the_environment_and_what_the_kernel_shows_of_it():
    """A wiped variable is gone for this process, for its children, and from /proc/PID/environ."""
    seen = result(
        """
        import json, os, subprocess, sys
        from mintmark.signer.hardening import Profile, harden
        shown = open("/proc/self/environ", "rb", buffering=0)  # hardening closes it to all who come later
        before = b"canary-secret" in shown.read()
        report = harden(Profile.WORKER, secrets=("MINTMARK_CLUSTER_KEY", "MINTMARK_UNSET"))
        child = subprocess.run([sys.executable, "-c", "import os; print(dict(os.environ))"],
                               capture_output=True, text=True, check=True).stdout
        shown.seek(0)
        after = shown.read()
        print(json.dumps([
            before,
            "MINTMARK_CLUSTER_KEY" in os.environ,
            "canary" in child,
            b"canary-secret" in after,
            b"canary-other" in after,
            [item.reason for item in report if item.name == "environment_wiped"],
        ]))
        """,
        MINTMARK_CLUSTER_KEY="canary-secret",
        MINTMARK_OTHER="canary-other",
    )
    assert seen[0] is True
    assert seen[1] is False
    assert seen[2] is True, "the other variable is the child's to see"
    assert seen[3:] == [False, True, ["1 of 2 variables were set"]]


def test_tracebacks_show_where_and_no_values():
    """An unhandled error prints types and lines; a foreign message, which may hold a value, stays in."""
    done = run(
        """
        import threading
        from mintmark.errors import ConfigurationError
        from mintmark.signer.hardening import Profile, harden
        harden(Profile.WORKER)
        def fails(error):
            canary = "canary-in-a-local"
            raise error
        class Collected:
            def __del__(self):
                raise ValueError("canary-in-del")
        thread = threading.Thread(target=fails, args=(ValueError("canary-in-a-thread"),), name="canary")
        thread.start()
        thread.join()
        Collected()
        try:
            fails(KeyError("canary-in-context"))
        except KeyError:
            fails(ValueError("canary-in-a-message"))
        """
    )
    assert done.returncode == 1
    assert done.stderr.count("ValueError\n") == 3
    assert "in fails" in done.stderr
    assert "canary" not in done.stderr


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("ConfigurationError('lease', 'is too long')", "lease: is too long"),
        ("OSError(98, 'in use')", "in use"),
    ],
)
def test_messages_that_hold_no_secret_are_shown(error, shown):
    """Our own errors and the operating system's say what is wrong: a start that fails must be explained."""
    done = run(
        f"""
        from mintmark.errors import ConfigurationError
        from mintmark.signer.hardening import Profile, harden
        harden(Profile.CONTROL)
        raise {error}
        """
    )
    assert shown in done.stderr


def test_memory_lock_that_is_limited_is_off_with_the_limit_as_reason():
    """Without an unlimited RLIMIT_MEMLOCK nothing is locked, and memory is still to be had."""
    seen = result(
        """
        import json, resource
        from mintmark.signer import hardening
        from tests.signer.unprivileged import drop
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
        drop()
        report = {item.name: [item.on, item.reason] for item in hardening.harden(hardening.Profile.SIGNER)}
        more = bytes(50_000_000)
        print(json.dumps(report["memory_locked"]))
        """
    )
    assert seen[0] is False
    assert "65536" in seen[1]


class OldKernel:
    """A C library whose kernel knows neither Landlock nor seccomp."""

    def syscall(self, *_: object) -> int:
        ctypes.set_errno(38)
        return -1

    def prctl(self, *_: object) -> int:
        ctypes.set_errno(22)
        return -1


def test_kernel_without_sandboxes_is_reported_not_fatal(monkeypatch):
    """What the kernel or the machine does not offer is off, with a reason."""
    old: Any = OldKernel()
    assert sandbox.deny_files(old)[0] is False
    assert "no Landlock" in sandbox.deny_files(old)[1]
    assert sandbox.deny_calls(old)[0] is False
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    assert sandbox.deny_calls(old) == (False, "no table of system calls for vax")


def test_system_call_numbers_are_those_of_this_machine():
    """The table of this machine agrees with the C library's own headers, where they are installed."""
    headers = [
        *Path("/usr/include").glob("*/asm/unistd_64.h"),
        *Path("/usr/include").glob("asm-generic/unistd.h"),
    ]
    machine = {"x86_64": "unistd_64.h", "aarch64": "unistd.h"}
    for name, file in machine.items():
        for header in (header for header in headers if header.name == file):
            numbers = {
                words[1].removeprefix("__NR_").removeprefix("3264_"): words[2]
                for line in header.read_text().splitlines()
                if line.startswith("#define __NR") and len(words := line.split()) >= 3
            }
            for call, number in sandbox._REFUSED[name][1].items():
                assert numbers.get(call) == str(number), (name, call)
