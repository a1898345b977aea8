"""The signer's process from start to end: signer.launch and signer.process."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from mintmark.core import base64url
from mintmark.core.algorithm import Algorithm
from mintmark.errors import SignerUnavailable
from mintmark.ports.signer import SignerRefused
from mintmark.signer import launch
from mintmark.signer.client import SignerClient
from mintmark.signer.launch import SignerProcess, start_signer
from mintmark.system import SYSTEM_CLOCK
from mintmark.units import Issuer, Kid, NumericDate

ISSUER = Issuer("https://auth.example.com")
TYPS = frozenset({"at+jwt"})
SECURED = {
    "environment_wiped",
    "landlock",
    "memory_locked",
    "no_core_file",
    "no_new_privileges",
    "not_dumpable",
    "not_traced",
    "quiet_tracebacks",
    "seccomp",
}


@pytest.fixture
async def signer() -> AsyncIterator[SignerProcess]:
    started = await start_signer(clock=SYSTEM_CLOCK)
    yield started
    await started.stop()


def payload(**extra: str) -> bytes:
    claims = "".join(f',"{name}":"{value}"' for name, value in extra.items())
    return f'{{"iss":"{ISSUER}","exp":{SYSTEM_CLOCK.now() + 60}{claims}}}'.encode()


async def ready(signer: SignerProcess, alg: Algorithm = Algorithm.ES256) -> Kid:
    key = (await signer.control.generate(issuer=ISSUER, alg=alg, typs=TYPS)).public
    now = SYSTEM_CLOCK.now()
    await signer.control.extend(key.kid, max_exp=NumericDate(now + 1000), lease_until=NumericDate(now + 120))
    return key.kid


def wait_gone(process: int) -> None:
    """Return once that process, by its pidfd, has ended; fails after 20 s."""
    assert select.select([process], [], [], 20)[0]
    os.close(process)


async def test_signer_exits_when_control_closes_its_channel(signer):
    """Closing the control channel ends both processes, with status 0."""
    holder = os.pidfd_open((await signer.control.status()).pid)
    assert await signer.stop() == 0
    wait_gone(holder)
    assert await signer.stop() == 0


def open_sockets(pid: int) -> set[str]:
    """The inodes of the sockets that a process has open; only root may look."""
    links = {os.readlink(link) for link in Path("/proc", str(pid), "fd").iterdir()}
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def unix_sockets() -> dict[str, list[str]]:
    """Every Unix socket of this machine by its inode: address, counts, protocol, flags, type, …, path."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {fields[6]: fields for fields in map(str.split, lines)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_signals_of_a_terminal_do_not_end_the_signer(signer, number):
    """Control alone says when: what a terminal or a service manager sends to everyone is ignored."""
    kid = await ready(signer)
    worker = SignerClient(await signer.control.attach(), clock=SYSTEM_CLOCK)
    for pid in (signer.process.pid, (await signer.control.status()).pid):
        os.kill(pid, number)
    assert await worker.sign(kid, "at+jwt", payload())
    assert signer.process.poll() is None
    worker.close()


async def test_signer_is_in_no_terminals_process_group(signer):
    """It has a session of its own, so no key that is pressed reaches it."""
    assert os.getsid((await signer.control.status()).pid) == signer.process.pid != os.getsid(0)


async def test_signer_dies_with_the_process_that_waits_for_it(signer):
    """Killing the process that the node knows of ends the one that holds the keys."""
    holder = os.pidfd_open((await signer.control.status()).pid)
    signer.process.kill()
    wait_gone(holder)
    assert await signer.control.ended()


async def test_end_of_the_holder_is_the_end_of_the_signer(signer):
    """A killed holder ends the waiting process, whose status tells the signal."""
    os.kill((await signer.control.status()).pid, signal.SIGKILL)
    assert await signer.control.ended()
    assert await signer.stop() == 128 + signal.SIGKILL


async def test_signer_dies_with_a_control_process_that_is_killed():
    """No signer outlives its node: the kernel closes the channel for a control process that cannot."""
    script = (
        "import asyncio\n"
        "from mintmark.signer.launch import start_signer\n"
        "from mintmark.system import SYSTEM_CLOCK\n"
        "async def main():\n"
        "    signer = await start_signer(clock=SYSTEM_CLOCK)\n"
        "    print(signer.process.pid, (await signer.control.status()).pid, flush=True)\n"
        "    await signer.control.ended()\n"
        "asyncio.run(main())\n"
    )
    control = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    )
    with control:
        assert control.stdout is not None
        processes = [os.pidfd_open(int(pid)) for pid in control.stdout.readline().split()]
        control.kill()
    assert len(processes) == 2
    for process in processes:
        wait_gone(process)


@pytest.mark.parametrize("alg", [Algorithm.RS256, Algorithm.ES256])
async def test_killed_signer_fails_every_signature_in_flight(signer, alg):
    """F39, SIGNER-14: each of 100 calls in flight at a kill ends as SignerUnavailable."""
    kid = await ready(signer, alg)
    holder = (await signer.control.status()).pid
    worker = SignerClient(await signer.control.attach(), clock=SYSTEM_CLOCK)
    os.kill(holder, signal.SIGSTOP)  # so that all of them are still in flight when it dies
    calls = [asyncio.create_task(worker.sign(kid, "at+jwt", payload())) for _ in range(100)]
    await asyncio.sleep(0)
    os.kill(holder, signal.SIGKILL)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SignerUnavailable] * 100


