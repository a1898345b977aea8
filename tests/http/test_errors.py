"""How errors look: ours are 503, the unforeseen says nothing, and nothing secret is ever written down."""

import asyncio
import base64
import io
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx2
import pytest
import structlog
from tests.http.streaming import stream
from tests.http.surface import PASSWORD, SECRET, Surface, surface

from mintmark.core.events import EventName
from mintmark.http.cookie import SessionCookie
from mintmark.server.emergency import revoke_key
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults
from mintmark.units import Seconds

BASIC = "Basic " + base64.b64encode(f"stock:{SECRET}".encode()).decode()
Call = Callable[[Surface, dict[str, Any]], Awaitable[httpx2.Response]]


def by_cookie(method: str, path: str, **options: Any) -> Call:
    """What a page of the issuer's own asks, whose cookie has the refresh token."""

    async def call(node: Surface, tokens: dict[str, Any]) -> httpx2.Response:
        cookie = f"{SessionCookie(node.issuer).name}={tokens['refresh_token']}"
        headers = {"Sec-Fetch-Site": "same-origin", "Cookie": cookie}
        answer = await node.http.request(method, path.format(**tokens), headers=headers, **options)
        # Others use the same client, and are no pages.
        node.http.cookies.clear()
        return answer

    return call


async def list_by_token(node: Surface, tokens: dict[str, Any]) -> httpx2.Response:
    """The user's sessions, with an access token that is for the issuer."""
    answer = await node.refresh(tokens["refresh_token"], audience=node.issuer)
    if answer.status_code != 200:
        return answer
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    return await node.http.get("/v1/sessions", headers=headers)


CALLS: dict[str, Call] = {
    "log in": lambda node, _: node.http.post(
        "/v1/sessions", json={"username": "alice", "password": PASSWORD, "client_id": "spa"}
    ),
    "log in wrongly": lambda node, _: node.http.post(
        "/v1/sessions", json={"username": "alice", "password": "wrong", "client_id": "spa"}
    ),
    "client credentials": lambda node, _: node.http.post(
        "/token", data={"grant_type": "client_credentials"}, headers={"Authorization": BASIC}
    ),
    "wrong secret": lambda node, _: node.http.post(
        "/token", data={"grant_type": "client_credentials", "client_id": "stock", "client_secret": "x"}
    ),
    "refresh": lambda node, tokens: node.refresh(tokens["refresh_token"]),
    "refresh with garbage": lambda node, _: node.refresh("mmr_" + "A" * 112),
    "refresh in JSON": lambda node, tokens: node.http.post(
        "/v1/sessions/refresh", json={"refresh_token": tokens["refresh_token"], "client_id": "spa"}
    ),
    "log out": lambda node, tokens: node.log_out(tokens["access_token"]),
    "log out by refresh token": lambda node, tokens: node.http.request(
        "DELETE", "/v1/sessions/current", json={"refresh_token": tokens["refresh_token"]}
    ),
    "refresh by cookie": by_cookie("POST", "/v1/sessions/refresh", json={"cookie": True, "client_id": "spa"}),
    "log out by cookie": by_cookie("DELETE", "/v1/sessions/current"),
    "list sessions": by_cookie("GET", "/v1/sessions"),
    "list sessions by token": list_by_token,
    "end one session": by_cookie("DELETE", "/v1/sessions/{rid}"),
    "end other sessions": by_cookie("DELETE", "/v1/sessions?keep=current"),
    "end all sessions": by_cookie("DELETE", "/v1/sessions"),
    "page": lambda node, _: node.http.get("/revocations"),
}
"""Every request that asks the store for anything."""


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("fault", ["before", "after", "hang"])
async def test_failing_store_is_503_and_nothing_else(name, fault):
    """Whichever operation of the store fails, early, late or by never answering, the request that needs it is
    503 with Retry-After: never 401, ``invalid_grant`` or 500 (I8, TK10, F15, F17)."""
    clock = FakeClock()
    faults = Faults(clock=clock)
    async with surface(clock=clock, faults=faults) as node:
        # Only the request asks the store from here on.
        node.reading.cancel()
        node.following.cancel()
        tokens = await node.log_in()
        faults.calls.clear()
        await CALLS[name](node, tokens)
        needed = set(faults.calls)
        assert needed
        for operation in needed:
            tokens = await node.log_in()
            asking = None
            match fault:
                case "before":
                    faults.fail_before(operation)
                case "after":
                    faults.fail_after(operation)
                case "hang":
                    gate = faults.hold_before(operation)
                    asking = asyncio.ensure_future(CALLS[name](node, tokens))
                    await gate.reached()
                    clock.advance(5)
            answer = await (asking or CALLS[name](node, tokens))
            assert answer.status_code == 503, operation
            body = answer.json()
            assert body.get("error", body.get("code")) == "temporarily_unavailable"
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["cache-control"] == "no-store"
            assert "www-authenticate" not in answer.headers
            assert "set-cookie" not in answer.headers
            faults.recover()
            await node.services.ring.refresh()


