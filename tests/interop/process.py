"""Programs that tests start: found or missed, started, and ended whatever happens."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Fail the test in CI, and skip it elsewhere."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@contextlib.contextmanager
def folder_for_all(name: str) -> Iterator[Path]:
    """A temporary folder that a server may read which gives up being root."""
    with tempfile.TemporaryDirectory(prefix=f"mintmark-{name}-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        yield folder


@contextlib.contextmanager
def started(command: Sequence[str], folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The program, with a standard input that ends with it; what it says goes to ``folder/log``."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=log,
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()


def log_of(folder: Path) -> str:
    """The end of what a program said."""
    log = folder / "log"
    return log.read_text(errors="replace")[-2000:] if log.exists() else ""
