"""The page about back-channel logout: its commands and its code run, its numbers are the code's."""

import re
import shlex
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import structlog
from tests.cli.command_line import CommandLine
from tests.server.relying import world

from mintmark.core.logout_token import LIFETIME
from mintmark.ports.outbox import GIVEN_UP_AFTER
from mintmark.server.backchannel import CLAIM, LONGEST_PAUSE
from mintmark.system import SYSTEM_CLOCK
from mintmark.testing.clock import FakeClock
from mintmark.testing.origin import Origin, Reply

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "back-channel-logout.md").read_text("utf-8")


@pytest.fixture
def cli(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[CommandLine]:
    monkeypatch.chdir(tmp_path)
    yield CommandLine(tmp_path, capsys, monkeypatch)
    structlog.reset_defaults()


def test_commands_print_what_the_page_says(cli):
    """In the order of the page; what stands below a command is the beginning of what it prints."""
    commands = re.findall(r"(?m)^\$ mintmark (.*)\n(.*)\n```", PAGE)
    assert len(commands) == PAGE.count("$ mintmark")
    for command, said in commands:
        result = cli(*shlex.split(command))
        assert result.status == 0, result.err
        assert result.out.startswith(said), command


async def test_code_takes_logout_tokens_and_nothing_else(monkeypatch):
    """RV5, TC3: the session of a logout token comes out, and an access token of the same client does not
    pass, nor one for another client."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with world(clock=FakeClock(int(time.time()) - 30)) as w:
        shop, till = await w.party("shop"), await w.party("till")
        w.teller().start()
        (rid,) = await w.ended(shop, 1)
        await w.ended(till, 1)
        await w.until(lambda: shop.taken and till.taken, span=5)
        access_token = (await w.log_in(shop, audience="orders"))["access_token"]
        jwks = (await w.node.http.get("/.well-known/jwks.json")).content
    served = Origin(routes={"/jwks.json": "jwks"}, answer=lambda *_: Reply(body=jwks), clock=SYSTEM_CLOCK)
    served.start()
    try:
        code = types.SimpleNamespace(**_run(f"http://127.0.0.1:{served.port}/jwks.json"))
        assert code.ended_session(shop.taken[0]) == rid
        for wrong in (access_token, till.taken[0], shop.taken[0][:-4] + "AAAA", "x"):
            with pytest.raises(jwt.PyJWTError):
                code.ended_session(wrong)
    finally:
        served.close()


def _run(jwks_uri: str) -> dict[str, Any]:
    """The page's code, with the keys at ``jwks_uri``."""
    (block,) = re.findall(r"(?ms)^```python\n(.*?)^```", PAGE)
    namespace: dict[str, Any] = {}
    exec(block.replace("https://auth.example.com/.well-known/jwks.json", jwks_uri), namespace)
    return namespace


def test_numbers_of_the_page_are_the_codes():
    """How long notices are kept, claims last and tokens live is written here as the code has it."""
    assert f"leaves the notice to another one, {CLAIM} seconds later" in PAGE
    assert ("For three days" in PAGE, GIVEN_UP_AFTER) == (True, 3 * 86_400)
    assert ("up to an hour" in PAGE, LONGEST_PAUSE) == (True, 3_600)
    assert ("good for two minutes" in PAGE, LIFETIME) == (True, 120)
