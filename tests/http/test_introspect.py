"""/introspect: the truth about a token at this moment, for whom it concerns and nobody else (RFC 7662)."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.dump import dump
from tests.http.asking import (
    FORGERIES,
    INACTIVE,
    STOCK,
    claims_of,
    forged,
    held_key,
    introspect,
    outcome,
    own_token,
    pass_time,
    revoke,
)
from tests.http.surface import ALICE, SECRET, Surface, client, surface

from mintmark.adapters.memory import MemoryStore
from mintmark.core.sessions import EndCause
from mintmark.server.emergency import revoke_key
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults
from mintmark.testing.key import SigningKey
from mintmark.units import ClientId, Kid, NumericDate, Rid

API = ("orders-api", "s3cret-of-the-orders-api")
"""A resource server of the audience ``orders``, which gets no tokens itself."""
STRANGER = ("stranger", "s3cret-of-a-stranger")
"""A client with a secret to which nothing here was issued, and that serves another audience."""


@pytest.fixture
async def town(node: Surface) -> Surface:
    """A node with resource servers."""
    await add_services(node)
    return node


async def add_services(node: Surface) -> None:
    directory = node.store.directory
    changes: dict[str, Any] = {"grant_types": (), "audiences": (), "issuer": node.issuer}
    await directory.add_client(client(API[0], secret=API[1], serves=("orders",), **changes))
    await directory.add_client(client(STRANGER[0], secret=STRANGER[1], serves=("stock",), **changes))


# --- active --------------------------------------------------------------------------------------


async def test_active_token_of_a_session_is_told_with_all_its_claims(town: Surface):
    """To who serves its audience: what the token says, whose it is, and that it is a bearer's (s.2.2)."""
    tokens = await town.log_in()
    answer = await introspect(town, tokens["access_token"], API)
    claims = claims_of(tokens["access_token"])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == claims | {"active": True, "token_type": "Bearer", "username": "alice"}
    assert set(answer.json()) == {
        "active", "aud", "scope", "client_id", "username", "token_type", "exp", "iat", "sub", "iss", "jti",
        "rid", "auth_time", "amr",
    }  # fmt: skip


async def test_active_token_of_a_service_is_told_to_itself_and_to_its_audience(town: Surface):
    """No user stands behind it, so there is no ``username`` and no ``rid``."""
    token = await own_token(town)
    answers = [await introspect(town, token, asking) for asking in (STOCK, API)]
    assert outcome(answers[0]) == outcome(answers[1])
    assert answers[0].json() == claims_of(token) | {"active": True, "token_type": "Bearer"}


async def test_one_of_several_audiences_is_enough(town: Surface):
    """A token for two services is told to either of them."""
    token = await own_token(town, audience="orders https://stock.example.com")
    assert (await introspect(town, token, API)).json()["aud"] == ["orders", "https://stock.example.com"]


async def test_claim_of_a_deployer_cannot_say_who_or_whether(town: Surface):
    """What an answer says of itself is ours, even where a token has a claim of that name."""
    key, good = await held_key(town), claims_of((await town.log_in())["access_token"])
    claims = good | {"active": "no", "username": "root", "token_type": "PoP", "plan": "gold"}
    token = key.sign({"alg": "ES256", "kid": key.kid, "typ": "at+jwt"}, claims)
    answer = (await introspect(town, token, API)).json()
    assert (answer["active"], answer["username"], answer["token_type"]) == (True, "alice", "Bearer")
    assert answer["plan"] == "gold"


async def test_token_of_a_key_that_no_longer_signs_is_active(town: Surface):
    """A rotation makes no token inactive."""
    token = (await town.log_in())["access_token"]
    await town.add_key()
    assert (await introspect(town, token, API)).json()["active"] is True


async def test_token_of_a_key_that_this_node_has_not_read_yet_is_active(town: Surface):
    """A key that another node published a moment ago is found: "inactive" would log somebody out."""
    good = (await town.log_in())["access_token"]
    key = await held_key(town)
    assert town.services.ring.view.ring.find(Kid(key.kid)) is None
    token = key.sign({"alg": "ES256", "kid": key.kid, "typ": "at+jwt"}, claims_of(good))
    assert (await introspect(town, token, API)).json()["active"] is True


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "id_token", "é", ""])
async def test_hint_is_only_a_hint(town: Surface, hint):
    """A wrong or unknown ``token_type_hint`` hides no token (s.2.1)."""
    token = await own_token(town)
    assert (await introspect(town, token, token_type_hint=hint)).json()["active"] is True


