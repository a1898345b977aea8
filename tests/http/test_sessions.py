"""/v1/sessions: log in, refresh, log out."""

import asyncio
import base64
import json
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from tests.http.asking import claims_of
from tests.http.asking import held_key as key_of_another_node
from tests.http.surface import ALICE, PASSWORD, SECRET, Surface, client, password_hash, user

from mintmark.core import base64url, jws, strict_json
from mintmark.core.revocation import Kind
from mintmark.http.app import create_app
from mintmark.testing.clock import FakeClock
from mintmark.testing.key import SigningKey
from mintmark.units import Issuer, Kid

GOOD = {"username": "alice", "password": PASSWORD, "client_id": "spa"}
JSON = {"Content-Type": "application/json"}


def fingerprint(answer: httpx2.Response) -> tuple[Any, ...]:
    """All that a caller sees of an answer."""
    return answer.status_code, answer.content, tuple(sorted(answer.headers.items()))


async def revoked(node: Surface) -> list[str]:
    """The sessions that the feed denies."""
    events = (await node.http.get("/revocations")).json()["events"]
    return [event["value"] for event in events if event["kind"] == Kind.RID]


async def assert_over(node: Surface, tokens: dict[str, Any]) -> None:
    """Nothing can be done with ``tokens`` any more."""
    answer = await node.refresh(tokens["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert tokens["rid"] in await revoked(node)


# --- log in --------------------------------------------------------------------------------------


async def test_log_in_answers_with_the_tokens_of_a_new_session(node: Surface):
    """A log-in is 201, never stored, with all six members, and the access token says the same."""
    answer = await node.http.post("/v1/sessions", json=GOOD)
    tokens = answer.json()
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    assert set(tokens) == {"access_token", "token_type", "expires_in", "refresh_token", "scope", "rid"}
    claims = strict_json.decode(jws.parse(tokens["access_token"]).payload)
    assert isinstance(claims, dict)
    assert (claims["rid"], claims["sub"], claims["client_id"]) == (tokens["rid"], ALICE, "spa")
    assert tokens["scope"] == claims["scope"] == "orders:read orders:write"


async def test_each_log_in_is_a_session_of_its_own(node: Surface):
    """Two log-ins have two ``rid``s, and ending one leaves the other alone."""
    one, two = await node.log_in(), await node.log_in()
    assert one["rid"] != two["rid"]
    await node.log_out(one["access_token"])
    await assert_over(node, one)
    assert (await node.refresh(two["refresh_token"])).status_code == 200


@pytest.mark.parametrize("username", ["alice", " ALICE ", "\uff21lice"])
async def test_user_names_are_compared_in_one_form(node: Surface, username):
    """Case, width and surrounding space of a user name do not matter."""
    assert (await node.log_in(username=username))["rid"]


@pytest.mark.parametrize(
    "audience", ["orders https://stock.example.com", ["orders", "https://stock.example.com"]]
)
async def test_log_in_may_narrow_scope_and_audience(node: Surface, audience):
    """Scope and audience are text or, for the audience, a list; the token has what was asked for."""
    tokens = await node.log_in(scope="orders:read", audience=audience)
    claims = strict_json.decode(jws.parse(tokens["access_token"]).payload)
    assert isinstance(claims, dict)
    assert claims["aud"] == ["orders", "https://stock.example.com"]
    assert claims["scope"] == tokens["scope"] == "orders:read"


async def test_scope_is_what_user_and_client_both_have(node: Surface):
    """What only the client or only the user may do is not granted, and asking for it is refused."""
    assert "stock:read" not in (await node.log_in())["scope"]
    answer = await node.http.post("/v1/sessions", json=GOOD | {"scope": "stock:read"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_scope")


@pytest.mark.parametrize(
    "changes",
    [
        {"username": "nobody"},
        {"password": "wrong"},
        {"username": "disabled"},
        {"username": "disabled", "password": "wrong"},
        {"username": ""},
        {"username": "alice\x00"},
        {"username": "a" * 10_000},
        {"password": ""},
        {"password": PASSWORD + "\x00"},
        {"password": PASSWORD + " "},
        {"password": "x" * 10_000},
    ],
)
async def test_failed_log_in_is_one_answer(node: Surface, changes):
    """Unknown, wrong, disabled, impossible: status, headers and body are the same (PW8)."""
    disabled = user(password_hash(), name="disabled", disabled_at=node.clock.now())
    await node.store.directory.add_user(disabled)
    expected = await node.http.post("/v1/sessions", json=GOOD | {"password": "not it"})
    assert (expected.status_code, expected.json()["code"]) == (401, "invalid_credentials")
    answer = await node.http.post("/v1/sessions", json=GOOD | changes)
    assert fingerprint(answer) == fingerprint(expected)


async def test_confidential_client_logs_users_in_with_its_secret(node: Surface):
    """A client with a secret proves it, in the body or in a Basic header, or is refused as any client is."""
    body = {"username": "alice", "password": PASSWORD}
    basic = "Basic " + base64.b64encode(f"stock:{SECRET}".encode()).decode()
    with_header = await node.http.post("/v1/sessions", json=body, headers={"Authorization": basic})
    with_body = await node.http.post(
        "/v1/sessions", json=body | {"client_id": "stock", "client_secret": SECRET}
    )
    assert (with_header.status_code, with_body.status_code) == (201, 201)
    for wrong in (
        {},
        {"client_id": "stock"},
        {"client_id": "stock", "client_secret": "x"},
        {"client_id": "no"},
    ):
        refused = await node.http.post("/v1/sessions", json=body | wrong)
        assert (refused.status_code, refused.json()["code"]) == (401, "invalid_client")


async def test_only_first_party_clients_may_send_passwords(node: Surface):
    """Any other client is refused before the password is looked at (AZ5)."""
    await node.store.directory.add_client(client("other", first_party=False))
    for password in (PASSWORD, "wrong"):
        answer = await node.http.post(
            "/v1/sessions", json=GOOD | {"client_id": "other", "password": password}
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "unauthorized_client")


# --- the form of requests ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({**GOOD, "admin": True}, "admin"),
        ({"password": "x", "client_id": "spa"}, "username"),
        ({**GOOD, "username": 7}, "$.username"),
        ({**GOOD, "password": None}, "$.password"),
        ({**GOOD, "scope": ["orders:read"]}, "$.scope"),
        ({**GOOD, "audience": [1]}, "$.audience"),
        ({**GOOD, "audience": {"a": 1}}, "$.audience"),
        ([GOOD], "array"),
        ("text", "str"),
    ],
)
async def test_wrong_member_is_named(node: Surface, body, named):
    """A body of another shape is 400, and says which member it is about, not what was in it (AD2)."""
    answer = await node.http.post("/v1/sessions", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (400, "invalid_request")
    assert named in problem["detail"]
    assert PASSWORD not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"username":"alice","username":"bob","password":"x","client_id":"spa"}',
        b'{"username":"\\ud800","password":"x","client_id":"spa"}',
        b'{"username":"alice","password":"\\udfff","client_id":"spa"}',
        b'{"username":NaN}',
        b'{"a":' * 3000,
        b"[" * 16_000,
        b'{"username":1e999}',
    ],
)
async def test_what_is_not_strict_json_is_400(node: Surface, body):
    """Broken, ambiguous or abusive JSON is the client's fault and never 500."""
    for method, path in (
        ("POST", "/v1/sessions"),
        ("POST", "/v1/sessions/refresh"),
        ("DELETE", "/v1/sessions/current"),
    ):
        answer = await node.http.request(method, path, content=body, headers=JSON)
        expected = 401 if method == "DELETE" and not body else 400
        assert answer.status_code == expected, path
        assert answer.headers["content-type"] == "application/problem+json; charset=utf-8"


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""]
)
async def test_only_json_is_read(node: Surface, media_type):
    """Another media type is 415: a form that a foreign page could send is no JSON (CK4)."""
    answer = await node.http.post(
        "/v1/sessions", content=json.dumps(GOOD), headers={"Content-Type": media_type}
    )
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


