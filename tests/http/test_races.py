"""What must hold when requests come at the same time: over HTTP, with the store as the only judge."""

import asyncio
from collections import Counter
from typing import Any

import httpx2
import pytest
from tests.http.surface import ALICE, Surface, surface

from mintmark.core import jws, strict_json
from mintmark.core.denylist import Denylist
from mintmark.core.events import EventName
from mintmark.core.feed import FeedPolicy, parse_page
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults


def claims_of(token: str) -> dict[str, Any]:
    """The payload of a token, unverified."""
    claims = strict_json.decode(jws.parse(token).payload)
    assert isinstance(claims, dict)
    return claims


async def denied(node: Surface, access_token: str) -> bool:
    """Whether a verifier that follows the feed refuses this token, for as long as it could be accepted."""
    page = parse_page((await node.http.get("/revocations")).content, issuer=node.issuer, policy=FeedPolicy())
    denylist = Denylist()
    for event in page.events:
        denylist.apply(event)
    claims, kid = claims_of(access_token), jws.parse(access_token).header.kid
    assert kid is not None
    kind = denylist.covers(claims["rid"], claims["jti"], kid, claims["client_id"], claims["iat"])
    values = {claims["rid"], claims["client_id"]}
    kept = [event.expires_at for event in page.events if event.value in values]
    return kind is not None and min(kept) >= claims["exp"] + 300


async def test_hundred_redemptions_have_one_successor(node: Surface):
    """A hundred concurrent redemptions are all answered, with one refresh token (RF1, R1, I4)."""
    first = (await node.log_in())["refresh_token"]
    answers = await asyncio.gather(*(node.refresh(first) for _ in range(100)))
    assert Counter(answer.status_code for answer in answers) == {200: 100}
    assert len({answer.json()["refresh_token"] for answer in answers}) == 1
    assert len({answer.json()["access_token"] for answer in answers}) == 100
    [successor] = {answer.json()["refresh_token"] for answer in answers}
    assert (await node.refresh(successor)).status_code == 200


async def test_both_refresh_endpoints_share_one_successor(node: Surface):
    """/token and /v1/sessions/refresh are one operation: together they too make one successor."""
    first = (await node.log_in())["refresh_token"]
    body = {"refresh_token": first, "client_id": "spa"}
    answers = await asyncio.gather(
        *(node.refresh(first) for _ in range(20)),
        *(node.http.post("/v1/sessions/refresh", json=body) for _ in range(20)),
    )
    assert len({answer.json()["refresh_token"] for answer in answers}) == 1


@pytest.mark.parametrize("head_start", range(6))
async def test_logout_leaves_nothing_of_a_hundred_refreshes(node: Surface, head_start):
    """Whatever a hundred racing refreshes answered: after the log-out no refresh token of theirs works, and
    every access token is denied by the feed for as long as any verifier could take it (R5, I6)."""
    tokens = await node.log_in()
    racing = [asyncio.ensure_future(node.refresh(tokens["refresh_token"])) for _ in range(50)]
    for _ in range(10 * head_start):
        await asyncio.sleep(0)
    leaving = asyncio.ensure_future(node.log_out(tokens["access_token"]))
    racing += [asyncio.ensure_future(node.refresh(tokens["refresh_token"])) for _ in range(50)]
    assert (await leaving).status_code == 204
    answers = await asyncio.gather(*racing)
    given = [tokens, *(answer.json() for answer in answers if answer.status_code == 200)]
    refused = {(a.status_code, a.json()["error"]) for a in answers if a.status_code != 200}
    assert refused <= {(400, "invalid_grant")}
    for one in given:
        again = await node.refresh(one["refresh_token"])
        assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
        assert await denied(node, one["access_token"])


