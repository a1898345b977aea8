"""Ending one's own sessions against their refreshes, at two nodes on each store (I6, F29)."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from tests.http.pair import OK, REFUSED, Pair, outcome, pair_on, refresh
from tests.postgresql import empty_database
from tests.registry import STORES, store_rig

ROUNDS = int(os.environ.get("MINTMARK_OWN_RACES", "3"))


@pytest.fixture(params=STORES)
async def pair(request, tmp_path) -> AsyncIterator[Pair]:
    """Two nodes on one store."""
    with contextlib.ExitStack() as ending:

        def fixture(name: str) -> Any:
            server = request.getfixturevalue("postgresql")
            return ending.enter_context(empty_database(server)) if name == "database" else server

        async with store_rig(request.param, tmp_path, fixture) as rig, pair_on(rig) as made:
            yield made


async def test_no_refresh_in_flight_survives_its_sessions_end_on_any_store(pair: Pair):
    """One, others or all are ended at one node while both refresh: nothing is left, and that is told once."""
    paths = ("/v1/sessions/{rid}", "/v1/sessions?keep=current", "/v1/sessions")
    issuer = pair.one.issuer
    for path in paths * ROUNDS:
        victim = await pair.someone()
        asking = await pair.log_in(victim.sub, victim.username, victim.client_id, audience=issuer)
        headers = {"Authorization": f"Bearer {asking.access_token}"}
        end: asyncio.Future[httpx2.Response] = asyncio.ensure_future(
            pair.other.http.delete(path.replace("{rid}", victim.rid), headers=headers)
        )
        refreshes = [
            asyncio.ensure_future(refresh(node, victim, victim.refresh_token))
            for node in (pair.one, pair.other, pair.one)
        ]
        answers, ended = await asyncio.gather(*refreshes), await end
        assert ended.status_code in {200, 204}, ended.text
        assert {outcome(answer) for answer in answers} <= {OK, REFUSED}
        given = [answer.json()["refresh_token"] for answer in answers if outcome(answer) == OK]
        await pair.check_refused(victim, victim.refresh_token, *given)
        assert [entry.cause for entry in await pair.ends(victim)] == ["logout"]
        expected = [] if path == "/v1/sessions" else [asking.rid]
        left = await pair.rig.store.sessions.list(issuer, sub=victim.sub)
        assert [session.rid for session in left] == expected
