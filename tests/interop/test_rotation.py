"""I1 with verifiers of others: keys rotate, nodes come, go and die, and none refuses a valid token."""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.cluster import CLUSTER, PATIENCE, RunningCluster, running_cluster
from tests.cluster.load import Load
from tests.cluster.rotator import Rotator
from tests.cluster.running import until
from tests.interop.registry import REGISTRY
from tests.interop.tokens import tampered
from tests.interop.verifier import Guarding, Verdict
from tests.interop.watching import Showing, Watch

CACHE = 4
"""C in seconds: what each verifier is told, by the option that it has for that."""
SETTINGS = {
    **CLUSTER,
    "verifier_cache": f"{CACHE}s",
    # Fetches of most verifiers give up after five seconds, and on a busy machine one may take as long.
    "propagation": "5s",
    # Keys stay public for six minutes after their last signature, so all of them are at the end.
    "jwks_limit": 60,
}


@dataclass(frozen=True, slots=True)
class Run:
    """How keys are held in one run of the suite, and how many become active in it."""

    name: str
    mode: str
    algorithm: str
    settings: Callable[[Path], Mapping[str, Any]]
    activations: int


def _own(folder: Path) -> Mapping[str, Any]:
    return {}


def _few_signers(folder: Path) -> Mapping[str, Any]:
    """One node more than have keys: it mints through its peers for as long as it runs."""
    return {"signers": 2, "algorithm": "ES256"}


def _sealed(folder: Path) -> Mapping[str, Any]:
    """One key for all nodes, sealed under what is in a file."""
    (folder / "seal.key").write_bytes(os.urandom(32))
    return {"key_mode": "shared", "seal_key": f"file:{folder}/seal.key"}


OWN = Run("own", "own", "RS256", _own, 12)
PEERS = Run("peers", "own", "ES256", _few_signers, 8)
SHARED = Run("shared", "shared", "RS256", _sealed, 5)

RUNS = (OWN, PEERS, SHARED)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_verifiers_of_others_refuse_no_valid_token(run: Run, tmp_path):
    """KY3: while keys rotate, a node joins, every node restarts and one is killed, each verifier accepts each
    valid token each time it is shown, and refuses what was changed."""
    with (
        running_cluster(tmp_path, settings=SETTINGS | dict(run.settings(tmp_path)), start=False) as cluster,
        contextlib.ExitStack() as verifying,
    ):
        joining = len(cluster.nodes) - 1
        cluster.add_user_and_client()
        for node in cluster.nodes[:joining]:
            node.start()
        for node in cluster.nodes[:joining]:
            node.until_ready(patience=PATIENCE)
        guarding = Guarding(issuer=cluster.issuer, algorithm=run.algorithm, cache=CACHE)
        watches = [
            verifying.enter_context(
                Watch(entry.name, verifying.enter_context(entry.start(guarding, tmp_path)))
            )
            for entry in REGISTRY
        ]
        with (
            Load(cluster, sessions=3, pause=0.4) as load,
            Showing(load, watches) as showing,
            Rotator(cluster),
        ):
            until(lambda: all(watch.checks for watch in watches), "every verifier has seen a token")
            cluster.nodes[joining].start().until_ready(patience=PATIENCE)
            cluster.rolling_restart()
            cluster.kill(1)
            went_on = load.record.refreshed
            until(lambda: load.record.refreshed > went_on + 20, "clients go on without the killed node")
            cluster.nodes[1].start().until_ready(patience=PATIENCE)
            _until_activated(cluster, run.activations)
            _until_shown(cluster, watches)
        token = showing.newest
        assert token is not None
        valid = {watch.name: watch.ask(token.text) for watch in watches}
        forged = {watch.name: watch.ask(tampered(token.text)) for watch in watches}
        activated = cluster.events("key.activated")
        listed = json.loads(cluster.run("keys", "list", "--json"))["keys"]
        keys = cluster.http.get("/.well-known/jwks.json").json()["keys"]

    print(f"{len(activated)} activations ({Counter(event['cause'] for event in activated)})")
    remote = len(cluster.events("token.signed_for_peer"))
    print(f"{remote} tokens signed for peers")
    print(f"{load.record.refreshed} refreshes, {load.record.outages} outages, {len(keys)} keys at the end")
    for watch in watches:
        failed = watch.unasked.total()
        print(f"{watch.name}: {watch.checks} checks of {len(watch.kids)} keys, {failed} fetches failed")
    print(f"{sum(watch.checks for watch in watches)} checks in all")
    assert [refusal for watch in watches for refusal in watch.refused] == []
    assert load.record.wrong == []
    assert {name for name, said in valid.items() if said.verdict is not Verdict.ACCEPTED} == set(), valid
    assert {name for name, said in forged.items() if said.verdict is not Verdict.REFUSED} == set(), forged
    # To fail to fetch is no refusal, but who fails all the time has shown nothing.
    assert [watch.name for watch in watches if watch.unasked.total() * 20 > watch.checks] == []
    assert [event["cause"] for event in activated].count("bootstrap") == 1
    assert {(key["mode"], key["alg"]) for key in listed} == {(run.mode, run.algorithm)}
    assert remote or run is not PEERS


def _until_activated(cluster: RunningCluster, count: int) -> None:
    until(
        lambda: len(cluster.events("key.activated")) >= count,
        f"{count} keys were activated", patience=600, log=cluster.tail,
    )  # fmt: skip


def _until_shown(cluster: RunningCluster, watches: list[Watch]) -> None:
    """Wait until every verifier has seen a token of the key that each node activated last."""

    def shown() -> bool:
        own = [node.events("key.activated") for node in cluster.nodes]
        newest = {str(events[-1]["kid"]) for events in own if events}
        return all(newest <= watch.kids for watch in watches)

    until(shown, "each node's newest key has signed for a client", patience=PATIENCE, log=cluster.tail)
