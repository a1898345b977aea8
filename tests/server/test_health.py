"""Readiness, where it cannot be seen from outside."""

import asyncio
import socket

from tests.http.surface import surface

from mintmark.server.health import Health, Reason
from mintmark.signer.client import SignerClient
from mintmark.testing.clock import FakeClock


async def test_signer_that_does_not_answer_is_away_within_a_second():
    """A signer whose process stands still is noticed after one second, and the probe answers."""
    async with surface() as node:
        clock = node.clock
        assert isinstance(clock, FakeClock)
        ours, theirs = socket.socketpair()
        with theirs:
            stopped = SignerClient(ours, clock=clock)
            services = node.services
            health = Health(
                node=services.node, ring=services.ring, feed=services.feed, signer=stopped, clock=clock
            )
            asking = asyncio.ensure_future(health.reasons())
            await clock.armed(within=1, beyond=0.5, count=3)
            clock.advance(1)
            assert await asking == (Reason.SIGNER_AWAY,)
            stopped.close()


async def test_probing_the_signer_signs_nothing():
    """However often readiness is asked, no signature is made for it."""
    async with surface() as node:
        for _ in range(10):
            assert await node.services.health.reasons() == ()
        status = await node.signer.status()
        assert [key.signed for key in status.keys] == [0]


async def test_every_reason_is_given_at_once():
    """A node that is in trouble says all of it, in one order."""
    async with surface() as node:
        assert isinstance(node.clock, FakeClock)
        await node.store.close()
        node.clock.advance(1_000)
        node.services.health.leave()
        node.signer.close()
        assert await node.services.health.reasons() == (
            Reason.LEAVING,
            Reason.RING_STALE,
            Reason.NO_ACTIVE_KEY,
            Reason.LOG_STALE,
            Reason.SIGNER_AWAY,
        )
