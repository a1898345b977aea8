"""``mintmark demo`` shows what it promises, on either store, ends with 0, and leaves nothing behind."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ACTS = (
    "is ready, the first",
    "own key has been public for the lead",
    "logs in at node a",
    "PyJWT accepts it",
    "with another signature: 401",
    "refreshed at node b",
    "at node c, as if its answer was lost: the same refresh token",
    "gave way to",
    "a rotation: ",
    "killed with SIGKILL",
    "still accepted, by the service and by PyJWT",
    "the session goes on",
    "node b is back",
    "node c left within",
    "a rolling restart of all three: ",
    "logs out at node c",
    "refused at all three nodes",
    "all of it held",
)


@pytest.fixture
def folder():
    """An empty folder that PostgreSQL's user gets to, which those of pytest are not for root."""
    with tempfile.TemporaryDirectory(prefix="mintmark-test-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_demo_holds_and_leaves_nothing(store, folder, request):
    """All acts are on the timeline, in their order; the exit status is 0; its folders are gone."""
    if store == "postgresql":
        # Where its programs are missing, the shared server says whether that is a failure.
        request.getfixturevalue("postgresql")
    arguments = [] if store == "sqlite" else ["--store", store]
    done = subprocess.run(
        [sys.executable, "-m", "mintmark", "demo", *arguments],
        capture_output=True, text=True, timeout=870, check=False, cwd=folder,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(folder), "HOME": str(folder), "http_proxy": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert [act for act in ACTS if act not in done.stdout] == []
    places = [done.stdout.index(act) for act in ACTS]
    assert places == sorted(places)
    assert done.stdout.count(" 0 refused") == 3
    assert list(folder.iterdir()) == []
