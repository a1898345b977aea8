"""GET and DELETE /v1/sessions: people see and end their own. Attacks first."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from tests.http.browser import Browser, add_web_clients, browser_at
from tests.http.surface import ALICE, ISSUER, PASSWORD, Surface, client, password_hash, surface, user
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from mintmark.core import sessions
from mintmark.core.sessions import MAX_DEVICE, EndCause, SessionStart
from mintmark.server.own_sessions import MAX_LISTED
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.units import ClientId, NumericDate, Rid, Sub

BOB = Sub("usr_bob")
ENDING = (
    ("DELETE", "/v1/sessions/{rid}"),
    ("DELETE", "/v1/sessions?keep=current"),
    ("DELETE", "/v1/sessions"),
)
EVERYTHING = (("GET", "/v1/sessions"), *ENDING)


@pytest.fixture
async def browser(node: Surface) -> AsyncIterator[Browser]:
    """A browser at the page of the client ``web``, where Alice is logged in."""
    await add_web_clients(node)
    async with browser_at(node) as made:
        assert (await made.log_in()).status_code == 201
        yield made


async def ask(node: Surface, method: str, path: str, access_token: str, *, rid: str = "x") -> httpx2.Response:
    """What a program is answered that has an access token and no cookie."""
    headers = {"Authorization": f"Bearer {access_token}"}
    return await node.http.request(method, path.replace("{rid}", rid), headers=headers)


async def live(node: Surface, sub: Sub = ALICE) -> set[str]:
    """The sessions of a user that have not ended."""
    return {session.rid for session in await node.store.sessions.list(node.issuer, sub=sub, limit=1_000)}


async def add_session(node: Surface, client_id: str, *, sub: Sub = ALICE, audience: str = "orders") -> str:
    """The refresh token of a session that was not begun over HTTP."""
    found = await node.store.directory.user(node.issuer, sub)
    assert found is not None
    begin = SessionStart(
        issuer=node.issuer, sub=sub, client_id=ClientId(client_id), scope=(), audience=(audience,)
    )
    session, token = sessions.start(
        begin,
        rid=SYSTEM_ENTROPY.token_bytes(16),
        seed=SYSTEM_ENTROPY.token_bytes(32),
        timing=node.services.timing,
        now=await node.store.now(),
    )
    assert await node.store.sessions.start(session, user=found)
    return token.text()


def pass_time(node: Surface, span: int) -> None:
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(span)


# --- who may not -------------------------------------------------------------------------------------


async def test_token_for_a_service_neither_lists_nor_ends(node: Surface):
    """A resource server holds its users' tokens: with one it learns no address and logs nobody out."""
    tokens = await node.log_in()
    for method, path in EVERYTHING:
        answer = await ask(node, method, path, tokens["access_token"], rid=tokens["rid"])
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
        assert f'refresh with the audience "{ISSUER}"' in answer.json()["detail"]
    assert await live(node) == {tokens["rid"]}


