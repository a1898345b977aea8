"""The issuer for tests: what users of the SDK can make it do, seen with a plain HTTP client."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import httpx2
import jwt
import pytest

from mintmark.testing import FakeClock, FakeIssuer, Fault

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock():
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def issuer(clock):
    """An issuer under it."""
    with FakeIssuer(clock=clock) as issuer:
        yield issuer


@pytest.fixture
def client(issuer):
    """A client that knows nothing of it but its address."""
    with httpx2.Client(base_url=issuer.issuer, timeout=10) as client:
        yield client


class Stream:
    """Reads server-sent events one at a time."""

    def __init__(self, response):
        self._lines = response.iter_lines()

    def next(self):
        """The next message: event, id, data."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if not line:
                return fields.get("event"), fields.get("id"), json.loads(fields["data"])
            name, _, value = line.partition(": ")
            fields[name] = value
        raise EOFError


@pytest.mark.parametrize("alg", ["RS256", "PS256", "ES256", "EdDSA"])
def test_its_tokens_verify_with_an_independent_library(alg):
    """PyJWT accepts what it mints, with the key set that it serves."""
    with FakeIssuer(alg=alg) as issuer:
        document = httpx2.get(f"{issuer.issuer}/.well-known/jwks.json").json()
        raw = issuer.mint(sub="usr_7", audience="orders", scope="a b", rid="r1", plan="gold")
        [key] = jwt.PyJWKSet.from_dict(document).keys
        claims = jwt.decode(raw, key.key, algorithms=[alg], audience="orders", issuer=issuer.issuer)
    assert jwt.get_unverified_header(raw) == {"alg": alg, "kid": issuer.kid, "typ": "at+jwt"}
    assert (claims["sub"], claims["scope"], claims["rid"], claims["plan"]) == ("usr_7", "a b", "r1", "gold")


def test_claims_and_header_can_be_anything(issuer):
    """For tests of what must be refused: replaced, added, taken out."""
    raw = issuer.mint(exp="soon", jti=None, header={"typ": None, "x5u": "https://evil"})
    claims = jwt.decode(raw, options={"verify_signature": False, "verify_exp": False})
    assert claims["exp"] == "soon"
    assert "jti" not in claims
    assert jwt.get_unverified_header(raw) == {"alg": "ES256", "kid": issuer.kid, "x5u": "https://evil"}


def test_discovery_names_the_other_addresses(issuer, client):
    """As OpenID Connect Discovery has it, with the feed's."""
    document = client.get("/.well-known/openid-configuration").json()
    assert document["issuer"] == issuer.issuer
    for name in ("jwks_uri", "mintmark_feed"):
        assert client.get(document[name]).status_code == 200
    issuer.discovery["mintmark_feed"] = None
    assert "mintmark_feed" not in client.get("/.well-known/openid-configuration").json()


def test_the_key_set_is_cacheable_and_conditional(issuer, client):
    """ETag and max-age; 304 until the set changes."""
    first = client.get("/.well-known/jwks.json")
    assert first.headers["cache-control"] == "public, max-age=300"
    conditional = {"If-None-Match": first.headers["etag"]}
    assert client.get("/.well-known/jwks.json", headers=conditional).status_code == 304
    issuer.rotate()
    assert client.get("/.well-known/jwks.json", headers=conditional).status_code == 200
    issuer.max_age, issuer.age = None, 7
    headers = client.get("/.well-known/jwks.json").headers
    assert "cache-control" not in headers
    assert headers["age"] == "7"


def test_rotation_keeps_the_old_key_unless_told_otherwise(issuer):
    """Prepare, rotate, withdraw; or all at once."""
    first = issuer.kid
    prepared = issuer.prepare()
    assert (issuer.kid, issuer.kids) == (first, (first, prepared.kid))
    assert issuer.rotate(to=prepared) == prepared.kid
    issuer.withdraw(first)
    assert issuer.kids == (prepared.kid,)
    last = issuer.rotate(keep=False)
    assert issuer.kids == (last,)


