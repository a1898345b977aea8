"""POST /token, as any OAuth client meets it."""

import base64
import hashlib
from typing import Any
from urllib.parse import quote_plus, urlencode

import httpx2
import pytest
from tests.http.surface import ALICE, SECRET, Surface, client

from mintmark.core import jws, strict_json
from mintmark.testing.clock import FakeClock

OURS = {"grant_type": "client_credentials"}


def claims_of(token: str) -> dict[str, Any]:
    """The payload of a token, unverified."""
    claims = strict_json.decode(jws.parse(token).payload)
    assert isinstance(claims, dict)
    return claims


def basic(client_id: str, secret: str) -> dict[str, str]:
    """A Basic header as RFC 6749 s.2.3.1 has it."""
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


async def stock(node: Surface, **fields: str) -> httpx2.Response:
    """What a request of the service ``stock``, which says its secret in the header, is answered."""
    return await node.http.post("/token", data=OURS | fields, headers=basic("stock", SECRET))


# --- what comes out ------------------------------------------------------------------------------


async def test_service_gets_a_token_in_its_own_name(node: Surface):
    """Client credentials give a Bearer token whose subject is the client, with no session to refresh."""
    answer = await stock(node)
    body = answer.json()
    assert answer.status_code == 200
    assert set(body) == {"access_token", "token_type", "expires_in", "scope"}
    assert body["token_type"] == "Bearer"
    claims = claims_of(body["access_token"])
    assert (claims["sub"], claims["client_id"], claims["aud"]) == ("stock", "stock", "orders")
    assert "rid" not in claims
    assert claims["scope"] == body["scope"] == "orders:read orders:write stock:read"


async def test_access_token_has_the_header_and_claims_of_rfc_9068(node: Surface):
    """``typ`` is ``at+jwt``, ``kid`` the active key's, and every required claim is there (TC1, P 2.2)."""
    token = (await node.log_in())["access_token"]
    header = jws.parse(token).header.members
    assert header == {"alg": "ES256", "kid": node.kid, "typ": "at+jwt"}
    claims = claims_of(token)
    assert set(claims) == {
        "iss", "sub", "aud", "client_id", "exp", "iat", "jti", "scope", "rid", "auth_time", "amr",
    }  # fmt: skip
    assert (claims["iss"], claims["sub"]) == (node.issuer, ALICE)


async def test_token_is_never_wider_than_the_maximum_life(node: Surface):
    """``expires_in`` and ``exp`` agree and stay within ``access_ttl``, jitter only shortens (TC4)."""
    now = node.clock.now()
    for _ in range(20):
        body = (await stock(node)).json()
        ttl = node.services.timing.access_ttl
        assert claims_of(body["access_token"])["exp"] == now + body["expires_in"]
        assert ttl * 0.95 - 1 <= body["expires_in"] <= ttl


async def test_refresh_over_the_token_endpoint(node: Surface):
    """The grant ``refresh_token`` answers with another refresh token and a token of the same session."""
    tokens = await node.log_in()
    body = (await node.refresh(tokens["refresh_token"])).json()
    assert set(body) == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
    assert body["refresh_token"] != tokens["refresh_token"]
    assert claims_of(body["access_token"])["rid"] == tokens["rid"]


async def test_request_narrows_scope_and_audience(node: Surface):
    """What is asked for within the registration is what the token says, and the answer too."""
    body = (await stock(node, scope="stock:read", audience="https://stock.example.com")).json()
    claims = claims_of(body["access_token"])
    assert (body["scope"], claims["scope"]) == ("stock:read", "stock:read")
    assert claims["aud"] == "https://stock.example.com"


