"""What a node promises when its processes are killed under load (I1, I7, F01, F44)."""

import os
import random
import signal
import time

import pytest
from tests.cluster.load import Load
from tests.cluster.running import RunningNode, running_node, until

from mintmark import InvalidToken, Verifier

ROUNDS = 20
# Tokens outlive the test, and each refresh a second after the last one makes a new generation.
SETTINGS = {"access_ttl": "300s", "rotate_every": "320s", "refresh_grace": "1s"}
KINDS = ("worker", "signer", "control", "worker", "signer")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_processes_lose_nothing_that_was_answered(tmp_path):
    """SIGKILL of each process at random moments: every answer is kept, and nothing valid is refused."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    with (
        running_node(tmp_path, settings=SETTINGS) as node,
        Verifier(node.issuer, audience="orders") as verifier,
        Load(node, sessions=4) as load,
    ):
        for number in range(ROUNDS):
            kind = KINDS[number % len(KINDS)]
            before = load.record.refreshed
            until(lambda: load.record.refreshed > before + 5, "clients went on")  # noqa: B023
            time.sleep(chance.random() * 0.5)
            _kill(node, kind, chance)
            _until_back(node)
            _check(node, load, verifier, f"round {number}, {kind} killed")
        load.record.wrong += _still_refused(node, load)
    assert load.record.wrong == []
    assert load.record.logged_out > 0
    print(
        f"{ROUNDS} kills: {load.record.refreshed} refreshes and {load.record.logged_out} logouts answered, "
        f"{load.record.outages} requests not answered or answered 503"
    )


def _kill(node: RunningNode, kind: str, chance: random.Random) -> None:
    if kind == "control":
        node.kill()
        node.start()
        return
    pid = chance.choice(node.pids()[kind])
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in node.pids()[kind], "the killed process is gone")


def _until_back(node: RunningNode) -> None:
    until(lambda: node.pids()["worker"] and node.pids()["signer"], "its processes were started again")
    node.until_ready()


def _check(node: RunningNode, load: Load, verifier: Verifier, when: str) -> None:
    """Every token of a live session is accepted, by a verifier that has been there all along."""
    with load.record.lock:
        tokens, load.record.tokens = load.record.tokens, []
    for token in tokens:
        try:
            verifier.verify(token)
        except InvalidToken as error:
            load.record.wrong.append(f"{when}: a valid token was refused: {error.code}")


def _still_refused(node: RunningNode, load: Load) -> list[str]:
    """What clients could still do with sessions whose logout was answered."""
    wrong = []
    with load.record.lock:
        ended = list(load.record.ended)
    with Verifier(node.issuer, audience="orders") as fresh:
        for tokens in ended:
            if node.refresh(tokens["refresh_token"]).status_code != 400:
                wrong.append("a refresh token was good after its logout was answered")
            try:
                fresh.verify(tokens["access_token"])
            except InvalidToken:
                continue
            wrong.append("an access token was good after its logout was answered")
    return wrong
