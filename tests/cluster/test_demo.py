"""``mintmark demo`` shows what it promises, ends with 0, and leaves nothing behind."""

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(360)
def test_demo_holds_and_leaves_nothing(tmp_path):
    """All acts are on the timeline; the exit status is 0; its folder is gone."""
    done = subprocess.run(
        [sys.executable, "-m", "mintmark.cli", "demo"],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "HOME": str(tmp_path), "http_proxy": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    acts = (
        "logs in",
        "PyJWT accepts",
        "refreshed",
        " 0 refused",
        "node stopped",
        "logs out",
        "all of it held",
    )
    assert [act for act in acts if act not in done.stdout] == []
    assert list(tmp_path.iterdir()) == []
