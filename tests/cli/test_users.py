"""``mintmark users``."""

import json
import os
import subprocess
import sys

import pytest
from tests.cli.command_line import PASSWORD

from mintmark.adapters.argon2 import Argon2Hasher
from mintmark.core.directory import LOCKED_FOR_GOOD
from mintmark.ports.passwords import PasswordCheck


async def _checked(store, issuer, name, password):
    user = await store.directory.user_named(issuer, name)
    hasher = Argon2Hasher(workers=1, queue=1)
    try:
        return await hasher.verify(user.password_hash, password)
    finally:
        hasher.close()


def accepts(cli, name, password):
    """Whether the user would get in with the password."""
    issuer = cli.settings.issuer
    return cli.within(lambda store: _checked(store, issuer, name, password)) is PasswordCheck.RIGHT


def test_there_are_no_users_before_one_is_added(cli):
    """A new issuer has no account of any kind, and nobody can log in (PW10)."""
    cli.ok("init")
    assert cli.ok("users", "list") == {"users": []}
    assert cli.ok("clients", "list") == {"clients": []}
    assert cli("users", "list").out == "No users.\n"


def test_generated_password_is_shown_once_and_lets_the_user_in(cli):
    """The password that is shown is the user's, each user gets another, and it is shown no more (PW10)."""
    added = [cli.ok("users", "add", name) for name in ("ada", "bob")]
    assert added[0]["password"] != added[1]["password"]
    assert accepts(cli, "ada", added[0]["password"])
    assert not accepts(cli, "ada", added[1]["password"])
    shown = cli("users", "list").out + cli("users", "list", "--json").out
    assert added[0]["password"] not in shown


def test_piped_password_is_taken_to_the_end_of_its_line(cli):
    """One line end is no part of the password; spaces are, at both ends (PW2)."""
    piped = "  zwei Wörter, zwei Leerzeichen  "
    for name, end in (("ada", ""), ("bob", "\n"), ("zoe", "\r\n")):
        cli.ok("users", "add", name, "--password-stdin", stdin=(piped + end).encode())
        assert accepts(cli, name, piped)
        assert not accepts(cli, name, piped.strip())


def test_piped_password_is_not_shown(cli):
    """A password that was given is nowhere in the answer."""
    added = cli("users", "add", "ada", "--password-stdin", "--json", stdin=PASSWORD.encode())
    assert added.status == 0
    assert "password" not in added.json
    assert PASSWORD not in added.out + added.err


@pytest.mark.parametrize("second", [PASSWORD, "something else"])
def test_password_is_asked_for_twice_on_a_terminal(cli, second):
    """On a terminal the password is typed blind, and two that differ add nobody."""
    # The child makes the terminal its own, which is where getpass reads.
    code = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "from mintmark.cli import main; sys.exit(main())"
    )
    ours, theirs = os.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", code, "users", "add", "ada", "--password-stdin"],
            stdin=theirs,
            stderr=theirs,
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as program:
            os.close(theirs)
            seen = b""
            for question, answer in ((b"Password: ", PASSWORD), (b"Once more: ", second)):
                while question not in seen:
                    seen += os.read(ours, 4096)
                os.write(ours, answer.encode() + b"\n")
            out = program.communicate()[0].decode()
        assert PASSWORD.encode() not in seen
    finally:
        os.close(ours)
    if second == PASSWORD:
        assert (program.returncode, out.startswith("Added user ada, usr_")) == (0, True)
        assert accepts(cli, "ada", PASSWORD)
    else:
        assert (program.returncode, out) == (2, "")
        assert list(cli.folder.iterdir()) == []


def test_users_are_listed_by_name_for_people_and_for_programs(cli):
    """Both forms say the same; the program's has stable names and numeric dates."""
    cli.ok("users", "add", "zoe")
    cli.ok("users", "add", "ada", "--scope", "orders:read", "--scope", "orders:write")
    cli.ok("users", "disable", "zoe")
    ada, zoe = cli.ok("users", "list")["users"]
    dates = {"created_at", "password_changed_at", "disabled_at", "locked_until"}
    assert set(ada) == {"username", "sub", "scope"} | dates
    assert (ada["username"], ada["scope"], ada["disabled_at"]) == ("ada", "orders:read orders:write", None)
    assert (zoe["username"], zoe["scope"]) == ("zoe", "")
    assert isinstance(zoe["disabled_at"], int)
    listed = cli("users", "list").out.splitlines()
    assert listed[0].split() == ["USERNAME", "SUB", "SCOPE", "ADDED", "STATE"]
    assert listed[1].split()[:4] == ["ada", ada["sub"], "orders:read", "orders:write"]
    assert "active" in listed[1]
    assert "disabled" in listed[2]


