"""Several issuers behind one listener: each request reaches its own, and nothing of another's works there."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import argon2
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Route
from starlette.types import ASGIApp
from tests.http.surface import SECRET, Surface, surface, until, user

from mintmark.adapters.memory import MemoryStore
from mintmark.core import keyring
from mintmark.core.sessions import EndCause
from mintmark.errors import InvalidRequest, NotFound, RequestError
from mintmark.http.dispatch import PROBES, Dispatcher, create_node_app, host_of
from mintmark.http.refusal import Misdirected
from mintmark.server.audit import Audit
from mintmark.server.document import path_of
from mintmark.server.issuers import ROUTES
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.units import ClientId, Issuer, NodeId

HERE = "https://auth.example.com"
THERE = "https://login.example.org"
ROOT, INNER, DEEP, OTHER, ASIDE = (
    Issuer(HERE),
    Issuer(f"{HERE}/tenant"),
    Issuer(f"{HERE}/tenant/sub"),
    Issuer(THERE),
    Issuer(f"{THERE}/aside"),
)
ALL = (ROOT, INNER, DEEP, OTHER, ASIDE)


async def nothing(*_: Any) -> None:
    raise AssertionError("no request is dispatched here")


def chosen(path: str, *hosts: str, issuers: Sequence[Issuer] = ALL) -> Issuer | type[RequestError]:
    """The issuer that a request for ``path`` reaches under these Host headers, or why none."""
    dispatcher = Dispatcher(dict.fromkeys(issuers, nothing), probes=nothing, audit=Audit())
    headers = [(b"host", host.encode("latin-1")) for host in hosts]
    try:
        return dispatcher.issuer_of({"type": "http", "path": path, "headers": headers})
    except RequestError as refusal:
        return type(refusal)


# --- which issuer --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "issuer"),
    [
        ("/token", ROOT),
        ("/tenant/token", INNER),
        ("/tenant/sub/token", DEEP),
        ("/tenant/subway/token", INNER),
        ("/tenants/token", ROOT),
        ("/tenant", INNER),
        ("/tenant/", INNER),
        ("/.well-known/oauth-authorization-server", ROOT),
        ("/.well-known/oauth-authorization-server/tenant", INNER),
        ("/.well-known/oauth-authorization-server/tenant/sub", DEEP),
        ("/.well-known/openid-configuration/tenant", INNER),
        ("/.well-known/oauth-authorization-server/tenants", ROOT),
        ("/.well-known/jwks.json", ROOT),
        ("/tenant/.well-known/jwks.json", INNER),
        ("/tenant/.well-known/oauth-authorization-server/sub", INNER),
    ],
)
def test_longest_path_wins_and_well_known_urls_go_to_their_issuer(path, issuer):
    """Each path is for the innermost issuer that it is below; RFC 8414's form is for the path behind it."""
    assert chosen(path, "auth.example.com") == issuer


@pytest.mark.parametrize(
    "host",
    [
        "login.example.org",
        "LOGIN.Example.ORG",
        "login.example.org.",
        "login.example.org:443",
        "login.example.org:8420",
        "login.example.org.:8420",
    ],
)
def test_spellings_of_one_host_reach_one_issuer(host):
    """Case, a port and a final dot make no other host: proxies differ in what they pass on."""
    assert chosen("/token", host) == OTHER


@pytest.mark.parametrize(
    "host",
    [
        "",
        "elsewhere.example.com",
        "127.0.0.1:8420",
        "auth.example.com.login.example.org",
        "auth.example.com@login.example.org",
        "login.example.org..",
        "auth.example.com, login.example.org",
        "auth.example.com/login.example.org",
        "auth.example.com login.example.org",
        "%61uth.example.com",
        "[::1",
        "auth.example.com\xe9",
    ],
)
def test_unknown_host_reaches_an_issuer_only_where_one_can_be_meant(host):
    """A name that is none of the issuers' decides nothing: the path must, or nobody is asked (421)."""
    assert chosen("/token", host) is Misdirected
    assert chosen("/tenant/token", host) == INNER
    assert chosen("/aside/token", host) == ASIDE
    assert chosen("/.well-known/oauth-authorization-server/aside", host) == ASIDE
    assert chosen("/token", host, issuers=(INNER, OTHER)) == OTHER
    assert chosen("/token", host, issuers=(INNER, DEEP)) is NotFound


def test_request_without_host_is_one_with_an_unknown_host():
    """HTTP/1.0 has no Host: what the path tells is enough, and guessing is not."""
    assert chosen("/tenant/token") == INNER
    assert chosen("/token") is Misdirected