# --- refresh tokens ------------------------------------------------------------------------------


async def shop(node: Surface) -> tuple[tuple[str, str], dict[str, Any]]:
    """A first-party client with a secret, and the tokens of a session of its."""
    credentials = ("shop", "s3cret-of-the-shop")
    await node.store.directory.add_client(
        client("shop", secret=credentials[1], serves=("orders",), issuer=node.issuer)
    )
    tokens = await node.log_in(client_id="shop", client_secret=credentials[1])
    return credentials, tokens


async def refreshed(node: Surface, credentials: tuple[str, str], token: str) -> dict[str, Any]:
    form = {"grant_type": "refresh_token", "refresh_token": token}
    answer = await node.http.post("/token", data=form, auth=credentials)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


async def test_refresh_token_is_told_to_its_client(town: Surface):
    """What it would go on with and until when, and nothing that calls it an access token."""
    credentials, tokens = await shop(town)
    timing, now = town.services.timing, town.clock.now()
    assert (await introspect(town, tokens["refresh_token"], credentials)).json() == {
        "active": True,
        "iss": town.issuer,
        "sub": ALICE,
        "aud": ["orders"],
        "client_id": "shop",
        "username": "alice",
        "scope": "orders:read orders:write",
        "exp": now + timing.session_idle,
        "rid": tokens["rid"],
        "auth_time": now,
    }


async def test_refresh_token_is_told_to_no_resource_server(town: Surface):
    """A service that asks about what a caller sent it never hears "active" of what is no access token."""
    _, tokens = await shop(town)
    assert outcome(await introspect(town, tokens["refresh_token"], API)) == INACTIVE


async def test_introspection_is_no_redemption(town: Surface):
    """Asked at any age, in any generation, it changes nothing: a spent token is inactive, and no theft."""
    credentials, tokens = await shop(town)
    first = tokens["refresh_token"]
    second = (await refreshed(town, credentials, first))["refresh_token"]
    third_at = 31
    await pass_time(town, third_at)
    third = (await refreshed(town, credentials, second))["refresh_token"]
    await pass_time(town, 31)
    kept = await dump(town.store)
    for _ in range(3):
        for token, active in ((first, False), (second, True), (third, True)):
            # The parent still gets a replacement, because the newest may have been lost on its way (R2 iii).
            assert (await introspect(town, token, credentials)).json()["active"] is active
    assert await dump(town.store) == kept
    fourth = (await refreshed(town, credentials, third))["refresh_token"]
    await pass_time(town, 31)
    assert outcome(await introspect(town, first, credentials)) == INACTIVE
    assert (await introspect(town, fourth, credentials)).json()["active"] is True


# --- inactive ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORGERIES)
async def test_what_is_no_token_of_ours_is_inactive(town: Surface, kind):
    """Whatever was tried, the answer is the same bytes, to whoever may ask (RV6)."""
    tokens = await town.log_in()
    token = forged(kind, tokens["access_token"], await held_key(town), SigningKey.generate("ES256"))
    for asking in (API, STOCK, STRANGER):
        assert outcome(await introspect(town, token, asking)) == INACTIVE


async def test_token_is_told_to_nobody_whom_it_does_not_concern(town: Surface):
    """Another client, one that serves another audience, and one that serves it but at another issuer's."""
    tokens = await town.log_in()
    for token in (tokens["access_token"], tokens["refresh_token"]):
        for asking in (STRANGER, STOCK):
            assert outcome(await introspect(town, token, asking)) == INACTIVE
    assert outcome(await introspect(town, await own_token(town), STRANGER)) == INACTIVE


