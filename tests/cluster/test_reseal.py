"""Two nodes that share a key take another key-encryption key, one after the other, and serve all the time."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster import PATIENCE, RunningCluster, running_cluster
from tests.cluster.inside import Inside, opened
from tests.cluster.load import Load
from tests.cluster.running import until
from tests.cluster.witness import Witness, add_robot

from mintmark.core.events import EventName

CACHE = 3
SETTINGS = {"algorithm": "ES256", "key_mode": "shared", "lease": "15s", "rotate_every": "4h"}


@pytest.fixture
def cluster(tmp_path) -> Iterator[RunningCluster]:
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(os.urandom(32))
    settings = {**SETTINGS, "verifier_cache": f"{CACHE}s", "seal_key": f"file:{tmp_path}/old"}
    with running_cluster(tmp_path, nodes=2, settings=settings, start=False) as made:
        made.add_user_and_client()
        made.start().until_ready()
        yield made


@pytest.fixture
def inside(cluster) -> Iterator[Inside]:
    with opened(cluster.nodes[0].config) as made:
        yield made


def sealed(inside: Inside) -> bytes:
    """The one key as it is in the store."""
    (key,) = inside.ring().ring.keys
    assert key.sealed is not None
    return key.sealed


def roll(cluster: RunningCluster, *, seal_key: Path, seal_key_previous: Path | None) -> None:
    """Give each node these, one node after the other."""
    told = {"seal_key": f"file:{seal_key}"}
    told["seal_key_previous"] = "none" if seal_key_previous is None else f"file:{seal_key_previous}"
    for number, node in enumerate(cluster.nodes):
        kept = [line for line in node.config.read_text().splitlines() if not line.startswith("seal_key")]
        kept += [f"{name} = {json.dumps(value)}" for name, value in told.items()]
        node.config.write_text("\n".join(kept))
        cluster.restart(number)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_key_encryption_key_is_replaced_while_clients_are_served(cluster, inside, tmp_path):
    """Both nodes restart with the new one beside the old one, and again with the new one alone, without the
    old file: the same key signs throughout, sealed anew, and no client or verifier notices."""
    old, new = tmp_path / "old", tmp_path / "new"
    secret = add_robot(cluster.nodes[0])
    before = sealed(inside)
    with (
        Witness(cluster, cluster.issuer, secret, cache=CACHE) as witness,
        Load(cluster, sessions=2, pause=0.2) as load,
    ):
        kid = witness.until_accepted()
        roll(cluster, seal_key=new, seal_key_previous=old)
        until(
            lambda: cluster.events(EventName.KEY_RESEALED), "it was sealed anew", patience=PATIENCE,
            log=cluster.tail,
        )  # fmt: skip
        after = sealed(inside)
        old.unlink()
        roll(cluster, seal_key=new, seal_key_previous=None)
        assert witness.until_accepted() == kid
        refreshed = load.record.refreshed
        until(lambda: load.record.refreshed > refreshed, "sessions go on", log=cluster.tail)
        witness.until_checked()
    print(f"{witness.said()}; {load.record.refreshed} refreshes, {load.record.outages} outages")
    witness.check(frozenset({kid}))
    assert load.record.wrong == []
    assert set(witness.minted) == {kid}
    # The name of the key-encryption key that sealed it: what follows the version.
    assert before[1:9] != after[1:9] == sealed(inside)[1:9]
    (resealed,) = cluster.events(EventName.KEY_RESEALED)
    assert resealed["kid"] == kid
