"""Nodes that are told to leave: one that is still needed stays, and a whole cluster goes (design 3.4)."""

import signal

import httpx2
import pytest
from tests.cluster.cluster import PATIENCE, RunningCluster, running_cluster
from tests.cluster.running import RunningNode, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = {"handover": "1h", "cold_start": "wait"}
"""Longer than any test: who leaves has not waited in vain. And no other node answers in its place meanwhile:
with peers one does, and who leaves only signs (test_peers.py)."""


def has_left(node: RunningNode) -> bool:
    assert node.process is not None
    return node.process.poll() is not None


def status_of_a_log_in(node: RunningNode) -> int:
    try:
        return int(node.log_in_with(node.http).status_code)
    except httpx2.TransportError:
        return 0


def tell_to_leave(*nodes: RunningNode) -> None:
    for node in nodes:
        assert node.process is not None
        node.process.send_signal(signal.SIGTERM)


def until_told(cluster: RunningCluster, node: RunningNode, event: str) -> None:
    until(lambda: node.events(event), f"{event} was logged", patience=PATIENCE, log=cluster.tail)


def until_left(cluster: RunningCluster, node: RunningNode) -> None:
    until(lambda: has_left(node), "it left", patience=PATIENCE, log=cluster.tail)
    assert node.process is not None
    assert node.process.returncode == 0


def test_node_that_is_needed_serves_until_the_next_one_can(tmp_path):
    """The only signer is told to leave while another one joins: it stays ready and mints, and goes once
    the key of the other has been public for its lead. No key signs unproven but the first."""
    with running_cluster(tmp_path, nodes=2, settings=SETTINGS, start=False) as cluster:
        first, second = cluster.nodes
        first.start().until_ready(patience=PATIENCE)
        cluster.add_user_and_client()
        second.start()
        until_told(cluster, second, "key.prepared")
        tell_to_leave(first)
        until_told(cluster, first, "handover.awaited")
        minted = 0
        while True:
            answered = status_of_a_log_in(first)
            # Asked afterwards: once the other one signs, this one may go at any moment.
            if second.events("key.activated"):
                break
            assert answered in (201, 503), cluster.tail()
            minted += answered == 201
        assert minted > 0
        until_left(cluster, first)
        second.until_ready(patience=PATIENCE)
        assert [event["cause"] for event in cluster.events("key.activated")] == ["bootstrap", "proven"]
        assert cluster.events("handover.missed") == []


def test_whole_cluster_that_is_told_to_leave_goes_at_once(tmp_path):
    """However long a handover may take, nodes that all leave wait for nobody, whatever keys they have."""
    with running_cluster(tmp_path, nodes=2, settings=SETTINGS, start=False) as cluster:
        first, second = cluster.nodes
        first.start().until_ready(patience=PATIENCE)
        second.start()
        until_told(cluster, second, "key.prepared")
        tell_to_leave(first, second)
        until_left(cluster, first)
        until_left(cluster, second)
        assert cluster.events("handover.missed") == []


@pytest.mark.parametrize("how", ["a second signal", "handover"])
def test_node_that_waits_in_vain_goes_all_the_same(tmp_path, how):
    """A second signal ends the waiting, and so does ``handover``, which is an event."""
    settings = {
        "handover": "3s" if how == "handover" else "1h",
        "verifier_cache": "20s",
        "rotate_every": "10m",
    }
    with running_cluster(tmp_path, nodes=2, settings=settings, start=False) as cluster:
        first, second = cluster.nodes
        first.start().until_ready(patience=PATIENCE)
        second.start()
        until_told(cluster, second, "key.prepared")
        tell_to_leave(first)
        until_told(cluster, first, "handover.awaited")
        if how != "handover":
            tell_to_leave(first)
        until_left(cluster, first)
        assert len(first.events("handover.missed")) == (how == "handover")
