"""Real nodes that mint through each other (design 3.4)."""

import pytest
from tests.cluster.cluster import PATIENCE, running_cluster
from tests.cluster.running import RunningNode, until

from mintmark import Verifier
from mintmark.core import jws

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = {
    "algorithm": "ES256",
    # A key of one's own comes no sooner than this, so who is ready before it mints through a peer.
    "verifier_cache": "10m",
    "jwks_max_age": "10s",
    "access_ttl": "300s",
    "rotate_every": "40m",
    "lease": "10s",
    "signers": 2,
    "handover": "1h",
}


def keys_of(node: RunningNode) -> set[str]:
    return {key["kid"] for key in node.http.get("/.well-known/jwks.json").json()["keys"]}


def signed_for_peers(node: RunningNode) -> int:
    return len(node.events("token.signed_for_peer"))


def kid_of(token: str) -> str | None:
    return jws.parse(token).header.kid


def mints_at(node: RunningNode) -> str:
    """The ``kid`` of a token that ``node`` itself answers with; any failure is one of the test's."""
    answer = node.log_in_with(node.http)
    assert answer.status_code == 201, answer.text
    return str(kid_of(answer.json()["access_token"]))


@pytest.mark.parametrize("store_url", ["sqlite", "postgresql"], indirect=True)
def test_nodes_that_join_mint_at_once_through_the_one_that_signs(tmp_path, store_url):
    """Of four nodes one has a key that signs: all are ready and mint with it, and the set grows by no more
    than the one slot that is left."""
    with running_cluster(tmp_path, store=store_url, nodes=4, settings=SETTINGS, start=False) as cluster:
        first, *others = cluster.nodes
        first.start().until_ready(patience=PATIENCE)
        cluster.add_user_and_client()
        for node in others:
            node.start()
        cluster.until_ready()
        (activated,) = cluster.events("key.activated")
        with Verifier(cluster.issuer, audience="orders") as verifier:
            until(verifier.ready, "the verifier has keys and revocations")
            for node in cluster.nodes:
                answer = node.log_in_with(node.http).json()
                assert kid_of(answer["access_token"]) == activated["kid"]
                renewed = node.refresh(answer["refresh_token"])
                assert renewed.status_code == 200, renewed.text
                verifier.verify(renewed.json()["access_token"])
        assert signed_for_peers(first) >= 6
        assert len(keys_of(first)) <= 2