@pytest.mark.parametrize("name", ["log in", "client credentials", "refresh", "refresh in JSON"])
@pytest.mark.parametrize("cause", ["signer away", "key revoked", "lease ended", "clock off"])
async def test_node_that_may_not_sign_is_503(name, cause):
    """Without a signer, a key, a lease or the right time nothing is minted: the client tries elsewhere."""
    clock = FakeClock()
    async with surface(clock=clock) as node:
        tokens = await node.log_in()
        match cause:
            case "signer away":
                node.signer.close()
            case "key revoked":
                timing = node.services.timing
                await revoke_key(node.store.keyring, node.issuer, node.kid, reason="test", timing=timing)
                await node.read_ring()
            case "lease ended":
                clock.advance(node.services.timing.lease)
                await node.read_ring()
            case "clock off":
                # The store keeps its own time, so only this node's is wrong.
                node.services.ring._offset = Seconds(31)
        answer = await CALLS[name](node, tokens)
        assert answer.status_code == 503
        assert "retry-after" in answer.headers


async def test_session_survives_a_signer_that_died_after_the_commit(node: Surface):
    """A refresh that could not be signed is 503; its token refreshes once the signer is back (R2)."""
    tokens = await node.log_in()
    await node.signer.forget(node.kid)
    asking = asyncio.ensure_future(node.refresh(tokens["refresh_token"]))
    clock = node.clock
    assert isinstance(clock, FakeClock)
    while not asking.done():
        clock.advance(0.5)
        for _ in range(50):
            await asyncio.sleep(0)
    assert (await asking).status_code == 503
    await node.add_key()
    await node.read_ring()
    assert (await node.refresh(tokens["refresh_token"])).status_code == 200


async def test_full_queue_of_passwords_is_503():
    """More passwords than the queue holds are sent away at once, and none is called wrong (PW13)."""
    async with surface(hash_queue=1) as node:
        answers = await asyncio.gather(*(CALLS["log in"](node, {}) for _ in range(20)))
        counted = Counter(answer.status_code for answer in answers)
        assert set(counted) == {201, 503}
        assert counted[201] == 3
        assert (await CALLS["log in"](node, {})).status_code == 201


# --- the unforeseen ------------------------------------------------------------------------------


class Leaky(Exception):
    """What a defect might raise."""


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> str:
    """A defect in the use case of log-in, whose message holds a password."""

    async def fail(*_: object, **__: object) -> None:
        raise Leaky(f"cannot handle {PASSWORD}")

    monkeypatch.setattr("mintmark.server.sessions.Sessions.log_in", fail)
    return PASSWORD


async def test_unforeseen_error_is_500_and_says_nothing(node: Surface, broken, capsys):
    """A defect is 500 without detail, logged once by its type and place, never by its message (LG4, LG2)."""
    answer = await CALLS["log in"](node, {})
    assert answer.status_code == 500
    assert answer.json() == {
        "type": "urn:mintmark:problem:server_error",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "something went wrong here",
        "code": "server_error",
    }
    assert node.services.audit.counts[EventName.REQUEST_FAILED] == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if "request.failed" in line]
    assert "Leaky" in line
    assert "test_errors.py" in line
    assert broken not in line


async def test_unforeseen_error_of_oauth_is_server_error(node: Surface, monkeypatch):
    """On the token endpoint the same has OAuth's form."""

    async def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("mintmark.server.clients.Clients.authenticate", fail)
    answer = await CALLS["client credentials"](node, {})
    assert (answer.status_code, answer.json()["error"]) == (500, "server_error")


# --- what is common to all answers ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/token", "POST"),
        ("PUT", "/token", "POST"),
        ("TRACE", "/token", "POST"),
        ("OPTIONS", "/token", "POST"),
        ("POST", "/.well-known/jwks.json", "GET, HEAD"),
        ("TRACE", "/.well-known/openid-configuration", "GET, HEAD"),
        ("PUT", "/v1/sessions", "DELETE, GET, POST"),
        ("TRACE", "/v1/sessions/refresh", "POST"),
        ("GET", "/v1/sessions/some-rid", "DELETE"),
        ("POST", "/v1/sessions/current", "DELETE"),
        ("DELETE", "/revocations", "GET, HEAD"),
        ("HEAD", "/revocations/stream", "GET"),
        ("POST", "/livez", "GET, HEAD"),
        ("BREW", "/token", "POST"),
    ],
)
async def test_unlisted_method_is_405(node: Surface, method, path, allowed):
    """A method that an endpoint has not is 405 and names those it has; TRACE is one of them (CK6)."""
    answer = await node.http.request(method, path)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == set(allowed.split(", "))


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nothing",
        "/token/",
        "//token",
        "/token/x",
        "/TOKEN",
        "/token%00",
        "/token%2f",
        "/token;x=1",
        "/./token%20",
        "/v1/sessions/",
        "/v1",
        "/.well-known/jwks.json/",
        "/.well-known/..%2f..%2fetc%2fpasswd",
        "/..%2ftoken",
        "/%ff",
        "/%u0041",
        "/keys/",
        "/keys/a/b.json",
        "/revocations/stream/",
        "/" + "a" * 3000,
        "/tenant/token",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_wrong_path_is_404(node: Surface, method, path):
    """No trick with slashes, dots, case or escapes reaches an endpoint, redirects or breaks anything."""
    answer = await node.http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "location" not in answer.headers


