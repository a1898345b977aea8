"""What every bus over a server does with its connection, shown on one that does as it is told."""

import asyncio

from tests.adapters.wakeups import hears, listening, missed, opened, until

from mintmark.adapters.line import LONGEST, LineBus, unreached
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock


class Wire:
    """A connection on which the next calls of a kind fail, or never end."""

    def __init__(self, server, heard, lost):
        self.server = server
        self.heard = heard
        self.lost = lost
        self.dropped = False

    async def _do(self, what):
        self.server.done.append(what)
        match self.server.plan.pop(what, None):
            case Exception() as error:
                raise error
            case "hang":
                await asyncio.get_running_loop().create_future()

    async def connect(self):
        await self._do("connect")

    async def listen(self):
        await self._do("listen")

    async def send(self):
        await self._do("send")

    async def probe(self):
        await self._do("probe")

    async def leave(self):
        await self._do("leave")

    def drop(self):
        self.dropped = True

    async def ended(self):
        assert self.dropped
        self.server.done.append("ended")


class Server:
    """Makes wires, and remembers what was done on them."""

    place = "a server"

    def __init__(self):
        self.plan = {}
        self.done = []
        self.wires = []

    def wire(self, *, heard, lost):
        self.wires.append(Wire(self, heard, lost))
        return self.wires[-1]

    def explain(self, error):
        return type(error).__name__


def bus_over(server):
    return LineBus(server, clock=FakeClock(), entropy=SYSTEM_ENTROPY)


async def test_announcement_that_was_under_way_is_made_again():
    """What a lost connection may have taken with it is sent by the next one, before anything else."""
    server = Server()
    async with opened(bus_over(server)) as bus:
        await listening(bus)
        server.plan["send"] = ConnectionResetError()
        await bus.announce()
        assert await missed(bus) == ["ConnectionResetError"]
        before = len(server.done)
        await listening(bus)
        await until(lambda: "send" in server.done[before:], "it was sent again")
        assert server.done[before:][:3] == ["connect", "listen", "send"]


async def test_each_wire_is_dropped_and_has_ended_before_the_next_is_made():
    """Whatever fails, and however, no two connections are there at once."""
    server = Server()
    async with opened(bus_over(server)) as bus:
        await listening(bus)
        for what, failure in (("connect", OSError()), ("listen", ValueError()), ("connect", "hang")):
            server.plan |= {what: failure, "probe": ConnectionResetError()}
            made = len(server.wires)
            server.wires[-1].lost()
            await missed(bus)
            # One that fails, and the one after it.
            while len(server.wires) < made + 2:
                bus._clock.advance(LONGEST)
                await asyncio.sleep(0.01)
            await listening(bus)
            *earlier, last = server.wires
            assert all(wire.dropped for wire in earlier)
            assert not last.dropped
        assert server.done.count("ended") == len(server.wires) - 1
    assert all(wire.dropped for wire in server.wires)


async def test_loss_that_is_told_is_noticed_without_waiting():
    """A connection that says that it is lost is asked at once, and not after the silence that has a probe."""
    server = Server()
    async with opened(bus_over(server)) as bus:
        subscription = await listening(bus)
        server.plan["probe"] = ConnectionResetError()
        before = bus._clock.monotonic()
        server.wires[-1].lost()
        assert await missed(bus) == ["ConnectionResetError"]
        assert await hears(subscription)
        assert bus._clock.monotonic() == before


def test_reasons_are_of_our_own_words():
    """No text of an error is in what is told of it."""
    for error in (
        ConnectionRefusedError(111, "geheim"),
        TimeoutError("geheim"),
        ValueError("geheim"),
        OSError(5, "geheim"),
    ):
        wrapped = RuntimeError("geheim")
        wrapped.__cause__ = error
        assert "geheim" not in unreached(wrapped)
        assert unreached(wrapped) == unreached(error)
