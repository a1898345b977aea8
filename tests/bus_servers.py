"""Servers of Redis and NATS for tests: each in a temporary folder, on a free port of loopback."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
import redis
from tests.cluster.running import until

from mintmark.cli.demonstration.loopback import free_ports

PASSWORD = "geheim/geheim@%"
"""What a log may not hold, with characters that a URL has to escape."""
ESCAPED = "geheim%2Fgeheim%40%25"
STRANGER = "another-password"
CHANNEL = "mintmark.0"


class BusServer(ABC):
    """One server; its user ``mintmark`` may do on the channels of ours what a bus does, and nothing else."""

    program: str
    package: str
    scheme: str

    def __init__(self) -> None:
        self.path = _find(self.program, self.package)
        self.folder = Path(tempfile.mkdtemp(prefix=f"mintmark-{self.program}-"))
        self.port, self.admin_port = free_ports(2)
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, name: str = "", *, port: int | None = None) -> str:
        """What the setting ``bus`` takes; ``port`` is that of a proxy in front of the server."""
        return f"{self.scheme}://mintmark:{ESCAPED}@127.0.0.1:{port or self.port}/{name}"

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it; writes what it needs."""

    @abstractmethod
    def publish(self, payload: bytes, *, times: int = 1, channel: str = CHANNEL) -> None:
        """Send what no process of ours would, in the name of somebody else."""

    @abstractmethod
    def connections(self) -> int:
        """How many connections are those of a bus."""

    def start(self) -> Self:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )
        process = self.process

        def answers() -> bool:
            assert process.poll() is None, self.log()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
            return False

        until(answers, f"{self.program} listens", patience=120, log=self.log)
        return self

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it, in whatever state it is; what it kept in memory is gone."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            process.wait(60)

    def pause(self) -> None:
        """Its connections stay open, and nothing is said on them."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def end(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class RedisServer(BusServer):
    """Redis, which keeps nothing."""

    program = "redis-server"
    package = "redis-server"
    scheme = "redis"
    extra = ""
    """Further lines of its configuration."""

    def command(self) -> list[str]:
        rights = "resetchannels &mintmark.* -@all +hello +auth +ping +subscribe +publish +client|setname"
        (self.folder / "redis.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\nsave ''\nappendonly no\ndir {self.folder}\n"
            f"user default on >{STRANGER} ~* &* +@all\n"
            f"user mintmark on >{PASSWORD} {rights}\n"
            f"user deaf on >{PASSWORD} resetchannels &other.* -@all +hello +auth +ping +subscribe +publish\n"
            f"user mute on >{PASSWORD} resetchannels &mintmark.* -@all +hello +auth +ping +subscribe\n"
            f"{self.extra}\n"
        )
        return [self.path, str(self.folder / "redis.conf")]

    def client(self) -> redis.Redis:
        """Somebody who may do everything."""
        return redis.Redis(port=self.port, password=STRANGER)

    def publish(self, payload: bytes, *, times: int = 1, channel: str = CHANNEL) -> None:
        with self.client() as client, client.pipeline(transaction=False) as pipeline:
            for _ in range(times):
                pipeline.publish(channel, payload)
            pipeline.execute()

    def connections(self) -> int:
        with self.client() as client:
            return sum(one["name"] == "mintmark-bus" for one in client.client_list())


class NatsServer(BusServer):
    """NATS, without JetStream."""

    program = "nats-server"
    package = "nats-server"
    scheme = "nats"
    extra = ""

    def command(self) -> list[str]:
        def user(name: str, password: str, publish: str, subscribe: str) -> str:
            rights = f'permissions: {{publish: "{publish}", subscribe: "{subscribe}"}}'
            return f'{{user: {name}, password: "{password}", {rights}}}'

        users = [
            user("mintmark", PASSWORD, "mintmark.*", "mintmark.*"),
            user("deaf", PASSWORD, "mintmark.*", "other.*"),
            user("mute", PASSWORD, "other.*", "mintmark.*"),
            user("stranger", STRANGER, ">", ">"),
        ]
        (self.folder / "nats.conf").write_text(
            f"listen: 127.0.0.1:{self.port}\nhttp: 127.0.0.1:{self.admin_port}\n"
            f"authorization {{users: [{', '.join(users)}]}}\n{self.extra}\n"
        )
        return [self.path, "-c", str(self.folder / "nats.conf")]

    def publish(self, payload: bytes, *, times: int = 1, channel: str = CHANNEL) -> None:
        self.send(f"PUB {channel} {len(payload)}\r\n".encode() + payload + b"\r\n", times=times)

    def send(self, command: bytes, *, times: int = 1) -> None:
        """Say ``command`` to the server, as somebody who knows its protocol."""
        login = json.dumps({"user": "stranger", "pass": STRANGER, "verbose": False, "headers": True})
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as line:
            line.sendall(f"CONNECT {login}\r\n".encode() + command * times + b"PING\r\n")
            said = b""
            while b"PONG" not in said:
                more = line.recv(65536)
                assert more, said
                said += more

    def connections(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/connz", timeout=60) as answer:
            found = json.load(answer)["connections"]
        return sum(one.get("name") == "mintmark-bus" for one in found)


@contextlib.contextmanager
def running(server: type[BusServer]) -> Iterator[BusServer]:
    """A server that whoever asked may stop or pause.

    Without its program the test fails in CI and is skipped elsewhere.
    """
    made = server()
    try:
        yield made.start()
    finally:
        made.end()


def _find(program: str, package: str) -> str:
    # Debian keeps some servers where only root looks for programs.
    found = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is not None:
        return found
    missing = f"{program} is missing: install one (Debian, Ubuntu: apt install {package})"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)