async def test_every_answer_says_what_it_is(node: Surface):
    """Every body has a content type with its charset, and no browser may guess another (CK6)."""
    tokens = await node.log_in()
    answers = [await call(node, tokens) for call in CALLS.values()]
    answers += [
        await node.http.request(method, path)
        for method in ("GET", "POST", "DELETE")
        for path in ("/", "/livez", "/readyz", "/metrics", "/token", "/.well-known/jwks.json", "/revocations")
    ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        if answer.content:
            assert answer.headers["content-type"].endswith("; charset=utf-8")
        assert "server" not in answer.headers


async def test_issuer_without_tls_sets_no_hsts():
    """On plain http, which only loopback may use, HSTS would mean nothing."""
    async with surface(issuer="http://127.0.0.1:8420") as node:
        assert "strict-transport-security" not in (await node.http.get("/livez")).headers


# --- nothing secret ------------------------------------------------------------------------------


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Everything that is logged, by whomever and at whatever level."""
    out = io.StringIO()
    root = logging.getLogger()
    sink, level = logging.StreamHandler(out), root.level
    root.addHandler(sink)
    root.setLevel(logging.DEBUG)
    # The client of the test logs URLs; it is not what is tested.
    monkeypatch.setattr(logging.getLogger("httpx2"), "disabled", True)
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    yield out
    structlog.configure(**before)
    root.removeHandler(sink)
    root.setLevel(level)


async def test_no_secret_is_ever_written(written, capfd):
    """With everything logged, the whole surface in success and failure writes no token, secret or password,
    whole or in part, neither to a log nor to an answer that did not grant it (LG2)."""
    clock = FakeClock()
    faults = Faults(clock=clock)
    canary = "canary-in-an-odd-place"
    async with surface(clock=clock, faults=faults) as node:
        tokens = await node.log_in()
        secrets = [PASSWORD, SECRET, BASIC.removeprefix("Basic "), canary]
        refused = []
        for failing in (False, True):
            for name, call in CALLS.items():
                if failing:
                    faults.fail_after("*")
                answer = await call(node, tokens)
                if answer.status_code in {200, 201}:
                    body = answer.json()
                    secrets += [body[key] for key in ("access_token", "refresh_token") if key in body]
                else:
                    refused.append((name, answer))
                faults.recover()
            if not failing:
                tokens = await node.log_in()
        odd = [
            node.http.post(
                "/v1/sessions", json={"username": canary, "password": canary, "client_id": canary}
            ),
            node.http.post("/v1/sessions", json={"username": 1, "password": canary, "client_id": "spa"}),
            node.http.post("/v1/sessions", content=b'{"password":"' + canary.encode() + b'"', headers=JSON),
            node.http.post("/token", data={"grant_type": canary, "client_id": "spa"}),
            node.http.post("/token", data={"client_id": "stock", "client_secret": canary}),
            node.http.post("/token?client_secret=" + canary),
            node.http.post("/token", headers={"Authorization": canary}),
            node.log_out(canary),
            node.log_out(tokens["access_token"][:-4] + "AAAA"),
            node.http.get(f"/revocations?after={canary}"),
            node.http.get(f"/keys/{canary}.json"),
            node.refresh(tokens["refresh_token"] + "A"),
            node.refresh(tokens["refresh_token"], scope=canary, audience=canary),
        ]
        refused += [("odd", await one) for one in odd]
        async with stream(node.app) as follower:
            await follower.next_of("heartbeat")
            secrets += [tokens["access_token"], tokens["refresh_token"]]
        metrics = (await node.http.get("/metrics")).text
    logged = written.getvalue() + "".join(capfd.readouterr()) + metrics
    assert "session.started" in logged
    parts = {part for secret in secrets for part in pieces(secret)}
    # A client id is no secret and is logged, escaped and cut; that it is the canary is the test's doing.
    client_ids = [line for line in logged.splitlines() if "client.refused" in line]
    for part in sorted(parts):
        lines = [line for line in logged.splitlines() if part in line and line not in client_ids]
        assert not lines, (part, lines)
        for name, answer in refused:
            assert part not in answer.text, (name, part)


def pieces(secret: str) -> list[str]:
    """What must not be found: a token is as secret in its signature as whole."""
    if secret.count(".") == 2:
        return [secret, secret.rpartition(".")[2]]
    return [secret]


JSON = {"Content-Type": "application/json"}
