"""More nodes than may sign: all mint, the key set stays small, and a signer that dies is replaced."""

from collections.abc import Iterator

import pytest
from tests.cluster.cluster import PATIENCE, RunningCluster, running_cluster
from tests.cluster.inside import Inside, opened
from tests.cluster.load import Load
from tests.cluster.running import RunningNode, until
from tests.cluster.witness import Witness, add_robot, kid_of, kids_at

from mintmark.core.key import Key, KeyState
from mintmark.units import NodeId

NODES = 6
SIGNERS = 2
CACHE = 3
SETTINGS = {
    "algorithm": "ES256",
    "signers": SIGNERS,
    "jwks_limit": 3 * SIGNERS,
    "verifier_cache": f"{CACHE}s",
    "propagation": "5s",
    "lease": "15s",
    "access_ttl": "120s",
    "rotate_every": "4h",
}


@pytest.fixture
def cluster(tmp_path) -> Iterator[RunningCluster]:
    """Six nodes that are ready; two will sign."""
    with running_cluster(tmp_path, nodes=NODES, settings=SETTINGS, start=False) as made:
        made.add_user_and_client()
        made.start().until_ready()
        yield made


@pytest.fixture
def inside(cluster) -> Iterator[Inside]:
    with opened(cluster.nodes[0].config) as made:
        yield made


def signing(inside: Inside) -> dict[NodeId, Key]:
    """The active keys by node, once as many live nodes have one as may."""
    view = inside.ring()
    live = {member.node for member in view.members if member.is_live(view.now)}
    active = {key.node: key for key in view.ring.keys if key.state is KeyState.ACTIVE and key.node in live}
    return active if len(active) == SIGNERS else {}


def name_of(node: RunningNode) -> NodeId:
    return NodeId(node.events("node.started")[-1]["node"])


def mints(node: RunningNode) -> str:
    """The key that a log-in at this node is answered with; asked again where it says «later»."""
    return kid_of(node.log_in()["access_token"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_signer_of_a_larger_cluster_dies_under_load_and_another_takes_its_slot(cluster, inside):
    """K6: six nodes are ready and mint, with two keys. One of the two that sign is killed: clients hear at
    worst «later», and are served when they ask again; a third node gets the slot, the key set stays within
    three keys a signer, and no token is refused."""
    secret = add_robot(cluster.nodes[0])

    def settled() -> dict[NodeId, Key]:
        """Those that sign, once all nodes mint with their keys alone and the first one serves these."""
        now = signing(inside)
        kids = {key.kid for key in now.values()}
        served = kids_at(cluster.nodes[0].http)
        agreed = kids and kids <= served and {mints(node) for node in cluster.nodes} <= kids
        return now if agreed and len(served) <= 3 * SIGNERS else {}

    before = until(settled, "six mint with two keys", patience=PATIENCE, log=cluster.tail)
    with (
        Witness(cluster, cluster.issuer, secret, cache=CACHE) as witness,
        Load(cluster, sessions=3, pause=0.1) as load,
    ):
        witness.until_accepted()
        victim = next(node for node in cluster.nodes if name_of(node) in before)
        victim.kill()
        went_on = load.record.refreshed
        until(lambda: load.record.refreshed > went_on + 20, "clients are served", log=cluster.tail)

        def replaced() -> dict[NodeId, Key]:
            now = signing(inside)
            kids = {key.kid for key in now.values()}
            agreed = name_of(victim) not in now and {mints(node) for node in living} <= kids
            return now if agreed else {}

        living = [node for node in cluster.nodes if node is not victim]
        until(
            replaced,
            "five mint with two keys, one of them a third node's",
            patience=PATIENCE,
            log=cluster.tail,
        )
        sizes = {len(kids_at(node.http)) for node in living}
        assert max(sizes) <= 3 * SIGNERS
        witness.until_checked()
    helped = len(cluster.events("token.signed_for_peer"))
    print(f"{NODES} nodes, {SIGNERS} sign, {helped} tokens for peers, at most {max(sizes)} keys")
    print(f"{load.record.refreshed} refreshes, {load.record.outages} «later»; {witness.said()}")
    unproven = {str(e["kid"]) for e in cluster.events("key.activated") if e["cause"] != "proven"}
    witness.check(frozenset(unproven))
    assert load.record.wrong == []
    assert helped > 0
