"""A real node for tests: ``mintmark serve`` in a temporary folder, on free ports, with short timings."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from mintmark.cli.demonstration.loopback import free_ports
from mintmark.cli.status import Status

PASSWORD = "correct horse battery staple"
SHORT = {
    "access_ttl": "60s",
    "rotate_every": "90s",
    "verifier_cache": "3s",
    "jwks_max_age": "1s",
    "propagation": "3s",
    "clock_skew": "1s",
    "lease": "5s",
    "feed_bound": "30s",
}
PATIENCE = 60.0

# Root may read anything, so against root nothing would be proved. The interpreter may lie where nobody else
# can read it: the one right that is kept is to read files, by attacked and attacker alike.
AS_NOBODY = [
    "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search", "--",
]  # fmt: skip

T = TypeVar("T")


def until(
    condition: Callable[[], T], what: str, *, patience: float = PATIENCE, log: Callable[[], str] = str
) -> T:
    """The first true value of ``condition``, asked again and again: other processes need real time.

    ``log`` gives what should be read when it does not come.
    """
    deadline = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"in {patience:.0f} s it did not happen that {what}\n{log()}")
        time.sleep(0.02)
    return value


def children_of(pid: int) -> list[int]:
    """The process ids of everything that ``pid`` started, and that these started."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *children_of(child)]
    return found


class Reachable:
    """What clients do at a URL: that of one node, or of the front of several."""

    url: str
    http: httpx2.Client

    def client(self) -> httpx2.Client:
        """A client with a connection pool of its own, for another thread."""
        return httpx2.Client(base_url=self.url, timeout=10, trust_env=False)

    def log_in_with(self, http: httpx2.Client) -> httpx2.Response:
        return http.post("/v1/sessions", json={"username": "ada", "password": PASSWORD, "client_id": "shop"})

    def refresh_with(self, http: httpx2.Client, refresh_token: str) -> httpx2.Response:
        body = {"refresh_token": refresh_token, "client_id": "shop"}
        return http.post("/v1/sessions/refresh", json=body)

    def log_out_with(self, http: httpx2.Client, access_token: str) -> httpx2.Response:
        return http.delete("/v1/sessions/current", headers={"Authorization": f"Bearer {access_token}"})

    def asked(self, ask: Callable[[], httpx2.Response], status: int) -> httpx2.Response:
        """The answer to ``ask``, repeated while there is none or it is «later»; it has ``status``."""

        def answered() -> httpx2.Response | None:
            with contextlib.suppress(httpx2.TransportError):
                answer = ask()
                return answer if answer.status_code != 503 else None
            return None

        answer = until(answered, "somebody answers")
        assert answer is not None
        assert answer.status_code == status, answer.text
        return answer

    def log_in(self) -> dict[str, Any]:
        """The tokens of a new session, asked for again while the answer is «later», as on a busy machine."""
        return dict(self.asked(lambda: self.log_in_with(self.http), 201).json())

    def refresh(self, refresh_token: str) -> httpx2.Response:
        return self.refresh_with(self.http, refresh_token)

    def log_out(self, access_token: str) -> httpx2.Response:
        return self.log_out_with(self.http, access_token)


