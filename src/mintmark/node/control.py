"""The control process of a node: starts the signer and the workers, rotates keys, and ends it all.

One run of :class:`_Node` is one node: one id, one signer. When its signer dies its keys are gone, so the
node ends and another one begins behind the same listening socket, where requests wait meanwhile.
"""

import asyncio
import contextlib
import signal
import socket
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from mintmark.adapters.http_reader import HttpReader
from mintmark.core import base64url
from mintmark.core.events import EventName
from mintmark.errors import SignerUnavailable
from mintmark.node import logs
from mintmark.node.children import Worker, start_worker
from mintmark.node.cluster import Cluster
from mintmark.node.custody import open_custody
from mintmark.node.link import Assignment
from mintmark.node.listener import listen, own_url
from mintmark.node.secret import read_feed_tokens
from mintmark.node.store import open_bus, open_places, open_store
from mintmark.node.upkeep import Charge, Upkeep, agree_all
from mintmark.ports.bus import Bus
from mintmark.server.audit import Audit
from mintmark.server.bus_watch import BusWatch
from mintmark.server.publication import PlaceReader
from mintmark.server.setting import PEER
from mintmark.server.settings import Settings, working_by
from mintmark.signer.client import SignerClient
from mintmark.signer.hardening import Profile, harden
from mintmark.signer.launch import SignerProcess, start_signer
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.units import Issuer, NodeId

_RESTART: Final = 1.0
"""Seconds before a worker or a signer that died soon after its start is started again."""
_ATTEMPTS: Final = 3
"""Attempts to open the store: what starts us again after a failure would have to start all of us."""
_LOOK: Final = 0.25
"""Seconds between two looks at whether other nodes answer in this one's place."""
_STARTED: Final = 10.0
"""Seconds after which a process counts as one that can start."""


def serve(settings: Settings) -> int:
    """Run a node until it is told to leave; the exit status.

    Raises ConfigurationError for a port that is taken or timing that differs from live nodes', and
    StoreUnavailable or StoreDamaged where the store cannot be opened.
    """
    hardening = harden(Profile.CONTROL)
    logs.configure(settings)
    logs.report(hardening)
    with asyncio.Runner(loop_factory=_loop) as runner:
        return runner.run(_serve(settings))


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 - commands that serve nothing need none

    return uvloop.new_event_loop()


async def _serve(settings: Settings) -> int:
    stop = _Stop()
    # Workers read it; a mistake in it is one line here, and not one each time that a worker is started.
    await read_feed_tokens(settings)
    with listen(settings.listen) as listening:
        async with (
            contextlib.AsyncExitStack() as opened,
            open_store(settings, attempts=_ATTEMPTS) as store,
            open_bus(settings) as bus,
        ):
            charges = []
            for one in settings.issuers:
                own = settings.of(one.issuer)
                places = await opened.enter_async_context(open_places(one))
                reader = HttpReader(at=own_url(listening), host=urlsplit(one.issuer).netloc)
                opened.push_async_callback(reader.close)
                read = PlaceReader(reader, places, one.issuer)
                charges.append(Charge(own, store=store, bus=bus, reader=read, places=places))
            timing = await agree_all(tuple(charges))
            for charge in charges:
                charge.begin(timing)
            node = _Node(working_by(settings, timing), tuple(charges), listening=listening, bus=bus)
            while not stop.asked.is_set():
                await node.run(stop)
    return 0


