"""What the demo says where it cannot be shown."""

from mintmark.cli.app import run
from mintmark.cli.demonstration import postgresql


def test_machine_without_postgresql_is_told_so(monkeypatch, tmp_path, capsys):
    """One line with what to install, and exit status 1."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgresql, "_DEBIAN", tmp_path)
    assert run(["demo", "--store", "postgresql"]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "apt install postgresql" in said.err


def test_unknown_store_is_refused(capsys):
    """A mistake in the option is one, and shows nothing."""
    assert run(["demo", "--store", "mysql"]) == 2
    said = capsys.readouterr()
    assert "--store" in said.err
    assert said.out == ""
