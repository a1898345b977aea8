"""What is said about mistakes: one line each, a status that scripts can tell apart, and nothing secret."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mintmark.cli.app import app, run
from mintmark.cli.status import Failed, Misused, Status, printable, status_of
from mintmark.errors import (
    ConfigurationError,
    Conflict,
    InvalidScope,
    NotFound,
    StoreDamaged,
    StoreUnavailable,
)

KID = "-" + "k" * 42
SEE = "`mintmark keys list` shows those there are"
RID = "-" + "r" * 21
WHOM = "name one session by its RID"

USAGE = [
    ("serv", "unknown command serv; did you mean serve?", "mintmark"),
    ("keys lst", "unknown command lst; did you mean list?", "mintmark keys"),
    ("xyzzy", "unknown command xyzzy", "mintmark"),
    ("--jsn keys list", "unknown option --jsn; did you mean --json?", "mintmark"),
    ("keys list --jsn", "unknown option --jsn; did you mean --json?", "mintmark keys list"),
    ("users add ada --scop x", "unknown option --scop; did you mean --scope?", "mintmark users add"),
    ("keys revoke a --reson x", "unknown option --reson; did you mean --reason?", "mintmark keys revoke"),
    (
        "keys revoke --dryrun --reason x",
        "unknown option --dryrun; did you mean --dry-run?",
        "mintmark keys revoke",
    ),
    ("sessions revoke --usr ada", "unknown option --usr; did you mean --user?", "mintmark sessions revoke"),
    (
        "keys revoke -abc --reason x",
        "unknown option -abc; an argument that begins with a hyphen goes behind --",
        "mintmark keys revoke",
    ),
    ("keys revoke", "KID is missing", "mintmark keys revoke"),
    ("keys revoke a", "--reason is missing", "mintmark keys revoke"),
    ("keys revoke a --reason", "--reason needs a value", "mintmark keys revoke"),
    (
        "clients add shop",
        "--audience is missing: what its tokens are for",
        None,
    ),
    ("sessions revoke abc --dry-run", "--issued-before and --dry-run go with --all", None),
    ("users list ada", "too many arguments: 1 more than it takes", "mintmark users list"),
    ("keys revoke a --reason x --reason y", "--reason is given twice", "mintmark keys revoke"),
    ("sessions list --limit few", "--limit: not a whole number", "mintmark sessions list"),
    ("sessions list --limit 0", "--limit: must be from 1 to 10000", None),
    ("sessions revoke", f"{WHOM}, all of a user with --user, or every one with --all", None),
    ("sessions revoke abc --user ada", f"{WHOM}, all of a user with --user, or every one with --all", None),
    ("--config", "--config needs a value", "mintmark"),
    ("--no-json keys list", "unknown option --no-json; did you mean --json?", "mintmark"),
]


@pytest.mark.parametrize(("line", "said", "command"), USAGE, ids=[row[0] for row in USAGE])
def test_command_line_that_cannot_be_meant_is_one_line_and_status_2(cli, line, said, command):
    """The line names the word, what was likely meant and where to read on; nothing is created."""
    result = cli(*line.split())
    assert (result.status, result.out) == (2, "")
    usage = f" (usage: {command} --help)" if command else ""
    assert result.err == f"mintmark: {said}{usage}\n"
    assert list(cli.folder.iterdir()) == []


VALUES = [
    (("users", "add", " "), "username: a user name has 1 to 254 characters"),
    (("users", "add", "a\nb"), "username: a user name has no control characters"),
    (
        ("users", "add", "bob", "--scope", 'a"'),
        "scope: a scope has printable ASCII characters without quotes and backslashes, at most 128",
    ),
    (
        ("clients", "add", "x", "--audience", "*"),
        "audience: an audience names one service, without spaces and wildcards",
    ),
    (
        ("clients", "add", "x", "--audience", "a", "--client-id", "usr_a"),
        'client_id: a client id does not begin with "usr_": subjects of users do',
    ),
    (
        ("clients", "add", "x", "--audience", "a", "--grant", "password"),
        'grant_type: there is no grant "password"; there are client_credentials and refresh_token',
    ),
    (
        ("clients", "add", "x", "--audience", "a", "--public"),
        "grant_type: a public client that is not first-party needs a grant",
    ),
    (("keys", "revoke", "a", "--reason", " "), "--reason: 1 to 200 printable characters"),
    (("clients", "rotate-secret", "shop"), "client_id: a public client has no secret"),
]


@pytest.mark.parametrize(("argv", "said"), VALUES, ids=[said[:30] for _, said in VALUES])
def test_value_that_cannot_be_is_one_line_and_status_2(shop, argv, said):
    """A wrong value is named with its field."""
    result = shop(*argv)
    assert (result.status, result.out, result.err) == (2, "", f"mintmark: {said}\n")


ABSENT = [
    (("users", "disable", "bob"), 'there is no user "bob"'),
    (("users", "passwd", "bob"), 'there is no user "bob"'),
    (("users", "disable", "b\x1b[31mob"), 'there is no user "b\\x1b[31mob"'),
    (("clients", "remove", "x"), 'there is no client "x"'),
    (("clients", "rotate-secret", "x"), 'there is no client "x"'),
    (("sessions", "list", "--user", "bob"), 'there is no user "bob"'),
    (("sessions", "revoke", "--user", "bob"), 'there is no user "bob"'),
    (("sessions", "revoke", RID), f'there is no session "{RID}"'),
    (("keys", "revoke", "abc", "--reason", "x"), f'there is no key "abc"; {SEE}'),
    (("keys", "revoke", KID, "--reason", "x"), f'there is no key "{KID}"; {SEE}'),
    (("keys", "revoke", "", "--reason", "x"), f'there is no key ""; {SEE}'),
]


@pytest.mark.parametrize(("argv", "said"), ABSENT, ids=[" ".join(argv) for argv, _ in ABSENT])
def test_what_does_not_exist_is_one_line_and_status_3(shop, argv, said):
    """A name that is nobody's is said with control characters escaped."""
    result = shop(*argv)
    assert (result.status, result.out, result.err) == (3, "", f"mintmark: {said}\n")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("users", "add", "ADA"), 'there is a user "ada" already'),
        (
            ("clients", "add", "x", "--audience", "a", "--client-id", "shop"),
            'there is a client "shop" already',
        ),
    ],
)
def test_what_exists_already_is_one_line_and_status_4(shop, argv, said):
    """A second one of the same name changes nothing."""
    result = shop(*argv)
    assert (result.status, result.out, result.err) == (4, "", f"mintmark: {said}\n")


