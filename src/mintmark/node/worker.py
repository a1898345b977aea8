"""An HTTP worker: answers the requests of all issuers of its node, and only reads their rings.

Started by the control process as ``python -m mintmark.node.worker LISTEN SIGNER PEERS LINE``, four inherited
descriptors: the listening socket, a channel of the signer on which nothing but ``sign`` exists, one like it
that ends at other nodes, and the line to the control process.
"""

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import msgspec
import uvicorn
import uvloop

from mintmark.core.algorithm import Algorithm
from mintmark.errors import MintmarkError
from mintmark.http.dispatch import create_node_app
from mintmark.http.protocol import bounded_http
from mintmark.node import logs
from mintmark.node.elsewhere import Elsewhere
from mintmark.node.link import Assignment, Line, Served, decode_assignment
from mintmark.node.secret import read_cluster_keys, read_feed_tokens
from mintmark.node.store import open_bus, open_passwords, open_store
from mintmark.ports.signer import HardeningReport
from mintmark.server.audit import Audit
from mintmark.server.bus_watch import BusWatch
from mintmark.server.services import Services, compose
from mintmark.server.setting import PEER
from mintmark.signer.client import SignerClient
from mintmark.signer.hardening import Profile, harden
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.units import Seconds

DRAIN: Final = 10
"""Seconds that requests under way get when the worker leaves."""
DRAIN_FEED: Final = 6.0
"""Seconds of these over which followers of the feed are sent elsewhere, one after the other."""
_ATTEMPTS: Final = 20
"""Attempts to open the store, which are cheaper than another process."""
_ELSEWHERE_TIMEOUT: Final = Seconds(2)
"""For control to ask other nodes, which it does for 1.8 seconds; the rest is for the way there and back."""
_FOLLOWERS: Final = 10_000
_KEEP_ALIVE: Final = 75


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: the control process says when to leave."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def work(
    listening: socket.socket,
    signing: socket.socket,
    elsewhere: socket.socket,
    line: Line,
    hardening: HardeningReport,
) -> int:
    """Serve until told to leave, or until the control process is gone; the exit status."""
    first = await line.receive()
    if not first:
        return 1
    assignment = decode_assignment(first)
    logs.configure(assignment.settings)
    logs.report(hardening)
    # It warns of every malformed request, so any stranger could fill the log.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    async with _services(assignment, signing, elsewhere) as served:
        audit = Audit(node=assignment.node)
        config = uvicorn.Config(
            create_node_app(served, audit=audit),
            loop="none",
            http=bounded_http(SYSTEM_CLOCK),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            proxy_headers=bool(assignment.settings.trusted_proxies),
            forwarded_allow_ips=list(assignment.settings.trusted_proxies),
            timeout_graceful_shutdown=DRAIN,
            timeout_keep_alive=_KEEP_ALIVE,
        )
        server = _Server(config)

        draining: list[asyncio.Task[None]] = []

        def leave() -> None:
            if not draining:
                for services in served:
                    services.health.leave()
                    draining.append(asyncio.create_task(services.feed.drain(DRAIN_FEED)))
            server.should_exit = True

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave)
        # A terminal's Ctrl-C is the control process's business.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        background = [
            asyncio.create_task(_leave_with_control(line, leave)),
            asyncio.create_task(BusWatch(served[0].bus, audit=audit).run()),
            *(
                asyncio.create_task(loop)
                for services in served
                for loop in (
                    services.ring.run(),
                    services.feed.run(),
                    services.backlog.run(),
                    _report(services, line),
                )
            ),
        ]
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        done, _ = await asyncio.wait({serving, *background}, return_when=asyncio.FIRST_COMPLETED)
        leave()
        await serving
        for task in (*background, *draining):
            task.cancel()
        await asyncio.gather(*background, *draining, return_exceptions=True)
        for task in done:
            # A loop that ended by itself had a defect, and this raises it.
            task.result()
    return 0


@contextlib.asynccontextmanager
async def _services(
    assignment: Assignment, signing: socket.socket, elsewhere: socket.socket
) -> AsyncIterator[tuple[Services, ...]]:
    """Everything that answers requests, for each issuer, over the backends that are configured."""
    settings = assignment.settings
    # Once: a command that prints the secret may ask somebody each time.
    keys = await read_cluster_keys(settings)
    feed_tokens = await read_feed_tokens(settings)
    async with (
        open_store(settings, keys=keys, attempts=_ATTEMPTS) as store,
        open_bus(settings) as bus,
        open_passwords(settings) as passwords,
    ):
        signer = SignerClient(signing, clock=SYSTEM_CLOCK)
        others = SignerClient(elsewhere, clock=SYSTEM_CLOCK, timeout=_ELSEWHERE_TIMEOUT)
        try:
            yield tuple(
                compose(
                    one.issuer,
                    node=assignment.node,
                    timing=settings.timing,
                    algorithm=Algorithm(one.algorithm),
                    store=store,
                    bus=bus,
                    signer=signer,
                    passwords=passwords,
                    clock=SYSTEM_CLOCK,
                    entropy=SYSTEM_ENTROPY,
                    audit=Audit(issuer=one.issuer, node=assignment.node),
                    # Each has its share: the followers of one cannot use up those of another.
                    followers=_FOLLOWERS // len(settings.issuers),
                    peers=Elsewhere(one.issuer, others) if settings.cold_start == PEER else None,
                    pepper=keys.pepper,
                    feed_tokens=feed_tokens,
                )
                for one in settings.issuers
            )
        finally:
            signer.close()
            others.close()


async def _report(services: Services, line: Line) -> None:
    """Tell followers of new keys, and the control process of each ring that is answered with from now on."""
    generation = -1
    while True:
        view = await services.ring.changed(generation)
        generation = view.ring.generation
        services.feed.announce_keys(view.ring)
        line.send(msgspec.json.encode(Served(services.issuer, generation)) + b"\n")


async def _leave_with_control(line: Line, leave: Callable[[], None]) -> None:
    """The line says nothing after the assignment, and ends with the control process."""
    while await line.receive():
        pass
    leave()


def main() -> int:
    """The process: four descriptors on its command line, and nothing secret."""
    inherited = tuple(socket.socket(fileno=int(argument)) for argument in sys.argv[1:5])
    listening, signing, elsewhere, line = inherited
    hardening = harden(Profile.WORKER)
    # A thousand connections, which is what the soft limit often is, are not many.
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    for sock in inherited:
        sock.set_inheritable(False)

    async def run() -> int:
        return await work(listening, signing, elsewhere, await Line.open(line), hardening)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run())
    except MintmarkError as error:
        logging.getLogger(__name__).error("this worker ends: %s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
