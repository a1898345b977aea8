"""Real nodes that mint through each other (design 3.4)."""

import signal
from functools import partial

import httpx2
import pytest
from tests.cluster.cluster import PATIENCE, running_cluster
from tests.cluster.load import Load
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
    # However slow the machine is, no lease of a node that lives ends meanwhile.
    "lease": "1m",
    "feed_bound": "2m",
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
    answer = node.asked(lambda: node.log_in_with(node.http), 201)
    return str(kid_of(answer.json()["access_token"]))


def has_left(node: RunningNode) -> bool:
    assert node.process is not None
    return node.process.poll() is not None


def refuses(node: RunningNode) -> bool:
    """Whether nobody listens for clients."""
    with httpx2.Client(base_url=node.url, trust_env=False) as http:
        try:
            http.get("/livez")
        except httpx2.ConnectError:
            return True
    return False


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
        activated = {event["kid"] for event in cluster.events("key.activated")}
        with Verifier(cluster.issuer, audience="orders") as verifier:
            until(verifier.ready, "the verifier has keys and revocations")
            for node in cluster.nodes:
                answer = node.asked(partial(node.log_in_with, node.http), 201).json()
                assert kid_of(answer["access_token"]) in activated
                renewed = node.asked(partial(node.refresh, answer["refresh_token"]), 200)
                verifier.verify(renewed.json()["access_token"])
        assert signed_for_peers(first) > 0
        assert len(keys_of(first)) <= 2


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_signer_that_is_killed_or_stands_still_is_replaced(tmp_path, store_url):
    """A node beyond ``signers`` goes on minting while one of the two that sign dies, or says nothing."""
    # A lease that outlasts the test, however slow: the place of who is away falls to nobody meanwhile.
    settings = {
        "algorithm": "ES256", "signers": 2, "rotate_every": "30m", "lease": "5m", "feed_bound": "6m",
    }  # fmt: skip
    with running_cluster(tmp_path, store=store_url, nodes=3, settings=settings, start=False) as cluster:
        *signers, beyond = cluster.nodes
        for node in signers:
            node.start().until_ready(patience=PATIENCE)
        until(lambda: len(cluster.events("key.activated")) == 2, "both sign", patience=PATIENCE)
        cluster.add_user_and_client()
        beyond.start().until_ready(patience=PATIENCE)
        until(lambda: beyond.events("slots.exhausted"), "no slot is free", patience=PATIENCE)
        tokens = beyond.asked(lambda: beyond.log_in_with(beyond.http), 201).json()

        def goes_on_with(signer: RunningNode) -> bool:
            """Whether a refresh at the node beyond is answered with a key of ``signer``."""
            nonlocal tokens
            before = signed_for_peers(signer)
            tokens = beyond.asked(lambda: beyond.refresh(tokens["refresh_token"]), 200).json()
            return signed_for_peers(signer) > before

        for signer in signers:
            until(lambda: goes_on_with(signer), "each of the two is asked", log=cluster.tail)  # noqa: B023
        first, second = signers
        cluster.pause(1)
        for _ in range(5):
            until(lambda: goes_on_with(first), "the other one signs", log=cluster.tail)
        cluster.resume(1)
        second.until_ready(patience=PATIENCE)
        first.kill()
        until(lambda: goes_on_with(second), "the one that is left signs", log=cluster.tail)


def test_node_that_can_ask_nobody_says_later(tmp_path):
    """The only signer dies: the other node answers 503 until it may begin with a key of its own."""
    with running_cluster(tmp_path, nodes=2, settings=SETTINGS, start=False) as cluster:
        first, second = cluster.nodes
        first.start().until_ready(patience=PATIENCE)
        cluster.add_user_and_client()
        second.start().until_ready(patience=PATIENCE)
        tokens = second.asked(lambda: second.log_in_with(second.http), 201).json()
        first.kill()
        answer = second.refresh(tokens["refresh_token"])
        # On a machine that stood still for ten seconds it may have begun already.
        if not second.events("key.activated"):
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["Retry-After"]) > 0
        second.asked(lambda: second.refresh(tokens["refresh_token"]), 200)
        (activated,) = second.events("key.activated")
        assert mints_at(second) == activated["kid"]


def test_all_but_one_leave_under_load_and_lose_nothing(tmp_path):
    """The only signer and another node are told to leave: the signer answers nobody any more, and signs for
    the node that stays. No client is refused anything that it has."""
    with running_cluster(tmp_path, nodes=3, settings=SETTINGS, start=False) as cluster:
        signer, leaving, staying = cluster.nodes
        signer.start().until_ready(patience=PATIENCE)
        cluster.add_user_and_client()
        for node in (leaving, staying):
            node.start()
        cluster.until_ready()
        with Load(cluster, sessions=2, pause=0.05) as load:
            until(lambda: load.record.refreshed > 10, "clients are served", log=cluster.tail)
            for node in (signer, leaving):
                assert node.process is not None
                node.process.send_signal(signal.SIGTERM)
            until(
                lambda: signer.events("node.signs_only"), "it signs only", patience=PATIENCE, log=cluster.tail
            )
            until(lambda: has_left(leaving), "the other one left", patience=PATIENCE, log=cluster.tail)
            before = load.record.refreshed
            until(lambda: load.record.refreshed > before + 20, "clients go on", log=cluster.tail)
        assert load.record.wrong == []
        assert load.record.refreshed > 0
        assert not has_left(signer)
        until(lambda: refuses(signer), "nobody listens for clients there", log=cluster.tail)
        assert mints_at(staying) in {event["kid"] for event in signer.events("key.activated")}
        assert signer.process is not None
        signer.process.send_signal(signal.SIGTERM)
        until(lambda: has_left(signer), "a second signal ends it", log=cluster.tail)
        assert cluster.events("handover.missed") == []