def test_command_on_a_database_that_is_not_there_creates_none(cli):
    """Listing or ending something in the wrong folder is said to be that, and leaves no file behind."""
    for argv in (("users", "list"), ("keys", "rotate"), ("sessions", "revoke", "--user", "ada")):
        result = cli(*argv)
        assert result.status == 3
        assert result.err == (
            f"mintmark: there is no database {cli.folder}/mintmark.db: give the right --config, "
            "or begin with `mintmark init`\n"
        )
    assert list(cli.folder.iterdir()) == []


def test_new_database_is_announced(cli):
    """A command that makes a database says where, so that a wrong folder is noticed."""
    result = cli("users", "add", "ada")
    assert result.lines[0] == f"mintmark: a new database, {cli.folder}/mintmark.db"
    assert "a new database" not in cli("users", "add", "bob").err


# --- configuration and store ---------------------------------------------------------------------


def test_configuration_mistakes_are_one_line_each_and_status_2(cli, monkeypatch):
    """Unknown settings, wrong units and broken rules of file and environment come out together."""
    Path("mintmark.toml").write_text('acess_ttl = "15m"\nlease = 120\njwks_max_age = "20m"\n')
    monkeypatch.setenv("MINTMARK_SIGNER", "2")
    for argv in (("users", "list"), ("serve",), ("keys", "list", "--json")):
        result = cli(*argv)
        assert (result.status, result.out) == (2, "")
        assert [re.sub(" does not hold with.*", "", line) for line in result.lines] == [
            "mintmark: mintmark.toml:1: acess_ttl: is not a setting; did you mean access_ttl?",
            "mintmark: environment: MINTMARK_SIGNER: is not a setting; did you mean MINTMARK_SIGNERS?",
            'mintmark: mintmark.toml:2: lease: has no unit: write text like "30s", "15m" or "4h"',
            "mintmark: mintmark.toml:3: jwks_max_age: jwks_max_age <= verifier_cache",
        ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff", "mintmark.toml: configuration file: is not UTF-8"),
        (b"issuer = ", "mintmark.toml: configuration file: is not TOML: Invalid value (at end of document)"),
    ],
)
def test_unreadable_file_is_one_line_and_status_2(cli, text, said):
    """A file that is no TOML is said to be none, without a traceback."""
    Path("mintmark.toml").write_bytes(text)
    result = cli("users", "list")
    assert (result.status, result.err) == (2, f"mintmark: {said}\n")


