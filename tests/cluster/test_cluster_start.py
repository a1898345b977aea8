"""Ten nodes that start in one moment, on an empty store and on one that dead nodes have left (F07)."""

import contextlib
import time
from datetime import datetime
from typing import Any

import pytest
from tests.cluster.cluster import PATIENCE, RunningCluster, running_cluster
from tests.cluster.inside import opened
from tests.cluster.running import RunningNode, until

from mintmark import Verifier, VerifierUnavailable
from mintmark.core.key import Activation

NODES = 10
SIGNERS = 8
"""The default of the setting: the slots that ten nodes compete for."""
GIVEN_UP = ("key.lapsed", "key.dropped", "key.retired")
SETTINGS = {
    # Twenty processes make keys at once.
    "algorithm": "ES256",
    # What a power cut leaves behind is still running when the nodes are back.
    "lease": "15s",
    # Tokens outlive the start of twenty processes, however slow.
    "access_ttl": "300s",
    "rotate_every": "320s",
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store_url", ["sqlite", "postgresql"], indirect=True)
def test_ten_nodes_at_once_become_one_cluster_and_again_after_a_power_cut(tmp_path, store_url):
    """One schema, one bootstrap and no lost key; dead nodes' rows and leases keep nobody from answering."""
    with running_cluster(tmp_path, store=store_url, nodes=NODES, settings=SETTINGS, start=False) as cluster:
        began = time.monotonic()
        cluster.start()
        until(cluster.answers, "a node is ready", patience=PATIENCE, log=cluster.tail)
        first = time.monotonic() - began
        _until_one_cluster(cluster, told=[])
        _tell("empty store", cluster, [], first, time.monotonic() - began)

        cluster.add_user_and_client()
        before = cluster.asked(lambda: cluster.log_in_with(cluster.http), 201).json()
        told = cluster.events()
        cluster.cut_power()
        began = time.monotonic()
        cluster.start()
        until(cluster.answers, "a node is ready", patience=PATIENCE, log=cluster.tail)
        first = time.monotonic() - began
        after = cluster.asked(lambda: cluster.refresh(before["refresh_token"]), 200).json()
        with Verifier(cluster.issuer, audience="orders") as verifier:
            until(verifier.ready, "the verifier has keys and revocations")
            assert _rid(verifier, before["access_token"]) == _rid(verifier, after["access_token"])
        _until_one_cluster(cluster, told=told)
        _tell("power cut", cluster, told, first, time.monotonic() - began)


def _tell(what: str, cluster: RunningCluster, told: list[dict[str, Any]], first: float, last: float) -> None:
    """Print how long it took from the command on, and from the first node that had started on."""
    events = [event for event in cluster.events() if event not in told and "timestamp" in event]
    at = {event["event"]: datetime.fromisoformat(event["timestamp"]) for event in reversed(events)}
    core = (at["key.activated"] - at["node.started"]).total_seconds()
    print(
        f"{what}: the first of {NODES} nodes was ready after {first:.1f} s, and {SIGNERS} signed after "
        f"{last:.1f} s; {core:.1f} s from the first node that had started to the first key that signed"
    )


def _until_one_cluster(cluster: RunningCluster, *, told: list[dict[str, Any]]) -> None:
    """Wait until all are ready and every slot has a signer; see that it took one bootstrap and lost no key.

    ``told`` is what was logged before these nodes started.
    """

    def happened(name: str) -> list[dict[str, Any]]:
        return [event for event in cluster.events(name) if event not in told]

    def ready() -> bool:
        # Those beyond the slots mint through the others, and so do all until they have a key that may sign.
        answering = all(node.is_ready() for node in cluster.nodes)
        return answering and len(happened("key.activated")) >= SIGNERS

    until(ready, f"{NODES} nodes are ready and {SIGNERS} sign", patience=PATIENCE, log=cluster.tail)
    kids = {event["kid"] for event in happened("key.activated")}
    with opened(cluster.nodes[0].config) as inside:
        ring = inside.ring().ring
    # By the store's clock, which is what nodes decide by; their logs may be written late.
    began = [(key.activated_at or 0, key.activation) for key in ring.keys if key.kid in kids]
    bootstraps = sorted(at for at, activation in began if activation is Activation.BOOTSTRAP)
    assert len(bootstraps) == 1, bootstraps
    assert bootstraps[0] == min(at for at, _ in began), "nobody waits for a lead before anybody signs"
    assert {activation for _, activation in began} == {Activation.BOOTSTRAP, Activation.PROVEN}

    def lost() -> set[str]:
        """What was made and not given up, and is not in every node's set."""
        given_up = {event["kid"] for name in GIVEN_UP for event in happened(name)}
        made = {event["kid"] for event in happened("key.prepared")} - given_up
        return {kid for node in cluster.nodes for kid in made - _kids(node)}

    until(lambda: not lost(), "every node serves every key", patience=PATIENCE, log=cluster.tail)


def _kids(node: RunningNode) -> set[str]:
    answer = node.asked(lambda: node.http.get("/.well-known/jwks.json"), 200)
    return {key["kid"] for key in answer.json()["keys"]}


def _rid(verifier: Verifier, token: str) -> str:
    """The session of a token, once the verifier can judge it."""

    def judged() -> str:
        with contextlib.suppress(VerifierUnavailable):
            return verifier.verify(token).rid or ""
        return ""

    return until(judged, "the verifier judges the token")
