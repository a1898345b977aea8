"""README leads a new user from nothing to a first token and a first logout, as pasted."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cluster.running import children_of

from mintmark.cli.demonstration.loopback import free_ports

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCK = re.compile(r"<!-- readme: (run|file (\S+)) -->\n```\w+\n(.*?)```", re.DOTALL)


@pytest.mark.slow
def test_commands_of_the_readme_work_as_pasted(tmp_path):
    """Every block, in order, in one shell: login, use, refresh, logout, and 401 at the end."""
    script = ["set -eu"]
    for run, name, text in BLOCK.findall(README):
        if name:
            (tmp_path / name).write_text(text)
        assert run
        script += [] if name else [text]
    node, service = map(str, free_ports(2))
    (tmp_path / "mintmark.toml").write_text(
        f'issuer = "http://127.0.0.1:{node}"\nlisten = "127.0.0.1:{node}"\n'
    )
    for path in [tmp_path / name for _, name, _ in BLOCK.findall(README) if name]:
        path.write_text(path.read_text().replace("8420", node))
    commands = "\n".join(script).replace("8420", node).replace("8421", service)
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PWD": str(tmp_path),
    }
    # Output goes to a file: what runs in the background keeps a pipe open.
    with (tmp_path / "output.txt").open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-c", commands + "\nsleep 1000 & wait -n 2>/dev/null || true"],
            cwd=tmp_path, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            shown = _until_unauthorized(shell, tmp_path / "output.txt")
        finally:
            for pid in [*children_of(shell.pid), shell.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            shell.wait()
    assert '"sub":"usr_' in shown
    assert "HTTP/1.1 401" in shown
    assert 'error="invalid_token"' in shown


def _until_unauthorized(shell: "subprocess.Popen[bytes]", output: Path) -> str:
    from tests.cluster.running import until

    def done() -> bool:
        return "HTTP/1.1 " in output.read_text(errors="replace") or shell.poll() is not None

    until(done, "the last command of the README answered", log=lambda: output.read_text(errors="replace"))
    return output.read_text(errors="replace")
