"""Commands where several issuers are configured: each is about the one that it names."""

import re
import shlex
from pathlib import Path

import pytest
from tests.cli.command_line import PASSWORD, CommandLine

from mintmark.errors import ConfigurationErrors
from mintmark.server.issuers import MAX_ISSUERS
from mintmark.server.option import KEYS
from mintmark.server.settings import read

ONE, OTHER = "https://auth.example.com", "https://login.example.org/eu"
TABLES = f'[[issuers]]\nissuer = "{ONE}"\n\n[[issuers]]\nissuer = "{OTHER}"\nalgorithm = "ES256"\n'


@pytest.fixture
def both(cli: CommandLine) -> CommandLine:
    """The command line beside a file with two issuers."""
    Path("mintmark.toml").write_text(TABLES)
    return cli


def test_command_is_about_the_issuer_that_it_names(both):
    """What is made for one issuer is there for that one alone; the same name makes two users."""
    for issuer in (ONE, OTHER):
        both.ok("users", "add", "ada", "--password-stdin", "--issuer", issuer, stdin=PASSWORD.encode())
        both.ok("clients", "add", "Shop", "--client-id", "shop", "--audience", "x", "--issuer", issuer)
        assert both.ok("keys", "list", "--issuer", issuer)["issuer"] == issuer
    subs = [both.ok("--issuer", issuer, "users", "list")["users"][0]["sub"] for issuer in (ONE, OTHER)]
    assert len(set(subs)) == 2
    both.ok("users", "disable", "ada", "--issuer", ONE)
    disabled = [
        both.ok("users", "list", "--issuer", issuer)["users"][0]["disabled_at"] for issuer in (ONE, OTHER)
    ]
    assert disabled[0] is not None
    assert disabled[1] is None
    both.ok("clients", "remove", "shop", "--issuer", OTHER)
    assert len(both.ok("clients", "list", "--issuer", ONE)["clients"]) == 1


@pytest.mark.parametrize("command", [("users", "list"), ("keys", "rotate"), ("sessions", "list")])
def test_issuer_must_be_named_where_there_are_several(both, command):
    """No command guesses: it lists the issuers that it could be about, and changes nothing."""
    result = both(*command)
    assert result.status == 2
    assert (
        result.err == f"mintmark: --issuer is missing: this command is about one issuer of {ONE}, {OTHER}\n"
    )
    assert not Path("mintmark.db").exists()


def test_issuer_that_is_not_configured_is_refused(both):
    """A name that is none of the configured ones, byte for byte, is a mistake; those are named."""
    result = both("users", "list", "--issuer", f"{ONE}/")
    assert result.status == 2
    assert f'"{ONE}/" is none of those configured: {ONE}, {OTHER}' in result.err


def test_only_issuer_need_not_be_named_but_must_be_right(shop):
    """With one issuer --issuer may be left out; another one's is a mistake all the same."""
    issuer = shop.settings.issuer
    assert shop.ok("users", "list") == shop.ok("users", "list", "--issuer", issuer)
    assert shop("users", "list", "--issuer", ONE).status == 2


def test_command_about_the_node_takes_no_issuer(both):
    """A node serves all issuers of its file: serve says so rather than serve fewer."""
    result = both("serve", "--issuer", ONE)
    assert result.status == 2
    assert "about all issuers" in result.err


def test_misspelt_issuer_option_is_named(both):
    """The option is among those that every command knows."""
    assert "did you mean --issuer?" in both("users", "list", "--isuer", ONE).err


# --- docs/how-to/serve-several-issuers.md ------------------------------------------------------

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "how-to" / "serve-several-issuers.md").read_text("utf-8")
COMMANDS = re.findall(r"```console\n\$ mintmark (.*)\n((?s:.*?))```", PAGE)


def configuration() -> str:
    found = re.search(r"(?s)<!-- configuration -->\n```toml\n(.*?)```", PAGE)
    assert found is not None
    return found[1]


def test_commands_of_the_page_answer_as_it_says(cli):
    """Run one after the other beside the page's configuration, each command prints what stands below it."""
    Path("mintmark.toml").write_text(configuration())
    assert len(COMMANDS) == PAGE.count("```console") > 3
    for command, expected in COMMANDS:
        result = cli(*shlex.split(command))
        # Beside an answer standard error has the log of what was changed.
        said = result.err if result.status else result.out
        printed = [" ".join(line.split()) for line in said.splitlines()]
        wanted = [" ".join(line.split()) for line in expected.splitlines()]
        # On a busy machine a second may pass between two commands.
        printed = [re.sub(r"\b[0-9]+s ago\b", "now", line) for line in printed]
        assert len(printed) == len(wanted), result.err
        for line, pattern in zip(printed, wanted, strict=True):
            assert re.fullmatch(re.escape(pattern).replace("…", ".+"), line), line


def test_table_of_the_page_is_what_settings_take():
    """Each pair of issuers of the page is taken, or refused, as the page says."""
    rows = re.findall(r"\| `(https://\S+)` and `(https://\S+)` \| (.*) \|", PAGE)
    assert len(rows) == 5
    for one, other, said in rows:
        tables = {"issuers": [{"issuer": one}, {"issuer": other}]}
        if "refused" in said:
            with pytest.raises(ConfigurationErrors):
                read(tables, {})
        else:
            assert len(read(tables, {}).issuers) == 2


def test_page_names_the_keys_of_a_table_and_the_most_issuers():
    """What a table may have, and how many there may be, is what the code takes."""
    named = re.search(r"A table may have (.*)\. Everything", PAGE)
    assert named is not None
    assert re.findall(r"`(\w+)`", named[1]) == [key.name for key in KEYS if key.of_issuer]
    assert f"<!-- most -->{MAX_ISSUERS}<!-- /most -->" in PAGE
