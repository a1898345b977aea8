"""Discovery, the key set and single keys, as verifiers fetch them."""

import json

import pytest
from tests.http.streaming import stream
from tests.http.surface import Surface, surface

from mintmark.core import keyring
from mintmark.core.jwk import parse_jwk_set
from mintmark.testing.clock import FakeClock

PUBLIC = [
    "/.well-known/openid-configuration",
    "/.well-known/oauth-authorization-server",
    "/.well-known/jwks.json",
]


@pytest.mark.parametrize(
    ("issuer", "paths"),
    [
        (
            "https://auth.example.com",
            ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"],
        ),
        (
            "https://auth.example.com/tenant/one",
            [
                "/tenant/one/.well-known/openid-configuration",
                "/tenant/one/.well-known/oauth-authorization-server",
                "/.well-known/oauth-authorization-server/tenant/one",
                "/.well-known/openid-configuration/tenant/one",
            ],
        ),
    ],
)
async def test_metadata_is_found_in_every_form(issuer, paths):
    """Both well-known forms answer with one document, whose issuer is the configured one (JM4)."""
    async with surface(issuer=issuer) as node:
        answers = [await node.http.get(f"https://auth.example.com{path}") for path in paths]
        assert [answer.status_code for answer in answers] == [200] * len(paths)
        assert len({answer.content for answer in answers}) == 1
        assert answers[0].json()["issuer"] == issuer
        assert answers[0].json()["grant_types_supported"] == ["client_credentials", "refresh_token"]


async def test_every_url_of_the_metadata_answers():
    """Whatever discovery names exists under the issuer's path: none of its URLs is 404."""
    async with surface(issuer="https://auth.example.com/tenant") as node:
        found = (await node.http.get(f"{node.issuer}/.well-known/openid-configuration")).json()
        urls = [
            value for name, value in found.items() if str(value).startswith("https://") and name != "issuer"
        ]
        urls.remove(found["mintmark_feed_stream"])
        assert len(urls) == 6
        for url in urls:
            assert (await node.http.get(url)).status_code in {200, 401, 405}, url
        # Nothing of the tenant's is at the root.
        assert (await node.http.get("https://auth.example.com/.well-known/jwks.json")).status_code == 404


async def test_key_set_is_what_verifiers_load(node: Surface):
    """The key set parses as one ES256 key under its thumbprint, with public members only (JM1, JM2)."""
    answer = await node.http.get("/.well-known/jwks.json")
    parsed = parse_jwk_set(answer.content)
    assert [key.kid for key in parsed.keys] == [node.kid]
    assert set(answer.json()["keys"][0]) == {"kty", "use", "alg", "kid", "crv", "x", "y"}


@pytest.mark.parametrize("path", PUBLIC)
async def test_public_documents_may_be_cached_for_max_age(node: Surface, path):
    """Cache-Control states ``jwks_max_age`` and nothing longer (K5, JM3)."""
    answer = await node.http.get(path)
    assert answer.headers["cache-control"] == "public, max-age=300"
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("path", [*PUBLIC, "/keys/{kid}.json"])
@pytest.mark.parametrize("wanted", ["{etag}", "W/{etag}", '"other", {etag}', "*"])
async def test_unchanged_document_is_not_sent_again(node: Surface, path, wanted):
    """If-None-Match with the entity tag, weak or in a list, is 304 without a body and with the tag."""
    path = path.format(kid=node.kid)
    first = await node.http.get(path)
    etag = first.headers["etag"]
    again = await node.http.get(path, headers={"If-None-Match": wanted.format(etag=etag)})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert again.headers["cache-control"] == first.headers["cache-control"]


@pytest.mark.parametrize("path", PUBLIC)
async def test_changed_document_is_sent(node: Surface, path):
    """If-None-Match with another tag is 200."""
    assert (await node.http.get(path, headers={"If-None-Match": '"old"'})).status_code == 200


