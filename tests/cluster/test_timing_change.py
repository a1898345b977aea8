"""Two real nodes under load that get another timing, restarted one by one, and no token is refused."""

from collections.abc import Iterator

import pytest
from tests.cluster.cluster import CLUSTER, PATIENCE, RunningCluster, running_cluster
from tests.cluster.load import Load
from tests.cluster.running import until
from tests.cluster.witness import Witness, add_robot

CACHE = 3
"""C in seconds, which PyJWKClient is told as well: both how long it keeps a set, and its cooldown."""
SETTINGS = {
    **CLUSTER,
    "verifier_cache": f"{CACHE}s",
    # A fetch may take seconds on a busy machine, and a lease must not end of that.
    "propagation": "5s",
    "lease": "15s",
    "rotate_every": "4h",
    "jwks_limit": 60,
}


@pytest.fixture
def cluster(tmp_path) -> Iterator[RunningCluster]:
    with running_cluster(tmp_path, nodes=2, settings=SETTINGS) as made:
        yield made


def configure(cluster: RunningCluster, number: int) -> None:
    """The node has tokens of 40 s, and key sets that caches keep for 2 s, from its next start on."""
    config = cluster.nodes[number].config
    text = config.read_text()
    for former, wanted in (
        ('access_ttl = "60s"', 'access_ttl = "40s"'),
        ('jwks_max_age = "1s"', 'jwks_max_age = "2s"'),
    ):
        assert former in text
        text = text.replace(former, wanted)
    config.write_text(text)


def lifetime(answer: dict[str, object]) -> int:
    return int(str(answer["expires_in"]))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nodes_get_another_timing_under_load_and_no_token_is_refused(cluster):
    """Begun, each node restarted with the new settings once the one before signs, finished. Tokens are shown
    to the SDK and to PyJWKClient all the time, and none is ever refused."""
    secret = add_robot(cluster.nodes[0])
    with (
        Witness(cluster, cluster.issuer, secret, cache=CACHE) as witness,
        Load(cluster, sessions=2, pause=0.2) as load,
    ):
        witness.until_accepted()
        assert lifetime(cluster.nodes[0].log_in()) > 50
        configure(cluster, 0)
        assert "Nodes may have either settings" in cluster.nodes[0].run("timing", "change")
        for number, node in enumerate(cluster.nodes):
            if number > 0:
                configure(cluster, number)
            before = len(node.events("key.activated"))
            cluster.restart(number)
            until(
                lambda: len(node.events("key.activated")) > before,  # noqa: B023
                "it signs with a key of its own",
                patience=PATIENCE,
                log=cluster.tail,
            )
            assert lifetime(node.log_in()) <= 40
            assert "max-age=1" in node.http.get("/.well-known/jwks.json").headers["cache-control"]
        until(
            lambda: "Every node has the new settings" in cluster.run("timing", "show"),
            "both nodes are noted",
            log=cluster.tail,
        )
        assert "Only nodes with these settings" in cluster.run("timing", "finish")
        cluster.restart(0)
        assert "max-age=2" in cluster.nodes[0].http.get("/.well-known/jwks.json").headers["cache-control"]
        witness.until_accepted()
        witness.until_checked()
    activated = cluster.events("key.activated")
    unproven = frozenset(event["kid"] for event in activated if event["cause"] != "proven")
    witness.check(unproven)
    print(f"0 refused in {witness.checks.total()} checks; {load.record.refreshed} refreshes")
    assert load.record.wrong == []
    assert load.record.refreshed > 0
    # The first key of all, which nobody had to wait for; a machine on which a node stands still for longer
    # than it counts as alive may see another. What was refused or not is for the witness to say.
    assert unproven