@pytest.mark.parametrize("how", ["disabled", "password", "client"])
async def test_account_changes_leave_nothing_of_racing_refreshes(node: Surface, how):
    """Disabling the user, changing the password and removing the client are as final as a log-out (R5)."""
    tokens = await node.log_in()
    racing = [asyncio.ensure_future(node.refresh(tokens["refresh_token"])) for _ in range(40)]
    await asyncio.sleep(0)
    directory, timing = node.store.directory, node.services.timing
    match how:
        case "disabled":
            await directory.disable_user(node.issuer, ALICE, timing=timing)
        case "password":
            await directory.set_password(node.issuer, ALICE, "$argon2id$other", timing=timing)
        case "client":
            [spa] = [c for c in await directory.clients(node.issuer) if c.client_id == "spa"]
            await directory.remove_client(node.issuer, spa.client_id, timing=timing)
    answers = await asyncio.gather(*racing)
    for one in [tokens, *(answer.json() for answer in answers if answer.status_code == 200)]:
        assert (await node.refresh(one["refresh_token"])).status_code in {400, 401}
        assert await denied(node, one["access_token"])


async def test_refresh_that_was_decided_before_the_logout_is_refused():
    """A refresh that has read the session and is then overtaken by a log-out mints nothing (R5)."""
    faults = Faults(clock=FakeClock())
    async with surface(faults=faults) as node:
        tokens = await node.log_in()
        gate = faults.hold_before("sessions.redeem")
        racing = asyncio.ensure_future(node.refresh(tokens["refresh_token"]))
        await gate.reached()
        assert (await node.log_out(tokens["access_token"])).status_code == 204
        gate.open()
        answer = await racing
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


async def test_refresh_that_was_committed_before_the_logout_is_denied():
    """A refresh that committed first and is answered later gives an access token that the feed denies."""
    faults = Faults(clock=FakeClock())
    async with surface(faults=faults) as node:
        tokens = await node.log_in()
        gate = faults.hold_after("sessions.redeem")
        racing = asyncio.ensure_future(node.refresh(tokens["refresh_token"]))
        await gate.reached()
        assert (await node.log_out(tokens["access_token"])).status_code == 204
        gate.open()
        given = (await racing).json()
        assert await denied(node, given["access_token"])
        assert (await node.refresh(given["refresh_token"])).json()["error"] == "invalid_grant"


async def test_lost_answer_of_a_refresh_logs_nobody_out():
    """The commit is done and its answer lost: the client hears 503, tries again with the same token, and goes
    on with the same successor (R2, F19)."""
    faults = Faults(clock=FakeClock())
    async with surface(faults=faults) as node:
        first = (await node.log_in())["refresh_token"]
        faults.fail_after("sessions.redeem", times=1)
        lost = await node.refresh(first)
        assert (lost.status_code, lost.json()["error"]) == (503, "temporarily_unavailable")
        again = await node.refresh(first)
        assert again.status_code == 200
        assert (await node.refresh(again.json()["refresh_token"])).status_code == 200


async def test_concurrent_logouts_make_one_event(node: Surface):
    """A hundred log-outs of one session are all 204, and the log has one entry."""
    tokens = await node.log_in()
    answers = await asyncio.gather(*(node.log_out(tokens["access_token"]) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {204}
    assert len((await node.http.get("/revocations")).json()["events"]) == 1


async def test_thief_who_rides_within_the_window_is_an_event(node: Surface):
    """R2: both are answered with the same token, the session lives, and the log says that two shared it."""
    tokens = await node.log_in()
    body = {"refresh_token": tokens["refresh_token"], "client_id": "spa"}
    owner = await node.http.post("/v1/sessions/refresh", json=body)
    assert node.services.audit.counts[EventName.ADDRESSES_DIFFERED] == 0
    elsewhere = httpx2.ASGITransport(app=node.app, client=("203.0.113.9", 1234))
    async with httpx2.AsyncClient(transport=elsewhere, base_url=str(node.http.base_url)) as http:
        thief = await http.post("/v1/sessions/refresh", json=body)
    assert thief.json()["refresh_token"] == owner.json()["refresh_token"]
    assert node.services.audit.counts[EventName.ADDRESSES_DIFFERED] == 1
