"""Verifiers that are libraries of Node: one small service each, in the ``.mjs`` files beside this one."""

import contextlib
import functools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.running import until
from tests.interop.process import log_of, missing, started
from tests.interop.verifier import Guarding, OverHttp

HERE = Path(__file__).resolve().parent

NEEDED = (20, 19)
"""The first version that all packages of the lock take."""


@functools.cache
def version_of(program: str) -> tuple[int, ...]:
    """Major and minor version of a Node."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60)
    return tuple(int(number) for number in said.stdout.strip().lstrip("v").split(".")[:2])


@contextlib.contextmanager
def node_service(name: str, guarding: Guarding, folder: Path) -> Iterator[OverHttp]:
    """The service ``name``.mjs; without Node or its packages tests fail in CI and skip elsewhere."""
    program = shutil.which("node")
    if program is None or version_of(program) < NEEDED:
        missing("Node 20.19 or later is missing (Debian 13 and later: apt install nodejs npm)")
    if not (HERE / "node_modules").is_dir():
        missing("tests/interop/node_modules is missing: run `npm ci` in tests/interop")
    options = {
        "issuer": guarding.issuer,
        "audience": guarding.audience,
        "algorithms": guarding.algorithms,
        "cache": guarding.cache,
        "keys": guarding.keys,
        "perMinute": guarding.per_minute,
    }
    own = folder / name
    own.mkdir()
    with started([program, str(HERE / f"{name}.mjs"), json.dumps(options)], own) as process:

        def port() -> int:
            assert process.poll() is None, log_of(own)
            said = log_of(own)
            return int(said) if said.endswith("\n") else 0

        service = OverHttp(f"http://127.0.0.1:{until(port, f'{name} listens', log=lambda: log_of(own))}")
        with contextlib.closing(service):
            yield service
