"""What watches over the tests works itself."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, children

HANGING = """
import asyncio
import pytest

@pytest.fixture
async def stuck():
    yield
    await asyncio.Event().wait()

async def test_hangs(stuck):
    await asyncio.Event().wait()

def test_follows():
    pass
"""

CONFTEST = """
from tests import conftest
conftest.TEARDOWN_SECONDS = 1
from tests.conftest import anyio_backend, pytest_runtest_teardown
"""


def test_a_test_that_hangs_twice_does_not_stop_the_run(tmp_path: Path):
    """A test that hangs, and hangs again in its fixtures, is reported, and the next one runs."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_hanging.py").write_text(HANGING)
    options = ["-n", "1", "--timeout", "1", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "crashed while running" in done.stdout, done.stdout
    assert "test_hangs" in done.stdout
    assert "1 passed" in done.stdout


def test_a_process_that_is_left_is_found():
    """The check for leftovers at the end of a run sees a child that still runs, and no child that ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in children()
    finally:
        child.communicate()
    assert child.pid not in children()
