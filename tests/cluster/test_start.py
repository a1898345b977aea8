"""What stops a node from starting is one line that says what and where; what does not stop it is no trap."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.running import AS_NOBODY, RunningNode, running_node, until


@pytest.fixture
def node(tmp_path) -> Iterator[Callable[..., RunningNode]]:
    """Makes nodes; whatever they left running is ended."""
    made = []

    def make(**settings: Any) -> RunningNode:
        made.append(RunningNode(tmp_path, settings))
        return made[-1]

    yield make
    for one in made:
        one.end()


def serve(node: RunningNode) -> "subprocess.CompletedProcess[str]":
    """``mintmark serve`` that is expected not to start."""
    return subprocess.run(
        node.command("serve"), capture_output=True, text=True, timeout=60, check=False, cwd=node.folder
    )


def one_line(done: "subprocess.CompletedProcess[str]") -> str:
    """The only line it said, having failed."""
    assert done.returncode not in (0, 70), done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "Traceback" not in line
    return line


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("isuer", "https://auth.example.com", "issuer"),
        ("access_ttl", 60, "access_ttl"),
        ("access_ttl", "1 hour", "access_ttl"),
        ("jwks_max_age", "4s", "verifier_cache"),
        ("rotate_every", "60s", "rotate_every"),
        ("signers", 9, "jwks_limit"),
        ("lease", "20s", "feed_bound"),
        ("store", "mysql://db/auth", "store"),
        ("listen", "127.0.0.1", "listen"),
        ("key_mode", "hsm", "key_mode"),
    ],
)
def test_wrong_setting_is_one_line_that_names_it(node, key, value, named):
    """An unknown setting, a wrong unit, a broken rule: one line with the key and the reason, and no start."""
    line = one_line(serve(node(**{key: value})))
    assert key in line
    assert named in line


def test_taken_port_is_one_line(node, tmp_path):
    """A second node on the same port does not start, says why, and leaves the first one alone."""
    with running_node(tmp_path) as first:
        line = one_line(serve(first))
        assert str(first.port) in line
        assert "taken" in line
        first.until_ready()


@pytest.mark.parametrize("content", [b"this is no database at all" * 400, b"SQLite format 3\0" + bytes(9000)])
def test_damaged_database_is_one_line(node, content):
    """A file that is no database, or half of one, stops the start with its name; it is not touched."""
    running = node()
    database = running.folder / "mintmark.db"
    database.write_bytes(content)
    assert str(database) in one_line(serve(running))
    assert database.read_bytes() == content


def test_missing_folder_is_one_line(node, tmp_path):
    """A database in a folder that does not exist is named, and no folder is made."""
    missing = tmp_path / "nowhere"
    assert str(missing) in one_line(serve(node(store=f"sqlite:///{missing}/mintmark.db")))
    assert not missing.exists()


def test_folder_that_may_not_be_written_is_one_line(node):
    """A folder that its user may only read stops a node with one line, and nothing is made in it."""
    if os.getuid() != 0:
        Path(node().folder).chmod(0o555)
        line = one_line(serve(node()))
    else:
        # Root may write anywhere; the node runs as somebody who may not.
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o755)
            running = RunningNode(Path(name))
            done = subprocess.run(
                [*AS_NOBODY, *running.command("serve")],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            running.end()
            line = one_line(done)
            assert [path.name for path in Path(name).iterdir()] == ["mintmark.toml"]
    assert "not writable" in line


def test_file_in_place_of_folder_is_one_line(node, tmp_path):
    """A database below what is no folder is named."""
    Path(tmp_path / "file").write_text("")
    assert "file" in one_line(serve(node(store=f"sqlite:///{tmp_path}/file/mintmark.db")))


def test_other_timing_beside_a_live_node_does_not_start(node, tmp_path):
    """Two nodes of one issuer must agree on timing: the one that differs says in which setting, and ends."""
    with running_node(tmp_path) as first:
        other = RunningNode(tmp_path, {"issuer": first.issuer, "access_ttl": "61s"})
        line = one_line(serve(other))
        other.end()
        assert "access_ttl is 61 here and 60 there" in line


def test_changed_timing_is_taken_over_by_the_next_start(tmp_path):
    """A lone node restarted with other timing starts with it: nobody is there to disagree."""
    with running_node(tmp_path) as first:
        old = first.log_in()
        assert first.stop() == 0
        second = RunningNode(tmp_path, {"access_ttl": "30s"}, port=first.port)
        try:
            second.start().until_ready()
            assert second.log_in()["expires_in"] <= 30
            second.asked(lambda: second.refresh(old["refresh_token"]), 200)
        finally:
            second.end()


def test_second_signal_ends_a_node_that_waits(tmp_path):
    """A node that waits for a request that does not end leaves at once on the second signal."""
    with running_node(tmp_path) as running:
        with running.http.stream("GET", "/revocations/stream", headers={"Accept": "text/event-stream"}):
            assert running.process is not None
            running.process.terminate()
            running.process.terminate()
            until(lambda: running.process is not None and running.process.poll() is not None, "it left")
        assert running.process.returncode == 0


def test_leaving_node_refuses_new_connections_at_once(tmp_path):
    """While a request that does not end holds a node back, nobody new waits for what cannot come."""
    with running_node(tmp_path) as running, socket.create_connection(("127.0.0.1", running.port)) as slow:
        slow.sendall(b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx")
        assert running.process is not None
        running.process.terminate()

        def is_refused() -> bool:
            try:
                socket.create_connection(("127.0.0.1", running.port), timeout=5).close()
            except ConnectionRefusedError:
                return True
            return False

        until(is_refused, "new connections are refused")
        assert running.process.poll() is None, "it still waits for the request that it has begun"
        running.process.terminate()
        assert running.process.wait(60) == 0


def test_head_that_never_ends_is_let_go(tmp_path):
    """RL3, F34: an endless header is cut off by a real node, which answers others meanwhile."""
    with running_node(tmp_path) as running, socket.create_connection(("127.0.0.1", running.port)) as endless:
        endless.settimeout(30)
        endless.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Endless: ")
        with pytest.raises(ConnectionError):
            endless.sendall(b"a" * 100_000_000)
        assert running.http.get("/livez").status_code == 200
