"""A revocation of everything, written while requests are in flight: nothing survives it, on any store.

The tests of one store share its nodes; each begins after the pause in minting of the one before.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from tests.http.asking import INACTIVE, STOCK, introspect, outcome, revoke
from tests.http.pair import REFUSED, Pair, Someone, claims_of, pair_on
from tests.http.pair import outcome as error_of

# Here «later» is an answer, and no sign of a busy machine.
from tests.http.pair import refresh_once as refresh
from tests.http.surface import PASSWORD, Surface, client
from tests.postgresql import empty_database
from tests.registry import STORES, store_rig

from mintmark.core.denylist import Denylist
from mintmark.core.jws import parse
from mintmark.core.log import JTI_A_SESSION
from mintmark.ports.revocations import CursorGone
from mintmark.server.audit import Audit
from mintmark.server.recall import Recall, revoke_everything, revoke_tokens_of
from mintmark.units import ClientId, NumericDate

CREDENTIALS = {"grant_type": "client_credentials"}
API = ("orders-api", "s3cret-of-the-orders-api")


@pytest.fixture(scope="module", params=STORES)
async def pair(request, tmp_path_factory) -> AsyncIterator[Pair]:
    """Two nodes on one store for all tests of this module."""
    with contextlib.ExitStack() as ending:

        def fixture(name: str) -> Any:
            server = request.getfixturevalue("postgresql")
            return ending.enter_context(empty_database(server)) if name == "database" else server

        async with (
            store_rig(request.param, tmp_path_factory.mktemp("all"), fixture) as rig,
            pair_on(rig) as made,
        ):
            nothing: dict[str, Any] = {"grant_types": (), "audiences": ()}
            await rig.store.directory.add_client(client(API[0], secret=API[1], serves=("orders",), **nothing))
            yield made


@pytest.fixture
async def town(pair) -> AsyncIterator[Pair]:
    """The two nodes, who mint, and whose stores have no faults when the test ends."""
    await pair.pass_time(60)
    yield pair
    pair.faults.recover()


async def revoke_all(town: Pair, *, before: NumericDate | None = None) -> Recall:
    """What `mintmark sessions revoke --all` does."""
    node = town.other
    return await revoke_everything(
        town.rig.store, node.issuer, timing=node.services.timing, audit=Audit(), before=before
    )


async def finish(town: Pair) -> None:
    """What the nodes do about it, step by step."""
    timing, log = town.other.services.timing, town.rig.store.revocations
    while await log.end_revoked(town.other.issuer, timing=timing):
        pass


async def is_denied(town: Pair, access_token: str) -> bool:
    """Whether a verifier that has read the whole log refuses the token."""
    denylist, after = Denylist(), None
    while True:
        page = await town.rig.store.revocations.read(town.one.issuer, after, limit=1_000)
        assert not isinstance(page, CursorGone)
        for entry in page.entries:
            denylist.apply(entry.event)
        if page.complete:
            break
        after = page.cursor
    claims, kid = claims_of(access_token), parse(access_token).header.kid
    assert kid is not None
    found = denylist.covers(claims.get("rid"), claims["jti"], kid, claims["client_id"], claims["iat"])
    return found is not None


async def check_dead(town: Pair, who: Someone, tokens: dict[str, Any]) -> None:
    """What was given is worth nothing: to verifiers, at both nodes, and to whoever asks about it."""
    assert await is_denied(town, tokens["access_token"])
    for node in town.nodes:
        assert outcome(await introspect(node, tokens["access_token"], API)) == INACTIVE
        if "refresh_token" in tokens:
            again = await refresh(node, who, tokens["refresh_token"])
            assert error_of(again) in {REFUSED, (503, "temporarily_unavailable")}


async def log_in(node: Surface, who: Someone) -> httpx2.Response:
    """What a log-in of the user is answered."""
    body = {"username": who.username, "password": PASSWORD, "client_id": who.client_id}
    return await node.http.post("/v1/sessions", json=body)


@pytest.mark.parametrize("is_committed", [False, True])
async def test_refresh_in_flight_does_not_survive(town: Pair, is_committed):
    """Held on its way in it is refused; held on its way out, what it gives is dead (R5, F30)."""
    me = await town.someone()
    gate = (town.faults.hold_after if is_committed else town.faults.hold_before)("sessions.redeem")
    flying = asyncio.ensure_future(refresh(town.one, me, me.refresh_token))
    await gate.reached()
    await revoke_all(town)
    gate.open()
    answer = await flying
    if is_committed:
        assert answer.status_code == 200
        await check_dead(town, me, answer.json())
    else:
        assert error_of(answer) == REFUSED
    await check_dead(town, me, {"access_token": me.access_token, "refresh_token": me.refresh_token})


@pytest.mark.parametrize("is_committed", [False, True])
async def test_log_in_in_flight_does_not_survive(town: Pair, is_committed):
    """On its way in it is told to come back, not that the password is wrong; on its way out it is dead."""
    me = await town.someone()
    gate = (town.faults.hold_after if is_committed else town.faults.hold_before)("sessions.start")
    flying = asyncio.ensure_future(log_in(town.one, me))
    await gate.reached()
    await revoke_all(town)
    gate.open()
    answer = await flying
    if is_committed:
        assert answer.status_code == 201
        await check_dead(town, me, answer.json())
    else:
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 30


async def test_services_token_in_flight_does_not_survive(town: Pair):
    """One whose client was read before the event is minted, and denied: its ``iat`` is not past it."""
    me = await town.someone()
    gate = town.faults.hold_after("directory.client")
    flying = asyncio.ensure_future(town.one.http.post("/token", data=CREDENTIALS, auth=STOCK))
    await gate.reached()
    await revoke_all(town)
    gate.open()
    answer = await flying
    assert answer.status_code == 200
    await check_dead(town, me, answer.json())


@pytest.mark.parametrize("head_start", [0, 40])
async def test_nothing_of_a_burst_survives(town: Pair, head_start):
    """Refreshes, log-ins and services at both nodes around the event: whatever was given is dead."""
    people = [await town.someone() for _ in range(2)]

    def burst() -> list[tuple[Someone, asyncio.Future[httpx2.Response]]]:
        asked: list[tuple[Someone, asyncio.Future[httpx2.Response]]] = []
        for who in people:
            for node in town.nodes:
                asked += [
                    (who, asyncio.ensure_future(refresh(node, who, who.refresh_token))),
                    (who, asyncio.ensure_future(log_in(node, who))),
                    (who, asyncio.ensure_future(node.http.post("/token", data=CREDENTIALS, auth=STOCK))),
                ]
        return asked

    asked = burst()
    for _ in range(head_start):
        await asyncio.sleep(0)
    writing = asyncio.ensure_future(revoke_all(town))
    asked += burst()
    await writing
    answers = [(who, await future) for who, future in asked]
    for _, answer in answers:
        assert error_of(answer)[0] in {200, 201, 503} or error_of(answer) == REFUSED, answer.text
    for who, answer in answers:
        if answer.is_success:
            await check_dead(town, who, answer.json())


async def test_minting_goes_on_to_the_second_and_no_refresh_token_is_spent(town: Pair):
    """While a client's tokens would be revoked at birth: 503, for how long, and then the same token."""
    me = await town.someone()
    row = await town.row(me)
    recall = await revoke_tokens_of(
        town.rig.store, town.one.issuer, me.client_id, timing=town.one.services.timing, audit=Audit()
    )
    for node in town.nodes:
        waits = await refresh(node, me, me.refresh_token)
        assert (waits.status_code, int(waits.headers["retry-after"])) == (503, recall.pause)
    assert await town.row(me) == row
    assert (await log_in(town.one, me)).status_code == 503
    await town.pass_time(recall.pause - 1)
    assert (await refresh(town.other, me, me.refresh_token)).status_code == 503
    await town.pass_time(1)
    answer = await refresh(town.other, me, me.refresh_token)
    assert answer.status_code == 200
    assert claims_of(answer.json()["access_token"])["iat"] == recall.not_before + 1
    assert not await is_denied(town, answer.json()["access_token"])
    assert await is_denied(town, me.access_token)