async def test_killed_worker_takes_nothing_with_it(signer):
    """A worker process that dies in the middle of its requests ends its own channel only."""
    kid = await ready(signer, Algorithm.RS256)
    script = (
        "import asyncio, socket, sys\n"
        "from mintmark.signer.client import SignerClient\n"
        "from mintmark.system import SYSTEM_CLOCK\n"
        "async def main():\n"
        "    client = SignerClient(socket.socket(fileno=int(sys.argv[1])), clock=SYSTEM_CLOCK)\n"
        "    calls = [asyncio.create_task(client.sign(sys.argv[2], 'at+jwt', sys.argv[3].encode()))\n"
        "             for _ in range(500)]\n"
        "    await calls[0]\n"
        "    print('first', flush=True)\n"
        "    await asyncio.gather(*calls)\n"
        "    while True:\n"
        "        await client.sign(sys.argv[2], 'at+jwt', sys.argv[3].encode())\n"
        "asyncio.run(main())\n"
    )
    with await signer.control.attach() as sock:
        number = str(sock.fileno())
        worker = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-c", script, number, kid, payload().decode()],
            pass_fds=(sock.fileno(),),
            stdout=subprocess.PIPE,
            text=True,
        )
    with worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "first\n"
        worker.kill()
    other = SignerClient(await signer.control.attach(), clock=SYSTEM_CLOCK)
    assert await other.sign(kid, "at+jwt", payload())
    while (await signer.control.status()).channels > 1:
        pass  # Each round trip is a turn in which the signer may notice.
    other.close()


async def test_stopped_signer_is_killed_at_the_end(signer, monkeypatch):
    """A signer that does not exit when it is told to is killed, and stop returns."""
    monkeypatch.setattr(launch, "_STOPPING", 0.05)
    holder = (await signer.control.status()).pid
    process = os.pidfd_open(holder)
    os.kill(holder, signal.SIGSTOP)
    assert await signer.stop() == -signal.SIGKILL
    wait_gone(process)


@pytest.mark.parametrize("executable", ["/nonexistent", "/bin/false"])
async def test_signer_that_does_not_come_up_is_unavailable(monkeypatch, executable):
    """A start that fails, at once or a little later, is SignerUnavailable and leaves no process."""
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(SignerUnavailable):
        await start_signer(clock=SYSTEM_CLOCK)


async def test_signer_reports_each_protection_with_its_reason(signer):
    """Every protection is reported, and those that need nothing of the machine are on."""
    report = {item.name: item for item in (await signer.control.status()).hardening}
    assert report.keys() == SECURED
    assert all(item.reason for item in report.values())
    for name in ("no_core_file", "not_dumpable", "not_traced", "no_new_privileges", "quiet_tracebacks"):
        assert report[name].on, report[name]


async def test_rsa_keys_are_as_large_as_they_were_asked_for():
    """rsa_bits reaches the process that makes the keys."""
    signer = await start_signer(clock=SYSTEM_CLOCK, rsa_bits=3072, threads=1)
    key = (await signer.control.generate(issuer=ISSUER, alg=Algorithm.PS256, typs=TYPS)).public
    assert isinstance(key.key, rsa.RSAPublicKey)
    assert key.key.key_size == 3072
    await signer.stop()


async def test_signer_inherits_no_environment_and_has_no_network_socket(signer, monkeypatch):
    """Its environment is empty, and its sockets are unnamed Unix pairs; only root can even look."""
    folder = Path("/proc", str((await signer.control.status()).pid))
    if os.getuid() != 0:
        with pytest.raises(PermissionError):
            (folder / "environ").read_bytes()
        return
    # Whatever the interpreter itself puts there has no value of ours.
    assert b"PATH=" not in (folder / "environ").read_bytes()
    sockets = open_sockets((await signer.control.status()).pid)
    assert sockets
    found = {number: fields for number, fields in unix_sockets().items() if number in sockets}
    assert found.keys() == sockets
    assert not open_sockets(signer.process.pid)
    for fields in found.values():
        assert len(fields) == 7, "a socket with a name"
        assert int(fields[3], 16) & 0x10000 == 0, "a socket that listens"


async def test_nothing_secret_is_ever_written(capfd):
    """LG2: at the most talkative level neither payload nor token nor key reaches standard error."""
    signer = await start_signer(clock=SYSTEM_CLOCK, log_level="DEBUG")
    worker = SignerClient(await signer.control.attach(), clock=SYSTEM_CLOCK)
    secret = payload(sub="canary-in-the-payload")
    tokens = []
    for alg in Algorithm:
        kid = await ready(signer, alg)
        tokens.append(await worker.sign(kid, "at+jwt", secret))
        for refused in (secret + b"x", secret.replace(b"https", b"http"), b"canary-in-the-payload"):
            with pytest.raises(SignerRefused):
                await worker.sign(kid, "at+jwt", refused)
        await signer.control.forget(kid)
    with await signer.control.attach() as damaged:
        damaged.send(b"\0\0\0\x15canary-in-the-payload")
        damaged.setblocking(False)
        await asyncio.get_running_loop().sock_recv(damaged, 1)
    worker.close()
    await signer.stop()
    written = "".join(capfd.readouterr())
    assert "mintmark.signer" in written
    assert "DEBUG" in written
    assert "canary" not in written
    assert base64url.encode(secret)[:20] not in written
    for token in tokens:
        assert token.rpartition(".")[2][:20] not in written
    assert "PRIVATE" not in written
