"""docs/reference/http.md says what is so: its examples run, and its tables are those of the code."""

import json
import re
import shlex
from pathlib import Path

import httpx2
import pytest
from starlette.routing import Route
from tests.http.asking import own_token
from tests.http.browser import add_web_clients, browser_at
from tests.http.surface import PASSWORD, SECRET, Surface, password_hash, user

from mintmark.core.revocation import Kind
from mintmark.errors import OAuthError
from mintmark.http import stream
from mintmark.http.cookie import SessionCookie
from mintmark.http.endpoint import ANSWER_WITHIN
from mintmark.http.guard import MAX_HEADER_BYTES, MAX_URL
from mintmark.http.protocol import HEAD_WITHIN
from mintmark.http.refusal import HttpRefusal
from mintmark.http.request import BODY_WITHIN, MAX_BODY
from mintmark.server.health import Reason

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "reference" / "http.md").read_text("utf-8")
EXAMPLES = re.findall(r"```console\n\$ (curl .*)\n(\d+)\n(?:(.*)\n)?```", PAGE)
ANYTHING = "…"


def test_every_example_is_found():
    """No block of the page escapes the test of the examples."""
    assert len(EXAMPLES) == PAGE.count("```console") == PAGE.count("$ curl")


async def call(node: Surface, command: str, variables: dict[str, str]) -> httpx2.Response:
    """What the curl command of an example is answered."""
    for name, value in variables.items():
        command = command.replace(f"${name}", value)
    arguments = iter(shlex.split(command)[1:])
    method, url, headers, fields, auth = None, "", {}, [], None
    for argument in arguments:
        match argument:
            case "-X":
                method = next(arguments)
            case "-H":
                name, _, value = next(arguments).partition(": ")
                headers[name] = value
            case "-d":
                fields.append(next(arguments))
            case "-u":
                name, _, value = next(arguments).partition(":")
                auth = (name, value)
            case _:
                url = argument
    if fields:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    return await node.http.request(
        method or ("POST" if fields else "GET"),
        url,
        headers=headers,
        content="&".join(fields) if fields else None,
        auth=auth,
    )


def matches(expected: object, found: object) -> bool:
    """Whether ``found`` is as the page says; an ellipsis stands for any value."""
    match expected:
        case dict():
            return (
                isinstance(found, dict)
                and list(expected) == list(found)
                and all(matches(expected[name], found[name]) for name in expected)
            )
        case list():
            return (
                isinstance(found, list)
                and len(expected) == len(found)
                and all(matches(*pair) for pair in zip(expected, found, strict=True))
            )
        case _:
            return expected in (ANYTHING, found)


@pytest.mark.parametrize(("command", "status", "body"), EXAMPLES)
async def test_example_is_answered_as_the_page_says(node: Surface, command, status, body):
    """Each command has the status and the JSON that stand below it, members in this order."""
    gone = await node.log_in()
    await node.log_out(gone["access_token"])
    tokens = await node.log_in()
    for_us = (await node.refresh(tokens["refresh_token"], audience=node.issuer)).json()
    await add_web_clients(node)
    # Of another user, so that the list of this one stays as the page has it.
    await node.store.directory.add_user(user(password_hash(), name="bob"))
    async with browser_at(node) as browser:
        await browser.log_in(username="bob")
    answer = await call(
        node,
        command,
        {
            "SECRET": SECRET,
            "PASSWORD": PASSWORD,
            "REFRESH_TOKEN": tokens["refresh_token"],
            "ACCESS_TOKEN": tokens["access_token"],
            "ISSUER_TOKEN": for_us["access_token"],
            "COOKIE": f"{SessionCookie(node.issuer).name}={browser.cookie}",
            "SERVICE_TOKEN": await own_token(node),
        },
    )
    assert answer.status_code == int(status), answer.text
    assert matches(json.loads(body), answer.json()) if body else not answer.content, answer.text


def column(heading: str) -> list[str]:
    """The code words in the first column of the table that begins with ``heading``."""
    table = PAGE[PAGE.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    return [word for row in table for word in re.findall(r"`([^`]+)`", row.split("|")[1])]


async def test_every_path_is_listed(node: Surface):
    """The table of paths has every route of the application, and no other."""
    routes = {route.path for route in node.app.routes if isinstance(route, Route)}
    listed = set(column("path"))
    # The forms of an issuer with a path are told in words.
    assert routes - {"/.well-known/openid-configuration/tenant"} == listed


def test_every_refusal_kind_and_reason_is_listed():
    """The tables of codes, of kinds and of reasons are complete."""
    codes = {refusal.code for refusal in HttpRefusal.__subclasses__()}
    codes |= {error.error for error in OAuthError.__subclasses__()}
    assert codes <= set(column("code"))
    assert set(column("kind")) == {kind.value for kind in Kind}
    assert set(column("reason")) == {reason.value for reason in Reason}


def test_numbers_of_the_page_are_those_of_the_code():
    """What the page promises about sizes and times is what is enforced."""
    assert f"at most {MAX_BODY // 1024} KiB and {BODY_WITHIN:.0f} seconds to arrive" in PAGE
    assert f"headers {MAX_HEADER_BYTES // 1024} KiB and {HEAD_WITHIN:.0f} seconds" in PAGE
    assert f"URLs {MAX_URL // 1024} KiB" in PAGE
    assert f"longer than {ANSWER_WITHIN:.0f} seconds" in PAGE
    assert f"every {stream.HEARTBEAT:.0f} s" in PAGE
