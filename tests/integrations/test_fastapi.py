"""FastAPI: the token as a dependency, and what a client hears when it has none that will do."""

from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from mintmark import AccessToken, EventName, Verifier
from mintmark.integrations.fastapi import Auth
from mintmark.testing import FakeClock, FakeIssuer, Recorder


@pytest.fixture
def issuer():
    """An issuer under a clock that stands still."""
    with FakeIssuer(clock=FakeClock()) as issuer:
        yield issuer


@pytest.fixture
def recorder():
    """What the verifier reports."""
    return Recorder()


@pytest.fixture
def auth(issuer, recorder):
    """The security scheme of the application."""
    return Auth(Verifier(issuer.issuer, audience="orders", clock=issuer.clock, on_event=recorder))


@pytest.fixture
def app(auth):
    """A service with routes of every kind."""
    app = FastAPI(lifespan=auth.lifespan)
    optional = Auth(auth.verifier, auto_error=False)

    @app.get("/orders")
    async def orders(token: Annotated[AccessToken, auth.require("orders:read")]):
        return {"sub": token.sub, "revocation": token.revocation}

    @app.delete("/orders")
    def delete(token: Annotated[AccessToken, auth.require("orders:read", "orders:delete")]):
        return {"sub": token.sub}

    @app.get("/payout")
    def payout(token: Annotated[AccessToken, auth.require("orders:read", fresh_revocation=True)]):
        return {"sub": token.sub}

    @app.get("/greeting")
    def greeting(token: Annotated[AccessToken | None, optional.require()]):
        return {"sub": token.sub if token else None}

    def reader(token: Annotated[AccessToken, auth.require("orders:read")]) -> AccessToken:
        return token

    @app.get("/nested")
    def nested(
        first: Annotated[AccessToken, Depends(reader)],
        token: Annotated[AccessToken, auth.require("orders:write")],
    ):
        return {"same": first.jti == token.jti}

    @app.websocket("/live")
    async def live(websocket: WebSocket, token: Annotated[AccessToken, auth.require("orders:read")]):
        await websocket.accept()
        await websocket.send_text(token.sub)
        await websocket.close()

    return app


@pytest.fixture
def client(app):
    """The service, started."""
    with TestClient(app) as client:
        yield client


def bearer(issuer: FakeIssuer, scope: str = "orders:read", **claims) -> dict[str, str]:
    """The header of a request with a good token."""
    return {"Authorization": f"Bearer {issuer.mint(audience='orders', scope=scope, **claims)}"}


def test_a_good_token_reaches_the_route(client, issuer):
    """Typed and verified, with what is known of its revocation."""
    answer = client.get("/orders", headers=bearer(issuer, sub="usr_7"))
    assert (answer.status_code, answer.json()) == (200, {"sub": "usr_7", "revocation": "checked"})


def test_the_lifespan_loads_before_the_first_request_and_closes_after_the_last(app, auth, issuer):
    """No request pays for the first key set."""
    with TestClient(app):
        assert auth.verifier.ready()
        assert issuer.requests("jwks") == 1
    assert not auth.verifier.ready()


def test_no_token_is_401_with_a_bare_challenge(client):
    """RFC 6750 s.3.1: no error code where no authentication was tried."""
    answer = client.get("/orders")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("scheme", ["Basic dXNlcjpwYXNz", "DPoP abc", "Bearertoken", "token"])
def test_another_scheme_is_no_token(client, scheme):
    """Only Bearer is ours."""
    answer = client.get("/orders", headers={"Authorization": scheme})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    "value", ["Bearer", "Bearer ", "Bearer a b", "Bearer a,b", 'Bearer "a"', "Bearer a\tb"]
)
def test_malformed_credentials_are_400(client, value):
    """RFC 6750 s.3.1: invalid_request."""
    answer = client.get("/orders", headers={"Authorization": value})
    assert answer.status_code == 400
    assert 'error="invalid_request"' in answer.headers["www-authenticate"]


def test_two_authorization_headers_are_400(client, issuer):
    """A proxy might read the other one."""
    headers = [("Authorization", bearer(issuer)["Authorization"])] * 2
    assert client.get("/orders", headers=headers).status_code == 400


def test_the_scheme_is_case_insensitive(client, issuer):
    """RFC 9110 s.11.1."""
    headers = {"Authorization": bearer(issuer)["Authorization"].replace("Bearer", "bEARER")}
    assert client.get("/orders", headers=headers).status_code == 200


def test_a_token_in_the_query_is_not_read(client, issuer):
    """VF15: it would end in logs; only the header counts."""
    raw = issuer.mint(audience="orders", scope="orders:read")
    assert client.get("/orders", params={"access_token": raw}).status_code == 401


