"""/v1/sessions for browsers: the cookie, who may use it, and who may read the answers. Attacks first."""

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx2
import pytest
from tests.http.browser import APP, OTHER, UNSAFE, Browser, add_web_clients, browser_at
from tests.http.surface import ALICE, ISSUER, PASSWORD, Surface, client, password_hash, surface, user

from mintmark.core.sessions import PREFIX, Session
from mintmark.http.cookie import SessionCookie
from mintmark.http.dispatch import Dispatcher
from mintmark.server.audit import Audit
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults
from mintmark.units import Issuer, NumericDate, Rid

NAME: Final = SessionCookie(ISSUER).name
EVIL: Final = "https://evil.example.com"
"""A page on a sibling domain: of the same site, so its requests carry the cookie."""
FOREIGN: Final[tuple[str | bytes, ...]] = (
    EVIL,
    OTHER,
    "null",
    "",
    "https://app.example.com.evil.example",
    "https://evil-app.example.com",
    "https://app.example.com:8443",
    "https://app.example.com:443",
    "http://app.example.com",
    "https://APP.example.com",
    "https://app.example.com/",
    "https://app.example.com ,https://evil.example.com",
    "https://app.example.com\t",
    "https://app.example.com.",
    "https://xn--app-example.com",
    b"https://\xd0\xb0pp.example.com",
    "https://auth.example.com:443",
    "https://auth.example.com/",
    "http://auth.example.com",
    "*",
)


@pytest.fixture
async def browser(node: Surface) -> AsyncIterator[Browser]:
    """A browser at the page of the client ``web``."""
    await add_web_clients(node)
    async with browser_at(node) as made:
        yield made


async def row(node: Surface, rid: str) -> Session:
    found = (await node.store.sessions.read(node.issuer, Rid(rid))).session
    assert found is not None
    return found


def set_cookies(answer: httpx2.Response) -> list[str]:
    return answer.headers.get_list("set-cookie")


def is_cleared(answer: httpx2.Response) -> bool:
    """Whether the answer makes a browser forget the cookie."""
    return any(f"{NAME}=; Max-Age=0; Path=/; Secure" in header for header in set_cookies(answer))


def pass_time(node: Surface, span: int) -> None:
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(span)


# --- foreign pages ---------------------------------------------------------------------------------


async def test_foreign_page_changes_nothing_with_the_cookie(node: Surface, browser: Browser):
    """A page that is not the session's client's gets 403 from each unsafe request, and all stays as it was.

    CK4: `null`, look-alikes, other schemes, ports and spellings are foreign, and so is another client's page.
    """
    await browser.log_in()
    before, cookie = await row(node, browser.rid), browser.cookie
    bodies: list[dict[str, Any]] = [
        {},
        {"json": {"cookie": True, "client_id": "web"}},
        {"json": {"cookie": True, "client_id": "other-web"}},
        {"content": b"\xff", "headers": {"Content-Type": "text/plain"}},
    ]
    for origin, (method, path), body in itertools.product(FOREIGN, UNSAFE, bodies):
        if (origin, method, path) == (OTHER, "POST", "/v1/sessions"):
            continue  # A log-in at the page of a client of its own.
        headers = {"Origin": origin} | body.get("headers", {})
        answer = await browser.fetch(method, path, **{**body, "headers": headers})
        assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused"), (method, path, origin)
        assert not set_cookies(answer)
    assert await row(node, browser.rid) == before
    assert browser.cookie == cookie
    assert (await browser.refresh()).status_code == 200


