"""Session cookies in a real browser: what a page of ours can do with a real node, and no other page can.

All pages and the node are on one host, so every cookie goes with every request that a page makes: nothing but
the check of its origin keeps a foreign one out.
"""

import contextlib
import http.server
import re
import shlex
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page
from tests.chromium import PATIENCE, chromium
from tests.cluster.running import PASSWORD, RunningNode

from mintmark.http.cookie import SessionCookie
from mintmark.units import Issuer

# A browser and a node on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "how-to"
LOG_IN_PAGE = (DOCS / "log-in-from-a-browser.md").read_text("utf-8")
SESSIONS_PAGE = (DOCS / "see-and-end-sessions.md").read_text("utf-8")
BLOCKED = "blocked"
FETCH = """
async ([method, url, body, type, mode]) => {
    const options = {method, mode, credentials: "include", headers: {}};
    if (body !== null) { options.body = body; options.headers["Content-Type"] = type; }
    let answer;
    try { answer = await fetch(url, options); } catch { return ["blocked", null]; }
    const text = await answer.text();
    return [answer.status, text ? JSON.parse(text) : null];
}
"""


class BlankPage(http.server.BaseHTTPRequestHandler):
    """An empty page, whatever was asked for."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>page</title>")

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def page_server() -> Iterator[str]:
    """The origin of a web site with blank pages."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), BlankPage) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Site:
    """A running node, and the origins of the page that may and of one that may not."""

    node: RunningNode
    app: str
    evil: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A node with the user ada and the client ``web`` as the documentation adds it, with pages at ``app``."""
    node = RunningNode(tmp_path_factory.mktemp("browser"))
    try:
        with page_server() as app, page_server() as evil:
            node.add_user_and_client()
            [command] = re.findall(r"\n\$ mintmark (clients add .*)\n", LOG_IN_PAGE)
            node.add(*shlex.split(command.replace("https://app.example.com", app)))
            node.start().until_ready()
            yield Site(node, app, evil)
    finally:
        node.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests here; each has contexts of its own, which share no cookies."""
    with chromium() as running:
        yield running


@dataclass
class Tab:
    """A tab at a page, and the node that its script talks to."""

    page: Page
    url: str

    def fetch(self, method: str, path: str, body: str | None = None, **how: str) -> tuple[Any, Any]:
        """The status and the JSON that the page's script got; BLOCKED where the browser kept it from it."""
        kind, mode = how.get("type", "application/json"), how.get("mode", "cors")
        status, answer = self.page.evaluate(FETCH, [method, self.url + path, body, kind, mode])
        return status, answer

    def log_in(self) -> dict[str, Any]:
        """What the log-in answered, the refresh token being in the cookie."""
        body = f'{{"username": "ada", "password": "{PASSWORD}", "client_id": "web", "cookie": true}}'
        status, answer = self.fetch("POST", "/v1/sessions", body)
        assert status == 201, answer
        return dict(answer)

    def refresh(self) -> tuple[Any, Any]:
        return self.fetch("POST", "/v1/sessions/refresh", '{"cookie": true, "client_id": "web"}')

    def sessions(self) -> list[dict[str, Any]]:
        status, answer = self.fetch("GET", "/v1/sessions")
        assert status == 200, answer
        return list(answer["sessions"])


def tab_at(context: BrowserContext, origin: str, node: RunningNode) -> Tab:
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(origin + "/")
    return Tab(page, node.url)


def kept(context: BrowserContext, node: RunningNode) -> list[str]:
    """The values of the node's cookie that the browser has for its host."""
    wanted = (SessionCookie(Issuer(node.url)).name, "127.0.0.1")
    cookies = context.cookies()
    return [str(one.get("value")) for one in cookies if (one.get("name"), one.get("domain")) == wanted]


def test_page_logs_in_refreshes_lists_ends_and_logs_out(site: Site, browser: Browser):
    """With two tabs and a second browser, and no script ever sees the refresh token (RV1, RV2).

    Chromium takes the __Host- cookie from http on this machine, which is what people develop on (CK1).
    """
    node = site.node
    with browser.new_context() as here, browser.new_context() as there:
        one = tab_at(here, site.app, node)
        session = one.log_in()
        assert "refresh_token" not in session
        [first] = kept(here, node)
        assert one.page.evaluate("document.cookie") == ""

        # Two tabs in one moment: both go on, with one successor.
        other = tab_at(here, site.app, node)
        for tab in (one, other):
            asked = [
                "POST", node.url + "/v1/sessions/refresh", '{"cookie": true, "client_id": "web"}',
                "application/json", "cors",
            ]  # fmt: skip
            tab.page.evaluate(f"asked => {{ window.asked = ({FETCH})(asked); }}", asked)
        answers = [tab.page.evaluate("window.asked") for tab in (one, other)]
        assert [status for status, _ in answers] == [200, 200]
        [second] = kept(here, node)
        assert second != first
        assert one.refresh()[0] == other.refresh()[0] == 200

        # Where am I logged in?
        elsewhere = tab_at(there, site.app, node)
        away = elsewhere.log_in()
        listed = {row["rid"]: row for row in one.sessions()}
        assert listed[session["rid"]]["current"] is True
        assert listed[away["rid"]]["current"] is False
        assert {row["address"] for row in listed.values()} == {"127.0.0.1"}
        assert all("Chrome/" in row["device"] for row in listed.values())

        # End the others: the other browser is out, and forgets its cookie.
        assert one.fetch("DELETE", "/v1/sessions?keep=current") == (200, {"ended": 1})
        status, problem = elsewhere.refresh()
        assert (status, problem["code"]) == (400, "invalid_grant")
        assert kept(there, node) == []
        assert [row["rid"] for row in one.sessions()] == [session["rid"]]

        # Log out: in both tabs, and for whoever kept the cookie.
        [last] = kept(here, node)
        assert one.fetch("DELETE", "/v1/sessions/current") == (204, None)
        assert kept(here, node) == []
        assert (other.refresh()[0], other.fetch("GET", "/v1/sessions")[0]) == (401, 401)
        headers = {"Origin": site.app, "Cookie": f"{SessionCookie(Issuer(node.url)).name}={last}"}
        refused = node.http.post(
            "/v1/sessions/refresh", json={"cookie": True, "client_id": "web"}, headers=headers
        )
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_grant")
    assert not node.events("session.stolen")