def test_two_host_headers_are_refused():
    """RFC 9112 s.3.2: what one reader takes from the first another may take from the second."""
    assert chosen("/token", "auth.example.com", "login.example.org") is InvalidRequest
    assert chosen("/token", "auth.example.com", "auth.example.com") is InvalidRequest


def test_path_of_another_host_is_no_path_of_this_one():
    """Where the host is known only its own issuers are asked, whatever path others have."""
    assert chosen("/aside/token", "auth.example.com") == ROOT
    assert chosen("/tenant/token", "login.example.org") == OTHER
    assert chosen("/tenant/token", "login.example.org", issuers=(INNER, ASIDE)) is NotFound


@given(st.text(max_size=40), st.text(st.characters(max_codepoint=255), max_size=40))
def test_any_host_and_any_path_reach_one_issuer_or_a_refusal(path, host):
    """No bytes in Host or in the path raise anything but a refusal, and what is reached has the path."""
    found = chosen("/" + path, host)
    if isinstance(found, str):
        base = found.partition("://")[2].partition("/")[2]
        assert f"/{path}".startswith(f"/{base}")
    else:
        assert found in {NotFound, Misdirected}


@given(st.binary(max_size=60))
def test_host_is_read_from_any_bytes(value):
    """Whatever stands in Host is a name in lower case, or none."""
    name = host_of([(b"host", value)])
    assert name == name.lower()
    assert "@" not in name


async def test_no_route_can_be_shadowed_by_an_inner_issuer():
    """Every path of an issuer, and of the node, begins with a word that no inner issuer may begin with."""
    async with surface(issuer=ROOT) as node:
        paths = {route.path for route in node.app.routes if isinstance(route, Route)}
    first = {path.split("/")[1] for path in paths}
    assert first <= ROUTES
    assert {path.split("/")[1] for path in PROBES} <= first


# --- two of them ---------------------------------------------------------------------------------

BOB_HERE, BOB_THERE = "a horse that is correct", "a battery that is a staple"


@dataclass
class Two:
    """Two issuers of one node on one store, each with its Alice; a client for the node as a whole."""

    one: Surface
    other: Surface
    app: ASGIApp
    http: httpx2.AsyncClient

    async def send(self, at: Surface, method: str, path: str, **options: Any) -> httpx2.Response:
        """A request to the issuer of ``at``, through the dispatcher."""
        return await self.http.request(method, at.issuer + path, **options)


@asynccontextmanager
async def two(one: str, other: str, *, clock: FakeClock | None = None) -> AsyncIterator[Two]:
    """Issuers ``one`` and ``other`` on one store in memory, behind one dispatcher."""
    clock = clock or FakeClock()
    store = MemoryStore(clock=clock, entropy=SYSTEM_ENTROPY)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(surface(issuer=one, clock=clock, store=store))
        second = await stack.enter_async_context(surface(issuer=other, clock=clock, store=store))
        app = create_node_app((first.services, second.services), audit=Audit())
        for found in (first, second):
            found.http = await stack.enter_async_context(through(app, found.issuer))
        yield Two(first, second, app, await stack.enter_async_context(through(app)))


def through(app: ASGIApp, base: str = "") -> httpx2.AsyncClient:
    """A client of ``app``."""
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=base)


PAIRS = [(HERE, f"{HERE}/tenant"), (f"{HERE}/a", f"{HERE}/b"), (HERE, THERE), (f"{HERE}/t", f"{THERE}/t")]


@pytest.fixture(params=PAIRS, ids=["nested", "by path", "by host", "same path"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Two]:
    """Two issuers, told apart in each way that there is."""
    async with two(*request.param) as found:
        yield found


def claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


async def hash_of(password: str) -> str:
    return argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1).hash(password)


async def test_each_issuer_answers_for_itself(pair: Two):
    """Metadata, key set, tokens and feed of each are its own, in every form of their URLs."""
    for at in (pair.one, pair.other):
        path = path_of(at.issuer)
        host = at.issuer.removesuffix(path)
        for url in (
            f"{at.issuer}/.well-known/openid-configuration",
            f"{at.issuer}/.well-known/oauth-authorization-server",
            f"{host}/.well-known/oauth-authorization-server{path}",
        ):
            assert (await pair.http.get(url)).json()["issuer"] == at.issuer
        keys = (await pair.send(at, "GET", "/.well-known/jwks.json")).json()["keys"]
        assert [key["kid"] for key in keys] == [at.kid]
        assert (await pair.send(at, "GET", "/revocations")).json()["issuer"] == at.issuer
        tokens = await at.log_in()
        assert claims(tokens["access_token"])["iss"] == at.issuer
        form = {"grant_type": "client_credentials"}
        answer = await pair.send(at, "POST", "/token", data=form, auth=("stock", SECRET))
        assert claims(answer.json()["access_token"])["iss"] == at.issuer
        refreshed = await at.refresh(tokens["refresh_token"])
        assert claims(refreshed.json()["access_token"])["iss"] == at.issuer


