"""The pages about revoking and asking about tokens: what they show is run, and prints what they say."""

import asyncio
import base64
import re
import shlex
import types
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import structlog
from tests.cli.command_line import CommandLine
from tests.http.asking import STOCK, events, own_token, revoke
from tests.http.surface import client, surface
from tests.http.test_bounds import served

HOW_TO = Path(__file__).resolve().parent.parent.parent / "docs" / "how-to"
REVOKE = (HOW_TO / "revoke-tokens.md").read_text("utf-8")
INTROSPECT = (HOW_TO / "introspect-tokens.md").read_text("utf-8")


@pytest.fixture
def cli(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[CommandLine]:
    """A folder with a client, and a user who is logged in through another."""
    monkeypatch.chdir(tmp_path)
    made = CommandLine(tmp_path, capsys, monkeypatch)
    made.ok("users", "add", "ada")
    made.ok("clients", "add", "Shop", "--client-id", "shop", "--first-party", "--audience", "orders")
    made.ok("clients", "add", "Billing", "--client-id", "billing", "--audience", "orders")
    made.add_session("ada", "shop")
    yield made
    structlog.reset_defaults()


def masked(text: str) -> str:
    """``text`` with nothing in it that depends on when it was printed, or on seconds that were rounded."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", "TIME", text)
    return re.sub(r"for \d+s:", "for SPAN:", text)


@pytest.mark.parametrize("page", [REVOKE, INTROSPECT], ids=["revoke", "introspect"])
def test_commands_print_what_the_page_says(cli, page):
    """In the order of the page; what stands below a command is the beginning of what it prints."""
    commands = 0
    for block in re.findall(r"(?s)```console\n(.*?)```", page):
        for command, said in re.findall(r"(?m)^\$ mintmark (.*)\n((?:(?!\$ ).*\n)*)", block):
            result = cli(*shlex.split(command))
            assert result.status == 0, result.err
            assert masked(result.out).startswith(masked(said)), command
            commands += 1
    assert commands == page.count("$ mintmark")


def test_pause_of_the_page_is_that_of_the_defaults(cli):
    """The number that the page shows is what a command says."""
    shown = {int(number) for number in re.findall(r"minted for (\d+)s", REVOKE)}
    assert shown == {42}
    assert cli.ok("sessions", "revoke", "--all", "--dry-run")["pause"] == 42


async def test_requests_of_the_page_revoke_what_they_send():
    """The form of a public client ends a session, the one of a service denies its token."""
    requests = dict(re.findall(r"(?s)<!-- request: (\w+) -->\n```text\n(.*?)```", REVOKE))
    async with surface() as node:
        tokens, service = await node.log_in(), await own_token(node)
        for kind, token in (("public", tokens["refresh_token"]), ("confidential", service)):
            first, *_, form = requests[kind].splitlines()
            assert first == "POST /revoke"
            assert ("Authorization: Basic" in requests[kind]) is (kind == "confidential")
            body = re.sub(r"(mmr_|eyJ)…", token, form)
            assert body != form
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            if kind == "confidential":
                headers["Authorization"] = "Basic " + base64.b64encode(":".join(STOCK).encode()).decode()
            answer = await node.http.post("/revoke", content=body, headers=headers)
            assert answer.status_code == 200
        assert [kind for kind, _ in await events(node)] == ["rid", "jti"]


async def test_code_of_the_page_tells_good_from_bad_and_from_unknown():
    """The function gives what is known, None for what is revoked or a refresh token, and raises on 503."""
    [block] = re.findall(r"(?ms)^```python\n(.*?)^```", INTROSPECT)
    page = types.ModuleType("page")
    exec(compile(block, "introspect-tokens.md", "exec"), page.__dict__)
    async with surface() as node, served(node) as port:
        await node.store.directory.add_client(
            client("orders-api", secret="s3cret-of-orders", serves=("orders",), audiences=(), grant_types=())
        )
        tokens = await node.log_in()

        async def look_up(token: str) -> dict[str, object] | None:
            issuer = f"http://127.0.0.1:{port}"
            found: dict[str, object] | None = await asyncio.to_thread(
                page.look_up, issuer, "orders-api", "s3cret-of-orders", token
            )
            return found

        known = await look_up(tokens["access_token"])
        assert known is not None
        assert known["username"] == "alice"
        assert await look_up(tokens["refresh_token"]) is None
        assert (await revoke(node, tokens["access_token"])).status_code == 200
        assert await look_up(tokens["access_token"]) is None
        await node.store.close()
        with pytest.raises(httpx2.HTTPStatusError):
            await look_up(tokens["access_token"])
        await node.store.open()
