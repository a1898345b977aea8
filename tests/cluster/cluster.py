"""Several real nodes of one issuer for tests: ``mintmark serve`` N times on one store, behind the front."""

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from tests.cluster.inside import pids_of, stand_still
from tests.cluster.running import SHORT, Reachable, RunningNode, alive, children_of, until

from mintmark.cli.demonstration.front import Backend, Front, running_front
from mintmark.cli.demonstration.loopback import free_ports

CLUSTER = {
    **SHORT,
    # A ring is read each second: half a second more of a busy machine must not make a node unready.
    "propagation": "3s",
}
"""Short timings for several nodes: a node that joins is ready after 8 s."""

PATIENCE = 180.0
"""Seconds for what N nodes do at once; joining and leaving take a key's lead besides."""


@dataclass
class RunningCluster(Reachable):
    """Nodes behind one front; what it does as a client goes through the front.

    ``nodes[i].http`` and ``nodes[i].client()`` go to one node.
    """

    folder: Path
    front: Front
    nodes: list[RunningNode]
    url: str = field(init=False)
    http: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        self.url = self.issuer
        self.http = self.client()

    @property
    def issuer(self) -> str:
        """The URL of the front, which verifiers and clients are given."""
        return self.nodes[0].issuer

    def client(self) -> httpx2.Client:
        """A client that connects anew for each request, so that the front gives each to the next node."""
        limits = httpx2.Limits(max_keepalive_connections=0)
        return httpx2.Client(base_url=self.url, timeout=10, trust_env=False, limits=limits)

    def add_user_and_client(self) -> None:
        self.nodes[0].add_user_and_client()

    def run(self, *arguments: str, given: str = "") -> str:
        """What a command printed, on the cluster's store."""
        return self.nodes[0].run(*arguments, given=given)

    def backend(self, number: int) -> Backend:
        """A node as the front knows it."""
        return self.front.backends[number]

    # --- its nodes -------------------------------------------------------------------------------------

    def start(self) -> "RunningCluster":
        """All nodes, at once."""
        for node in self.nodes:
            node.start()
        return self

    def until_ready(self, *, patience: float = PATIENCE) -> "RunningCluster":
        """Wait for every node, and for the front to know of one."""
        for node in self.nodes:
            node.until_ready(patience=patience)
        until(self.answers, "the front has a node", patience=patience, log=self.tail)
        return self

    def until_signing(self, *, patience: float = PATIENCE) -> "RunningCluster":
        """Wait until every node signs with a key of its own, and mints through no other any more."""
        until(
            lambda: all(node.events("key.activated") for node in self.nodes),
            "every node has a key that signs",
            patience=patience,
            log=self.tail,
        )
        return self

    def answers(self) -> bool:
        """Whether the front passes requests on to a node that is ready."""
        with contextlib.suppress(httpx2.TransportError):
            return self.http.get("/readyz").status_code == 200
        return False

    def restart(self, number: int, *, patience: float = PATIENCE) -> None:
        """SIGTERM, and once it has left the same again, until it is ready."""
        node = self.nodes[number]
        assert node.stop(patience=patience) == 0, node.tail()
        node.start().until_ready(patience=patience)

    def rolling_restart(self, *, patience: float = PATIENCE) -> None:
        """Each node, the next one once the one before is ready."""
        for number in range(len(self.nodes)):
            self.restart(number, patience=patience)

    def kill(self, number: int) -> None:
        """SIGKILL to a node's control process; its children end by themselves."""
        self.nodes[number].kill()

    def cut_power(self) -> None:
        """SIGKILL to every process of every node: control processes first, then the rest."""
        controls = [node.process for node in self.nodes if node.process is not None]
        pids = [pid for control in controls for pid in children_of(control.pid)]
        for control in controls:
            control.kill()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for control in controls:
            control.wait(60)
        until(lambda: not any(alive(pid) for pid in pids), "all processes ended")

    def pause(self, number: int) -> None:
        """SIGSTOP to every process of a node, outside a commit: within one it would stop all who write."""
        database = self.folder / "mintmark.db"
        stand_still(pids_of(self.nodes[number]), database if database.exists() else None)

    def resume(self, number: int) -> None:
        """SIGCONT to every process of a node."""
        self.nodes[number].resume()

    # --- what they tell --------------------------------------------------------------------------------

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """What all nodes have logged, in the order of time; only events called ``name`` if given."""
        found = [event for node in self.nodes for event in node.events(name)]
        return sorted(found, key=lambda event: str(event.get("timestamp", "")))

    def tail(self) -> str:
        return "\n".join(f"--- node {number}\n{node.tail()}" for number, node in enumerate(self.nodes))

    def end(self) -> None:
        """Whatever state it is in: end every process and close every client."""
        self.http.close()
        with contextlib.ExitStack() as ending:
            for node in self.nodes:
                ending.callback(node.end)


@contextlib.contextmanager
def running_cluster(
    folder: Path,
    *,
    store: str | None = None,
    nodes: int = 3,
    settings: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    start: bool = True,
) -> Iterator[RunningCluster]:
    """``nodes`` nodes that are ready, with the user ada and the client shop.

    ``store`` is the URL of an empty database; None is an SQLite file in ``folder``. Node N has the folder
    ``node-N``. With ``start=False`` nothing runs but the front, and the store is as empty as it was.
    """
    port, *ports = free_ports(nodes + 1)
    shared = {
        **CLUSTER,
        "issuer": f"http://127.0.0.1:{port}",
        "store": store or f"sqlite:///{folder}/mintmark.db",
        **(settings or {}),
    }
    made = []
    for number, own in enumerate(ports):
        own_folder = folder / f"node-{number}"
        own_folder.mkdir()
        made.append(RunningNode(own_folder, shared, dict(environ or {}), port=own, supervised=True))
    backends = [Backend("127.0.0.1", own) for own in ports]
    with running_front(backends, port=port, ready_path="/readyz") as front:
        cluster = RunningCluster(folder, front, made)
        try:
            if start:
                cluster.add_user_and_client()
                cluster.start().until_ready().until_signing()
            yield cluster
        finally:
            cluster.end()