async def test_access_token_of_one_issuer_ends_nothing_at_another(pair: Two):
    """VF5: the other issuer refuses the token (401), and the session that it is of lives on."""
    tokens = await pair.one.log_in()
    answer = await pair.other.log_out(tokens["access_token"])
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    assert (await pair.one.refresh(tokens["refresh_token"])).status_code == 200


async def test_refresh_token_of_one_issuer_is_unknown_at_another(pair: Two):
    """It gives nothing there, ends nothing there, and is not spent by the attempt."""
    tokens = await pair.one.log_in()
    refused = await pair.other.refresh(tokens["refresh_token"])
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    body = {"refresh_token": tokens["refresh_token"]}
    answer = await pair.send(pair.other, "DELETE", "/v1/sessions/current", json=body)
    assert answer.status_code == 401
    assert (await pair.one.refresh(tokens["refresh_token"])).status_code == 200


async def test_client_of_one_issuer_is_unknown_at_another(pair: Two):
    """The other issuer has a client with the same id: its secret is its own, and one alone may be removed."""
    at, store = pair.other, pair.other.store.directory
    form = {"grant_type": "client_credentials", "client_id": "stock", "client_secret": SECRET}
    new = hashlib.sha256(b"another").digest()
    await store.set_client_secret(at.issuer, ClientId("stock"), new)
    refused = await pair.send(at, "POST", "/token", data=form)
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
    assert (await pair.send(pair.one, "POST", "/token", data=form)).status_code == 200
    form["client_secret"] = "another"
    assert (await pair.send(at, "POST", "/token", data=form)).status_code == 200
    refused = await pair.send(pair.one, "POST", "/token", data=form)
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")


async def test_same_name_in_two_issuers_is_two_users(pair: Two):
    """Bob has another password, another ``sub`` and another fate at each issuer."""
    for at, password in ((pair.one, BOB_HERE), (pair.other, BOB_THERE)):
        made = user(await hash_of(password), issuer=at.issuer, name="bob", sub=f"usr_{at.issuer}")
        await at.store.directory.add_user(made)
    for at, right, wrong in ((pair.one, BOB_HERE, BOB_THERE), (pair.other, BOB_THERE, BOB_HERE)):
        body = {"username": "bob", "client_id": "spa"}
        refused = await pair.send(at, "POST", "/v1/sessions", json=body | {"password": wrong})
        assert (refused.status_code, refused.json()["code"]) == (401, "invalid_credentials")
        tokens = await at.log_in(username="bob", password=right)
        assert claims(tokens["access_token"])["sub"] == f"usr_{at.issuer}"
    tokens = await pair.other.log_in(username="bob", password=BOB_THERE)
    bob = await pair.one.store.directory.user_named(pair.one.issuer, "bob")
    assert bob is not None
    await pair.one.store.directory.disable_user(pair.one.issuer, bob.sub, timing=pair.one.services.timing)
    assert (await pair.other.refresh(tokens["refresh_token"])).status_code == 200
    body = {"username": "bob", "client_id": "spa", "password": BOB_HERE}
    assert (await pair.send(pair.one, "POST", "/v1/sessions", json=body)).status_code == 401


async def test_key_of_one_issuer_is_not_served_by_another(pair: Two):
    """``/keys/`` of the other issuer knows no such key, and neither does its key set."""
    assert (await pair.send(pair.one, "GET", f"/keys/{pair.one.kid}.json")).status_code == 200
    assert (await pair.send(pair.other, "GET", f"/keys/{pair.one.kid}.json")).status_code == 404


async def test_revocation_at_one_issuer_is_not_in_the_log_of_another(pair: Two):
    """Each log has its own issuer's sessions alone, and its cursors mean nothing at the other's."""
    tokens = await pair.one.log_in()
    assert (await pair.one.log_out(tokens["access_token"])).status_code == 204
    page = (await pair.send(pair.one, "GET", "/revocations")).json()
    assert [event["value"] for event in page["events"]] == [tokens["rid"]]
    assert (await pair.send(pair.other, "GET", "/revocations")).json()["events"] == []
    answer = await pair.send(pair.other, "GET", "/revocations", params={"after": page["cursor"]})
    assert answer.status_code == 410