def test_named_file_that_is_missing_is_one_line_and_status_2(cli):
    """A file that was named and is not there is never replaced by defaults."""
    result = cli("--config", "absent.toml", "users", "add", "ada")
    assert (
        result.err == "mintmark: absent.toml: configuration file: cannot be read: No such file or directory\n"
    )
    assert result.status == 2
    assert list(cli.folder.iterdir()) == []


def test_damaged_database_is_one_line_and_status_1(shop):
    """Damage is not worth another try, so it has another status than a store that is away."""
    for path in shop.folder.glob("mintmark.db*"):
        path.unlink()
    Path("mintmark.db").write_bytes(b"not a database at all" * 100)
    result = shop("users", "list")
    assert (result.status, result.out) == (1, "")
    assert result.err == f"mintmark: {shop.folder}/mintmark.db: the file is not an SQLite database\n"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("absent/x.db", "the folder {folder}/absent does not exist"),
        ("folder", "this is a folder, not a file"),
    ],
)
def test_store_that_cannot_be_opened_is_one_line_and_status_69(cli, monkeypatch, place, said):
    """A store that may come back has the status that is worth another try."""
    Path("folder").mkdir()
    monkeypatch.setenv("MINTMARK_STORE", f"sqlite:///{cli.folder}/{place}")
    result = cli("users", "add", "ada")
    assert (result.status, result.out) == (69, "")
    assert result.err == f"mintmark: {cli.folder}/{place}: {said.format(folder=cli.folder)}\n"


def test_read_only_folder_is_one_line(shop, monkeypatch):
    """Where nothing can be written the store is away; root writes everywhere, so access(2) is asked."""
    monkeypatch.setattr(os, "access", lambda _, mode, **__: not mode & os.W_OK)
    result = shop("users", "list")
    assert result.status == 69
    assert len(result.lines) == 1
    assert "not writable" in result.err


# --- secrets in the wrong place ------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ("users", "add", "ada", "hunter2-canary"),
        ("users", "add", "ada", "--password=hunter2-canary"),
        ("users", "add", "ada", "--password", "hunter2-canary"),
        ("users", "passwd", "ada", "--password-stdin", "hunter2-canary"),
        ("users", "add", "ada", "--password-stdin=hunter2-canary"),
    ],
)
def test_password_in_the_wrong_place_is_not_repeated(cli, argv):
    """A password on the command line is no argument of any command, and no message holds it (LG2)."""
    result = cli(*argv)
    assert result.status == 2
    assert len(result.lines) == 1
    assert "canary" not in result.out + result.err
    assert list(cli.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"", "password: must have at least 15 characters"),
        (b"too-short-canary"[:14], "password: must have at least 15 characters"),
        (b"x" * 1025, "password: must have at most 1024 bytes"),
        (b"x" * 5000, "password: must have at most 1024 bytes"),
        (b"two lines canary\nof a password", "--password-stdin: more than one line"),
        (b"carriage canary\rreturn", "--password-stdin: more than one line"),
        (b"not UTF-8 canary \xff\xff", "--password-stdin: not UTF-8"),
        (
            b"mintmark1234567",
            "password: must not be made of the user's name, the issuer's host or the name of this software",
        ),
    ],
)
def test_password_that_is_none_is_one_line_without_it(shop, given, said):
    """What is wrong with a password is said without the password, when adding and when changing (PW1)."""
    for argv in (("users", "add", "bob"), ("users", "passwd", "ada")):
        result = shop(*argv, "--password-stdin", stdin=given)
        assert (result.status, result.out, result.err) == (2, "", f"mintmark: {said}\n")


