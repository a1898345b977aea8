"""What strangers take of a cluster listener is not what nodes need of it."""

import asyncio
import contextlib
import socket

from mintmark.adapters.cluster_caller import ClusterCaller
from mintmark.adapters.cluster_listener import ClusterListener, Limits
from mintmark.adapters.cluster_wire import Identity
from mintmark.core.keyring import Member
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.peer import ISSUER, RecordingService
from mintmark.units import NodeId, NumericDate

ELSEWHERE = "127.0.0.2"
"""Where no node is; Linux has all of 127/8."""
LIMITS = Limits(handshakes=4, strangers=2)


class Door(RecordingService):
    """Says when so many found no place."""

    def __init__(self, enough: int) -> None:
        super().__init__()
        self._left = enough
        self.crowded = asyncio.Event()

    def turned_away(self, address: str, reason: str) -> None:
        super().turned_away(address, reason)
        self._left -= reason == "too many connections"
        if self._left == 0:
            self.crowded.set()


async def test_strangers_who_say_nothing_leave_nodes_their_places():
    """PEER-8: however many connections are opened from elsewhere, a live node's handshake finds a place."""
    here, node = (Identity(NodeId(name), SYSTEM_ENTROPY) for name in ("here", "node"))
    known = Member(NodeId("node"), NumericDate(0), 0, address="127.0.0.1:1", certificate=node.certificate)
    door = Door(enough=10 - LIMITS.handshakes)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        place = sock.getsockname()
        listener = ClusterListener(
            sock, identity=here, callers=lambda: {node.certificate: known}, service=door,
            clock=FakeClock(), limits=LIMITS,
        )  # fmt: skip
        listening = asyncio.create_task(listener.run())
        caller = ClusterCaller(node, clock=FakeClock())
        try:
            with contextlib.ExitStack() as strangers:
                for _ in range(10):
                    strangers.enter_context(socket.create_connection(place, source_address=(ELSEWHERE, 0)))
                await door.crowded.wait()
                member = Member(
                    NodeId("here"), NumericDate(0), 0, address=f"{place[0]}:{place[1]}",
                    certificate=here.certificate,
                )  # fmt: skip
                await caller.probe(member, ISSUER)
        finally:
            await caller.close()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
