"""I11, KY5, LG2, F39 on a whole node: its private key is in its signer, and nowhere else to be had."""

import contextlib
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.running import AS_NOBODY, PASSWORD, RunningNode, alive, running_node, until
from tests.signer.factors import holds_factor
from tests.signer.test_attacks import Attacker, core_files_are_written_here, hear, say

from mintmark.core import base64url

ROOT = Path(__file__).resolve().parent.parent.parent
WAYS_IN = ["mem", "mem_alone", "environ", "ptrace", "vm_readv", "steal_fd"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in which the unprivileged user may write, and so may leave core files.

    Not one of pytest's: each session of pytest closes the folder above those of all others.
    """
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o777)
        yield path


@pytest.fixture
def node(folder) -> Iterator[RunningNode]:
    """A node of the unprivileged user that logs everything, and may write core files of any size."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        prefix = AS_NOBODY if os.getuid() == 0 else []
        with running_node(folder, settings={"log_level": "debug"}, prefix=prefix) as running:
            yield running
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


@contextlib.contextmanager
def unprivileged(module: str, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """A script of the signer's tests, as the user that the node runs as."""
    prefix = AS_NOBODY if os.getuid() == 0 else []
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", f"tests.signer.{module}", *arguments],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def modulus(node: RunningNode) -> int:
    """The public modulus of the node's key."""
    (key,) = node.http.get("/.well-known/jwks.json").json()["keys"]
    return int.from_bytes(base64url.decode(key["n"]))


def test_no_process_of_a_node_lets_the_same_user_in(node, folder):
    """KY5, I11: what reads the memory of a careless process of that user gets into none of the node."""
    n = modulus(node)
    with unprivileged("attacker") as process, unprivileged("victim", str(folder), "none") as victim:
        attacker = Attacker(process)
        hear(victim)
        say(victim)
        assert attacker.tries("mem", victim.pid, int(hear(victim))) == "found"
        pids = [pid for kind in node.pids().values() for pid in kind]
        assert len(pids) == 4
        for pid in pids:
            refused = {way_in: attacker.tries(way_in, pid, n) for way_in in WAYS_IN}
            assert set(refused.values()) <= {errno.EPERM, errno.EACCES}, (pid, refused)


@pytest.mark.timeout(240)
def test_crashes_logs_and_files_of_a_node_hold_no_secret(node, folder):
    """KY5, LG2, F39: no core file of any process; no secret in a log at debug level or in any file."""
    core_files_are_written_here()
    n = modulus(node)
    tokens = node.log_in()
    renewed = node.asked(lambda: node.refresh(tokens["refresh_token"]), 200).json()
    node.http.post("/v1/sessions", json={"username": "ada", "password": PASSWORD + "!", "client_id": "shop"})
    node.refresh("mmr_" + "A" * 112)
    node.log_out(renewed["access_token"])
    secrets = [PASSWORD.encode()]
    for answer in (tokens, renewed):
        secrets += [answer["refresh_token"].encode(), answer["access_token"].encode()]
        secrets.append(answer["access_token"].rpartition(".")[2].encode())

    for kind in ("worker", "signer", "control"):
        for pid in node.pids()[kind]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSEGV)
                until(lambda: not alive(pid), "the crashed process is gone")  # noqa: B023
        if kind != "control":
            node.until_ready()
    assert node.process is not None
    assert node.process.wait(60) == -signal.SIGSEGV

    assert [path.name for path in folder.rglob("core*")] == []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert not holds_factor(content, n), path.name
        for mark in (b"PRIVATE KEY", b'"d":', b'"p":', *secrets):
            assert mark not in content, (path.name, mark[:12])
    lines = [json.loads(line) for line in node.log.read_text().splitlines()]
    assert {"session.started", "session.ended", "key.activated"} <= {line["event"] for line in lines}


def test_a_careless_process_of_that_user_does_leave_its_key(folder):
    """The search above would find something: the same user's unprotected process dumps its key."""
    core_files_are_written_here()
    with unprivileged("victim", str(folder), "none") as victim:
        hear(victim)
        say(victim)
        n = int(hear(victim))
        victim.send_signal(signal.SIGSEGV)
        assert victim.wait(60) == -signal.SIGSEGV
    (core,) = folder.glob("core*")
    assert holds_factor(core.read_bytes(), n)
