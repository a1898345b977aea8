"""S3 servers for tests: SeaweedFS and moto, each a process of its own in a temporary folder."""

import contextlib
import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store
from tests.cluster.running import free_ports, until

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


@contextlib.contextmanager
def _running(command: list[str], folder: Path) -> "Iterator[subprocess.Popen[bytes]]":
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def moto_server() -> Iterator[S3Server]:
    """moto, which takes every credential."""
    command = program("moto_server")
    with tempfile.TemporaryDirectory(prefix="mintmark-moto-") as name:
        (port,) = free_ports(1)
        with _running([command, "-H", "127.0.0.1", "-p", str(port)], Path(name)) as process:
            server = S3Server("moto", port, process)
            _until_it_takes(server, Path(name), make_bucket=True)
            yield server


@contextlib.contextmanager
def seaweedfs_server() -> Iterator[S3Server]:
    """SeaweedFS, which checks credentials and makes a bucket for whoever writes into it."""
    command = program("weed")
    with tempfile.TemporaryDirectory(prefix="mintmark-weed-") as name:
        folder = Path(name)
        (folder / "s3.json").write_text(
            '{"identities": [{"name": "test", "actions": ["Admin"], "credentials": '
            f'[{{"accessKey": "{ACCESS_KEY}", "secretKey": "{SECRET_KEY}"}}]}}]}}'
        )
        parts = ("master", "volume", "filer", "s3")
        ports = dict(zip([*parts, *(f"{part}.grpc" for part in parts)], free_ports(8), strict=True))
        arguments = [f"-{part}.port={ports[part]}" for part in parts]
        arguments += [f"-{part}.port.grpc={ports[part + '.grpc']}" for part in parts]
        fixed = [
            "-ip=127.0.0.1", "-dir=.", "-filer", "-s3", "-s3.config=s3.json", "-master.telemetry=false",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64",
        ]  # fmt: skip
        try:
            with _running([command, "server", *fixed, *arguments], folder) as process:
                server = S3Server("seaweedfs", ports["s3"], process)
                _until_it_takes(server, folder)
                yield server
        finally:
            for port in ports.values():
                for left in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                    left.unlink(missing_ok=True)


def _until_it_takes(server: S3Server, folder: Path, *, make_bucket: bool = False) -> None:
    """Wait until objects are taken, one after the other: the parts of a server find each other in seconds,
    and until then it answers, but takes none or some."""
    store = S3Store(
        BUCKET,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        endpoint=server.endpoint,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )

    def takes() -> bool:
        assert server.process.poll() is None, f"{server.name} ended:\n{(folder / 'log').read_text()[-2000:]}"
        try:
            if make_bucket:
                httpx2.put(f"{server.endpoint}/{BUCKET}", trust_env=False).raise_for_status()
            for number in range(8):
                obstore.put(store, f"ready/{number}", b"x", use_multipart=False)
        except (httpx2.HTTPError, BaseError, OSError):
            return False
        return True

    until(takes, f"{server.name} takes what is put", log=lambda: (folder / "log").read_text()[-2000:])


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