def test_a_bad_token_is_401_and_says_which_check_failed(client, issuer):
    """VF15: a challenge with a stable code, and no part of the token."""
    headers = bearer(issuer, expires_in=-3600, iat=issuer.clock.now() - 7200)
    answer = client.get("/orders", headers=headers)
    assert answer.status_code == 401
    challenge = answer.headers["www-authenticate"]
    assert challenge == 'Bearer error="invalid_token", error_description="expired"'
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {"detail": {"error": "invalid_token", "error_description": "expired"}}


def test_a_missing_scope_is_403_and_says_what_the_route_needs(client, issuer):
    """RFC 6750 s.3.1: insufficient_scope, with every scope of the route."""
    answer = client.delete("/orders", headers=bearer(issuer))
    assert answer.status_code == 403
    challenge = answer.headers["www-authenticate"]
    assert challenge.startswith('Bearer error="insufficient_scope"')
    assert challenge.endswith('scope="orders:delete orders:read"')


def test_an_outage_is_503_with_retry_after_and_no_challenge(app, issuer):
    """A client that is told 401 would throw a good token away."""
    with issuer.outage(), TestClient(app) as client:
        answer = client.get("/orders", headers=bearer(issuer))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert "www-authenticate" not in answer.headers


def test_scopes_of_nested_dependencies_add_up(client, issuer):
    """Each asks for its own."""
    assert client.get("/nested", headers=bearer(issuer, "orders:read orders:write")).json() == {"same": True}
    assert client.get("/nested", headers=bearer(issuer, "orders:write")).status_code == 403
    assert client.get("/nested", headers=bearer(issuer, "orders:read")).status_code == 403


def test_without_auto_error_nobody_is_none(client, issuer):
    """No token, or one that is no good, is nobody; what is ours is still answered."""
    assert client.get("/greeting").json() == {"sub": None}
    assert client.get("/greeting", headers={"Authorization": "Bearer x"}).json() == {"sub": None}
    assert client.get("/greeting", headers=bearer(issuer)).json() == {"sub": "usr_1"}


def test_without_auto_error_an_outage_is_still_503(app, issuer):
    """Whoever has a good token must not be taken for nobody."""
    with issuer.outage(), TestClient(app) as client:
        assert client.get("/greeting", headers=bearer(issuer)).status_code == 503


def test_a_logout_is_seen_by_the_next_request(client, issuer, recorder):
    """Revoked by the feed: 401."""
    headers = bearer(issuer, rid="session-1")
    assert client.get("/orders", headers=headers).status_code == 200
    issuer.revoke(rid="session-1")
    recorder.wait_for(EventName.REVOCATION_APPLIED)
    answer = client.get("/orders", headers=headers)
    assert answer.status_code == 401
    assert 'error_description="revoked"' in answer.headers["www-authenticate"]


def test_openapi_names_the_scheme_and_the_scopes(client, issuer):
    """OpenID Connect discovery, and per route what it needs."""
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["mintmark"] == {
        "type": "openIdConnect",
        "openIdConnectUrl": f"{issuer.issuer}/.well-known/openid-configuration",
    }
    assert document["paths"]["/orders"]["delete"]["security"] == [
        {"mintmark": ["orders:read", "orders:delete"]}
    ]
    assert document["paths"]["/payout"]["get"]["security"] == [{"mintmark": ["orders:read"]}]


def test_a_websocket_has_a_token_too(client, issuer):
    """From the handshake's header."""
    with client.websocket_connect("/live", headers=bearer(issuer)) as websocket:
        assert websocket.receive_text() == "usr_1"


def test_a_websocket_without_a_token_is_refused_before_it_is_accepted(client):
    """With the status of the refusal, where the server can send one."""
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("/live"):
        pass
    assert getattr(refused.value, "status_code", None) == 401


def test_a_server_that_cannot_answer_a_handshake_closes_it(app, issuer):
    """1008 for the client's fault, 1013 for ours."""

    async def without_extensions(scope, receive, send):
        scope.pop("extensions", None)
        await app(scope, receive, send)

    with (
        TestClient(without_extensions) as client,
        pytest.raises(WebSocketDisconnect) as refused,
        client.websocket_connect("/live"),
    ):
        pass
    assert refused.value.code == 1008


def test_scopes_may_be_written_with_a_space_between(auth, issuer):
    """As OAuth writes them: each is required, and each stands alone in the OpenAPI document."""
    app = FastAPI(lifespan=auth.lifespan)

    @app.get("/both")
    def both(token: Annotated[AccessToken, auth.require("orders:read orders:write")]):
        return {"sub": token.sub}

    with TestClient(app) as client:
        for scope, status in (("orders:read orders:write", 200), ("orders:read", 403)):
            raw = issuer.mint(audience="orders", scope=scope)
            answer = client.get("/both", headers={"Authorization": f"Bearer {raw}"})
            assert answer.status_code == status
        [needed] = client.get("/openapi.json").json()["paths"]["/both"]["get"]["security"]
    assert needed == {"mintmark": ["orders:read", "orders:write"]}