class _Stop:
    """SIGTERM and SIGINT: the first asks to leave in good order, the second to leave at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        (self.hurried if self.asked.is_set() else self.asked).set()


@dataclass(slots=True)
class _Running:
    """What one run of a node has started."""

    node: NodeId
    signer: SignerProcess
    signing: SignerClient
    cluster: Cluster
    upkeeps: tuple[Upkeep, ...]
    audit: Audit
    workers: list[Worker]
    starting: asyncio.Lock
    """Held while a worker is started, which needs the listening socket."""
    closed: asyncio.Event
    """Set once no worker is started any more."""


class _Node:
    def __init__(
        self, settings: Settings, charges: tuple[Charge, ...], *, listening: socket.socket, bus: Bus
    ) -> None:
        self._settings = settings
        self._charges = charges
        self._listening = listening
        self._bus = bus

    async def run(self, stop: _Stop) -> None:
        """One node's life: until it is told to leave, or its signer died."""
        began = SYSTEM_CLOCK.monotonic()
        running = await self._start()
        for upkeep in running.upkeeps:
            upkeep.audit.record(EventName.NODE_STARTED, listen=own_url(self._listening))
        peerings = [upkeep.peering for upkeep in running.upkeeps]
        peers = [upkeep.peers for upkeep in running.upkeeps]
        # Apart from the others: requests that are under way to the end may need another node's signature.
        answering = asyncio.create_task(running.cluster.run(peerings, peers))
        tasks: list[asyncio.Task[None]] = [
            asyncio.create_task(BusWatch(self._bus, audit=running.audit).run()),
            *(asyncio.create_task(loop) for upkeep in running.upkeeps for loop in upkeep.loops()),
            *(
                asyncio.create_task(self._keep_worker(running, place))
                for place in range(self._settings.workers)
            ),
        ]
        asked = asyncio.create_task(self._until_leaving(running, stop))
        gone = asyncio.create_task(running.signer.control.ended())
        try:
            await asyncio.wait({asked, gone, answering, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in (asked, answering, *tasks):
                if task.done():
                    # A loop never ends by itself: this raises the defect that ended it.
                    task.result()
            if gone.done() and not asked.done():
                running.audit.record(EventName.PROCESS_ENDED, process="signer", reason=gone.result())
        finally:
            for waiting in (asked, gone, *tasks):
                waiting.cancel()
            await asyncio.gather(asked, gone, *tasks, return_exceptions=True)
            await self._end(running, answering, stop)
        if not stop.asked.is_set() and SYSTEM_CLOCK.monotonic() - began < _STARTED:
            await SYSTEM_CLOCK.sleep(_RESTART)

    async def _until_leaving(self, running: _Running, stop: _Stop) -> None:
        """Return once this node is to go: told to, and needed by no issuer any more, or for too long."""
        await stop.asked.wait()
        if self._settings.handover == 0:
            return
        for upkeep in running.upkeeps:
            upkeep.begin_to_leave()
        await self._bus.announce()
        hurried = asyncio.create_task(stop.hurried.wait())
        allowed = {upkeep: asyncio.create_task(upkeep.may_leave()) for upkeep in running.upkeeps}
        everywhere = asyncio.gather(*allowed.values())
        missed = asyncio.create_task(SYSTEM_CLOCK.sleep(self._settings.handover))
        ends = (hurried, everywhere, missed)
        closing = asyncio.create_task(self._sign_only(running))
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for upkeep, one in allowed.items():
                if missed.done() and not one.done():
                    upkeep.audit.record(EventName.HANDOVER_MISSED, seconds=self._settings.handover)
        finally:
            for end in (*ends, closing):
                end.cancel()
            await asyncio.gather(*ends, closing, return_exceptions=True)

    async def _sign_only(self, running: _Running) -> None:
        """Answer no requests any more once other nodes do, which for a while only this one can sign for."""
        while self._settings.cold_start == PEER:
            if all(upkeep.is_replaced() for upkeep in running.upkeeps):
                running.audit.record(EventName.NODE_SIGNS_ONLY)
                await self._stop_serving(running)
                return
            await SYSTEM_CLOCK.sleep(_LOOK)

    async def _stop_serving(self, running: _Running) -> None:
        async with running.starting:
            running.closed.set()
            # With the last copy of the socket new connections are refused, which a client tries elsewhere;
            # while one copy is open they would wait for nobody.
            self._listening.close()
        await asyncio.gather(*(worker.stop() for worker in running.workers))

    async def _start(self) -> _Running:
        settings = self._settings
        node = NodeId(base64url.encode(SYSTEM_ENTROPY.token_bytes(16)))
        async with open_custody(settings) as custody:
            signer = await start_signer(
                clock=SYSTEM_CLOCK,
                rsa_bits=settings.rsa_bits,
                custody=custody,
                # What it says at level info is of interest to who looks for a fault.
                log_level="DEBUG" if settings.log_level == "debug" else "WARNING",
                log_json=logs.as_json(settings),
            )
        try:
            cluster = Cluster(settings, node)
            signing = SignerClient(await signer.control.attach(), clock=SYSTEM_CLOCK)
        except BaseException:
            await signer.stop()
            raise
        workers: list[Worker] = []
        closed = asyncio.Event()

        def served(issuer: Issuer) -> int | None:
            if closed.is_set():
                return None
            return min((worker.generations.get(issuer, 0) for worker in workers), default=0)

        upkeeps = tuple(
            Upkeep(
                charge,
                node=node,
                signer=signer.control,
                signing=signing,
                cluster=cluster,
                served=partial(served, charge.issuer),
                own=own_url(self._listening),
                alone=len(self._charges) == 1,
            )
            for charge in self._charges
        )
        return _Running(
            node, signer, signing, cluster, upkeeps, Audit(node=node), workers, asyncio.Lock(), closed
        )

    async def _keep_worker(self, running: _Running, place: int) -> None:
        """A worker in this place for as long as the node lives: one that died is followed by another."""
        while (worker := await self._start_worker(running)) is not None:
            began = SYSTEM_CLOCK.monotonic()
            # What the workers serve is evidence that the next round of rotation may wait for.
            status = await worker.listen(self._bus.announce)
            running.workers.remove(worker)
            running.audit.record(
                EventName.PROCESS_ENDED, process=f"worker {place}", reason=f"status {status}"
            )
            # One that served a while is replaced at once; one that cannot start must not spin.
            if SYSTEM_CLOCK.monotonic() - began < _STARTED:
                await SYSTEM_CLOCK.sleep(_RESTART)
        # The node goes on without workers, and this ends with it.
        await asyncio.get_running_loop().create_future()

    async def _start_worker(self, running: _Running) -> Worker | None:
        """A new worker, or None once none is to be started any more."""
        assignment = Assignment(running.node, self._settings)
        while True:
            async with running.starting:
                if running.closed.is_set():
                    return None
                try:
                    worker = await start_worker(
                        assignment,
                        listening=self._listening,
                        signer=running.signer.control,
                        cluster=running.cluster,
                    )
                except SignerUnavailable:
                    pass
                else:
                    running.workers.append(worker)
                    return worker
            # One that stands still is asked again; one that is gone ends this run of the node.
            await SYSTEM_CLOCK.sleep(_RESTART)

    async def _end(self, running: _Running, answering: "asyncio.Task[None]", stop: _Stop) -> None:
        """Stop serving, then signing, then say so; a second signal cuts the first part short."""
        if stop.asked.is_set():
            # With the last copy of the socket new connections are refused, which a client tries elsewhere;
            # while one copy is open they would wait for nobody. Another node of ours needs it, though.
            self._listening.close()
        ending = [asyncio.create_task(worker.stop()) for worker in running.workers]
        hurried = asyncio.create_task(_kill_when(stop.hurried, tuple(running.workers)))
        await asyncio.gather(*ending)
        hurried.cancel()
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        await asyncio.gather(*(upkeep.leave() for upkeep in running.upkeeps))
        running.signing.close()
        await running.signer.stop()


async def _kill_when(hurried: asyncio.Event, workers: tuple[Worker, ...]) -> None:
    await hurried.wait()
    for worker in workers:
        worker.process.kill()
