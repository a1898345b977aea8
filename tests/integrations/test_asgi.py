"""A whole ASGI application behind a token, without any framework."""

import json

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from mintmark import InsufficientScope, InvalidToken, Verifier, VerifierUnavailable
from mintmark.integrations.asgi import BadRequest, NoToken, RequireToken, bearer_token, refuse
from mintmark.testing import FakeClock, FakeIssuer
from mintmark.units import Seconds


@pytest.fixture
def issuer():
    """An issuer under a clock that stands still."""
    with FakeIssuer(clock=FakeClock()) as issuer:
        yield issuer


@pytest.fixture
def verifier(issuer):
    """A verifier of its tokens."""
    verifier = Verifier(issuer.issuer, audience="orders", clock=issuer.clock)
    yield verifier
    verifier.close()


async def application(scope, receive, send):
    """Says who asks, over HTTP and WebSocket, and keeps a lifespan."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            kind = message["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    who = scope["token"].sub if "token" in scope else "nobody"
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": who})
        await send({"type": "websocket.close", "code": 1000})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": who.encode()})


@pytest.fixture
def client(verifier):
    """The guarded application, started."""
    guarded = RequireToken(application, verifier, scopes="orders:read", exclude=["/healthz"])
    with TestClient(guarded) as client:
        yield client


def bearer(issuer, scope="orders:read"):
    """The header of a request with a good token."""
    return {"Authorization": f"Bearer {issuer.mint(audience='orders', scope=scope)}"}


def test_the_token_is_in_the_scope(client, issuer):
    """The application finds it there, verified."""
    assert client.get("/", headers=bearer(issuer)).text == "usr_1"


def test_excluded_paths_need_none(client):
    """Probes, say; and nothing below them."""
    assert client.get("/healthz").text == "nobody"
    assert client.get("/healthz/x").status_code == 401


def test_refusals_are_answered_before_the_application(client, issuer):
    """401, 403, with a JSON body and a challenge."""
    answer = client.get("/")
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
    answer = client.get("/", headers=bearer(issuer, scope=""))
    assert answer.status_code == 403
    assert answer.headers["www-authenticate"].endswith('scope="orders:read"')


def test_the_lifespan_starts_and_closes_the_verifier(verifier, issuer):
    """Loaded before the first request, closed after the last."""
    with TestClient(RequireToken(application, verifier)):
        assert verifier.ready()
        assert issuer.requests("feed") == 1
    assert not verifier.ready()


async def bare(scope, receive, send):
    """An application that knows of nothing but HTTP."""
    assert scope["type"] == "http"
    await application(scope, receive, send)


async def silent(scope, receive, send):
    """An application that ignores a lifespan."""
    if scope["type"] != "lifespan":
        await application(scope, receive, send)


async def failing(scope, receive, send):
    """An application that cannot start."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
    raise RuntimeError("no database")


