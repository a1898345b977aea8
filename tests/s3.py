"""S3 servers for tests: SeaweedFS and moto, each a process of its own in a temporary folder."""

import contextlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store
from tests.cluster.running import until

from mintmark.cli.demonstration.loopback import free_ports

ACCESS_KEY = "AKIDFORTESTS"
SECRET_KEY = "not-a-secret-but-long-enough"
BUCKET = "mintmark-tests"


@dataclass
class S3Server:
    """One server; ``environ`` is what a process needs to reach it."""

    name: str
    port: int
    process: "subprocess.Popen[bytes]"
    made: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environ(self) -> Mapping[str, str]:
        return environ(self.endpoint)

    def new_prefix(self) -> str:
        """A prefix in the bucket :data:`BUCKET` that nobody has used."""
        self.made += 1
        return f"prefix-{self.made}"


def environ(endpoint: str) -> Mapping[str, str]:
    """What a process needs to reach the server at ``endpoint``."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def program(name: str) -> str:
    """A program of the environment that runs the tests; without it they fail in CI and skip elsewhere."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is not None:
        return found
    missing = f"{name} is missing: run scripts/setup"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


class _Ended(Exception):
    """The server ended by itself: another process took one of its ports, for example."""


@contextlib.contextmanager
def moto_server() -> Iterator[S3Server]:
    """moto, which takes every credential."""
    command = program("moto_server")

    def arguments() -> tuple[int, list[str]]:
        (port,) = free_ports(1)
        return port, [command, "-H", "127.0.0.1", "-p", str(port)]

    with _folder() as folder, _running("moto", arguments, folder, make_bucket=True) as server:
        yield server


@contextlib.contextmanager
def seaweedfs_server() -> Iterator[S3Server]:
    """SeaweedFS, which checks credentials and makes a bucket for whoever writes into it."""
    command = program("weed")
    parts = ("master", "volume", "filer", "s3")
    identity = {"name": "test", "actions": ["Admin"]}
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]

    def arguments() -> tuple[int, list[str]]:
        ports = free_ports(2 * len(parts))
        pairs = dict(zip(parts, zip(ports[::2], ports[1::2], strict=True), strict=True))
        return pairs["s3"][0], [
            command, "server", "-ip=127.0.0.1", "-dir=.", "-filer", "-s3", "-s3.config=s3.json",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            *(f"-{part}.port={port}" for part, (port, _) in pairs.items()),
            *(f"-{part}.port.grpc={port}" for part, (_, port) in pairs.items()),
        ]  # fmt: skip

    with _folder() as folder:
        configuration = {"identities": [{**identity, "credentials": credentials}]}
        (folder / "s3.json").write_text(json.dumps(configuration))
        with _running("seaweedfs", arguments, folder) as server:
            yield server


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mintmark-s3-") as name:
        yield Path(name)


@contextlib.contextmanager
def _running(
    name: str, arguments: Callable[[], tuple[int, list[str]]], folder: Path, *, make_bucket: bool = False
) -> Iterator[S3Server]:
    """The server once it takes objects. One that ended, for want of a port, is started again on others."""
    for attempt in range(5):
        port, command = arguments()
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            )  # fmt: skip
        server = S3Server(name, port, process)
        try:
            _until_it_takes(server, folder / "log", make_bucket=make_bucket)
            yield server
            return
        except _Ended:
            assert attempt < 4, (folder / "log").read_text()[-2000:]
        finally:
            process.kill()
            process.wait()
            _remove_sockets(command)


def _remove_sockets(command: list[str]) -> None:
    """What SeaweedFS leaves in /tmp, wherever its own files are: a socket for each of its ports."""
    ports = {argument.partition("=")[2] for argument in command if ".port" in argument}
    for left in Path("/tmp").glob("seaweedfs-*.sock"):
        if left.stem.rpartition("-")[2] in ports:
            left.unlink(missing_ok=True)


def _until_it_takes(server: S3Server, log: Path, *, make_bucket: bool) -> None:
    """Wait until objects are taken, one after the other: the parts of a server find each other in seconds,
    and until then it answers, but takes none or some."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in server.environ.items():
            environment.setenv(name, value)
        store = S3Store(BUCKET, client_options={"allow_http": True}, retry_config={"max_retries": 0})

    def takes() -> bool:
        if server.process.poll() is not None:
            raise _Ended
        try:
            if make_bucket:
                httpx2.put(f"{server.endpoint}/{BUCKET}", trust_env=False).raise_for_status()
            for number in range(8):
                obstore.put(store, f"ready/{number}", b"x", use_multipart=False)
        except (httpx2.HTTPError, BaseError, OSError):
            return False
        return True

    until(takes, f"{server.name} takes what is put", log=lambda: log.read_text()[-2000:])


@dataclass
class Unfaithful:
    """A server of which what it does wrong can be chosen, before one that does it right."""

    behind: str
    endpoint: str = ""
    ignores_conditions: bool = False
    """It takes every write."""
    wrong_versions: bool = False
    """What it says of an object's version is not so."""
    truncates: bool = False
    """It gives out the first half of an object."""
    stale: bool = False
    """It gives out what it gave out the last time before this was set."""

    def __post_init__(self) -> None:
        self._seen: dict[str, httpx2.Response] = {}
        self._http = httpx2.Client(base_url=self.behind, timeout=10, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> httpx2.Response:
        if method == "GET" and self.stale and path in self._seen:
            return self._seen[path]
        if self.ignores_conditions:
            headers = {name: value for name, value in headers.items() if name not in CONDITIONS}
        answer = self._http.request(method, path, headers=headers, content=body)
        if method == "GET":
            self._seen[path] = answer
        return answer


CONDITIONS = {"if-match", "if-none-match"}
_HOP_BY_HOP = {"content-length", "transfer-encoding", "connection"}


@contextlib.contextmanager
def unfaithful_server(behind: S3Server) -> Iterator[Unfaithful]:
    """A server in this process that passes on to ``behind``, which must not check what was signed."""
    server = Unfaithful(behind.endpoint)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            answer = server.answer(self.command, self.path, headers, body)
            content = answer.content
            if server.truncates and self.command == "GET" and "list-type" not in self.path:
                content = content[: len(content) // 2]
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name == "etag" and server.wrong_versions:
                    self.send_header(name, '"0123456789abcdef0123456789abcdef"')
                elif name not in _HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_DELETE = do_POST = answer  # noqa: N815 - the names of http.server

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        server.endpoint = f"http://127.0.0.1:{listener.server_port}"
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
            server.close()