async def test_parameters_in_the_url_are_refused(node: Surface):
    """A password in the query is refused, whatever the body says."""
    answer = await node.http.post("/v1/sessions?password=x", json=GOOD)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_problem_has_the_members_of_rfc_9457(node: Surface):
    """A problem has a stable type and code, a title, its status and a detail."""
    answer = await node.http.post("/v1/sessions", json=GOOD | {"password": "wrong"})
    assert answer.json() == {
        "type": "urn:mintmark:problem:invalid_credentials",
        "title": "Unauthorized",
        "status": 401,
        "detail": "user name or password is wrong",
        "code": "invalid_credentials",
    }
    assert answer.headers["cache-control"] == "no-store"


# --- refresh -------------------------------------------------------------------------------------


async def test_refresh_in_json(node: Surface):
    """A refresh answers 200 with new tokens of the same session, and never grows its scope."""
    tokens = await node.log_in(scope="orders:read")
    body = {"refresh_token": tokens["refresh_token"], "client_id": "spa"}
    answer = await node.http.post("/v1/sessions/refresh", json=body)
    assert answer.status_code == 200
    assert answer.json()["rid"] == tokens["rid"]
    assert answer.json()["scope"] == "orders:read"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"refresh_token": "mmr_forged"}, 400, "invalid_grant"),
        ({"refresh_token": ""}, 400, "invalid_grant"),
        ({"client_id": "stock", "client_secret": SECRET}, 400, "invalid_grant"),
        ({"client_id": "nobody"}, 401, "invalid_client"),
        ({"scope": "orders:read orders:write"}, 400, "invalid_scope"),
        ({"audience": "https://stock.example.com"}, 400, "invalid_target"),
        ({"more": 1}, 400, "invalid_request"),
    ],
)
async def test_refused_refresh_is_a_problem(node: Surface, changes, status, code):
    """The JSON refresh has the rules of the grant, and its errors as problems."""
    tokens = await node.log_in(scope="orders:read")
    body = {"refresh_token": tokens["refresh_token"], "client_id": "spa"} | changes
    answer = await node.http.post("/v1/sessions/refresh", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_disabled_user_gets_nothing_more(node: Surface):
    """Once the user is disabled the session is over, for refresh and for access tokens (RF8)."""
    tokens = await node.log_in()
    await node.store.directory.disable_user(node.issuer, ALICE, timing=node.services.timing)
    await assert_over(node, tokens)


# --- log out -------------------------------------------------------------------------------------


async def test_log_out_with_an_access_token(node: Surface):
    """204, and from then on no refresh works and the feed denies the session (RV1)."""
    tokens = await node.log_in()
    answer = await node.log_out(tokens["access_token"])
    assert (answer.status_code, answer.content) == (204, b"")
    await assert_over(node, tokens)


async def test_log_out_with_any_refresh_token_of_the_session(node: Surface):
    """The newest refresh token ends the session, and so does one that was spent long ago."""
    for spent in (False, True):
        tokens = await node.log_in()
        newer = (await node.refresh(tokens["refresh_token"])).json()
        token = tokens["refresh_token"] if spent else newer["refresh_token"]
        answer = await node.http.request("DELETE", "/v1/sessions/current", json={"refresh_token": token})
        assert answer.status_code == 204
        await assert_over(node, newer | {"rid": tokens["rid"]})


async def test_log_out_twice_is_log_out(node: Surface):
    """A genuine token of a session that has ended is 204 again, and appends no second event."""
    tokens = await node.log_in()
    for _ in range(2):
        assert (await node.log_out(tokens["access_token"])).status_code == 204
        answer = await node.http.request(
            "DELETE", "/v1/sessions/current", json={"refresh_token": tokens["refresh_token"]}
        )
        assert answer.status_code == 204
    assert await revoked(node) == [tokens["rid"]]


async def test_token_of_a_key_that_this_node_has_not_read_yet_logs_out(node: Surface):
    """RV1: a key that another node published a moment ago is looked for: who hears 401 takes himself for
    logged out."""
    tokens = await node.log_in()
    node.reading.cancel()
    await asyncio.wait([node.reading])
    key = await key_of_another_node(node)
    assert node.services.ring.view.ring.find(Kid(key.kid)) is None
    token = key.sign({"alg": "ES256", "kid": key.kid, "typ": "at+jwt"}, claims_of(tokens["access_token"]))
    assert (await node.log_out(token)).status_code == 204
    assert (await node.refresh(tokens["refresh_token"])).status_code == 400


async def test_expired_access_token_still_logs_out(node: Surface):
    """Who comes back after lunch and clicks «log out» is logged out, with the token that he has."""
    assert isinstance(node.clock, FakeClock)
    tokens = await node.log_in()
    node.clock.advance(node.services.timing.access_ttl + 1)
    await node.services.ring.refresh()
    assert (await node.log_out(tokens["access_token"])).status_code == 204
    answer = await node.refresh(tokens["refresh_token"])
    assert answer.json()["error"] == "invalid_grant"


async def forged(node: Surface, tokens: dict[str, Any], kind: str) -> str:
    """A token that names the session of ``tokens`` and does not come from this issuer as it should."""
    header_part, payload_part, signature = tokens["access_token"].split(".")
    payload = base64url.decode(payload_part)
    claims = strict_json.decode(payload)
    assert isinstance(claims, dict)
    key = SigningKey.generate("ES256")
    header = {"alg": "ES256", "kid": node.kid, "typ": "at+jwt"}
    match kind:
        case "other key":
            return key.sign(header, claims)
        case "unknown kid":
            return key.sign(header | {"kid": key.kid}, claims)
        case "no kid":
            return key.sign({"alg": "ES256", "typ": "at+jwt"}, claims)
        case "odd kid":
            return key.sign(header | {"kid": "../../etc/passwd"}, claims)
        case "unsigned":
            return f"{header_part}.{payload_part}."
        case "alg none":
            none = base64url.encode(b'{"alg":"none","typ":"at+jwt"}')
            return f"{none}.{payload_part}."
        case "another rid":
            changed = base64url.encode(payload.replace(tokens["rid"].encode(), b"A" * 22))
            return f"{header_part}.{changed}.{signature}"
        case "other alg":
            changed = base64url.encode(json.dumps(header | {"alg": "EdDSA"}).encode())
            return f"{changed}.{payload_part}.{signature}"
        case "id token":
            return str(await node.signer.sign(node.kid, "at+jwt", payload)).replace(
                header_part, base64url.encode(json.dumps(header | {"typ": "JWT"}).encode())
            )
        case "no session":
            without = {name: value for name, value in claims.items() if name != "rid"}
            return await node.signer.sign(node.kid, "at+jwt", json.dumps(without).encode())
        case "rid is no text":
            return await node.signer.sign(node.kid, "at+jwt", json.dumps(claims | {"rid": 7}).encode())
        case "nothing":
            return ""
        case "garbage":
            return "a.b.c"
    raise ValueError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "other key",
        "unknown kid",
        "no kid",
        "odd kid",
        "unsigned",
        "alg none",
        "another rid",
        "other alg",
        "id token",
        "no session",
        "rid is no text",
        "nothing",
        "garbage",
    ],
)
async def test_what_we_did_not_sign_logs_nobody_out(node: Surface, kind):
    """A token that is not genuine is 401 with a Bearer challenge, and the session lives (R3)."""
    tokens = await node.log_in()
    answer = await node.log_out(await forged(node, tokens, kind))
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    assert answer.headers["www-authenticate"] == 'Bearer realm="mintmark", error="invalid_token"'
    assert (await node.refresh(tokens["refresh_token"])).status_code == 200
    assert await revoked(node) == []