async def test_forged_session_of_another_issuer_is_not_ended(pair: Two):
    """A ``rid`` is public; a token of the other issuer that carries it ends nothing of this one (R3)."""
    mine, theirs = await pair.one.log_in(), await pair.other.log_in()
    assert mine["rid"] != theirs["rid"]
    assert not await pair.other.services.sessions.end(mine["rid"], EndCause.LOGOUT)
    assert (await pair.one.refresh(mine["refresh_token"])).status_code == 200


# --- tricks with the path ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/tenant//.well-known/jwks.json",
        "//tenant/.well-known/jwks.json",
        "//auth.example.com/tenant/.well-known/jwks.json",
        "/tenant/.well-known/jwks.json/",
        "/tenant/../.well-known/jwks.json",
        "/tenant/%2e%2e/.well-known/jwks.json",
        "/tenant/./.well-known/jwks.json",
        "/.well-known/../tenant/.well-known/jwks.json",
        "/x/..%2ftenant/.well-known/jwks.json",
        "/tenant%5c.well-known/jwks.json",
        "/tenant;x/.well-known/jwks.json",
        "/Tenant/.well-known/jwks.json",
        "/tenant/.well-known/jwks.json%00",
        "/tenant/tenant/.well-known/jwks.json",
        "/.well-known/jwks.json/tenant",
        "/.well-known/oauth-authorization-server//tenant",
        "/.well-known/oauth-authorization-server/tenant/",
    ],
)
async def test_other_spellings_of_a_path_reach_nothing(path):
    """A path has one spelling: dots, empty segments, other case and trailing slashes are no way around."""
    async with two(HERE, f"{HERE}/tenant") as found:
        assert await raw(found, path) == (404, "")


@pytest.mark.parametrize("path", ["/tenant%2f.well-known/jwks.json", "/%74enant/.well-known/jwks.json"])
async def test_encoded_path_is_the_path_that_it_encodes(path):
    """What chooses the issuer is what its routes are matched by: the decoded path, and nothing else."""
    async with two(HERE, f"{HERE}/tenant") as found:
        assert await raw(found, path) == (200, found.other.kid)


async def raw(found: Two, path: str) -> tuple[int, str]:
    """Status and first ``kid`` of what the node answers to a path that no client tidies up."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"auth.example.com")],
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await found.app(scope, receive, send)
    keys = json.loads(b"".join(message.get("body", b"") for message in sent)).get("keys", [])
    return sent[0]["status"], keys[0]["kid"] if keys else ""


# --- the node as a whole -------------------------------------------------------------------------


async def test_misdirected_request_is_421_and_says_so():
    """A host that is nobody's is refused with a problem, its headers those of every answer."""
    async with two(HERE, THERE) as found:
        answer = await found.http.get("https://elsewhere.example.net/.well-known/jwks.json")
        assert (answer.status_code, answer.json()["code"]) == (421, "misdirected_request")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        long = await found.http.get("https://elsewhere.example.net/" + "x" * 5000)
        assert long.status_code == 414


async def test_one_issuer_answers_under_any_host():
    """Alone on its node an issuer is who is meant, whatever name a proxy or a person wrote."""
    async with surface(issuer=f"{HERE}/tenant") as node:
        app = create_node_app((node.services,), audit=Audit())
        async with through(app) as http:
            for host in ("auth.example.com", "10.0.0.7:8420", "elsewhere.example.net"):
                answer = await http.get(f"http://{host}/tenant/.well-known/jwks.json")
                assert answer.json()["keys"][0]["kid"] == node.kid


async def test_probes_are_the_nodes_under_any_host():
    """An orchestrator asks by address: probes answer once for all issuers, and under no issuer's path."""
    async with two(HERE, f"{THERE}/t") as found:
        for host in (HERE, THERE, "http://10.0.0.7:8420"):
            for path in sorted(PROBES):
                assert (await found.http.get(host + path)).status_code == 200
        assert (await found.http.get(f"{THERE}/t/readyz")).status_code == 404
        answer = (await found.http.get(f"{HERE}/readyz")).json()
        assert answer == {"status": "ready", "reasons": [], "issuers": {HERE: [], f"{THERE}/t": []}}


async def test_metrics_tell_issuers_apart():
    """Each number says which issuer it is of."""
    async with two(HERE, THERE) as found:
        await found.one.log_in()
        lines = (await found.http.get(f"{HERE}/metrics")).text.splitlines()
        assert f'mintmark_events_total{{event="session.started",issuer="{HERE}"}} 1.0' in lines
        assert not any(THERE in line and "session.started" in line for line in lines)
        assert f'mintmark_keys{{issuer="{THERE}",state="active"}} 1.0' in lines


