"""The page about doctor: every example is what the command prints, the table of checks is the code's."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripts.reference import texts_of_members

from mintmark.cli.demonstration.loopback import free_ports
from mintmark.server.diagnosis.finding import Check

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "how-to" / "diagnose-a-node.md").read_text(
    "utf-8"
)


def block(name: str) -> str:
    """The code between the marks ``name``."""
    found = re.search(rf"(?s)<!-- {name} -->\n```\w+\n(.*?)```\n<!-- /{name} -->", PAGE)
    assert found is not None, name
    return found[1]


def doctor(folder: Path, *options: str) -> str:
    """What the command prints in ``folder``, without the spaces that fill lines up."""
    done = subprocess.run(
        [sys.executable, "-m", "mintmark", "doctor", *options],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("MINTMARK_")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def configure(folder: Path, name: str) -> None:
    """Write the example's configuration, on a port that nobody has."""
    port = free_ports(1)[0]
    text = block(name).replace("8420", str(port)) + f'listen = "127.0.0.1:{port}"\n'
    (folder / "mintmark.toml").write_text(text)


@pytest.mark.parametrize(("name", "part"), [("mistakes", "Settings"), ("folder", "Store")])
def test_report_of_the_page_is_what_the_command_prints(tmp_path, name, part):
    """The part of the report that does not depend on the machine, to the letter."""
    configure(tmp_path, name)
    printed = doctor(tmp_path)
    start = printed.index(f"{part}\n")
    assert "$ mintmark doctor\n" + printed[start : printed.index("\n\n", start) + 1] == block(
        f"{name}: {part}"
    )


def test_json_of_the_page_is_what_the_command_prints(tmp_path):
    """The one check that is shown is in the answer as it stands there."""
    configure(tmp_path, "folder")
    assert json.loads(block("check")) in json.loads(doctor(tmp_path, "--json"))["checks"]


def checks() -> str:
    """The table of checks, as the code has them."""
    texts = texts_of_members(inspect.getsource(Check))
    rows = [
        f"| `{check.value if check is not Check.HARDENING else 'hardening.NAME'}` | {texts[check.name]} |"
        for check in Check
    ]
    return "\n".join(["| check | what is looked at |", "|---|---|", *rows]) + "\n"


def test_the_table_of_checks_is_the_codes():
    """A check that is added or changed is changed here."""
    found = re.search(r"(?s)<!-- checks -->\n(.*?)<!-- /checks -->", PAGE)
    assert found is not None
    assert found[1] == checks()
