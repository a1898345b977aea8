"""F39, KY5, I11: what another process of the same user, or a crash, gets of a private key: nothing.

Each attack is first shown to work on a process that does not protect itself.
"""

import asyncio
import errno
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.signer.factors import holds_factor

from mintmark.core.algorithm import Algorithm
from mintmark.core.jwk import PublicKey
from mintmark.signer.client import ControlClient, SignerClient
from mintmark.system import SYSTEM_CLOCK
from mintmark.units import Issuer, NumericDate

ROOT = Path(__file__).resolve().parent.parent.parent
ISSUER = Issuer("https://auth.example.com")
WAYS_IN = ["mem", "mem_alone", "environ", "fds", "ptrace", "vm_readv", "steal_fd"]


@contextmanager
def started(module: str, *arguments: str, **options: Any) -> "Iterator[subprocess.Popen[str]]":
    """A script of this folder, running; it ends when its standard input does, or is killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"tests.signer.{module}", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def say(process: "subprocess.Popen[str]", line: str = "") -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


class Attacker:
    """Another process of the same user."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def tries(self, method: str, pid: int, n: int = 0) -> Any:
        """What came of it: the errno, or what it got."""
        say(self.process, f"{method} {pid} {n}")
        answer = json.loads(hear(self.process))
        return answer.get("errno", answer.get("got"))


def cannot_prove(reason: str) -> NoReturn:
    """Skip, or in CI fail, because this machine protects what we mean to show unprotected."""
    message = f"{reason}, so nothing would be proved here"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder in which any user may write, and so may leave a core file."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield name


@pytest.fixture
def attacker() -> Iterator[Attacker]:
    with started("attacker") as process:
        yield Attacker(process)


class Started:
    """A signer of the unprivileged user, with an RSA key that has signed."""

    def __init__(self, waiting: int, holding: int, key: PublicKey, worker: SignerClient) -> None:
        self.pids = (waiting, holding)
        self.key = key
        self.worker = worker
        assert isinstance(key.key, rsa.RSAPublicKey)
        self.n = key.key.public_numbers().n


@asynccontextmanager
async def signer(folder: str, early: Attacker | None = None) -> AsyncIterator[Started]:
    """The real signer as ``nobody``; ``early`` opens its memory before it has hidden it."""
    with ExitStack() as stack:
        ours, theirs = socket.socketpair()
        with theirs:
            process = stack.enter_context(
                started("unprivileged", folder, str(theirs.fileno()), pass_fds=(theirs.fileno(),))
            )
        assert hear(process) == "up"
        if early is not None:
            assert early.tries("hold", process.pid) == "held"
        say(process)
        control = ControlClient(ours, clock=SYSTEM_CLOCK)
        stack.callback(control.close)
        worker = SignerClient(await control.attach(), clock=SYSTEM_CLOCK)
        stack.callback(worker.close)
        key = (await control.generate(issuer=ISSUER, alg=Algorithm.RS256, typs=frozenset({"at+jwt"}))).public
        now = SYSTEM_CLOCK.now()
        await control.extend(key.kid, max_exp=NumericDate(now + 1000), lease_until=NumericDate(now + 120))
        assert await worker.sign(key.kid, "at+jwt", b'{"iss":"%s","exp":%d}' % (ISSUER.encode(), now + 60))
        yield Started(process.pid, (await control.status()).pid, key, worker)


@pytest.mark.parametrize("order", ["little", "big"])
def test_search_finds_a_factor_and_only_that(order):
    """A factor among random bytes is found in either byte order, and not once it is taken out."""
    numbers = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_numbers()
    noise = random.Random(1)
    before, after = noise.randbytes(8 * 1000), noise.randbytes(999)
    factor = numbers.q.to_bytes(128, order)
    assert holds_factor(before + factor + after, numbers.public_numbers.n)
    assert not holds_factor(before + after, numbers.public_numbers.n)


@pytest.mark.parametrize("way_in", WAYS_IN)
def test_ways_in_work_on_a_process_that_is_not_hardened(way_in, attacker, folder):
    """Each attack gets through to a process that takes no care; its memory yields the key."""
    with started("victim", folder, "none") as victim:
        hear(victim)
        say(victim)
        n = int(hear(victim))
        got = attacker.tries(way_in, victim.pid, n)
    if isinstance(got, int):
        cannot_prove(f"this machine refuses {way_in} between processes of one user ({os.strerror(got)})")
    if way_in == "mem":
        assert got == "found"


async def test_no_way_into_the_signer(attacker, folder):
    """KY5, F39: neither the holder of the keys nor the process that waits for it lets the same user in."""
    async with signer(folder) as running:
        for pid in running.pids:
            refused = {way_in: attacker.tries(way_in, pid, running.n) for way_in in WAYS_IN}
            assert set(refused.values()) <= {errno.EPERM, errno.EACCES}, refused


def test_memory_that_was_opened_early_stays_open(attacker, folder):
    """Hiding memory does not close it to who has it open: hiding alone would not protect a key."""
    with started("victim", folder, "hide") as victim:
        hear(victim)
        assert attacker.tries("hold", victim.pid) == "held"
        say(victim)
        n = int(hear(victim))
        assert attacker.tries("mem", victim.pid, n) == errno.EACCES
        assert attacker.tries("read_held", victim.pid, n) == "found"


async def test_memory_that_was_opened_early_holds_no_key(attacker, folder):
    """KY5: who opened its memory between exec and hiding reads on, and finds no factor in it."""
    async with signer(folder, early=attacker) as running:
        assert attacker.tries("read_held", running.pids[0], running.n).startswith("not found in ")


def core_files_are_written_here() -> None:
    """Skip, or in CI fail, where the kernel does not write core files into the process's folder."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern.startswith(("|", "/")):
        cannot_prove(f"core files go to {pattern!r}")
    if os.getuid() != 0 and resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        cannot_prove("the hard limit of core files is 0")


def cores(folder: str) -> list[Path]:
    return [path for path in Path(folder).iterdir() if path.name.startswith("core")]


def test_core_file_of_an_unhardened_process_holds_its_key(folder):
    """The search below would find a key: a process that takes no care leaves it in its core file."""
    core_files_are_written_here()
    with started("victim", folder, "none") as victim:
        hear(victim)
        say(victim)
        n = int(hear(victim))
        victim.send_signal(signal.SIGSEGV)
        assert victim.wait(60) == -signal.SIGSEGV
    (core,) = cores(folder)
    assert holds_factor(core.read_bytes(), n)


@pytest.mark.parametrize("crash", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
async def test_crashed_signer_leaves_no_core_file(crash, folder):
    """KY5, F39: although it starts where core files are allowed, a crash writes none."""
    core_files_are_written_here()
    async with signer(folder) as running:
        os.kill(running.pids[1], crash)
        assert await asyncio.wait_for(running.worker.ended(), 60)
    assert cores(folder) == []
