"""Ten nodes that start in one moment, on an empty store and on one that dead nodes have left (F07)."""

import time
from typing import Any

import pytest
from tests.cluster.cluster import PATIENCE, RunningCluster, running_cluster
from tests.cluster.running import alive, until

from mintmark import Verifier

NODES = 10
SIGNERS = 8
"""The default of the setting: the slots that ten nodes compete for."""
SETTINGS = {
    # Twenty processes make keys at once.
    "algorithm": "ES256",
    # What a power cut leaves behind is still running when the nodes are back.
    "lease": "15s",
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_nodes_at_once_become_one_cluster_and_again_after_a_power_cut(tmp_path, store_url):
    """One schema, one bootstrap and no lost key; dead nodes' rows and leases keep nobody from answering."""
    with running_cluster(tmp_path, store=store_url, nodes=NODES, settings=SETTINGS, start=False) as cluster:
        began = time.monotonic()
        cluster.start()
        answered = _until_answering(cluster, began)
        _until_one_cluster(cluster, [])
        print(
            f"empty store: {answered:.1f} s to the first answer, {time.monotonic() - began:.1f} s to the last"
        )
        cluster.add_user_and_client()
        before = cluster.log_in()
        told = cluster.events()

        cluster.cut_power()
        began = time.monotonic()
        cluster.start()
        answered = _until_answering(cluster, began)
        renewed = cluster.refresh(before["refresh_token"])
        assert renewed.status_code == 200, renewed.text
        with Verifier(cluster.issuer, audience="orders") as verifier:
            verifier.verify(before["access_token"])
            verifier.verify(renewed.json()["access_token"])
        _until_one_cluster(cluster, told)
        print(
            f"power cut: {answered:.1f} s to the first answer, {time.monotonic() - began:.1f} s to the last"
        )


def _until_answering(cluster: RunningCluster, began: float) -> float:
    """Seconds until some node is ready behind the front."""
    until(cluster.answers, "a node is ready", patience=PATIENCE, log=cluster.tail)
    return _since(began)


def _since(began: float) -> float:
    return time.monotonic() - began


def _until_one_cluster(cluster: RunningCluster, told: list[dict[str, Any]]) -> None:
    """Wait until every slot has a node that is ready; see that it took one bootstrap and lost no key.

    ``told`` is what was logged before these nodes started.
    """

    def happened(name: str) -> list[dict[str, Any]]:
        return [event for event in cluster.events(name) if event not in told]

    def ready() -> bool:
        return sum(node.is_ready() for node in cluster.nodes) == SIGNERS

    until(ready, f"{SIGNERS} of {NODES} nodes are ready", patience=PATIENCE, log=cluster.tail)
    activated = happened("key.activated")
    assert [event["cause"] for event in activated].count("bootstrap") == 1
    assert {event["cause"] for event in activated} == {"bootstrap", "proven"}
    assert activated[0]["cause"] == "bootstrap", "nobody waits for a lead before anybody signs"
    assert len({event["node"] for event in activated}) == SIGNERS
    assert len(happened("node.started")) == NODES
    assert all(node.process is not None and alive(node.process.pid) for node in cluster.nodes)

    prepared = {event["kid"] for event in happened("key.prepared")}
    assert prepared == {event["kid"] for event in activated}, "no node made a key in vain"
    sets = [frozenset(_kids(node.http.get("/.well-known/jwks.json").json())) for node in cluster.nodes]
    assert len(set(sets)) == 1, "every node serves the same set"
    assert prepared <= sets[0]


def _kids(document: dict[str, Any]) -> list[str]:
    return [key["kid"] for key in document["keys"]]
