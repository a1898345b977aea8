"""The scripts at the root work, and explain themselves, on a machine with little on it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = [
    path
    for path in (*sorted((ROOT / "scripts").iterdir()), ROOT / ".ci" / "run")
    if path.is_file() and path.suffix == ""
]


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with a copy of the project's scripts, and a ``bin`` with almost nothing in it."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts")
    for tool in ("sh", "dirname", "id"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool}"))
    return tmp_path


def set_up(machine: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """scripts/setup on that machine, with nothing but its ``bin`` on PATH."""
    return subprocess.run(
        [machine / "scripts" / "setup"],
        env={"PATH": str(machine / "bin"), "HOME": str(machine), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def install(machine: Path, name: str, script: str) -> None:
    """An executable of that name in the machine's ``bin``."""
    path = machine / "bin" / name
    path.write_text(f"#!{shutil.which('sh')}\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_portable_shell_or_python(script: Path):
    """A script runs under the plain shell or Python that every machine has, and can be executed."""
    first = script.read_text().partition("\n")[0]
    assert os.access(script, os.X_OK)
    assert first in {"#!/bin/sh", "#!/usr/bin/env bash", "#!/usr/bin/env python3"}
    if first.endswith("sh"):
        shell = first.removeprefix("#!").split()[-1]
        subprocess.run([shell, "-n", script], check=True)


def test_missing_python_is_said(machine: Path):
    """Without Python 3.11 or uv the set-up ends with one line that says so."""
    done = set_up(machine)
    assert done.returncode == 1
    assert done.stderr == "scripts/setup: Python 3.11 or later is needed, and none was found on PATH\n"


def test_python_without_venv_is_said(machine: Path):
    """A python3 without ensurepip, as Debian has it, ends with the name of the package to install."""
    (machine / "ensurepip.py").write_text("raise ImportError")
    (machine / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    done = set_up(machine, PYTHONPATH=str(machine))
    assert done.returncode == 1
    assert "python3 lacks venv" in done.stderr
    assert "apt install python3-venv" in done.stderr


def test_a_uv_that_is_there_is_used(machine: Path):
    """uv on PATH makes the environment from the lock as it stands, with every extra and group."""
    install(machine, "uv", 'echo "$@"')
    done = set_up(machine)
    assert done.stdout == "sync --quiet --frozen --all-extras --all-groups\n"


def test_a_uv_that_does_not_work_is_not_used(machine: Path):
    """A uv that is too old, or a shim without a uv behind it, is as good as none."""
    install(machine, "uv", "exit 2")
    assert "Python 3.11 or later is needed" in set_up(machine).stderr