# --- the program ---------------------------------------------------------------------------------


def test_command_line_says_what_to_install_without_the_extra():
    """Without the server's packages the command line is one clear line and status 2."""
    for package in ("cyclopts", "rich", "structlog"):
        code = f"import sys; sys.modules[{package!r}] = None; from mintmark.cli import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", code, "users", "list"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == (
            f"mintmark: the package {package} is not installed: the command line needs "
            "`pip install 'mintmark[server]'`\n"
        )
        assert (done.returncode, done.stdout) == (2, "")


def test_reader_that_went_away_is_no_traceback(shop):
    """A pipe closed by its reader ends the command quietly."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mintmark", "users", "list"],
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_full_disk_is_one_line(shop):
    """An answer that could not be written is a failure, and said to be one."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mintmark", "users", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"mintmark: No space left on device\n")


def test_closed_standard_input_is_an_empty_one(shop):
    """A service manager that gives no standard input makes no traceback."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "{sys.executable}" -m mintmark users passwd ada --password-stdin <&-'],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "mintmark: password: must have at least 15 characters\n")


def test_defect_is_one_line_and_its_traceback_on_demand(cli, monkeypatch):
    """An error that nobody expected is one line without its text, unless debugging is on (LG4)."""

    def break_down(*args: object) -> None:
        raise ValueError("canary")

    monkeypatch.setattr("mintmark.cli.invocation.load", break_down)
    result = cli("users", "list")
    assert result.status == 70
    assert re.fullmatch(
        r"mintmark: a defect: ValueError at test_mistakes\.py:\d+; see more with MINTMARK_LOG_LEVEL=debug\n",
        result.err,
    )
    monkeypatch.setenv("MINTMARK_LOG_LEVEL", "debug")
    assert "Traceback" in cli("users", "list").err


def test_interruption_is_status_130(cli, monkeypatch):
    """Ctrl-C ends a command without a word."""

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mintmark.cli.invocation.load", interrupt)
    result = cli("users", "list")
    assert (result.status, result.out, result.err) == (130, "", "")


# --- the parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Misused("x"), Status.MISUSED),
        (ConfigurationError("x", "y"), Status.MISUSED),
        (InvalidScope("x"), Status.MISUSED),
        (NotFound("x"), Status.NOT_FOUND),
        (Conflict("x"), Status.CONFLICT),
        (StoreUnavailable("x"), Status.UNAVAILABLE),
        (StoreDamaged("x"), Status.FAILED),
        (Failed("x"), Status.FAILED),
    ],
)
def test_every_kind_of_error_has_its_status(error, status):
    """A script can tell what to do from the status alone."""
    assert status_of(error) is status
    assert status.meaning.endswith(".")


def test_no_option_looks_like_an_identifier():
    """An option is never as long as a rid or a kid, so a word of that length with a hyphen is an id."""

    def options(parent):
        for name in parent:
            if name.startswith("-"):
                yield name
            else:
                yield from options(parent[name])
                if parent[name].default_command:
                    for argument in parent[name].assemble_argument_collection():
                        yield from (one for one in argument.names if one.startswith("-"))

    found = set(options(app))
    assert "--password-stdin" in found
    assert not {len(name) for name in found} & {1, 22, 43}


def test_text_from_outside_is_one_printable_line():
    """Control characters, escape sequences and turned text are spelled out; printable text stays."""
    assert printable("a\nb\x1b[31m\u202e\u009b\udcff") == r"a\nb\x1b[31m\u202e\x9b\udcff"
    assert printable("zoë 😀") == "zoë 😀"


def test_help_and_version_answer_everywhere(cli):
    """--help works behind every command, and --version names the program; both succeed."""
    assert re.fullmatch(r"mintmark \d+\.\d+.*\n", cli("--version").out)
    for argv in ((), ("keys",), ("keys", "revoke"), ("token", "inspect")):
        result = cli(*argv, "--help")
        assert (result.status, result.err) == (0, "")
        assert f"Usage: {' '.join(('mintmark', *argv))}" in result.out
    assert run([]) == 0
