"""Nodes that share one key and are asked for the next one in the same instant: each round makes one (F03)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.cluster import PATIENCE, RunningCluster, running_cluster
from tests.cluster.inside import fate_of, opened
from tests.cluster.running import RunningNode, until
from tests.cluster.witness import add_robot, kid_of, kids_at

from mintmark import Verifier
from mintmark.core.events import EventName
from mintmark.core.key import KeyMode, KeyState

ROUNDS = 3
SETTINGS = {
    # As many processes as there are nodes make a key at once.
    "algorithm": "ES256",
    "key_mode": "shared",
    "lease": "15s",
    # Tokens outlive the test, and nobody rotates unasked.
    "access_ttl": "300s",
    "rotate_every": "4h",
}


@pytest.fixture(params=[("sqlite", 4), ("postgresql", 6)], ids=lambda param: f"{param[0]}-{param[1]}")
def cluster(request, tmp_path) -> Iterator[RunningCluster]:
    """Nodes that are ready, on a store that each of them reaches by itself."""
    store, count = request.param
    (tmp_path / "seal.key").write_bytes(os.urandom(32))
    settings = {**SETTINGS, "seal_key": f"file:{tmp_path}/seal.key"}
    url = request.getfixturevalue("database") if store == "postgresql" else None
    with running_cluster(tmp_path, store=url, nodes=count, settings=settings, start=False) as made:
        made.start().until_ready()
        yield made


def mint(node: RunningNode, secret: str) -> str:
    """A token from this node itself."""

    def ask() -> Any:
        form = {"grant_type": "client_credentials"}
        return node.http.post("/token", data=form, auth=("robot", secret))

    return str(node.asked(ask, 200).json()["access_token"])


def minted_with(kid: str, node: RunningNode, secret: str) -> str:
    """A token from this node, once it signs with the key ``kid``."""

    def ask() -> str:
        token = mint(node, secret)
        return token if kid_of(token) == kid else ""

    return until(ask, "it signs with the new key", log=node.tail)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nodes_that_rotate_in_one_instant_make_one_key_a_round(cluster: RunningCluster):
    """F03: each of three requests makes one new key, which all nodes go on to sign with; none is made twice,
    lost or dropped, and a verifier that was there before refuses no token."""
    secret = add_robot(cluster.nodes[0])
    with (
        opened(Path(cluster.nodes[0].config)) as inside,
        Verifier(cluster.issuer, audience="orders") as verifier,
    ):
        until(verifier.ready, "the verifier has keys and revocations")

        def follows(known: set[str]) -> str:
            """The key that succeeded those in ``known``, once it is the only one that is to sign."""
            keys = inside.ring().ring.keys
            last = [key for key in keys if key.state in (KeyState.PREPARED, KeyState.ACTIVE)]
            done = [key.kid for key in last if key.state is KeyState.ACTIVE and key.kid not in known]
            return done[0] if len(last) == len(done) == 1 else ""

        made = [until(lambda: follows(set()), "a key signs", patience=PATIENCE, log=cluster.tail)]
        tokens = [mint(node, secret) for node in cluster.nodes]
        for _ in range(ROUNDS):
            cluster.run("keys", "rotate")
            newest = until(
                lambda: follows({*made}), "the next key signs", patience=PATIENCE, log=cluster.tail
            )
            made.append(newest)
            tokens += [minted_with(newest, node, secret) for node in cluster.nodes]
            assert {key.kid for key in inside.ring().ring.keys} == {*made}
            for node in cluster.nodes:
                until(lambda: kids_at(node.http) == {*made}, "it publishes them all", log=node.tail)  # noqa: B023
        assert [fate for token in tokens if (fate := fate_of(verifier, token))] == []
        assert all(key.mode is KeyMode.SHARED for key in inside.ring().ring.keys)
    for name in (EventName.KEY_PREPARED, EventName.KEY_ACTIVATED):
        assert [event["kid"] for event in cluster.events(name)] == made
    assert [event["cause"] for event in cluster.events("key.activated")] == [
        "bootstrap",
        *["proven"] * ROUNDS,
    ]
    assert cluster.events(EventName.KEY_DROPPED) == cluster.events(EventName.KEY_LAPSED) == []
    print(f"{len(cluster.nodes)} nodes, {ROUNDS} rounds, {len(made)} keys; 0 of {len(tokens)} tokens refused")
