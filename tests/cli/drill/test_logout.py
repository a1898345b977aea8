"""``mintmark drill logout``, on a node that runs and on none."""

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.running import RunningNode, running_node, until

from mintmark.cli.app import app
from mintmark.cli.demonstration.loopback import free_ports
from mintmark.cli.drill.guest import PREFIX
from mintmark.cli.status import Status
from mintmark.node.store import open_store
from mintmark.server.settings import load

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "drill-a-logout.md").read_text("utf-8")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node that is ready, with a user and a client of its own, and a feed for holders of a token."""
    folder = tmp_path_factory.mktemp("node")
    secret = folder / "feed.token"
    secret.write_text("a-token-that-32-random-bytes-would-make\n")
    with running_node(folder, settings={"feed_token": f"file:{secret}"}) as running:
        yield running


def listing(node: RunningNode) -> dict[str, list[str]]:
    """The clients, users and live sessions of the node's store."""
    settings = load(node.config, {})

    async def read() -> dict[str, list[str]]:
        async with open_store(settings) as store:
            sessions = await store.sessions.list(settings.issuer)
            return {
                "clients": [one.client_id for one in await store.directory.clients(settings.issuer)],
                "users": [one.username for one in await store.directory.users(settings.issuer)],
                "sessions": [f"{one.rid} of {one.client_id}" for one in sessions],
            }

    return asyncio.run(read())


@pytest.mark.slow
def test_a_running_node_is_measured_and_left_as_it_was(node):
    """Every figure is there, the target is judged, nothing secret is printed, and nothing stays behind."""
    before = listing(node)
    text = node.run("--json", *command_of("few"), "--patience", "120s", "--within", "100s")
    found = json.loads(text)
    assert (found["issuer"], found["verifiers"], found["processes"]) == (node.issuer, 3, 3)
    assert (found["logouts"], found["every_ms"], found["within_ms"], found["met"]) == (2, 10, 100_000, True)
    for name in ("last_acceptance_ms", "each_verifier_ms", "refused_ms", "logout_ms", "idle_wakeup_ms"):
        assert 0 <= found[name]["p50"] <= found[name]["p99"] <= found[name]["max"]
    # A verifier refuses only after it last accepted.
    assert found["refused_ms"]["max"] >= found["last_acceptance_ms"]["max"]
    assert "eyJ" not in text
    assert "password" not in text
    assert listing(node) == before


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(node):
    """Interrupted among its logouts, a drill ends with 130, and its user, client and sessions are gone."""
    drill = subprocess.Popen(
        node.command("drill", "logout", "--verifiers", "1", "--logouts", "10000", "--every", "50ms"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=node.folder,
    )
    try:
        begun = lambda: any(PREFIX in one for one in listing(node)["sessions"])  # noqa: E731
        until(begun, "the drill has logged somebody in", patience=120)
        drill.send_signal(signal.SIGINT)
        # A second one changes nothing.
        drill.send_signal(signal.SIGINT)
        out, err = drill.communicate(timeout=120)
    finally:
        drill.kill()
        drill.wait()
    assert drill.returncode == Status.INTERRUPTED, err
    assert (out, b"Traceback" in err) == (b"", False)
    assert not any(PREFIX in one for some in listing(node).values() for one in some)


def test_a_drill_that_fails_leaves_nothing_behind(cli):
    """Where no node answers it says so in one line, and its user and its client are gone."""
    (port,) = free_ports(1)
    Path("mintmark.toml").write_text(f'issuer = "http://127.0.0.1:{port}"\n')
    cli.ok("users", "add", "ada")
    cli.ok("clients", "add", "Shop", "--public", "--first-party", "--audience", "orders")
    before = {name: cli.ok(name, "list") for name in ("users", "clients")}
    failed = cli("drill", "logout", "--verifiers", "1", "--logouts", "1", "--patience", "1s")
    assert failed.status == Status.FAILED
    assert "verifiers that have read keys and revocations" in failed.lines[-1]
    assert {name: cli.ok(name, "list") for name in ("users", "clients")} == before


@pytest.mark.parametrize(
    "option",
    [
        ("--verifiers", "0"),
        ("--verifiers", "201"),
        ("--logouts", "0"),
        ("--logouts", "10001"),
        ("--every", "1ms"),
        ("--every", "2s"),
        ("--every", "5"),
        ("--within", "0s"),
        ("--within", "1m"),
        ("--patience", "soon"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_done(cli, option):
    """A number or a span that is none, or out of bounds, is one line that names it; nothing is opened."""
    refused = cli("drill", "logout", *option)
    assert refused.status == Status.MISUSED
    assert len(refused.lines) == 1
    assert option[0] in refused.err
    assert list(Path().iterdir()) == []


def command_of(name: str) -> list[str]:
    """The words of the command between the marks ``name`` of the page, without the program's."""
    found = re.search(rf"<!-- {name} -->\n```console\n\$ mintmark (.*)\n```\n<!-- /{name} -->", PAGE)
    assert found is not None, name
    return found[1].split()


def test_the_commands_of_the_page_can_be_typed():
    """Each is a command with options that exist and values that they take; one of them is run above."""
    for name in ("few", "whole"):
        command, _, _ = app.parse_args(command_of(name), exit_on_error=False, print_error=False)
        assert command.__name__ == "logout"