@dataclass
class RunningNode(Reachable):
    """One ``mintmark serve``, and what a test does to it.

    It is its own issuer on a store of its own, unless ``settings`` name others.
    """

    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    """What comes before the command of ``serve``, to run it as somebody else."""
    port: int = 0
    supervised: bool = False
    """One that ended because the store did not answer in time is started again, as systemd would."""
    process: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        self.port = self.port or free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = self.folder / "mintmark.toml"
        values = {
            "issuer": self.url,
            "listen": f"127.0.0.1:{self.port}",
            "store": f"sqlite:///{self.folder}/mintmark.db",
            "log_format": "json",
            **SHORT,
            **self.settings,
        }
        self.issuer = str(values["issuer"])
        self.config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
        self.log = self.folder / "node.log"
        self.http = self.client()

    # --- its processes -------------------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "mintmark", "--config", str(self.config), *arguments]

    def run(self, *arguments: str, given: str = "") -> str:
        """What a command printed; fails the test when it failed."""
        done = self._ran(arguments, given)
        assert done.returncode == Status.OK, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def add(self, *arguments: str, given: str = "") -> None:
        """Have a command add something; again where the store did not answer in time on a busy machine."""
        expected = {Status.OK}

        def added() -> bool:
            done = self._ran(arguments, given)
            if done.returncode == Status.UNAVAILABLE:
                # What was answered too late may have been done.
                expected.add(Status.CONFLICT)
                return False
            assert done.returncode in expected, f"{arguments}: {done.stdout}{done.stderr}"
            return True

        until(added, f"{arguments[:3]} is done", patience=180)

    def _ran(self, arguments: Sequence[str], given: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*arguments), input=given, capture_output=True, text=True, timeout=180, check=False,
            env={**os.environ, **self.environ},
        )  # fmt: skip

    def start(self) -> "RunningNode":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *self.command("serve")], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **self.environ}, cwd=self.folder,
            )  # fmt: skip
        return self

    def until_ready(self, *, patience: float = PATIENCE) -> "RunningNode":
        until(self.is_ready, "the node became ready; its log:", patience=patience, log=self.tail)
        return self

    def is_ready(self) -> bool:
        assert self.process is not None
        if self.supervised and self.process.poll() == os.EX_UNAVAILABLE:
            self.start()
        assert self.process.poll() is None, f"the node ended: {self.tail()}"
        with contextlib.suppress(httpx2.TransportError):
            return self.http.get("/readyz").status_code == 200
        return False

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def pids(self) -> dict[str, list[int]]:
        """The node's processes by what they are: control, signer (its two), worker."""
        assert self.process is not None
        kinds: dict[str, list[int]] = {"control": [self.process.pid], "signer": [], "worker": []}
        for pid in children_of(self.process.pid):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                for kind in ("signer", "worker"):
                    if b"mintmark." + (b"signer" if kind == "signer" else b"node.worker") in command:
                        kinds[kind].append(pid)
        return kinds

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """What all runs of the node have logged so far, in order; only events called ``name`` if given."""
        found = []
        for line in self.log.read_bytes().splitlines() if self.log.exists() else []:
            # The last line may be half written, and a crash writes what is no JSON.
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return [event for event in found if isinstance(event, dict) and name in ("", event.get("event"))]

    def stop(self, *, patience: float = PATIENCE) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(patience)

    def resume(self) -> None:
        """SIGCONT to every process of the node."""
        assert self.process is not None
        for pid in [*children_of(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to the control process; its children must end by themselves."""
        assert self.process is not None
        children = children_of(self.process.pid)
        self.process.kill()
        self.process.wait(60)
        until(lambda: not any(alive(pid) for pid in children), "the children of a killed node ended")

    def end(self) -> None:
        """Whatever state it is in: end it and everything it started."""
        if self.process is not None:
            pids = children_of(self.process.pid)
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait(60)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            until(lambda: not any(alive(pid) for pid in pids), "the children of the node ended")
        self.http.close()

    # --- what clients do -------------------------------------------------------------------------------

    def add_user_and_client(self) -> None:
        self.add("users", "add", "ada", "--scope", "orders:read", "--password-stdin", given=PASSWORD)
        self.add(
            "clients", "add", "Shop", "--client-id", "shop", "--public", "--first-party",
            "--audience", "orders", "--scope", "orders:read",
        )  # fmt: skip


def state_of(pid: int) -> str:
    """The letter of proc(5) for what the process does; X where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for does not."""
    return state_of(pid) not in "ZX"


@contextlib.contextmanager
def running_node(folder: Path, **options: Any) -> Iterator[RunningNode]:
    """A node that is ready, with the user ada and the client shop."""
    node = RunningNode(folder, **options)
    try:
        node.add_user_and_client()
        if node.prefix:
            # Whoever the node runs as must be able to use what was made here.
            for path in folder.iterdir():
                path.chmod(0o666)
        yield node.start().until_ready()
    finally:
        node.end()