async def test_foreign_page_reads_no_sessions(browser: Browser):
    """GET with the cookie is 403 for a foreign page, and for a link that somebody followed (CK4)."""
    await browser.log_in()
    for headers in ({"Origin": EVIL}, {"Origin": "null"}, {"Sec-Fetch-Site": "none"}, {}):
        answer = await browser.http.get(ISSUER + "/v1/sessions", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")


async def test_request_that_names_no_page_is_refused(browser: Browser):
    """Neither one Origin nor Sec-Fetch-Site alone says it is ours: 403, whatever Referer says (CK4)."""
    await browser.log_in()
    named: list[list[tuple[str, str]]] = [
        [],
        [("Sec-Fetch-Site", "same-site")],
        [("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "none")],
        [("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")],
        [("Origin", EVIL), ("Sec-Fetch-Site", "same-origin")],
        [("Origin", APP), ("Origin", EVIL)],
        [("Origin", APP), ("Origin", APP)],
        [("Referer", APP + "/page")],
    ]
    for headers in named:
        answer = await browser.http.delete(ISSUER + "/v1/sessions/current", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused"), headers
    assert (await browser.refresh()).status_code == 200


async def test_own_origin_needs_no_entry_anywhere(browser: Browser):
    """A page of the issuer's own origin may use the cookie, and a GET of it says so without Origin."""
    browser.origin = ISSUER
    assert (await browser.log_in()).status_code == 201
    assert (await browser.refresh(origin=ISSUER)).status_code == 200
    same = await browser.http.get(ISSUER + "/v1/sessions", headers={"Sec-Fetch-Site": "same-origin"})
    assert (same.status_code, same.json()["sessions"][0]["current"]) == (200, True)


async def test_form_is_no_json_on_the_right_page_either(browser: Browser):
    """What a form can send is 415, whatever its origin: only a script that was let in sends JSON (CK4)."""
    await browser.log_in()
    cookie = browser.cookie
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = await browser.fetch(
            "POST",
            "/v1/sessions/refresh",
            content=json.dumps({"cookie": True, "client_id": "web"}),
            headers={"Content-Type": media_type},
        )
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert browser.cookie == cookie


async def test_foreign_page_logs_nobody_in(node: Surface, browser: Browser):
    """With the right password, too: the next thing that its reader does would be done as somebody else."""
    body = {"username": "alice", "password": PASSWORD, "client_id": "web", "cookie": True}
    for origin in FOREIGN:
        answer = await browser.fetch("POST", "/v1/sessions", headers={"Origin": origin}, json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")
        assert not set_cookies(answer)
    assert await node.store.sessions.list(node.issuer, sub=ALICE) == ()


async def test_log_in_for_the_cookie_needs_a_page(browser: Browser):
    """A program that is no page gets its refresh token in the answer, or not at all."""
    body = {"username": "alice", "password": PASSWORD, "client_id": "web", "cookie": True}
    answer = await browser.http.post(ISSUER + "/v1/sessions", json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")


async def test_page_of_a_removed_client_may_nothing_more(node: Surface, browser: Browser):
    """What the administrator takes back is taken back at once: the client is read with each request."""
    await browser.log_in()
    await node.store.directory.remove_client(
        node.issuer, client("web").client_id, timing=node.services.timing
    )
    pass_time(node, 2)
    assert (await browser.refresh()).status_code == 403


# --- the cookie ------------------------------------------------------------------------------------


async def test_cookie_is_host_bound_and_out_of_reach_of_scripts(node: Surface, browser: Browser):
    """CK1: __Host-, Secure, HttpOnly, SameSite, Path=/ and no Domain, for the life of the session at most.

    So no sibling's domain and no plain http can plant one; it has fewer than 4096 bytes. The JSON holds no
    refresh token.
    """
    answer = await browser.log_in()
    assert answer.status_code == 201
    assert set(answer.json()) == {"access_token", "token_type", "expires_in", "scope", "rid"}
    [header] = set_cookies(answer)
    pair, *attributes = header.split("; ")
    name, _, value = pair.partition("=")
    assert name.startswith("__Host-")
    assert set(attributes) == {
        f"Max-Age={node.services.timing.session_idle}", "Path=/", "Secure", "HttpOnly", "SameSite=Strict",
    }  # fmt: skip
    assert value.startswith(PREFIX)
    assert len(header) < 4096
    assert (answer.headers["cache-control"], answer.headers["vary"]) == ("no-store", "Origin")


async def test_cookie_lasts_no_longer_than_its_session(node: Surface, browser: Browser):
    """Idle and absolute life bound Max-Age, whichever ends first (CK3)."""
    await browser.log_in()
    timing, lived = node.services.timing, 0
    for span in (timing.session_idle - 60, timing.session_idle - 60, 3_600):
        pass_time(node, span)
        lived += span
        await node.extend(node.kid)
        await node.services.ring.refresh()
        answer = await browser.refresh()
        if answer.status_code != 200:
            break
        left = min(timing.session_idle, timing.session_ttl - lived)
        assert f"; Max-Age={left};" in set_cookies(answer)[0]


async def test_every_answer_sets_the_cookie_anew(node: Surface, browser: Browser):
    """F26: the parent within its grace is answered with the newest token in the cookie, not with nothing."""
    await browser.log_in()
    parent = browser.cookie
    assert parent is not None
    assert (await browser.refresh()).status_code == 200
    newest = browser.cookie
    assert newest not in (None, parent)
    for presented in (parent, newest, parent):
        assert presented is not None
        browser.cookie = presented
        answer = await browser.refresh()
        assert answer.status_code == 200
        assert [header.partition(";")[0] for header in set_cookies(answer)] == [f"{NAME}={newest}"]
        assert "refresh_token" not in answer.json()
        assert browser.cookie == newest


async def test_two_tabs_in_the_same_moment_stay_logged_in(browser: Browser):
    """F26: whichever answer comes last, the browser has the one successor."""
    await browser.log_in()
    answers = await asyncio.gather(*(browser.refresh() for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({set_cookies(answer)[0].partition(";")[0] for answer in answers}) == 1


async def test_spent_cookie_ends_the_session_and_is_forgotten(node: Surface, browser: Browser):
    """RF2: theft is theft in a cookie, too; the answer has the browser forget it."""
    await browser.log_in()
    spent = browser.cookie
    assert spent is not None
    for _ in range(2):
        assert (await browser.refresh()).status_code == 200
        pass_time(node, node.services.timing.refresh_grace + 1)
        await node.services.ring.refresh()
    browser.cookie = spent
    answer = await browser.refresh()
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_grant")
    assert is_cleared(answer)
    assert browser.cookie is None
    assert (await row(node, browser.rid)).end_cause == "theft"


async def test_failure_of_ours_leaves_the_cookie():
    """I8: while the store is away refresh, log-out and log-in are 503, readable, and nothing is forgotten."""
    faults = Faults(clock=FakeClock())
    async with surface(faults=faults) as node, browser_at(node) as browser:
        await add_web_clients(node)
        await browser.log_in()
        cookie = browser.cookie
        faults.fail_before()
        for answer in (await browser.refresh(), await browser.log_out(), await browser.log_in()):
            assert (answer.status_code, set_cookies(answer)) == (503, [])
            assert answer.headers["access-control-allow-origin"] == APP
            assert answer.headers["retry-after"]
            assert "Retry-After" in answer.headers["access-control-expose-headers"]
        faults.recover()
        assert browser.cookie == cookie
        assert (await browser.refresh()).status_code == 200


async def test_log_in_beats_a_refresh_by_the_cookie_that_it_replaces():
    """Two tabs: the answer to the older one's refresh comes last, and does not log the new session out."""
    faults = Faults(clock=FakeClock())
    async with surface(faults=faults) as node, browser_at(node) as browser:
        await add_web_clients(node)
        await browser.log_in()
        gate = faults.hold_before("sessions.read")
        other_tab = asyncio.ensure_future(browser.refresh())
        await gate.reached()
        faults.hold_before("sessions.read").open()
        assert (await browser.log_in()).status_code == 201
        gate.open()
        answer = await other_tab
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_grant")
        assert not set_cookies(answer)
        assert (await browser.refresh()).status_code == 200


async def test_page_is_let_ask_while_the_store_is_away():
    """I8: a browser shows its page no 503 of a preflight, so that is answered by the origins of before."""
    clock = FakeClock()
    faults = Faults(clock=clock)
    async with surface(faults=faults, clock=clock) as node, browser_at(node) as browser:
        await add_web_clients(node)
        faults.fail_before()
        assert (await browser.fetch("OPTIONS", "/v1/sessions")).status_code == 503
        faults.recover()
        await browser.log_in()
        faults.fail_before()
        clock.advance(2)
        answer = await browser.fetch("OPTIONS", "/v1/sessions")
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, APP)
        assert (await browser.fetch("OPTIONS", "/v1/sessions", origin=EVIL)).status_code == 403


async def test_store_that_hangs_on_origins_holds_up_one_request():
    """F17: who reads which pages there are has no more time than any request; others use the last ones."""
    clock = FakeClock()
    faults = Faults(clock=clock)
    async with surface(faults=faults, clock=clock) as node, browser_at(node) as browser:
        await add_web_clients(node)
        await browser.log_in()
        clock.advance(2)
        gate = faults.hold_before("directory.clients")
        held = asyncio.ensure_future(browser.refresh())
        await gate.reached()
        assert (await browser.refresh()).status_code == 200
        clock.advance(5)
        answer = await held
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (503, APP)


async def test_cookie_of_one_issuer_is_nothing_at_another():
    """Issuers that share a host have cookies of their own, and a cookie that is renamed opens nothing."""
    inner = Issuer(ISSUER + "/tenant")
    async with surface() as here, surface(issuer=inner, clock=here.clock) as there:
        apps = {node.issuer: node.app for node in (here, there)}
        app = Dispatcher(apps, probes=here.app, audit=Audit())
        for node in (here, there):
            await add_web_clients(node)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app)) as jar:
            one, other = Browser(jar, here.issuer), Browser(jar, there.issuer)
            for browser in (one, other, one, other):
                assert (await browser.log_in()).status_code == 201
            assert one.cookie != other.cookie
            assert (await one.log_out()).status_code == 204
            assert (await other.refresh()).status_code == 200
            stolen = other.cookie
            assert stolen is not None
            one.cookie = stolen
            refused = await one.refresh()
            assert (refused.status_code, refused.json()["code"]) == (400, "invalid_grant")
            assert (await other.refresh()).status_code == 200


def test_issuers_that_share_a_host_have_cookies_of_their_own():
    """Path and port are in the name: cookies tell neither apart."""
    issuers = [ISSUER, ISSUER + "/a", ISSUER + "/b", "http://127.0.0.1:8420", "http://127.0.0.1:8421"]
    assert len({SessionCookie(Issuer(issuer)).name for issuer in issuers}) == len(issuers)


async def test_cookie_that_no_session_gave_is_refused_and_forgotten(browser: Browser):
    """A planted or mangled cookie refreshes nothing, and does not stay."""
    for value in ("x", "mmr_", PREFIX + "A" * 112, "%00", "a" * 5000, '"quoted"', "a=b"):
        headers = {"Cookie": f"{NAME}={value}"}
        answer = await browser.refresh(headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_grant")
        assert is_cleared(answer)
        left = await browser.log_out(headers=headers)
        assert (left.status_code, is_cleared(left)) == (204, True)
    answer = await browser.refresh(headers={"Cookie": f"{NAME}="})
    assert (answer.status_code, answer.json()["code"]) == (401, "no_credentials")


async def test_two_session_cookies_are_refused(browser: Browser):
    """Nobody can say which of two was meant: 400, and neither is used."""
    await browser.log_in()
    cookie = browser.cookie
    browser.http.cookies.clear()
    for header in (f"{NAME}={cookie}; {NAME}={cookie}", f"{NAME}={cookie}; a=b; {NAME}=x"):
        answer = await browser.refresh(headers={"Cookie": header})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_cookie_and_token_together_are_refused(node: Surface, browser: Browser):
    """With a cookie the body names no refresh token: 400 at refresh and at log-out, and nothing changes."""
    await browser.log_in()
    other = await node.log_in()
    before = [await row(node, rid) for rid in (browser.rid, other["rid"])]
    for body in (
        {"refresh_token": other["refresh_token"], "client_id": "spa"},
        {"refresh_token": other["refresh_token"], "client_id": "web", "cookie": True},
    ):
        answer = await browser.fetch("POST", "/v1/sessions/refresh", json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    answer = await browser.log_out(json={"refresh_token": other["refresh_token"]})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert [await row(node, rid) for rid in (browser.rid, other["rid"])] == before


async def test_cookie_is_asked_for_by_name(browser: Browser):
    """A refresh that says neither where its token is nor what it is gets 400, cookie or not."""
    await browser.log_in()
    answer = await browser.fetch("POST", "/v1/sessions/refresh", json={"client_id": "web"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    browser.http.cookies.clear()
    answer = await browser.refresh()
    assert (answer.status_code, answer.json()["code"]) == (401, "no_credentials")


async def test_cookie_counts_nowhere_else(browser: Browser):
    """The token endpoint knows no cookies, so no page needs to be kept from it."""
    await browser.log_in()
    answer = await browser.fetch("POST", "/token", data={"grant_type": "refresh_token", "client_id": "web"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_token_in_the_url_is_refused(browser: Browser):
    """URLs stay in logs and histories: 400, also where the cookie alone would have done."""
    await browser.log_in()
    for path in ("/v1/sessions/refresh", "/v1/sessions"):
        url, body = f"{path}?refresh_token={browser.cookie}", {"cookie": True, "client_id": "web"}
        answer = await browser.fetch("POST", url, json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_refresh_of_another_clients_session_changes_nothing(node: Surface, browser: Browser):
    """RF6: the session's own page with another client_id is refused, and the session lives."""
    await browser.log_in()
    before = await row(node, browser.rid)
    answer = await browser.refresh(client_id="other-web")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_grant")
    assert not set_cookies(answer)
    assert await row(node, browser.rid) == before
    assert (await browser.refresh()).status_code == 200


async def test_refusal_that_ends_nothing_leaves_the_cookie(node: Surface, browser: Browser):
    """Who is locked goes on in the same browser afterwards: a cookie is forgotten with its session alone."""
    await browser.log_in()
    await node.store.directory.lock_user(node.issuer, ALICE, NumericDate(node.clock.now() + 60))
    refused = await browser.refresh()
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_grant")
    assert not set_cookies(refused)
    await node.store.directory.lock_user(node.issuer, ALICE, None)
    assert (await browser.refresh()).status_code == 200


async def test_store_that_fails_behind_a_refusal_leaves_the_cookie():
    """Whether the session is over is then not known: the refusal stands, and nothing is forgotten for it."""
    faults = Faults(clock=FakeClock())
    async with surface(faults=faults) as node, browser_at(node) as browser:
        await add_web_clients(node)
        await browser.log_in()
        await node.store.directory.lock_user(node.issuer, ALICE, NumericDate(node.clock.now() + 60))
        gate = faults.hold_before("sessions.read")
        asked = asyncio.ensure_future(browser.refresh())
        for _ in range(2):
            await gate.reached()
            held, gate = gate, faults.hold_before("sessions.read")
            held.open()
        await gate.reached()
        faults.fail_before("sessions.read")
        gate.open()
        answer = await asked
        assert (answer.status_code, set_cookies(answer)) == (400, [])


async def test_sessions_of_a_token_take_no_other_cookie_along(node: Surface, browser: Browser):
    """Ending what an access token is of leaves the cookie of another session, which lives, where it is."""
    await browser.log_in()
    await node.store.directory.add_user(user(password_hash(), name="bob"))
    body = {"username": "bob", "password": PASSWORD, "client_id": "web", "audience": ISSUER}
    for path in ("/v1/sessions/{rid}", "/v1/sessions"):
        tokens = (await browser.fetch("POST", "/v1/sessions", json=body)).json()
        bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
        ended = await browser.fetch("DELETE", path.replace("{rid}", tokens["rid"]), headers=bearer)
        assert (ended.is_success, set_cookies(ended)) == (True, [])
        assert (await row(node, tokens["rid"])).ended_at is not None
    assert (await browser.refresh()).status_code == 200


# --- log in and out --------------------------------------------------------------------------------


async def test_log_in_ends_the_session_that_it_replaces(node: Surface, browser: Browser):
    """CK2: the cookie's old session is dead, at the server too, once another one has its place."""
    await browser.log_in()
    old, cookie = browser.rid, browser.cookie
    await browser.log_in(password="wrong")
    assert (browser.cookie, (await row(node, old)).ended_at) == (cookie, None)
    await browser.log_in()
    assert (await row(node, old)).end_cause == "replaced"
    assert (await browser.refresh()).status_code == 200


async def test_page_of_another_client_may_log_its_user_in(node: Surface, browser: Browser):
    """One browser has one session at an issuer; another page of the issuer's takes it over by logging in."""
    await browser.log_in()
    old = browser.rid
    browser.origin = OTHER
    assert (await browser.log_in("other-web")).status_code == 201
    assert (await row(node, old)).ended_at is not None
    assert (await browser.refresh("other-web")).status_code == 200


async def test_log_in_in_json_leaves_the_cookie_alone(node: Surface, browser: Browser):
    """Without ``cookie`` the answer holds the refresh token, and the session of the cookie lives."""
    await browser.log_in()
    body = {"username": "alice", "password": PASSWORD, "client_id": "web"}
    answer = await browser.fetch("POST", "/v1/sessions", json=body)
    assert answer.json()["refresh_token"].startswith(PREFIX)
    assert not set_cookies(answer)
    assert (await browser.refresh()).status_code == 200


async def test_log_out_by_the_cookie(node: Surface, browser: Browser):
    """RV1: 204, the cookie is forgotten, and what it was refreshes nothing; twice is 204 as well."""
    await browser.log_in()
    cookie = browser.cookie
    assert cookie is not None
    for _ in range(2):
        browser.cookie = cookie
        answer = await browser.log_out()
        assert (answer.status_code, answer.content, is_cleared(answer)) == (204, b"", True)
        assert browser.cookie is None
    assert (await row(node, browser.rid)).end_cause == "logout"
    browser.cookie = cookie
    refused = await browser.refresh()
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_grant")


async def test_expired_access_token_and_cookie_log_out_together(node: Surface, browser: Browser):
    """RV1: both tokens' sessions end, be it one or two, and the access token may have expired."""
    tokens = (await browser.log_in()).json()
    other = await node.log_in()
    pass_time(node, node.services.timing.access_ttl + 1)
    await node.services.ring.refresh()
    for bearer in (other["access_token"], tokens["access_token"]):
        answer = await browser.log_out(headers={"Authorization": f"Bearer {bearer}"})
        assert answer.status_code == 204
    for rid in (browser.rid, other["rid"]):
        assert (await row(node, rid)).end_cause == "logout"


async def test_useless_access_token_does_not_keep_the_cookie_from_logging_out(node, browser: Browser):
    """A page that still has a token of a key that is gone is logged out by its cookie."""
    await browser.log_in()
    answer = await browser.log_out(headers={"Authorization": "Bearer a.b.c"})
    assert (answer.status_code, is_cleared(answer)) == (204, True)
    assert (await row(node, browser.rid)).end_cause == "logout"


async def test_log_out_in_flight_beats_every_refresh(node: Surface, browser: Browser):
    """I6: of a log-out and refreshes by one cookie in the same moment, nothing survives."""
    await browser.log_in()
    cookie = browser.cookie
    assert cookie is not None
    answers = await asyncio.gather(*(browser.refresh() for _ in range(4)), browser.log_out())
    assert {answer.status_code for answer in answers} <= {200, 204, 400}
    browser.cookie = cookie
    assert (await browser.refresh()).status_code == 400
    assert (await row(node, browser.rid)).ended_at is not None


# --- who may read the answers ------------------------------------------------------------------------


async def test_preflight_answers_the_issuers_pages_alone(browser: Browser):
    """JM5: the exact origin, with credentials and never `*`; to any other page 403 without CORS."""
    browser.rid = "some-rid"
    for method, path in (*UNSAFE, ("GET", "/v1/sessions")):
        asking = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "content-type"}
        for origin in (APP, OTHER):
            answer = await browser.fetch("OPTIONS", path, origin=origin, headers=asking)
            assert answer.status_code == 204
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.headers["access-control-allow-credentials"] == "true"
            assert method in answer.headers["access-control-allow-methods"].split(", ")
            assert answer.headers["access-control-allow-headers"] == "authorization, content-type"
            assert answer.headers["vary"] == "Origin"
        for foreign in set(FOREIGN) - {OTHER}:
            answer = await browser.fetch("OPTIONS", path, headers=asking | {"Origin": foreign})
            assert answer.status_code == 403, foreign
            assert not [name for name in answer.headers if name.startswith("access-control")]
            assert answer.headers["vary"] == "Origin"


async def test_errors_can_be_read_by_the_page(node: Surface, browser: Browser):
    """A page of ours reads each refusal: 400, 401, 403, 404, 405, 408 and 413 alike; no other page does."""
    asked: list[tuple[int, str, str, dict[str, Any]]] = [
        (401, "POST", "/v1/sessions", {"json": {"username": "a", "password": "b", "client_id": "web"}}),
        (401, "POST", "/v1/sessions/refresh", {"json": {"cookie": True, "client_id": "web"}}),
        (400, "POST", "/v1/sessions/refresh", {"json": {}}),
        (401, "DELETE", "/v1/sessions/current", {}),
        (401, "GET", "/v1/sessions", {}),
        (405, "PUT", "/v1/sessions", {}),
        (413, "POST", "/v1/sessions", {"content": b"x" * 20_000}),
    ]
    for status, method, path, options in asked:
        for origin in (APP, EVIL):
            answer = await browser.fetch(method, path, origin=origin, **options)
            assert answer.status_code == status
            assert answer.headers["vary"] == "Origin"
            allowed = answer.headers.get("access-control-allow-origin")
            assert allowed == (APP if origin == APP else None), (method, path)
    await browser.log_in()
    browser.origin = OTHER
    refused = await browser.refresh("other-web")
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (403, OTHER)


async def test_no_wildcard_goes_with_credentials(browser: Browser):
    """JM5: a document that every page may read does not let any of them send credentials."""
    answer = await browser.fetch("GET", "/.well-known/jwks.json", origin=EVIL)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


async def test_page_added_now_is_heard_a_second_later(node: Surface, browser: Browser):
    """The origins of all clients are read at most once a second, and then they are what the store says."""
    late = "https://late.example.com"
    assert (await browser.fetch("OPTIONS", "/v1/sessions", origin=late)).status_code == 403
    await node.store.directory.add_client(client("late", origins=(late,)))
    pass_time(node, 1)
    assert (await browser.fetch("OPTIONS", "/v1/sessions", origin=late)).status_code == 204


# --- secrets -----------------------------------------------------------------------------------------


async def test_cookie_is_in_no_log_and_no_error(node, browser: Browser, caplog, capsys):
    """LG2: whatever is asked with it, the token in the cookie is written down nowhere."""
    caplog.set_level(logging.DEBUG)
    # The client of the test logs URLs; it is not what is tested.
    caplog.set_level(logging.CRITICAL, logger="httpx2")
    await browser.log_in()
    cookie = browser.cookie
    assert cookie is not None
    answers = [
        await browser.refresh(origin=EVIL),
        await browser.refresh(),
        await browser.fetch("GET", f"/v1/sessions?limit={cookie}"),
        await browser.fetch("DELETE", f"/v1/sessions/{cookie}"),
        await browser.log_out(),
    ]
    printed = capsys.readouterr()
    secret = cookie.removeprefix(PREFIX)[-40:]
    for text in (*(a.text for a in answers), caplog.text, printed.out, printed.err):
        assert secret not in text
