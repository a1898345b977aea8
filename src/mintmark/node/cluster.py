"""The node among others: its certificate, its cluster listener, and the way from its workers to other nodes.

All of it is the control process's. A worker that is taken over has no certificate and no connection: it can
ask for signatures, and other nodes hold what it asks for against the store.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from mintmark.adapters.cluster_caller import ClusterCaller
from mintmark.adapters.cluster_listener import ClusterListener
from mintmark.adapters.cluster_wire import Identity
from mintmark.errors import Unavailable
from mintmark.node.elsewhere import PROBE
from mintmark.node.listener import listen_for_nodes
from mintmark.server.audit import Audit
from mintmark.server.peering import Desk, Peering
from mintmark.server.peers import Peers
from mintmark.server.settings import Settings
from mintmark.signer import protocol
from mintmark.signer.channel import Channel
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.units import Issuer, NodeId

log: Final = logging.getLogger("mintmark.cluster")

_MAX_IN_FLIGHT: Final = 256
"""Requests of one worker under way; then its channel is not read until some are done."""
_KEPT: Final = 5.0
"""Seconds between two looks at which connections are still to somebody who lives."""


class _Named(msgspec.Struct, frozen=True):
    """Claims, of which only the issuer matters here."""

    iss: Issuer


class Cluster:
    """What one run of a node has to do with other nodes; made before its keys, so that rows can name it."""

    def __init__(self, settings: Settings, node: NodeId) -> None:
        self._identity = Identity(node, SYSTEM_ENTROPY)
        self._audit = Audit(node=node)
        place = listen_for_nodes(settings)
        self._sock = place[0] if place is not None else None
        self.address: Final = str(place[1]) if place is not None else ""
        self.certificate: Final = self._identity.certificate
        self.caller: Final = ClusterCaller(self._identity, clock=SYSTEM_CLOCK)
        self._peers: dict[Issuer, Peers] = {}
        self._lines: set[_WorkerLine] = set()

    async def run(self, peerings: Sequence[Peering], peers: Sequence[Peers]) -> None:
        """Answer other nodes, and call them, until cancelled."""
        self._peers.update((each.issuer, each) for each in peers)
        desk = Desk(peerings, clock=SYSTEM_CLOCK, audit=self._audit)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep(desk))
                if self._sock is not None:
                    listener = ClusterListener(
                        self._sock,
                        identity=self._identity,
                        callers=desk.callers,
                        service=desk,
                        clock=SYSTEM_CLOCK,
                    )
                    group.create_task(listener.run())
        finally:
            await self.close()

    async def close(self) -> None:
        """Answer nobody and call nobody any more. Idempotent."""
        if self._sock is not None:
            self._sock.close()
        for line in tuple(self._lines):
            line.close()
        await self.caller.close()

    def attach(self) -> socket.socket:
        """One end of a worker's channel to other nodes; speaks as the signer does, and can only sign."""
        ours, theirs = socket.socketpair()
        self._lines.add(_WorkerLine(ours, self._peers, self._lines.discard))
        return theirs

    async def _keep(self, desk: Desk) -> None:
        while True:
            await SYSTEM_CLOCK.sleep(_KEPT)
            self.caller.keep_only(desk.callers().values())


class _WorkerLine:
    """One worker's channel: what it asks for is asked of other nodes."""

    def __init__(
        self, sock: socket.socket, peers: dict[Issuer, Peers], on_end: "Callable[[_WorkerLine], None]"
    ) -> None:
        self._peers = peers
        self._asking: set[asyncio.Task[None]] = set()

        def ended(_: str) -> None:
            for task in self._asking:
                task.cancel()
            on_end(self)

        self._channel = Channel(sock, on_frame=self._take, on_end=ended, limit=protocol.MAX_REQUEST)

    def close(self) -> None:
        """End it; what the worker waits for fails. Idempotent."""
        self._channel.close()

    def _take(self, frame: memoryview) -> None:
        try:
            request = protocol.decode_sign(frame)
        except msgspec.MsgspecError:
            self._channel.close("a message that is no Sign")
            return
        task = asyncio.create_task(self._ask(request))
        self._asking.add(task)
        task.add_done_callback(self._asked)
        self._channel.hold(len(self._asking) >= _MAX_IN_FLIGHT)

    def _asked(self, task: "asyncio.Task[None]") -> None:
        self._asking.discard(task)
        self._channel.hold(len(self._asking) >= _MAX_IN_FLIGHT)

    async def _ask(self, request: protocol.Sign) -> None:
        answer: protocol.WorkerAnswer = protocol.Failed(request.id)
        try:
            # A probe has claims as well, of which there is one.
            peers = self._peers[msgspec.json.decode(request.payload, type=_Named).iss]
            if request.kid == PROBE:
                await peers.probe()
                answer = protocol.Signed(request.id, "")
            else:
                token = await peers.sign(request.kid, request.typ, request.payload)
                answer = protocol.Signed(request.id, token)
        except Unavailable as error:
            # The worker learns only that nobody signed: to its caller it is all the same.
            log.debug("no other node signed: %s", error)
        except Exception as error:  # noqa: BLE001  One request must not end the others.
            log.error("another node could not be asked: %s", type(error).__qualname__)
        self._channel.send(protocol.encode(answer))
