"""The page about emergencies: its commands are run in their order, and print what it says."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from tests.cli.command_line import CommandLine

from mintmark.cli.timeline import draw
from mintmark.core.key import Activation, Key, KeyMode, KeyState
from mintmark.core.keyring import Member, Ring
from mintmark.core.timing import Timing
from mintmark.ports.keyring import RingView
from mintmark.units import Issuer, Kid, NodeId, NumericDate

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "how-to" / "replace-keys-in-an-emergency.md"
TEXT = PAGE.read_text("utf-8")
STOLEN = "f3Kqj2aYd0mVbP7sUeR5nLw8tZxC1oGhI4uJy6kQvTM"
FORMER = "m9XtB4cWq1LrZ8vNsD2yKp6hAe0fTjGu5iOo3xYkSJM"


@pytest.fixture
def cli(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[CommandLine]:
    """A folder with the keys of the page, whose node lives for as long as the test takes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mintmark.core.keyring.LIVE_FOR", 3600)
    made = CommandLine(tmp_path, capsys, monkeypatch)
    made.add_key(FORMER, node="node-1")
    made.add_key(STOLEN, node="node-1")
    made.add_key("aV5kT8pRb3", node="node-2")
    made.beat("node-1", modes=frozenset(KeyMode))
    yield made
    structlog.reset_defaults()


def masked(text: str) -> str:
    """``text`` with nothing in it that depends on when it was printed."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", "TIME", text)
    text = re.sub(r"(in|of|ago|most|within|for) \d+[dhms]( \d+[dhms])?", r"\1 SPAN", text)
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def test_commands_of_the_page_print_what_it_says(cli):
    """In the order of the page; a command without output there may print anything, and must succeed."""
    blocks = re.findall(r"(?s)(<!-- refused -->\n)?```console\n(.*?)```", TEXT)
    assert len(blocks) == 7
    for refused, block in blocks:
        for command, said in re.findall(r"(?m)^\$ mintmark (.*)\n((?:(?!\$ ).*\n)*)", block):
            result = cli(*shlex.split(command))
            assert result.status == (1 if refused else 0), result.err
            if said:
                assert masked(result.err if refused else result.out) == masked(said), command


def test_lifetimes_of_the_page_are_those_of_the_defaults(cli):
    """What is not a point in time is compared to the letter: leads, leases and caches."""
    out = cli("keys", "revoke", STOLEN, "--reason", "x").out + cli("keys", "rotate").out
    for line in out.splitlines()[1:4] + out.splitlines()[5:]:
        assert line in TEXT


def test_every_command_of_the_table_is_shown():
    """Whatever the table names is run on the page."""
    named = set(re.findall(r"`keys (\w+)`", TEXT))
    run = set(re.findall(r"(?m)^\$ mintmark keys (\w+)", TEXT))
    assert named <= run


def picture() -> str:
    """Own keys of two nodes, the last of one that is gone, on the way to a key of the cluster."""
    now, timing = NumericDate(1_800_000_000), Timing()

    def key(kid: str, node: str, state: KeyState, began: int, **changes: object) -> Key:
        signs = NumericDate(now + began + timing.lead)
        made = Key(
            kid=Kid(kid),
            node=NodeId(node),
            alg="RS256",
            jwk=b"{}",
            state=state,
            since=1,
            prepared_at=NumericDate(now + began),
            lease_until=NumericDate(now + 90),
            proven_at=NumericDate(now + began),
            activated_at=signs,
            activation=Activation.PROVEN,
            sign_until=NumericDate(signs + timing.rotate_every),
            publish_until=timing.covered_until(NumericDate(now + 90)),
        )
        return replace(made, **changes)  # type: ignore[arg-type]

    ended = NumericDate(now - 1200)
    keys = (
        key(FORMER, "node-1", KeyState.PASSIVE, -15_300, publish_until=timing.covered_until(ended)),
        key(STOLEN, "node-1", KeyState.ACTIVE, -2_400),
        key("Qe7uH2vKx0", "node-2", KeyState.PASSIVE, -9_000, lease_until=ended, held=True),
        key("aV5kT8pRb3", "node-3", KeyState.REVOKED, -6_000, revoked_at=NumericDate(now - 2_700)),
        key(
            "Zw1nC6dYs4",
            "node-1",
            KeyState.PREPARED,
            -420,
            mode=KeyMode.SHARED,
            activated_at=None,
            alg="ES256",
        ),
    )
    members = (Member(NodeId("node-1"), now, 1),)
    view = RingView(Ring(issuer=Issuer("https://auth.example.com"), keys=keys), members, now)
    return "".join(f"{line.plain.rstrip()}\n" for line in draw(view, timing, width=80))


def test_picture_of_the_page_is_drawn_by_the_code():
    """To the column."""
    found = re.search(r"(?s)<!-- picture -->\n```text\n(.*?)```\n<!-- /picture -->", TEXT)
    assert found is not None
    assert found[1] == picture()