async def test_clients_event_ends_no_session_and_touches_no_other_client(town: Pair):
    """Another client mints at once, and its tokens are accepted; the client's own sessions go on later."""
    me, other = await town.someone(), await town.someone()
    await revoke_tokens_of(
        town.rig.store, town.one.issuer, me.client_id, timing=town.one.services.timing, audit=Audit()
    )
    assert await is_denied(town, me.access_token)
    assert not await is_denied(town, other.access_token)
    assert (await refresh(town.one, other, other.refresh_token)).status_code == 200
    assert (await town.one.http.post("/token", data=CREDENTIALS, auth=STOCK)).status_code == 200


async def test_session_that_was_used_since_is_over_with_all_its_tokens(town: Pair):
    """Everything issued before a time, an hour later: a session of before is over, also with the token that
    it got a moment ago, which is newer than that time; one that began later lives, and minting does not
    pause."""
    old = await town.someone()
    at = NumericDate(town.rig.clock.now() + 1)
    await town.pass_time(3600)
    fresh = await refresh(town.one, old, old.refresh_token)
    assert fresh.status_code == 200
    new = await town.someone()
    recall = await revoke_all(town, before=at)
    assert (recall.not_before, recall.pause) == (at, 0)
    assert outcome(await introspect(town.one, fresh.json()["access_token"], API)) == INACTIVE
    for node in town.nodes:
        assert error_of(await refresh(node, old, fresh.json()["refresh_token"])) == REFUSED
    await finish(town)
    assert await is_denied(town, fresh.json()["access_token"])
    assert not await is_denied(town, new.access_token)
    assert (await refresh(town.other, new, new.refresh_token)).status_code == 200