async def crashing(scope, receive, send):
    """An application whose lifespan breaks while it serves."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    raise RuntimeError("crashed")


async def lifespan(app, ready=lambda: None):
    """What ``app`` answers to a startup and a shutdown; ``ready()`` is called in between."""
    answers: list[dict[str, str]] = []
    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive():
        kind = next(messages)
        if kind == "lifespan.shutdown":
            ready()
        return {"type": kind}

    async def send(message):
        answers.append(message)

    try:
        await app({"type": "lifespan"}, receive, send)
    finally:
        answers.append({"type": "end"})
    return [answer["type"].removeprefix("lifespan.") for answer in answers[:-1]]


@pytest.mark.anyio
@pytest.mark.parametrize("app", [application, bare, silent, failing])
async def test_a_verifier_that_must_be_warm_fails_the_startup(issuer, app):
    """The server is told so, and ``app`` is not asked: an error alone would count as "no lifespan"."""
    verifier = Verifier(issuer.issuer, audience="orders", clock=issuer.clock, on_cold="require")
    with issuer.outage():
        assert await lifespan(RequireToken(app, verifier)) == ["startup.failed"]
    with pytest.raises(VerifierUnavailable) as refused:
        await verifier.averify(issuer.mint(audience="orders"))
    assert refused.value.code == "closed"


@pytest.mark.anyio
@pytest.mark.parametrize("app", [application, bare, silent])
async def test_an_application_without_a_lifespan_is_given_one(verifier, issuer, app):
    """Started before the first request, open while it serves, closed after the last."""
    states: list[bool] = []
    answers = await lifespan(RequireToken(app, verifier), lambda: states.append(verifier.ready()))
    assert answers == ["startup.complete", "shutdown.complete"]
    assert states == [True]
    assert not verifier.ready()


@pytest.mark.anyio
@pytest.mark.parametrize("app", [failing, crashing])
async def test_an_application_that_fails_closes_the_verifier(verifier, app):
    """Its own answer and error go to the server as they are."""
    with pytest.raises(RuntimeError):
        await lifespan(RequireToken(app, verifier))
    assert not verifier.ready()


def test_websockets_are_guarded(client, issuer):
    """A token in the handshake lets it through; without one it is refused with a status."""
    with client.websocket_connect("/", headers=bearer(issuer)) as websocket:
        assert websocket.receive_text() == "usr_1"
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("/"):
        pass
    assert getattr(refused.value, "status_code", None) == 401


def test_a_server_that_can_only_close_a_websocket(verifier, issuer):
    """1008 before it is accepted."""
    guarded = RequireToken(application, verifier)

    async def without_extensions(scope, receive, send):
        scope.pop("extensions", None)
        await guarded(scope, receive, send)

    with (
        TestClient(without_extensions) as client,
        pytest.raises(WebSocketDisconnect) as refused,
        client.websocket_connect("/"),
    ):
        pass
    assert refused.value.code == 1008


def test_an_outage_is_503(verifier, issuer):
    """With Retry-After, and no challenge."""
    with issuer.outage(), TestClient(RequireToken(application, verifier)) as client:
        answer = client.get("/", headers=bearer(issuer))
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([], NoToken),
        ([b"Basic x"], NoToken),
        ([b""], NoToken),
        ([b"Bearer"], BadRequest),
        ([b"Bearer  "], BadRequest),
        ([b"Bearer a b"], BadRequest),
        ([b"Bearer \xff"], BadRequest),
        ([b"Bearer a=b"], BadRequest),
        ([b"Bearer a", b"Bearer a"], BadRequest),
        ([b"Bearer a", b"Basic b"], BadRequest),
    ],
)
def test_which_credentials_are_no_bearer_token(values, outcome):
    """RFC 6750 s.2.1: b64token, in one header."""
    with pytest.raises(outcome):
        bearer_token([(b"authorization", value) for value in values])


@pytest.mark.parametrize("value", [b"Bearer a.b.c", b"bearer  a.b.c", b"BEARER a.b.c "])
def test_which_are(value):
    """Any case of the scheme, any number of spaces."""
    assert bearer_token([(b"Authorization", value)]) == "a.b.c"


@pytest.mark.parametrize(
    ("error", "status", "challenged"),
    [
        (NoToken(), 401, True),
        (BadRequest(), 400, True),
        (InvalidToken("expired"), 401, True),
        (InsufficientScope(("a",)), 403, True),
        (VerifierUnavailable("keys_cold", retry_after=Seconds(7)), 503, False),
    ],
)
def test_every_error_has_its_answer(error, status, challenged):
    """A challenge exactly where another token would help; the body is JSON."""
    refusal = refuse(error, scopes=["a", "b"])
    assert refusal.status == status
    assert ("WWW-Authenticate" in refusal.headers) is challenged
    assert json.dumps(refusal.body)


def test_a_foreign_error_is_not_answered():
    """Only what the verifier raises is."""
    with pytest.raises(KeyError):
        refuse(KeyError("x"))


def test_a_scope_that_would_break_the_header_is_left_out():
    """RFC 6750 s.3: quotes and backslashes are no scope."""
    refusal = refuse(InsufficientScope(('a"b',)))
    assert "scope=" not in refusal.headers["WWW-Authenticate"].replace("insufficient_scope", "")
