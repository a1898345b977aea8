"""S3 servers for tests: SeaweedFS and moto, each a process of its own in a temporary folder."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
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
