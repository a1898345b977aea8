"""The command line, in an empty folder for each test."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from tests.cli.command_line import PASSWORD, CommandLine


@pytest.fixture
def cli(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[CommandLine]:
    """The command line in an empty folder, without variables of ours."""
    for name in list(os.environ):
        if name.startswith("MINTMARK_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield CommandLine(tmp_path, capsys, monkeypatch)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def shop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the database that the fixture ``shop`` begins with."""
    folder = tmp_path_factory.mktemp("shop")
    for argv in (
        ("users", "add", "ada", "--scope", "orders:read", "--password-stdin"),
        (
            "clients",
            "add",
            "Shop",
            "--client-id",
            "shop",
            "--public",
            "--first-party",
            "--audience",
            "orders",
        ),
    ):
        subprocess.run(
            [sys.executable, "-m", "mintmark", *argv],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("MINTMARK_")},
            input=PASSWORD.encode(),
            capture_output=True,
            timeout=60,
            check=True,
        )
    return folder


@pytest.fixture
def shop(cli: CommandLine, shop_folder: Path) -> CommandLine:
    """The command line in a folder with user ada and client shop."""
    for path in shop_folder.iterdir():
        shutil.copy2(path, cli.folder)
    return cli