async def known_key(node: Surface) -> SigningKey:
    """A published key of another node that this one has read."""
    key = await key_of_another_node(node)
    await node.read_ring()
    return key


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ({}, True),
        ({"typ": "application/AT+JWT"}, True),
        ({"typ": "JWT"}, False),
        ({"typ": "logout+jwt"}, False),
        ({"typ": None}, False),
        ({"alg": "EdDSA"}, False),
        ({"alg": "RS256"}, False),
        ({"crit": ["exp"]}, False),
    ],
)
async def test_only_an_access_token_logs_out(node: Surface, header, accepted):
    """A token that our own key signed as something else, or under another algorithm, is 401 (TC3, J 3.12)."""
    tokens = await node.log_in()
    key = await known_key(node)
    claims = strict_json.decode(jws.parse(tokens["access_token"]).payload)
    assert isinstance(claims, dict)
    whole = {"alg": "ES256", "kid": key.kid, "typ": "at+jwt"} | header
    token = key.sign({name: value for name, value in whole.items() if value is not None}, claims)
    assert (await node.log_out(token)).status_code == (204 if accepted else 401)
    assert await revoked(node) == ([tokens["rid"]] if accepted else [])


async def test_kid_that_no_key_can_have_is_401_whatever_the_ring(node: Surface):
    """A ``kid`` of another shape is no new key, so a stale ring does not make it 503."""
    assert isinstance(node.clock, FakeClock)
    odd = await forged(node, await node.log_in(), "odd kid")
    await node.store.close()
    node.clock.advance(6)
    assert (await node.log_out(odd)).status_code == 401


