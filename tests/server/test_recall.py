"""Revocation by time: what was ended counts at once, and control writes it down whatever fails meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.http.asking import STOCK
from tests.http.surface import Surface, surface

from mintmark.adapters.memory_bus import MemoryBus
from mintmark.core.events import EventName
from mintmark.core.sessions import EndCause
from mintmark.errors import NotFound
from mintmark.server import recall
from mintmark.server.audit import Audit
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults, FaultyStore
from mintmark.units import NumericDate, Rid


@asynccontextmanager
async def finishing(node: Surface, faults: Faults, audit: Audit) -> AsyncIterator[None]:
    """A node's control process, as far as it ends sessions."""
    store = FaultyStore(node.store, faults)
    timing = node.services.timing
    work = recall.finish(node.issuer, store=store, bus=node.bus, clock=node.clock, timing=timing, audit=audit)
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def pass_time(node: Surface) -> None:
    """Let a second or so go by, step by step, so that whoever waits for any part of it wakes."""
    assert isinstance(node.clock, FakeClock)
    for _ in range(12):
        node.clock.advance(0.1)
        for _ in range(10):
            await asyncio.sleep(0)


async def finished(node: Surface, audit: Audit) -> None:
    """Let time go by until sessions were ended."""
    async with asyncio.timeout(60):
        while audit.counts[EventName.SESSIONS_ENDED] == 0:
            await pass_time(node)


async def causes(node: Surface, rids: list[Rid]) -> list[EndCause | None]:
    views = [await node.store.sessions.read(node.issuer, rid) for rid in rids]
    return [view.session.end_cause if view.session else None for view in views]


async def test_node_ends_the_rows_and_goes_on_after_an_outage():
    """However the store fails in between, each row says in the end who ended it, and there is one event."""
    async with surface() as node:
        faults, audit = Faults(clock=node.clock), Audit(issuer=node.issuer)
        rids = [(await node.log_in())["rid"] for _ in range(3)]
        faults.fail_before("revocations.end_revoked")
        async with finishing(node, faults, audit):
            made = await recall.revoke_everything(
                node.store, node.issuer, timing=node.services.timing, audit=audit
            )
            await node.bus.announce()
            await pass_time(node)
            assert faults.calls["revocations.end_revoked"] > 0
            faults.recover()
            await finished(node, audit)
        assert await causes(node, rids) == [EndCause.ADMIN] * 3
        page = await node.http.get("/revocations")
        assert [(e["kind"], e["not_before"]) for e in page.json()["events"]] == [("all", made.not_before)]
        assert audit.counts[EventName.TOKENS_REVOKED] == 1


async def test_what_is_written_late_is_announced():
    """Readers are woken: an access token that is newer than the revocation is denied with its session now."""
    async with surface() as node:
        assert isinstance(node.bus, MemoryBus)
        audit, tokens = Audit(issuer=node.issuer), await node.log_in()
        before = NumericDate(node.clock.now() + 1)
        assert isinstance(node.clock, FakeClock)
        node.clock.advance(3600)
        await node.extend(node.kid)
        woken = node.bus.subscribe()
        await recall.revoke_everything(
            node.store, node.issuer, timing=node.services.timing, audit=audit, before=before
        )
        async with finishing(node, Faults(clock=node.clock), audit):
            await finished(node, audit)
            assert await woken.wait(0)
        woken.close()
        assert await causes(node, [tokens["rid"]]) == [EndCause.ADMIN]


@pytest.mark.parametrize(("before", "pause"), [(None, 42), (-1, 5), (-6, 0), (-7, 0), (35, 41), (99, 42)])
async def test_pause_is_foreseen_to_the_second(before, pause):
    """Skew, propagation, the backdating of ``iat`` and a second for rounding; none for a time long past."""
    async with surface() as node:
        now, timing, store = node.clock.now(), node.services.timing, node.store
        at = None if before is None else NumericDate(now + before)
        foreseen = await recall.foresee(store, timing=timing, before=at)
        made = await recall.revoke_everything(store, node.issuer, timing=timing, audit=Audit(), before=at)
        assert foreseen == made
        assert made.pause == pause
        answer = await node.http.post("/token", data={"grant_type": "client_credentials"}, auth=STOCK)
        assert answer.status_code == (503 if pause else 200)
        assert int(answer.headers.get("retry-after", "0")) == pause


async def test_only_a_client_that_is_there_is_named():
    """Somebody else's id is NotFound, and so is what cannot be one."""
    async with surface() as node:
        assert await recall.named(node.store, node.issuer, "stock") == "stock"
        for wrong in ("stocks", "usr_alice", "", "é", "a" * 100):
            with pytest.raises(NotFound):
                await recall.named(node.store, node.issuer, wrong)
