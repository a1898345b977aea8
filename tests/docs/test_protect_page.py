"""The page about ``cluster_key``: what it says to type makes a key that nodes take."""

import asyncio
import re
import subprocess
import tomllib
from pathlib import Path

from mintmark.core.events import EventName
from mintmark.core.mark import Marks
from mintmark.node.secret import read_marks
from mintmark.server.diagnosis.finding import Check
from mintmark.server.option import KEYS, UNMARKED
from mintmark.server.settings import read

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "how-to" / "protect-the-key-ring.md").read_text("utf-8")


def block(name: str, folder: Path) -> str:
    """The block between the marks ``name``, with ``folder`` in the place of the machine's own."""
    found = re.search(rf"(?s)<!-- {name} -->\n```\w+\n(.*?)```\n<!-- /{name} -->", PAGE)
    assert found is not None, name
    return found[1].replace("/etc/mintmark", str(folder))


def test_secret_of_the_page_is_one_that_nodes_take(tmp_path):
    """The commands make a file for its owner alone, and the setting reads it."""
    for line in block("make", tmp_path).splitlines():
        subprocess.run(["/bin/sh", "-ec", line.removeprefix("$ ")], check=True, timeout=60)
    assert (tmp_path / "cluster.key").stat().st_mode & 0o777 == 0o600
    marks = asyncio.run(read_marks(read(tomllib.loads(block("set", tmp_path)), {})))
    assert marks.key is not None
    assert marks == Marks(key=marks.key)


def test_names_of_the_page_are_those_of_the_code():
    """Settings, the event and the check that it names are there under these names."""
    assert {"cluster_key", "cluster_key_also"} <= {key.name for key in KEYS}
    for name in (EventName.ROW_REJECTED, Check.STORE_ROWS, f'cluster_key_also = "{UNMARKED}"'):
        assert f"`{name}`" in PAGE
