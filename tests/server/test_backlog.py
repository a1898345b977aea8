"""How many logout notices wait, as the metrics say it."""

import asyncio

from tests.server.relying import world

from mintmark.server.backlog import COUNT_EVERY, Backlog
from mintmark.testing.faults import Faults, FaultyStore


async def test_metrics_say_how_many_notices_wait():
    """`mintmark_logout_notices` follows the outbox, and is left out while the store does not say."""
    line = 'mintmark_logout_notices{issuer="https://auth.example.com"}'
    async with world() as w:

        async def metrics() -> str:
            return (await w.node.http.get("/metrics")).text

        assert line not in await metrics()
        counting = asyncio.create_task(w.services.backlog.run())
        await w.until(lambda: w.services.backlog.notices == 0)
        assert f"{line} 0.0" in await metrics()
        await w.ended(await w.party(), 2)
        await w.until(lambda: w.services.backlog.notices == 2, span=2 * COUNT_EVERY)
        assert f"{line} 2.0" in await metrics()
        counting.cancel()
        faults = Faults(clock=w.clock)
        faults.fail_before("outbox.pending")
        w.services.backlog.notices = None
        faulty = Backlog(w.node.issuer, outbox=FaultyStore(w.node.store, faults).outbox, clock=w.clock)
        faulty.notices = 7
        failing = asyncio.create_task(faulty.run())
        await w.until(lambda: faulty.notices is None)
        failing.cancel()
        assert line not in await metrics()
