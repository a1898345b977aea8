"""Dead sessions are looked for in steps, so that no statement takes longer the more sessions there are."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.registry import STORES, store_rig

from mintmark.adapters.sql import sessions as statements
from mintmark.adapters.sql.ending import BOUND
from mintmark.adapters.sql.sessions import SessionRows
from mintmark.core.sessions import EndCause
from mintmark.ports.sessions import KEPT_FOR
from mintmark.testing.conformance.rig import ISSUER, OTHER, TIMING, Rig


@pytest.fixture(params=[name for name in STORES if name != "memory"])
async def rig(request, tmp_path) -> AsyncIterator[Any]:
    async with store_rig(request.param, tmp_path, request.getfixturevalue) as rig:
        yield rig


async def sessions_of_every_second(rig: Rig, seconds: int, *, each: int) -> list[str]:
    """Their ``rid``, in the order in which they began."""
    user, client = await rig.someone()
    rids: list[str] = []
    for _ in range(seconds):
        rids += sorted([(await rig.logged_in(user, client))[0].rid for _ in range(each)])
        rig.clock.advance(1)
    return rids


def watched(monkeypatch: pytest.MonkeyPatch, *, most: int) -> list[tuple[set[str], int | None]]:
    """What each step that looks at ``most`` sessions finds, and where the next one begins."""
    steps: list[tuple[set[str], int | None]] = []
    over = SessionRows.over

    def seen(*arguments: Any) -> Any:
        found, last = over(*arguments)
        steps.append((set(found), last))
        return found, last

    monkeypatch.setattr(SessionRows, "over", seen)
    monkeypatch.setattr(SessionRows, "most_examined", most)
    return steps


@pytest.mark.parametrize("each", [1, 3])
async def test_pruning_looks_at_a_few_sessions_at_a_time_and_at_all(rig, monkeypatch, each):
    """SESSION-8: whatever number a step looks at, every dead session goes and no living one, among however
    many others it lies and however many began with it."""
    rids = await sessions_of_every_second(rig, 12, each=each)
    dead = {*rids[4:6], rids[9], rids[-1]}
    for rid in dead:
        await rig.store.sessions.end(ISSUER, rid, cause=EndCause.LOGOUT, timing=TIMING)
    rig.clock.advance(TIMING.access_ttl + 2 * KEPT_FOR)
    steps = watched(monkeypatch, most=2)
    assert await rig.store.sessions.prune(OTHER) == 0
    steps.clear()
    assert await rig.store.sessions.prune(ISSUER) == len(dead)
    # The last of them looks behind all, and finds nothing.
    assert len(steps) == (12 // 2 if each == 1 else 12) + 1
    assert all(len(found) <= max(2, each) for found, _ in steps)
    assert set().union(*(found for found, _ in steps)) == dead
    left = await rig.store.sessions.list(ISSUER, limit=1_000)
    assert {session.rid for session in left} == set(rids) - dead


async def test_young_sessions_are_not_looked_at(rig, monkeypatch):
    """Who began less than a day ago cannot have been over for a day: pruning ends before them."""
    rids = await sessions_of_every_second(rig, 8, each=1)
    await rig.store.sessions.end(ISSUER, rids[0], cause=EndCause.LOGOUT, timing=TIMING)
    steps = watched(monkeypatch, most=3)
    # The first two are old enough.
    rig.clock.advance(KEPT_FOR - 7)
    assert await rig.store.sessions.prune(ISSUER) == 0
    assert steps == [(set(), None)]


async def test_steps_go_by_the_index(tmp_path, request):
    """Neither statement of a step reads all sessions, or sorts them: SQLite says so however few there are."""
    plans: list[str] = []

    def explain(connection: Any) -> None:
        asked = {"issuer": ISSUER, "behind": 0, "before": 10, "upto": 10, "most": 5}
        for statement in (BOUND, statements._FIND_OVER):
            compiled = statement.compile(connection.engine)
            values = tuple({**compiled.params, **asked}[name] for name in compiled.positiontup or ())
            raw = connection.connection.dbapi_connection
            plans.extend(row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {compiled}", values))

    async with store_rig("sqlite", tmp_path, request.getfixturevalue) as rig:
        store: Any = rig.store
        await store.read(explain)
    assert len(plans) == 2
    assert all("ix_sessions_issuer_created_at" in plan for plan in plans), plans
    assert all("created_at>? AND created_at<?" in plan for plan in plans), plans