@pytest.mark.parametrize(
    "body",
    [
        "audience=orders+https%3A%2F%2Fstock.example.com",
        "resource=orders&resource=https%3A%2F%2Fstock.example.com",
        "audience=orders&resource=https%3A%2F%2Fstock.example.com",
        "audience=orders&resource=orders&resource=https%3A%2F%2Fstock.example.com",
    ],
)
async def test_several_audiences_may_be_named_either_way(node: Surface, body):
    """``audience`` is a list with spaces, ``resource`` may repeat (RFC 8707); together they are one list."""
    answer = await node.http.post(
        "/token",
        content=f"grant_type=client_credentials&{body}",
        headers=basic("stock", SECRET) | {"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert claims_of(answer.json()["access_token"])["aud"] == ["orders", "https://stock.example.com"]


async def test_refresh_may_narrow_and_never_widens(node: Surface):
    """A refresh for more scope than the session has is refused, and the session lives (RF5)."""
    tokens = await node.log_in(scope="orders:read")
    wider = await node.refresh(tokens["refresh_token"], scope="orders:read orders:write")
    assert (wider.status_code, wider.json()["error"]) == (400, "invalid_scope")
    other = await node.refresh(tokens["refresh_token"], audience="https://stock.example.com")
    assert (other.status_code, other.json()["error"]) == (400, "invalid_target")
    assert (await node.refresh(tokens["refresh_token"])).json()["scope"] == "orders:read"


# --- who asks ------------------------------------------------------------------------------------


async def test_secret_may_come_in_the_body(node: Surface):
    """``client_secret_post`` is as good as Basic."""
    answer = await node.http.post("/token", data=OURS | {"client_id": "stock", "client_secret": SECRET})
    assert answer.status_code == 200


async def test_basic_credentials_are_form_encoded(node: Surface):
    """A secret with a colon, a plus, a percent sign and beyond ASCII works in Basic (RFC 6749 s.2.3.1)."""
    odd = "a:b+c%41 é"
    await node.store.directory.add_client(client("odd", secret=odd, grant_types=("client_credentials",)))
    answer = await node.http.post("/token", data=OURS, headers=basic("odd", odd))
    assert answer.status_code == 200


async def test_client_id_may_stand_beside_basic_if_it_is_the_same(node: Surface):
    """Many libraries send ``client_id`` in the body too; another one is refused."""
    same = await node.http.post("/token", data=OURS | {"client_id": "stock"}, headers=basic("stock", SECRET))
    assert same.status_code == 200
    other = await node.http.post("/token", data=OURS | {"client_id": "spa"}, headers=basic("stock", SECRET))
    assert (other.status_code, other.json()["error"]) == (400, "invalid_request")


async def test_only_one_method_of_authentication(node: Surface):
    """A secret in the header and one in the body are refused, although both are right (TK6)."""
    answer = await node.http.post(
        "/token", data=OURS | {"client_secret": SECRET}, headers=basic("stock", SECRET)
    )
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_two_authorization_headers_are_refused(node: Surface):
    """Also where both are right: a proxy and we could choose differently."""
    header = ("Authorization", basic("stock", SECRET)["Authorization"])
    answer = await node.http.post("/token", data=OURS, headers=[header, header])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("form", "headers"),
    [
        ({}, basic("nobody", SECRET)),
        ({}, basic("stock", "wrong")),
        ({}, basic("stock", "")),
        ({}, basic("spa", "secret")),
        ({}, basic("usr_alice", SECRET)),
        ({}, basic("stock\0", SECRET)),
        ({}, {"Authorization": "Basic !!!"}),
        ({}, {"Authorization": "Basic " + base64.b64encode(b"no colon").decode()}),
        ({}, {"Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()}),
        ({}, {"Authorization": "Basic " + base64.b64encode(b"%ff:%ff").decode()}),
        ({}, {"Authorization": "Basic"}),
        ({}, {"Authorization": "Bearer abc"}),
        ({"client_id": "stock", "client_secret": "wrong"}, {}),
        ({"client_id": "nobody", "client_secret": SECRET}, {}),
        ({"client_id": "stock"}, {}),
        ({"client_id": "spa", "client_secret": "secret"}, {}),
        ({"client_id": "\x00"}, {}),
        ({}, {}),
    ],
)
async def test_failed_authentication_is_401_invalid_client(node: Surface, form, headers):
    """Whatever is wrong is 401 ``invalid_client``, with a challenge exactly if the header was used (TK10)."""
    answer = await node.http.post("/token", data=OURS | form, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert ("www-authenticate" in answer.headers) is ("Authorization" in headers)
    assert answer.headers.get("www-authenticate", "Basic ").startswith("Basic ")
    assert SECRET not in answer.text


async def test_unknown_client_and_wrong_secret_are_one_answer(node: Surface):
    """Status, headers and body are the same, so nobody learns which clients exist (TK6)."""
    answers = [
        await node.http.post("/token", data=OURS, headers=basic(*pair))
        for pair in (("nobody", SECRET), ("stock", "wrong"), ("spa", "secret"))
    ]
    assert len({(a.status_code, a.content, tuple(sorted(a.headers.items()))) for a in answers}) == 1


async def test_rotated_secret_is_refused_at_once(node: Surface):
    """From the moment a secret was replaced the old one is refused, and the new one works."""
    stock_id = client("stock").client_id
    await node.store.directory.set_client_secret(node.issuer, stock_id, hashlib.sha256(b"new").digest())
    assert (await stock(node)).status_code == 401
    assert (await node.http.post("/token", data=OURS, headers=basic("stock", "new"))).status_code == 200


# --- what is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"grant_type": ""}, "invalid_request"),
        ({"grant_type": "password", "username": "alice", "password": "x"}, "unsupported_grant_type"),
        ({"grant_type": "urn:ietf:params:oauth:grant-type:device_code"}, "unsupported_grant_type"),
        ({"grant_type": "Client_Credentials"}, "unsupported_grant_type"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": ""}, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "mmr_forged"}, "invalid_grant"),
        ({"grant_type": "refresh_token", "refresh_token": "mmr_" + "A" * 112}, "invalid_grant"),
        ({"grant_type": "refresh_token", "refresh_token": "é\x00"}, "invalid_grant"),
        ({"scope": "orders:read admin"}, "invalid_scope"),
        ({"scope": 'orders:"read'}, "invalid_scope"),
        ({"scope": "orders:read\x00"}, "invalid_scope"),
        ({"scope": "  "}, "invalid_scope"),
        ({"audience": "payments"}, "invalid_target"),
        ({"audience": "orders payments"}, "invalid_target"),
        ({"audience": "*"}, "invalid_target"),
        ({"resource": "https://stock.example.com/"}, "invalid_target"),
    ],
)
async def test_refused_request_has_its_registered_error(node: Surface, fields, error):
    """Each fault is 400 with the error code that its RFC registered, in printable ASCII."""
    answer = await stock(node, **fields)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert set(answer.json()) == {"error", "error_description"}
    assert answer.json()["error_description"].isascii()
    assert answer.json()["error_description"].isprintable()


async def test_client_uses_only_the_grants_it_is_registered_for(node: Surface):
    """A grant that exists, but not for this client, is ``unauthorized_client`` (TK9)."""
    answer = await node.http.post("/token", data=OURS | {"client_id": "spa"})
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")


async def test_public_client_cannot_act_in_its_own_name(node: Surface):
    """A client without a secret is refused client credentials even where it was registered for them."""
    await node.store.directory.add_client(client("open", grant_types=("client_credentials",)))
    answer = await node.http.post("/token", data=OURS | {"client_id": "open"})
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")


async def test_client_without_an_audience_gets_no_token(node: Surface):
    """A token for nobody in particular is never made (TC2)."""
    await node.store.directory.add_client(
        client("lost", secret=SECRET, audiences=(), grant_types=("client_credentials",))
    )
    answer = await node.http.post("/token", data=OURS, headers=basic("lost", SECRET))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")


async def test_refresh_token_belongs_to_its_client(node: Surface):
    """Another client's refresh token is ``invalid_grant``, and its owner goes on with it (RF6)."""
    tokens = await node.log_in()
    stolen = await stock(node, grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    assert (stolen.status_code, stolen.json()["error"]) == (400, "invalid_grant")
    assert (await node.refresh(tokens["refresh_token"])).status_code == 200


@pytest.mark.parametrize("query", ["grant_type=client_credentials", "client_secret=x", "x=1", "scope=", "&"])
async def test_parameters_in_the_url_are_refused(node: Surface, query):
    """Any query is refused, so that no secret gets used to being in a log (TK1)."""
    answer = await node.http.post(f"/token?{query}", data=OURS, headers=basic("stock", SECRET))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("name", ["grant_type", "scope", "client_id", "audience", "unknown"])
async def test_repeated_parameter_is_refused(node: Surface, name):
    """Twice the same parameter, known or not, is refused whatever its values (RFC 6749 s.3.2)."""
    once = {
        "grant_type": "client_credentials",
        "client_id": "stock",
        "scope": "orders:read",
        "audience": "orders",
    }
    fields = [*once.items(), (name, once.get(name, "1")), (name, once.get(name, "1"))]
    answer = await node.http.post(
        "/token",
        content=urlencode(fields),
        headers=basic("stock", SECRET) | {"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert answer.json()["error_description"] == f"{name}: more than once"


async def test_unknown_and_empty_parameters_are_ignored(node: Surface):
    """A parameter that we do not know, or that has no value, changes nothing (RFC 6749 s.3.2)."""
    answer = await stock(
        node, unknown="1", scope="", audience="", resource="", client_id="", client_secret=""
    )
    assert answer.status_code == 200
    assert answer.json()["scope"] == "orders:read orders:write stock:read"


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "text/plain",
        "multipart/form-data; boundary=x",
        "",
        "application/x-www-form-urlencoded; charset=utf-16",
    ],
)
async def test_only_a_form_is_read(node: Surface, media_type):
    """A body of another type is 415, in OAuth's form (TK1)."""
    answer = await node.http.post(
        "/token",
        content=urlencode(OURS),
        headers=basic("stock", SECRET) | {"Content-Type": media_type},
    )
    assert (answer.status_code, answer.json()["error"]) == (415, "invalid_request")


@pytest.mark.parametrize(
    "media_type",
    ["application/x-www-form-urlencoded;charset=UTF-8", 'Application/X-WWW-Form-URLEncoded; charset="utf-8"'],
)
async def test_form_may_say_its_charset(node: Surface, media_type):
    """Case and the charset UTF-8 are no fault of a form."""
    answer = await node.http.post(
        "/token",
        content=urlencode(OURS),
        headers=basic("stock", SECRET) | {"Content-Type": media_type},
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "body", [b"\xff=\xff", b"grant_type=%ff", b"a=1&" * 65, b"%00=%00", b"=", b"&&&", b""]
)
async def test_garbage_in_a_form_is_400(node: Surface, body):
    """Bytes that are no form, or one too large, are refused as the client's fault."""
    answer = await node.http.post(
        "/token",
        content=body,
        headers=basic("stock", SECRET) | {"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "fields", [OURS, {"grant_type": "nothing"}, {"grant_type": "refresh_token", "refresh_token": "x"}]
)
async def test_no_answer_may_be_stored(node: Surface, fields):
    """Every answer of the endpoint says no-store, success and error alike (TK8)."""
    answers = [
        await node.http.post("/token", data=fields, headers=basic("stock", SECRET)),
        await node.http.post("/token", data=fields),
        await node.http.post("/token?x=1", data=fields),
        await node.http.get("/token"),
    ]
    assert [answer.headers["cache-control"] for answer in answers] == ["no-store"] * 4


async def test_spent_refresh_token_ends_the_session(node: Surface):
    """Replay outside the grace window is ``invalid_grant``, and then the newest is refused too (RF2)."""
    assert isinstance(node.clock, FakeClock)
    first = (await node.log_in())["refresh_token"]
    second = (await node.refresh(first)).json()["refresh_token"]
    node.clock.advance(31)
    await node.services.ring.refresh()
    third = (await node.refresh(second)).json()["refresh_token"]
    node.clock.advance(31)
    await node.services.ring.refresh()
    for token in (first, third, second):
        answer = await node.refresh(token)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


async def test_repeated_refresh_within_grace_is_the_same_token(node: Surface):
    """An answer that was lost is given again, byte for byte, and each access token is new (RF7)."""
    first = (await node.log_in())["refresh_token"]
    one, two = (await node.refresh(first)).json(), (await node.refresh(first)).json()
    assert one["refresh_token"] == two["refresh_token"]
    assert one["access_token"] != two["access_token"]
