"""What is printed, and on what."""

import io
import json

import pytest
from tests.cli.command_line import PASSWORD

from mintmark.cli.output import Output, distance, instant, table
from mintmark.core import base64url
from mintmark.core.key import KeyMode
from mintmark.units import ClientId, NumericDate

SEALED = b"the sealed half of a shared key"


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_no_command_shows_a_hash_a_sealed_half_or_a_token(shop):
    """Whatever lists, in either form, shows none of the secrets that the store holds or was given (LG2)."""
    added = shop.ok("clients", "add", "Billing", "--client-id", "billing", "--audience", "orders")
    session, token = shop.add_session("ada", "shop")
    shop.add_key("k" * 43)
    shop.change("k" * 43, mode=KeyMode.SHARED, sealed=SEALED)
    issuer = shop.settings.issuer

    async def secrets(store):
        user = await store.directory.user_named(issuer, "ada")
        client = await store.directory.client(issuer, ClientId("billing"))
        return [
            user.password_hash,
            *spelled(client.secret_hash),
            *spelled(session.sealed),
            *spelled(session.public_key),
            *spelled(SEALED),
        ]

    canaries = [PASSWORD, added["client_secret"], token, token[40:], *shop.within(secrets)]
    printed = ""
    for argv in (
        ("users", "list"), ("clients", "list"), ("keys", "list"), ("sessions", "list"),
        ("keys", "revoke", "k", "--reason", "x", "--dry-run"), ("keys", "rotate"),
        ("keys", "timeline"), ("keys", "hold", "k"), ("keys", "remove", "k"),
        ("keys", "switch", "--algorithm", "ES256"), ("keys", "release", "k"),
        ("sessions", "revoke", session.rid), ("users", "disable", "ada"), ("users", "passwd", "nobody"),
        ("keys", "revoke", "k", "--reason", "x"), ("clients", "remove", "billing"), ("users", "add", "ada"),
    ):  # fmt: skip
        for form in ((), ("--json",)):
            result = shop(*argv, *form)
            printed += result.out + result.err
    assert session.rid in printed
    assert [canary for canary in canaries if canary in printed] == []
    assert "$argon2" not in printed


def spelled(data: bytes) -> list[str]:
    """The ways in which bytes may be printed."""
    return [data.hex(), base64url.encode(data), repr(data)[2:-1]]


def test_json_is_one_document_and_nothing_else(shop):
    """Each command's JSON answer is the whole of standard output, wherever the option stands."""
    for argv in (
        ("users", "list"),
        ("clients", "list"),
        ("keys", "list"),
        ("sessions", "list"),
        ("keys", "rotate"),
        ("keys", "timeline"),
        ("keys", "switch", "--algorithm", "PS256", "--dry-run"),
    ):
        for line in ((*argv, "--json"), ("--json", *argv), (argv[0], "--json", *argv[1:])):
            assert isinstance(shop(*line).json, dict)


def test_json_is_ascii():
    """A terminal that is shown a JSON answer obeys nothing in it, the C1 controls included (LG3)."""
    out = io.StringIO()
    Output(as_json=True, stdout=out).answer({"name": "ä\u009b31m\u202e"})
    assert out.getvalue().isascii()
    assert json.loads(out.getvalue()) == {"name": "ä\u009b31m\u202e"}


def test_names_are_text_and_no_markup():
    """Square brackets, colons and escape codes in a line or a cell are what they are (LG3)."""
    out = io.StringIO()
    Output(as_json=False, stdout=out).answer({}, "[b]added[/b] \x1b[31m :smile:")
    assert out.getvalue() == "[b]added[/b] \\x1b[31m :smile:\n"
    out = io.StringIO()
    Output(as_json=False, stdout=out).answer({}, table(("[red]A",), [("[link=x]b[/link] :smile: \x1b[31m",)]))
    assert out.getvalue().splitlines()[0].rstrip() == "[red]A"
    assert out.getvalue().splitlines()[1].rstrip() == r"[link=x]b[/link] :smile: \x1b[31m"


def test_pipe_gets_whole_lines_without_color():
    """Away from a terminal a row is one line whatever its length, and holds no escape code."""
    out = io.StringIO()
    Output(as_json=False, stdout=out).answer({}, table(("A", "B"), [("x" * 300, "y" * 300)]), "z" * 300)
    assert [len(line.rstrip()) for line in out.getvalue().splitlines()] == [303, 602, 300]
    assert "\x1b" not in out.getvalue()


def test_narrow_terminal_loses_nothing(monkeypatch):
    """On a terminal of 40 columns long cells are folded, and every character is still there."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    Output(as_json=False, stdout=out).answer({}, table(("A", "B"), [("x" * 100, "y" * 100)]))
    assert (out.getvalue().count("x"), out.getvalue().count("y")) == (100, 100)


@pytest.mark.parametrize("color", [True, False])
def test_no_color_is_respected(monkeypatch, color):
    """A terminal gets colors unless NO_COLOR says otherwise."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not color:
        monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    Output(as_json=False, stderr=out).heading("NOT VERIFIED")
    assert ("[1;31m" in out.getvalue()) is color


def test_times_are_utc():
    """Instants are UTC and say so; distances say which way."""
    now = NumericDate(1_800_000_000)
    assert instant(now) == "2027-01-15 08:00:00Z"
    assert (distance(now + 60, now), distance(now - 60, now), distance(now, now)) == (
        "in 1m",
        "1m ago",
        "now",
    )