def test_foreign_page_can_do_none_of_it(site: Site, browser: Browser):
    """Another origin's page reads and changes nothing, by fetch, blind fetch or form (CK4, JM5)."""
    node = site.node
    with browser.new_context() as context:
        ours = tab_at(context, site.app, node)
        session = ours.log_in()
        before = kept(context, node)
        # The second one is another site to the browser, which keeps the cookie to itself then.
        there = site.evil.replace("127.0.0.1", "localhost")
        for origin, refusal in ((site.evil, "origin_refused"), (there, "unsupported_media_type")):
            foreign = tab_at(context, origin, node)
            for method, path in (
                ("POST", "/v1/sessions"),
                ("POST", "/v1/sessions/refresh"),
                ("GET", "/v1/sessions"),
                ("DELETE", "/v1/sessions"),
                ("DELETE", "/v1/sessions?keep=current"),
                ("DELETE", f"/v1/sessions/{session['rid']}"),
                ("DELETE", "/v1/sessions/current"),
            ):
                body = '{"cookie": true, "client_id": "web"}' if method == "POST" else None
                assert foreign.fetch(method, path, body) == (BLOCKED, None), (origin, path)
                # As text no preflight asks first: the node itself has to refuse it.
                assert foreign.fetch(method, path, body, type="text/plain") == (BLOCKED, None)
            # Sent without being able to read the answer.
            body = '{"cookie": true, "client_id": "web"}'
            foreign.fetch("POST", "/v1/sessions/refresh", body, type="text/plain", mode="no-cors")
            # A form that looks like JSON, and whose answer takes the tab over.
            with foreign.page.expect_navigation():
                foreign.page.evaluate(
                    """url => {
                        const form = document.createElement("form");
                        form.method = "POST"; form.action = url; form.enctype = "text/plain";
                        const field = document.createElement("input");
                        field.name = '{"cookie": true, "client_id": "web", "scope": "'; field.value = '"}';
                        form.append(field); document.body.append(form); form.submit();
                    }""",
                    node.url + "/v1/sessions/refresh",
                )
            assert refusal in foreign.page.inner_text("body")
            # A script of a neighbour on this host cannot write over the cookie either.
            foreign.page.goto(origin + "/")
            name = SessionCookie(Issuer(node.url)).name
            foreign.page.evaluate(f"document.cookie = '{name}=planted; Path=/; Secure'")
            assert kept(context, node) == before
        assert [row["rid"] for row in ours.sessions()] == [session["rid"]]
        assert ours.refresh()[0] == 200
        assert ours.fetch("DELETE", "/v1/sessions/current")[0] == 204


def script_of(page: str, name: str) -> str:
    """The script that a page of the documentation shows between the marks ``name``."""
    found = re.search(rf"(?s)<!-- {name} -->\n```js\n(.*?)```\n<!-- /{name} -->", page)
    assert found is not None, name
    return found[1]


def test_scripts_of_the_documentation_do_what_they_say(site: Site, browser: Browser):
    """A page with just these scripts logs in, refreshes, shows its sessions, ends others and logs out."""
    script = script_of(LOG_IN_PAGE, "session") + script_of(SESSIONS_PAGE, "sessions")
    with browser.new_context() as here, browser.new_context() as there:
        pages = [tab_at(context, site.app, site.node).page for context in (here, there)]
        for page in pages:
            page.add_script_tag(content=script.replace("https://auth.example.com", site.node.url))
            assert page.evaluate("refresh()") is False
            assert page.evaluate("logIn('ada', 'wrong')") is False
            assert page.evaluate(f"logIn('ada', '{PASSWORD}')") is True
            assert page.evaluate("refresh()") is True
            assert page.evaluate("accessToken.split('.').length") == 3
        one, other = pages
        listed = one.evaluate("sessions()")
        assert [row["current"] for row in listed].count(True) == 1
        assert one.evaluate("sessions().then(all => shown(all[0]).textContent)").startswith("Mozilla/5.0")
        away = next(row["rid"] for row in listed if not row["current"])
        one.evaluate(f"endSession('{away}')")
        assert other.evaluate("refresh()") is False
        assert one.evaluate("endOthers()") == 0
        one.evaluate("logOut()")
        assert one.evaluate("refresh()") is False
        one.evaluate("logOut()")
