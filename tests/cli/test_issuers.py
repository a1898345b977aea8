"""Commands where several issuers are configured: each is about the one that it names."""

from pathlib import Path

import pytest
from tests.cli.command_line import PASSWORD, CommandLine

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