async def test_rows_are_ended_step_by_step_and_the_log_has_one_event(town: Pair):
    """The log has one entry for all sessions together, before and after their rows were written (F30)."""
    people = [await town.someone() for _ in range(3)]
    before = await town.rig.store.revocations.head(town.one.issuer)
    await revoke_all(town)
    await finish(town)
    after = await town.rig.store.revocations.head(town.one.issuer)
    assert after[0].seq == before[0].seq + 1
    rows = [await town.row(who) for who in people]
    assert all(row.ended_at is not None for row in rows)
    assert await town.rig.store.sessions.list(town.one.issuer) == ()


async def test_client_that_is_added_again_gets_nothing_that_is_revoked(town: Pair):
    """Removing a client denies what it got in its own name, and its id does not come back too early."""
    secret = ("courier", "s3cret-of-the-courier")
    made = client(secret[0], secret=secret[1], grant_types=("client_credentials",))
    await town.rig.store.directory.add_client(made)
    token = (await town.one.http.post("/token", data=CREDENTIALS, auth=secret)).json()["access_token"]
    timing = town.one.services.timing
    await town.rig.store.directory.remove_client(town.one.issuer, ClientId("courier"), timing=timing)
    assert await is_denied(town, token)
    await town.rig.store.directory.add_client(made)
    assert (await town.other.http.post("/token", data=CREDENTIALS, auth=secret)).status_code == 503
    assert outcome(await introspect(town.other, token, secret)) == INACTIVE
    await town.pass_time(60)
    answer = await town.other.http.post("/token", data=CREDENTIALS, auth=secret)
    assert not await is_denied(town, answer.json()["access_token"])
    await town.rig.store.directory.remove_client(town.one.issuer, ClientId("courier"), timing=timing)


async def test_parallel_revocations_at_two_nodes_pass_no_limit(town: Pair):
    """Twenty-four tokens of one session at once: sixteen events of their own, and the session's (V4)."""
    me = await town.someone()
    answers = [await refresh(town.one, me, me.refresh_token) for _ in range(23)]
    tokens = [me.access_token, *(answer.json()["access_token"] for answer in answers)]
    done = await asyncio.gather(
        *(revoke(town.nodes[number % 2], token, me.client_id) for number, token in enumerate(tokens))
    )
    assert {answer.status_code for answer in done} == {200}
    found = await town.rig.store.revocations.read(town.one.issuer, None, limit=1_000)
    assert not isinstance(found, CursorGone)
    jtis = {claims_of(token)["jti"] for token in tokens}
    assert sum(entry.event.value in jtis for entry in found.entries) == JTI_A_SESSION
    assert sum(entry.event.value == me.rid for entry in found.entries) == 1
    assert (await town.row(me)).ended_at is not None
    for token in tokens:
        assert await is_denied(town, token)
