"""The server that the demo and the tests start is a real one, private, and gone afterwards."""

import signal
import stat
import tempfile

import pytest

from mintmark.cli.demonstration import postgresql
from mintmark.cli.demonstration.postgresql import (
    PostgresqlFailed,
    PostgresqlMissing,
    PostgresqlServer,
    find_programs,
)


@pytest.fixture(autouse=True)
def programs(postgresql):
    """Where the programs are missing, the shared server says whether that is a failure."""


def test_it_keeps_what_was_committed_over_a_crash():
    """What was answered before SIGQUIT is there after the next start."""
    with PostgresqlServer() as server:
        server.create_database("kept")
        server.execute("CREATE TABLE a (b int); INSERT INTO a VALUES (7)", database="kept")
        server.stop(signal.SIGQUIT)
        with pytest.raises(PostgresqlFailed):
            server.execute("SELECT 1")
        server.start()
        assert server.execute("SELECT b FROM a", database="kept") == "7"
        folder = server.folder
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert not (folder / "password").exists()
    assert not folder.exists()


def test_it_starts_where_temporary_files_are_private(monkeypatch, tmp_path):
    """Root's server runs as somebody else, who must get to its folder whatever TMPDIR says."""
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with PostgresqlServer() as server:
        assert server.execute("SELECT 1") == "1"
    assert not server.folder.exists()


def test_statement_that_fails_says_why(postgresql):
    """The message is the server's."""
    with pytest.raises(PostgresqlFailed, match="nonsense"):
        postgresql.execute("SELECT nonsense")


def test_machine_without_it_is_told_how_to_get_it(monkeypatch, tmp_path):
    """The message names the package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgresql, "_DEBIAN", tmp_path)
    with pytest.raises(PostgresqlMissing, match="apt install postgresql"):
        find_programs()