async def test_two_tokens_log_nobody_out(node: Surface):
    """Two Authorization headers are 400: nobody can say which of them was meant."""
    tokens = await node.log_in()
    bearer = ("Authorization", f"Bearer {tokens['access_token']}")
    answer = await node.http.delete("/v1/sessions/current", headers=[bearer, bearer])
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert await revoked(node) == []


async def test_forged_refresh_token_logs_nobody_out(node: Surface):
    """The public ``rid`` with a wrong signature is 401, and the session lives (R3)."""
    tokens = await node.log_in()
    raw = bytearray(base64url.decode(tokens["refresh_token"].removeprefix("mmr_")))
    raw[-1] ^= 1
    forgery = "mmr_" + base64url.encode(bytes(raw))
    answer = await node.http.request("DELETE", "/v1/sessions/current", json={"refresh_token": forgery})
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    assert (await node.refresh(tokens["refresh_token"])).status_code == 200


async def test_log_out_without_a_token_is_401(node: Surface):
    """Neither header nor body: a challenge without an error code (RFC 6750 s.3.1)."""
    answer = await node.http.delete("/v1/sessions/current")
    assert (answer.status_code, answer.json()["code"]) == (401, "no_credentials")
    assert answer.headers["www-authenticate"] == 'Bearer realm="mintmark"'


async def test_other_schemes_do_not_log_out(node: Surface):
    """A token under another scheme than Bearer is 400."""
    tokens = await node.log_in()
    answer = await node.http.delete(
        "/v1/sessions/current", headers={"Authorization": f"DPoP {tokens['access_token']}"}
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_token_of_a_key_that_is_too_new_is_503(node: Surface):
    """On a stale ring a token of an unknown key is 503, for its key may be a new one; 401 would be a lie."""
    assert isinstance(node.clock, FakeClock)
    tokens = await node.log_in()
    forgery = await forged(node, tokens, "unknown kid")
    await node.store.close()
    node.clock.advance(6)
    answer = await node.log_out(forgery)
    assert (answer.status_code, answer.json()["code"]) == (503, "temporarily_unavailable")


async def test_token_of_another_issuer_logs_nobody_out(node: Surface):
    """A token that our own key signed for another issuer is 401 (VF5)."""
    tokens = await node.log_in()
    other = replace(node.services, issuer=Issuer(node.issuer + "/other"))
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=create_app(other)), base_url=other.issuer
    ) as http:
        answer = await http.delete(
            other.issuer + "/v1/sessions/current",
            headers={"Authorization": f"Bearer {tokens['access_token']}"},
        )
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