@pytest.mark.parametrize("path", [*PUBLIC, "/keys/{kid}.json", "/keys/unknown.json"])
async def test_any_page_may_read_public_documents(node: Surface, path):
    """CORS is ``*``, and never allows credentials; errors are readable too (JM5)."""
    answer = await node.http.get(path.format(kid=node.kid), headers={"Origin": "https://spa.example.com"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/token", "/v1/sessions", "/revocations", "/livez", "/metrics"])
async def test_no_page_may_read_anything_else(node: Surface, path):
    """No other endpoint answers a foreign origin (JM5)."""
    for method in ("GET", "POST", "OPTIONS"):
        answer = await node.http.request(method, path, headers={"Origin": "https://spa.example.com"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", PUBLIC)
async def test_head_has_the_headers_of_get_and_no_body(node: Surface, path):
    """HEAD says what GET would, Content-Length included, and sends nothing."""
    get, head = await node.http.get(path), await node.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == get.headers


async def test_head_sends_no_body_by_itself(node: Surface):
    """Nothing is left for the server to strip: the application sends no body, and states its length."""
    async with stream(node.app, path="/.well-known/jwks.json", method="HEAD") as answer:
        await answer.ended.wait()
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


async def test_key_set_follows_the_ring(node: Surface):
    """A key that joins the ring is in the set from the next read on, with another entity tag."""
    before = await node.http.get("/.well-known/jwks.json")
    old, new = node.kid, await node.add_key()
    await node.read_ring()
    after = await node.http.get("/.well-known/jwks.json")
    assert {key["kid"] for key in after.json()["keys"]} == {old, new}
    assert before.headers["etag"] != after.headers["etag"]


async def test_old_key_set_is_served_while_the_store_is_away(node: Surface):
    """With the store away for an hour the key set is still 200: verification goes on (I8)."""
    assert isinstance(node.clock, FakeClock)
    await node.store.close()
    node.clock.advance(3600)
    assert not node.services.ring.is_fresh()
    assert (await node.http.get("/.well-known/jwks.json")).status_code == 200
    assert (await node.http.get(f"/keys/{node.kid}.json")).status_code == 200


async def test_unknown_key_is_404_only_on_a_fresh_ring(node: Surface):
    """An unknown ``kid`` is 404 while the ring is fresh, and 503 once it is not."""
    assert isinstance(node.clock, FakeClock)
    unknown = "A" * 43
    fresh = await node.http.get(f"/keys/{unknown}.json")
    assert (fresh.status_code, fresh.json()["code"]) == (404, "not_found")
    await node.store.close()
    node.clock.advance(6)
    stale = await node.http.get(f"/keys/{unknown}.json")
    assert (stale.status_code, stale.json()["code"]) == (503, "temporarily_unavailable")
    assert "retry-after" in stale.headers
    assert "no-store" in stale.headers["cache-control"]


@pytest.mark.parametrize("kid", ["x", "%00", "..%2f..%2fetc", "a" * 44, "é", "%ff", "{kid}"])
async def test_impossible_kid_is_404_whatever_the_ring(node: Surface, kid):
    """What no key can be called is 404, also on a stale ring: there is no such new key (VF11)."""
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(3600)
    assert (await node.http.get(f"/keys/{kid}.json")).status_code == 404


async def test_revoked_key_is_gone_at_once(node: Surface):
    """A revoked key is in no document any more."""
    store = node.store.keyring
    view = await store.read(node.issuer)
    revoked, event = keyring.revoke(
        view.ring, node.kid, reason="test", timing=node.services.timing, now=view.now
    )
    assert await store.swap(view.ring.generation, revoked, events=((event, "key_revoked"),))
    await node.read_ring()
    assert (await node.http.get("/.well-known/jwks.json")).json() == {"keys": []}
    assert (await node.http.get(f"/keys/{node.kid}.json")).status_code == 404


async def test_single_key_tells_where_it_is_in_its_life(node: Surface):
    """The document of one key adds its state and its end to the members of the set."""
    [in_set] = (await node.http.get("/.well-known/jwks.json")).json()["keys"]
    alone = (await node.http.get(f"/keys/{node.kid}.json")).json()
    assert alone.pop("state") == "active"
    assert alone.pop("exp") > node.clock.now() + node.services.timing.access_ttl
    assert json.dumps(alone, sort_keys=True) == json.dumps(in_set, sort_keys=True)