@dataclass
class Case:
    """Something that ends what an access token allows."""

    node: Surface
    tokens: dict[str, Any]

    async def logged_out(self) -> None:
        await self.node.log_out(self.tokens["access_token"])

    async def refresh_token_revoked(self) -> None:
        await revoke(self.node, self.tokens["refresh_token"])

    async def token_revoked(self) -> None:
        await revoke(self.node, self.tokens["access_token"])

    async def ended_by_admin(self) -> None:
        await self.node.store.sessions.end(
            self.node.issuer,
            Rid(self.tokens["rid"]),
            cause=EndCause.ADMIN,
            timing=self.node.services.timing,
        )

    async def password_changed(self) -> None:
        await self.node.store.directory.set_password(
            self.node.issuer, ALICE, "$argon2id$new", timing=self.node.services.timing
        )

    async def user_disabled(self) -> None:
        await self.node.store.directory.disable_user(
            self.node.issuer, ALICE, timing=self.node.services.timing
        )

    async def user_locked(self) -> None:
        until = NumericDate(self.node.clock.now() + 60)
        await self.node.store.directory.lock_user(self.node.issuer, ALICE, until)

    async def client_removed(self) -> None:
        await self.node.store.directory.remove_client(
            self.node.issuer, ClientId("spa"), timing=self.node.services.timing
        )

    async def clients_tokens_revoked(self) -> None:
        await self.node.store.revocations.revoke_client(
            self.node.issuer, ClientId("spa"), cause="admin", timing=self.node.services.timing
        )

    async def all_tokens_revoked(self) -> None:
        await self.node.store.revocations.revoke_all(
            self.node.issuer, cause="admin", timing=self.node.services.timing
        )

    async def all_sessions_revoked(self) -> None:
        await self.node.store.revocations.revoke_all(
            self.node.issuer, cause="admin", timing=self.node.services.timing, sessions=True
        )

    async def key_revoked(self) -> None:
        await revoke_key(
            self.node.store.keyring,
            self.node.issuer,
            self.node.kid,
            reason="test",
            timing=self.node.services.timing,
        )

    async def expired(self) -> None:
        await pass_time(self.node, claims_of(self.tokens["access_token"])["exp"] - self.node.clock.now())


CASES: dict[str, Callable[[Case], Awaitable[None]]] = {
    name: work for name, work in vars(Case).items() if not name.startswith("_")
}


@pytest.mark.parametrize("name", CASES)
async def test_what_was_ended_is_inactive_at_once(town: Surface, name):
    """Nothing but ``active: false`` is told, once the change is committed, by a node that heard of none.

    The ring and the log of this node are as they were before: the truth is the store's (RV6).
    """
    case = Case(town, await town.log_in())
    token = case.tokens["access_token"]
    town.reading.cancel()
    town.following.cancel()
    assert (await introspect(town, token, API)).json()["active"] is True
    await CASES[name](case)
    assert outcome(await introspect(town, token, API)) == INACTIVE


async def test_token_expires_to_the_second(town: Surface):
    """Active in the last second before ``exp``, and not at it: an answer has no leeway (RFC 7519 s.4.1.4)."""
    token = await own_token(town)
    await pass_time(town, claims_of(token)["exp"] - 1 - town.clock.now())
    assert (await introspect(town, token)).json()["active"] is True
    await pass_time(town, 1)
    assert outcome(await introspect(town, token)) == INACTIVE


@pytest.mark.parametrize(("ahead", "active"), [(-1, True), (0, False), (1, False)])
@pytest.mark.parametrize("kind", ["client", "all"])
async def test_revocation_by_time_counts_to_the_second(town: Surface, kind, ahead, active):
    """A token with ``iat`` <= ``not_before`` is inactive, one of a second later is not."""
    token = await own_token(town)
    before, log, timing = claims_of(token)["iat"] + ahead, town.store.revocations, town.services.timing
    if kind == "client":
        client_id = ClientId("stock")
        await log.revoke_client(town.issuer, client_id, cause="admin", timing=timing, before=before)
    else:
        await log.revoke_all(town.issuer, cause="admin", timing=timing, before=before)
    assert (await introspect(town, token)).json()["active"] is active


async def test_lock_that_is_over_makes_the_token_active_again(town: Surface):
    """A locked user keeps his sessions, and his tokens are good again when the lock ends."""
    token = (await town.log_in())["access_token"]
    await town.store.directory.lock_user(town.issuer, ALICE, NumericDate(town.clock.now() + 60))
    await pass_time(town, 59)
    assert outcome(await introspect(town, token, API)) == INACTIVE
    await pass_time(town, 1)
    assert (await introspect(town, token, API)).json()["active"] is True


