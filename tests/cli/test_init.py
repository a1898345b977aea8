"""``mintmark init``."""

import os
import stat
import tomllib
from pathlib import Path

import pytest

from mintmark.server.option import KEYS
from mintmark.server.settings import describe, load


def test_first_configuration_is_the_defaults_with_a_comment_each(cli):
    """Every setting is in the file, explained and commented out, and uncommenting all changes nothing."""
    answer = cli.ok("init")
    assert answer == {
        "config": f"{cli.folder}/mintmark.toml",
        "issuer": "http://127.0.0.1:8420",
        "database": f"{cli.folder}/mintmark.db",
    }
    text = Path("mintmark.toml").read_text()
    assert tomllib.loads(text) == {"issuer": "http://127.0.0.1:8420", "store": "sqlite:///mintmark.db"}
    active = "\n".join(line.removeprefix("# ") for line in text.splitlines() if " = " in line)
    whole = tomllib.loads(active)
    assert whole == {key.name: key.default for key in KEYS}
    assert all(f"# {key.meaning}\n" in text for key in KEYS)
    before = describe(load(Path("mintmark.toml"), {}))
    Path("whole.toml").write_text(active)
    after = describe(load(Path("whole.toml"), {}))
    assert [line.value for line in after] == [line.value for line in before]


def test_it_says_what_to_do_next_and_that_works(cli):
    """The commands that it prints are commands that succeed, as they stand."""
    import shlex

    said = cli("init", "--config", "here.toml").out.splitlines()
    steps = [shlex.split(line)[1:] for line in said if line.startswith("  mintmark")]
    assert [step[2:4] for step in steps] == [["clients", "add"], ["users", "add"], ["serve"]]
    for step in steps[:-1]:
        assert cli(*step).status == 0


def test_file_and_database_are_their_owners_alone(cli):
    """Nobody else on the machine can read either, whatever the umask."""
    before = os.umask(0)
    try:
        cli.ok("init")
    finally:
        os.umask(before)
    for name in ("mintmark.toml", "mintmark.db"):
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o600


def test_existing_file_is_left_as_it_is(cli):
    """A second init changes nothing, whatever kind of file is in the way."""
    Path("mintmark.toml").write_text("workers = 2\n")
    Path("link.toml").symlink_to("nowhere.toml")
    for name in ("mintmark.toml", "link.toml"):
        result = cli("init", "--config", name)
        assert (result.status, result.err) == (4, f"mintmark: {name} exists already; it is left as it is\n")
    assert Path("mintmark.toml").read_text() == "workers = 2\n"
    assert sorted(path.name for path in cli.folder.iterdir()) == ["link.toml", "mintmark.toml"]


@pytest.mark.parametrize(
    ("issuer", "said"),
    [
        ("http://auth.example.com", "must be https: plain http is for loopback alone"),
        ("auth.example.com", 'must be an absolute URL like "https://auth.example.com"'),
        ("https://auth.example.com/", "must not end with a slash"),
        ("https://user:canary@auth.example.com", "must not hold a user or a password"),
    ],
)
def test_issuer_that_cannot_be_is_one_line_and_nothing_is_written(cli, issuer, said):
    """A wrong option is named, and the folder stays empty."""
    result = cli("init", "--issuer", issuer)
    assert (result.status, result.out, result.err) == (2, "", f"mintmark: --issuer: {said}\n")
    assert list(cli.folder.iterdir()) == []


def test_options_end_up_in_the_file(cli):
    """Issuer and store are written as given, quotes and backslashes included."""
    answer = cli.ok("init", "--issuer", "https://auth.example.com/eu", "--store", 'sqlite:///a "b" \\c.db')
    assert answer["issuer"] == "https://auth.example.com/eu"
    assert tomllib.loads(Path("mintmark.toml").read_text()) == {
        "issuer": "https://auth.example.com/eu",
        "store": 'sqlite:///a "b" \\c.db',
    }
    assert Path('a "b" \\c.db').is_file()


@pytest.mark.parametrize(
    ("issuer", "listen"),
    [
        ("http://localhost:9000", "127.0.0.1:9000"),
        ("http://127.0.0.2", "127.0.0.2:80"),
        ("http://[::1]:9000", "[::1]:9000"),
        ("http://127.0.0.1:8420", None),
        ("https://auth.example.com", None),
    ],
)
def test_node_of_a_loopback_issuer_listens_where_the_issuer_is(cli, issuer, listen):
    """An issuer on this machine is reached at its own port; one elsewhere is behind something."""
    cli.ok("init", "--issuer", issuer)
    assert tomllib.loads(Path("mintmark.toml").read_text()).get("listen") == listen


@pytest.mark.parametrize(
    ("argv", "environ", "status"),
    [
        (("--store", "sqlite:///absent/x.db"), {}, 69),
        ((), {"MINTMARK_WORKERS": "none"}, 2),
        (("--config", "absent/mintmark.toml"), {}, 1),
    ],
)
def test_init_that_fails_leaves_nothing_behind(cli, monkeypatch, argv, environ, status):
    """Where database or file cannot be made there is one line and neither, so it can be tried again."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    result = cli("init", *argv)
    assert result.status == status
    assert len(result.lines) == 1
    assert list(cli.folder.iterdir()) == []
