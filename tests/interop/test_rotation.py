"""I1 with verifiers of others: keys rotate, nodes come, go and die, and none refuses a valid token."""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Mapping
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
    """How keys are held in one run of the suite."""

    name: str
    kinds: tuple[tuple[str, str], ...]
    """Mode and algorithm of keys: those of the beginning, and what is switched to one after the other."""
    activations: int
    """How many keys become active at the least."""
    signers: int = 8

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What verifiers are told to take."""
        return tuple(dict.fromkeys(algorithm for _, algorithm in self.kinds))

    def settings(self, folder: Path) -> Mapping[str, Any]:
        """What nodes are told; where a key is ever shared, what it is sealed under is in a file."""
        (mode, algorithm), *_ = self.kinds
        told = {**SETTINGS, "key_mode": mode, "algorithm": algorithm, "signers": self.signers}
        if any(mode == "shared" for mode, _ in self.kinds):
            (folder / "seal.key").write_bytes(os.urandom(32))
            told["seal_key"] = f"file:{folder}/seal.key"
        return told


OWN = Run("own", (("own", "RS256"),), 12)
PEERS = Run("peers", (("own", "ES256"),), 8, signers=2)
"""One node more than have keys: it mints through the others for as long as it runs."""
SHARED = Run("shared", (("shared", "RS256"),), 5)
SWITCHED = Run("switched", (("own", "RS256"), ("shared", "ES256"), ("own", "ES256")), 8)
"""At the end nodes restart whose settings say something else than the store."""

RUNS = (OWN, PEERS, SHARED, SWITCHED)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_verifiers_of_others_refuse_no_valid_token(run: Run, tmp_path):
    """KY3: while keys rotate and are switched, a node joins, every node restarts and one is killed, each
    verifier accepts each valid token each time it is shown, and refuses what was changed."""
    with (
        running_cluster(tmp_path, settings=run.settings(tmp_path), start=False) as cluster,
        contextlib.ExitStack() as verifying,
    ):
        joining = len(cluster.nodes) - 1
        cluster.add_user_and_client()
        for node in cluster.nodes[:joining]:
            node.start()
        for node in cluster.nodes[:joining]:
            node.until_ready(patience=PATIENCE)
        guarding = Guarding(issuer=cluster.issuer, algorithms=run.algorithms, cache=CACHE)
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
            for kind in run.kinds[1:]:
                _switch(cluster, kind)
                _until_shown(cluster, watches)
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
        signing = _kinds_that_sign(cluster)
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
    # The first key of all. Where a node stands still for longer than it counts as alive there may be another:
    # that it makes nobody refuse a token is what the verifiers were asked about, not how many there are.
    assert "bootstrap" in {event["cause"] for event in activated}
    assert signing == {run.kinds[-1]}
    assert remote or run is not PEERS


def _kinds_that_sign(cluster: RunningCluster) -> set[tuple[str, str]]:
    """Mode and algorithm of the active keys."""
    listed = json.loads(cluster.run("keys", "list", "--json"))["keys"]
    return {(key["mode"], key["alg"]) for key in listed if key["state"] == "active"}


def _switch(cluster: RunningCluster, kind: tuple[str, str]) -> None:
    """Have keys of another kind succeed those there are, and wait until they alone sign."""
    before = _activations(cluster)
    cluster.run("keys", "switch", "--mode", kind[0], "--algorithm", kind[1])

    def alone() -> bool:
        return _activations(cluster) > before and _kinds_that_sign(cluster) == {kind}

    until(alone, f"{kind} alone signs", patience=PATIENCE, log=cluster.tail)


def _activations(cluster: RunningCluster) -> int:
    """How many keys became active so far. It is asked all the time, so lines are counted and not parsed."""
    logs = (node.log.read_bytes() for node in cluster.nodes if node.log.exists())
    return sum(log.count(b'"event": "key.activated"') for log in logs)


def _until_activated(cluster: RunningCluster, count: int) -> None:
    until(
        lambda: _activations(cluster) >= count,
        f"{count} keys were activated", patience=600, log=cluster.tail,
    )  # fmt: skip


def _until_shown(cluster: RunningCluster, watches: list[Watch]) -> None:
    """Wait until every verifier has said something of the key that each node activated last, and of every
    key of which another has by now. To fail to fetch is no refusal, but who always does shows nothing."""
    checked = set[str]().union(*(watch.kids for watch in watches))

    def shown() -> bool:
        own = [node.events("key.activated") for node in cluster.nodes]
        newest = {str(events[-1]["kid"]) for events in own if events}
        return all(newest | checked <= watch.kids for watch in watches)

    until(shown, "every verifier has checked every key", patience=PATIENCE, log=cluster.tail)