async def test_token_of_another_issuer_of_the_node_is_inactive():
    """Two issuers on one store, with clients of the same names: neither tells of the other's tokens."""
    clock = FakeClock()
    store = MemoryStore(clock=clock, entropy=SYSTEM_ENTROPY)
    there = MemoryStore(clock=clock, entropy=SYSTEM_ENTROPY, data=store.data)
    async with (
        surface(clock=clock, store=store) as one,
        surface(clock=clock, store=there, issuer="https://auth.example.com/tenant") as other,
    ):
        for node in (one, other):
            await add_services(node)
        credentials, tokens = await shop(other)
        await shop(one)
        assert (await introspect(other, tokens["access_token"], API)).json()["active"] is True
        for token in (tokens["access_token"], tokens["refresh_token"]):
            for asking in (API, credentials):
                assert outcome(await introspect(one, token, asking)) == INACTIVE


# --- who asks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "auth"),
    [
        ({}, None),
        ({"client_id": "spa"}, None),
        ({"client_id": "nobody"}, None),
        ({"client_id": "orders-api"}, None),
        ({"client_id": "spa", "client_secret": "secret"}, None),
        ({}, ("orders-api", "wrong")),
        ({}, ("nobody", SECRET)),
    ],
)
async def test_only_who_proves_a_secret_is_told_anything(town: Surface, fields, auth):
    """401 ``invalid_client``, the same for a good token, a bad one and none of ours (RV6, s.2.3)."""
    good = (await town.log_in())["access_token"]
    answers = [
        await town.http.post("/introspect", data={"token": token} | fields, auth=auth)
        for token in (good, "mmr_" + "A" * 112, "garbage")
    ]
    assert len({(a.status_code, a.content, tuple(sorted(a.headers.items()))) for a in answers}) == 1
    assert (answers[0].status_code, answers[0].json()["error"]) == (401, "invalid_client")
    assert answers[0].headers["cache-control"] == "no-store"


async def test_bearer_token_proves_nothing_here(town: Surface):
    """An access token in the header is no authentication of a client."""
    token = (await town.log_in())["access_token"]
    answer = await town.http.post(
        "/introspect", data={"token": token}, headers={"Authorization": f"Bearer {token}"}
    )
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
async def test_outage_is_never_called_inactive(kind):
    """Whatever of the store fails: 503 with Retry-After, because "inactive" would log people out."""
    faults = Faults(clock=FakeClock())
    async with surface(faults=faults) as node:
        credentials, tokens = await shop(node)
        await add_services(node)
        asking = [credentials] if kind == "refresh_token" else [credentials, API]
        for one in asking:
            faults.calls.clear()
            assert (await introspect(node, tokens[kind], one)).json()["active"] is True
            asked = Counter(faults.calls)
            assert len(asked) >= 3
            for name in asked:
                faults.fail_before(name)
                answer = await introspect(node, tokens[kind], one)
                assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable"), name
                assert "retry-after" in answer.headers
                assert answer.headers["cache-control"] == "no-store"
                faults.recover()
                await node.services.ring.refresh()


async def test_wrong_clock_is_never_called_expired():
    """Where the store's clock and this machine's are far apart, nobody is told that his token is over."""
    clock = FakeClock()
    ahead = FakeClock(clock.now())
    async with surface(clock=clock, store=MemoryStore(clock=ahead, entropy=SYSTEM_ENTROPY)) as node:
        credentials, tokens = await shop(node)
        service = await own_token(node)
        ahead.advance(100_000)
        for token, one in (
            (tokens["access_token"], credentials),
            (tokens["refresh_token"], credentials),
            (service, STOCK),
        ):
            assert (await introspect(node, token, one)).status_code == 503


async def test_introspection_beside_a_logout_is_active_or_inactive(town: Surface):
    """Whatever the order: each answer is one of the two, and none after the log-out's is active."""
    tokens = await town.log_in()
    asking = [asyncio.ensure_future(introspect(town, tokens["access_token"], API)) for _ in range(20)]
    leaving = asyncio.ensure_future(town.log_out(tokens["access_token"]))
    asking += [asyncio.ensure_future(introspect(town, tokens["access_token"], API)) for _ in range(20)]
    assert (await leaving).status_code == 204
    after = await introspect(town, tokens["access_token"], API)
    assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
    assert outcome(after) == INACTIVE
