"""Logout while what wakes the nodes is killed, flushed, stopped or cut off from one of them (I3, I9)."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import pytest
from tests.bus_servers import RedisServer, running
from tests.cluster.cluster import PATIENCE, RunningCluster, running_cluster
from tests.cluster.running import RunningNode
from tests.cluster.running import until as until_within

from mintmark import InvalidToken, Verifier, VerifierUnavailable
from mintmark.cli.demonstration.front import Fault, Front

until = partial(until_within, patience=PATIENCE)

SETTINGS = {"access_ttl": "300s", "rotate_every": "330s", "feed_bound": "300s", "algorithm": "ES256"}
VERIFIERS = 4
"""The front gives each to the next node."""
PROCESSES = 2
"""Of each node: the control process and a worker."""


@dataclass
class Place:
    server: RedisServer
    line: Front
    cluster: RunningCluster

    @property
    def here(self) -> RunningNode:
        """Where sessions end."""
        return self.cluster.nodes[0]

    @property
    def there(self) -> RunningNode:
        """Behind a line of its own to the bus."""
        return self.cluster.nodes[1]


@contextmanager
def killed(place: Place) -> Iterator[tuple[RunningNode, ...]]:
    """F20: it is gone, and starts again with nothing."""
    place.server.stop()
    yield (place.here, place.there)
    place.server.start()


@contextmanager
def flushed(place: Place) -> Iterator[tuple[RunningNode, ...]]:
    """F21: everything that it keeps is deleted, again and again."""
    with place.server.client() as client:
        client.flushall()
        yield ()
        client.flushall()


@contextmanager
def stopped(place: Place) -> Iterator[tuple[RunningNode, ...]]:
    """F23: its connections stay open, and nothing is said on them."""
    place.server.pause()
    yield (place.here, place.there)
    place.server.resume()


@contextmanager
def cut_off(place: Place) -> Iterator[tuple[RunningNode, ...]]:
    """F22, F43: one node reaches the database and not the bus; the other reaches both."""
    place.line.set(Fault.BLACKHOLE)
    yield (place.there,)
    place.line.set(Fault.PASS)


def refuses(verifier: Verifier, token: str) -> bool:
    try:
        verifier.verify(token)
    except InvalidToken:
        return True
    except VerifierUnavailable:
        return False
    return False


def accepts(verifier: Verifier, token: str) -> bool:
    try:
        verifier.verify(token)
    except VerifierUnavailable:
        return False
    return True


def is_woken(node: RunningNode) -> bool:
    """What its worker says of its bus."""
    return "mintmark_bus_up 1.0" in node.http.get("/metrics").text.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_logout_is_refused_everywhere_whatever_becomes_of_redis(tmp_path, line_to):
    """Every verifier refuses the session although nothing wakes a node; each process that is concerned tells
    of the loss, and of the return; requests are answered meanwhile, and no log holds the password."""
    with running(RedisServer) as server, ExitStack() as following:
        assert isinstance(server, RedisServer)
        line = line_to(server.port)
        settings = {**SETTINGS, "bus": server.url("cluster")}
        cluster = following.enter_context(running_cluster(tmp_path, nodes=2, settings=settings, start=False))
        place = Place(server, line, cluster)
        there = place.there.config
        there.write_text(there.read_text().replace(f":{server.port}/", f":{line.port}/"))
        cluster.add_user_and_client()
        cluster.start().until_ready()
        verifiers = [
            following.enter_context(Verifier(cluster.issuer, audience="orders")) for _ in range(VERIFIERS)
        ]
        for fault in (killed, flushed, stopped, cut_off):
            until(lambda: all(is_woken(node) for node in cluster.nodes), "all are woken", log=cluster.tail)
            token = cluster.log_in()["access_token"]
            for verifier in verifiers:
                until(lambda: accepts(verifier, token), "it is accepted", log=cluster.tail)  # noqa: B023
            told = [len(node.events("bus.lost")) for node in cluster.nodes]
            with fault(place) as concerned:
                place.here.asked(lambda: place.here.log_out(token), 204)  # noqa: B023
                began = time.monotonic()
                until(lambda: all(refuses(one, token) for one in verifiers), "all refuse", log=cluster.tail)  # noqa: B023
                print(f"{fault.__name__}: refused by all {time.monotonic() - began:.2f} s after the logout")
                for node in concerned:
                    more = told[cluster.nodes.index(node)] + PROCESSES
                    until(lambda: len(node.events("bus.lost")) >= more, "it is told", log=node.tail)  # noqa: B023
                    until(lambda: not is_woken(node), "its worker is not woken", log=node.tail)  # noqa: B023
                until(cluster.answers, "requests are answered", log=cluster.tail)
            until(
                lambda: all(
                    len(node.events("bus.restored")) == len(node.events("bus.lost")) for node in cluster.nodes
                ),
                "the return is told",
                log=cluster.tail,
            )
            assert all(refuses(verifier, token) for verifier in verifiers)
        assert "geheim" not in "".join(node.log.read_text() for node in cluster.nodes)
        assert all("geheim" not in node.http.get("/metrics").text for node in cluster.nodes)