async def test_token_for_the_issuer_is_for_nobody_else(node: Surface):
    """No token is for us and for a service: that one would hold it. Asked for at log-in and at refresh."""
    other = "https://stock.example.com"
    both = {"audience": [ISSUER, other]}
    body = {"username": "alice", "password": PASSWORD, "client_id": "spa"} | both
    answer = await node.http.post("/v1/sessions", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_target")
    tokens = await node.log_in()
    for form in ({"audience": f"{other} {ISSUER}"}, {"resource": [ISSUER, other]}):
        refused = await node.refresh(tokens["refresh_token"], **form)
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_target")


async def test_client_that_registered_both_audiences_gets_no_further(node: Surface):
    """A token for us beside others is refused here, even where an administrator registered that."""
    await node.store.directory.add_client(client("odd", audiences=("orders", ISSUER)))
    tokens = await node.log_in(client_id="odd", audience=["orders", ISSUER])
    answer = await ask(node, "GET", "/v1/sessions", tokens["access_token"])
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")


async def test_client_of_others_sees_no_sessions(node: Surface):
    """A client that is not first-party gets no token for us, or has no use for it here."""
    await node.store.directory.add_client(client("others", first_party=False))
    refresh_token = await add_session(node, "others")
    refused = await node.refresh(refresh_token, client_id="others", audience=ISSUER)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_target")
    await node.store.directory.add_client(client("for-us", first_party=False, audiences=(ISSUER,)))
    refresh_token = await add_session(node, "for-us", audience=ISSUER)
    tokens = (await node.refresh(refresh_token, client_id="for-us")).json()
    for method, path in EVERYTHING:
        answer = await ask(node, method, path, tokens["access_token"])
        assert (answer.status_code, answer.json()["code"]) == (400, "unauthorized_client")
    assert len(await live(node)) == 2


async def test_service_in_its_own_name_gets_no_token_for_the_issuer(node: Surface):
    """There is no user in it, and nothing to see: invalid_target."""
    form = {"grant_type": "client_credentials", "client_id": "stock", "audience": ISSUER}
    answer = await node.http.post("/token", data=form | {"client_secret": "s3cret-of-the-service"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")


@pytest.mark.parametrize("ending", ["expired", "ended", "disabled", "locked", "revoked", "client revoked"])
async def test_token_that_is_over_is_refused(node: Surface, ending):
    """Unlike log-out, this asks for a token that is good now: expired, revoked or ended it is 401."""
    tokens, other = await node.log_in(audience=ISSUER), await node.log_in(audience=ISSUER)
    directory, timing = node.store.directory, node.services.timing
    match ending:
        case "expired":
            pass_time(node, timing.access_ttl)
            await node.services.ring.refresh()
        case "ended":
            await node.store.sessions.end(
                node.issuer, Rid(tokens["rid"]), cause=EndCause.ADMIN, timing=timing
            )
        case "disabled":
            await directory.disable_user(node.issuer, ALICE, timing=timing)
        case "locked":
            await directory.lock_user(node.issuer, ALICE, NumericDate(node.clock.now() + 60))
        case "revoked":
            form = {"token": tokens["access_token"], "client_id": "spa"}
            assert (await node.http.post("/revoke", data=form)).status_code == 200
        case "client revoked":
            await node.store.revocations.revoke_client(
                node.issuer, ClientId("spa"), cause="admin", timing=timing
            )
    before = await live(node)
    for method, path in EVERYTHING:
        answer = await ask(node, method, path, tokens["access_token"], rid=other["rid"])
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token"), path
    assert await live(node) == before


async def test_spent_cookie_lists_and_ends_nothing(node: Surface, browser: Browser):
    """A refresh token that was stolen and is spent is no credential here, and asking ends nothing."""
    spent = browser.cookie
    assert spent is not None
    for _ in range(2):
        await browser.refresh()
        pass_time(node, node.services.timing.refresh_grace + 1)
        await node.services.ring.refresh()
    newest = browser.cookie
    assert newest is not None
    browser.cookie = spent
    for method, path in EVERYTHING:
        answer = await browser.fetch(method, path)
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    assert await live(node) == {browser.rid}
    browser.cookie = newest
    assert (await browser.refresh()).status_code == 200


async def test_another_users_session_is_nowhere_to_be_found(node: Surface, browser: Browser):
    """RV2, AD2: its `rid` is 404 as one that there is not, nothing changes, and no list has it."""
    await node.store.directory.add_user(user(password_hash(), name="bob"))
    bob = await node.log_in(username="bob")
    answers = [
        await browser.fetch("DELETE", f"/v1/sessions/{rid}")
        for rid in (bob["rid"], "A" * 22, "no-such", "%00", "%ff", "..%2f", "a" * 1000, "'--", "\N{SNOWMAN}")
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers[:4]}) == 1
    assert bob["rid"] not in str(await browser.sessions())
    for query in ("?keep=current", ""):
        await browser.fetch("DELETE", f"/v1/sessions{query}")
    assert await live(node, BOB) == {bob["rid"]}
    assert (await node.refresh(bob["refresh_token"])).status_code == 200


async def test_without_a_credential_there_is_nothing_to_see(node: Surface):
    """401 with a challenge; a token in the URL or in the body is none."""
    tokens = await node.log_in(audience=ISSUER)
    for method, path in EVERYTHING:
        answer = await node.http.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (401, "no_credentials")
        assert answer.headers["www-authenticate"] == 'Bearer realm="mintmark"'
    in_url = await node.http.get(f"/v1/sessions?access_token={tokens['access_token']}")
    in_body = await node.http.request(
        "DELETE", "/v1/sessions", json={"refresh_token": tokens["refresh_token"]}
    )
    assert (in_url.status_code, in_body.status_code) == (401, 401)
    assert await live(node) == {tokens["rid"]}


# --- who is logged in where ----------------------------------------------------------------------------


async def test_list_shows_each_session_and_which_is_this_one(node: Surface, browser: Browser):
    """RV2: newest first, with client, device, place and times; only this browser's is current."""
    pass_time(node, 60)
    await node.log_in(audience=ISSUER)
    answer = await browser.fetch("GET", "/v1/sessions")
    assert answer.headers["cache-control"] == "no-store"
    listing = answer.json()
    assert listing["complete"] is True
    newest, oldest = listing["sessions"]
    assert (newest["client_id"], newest["current"]) == ("spa", False)
    began, timing = newest["created_at"] - 60, node.services.timing
    assert oldest == {
        "rid": browser.rid,
        "client_id": "web",
        "client_name": "Web",
        "device": oldest["device"],
        "address": "127.0.0.1",
        "created_at": began,
        "used_at": began,
        "ends_at": began + min(timing.session_idle, timing.session_ttl),
        "current": True,
    }
    assert oldest["device"].startswith("python-httpx2/")


async def test_list_by_access_token(node: Surface):
    """A program asks with a token for the issuer itself, which any first-party session may refresh into."""
    tokens = await node.log_in()
    refreshed = (await node.refresh(tokens["refresh_token"], audience=ISSUER)).json()
    listing = (await ask(node, "GET", "/v1/sessions", refreshed["access_token"])).json()
    assert [(one["rid"], one["current"]) for one in listing["sessions"]] == [(tokens["rid"], True)]


async def test_listing_changes_nothing(node: Surface, browser: Browser):
    """CK4: a GET leaves the session's row as it was, and the cookie too."""
    before = (await node.store.sessions.read(node.issuer, Rid(browser.rid))).session
    pass_time(node, 60)
    answer = await browser.fetch("GET", "/v1/sessions")
    assert "set-cookie" not in answer.headers
    assert (await node.store.sessions.read(node.issuer, Rid(browser.rid))).session == before


async def test_list_is_bounded_and_has_the_current_one(node: Surface, browser: Browser):
    """At most a hundred, or `limit`, of the newest, beside the one that asks; `complete` says whether all."""
    for _ in range(MAX_LISTED + 5):
        pass_time(node, 1)
        await add_session(node, "spa")
    for query, most in (("", MAX_LISTED), ("?limit=2", 2), ("?limit=100", 100)):
        answer = (await browser.fetch("GET", f"/v1/sessions{query}")).json()
        assert (len(answer["sessions"]), answer["complete"]) == (most + 1, False)
        assert [one["rid"] for one in answer["sessions"] if one["current"]] == [browser.rid]
    for wrong in ("0", "101", "-1", "1e1", "", "x", "٣", "1&limit=2", "0x10", "9" * 400):
        answer = await browser.fetch("GET", f"/v1/sessions?limit={wrong}")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), wrong
    ended = await browser.fetch("DELETE", "/v1/sessions?keep=current")
    assert ended.json() == {"ended": MAX_LISTED + 5}
    assert await live(node) == {browser.rid}


# --- ending ----------------------------------------------------------------------------------------------


async def test_one_session_is_ended_from_another(node: Surface, browser: Browser):
    """RV2: 204, and what that session holds works no more; twice is 204, and this session lives."""
    other = await node.log_in()
    for _ in range(2):
        answer = await browser.fetch("DELETE", f"/v1/sessions/{other['rid']}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert "set-cookie" not in answer.headers
    assert (await node.refresh(other["refresh_token"])).status_code == 400
    denied = [event["value"] for event in (await node.http.get("/revocations")).json()["events"]]
    assert denied == [other["rid"]]
    assert await live(node) == {browser.rid}


async def test_ending_this_one_is_logging_out(node: Surface, browser: Browser):
    """The current session by its `rid`: it is over, and the cookie is forgotten."""
    assert (await browser.fetch("DELETE", "/v1/sessions/{rid}")).status_code == 204
    assert (browser.cookie, await live(node)) == (None, set())


async def test_all_others_are_ended(node: Surface, browser: Browser):
    """RV2: `?keep=current` ends every session but this, of whatever client, and says how many."""
    others = [await node.log_in() for _ in range(3)]
    answer = await browser.fetch("DELETE", "/v1/sessions?keep=current")
    assert (answer.status_code, answer.json()) == (200, {"ended": 3})
    assert await live(node) == {browser.rid}
    for other in others:
        assert (await node.refresh(other["refresh_token"])).status_code == 400
    assert (await browser.refresh()).status_code == 200
    assert (await browser.fetch("DELETE", "/v1/sessions?keep=current")).json() == {"ended": 0}


async def test_all_are_ended(node: Surface, browser: Browser):
    """RV2: without a query this session ends with the others, and the cookie is forgotten."""
    await node.log_in()
    answer = await browser.fetch("DELETE", "/v1/sessions")
    assert (answer.status_code, answer.json()) == (200, {"ended": 2})
    assert (browser.cookie, await live(node)) == (None, set())


async def test_misspelt_wish_to_keep_something_ends_nothing(node: Surface, browser: Browser):
    """What cannot be read is 400: who wanted to stay logged in is."""
    for query in ("keep=Current", "keep=", "kept=current", "keep=current&keep=current", "x"):
        answer = await browser.fetch("DELETE", f"/v1/sessions?{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert await live(node) == {browser.rid}


async def test_changed_password_ends_the_others(node: Surface, browser: Browser):
    """RV2: a new password ends every session of the user, here too."""
    await node.log_in()
    await node.store.directory.set_password(
        node.issuer, ALICE, password_hash() + "x", timing=node.services.timing
    )
    assert await live(node) == set()
    assert (await browser.fetch("GET", "/v1/sessions")).status_code == 401


async def test_no_refresh_in_flight_survives(node: Surface, browser: Browser):
    """I6: whatever a refresh of an ended session was answered, nothing comes of it afterwards."""
    for method, path in ENDING * 3:
        victim = await node.log_in()
        asked = [node.refresh(victim["refresh_token"]) for _ in range(3)]
        ending = browser.fetch(method, path.replace("{rid}", victim["rid"]))
        *answers, ended = await asyncio.gather(*asked, ending)
        assert ended.status_code in {200, 204}
        held = [victim["refresh_token"], *(a.json()["refresh_token"] for a in answers if a.is_success)]
        for token in held:
            assert (await node.refresh(token)).status_code == 400
        assert victim["rid"] not in await live(node)
        if browser.cookie is None:
            await browser.log_in()


async def test_two_that_end_each_other_both_end_or_one_stays(node: Surface):
    """Two browsers that end all others in one moment never leave a third session alive."""
    await add_web_clients(node)
    async with browser_at(node) as one, browser_at(node) as other:
        for browser in (one, other):
            await browser.log_in()
        third = await node.log_in()
        answers = await asyncio.gather(
            *(b.fetch("DELETE", "/v1/sessions?keep=current") for b in (one, other))
        )
        assert {answer.status_code for answer in answers} <= {200, 401}
        assert third["rid"] not in await live(node)


# --- device and place --------------------------------------------------------------------------------------


async def test_hostile_user_agent_is_cut_to_text(node: Surface, browser: Browser):
    """LG3: what is kept of it is short, printable ASCII; it comes back as JSON, which no browser sniffs."""
    body = {"username": "alice", "password": PASSWORD, "client_id": "spa"}
    agents = {
        b"Mozilla/5.0 (X11; Linux x86_64)": "Mozilla/5.0 (X11; Linux x86_64)",
        b"<script>alert(1)</script>": "<script>alert(1)</script>",
        b"a\x1b[31mred\x7f\x00b": "a[31mredb",
        b"tab\tseparated": "tabseparated",
        "F\u00fcchsin \u202e gnp".encode(): "Fchsin  gnp",
        b"A" * 8192: "A" * MAX_DEVICE,
        b"": "",
        b"   ": "",
    }
    for sent in agents:
        pass_time(node, 1)
        await node.http.post("/v1/sessions", json=body, headers={b"User-Agent": sent})
    answer = await browser.fetch("GET", "/v1/sessions")
    devices = [one["device"] for one in answer.json()["sessions"] if not one["current"]]
    assert devices[::-1] == list(agents.values())
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_place_is_an_address_or_nothing(node: Surface):
    """A proxy can pass on anything; what is no address is not kept, and a zone means nothing elsewhere."""
    body = {"username": "alice", "password": PASSWORD, "client_id": "spa"}
    for caller, kept in {
        "192.0.2.7": "192.0.2.7",
        "::ffff:192.0.2.7": "192.0.2.7",
        "2001:DB8:0:0::7": "2001:db8::7",
        "fe80::1%eth0": "fe80::1",
        "fe80::1%<script>": "fe80::1",
        "<script>alert(1)</script>": "",
        "192.0.2.7, 10.0.0.1": "",
        "unknown": "",
        "": "",
    }.items():
        transport = httpx2.ASGITransport(app=node.app, client=(caller, 4711))
        async with httpx2.AsyncClient(transport=transport, base_url=node.issuer) as http:
            rid = (await http.post("/v1/sessions", json=body)).json()["rid"]
        found = (await node.store.sessions.read(node.issuer, Rid(rid))).session
        assert found is not None
        assert found.address == kept, caller


async def test_place_behind_a_trusted_proxy_is_the_clients(node: Surface):
    """CK7: a proxy that is trusted names the caller; what anybody else says of himself is not believed."""
    body = {"username": "alice", "password": PASSWORD, "client_id": "spa"}
    for peer, seen in (("10.0.0.1", "192.0.2.7"), ("203.0.113.9", "203.0.113.9")):
        served: Any = node.app
        app: Any = ProxyHeadersMiddleware(served, trusted_hosts=["10.0.0.1"])
        transport = httpx2.ASGITransport(app=app, client=(peer, 4711))
        async with httpx2.AsyncClient(transport=transport, base_url=node.issuer) as http:
            answer = await http.post(
                "/v1/sessions", json=body, headers={"X-Forwarded-For": "198.51.100.1, 192.0.2.7"}
            )
        found = (await node.store.sessions.read(node.issuer, answer.json()["rid"])).session
        assert found is not None
        assert found.address == seen


@pytest.mark.parametrize("path", ["/token", "/v1/sessions/refresh"])
async def test_each_refresh_notes_where_it_came_from(node: Surface, path):
    """Device, place and time are those of the last use, wherever the session began."""
    tokens = await node.log_in()
    pass_time(node, 90)
    transport = httpx2.ASGITransport(app=node.app, client=("192.0.2.7", 1))
    fields = {"refresh_token": tokens["refresh_token"], "client_id": "spa"}
    async with httpx2.AsyncClient(transport=transport, base_url=node.issuer) as http:
        headers = {"User-Agent": "Another/1.0"}
        if path == "/token":
            form = fields | {"grant_type": "refresh_token"}
            answer = await http.post(path, data=form, headers=headers)
        else:
            answer = await http.post(path, json=fields, headers=headers)
    assert answer.status_code == 200
    found = (await node.store.sessions.read(node.issuer, Rid(tokens["rid"]))).session
    assert found is not None
    assert (found.device, found.address) == ("Another/1.0", "192.0.2.7")
    assert found.used_at == found.created_at + 90


async def test_device_and_place_are_in_no_log(node: Surface, capsys):
    """LG2: personal data stays in the session's row."""
    body = {"username": "alice", "password": PASSWORD, "client_id": "spa"}
    transport = httpx2.ASGITransport(app=node.app, client=("192.0.2.77", 1))
    async with httpx2.AsyncClient(transport=transport, base_url=node.issuer) as http:
        headers = {"User-Agent": "Canary/4711"}
        tokens = (await http.post("/v1/sessions", json=body, headers=headers)).json()
        form = {"refresh_token": tokens["refresh_token"], "client_id": "spa"}
        await http.post("/v1/sessions/refresh", json=form, headers=headers)
        await http.post("/v1/sessions/refresh", json=form | {"client_id": "stock"}, headers=headers)
    printed = capsys.readouterr()
    assert "session.refreshed" in printed.out
    for canary in ("Canary", "192.0.2.77"):
        assert canary not in printed.out + printed.err


async def test_two_issuers_show_each_their_own(node: Surface):
    """STORE-4: a person's sessions at one issuer are in no list of another's on the same store."""
    clock = node.clock
    async with surface(issuer=ISSUER + "/tenant", store=node.store, clock=clock) as there:
        here = await node.log_in(audience=ISSUER)
        elsewhere = await there.http.post(
            there.issuer + "/v1/sessions",
            json={"username": "alice", "password": PASSWORD, "client_id": "spa", "audience": there.issuer},
        )
        listing = (await ask(node, "GET", "/v1/sessions", here["access_token"])).json()
        assert [one["rid"] for one in listing["sessions"]] == [here["rid"]]
        foreign = await ask(node, "GET", "/v1/sessions", elsewhere.json()["access_token"])
        assert foreign.status_code == 401
