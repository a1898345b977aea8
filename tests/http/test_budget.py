"""A store that is slow, not away: what a request may wait for it, over all that it asks (I8, F17)."""

import math
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from tests.http import surface as surfaces
from tests.http.surface import SECRET, Surface, surface

from mintmark.adapters.argon2 import Argon2Hasher
from mintmark.core.events import EventName
from mintmark.http.endpoint import ANSWER_WITHIN, STORE_WITHIN
from mintmark.ports.budget import charged, spent
from mintmark.ports.passwords import PasswordCheck
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults

REQUESTS = ["log in", "refresh", "log out", "log out by refresh token", "client credentials"]


class Slow(Faults):
    """A store each of whose operations takes ``span`` seconds of the clock, which moves by itself.

    The loops that follow the ring and the log ask ``keyring`` and ``revocations``: these take no time.
    """

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self._moving = clock
        self.span = 0.0
        self.late = ""
        """An operation whose answer never comes, once it is done."""
        self.asked: list[str] = []

    async def call(self, name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        if name.partition(".")[0] not in ("keyring", "revocations"):
            self.asked.append(name)
            with charged(math.inf) as allowed:
                self._moving.advance(min(self.span, allowed))
                if allowed < self.span:
                    raise spent()
        answer = await super().call(name, operation)
        if name == self.late:
            with charged(math.inf) as allowed:
                self._moving.advance(allowed)
                raise spent()
        return answer


async def ask(node: Surface, what: str, tokens: dict[str, Any]) -> httpx2.Response:
    match what:
        case "log in":
            body = {"username": "alice", "password": surfaces.PASSWORD, "client_id": "spa"}
            return await node.http.post("/v1/sessions", json=body)
        case "refresh":
            return await node.refresh(tokens["refresh_token"])
        case "log out":
            return await node.log_out(tokens["access_token"])
        case "log out by refresh token":
            body = {"refresh_token": tokens["refresh_token"]}
            return await node.http.request("DELETE", "/v1/sessions/current", json=body)
        case _:
            form = {"grant_type": "client_credentials"}
            return await node.http.post("/token", data=form, auth=("stock", SECRET))


@pytest.mark.parametrize("what", REQUESTS)
@pytest.mark.parametrize("span", [0.45, 0.6, 1.0, 1.7, 60.0])
async def test_slow_store_costs_a_request_what_one_operation_may_take(what, span):
    """F17: whatever each operation takes, all of a request take 1.75 s at most; then it is 503, and never an
    answer that ends a session; what is asked again once the store is fast is done."""
    clock = FakeClock()
    faults = Slow(clock)
    async with surface(clock=clock, faults=faults) as node:
        tokens, others = await node.log_in(), await node.log_in()
        faults.asked.clear()
        assert (await ask(node, what, others)).status_code < 300
        needed = len(faults.asked)
        faults.asked.clear()
        faults.span, began = span, clock.monotonic()
        answer = await ask(node, what, tokens)
        took, faults.span = clock.monotonic() - began, 0
        if needed * span <= STORE_WITHIN:
            assert answer.status_code < 300
            assert took == pytest.approx(needed * span)
            assert len(faults.asked) == needed
            return
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert took == pytest.approx(STORE_WITHIN)
        assert len(faults.asked) == math.floor(STORE_WITHIN / span) + 1
        assert node.services.audit.counts[EventName.REQUEST_DEFERRED] == 1
        assert (await ask(node, what, tokens)).status_code < 300


async def test_refresh_that_was_done_and_refused_gives_the_same_successor():
    """R2, I8: where the store did the work and the time for its answer was up, the client tries again and
    has what it would have had."""
    clock = FakeClock()
    faults = Slow(clock)
    async with surface(clock=clock, faults=faults) as node:
        first = (await node.log_in())["refresh_token"]
        faults.span, faults.late, began = 0.3, "sessions.redeem", clock.monotonic()
        refused = await node.refresh(first)
        assert faults.asked[-1] == "sessions.redeem"
        assert refused.status_code == 503
        assert clock.monotonic() - began == pytest.approx(STORE_WITHIN)
        faults.span, faults.late = 0, ""
        answers = [await node.refresh(first) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert len({answer.json()["refresh_token"] for answer in answers}) == 1


async def test_password_that_takes_long_to_check_is_not_the_stores_fault(monkeypatch):
    """What a hash takes, and the wait for its turn, leaves the store its whole time."""
    clock = FakeClock()

    class SlowHasher(Argon2Hasher):
        async def verify(self, password_hash: str | None, password: str) -> PasswordCheck:
            clock.advance(ANSWER_WITHIN - STORE_WITHIN - 0.25)
            return await super().verify(password_hash, password)

    monkeypatch.setattr(surfaces, "Argon2Hasher", SlowHasher)
    faults = Slow(clock)
    async with surface(clock=clock, faults=faults) as node:
        faults.span = 0.34
        assert (await ask(node, "log in", {})).status_code == 201


async def test_loops_and_what_needs_no_store_go_on_while_requests_are_refused():
    """A request's seconds bound no other work: the ring is read on, key set and readiness are answered."""
    clock = FakeClock()
    faults = Slow(clock)
    async with surface(clock=clock, faults=faults) as node:
        faults.span = 60
        assert (await ask(node, "log in", {})).status_code == 503
        before = faults.calls["keyring.read"]
        await node.services.ring.refresh()
        assert faults.calls["keyring.read"] > before
        assert (await node.http.get("/.well-known/jwks.json")).status_code == 200
        assert (await node.http.get("/readyz")).status_code == 200