def test_the_feed_has_pages_and_cursors(issuer, client):
    """All, or what came after; 410 for a cursor that is unknown."""
    issuer.revoke(rid="r1")
    page = client.get("/revocations").json()
    assert [event["value"] for event in page["events"]] == ["r1"]
    issuer.revoke(client_id="app", not_before=5)
    after = client.get("/revocations", params={"after": page["cursor"]}).json()
    assert [(e["kind"], e["not_before"]) for e in after["events"]] == [("client", 5)]
    issuer.restore()
    assert client.get("/revocations", params={"after": page["cursor"]}).status_code == 410
    assert len(client.get("/revocations").json()["events"]) == 2


def test_expired_events_leave_the_log(issuer, client, clock):
    """A snapshot holds only what can still matter."""
    issuer.revoke(rid="r1")
    clock.advance(86_400)
    assert client.get("/revocations").json()["events"] == []


def test_the_stream_tells_keys_revocations_and_heartbeats(issuer, client, clock):
    """In order, from a cursor on, and a heartbeat when ten seconds pass."""
    cursor = client.get("/revocations").json()["cursor"]
    with client.stream("GET", "/revocations/stream", headers={"Last-Event-ID": cursor}) as response:
        stream = Stream(response)
        assert stream.next()[0] == "keys"
        assert stream.next() == ("heartbeat", None, {"cursor": cursor, "at": clock.now()})
        issuer.revoke(jti="t1")
        kind, moved, event = stream.next()
        assert (kind, event["kind"], event["value"]) == ("revocation", "jti", "t1")
        clock.advance(10)
        assert stream.next() == ("heartbeat", None, {"cursor": moved, "at": clock.now()})
        kid = issuer.rotate()
        assert kid in [jwk["kid"] for jwk in stream.next()[2]["keys"]]
        issuer.revoke(rid="lost", lose=True)
        issuer.beat()
        assert stream.next()[2]["cursor"] != moved


def test_an_unknown_cursor_resets_the_stream(issuer, client):
    """And ends it."""
    with client.stream("GET", "/revocations/stream", headers={"Last-Event-ID": "9.x"}) as response:
        assert Stream(response).next()[0] == "reset"


def test_heartbeats_come_by_themselves_under_a_real_clock():
    """At once, and then every ten seconds, which no test waits for."""
    with FakeIssuer() as issuer, httpx2.Client(base_url=issuer.issuer, timeout=10) as client:
        cursor = client.get("/revocations").json()["cursor"]
        with client.stream("GET", "/revocations/stream", params={"after": cursor}) as response:
            stream = Stream(response)
            assert [stream.next()[0], stream.next()[0]] == ["keys", "heartbeat"]


def test_without_a_feed_nothing_names_one():
    """An issuer that is not Mintmark."""
    with FakeIssuer(feed=False) as issuer:
        document = httpx2.get(f"{issuer.issuer}/.well-known/openid-configuration").json()
        assert not [name for name in document if name.startswith("mintmark")]
        assert httpx2.get(f"{issuer.issuer}/revocations").status_code == 404


def test_requests_are_counted_whatever_becomes_of_them(issuer):
    """Answered or not."""
    url = f"{issuer.issuer}/.well-known/jwks.json"
    assert httpx2.get(url).status_code == 200
    with issuer.outage(), pytest.raises(httpx2.TransportError):
        httpx2.get(url)
    issuer.wait_for_requests("jwks", 2)
    assert issuer.requests("jwks") == 2
    assert httpx2.get(url).status_code == 200


def test_faults_are_for_some_routes_or_all(issuer, client):
    """And end with the block."""
    with issuer.fail(Fault.ERROR, "jwks"):
        assert client.get("/.well-known/jwks.json").status_code == 500
        assert client.get("/revocations").status_code == 200
    with issuer.garbage(), pytest.raises(json.JSONDecodeError):
        client.get("/revocations").json()
    assert client.get("/revocations").json()["complete"]


async def test_slow_answers_wait_for_the_clock(issuer, clock):
    """Time passes when the test says so."""
    with issuer.slow(3, "jwks"), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx2.get, f"{issuer.issuer}/.well-known/jwks.json")
        await asyncio.to_thread(clock.pass_armed, 3)
        assert (await asyncio.wrap_future(answer)).status_code == 200


def test_closing_twice_is_harmless():
    """And frees the port."""
    issuer = FakeIssuer()
    issuer.close()
    issuer.close()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(issuer.issuer)