def test_disabling_says_how_many_sessions_ended_and_may_be_repeated(shop):
    """The first time it ends the sessions; the second time it changes nothing and says so."""
    for _ in range(2):
        shop.add_session("ada", "shop")
    assert shop("users", "disable", "ADA").out == "Disabled user ada; sessions ended: 2.\n"
    assert shop("users", "disable", "ada").out == "User ada was disabled before; nothing changed.\n"
    assert shop.ok("users", "disable", "ada")["sessions_ended"] == 0


def test_changed_password_replaces_the_old_one_and_ends_sessions(shop):
    """The new password lets the user in, the old one does not, and nobody stays logged in."""
    shop.add_session("ada", "shop")
    answer = shop.ok("users", "passwd", "ada")
    assert answer["sessions_ended"] == 1
    assert accepts(shop, "ada", answer["password"])
    assert not accepts(shop, "ada", PASSWORD)
    shop.ok("users", "passwd", "ada", "--password-stdin", stdin=b"a third good one\n")
    assert accepts(shop, "ada", "a third good one")


def test_change_is_one_line_of_the_log_with_its_actor(cli):
    """Away from a terminal each change is one JSON line on standard error: what, who, when (LG1)."""
    added = cli("users", "add", "ada", "--json")
    (line,) = (line for line in added.lines if not line.startswith("mintmark: a new database"))
    logged = json.loads(line)
    assert (logged["event"], logged["sub"]) == ("user.added", added.json["sub"])
    assert logged["actor"]
    assert logged["timestamp"].endswith("Z")
    assert logged["issuer"] == cli.settings.issuer
    assert cli("users", "list").err == ""


def test_name_that_a_terminal_would_obey_is_escaped(cli):
    """What is printable stays as it is, and nothing else reaches the terminal (LG3)."""
    cli.ok("clients", "add", "[bold]Büro[/bold] :smile:", "--audience", "orders")
    assert "[bold]Büro[/bold] :smile:" in cli("clients", "list").out
    refused = cli("users", "add", "ada\x1b]0;title\a")
    assert refused.status == 2
    assert refused.err.rstrip("\n").isprintable()


def locked_until(cli, name):
    """Until when the user is locked, as the store has it."""
    issuer = cli.settings.issuer
    return cli.within(lambda store: store.directory.user_named(issuer, name)).locked_until


def test_user_is_locked_for_a_time_or_for_good_until_unlocked(shop):
    """PW12: a lock ends nothing; the list says for how long it is, and a second one replaces the first."""
    before = shop.ok("sessions", "list")["sessions"]
    assert "locked" not in shop("users", "list").out
    shop.ok("users", "lock", "ADA")
    assert locked_until(shop, "ada") == LOCKED_FOR_GOOD
    assert "locked" in shop("users", "list").out
    locked = shop("users", "lock", "ada", "--for", "30m")
    assert locked.out.startswith("Locked user ada for 30m.")
    assert 0 < locked_until(shop, "ada") < LOCKED_FOR_GOOD
    assert shop.ok("users", "list")["users"][0]["locked_until"] == locked_until(shop, "ada")
    assert shop("users", "unlock", "ada").out == "Unlocked user ada.\n"
    assert shop("users", "unlock", "ada").out == "User ada was not locked.\n"
    assert locked_until(shop, "ada") is None
    assert shop.ok("sessions", "list")["sessions"] == before


@pytest.mark.parametrize("span", ["30", "0s", "-1m", "soon"])
def test_lock_of_no_time_is_refused(shop, span):
    """What is no span, or none at all, locks nobody."""
    assert shop("users", "lock", "ada", "--for", span).status != 0
    assert locked_until(shop, "ada") is None
