"""Readiness, where it cannot be seen from outside."""

import asyncio
import socket

from tests.http.surface import surface
from tests.server.town import TownNode, town

from mintmark.errors import NotReady
from mintmark.server.health import Health, Reason
from mintmark.signer.client import SignerClient
from mintmark.testing.clock import FakeClock
from mintmark.units import Kid


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


class _Others:
    """Other nodes that sign only once they are let, and whether they do is told anew each time."""

    def __init__(self) -> None:
        self.asked = 0
        self.sign_now = True
        self.reached = asyncio.Event()
        self.held = asyncio.Event()

    async def sign(self, kid: Kid, typ: str, payload: bytes) -> str:
        raise NotReady("nobody signs")

    async def probe(self) -> None:
        self.asked += 1
        self.reached.set()
        await self.held.wait()
        if not self.sign_now:
            raise NotReady("nobody signs")


def health_of(node: TownNode, others: _Others) -> Health:
    services = node.services
    return Health(
        node=node.node,
        ring=services.ring,
        feed=services.feed,
        signer=node.signer,
        clock=node.town.clock,
        peers=others,
    )


async def test_flood_of_readiness_probes_asks_peers_once():
    """Anyone may ask for readiness: however many do within half a second, peers get one request."""
    async with town() as world:
        new = await world.join("new")
        await world.look()
        others = _Others()
        health = health_of(new, others)
        first, *rest = (asyncio.ensure_future(health.reasons()) for _ in range(50))
        await others.reached.wait()
        # Whoever began the probe hangs up; those who wait for it as well get its outcome.
        first.cancel()
        others.held.set()
        answers = [*await asyncio.gather(*rest), *[await health.reasons() for _ in range(50)]]
        world.clock.advance(0.4)
        answers.append(await health.reasons())
        assert all(Reason.NO_ACTIVE_KEY not in reasons for reasons in answers)
        assert others.asked == 1


async def test_outcome_of_a_peer_probe_is_not_kept_for_longer():
    """After half a second peers are asked again, whichever way the answer was."""
    async with town() as world:
        new = await world.join("new")
        await world.look()
        others = _Others()
        others.held.set()
        health = health_of(new, others)
        for asked, signs in enumerate((True, False, True), 1):
            others.sign_now = signs
            for _ in range(2):
                assert (Reason.NO_ACTIVE_KEY not in await health.reasons()) is signs
            assert others.asked == asked
            world.clock.advance(0.5)


async def test_silence_of_peers_is_answered_within_a_second():
    """Whoever waits for a probe that another began waits no longer than that one."""
    async with town() as world:
        new = await world.join("new")
        await world.look()
        others = _Others()
        health = health_of(new, others)
        early = asyncio.ensure_future(health.reasons())
        await others.reached.wait()
        await world.clock.armed(within=1, beyond=0.5)
        late = asyncio.ensure_future(health.reasons())
        world.clock.advance(1)
        for asking in (early, late):
            assert Reason.NO_ACTIVE_KEY in await asking
        assert others.asked == 1
