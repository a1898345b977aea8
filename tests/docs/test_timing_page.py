"""The page about the timing: its commands are run in their order, and print what it says."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from tests.cli.command_line import CommandLine
from tests.cli.nodes import start, stop

from mintmark.core.timing import NAMES

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "how-to" / "change-the-timing.md"
TEXT = PAGE.read_text("utf-8")
LATER = {"node-a": "node-c", "node-b": "node-d"}
"""A node is never the same twice: the names of those that follow."""


@pytest.fixture
def cli(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[CommandLine]:
    """A folder with the nodes of the page, which live for as long as the test takes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mintmark.core.keyring.LIVE_FOR", 3600)
    made = CommandLine(tmp_path, capsys, monkeypatch)
    start(made, "node-a")
    start(made, "node-b")
    yield made
    structlog.reset_defaults()


def stripped(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def test_commands_of_the_page_print_what_it_says(cli: CommandLine):
    """To the letter, with the nodes restarted where the page has them restarted."""
    (settings,) = re.findall(r"(?s)```toml\n(.*?)```", TEXT)
    Path("mintmark.toml").write_text(settings)
    blocks = re.findall(r"(?s)(?:<!-- (.*?) -->\n)?```console\n\$ mintmark (.*?)\n(.*?)```", TEXT)
    assert len(blocks) == 4
    for mark, command, said in blocks:
        if mark.startswith("restart "):
            node = mark.removeprefix("restart ")
            stop(cli, node)
            start(cli, LATER[node])
        result = cli(*shlex.split(command))
        assert result.status == (1 if mark == "refused" else 0), result.err
        assert stripped(result.err if mark == "refused" else result.out) == stripped(said), command


def test_the_page_names_settings_that_there_are():
    """In its table and its text, each name in code that looks like a setting of time is one."""
    table = TEXT.partition("| settings |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`([a-z_]+)`", table))
    assert named <= set(NAMES)
    assert len(named) > 10
