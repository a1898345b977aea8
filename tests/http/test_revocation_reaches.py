"""What is revoked over HTTP or by an administrator is refused by an SDK that follows this node's feed."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import uvicorn
from tests.http.asking import STOCK, claims_of, held_key, own_token, revoke
from tests.http.surface import Surface, surface
from tests.http.test_bounds import Server

from mintmark import InvalidToken, Verifier
from mintmark.core.revocation import Kind
from mintmark.http.protocol import bounded_http
from mintmark.server.audit import Audit
from mintmark.server.emergency import revoke_key
from mintmark.server.recall import revoke_everything, revoke_tokens_of
from mintmark.system import SYSTEM_CLOCK
from mintmark.testing.key import SigningKey
from mintmark.units import ClientId, Kid, NumericDate

PATIENCE = 60.0


@dataclass
class Town:
    """A node behind a real server, and an SDK that follows it."""

    node: Surface
    sdk: Verifier
    key: SigningKey

    async def accepts(self, token: str) -> bool:
        """Whether the SDK accepts ``token`` now; a revoked key's tokens may also be of none that it knows."""
        try:
            await self.sdk.averify(token)
        except InvalidToken as refused:
            if refused.code not in {"revoked", "unknown_kid"}:
                raise
            return False
        return True

    async def refuses(self, token: str) -> None:
        """Return once the SDK refuses ``token``, and so has heard of the event."""
        async with asyncio.timeout(PATIENCE):
            while await self.accepts(token):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.002)

    def token(self, good: str, *, iat: int) -> str:
        """What ``good`` says, issued at another time, by a key of this issuer."""
        made = claims_of(good) | {"iat": iat, "jti": f"{iat:022}"}
        return self.key.sign({"alg": "ES256", "kid": self.key.kid, "typ": "at+jwt"}, made)


@asynccontextmanager
async def followed() -> AsyncIterator[Town]:
    """A town whose SDK has its keys and follows the feed."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        issuer = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with surface(issuer=issuer, clock=SYSTEM_CLOCK) as node:
            key = await held_key(node)
            await node.read_ring()
            config = uvicorn.Config(
                node.app,
                loop="none",
                http=bounded_http(node.clock),
                lifespan="off",
                log_config=None,
                access_log=False,
            )
            server = Server(config)
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            sdk = Verifier(issuer, audience="orders")
            try:
                await sdk.averify((await node.log_in())["access_token"])
                async with asyncio.timeout(PATIENCE):
                    while not sdk.ready():  # noqa: ASYNC110 - nothing tells
                        await asyncio.sleep(0.002)
                yield Town(node, sdk, key)
            finally:
                await sdk.aclose()
                node.services.feed.close()
                server.should_exit = True
                await asyncio.wait_for(serving, PATIENCE)


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    """A town for one test."""
    async with followed() as made:
        yield made


async def test_what_clients_revoke_and_keys_are_refused(town: Town):
    """``jti``, ``rid`` and ``kid``: each denies what it names, and nothing else (RV1)."""
    node = town.node
    one, two = await node.log_in(), await node.log_in()
    again = (await node.refresh(one["refresh_token"])).json()["access_token"]
    other = town.token(two["access_token"], iat=claims_of(two["access_token"])["iat"])
    held = [one["access_token"], again, two["access_token"], other]
    assert [await town.accepts(token) for token in held] == [True, True, True, True]
    assert (await revoke(node, one["access_token"])).status_code == 200
    await town.refuses(one["access_token"])
    assert [await town.accepts(token) for token in held] == [False, True, True, True]
    assert (await revoke(node, one["refresh_token"])).status_code == 200
    await town.refuses(again)
    assert [await town.accepts(token) for token in held] == [False, False, True, True]
    timing = node.services.timing
    assert await revoke_key(node.store.keyring, node.issuer, Kid(town.key.kid), reason="test", timing=timing)
    await node.bus.announce()
    await town.refuses(other)
    assert [await town.accepts(token) for token in held] == [False, False, True, False]


@pytest.mark.parametrize("kind", [Kind.CLIENT, Kind.ALL])
async def test_revocation_by_time_is_refused_to_the_second(town: Town, kind):
    """An ``iat`` of ``not_before`` is refused, one of a second later is not; ``client`` spares other clients.

    Once for a time that has passed, and once for all until now, which lies ahead by skew and propagation.
    """
    node = town.node
    good = {"stock": await own_token(node), "spa": (await node.log_in())["access_token"]}
    audit, timing, store = Audit(issuer=node.issuer), node.services.timing, node.store
    for before in (NumericDate(claims_of(good["stock"])["iat"] - 10), None):
        if kind is Kind.CLIENT:
            recall = await revoke_tokens_of(
                store, node.issuer, ClientId("stock"), timing=timing, audit=audit, before=before
            )
        else:
            recall = await revoke_everything(store, node.issuer, timing=timing, audit=audit, before=before)
        await node.bus.announce()
        at = recall.not_before
        assert before is None or at == before
        await town.refuses(town.token(good["stock"], iat=at))
        assert await town.accepts(town.token(good["stock"], iat=at + 1))
        assert await town.accepts(town.token(good["spa"], iat=at)) is (kind is Kind.CLIENT)
        assert await town.accepts(town.token(good["spa"], iat=at + 1))
    for client_id, token in good.items():
        assert await town.accepts(token) is (kind is Kind.CLIENT and client_id == "spa")


async def test_nothing_is_minted_that_the_sdk_would_refuse(town: Town):
    """Until ``iat`` is past ``not_before``: 503 with Retry-After, whoever asks for whatever."""
    node = town.node
    tokens = await node.log_in()
    await revoke_tokens_of(
        node.store, node.issuer, ClientId("stock"), timing=node.services.timing, audit=Audit()
    )
    answer = await node.http.post("/token", data={"grant_type": "client_credentials"}, auth=STOCK)
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    assert 0 < int(answer.headers["retry-after"]) <= 43
    assert (await node.refresh(tokens["refresh_token"])).status_code == 200