# --- readiness -----------------------------------------------------------------------------------


async def without_key(at: Surface) -> None:
    """Let the node of ``at`` hold no key of its issuer any more."""
    view = await at.store.keyring.read(at.issuer)
    released = keyring.release(view.ring, at.services.node, now=view.now)
    assert await at.store.keyring.swap(view.ring.generation, released)
    await at.read_ring()


async def signs_elsewhere(at: Surface) -> None:
    """Another live node that holds an active key of the issuer."""
    await at.add_key(node=NodeId("node-2"))
    await at.store.keyring.beat(at.issuer, NodeId("node-2"), ring_generation=1)
    await at.read_ring()


async def pass_time(found: Two, seconds: int) -> None:
    """Let time pass for both issuers, which go on reading the store meanwhile."""
    assert isinstance(found.one.clock, FakeClock)
    for _ in range(seconds):
        found.one.clock.advance(1)
        for at in (found.one, found.other):
            await at.read_ring()
            await until(at.services.feed.is_fresh)


async def readiness(found: Two) -> tuple[list[str], list[str], list[str]]:
    """The reasons of the node, and those of each issuer."""
    answer = await found.http.get(f"{HERE}/readyz")
    body = answer.json()
    assert answer.status_code == (503 if body["reasons"] else 200)
    return body["reasons"], *(body["issuers"][at.issuer] for at in (found.one, found.other))


async def test_issuer_that_another_node_signs_for_takes_this_node_out():
    """While another live node has a key, requests are better sent there: this node is not ready."""
    async with two(HERE, THERE) as found:
        assert await readiness(found) == ([], [], [])
        await without_key(found.other)
        await signs_elsewhere(found.other)
        assert await readiness(found) == (["no_active_key"], [], ["no_active_key"])


async def test_issuer_that_nobody_signs_for_takes_no_other_down():
    """Where no live node could do better the node stays ready, and says which issuer has what."""
    async with two(HERE, THERE) as found:
        assert await readiness(found) == ([], [], [])
        await without_key(found.other)
        assert await readiness(found) == ([], [], ["no_active_key"])
        assert (await found.one.http.get("/.well-known/jwks.json")).status_code == 200
        await found.one.log_in()


async def test_dead_node_with_a_key_is_nobody_to_send_requests_to():
    """A key whose node is silent takes no requests from this node."""
    async with two(HERE, THERE) as found:
        assert await readiness(found) == ([], [], [])
        await without_key(found.other)
        await signs_elsewhere(found.other)
        await pass_time(found, keyring.LIVE_FOR - 1)
        assert await readiness(found) == (["no_active_key"], [], ["no_active_key"])
        await pass_time(found, 1)
        assert await readiness(found) == ([], [], ["no_active_key"])


async def test_node_without_any_key_is_not_ready():
    """When every issuer has trouble the node is of no use."""
    async with two(HERE, THERE) as found:
        await without_key(found.one)
        await without_key(found.other)
        assert await readiness(found) == (["no_active_key"], ["no_active_key"], ["no_active_key"])


async def test_first_key_of_an_issuer_is_waited_for_and_not_for_ever():
    """A node that has just started is not ready before each issuer has its first key, or should have."""
    async with two(HERE, THERE) as found:
        await without_key(found.other)
        app = create_node_app((found.one.services, found.other.services), audit=Audit())
        async with through(app, HERE) as http:
            assert (await http.get("/readyz")).json()["reasons"] == ["no_active_key"]
            patience = found.one.services.timing.propagation + keyring.LIVE_FOR
            await pass_time(found, patience - 1)
            assert (await http.get("/readyz")).json()["reasons"] == ["no_active_key"]
            await pass_time(found, 1)
            assert (await http.get("/readyz")).json()["reasons"] == []


async def test_what_is_wrong_with_the_node_counts_for_every_issuer():
    """Leaving, or with no signer for any issuer, a node takes no requests for anybody."""
    async with two(HERE, THERE) as found:
        found.other.services.health.leave()
        assert (await readiness(found))[0] == ["leaving"]
    async with two(HERE, THERE) as found:
        assert await readiness(found) == ([], [], [])
        found.one.signer.close()
        assert await readiness(found) == ([], ["signer_away"], [])
        found.other.signer.close()
        assert (await readiness(found))[0] == ["signer_away"]


async def test_store_that_is_away_is_everybodys_trouble():
    """With nothing read for any issuer the node is not ready."""
    clock = FakeClock()
    async with two(HERE, THERE, clock=clock) as found:
        await found.one.store.close()
        clock.advance(6)
        assert (await readiness(found))[0] == ["ring_stale", "log_stale"]
