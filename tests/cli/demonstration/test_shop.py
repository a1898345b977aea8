"""The demo's clients repeat what may be repeated and hide nothing that was refused."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import httpx2
import pytest

from mintmark.cli.demonstration.program import DemoFailed
from mintmark.cli.demonstration.shop import Shop, Traffic
from mintmark.testing import FakeIssuer

Answer = Callable[[httpx2.Request], httpx2.Response]


@contextlib.asynccontextmanager
async def shop_of(answer: Answer) -> AsyncIterator[Shop]:
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        yield Shop("http://issuer", "http://service", "a password", http)


@pytest.fixture(scope="module")
def token():
    with FakeIssuer() as issuer:
        return issuer.mint()


async def test_answer_that_says_later_is_asked_for_again(token):
    """A 503 and a lost connection are repeated and counted; the answer after them is the one that counts."""
    script: list[httpx2.Response | Exception] = [
        httpx2.Response(503),
        httpx2.ReadError("reset"),
        httpx2.Response(201, json={"access_token": token, "refresh_token": "r"}),
    ]

    def answer(_: httpx2.Request) -> httpx2.Response:
        step = script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    async with shop_of(answer) as shop:
        tokens = await shop.log_in()
        assert tokens.refresh_token == "r"
        script += [httpx2.Response(503), httpx2.Response(204), httpx2.Response(503), httpx2.Response(400)]
        await shop.log_out(tokens)
        await shop.is_logged_out(tokens, "http://issuer")
        assert script == []
        assert shop.repeated == 4


@pytest.mark.parametrize("status", [400, 401, 500])
async def test_any_other_answer_ends_the_demo(status):
    """A refresh that is refused is not tried again, at no node."""
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(status, text="no")

    async with shop_of(answer) as shop:
        with pytest.raises(DemoFailed, match=f"{status} instead of 201"):
            await shop.log_in()
    assert len(asked) == 1


@pytest.mark.parametrize("status", [401, 403, 503])
async def test_one_refused_token_fails_the_demo(status, token):
    """Of all the tokens that the traffic shows, one that the service does not accept is enough."""
    shown = 0

    def answer(request: httpx2.Request) -> httpx2.Response:
        nonlocal shown
        if request.url.host == "service":
            shown += 1
            return httpx2.Response(status if shown == 20 else 200, text="why")
        created = request.url.path.endswith("sessions")
        return httpx2.Response(201 if created else 200, json={"access_token": token, "refresh_token": "r"})

    async with shop_of(answer) as shop, Traffic(shop) as traffic:
        async with asyncio.timeout(60):
            while not traffic.refusals:  # noqa: ASYNC110 - as the demo itself does
                await asyncio.sleep(0.01)
        with pytest.raises(DemoFailed, match=f"1 valid tokens were refused.*{status} why"):
            await traffic.report()


async def test_traffic_that_ended_fails_the_demo(token):
    """Clients whose session was refused are not silently gone: the next report says it."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("refresh"):
            return httpx2.Response(400, text="invalid_grant")
        created = request.url.path.endswith("sessions")
        return httpx2.Response(201 if created else 200, json={"access_token": token, "refresh_token": "r"})

    async with shop_of(answer) as shop, Traffic(shop) as traffic:
        with pytest.raises(DemoFailed, match="invalid_grant"):
            await reports(traffic)


async def reports(traffic: Traffic) -> None:
    async with asyncio.timeout(60):
        while True:
            await traffic.report()
            await asyncio.sleep(0.01)
