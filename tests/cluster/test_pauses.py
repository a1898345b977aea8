"""Processes of a node that stand still while the others go on, and then go on themselves (F04, F05, F06).

SIGSTOP and SIGCONT stand for a machine that is suspended, a host that swaps, a debugger. On one SQLite file
the nodes share a lock: where a process is stopped inside a commit no other can write until it goes on, and
what would write is answered with 503. That is how SQLite works and is not met here: processes are stopped
outside commits (see :func:`tests.cluster.inside.stand_still`), and it is printed how often one was found in
a commit. PostgreSQL ends such a transaction by itself.
"""

import contextlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx2
import jwt
import pytest
from tests.cluster.cluster import PATIENCE, RunningCluster, running_cluster
from tests.cluster.inside import Inside, fate_of, go_on, opened, pids_of, settled, stand_still
from tests.cluster.load import OUTAGE
from tests.cluster.running import Reachable, RunningNode, until

from mintmark import InvalidToken, Verifier, VerifierUnavailable
from mintmark.cli.demonstration.front import Fault
from mintmark.core import log
from mintmark.core.key import KeyState
from mintmark.core.minting import BACKDATED
from mintmark.core.timing import MAX_LEEWAY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# No key is due for rotation while the tests run: theirs are all there is. A lease lasts for as long as a busy
# machine may keep a node that is well from renewing it.
SETTINGS = {"rotate_every": "4h", "lease": "8s"}

on_each_store = pytest.mark.parametrize("shared", ["sqlite", "postgresql"], indirect=True, scope="module")

Ask = Callable[[httpx2.Client], httpx2.Response]
Tokens = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """An answer, and what was wrong with its token when it came."""

    what: str
    status: int
    body: Tokens
    wrong: tuple[str, ...] = ()


@dataclass
class Scene:
    """A cluster, its store, and a confidential client that asks in its own name."""

    cluster: RunningCluster
    inside: Inside
    secret: str
    database: Path | None
    stopped: list[int] = field(default_factory=list)
    inside_commits: int = 0

    @property
    def nodes(self) -> list[RunningNode]:
        return self.cluster.nodes

    def stop(self, pids: Iterable[int]) -> None:
        """SIGSTOP, outside commits."""
        self.stopped += (now := [*pids])
        self.inside_commits += stand_still(now, self.database)

    def go_on(self) -> None:
        """SIGCONT to all that were stopped."""
        stopped, self.stopped = self.stopped, []
        go_on(stopped)

    def each_signs(self) -> bool:
        """Whether no node mints through another one."""
        return len({kid_of(log_in(node)["access_token"]) for node in self.nodes}) == len(self.nodes)

    def mint_with(self, http: httpx2.Client) -> httpx2.Response:
        """A token for the confidential client."""
        return http.post("/token", data={"grant_type": "client_credentials"}, auth=("robot", self.secret))

    def ask(self, node: RunningNode, what: str, request: Ask) -> Answer:
        """The answer of ``node``, however late, and its token as others see it at that moment."""
        with httpx2.Client(base_url=node.url, timeout=PATIENCE, trust_env=False) as http:
            answer = request(http)
        if not answer.is_success:
            return Answer(what, answer.status_code, {})
        body = answer.json()
        return Answer(what, answer.status_code, body, self.faults_of(body["access_token"], node))

    def faults_of(self, token: str, minted_by: RunningNode) -> tuple[str, ...]:
        """What is wrong with a token that was just given out: it outlives its key, or others refuse it."""
        claims = claims_of(token)
        key = self.inside.key(kid_of(token))
        if key is None or not key.is_published():
            return (f"signed with a key that is {key.state if key else 'gone'}",)
        found = []
        if claims["exp"] + MAX_LEEWAY + self.inside.timing.clock_skew > key.publish_until:
            found.append(f"exp {claims['exp']} is beyond what publish_until {key.publish_until} covers")
        if claims["iat"] + BACKDATED >= key.lease_until:
            found.append("minted after the lease of its key")
        for node in self.nodes:
            if node is not minted_by:
                try:
                    Verifier.static(jwks_of(node), issuer=node.issuer, audience="orders").verify(token)
                except InvalidToken as error:
                    found.append(f"refused with the keys that another node publishes: {error.code}")
        return tuple(found)

    def log_out(self, node: RunningNode, sessions: list[Tokens]) -> None:
        """Log these out at ``node``, and see that who follows the feed refuses their access tokens."""
        for tokens in sessions:
            log_out(node, tokens["refresh_token"])
        self.check_refused(sessions)

    def check_refused(self, sessions: list[Tokens]) -> None:
        """That a verifier that has read the feed denies these access tokens."""
        with Verifier(self.cluster.issuer, audience="orders") as verifier:
            for tokens in sessions:
                until(lambda: fate_of(verifier, tokens["access_token"]) == "revoked", "it is refused")  # noqa: B023

    def check_ended(self, sessions: list[Tokens]) -> None:
        """That these refresh tokens redeem nothing at any node."""
        for tokens in sessions:
            for node in self.nodes:
                assert refreshed(node, tokens["refresh_token"]) == 400


@pytest.fixture(scope="module", params=["sqlite"])
def shared(request, tmp_path_factory) -> Iterator[Scene]:
    """One cluster for the tests of this module on one store; each leaves it as healthy as it was."""
    folder = tmp_path_factory.mktemp("cluster")
    with contextlib.ExitStack() as ending:
        url = None
        if request.param == "postgresql":
            server = request.getfixturevalue("postgresql")
            name = f"pauses_{os.getpid()}"
            url = server.create_database(name)
            ending.callback(server.drop_database, name)
        cluster = ending.enter_context(running_cluster(folder, store=url, settings=SETTINGS))
        added = cluster.run(
            "--json", "clients", "add", "Robot", "--client-id", "robot", "--audience", "orders",
            "--grant", "client_credentials",
        )  # fmt: skip
        inside = ending.enter_context(opened(cluster.nodes[0].config))
        database = None if url else folder / "mintmark.db"
        yield Scene(cluster, inside, json.loads(added)["client_secret"], database)


@pytest.fixture
def scene(shared, pool) -> Iterator[Scene]:
    """The cluster, each node with a key of its own; ``pool`` ends after what was stopped goes on."""
    shared.cluster.until_ready()
    # A node that mints through another one is ready as well, and a stop of it would stop nothing.
    until(shared.each_signs, "each node signs with its own key", patience=PATIENCE)
    yield shared
    shared.go_on()
    print(f"found inside a commit when they were to be stopped, so far: {shared.inside_commits}")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as made:
        yield made


class Requests:
    """Requests to one node, each on a thread and a connection of its own."""

    def __init__(self, scene: Scene, node: RunningNode, pool: ThreadPoolExecutor) -> None:
        self._scene = scene
        self._node = node
        self._pool = pool
        self._asked: list[Future[list[Answer]]] = []
        self._enough = threading.Event()

    def ask(self, what: str, request: Ask) -> Future[list[Answer]]:
        self._asked.append(self._pool.submit(lambda: [self._scene.ask(self._node, what, request)]))
        return self._asked[-1]

    def refresh(self, what: str, refresh_token: str) -> Future[list[Answer]]:
        return self.ask(what, lambda http: self._node.refresh_with(http, refresh_token))

    def ask_for_everything(self, kept: list[Tokens], lost: list[Tokens]) -> None:
        """Log in, refresh, and ask in a client's name; also for sessions that are or will be over."""
        for _ in range(4):
            self.ask("log in", self._node.log_in_with)
            self.ask("mint", self._scene.mint_with)
        for tokens in kept:
            self.refresh("kept", tokens["refresh_token"])
        for tokens in lost:
            self.refresh("lost", tokens["refresh_token"])

    def ask_again_and_again(self, what: str, request: Ask) -> None:
        """One request after the other until the answers are wanted, so that some are always under way."""

        def run() -> list[Answer]:
            answers = []
            while not self._enough.is_set():
                answers.append(self._scene.ask(self._node, what, request))
            return answers

        self._asked.append(self._pool.submit(run))

    def answers(self) -> list[Answer]:
        self._enough.set()
        found = [answer for asked in self._asked for answer in asked.result(PATIENCE)]
        counted = Counter(f"{answer.what} {answer.status}" for answer in found)
        print(", ".join(f"{what}: {count}" for what, count in sorted(counted.items())))
        return found


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def claims_of(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


def jwks_of(node: RunningNode) -> dict[str, Any]:
    return dict(settled(lambda: node.http.get("/.well-known/jwks.json")).json())


def publishes(node: RunningNode, kid: str) -> bool:
    return kid in {key["kid"] for key in jwks_of(node)["keys"]}


def log_in(node: RunningNode) -> Tokens:
    answer = settled(lambda: node.log_in_with(node.http))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def log_in_six_times(node: RunningNode) -> tuple[list[Tokens], list[Tokens]]:
    """Sessions that are kept, and as many that will be lost."""
    return [log_in(node) for _ in range(3)], [log_in(node) for _ in range(3)]


def log_out(node: RunningNode, refresh_token: str) -> None:
    body = {"refresh_token": refresh_token}
    answer = settled(lambda: node.http.request("DELETE", "/v1/sessions/current", json=body))
    assert answer.status_code == 204, answer.text


def refreshed(node: RunningNode, refresh_token: str) -> int:
    """The status of a refresh."""
    return settled(lambda: node.refresh(refresh_token)).status_code


def check(answers: list[Answer]) -> None:
    """No token outlives its key, none is of a session that is over, and nobody else was logged out."""
    for answer in answers:
        assert answer.wrong == (), answer
        assert answer.status in ((400, 503) if answer.what == "lost" else (200, 201, 503)), answer


@on_each_store
@pytest.mark.parametrize("past", ["lease", "retirement"])
def test_node_that_stood_still_mints_nothing_that_outlives_its_key(scene, pool, past):
    """F04, F05, K3, I6: stopped past its lease, or its key's retirement, it goes on under queued requests.

    Each token that it gives out then is covered by its key's publication and verifies with the keys that the
    others publish; none is of a session that was logged out meanwhile. The node joins again by itself.
    """
    node, other, third = scene.nodes
    process = node.process
    kept, lost = log_in_six_times(node)
    kid = kid_of(kept[0]["access_token"])
    me = scene.inside.key(kid).node
    requests = Requests(scene, node, pool)
    if past == "lease":
        # A token that is on its way for so long that its key is retired has expired long before; here, where
        # that is brought about at once, it has not.
        requests.ask_again_and_again("in flight", scene.mint_with)
        requests.ask_again_and_again(
            "in flight", lambda http: node.refresh_with(http, kept[0]["refresh_token"])
        )
    scene.stop(pids_of(node))
    requests.ask_for_everything(kept, lost)
    scene.log_out(other, lost)
    until(
        lambda: scene.inside.key(kid).state is KeyState.PASSIVE, "others took note that its lease has ended"
    )
    until(lambda: not scene.inside.is_live(me), "it no longer counts as live")
    if past == "retirement":
        scene.inside.retire(kid)
        until(lambda: not publishes(other, kid) and not publishes(third, kid), "the key left the key set")
    scene.go_on()
    check(requests.answers())
    until(node.is_ready, "it joined again", patience=PATIENCE, log=node.tail)
    assert node.process is process
    again = log_in(node)["access_token"]
    assert kid_of(again) != kid
    assert scene.faults_of(again, node) == ()
    scene.check_ended(lost)
    for tokens in kept:
        assert refreshed(node, tokens["refresh_token"]) == 200


@on_each_store
def test_refresh_that_waits_for_a_stopped_signer_does_not_survive_a_logout(scene, pool):
    """R5, I6: committed at one node, not yet signed, logged out at another: its tokens are dead at birth.

    The access token is refused by who follows the feed, because the event lasts until the ``exp`` that was
    fixed before the commit; neither the old refresh token nor the new one redeems anything.
    """
    node, other, _ = scene.nodes
    user = scene.inside.add_user("waiting")
    answered: list[Tokens] = []
    ended: list[str] = []

    def some_were_answered() -> bool:
        node.until_ready()
        begun = [scene.inside.new_session(user) for _ in range(8)]
        requests = Requests(scene, node, pool)
        scene.stop(node.pids()["signer"])
        asked = [requests.refresh("refresh", token) for _, token in begun]
        for (rid, token), run in zip(begun, asked, strict=True):
            until(
                lambda: scene.inside.session(rid).last_kid is not None or run.done(),  # noqa: B023
                "the redemption is committed",
            )
            log_out(other, token)
            ended.append(token)
        scene.go_on()
        for answer in requests.answers():
            assert answer.wrong == (), answer
            assert answer.status in (200, 503)
            if answer.status == 200:
                answered.append(answer.body)
        return bool(answered)

    # A busy machine may need so long for all this that the refreshes are given up, or never begun.
    until(some_were_answered, "a refresh was answered after its session had ended", patience=PATIENCE)
    scene.check_refused(answered)
    denied = scene.inside.denied_until()
    for tokens in answered:
        exp = claims_of(tokens["access_token"])["exp"]
        assert denied[tokens["rid"]] >= log.denied_until(exp, scene.inside.timing)
    scene.check_ended(answered)
    for token in ended:
        assert refreshed(other, token) == 400


def test_workers_that_stood_still_mint_nothing_for_a_session_that_is_over(scene, pool):
    """I6, F06: requests wait for the workers while leases are renewed; what these knew counts no more."""
    node, other, _ = scene.nodes
    kept, lost = log_in_six_times(node)
    kid = kid_of(kept[0]["access_token"])
    requests = Requests(scene, node, pool)
    requests.ask_again_and_again("in flight", scene.mint_with)
    scene.stop(node.pids()["worker"])
    known = scene.inside.key(kid).lease_until
    requests.ask_for_everything(kept, lost)
    scene.log_out(other, lost)
    until(lambda: scene.inside.ring().now > known, "the lease that the workers know of has ended")
    scene.go_on()
    check(requests.answers())
    until(node.is_ready, "it is ready again", log=node.tail)
    scene.check_ended(lost)
    for tokens in kept:
        assert refreshed(node, tokens["refresh_token"]) == 200


def test_node_without_its_control_process_stops_minting_by_itself(scene):
    """K3, K7: nobody renews its lease, so it signs no more once that has ended; its key set is served on."""
    node = scene.nodes[0]
    kid = kid_of(log_in(node)["access_token"])
    scene.stop(node.pids()["control"])
    lease_until = scene.inside.key(kid).lease_until
    answers: list[Answer] = []

    def refuses() -> bool:
        answers.append(scene.ask(node, "mint", scene.mint_with))
        return answers[-1].status == 503

    until(refuses, "it stopped minting", patience=PATIENCE)
    until(lambda: scene.inside.ring().now > lease_until, "its lease has ended")
    for _ in range(10):
        assert refuses()
    assert not node.is_ready()
    assert publishes(node, kid)
    until(
        lambda: scene.inside.key(kid).state is KeyState.PASSIVE, "others took note that its lease has ended"
    )
    scene.go_on()
    check(answers)
    until(node.is_ready, "it joined again", patience=PATIENCE, log=node.tail)
    assert kid_of(log_in(node)["access_token"]) != kid


def test_node_with_a_stopped_signer_says_later_and_signs_nothing_late(scene, pool):
    """F06, I6, I8: requests get 503 while it stands; then, past its lease, nothing is signed late."""
    node, other, _ = scene.nodes
    kept, lost = log_in_six_times(node)
    kid = kid_of(kept[0]["access_token"])
    early, late = Requests(scene, node, pool), Requests(scene, node, pool)
    scene.stop(node.pids()["signer"])
    early.ask_for_everything(kept, lost)
    assert {answer.status for answer in early.answers()} == {503}
    assert not node.is_ready()
    assert publishes(node, kid)
    scene.log_out(other, lost)
    until(
        lambda: scene.inside.key(kid).state is KeyState.PASSIVE,
        "others took note that its lease has ended",
        patience=PATIENCE,
    )
    late.ask_for_everything(kept, lost)
    scene.go_on()
    check(late.answers())
    until(node.is_ready, "it joined again", patience=PATIENCE, log=node.tail)
    scene.check_ended(lost)
    for tokens in kept:
        assert refreshed(node, tokens["refresh_token"]) == 200


# --- what the others notice of it --------------------------------------------------------------------------


class Pulse:
    """Asks for a token at ``asked``, a node or the front, again and again, and keeps how long that took.

    A request that fails, or is answered «later», is made again on a new connection.
    """

    def __init__(self, scene: Scene, asked: Reachable, verifier: Verifier) -> None:
        self._scene = scene
        self._asked = asked
        self._verifier = verifier
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seconds: list[float] = []
        self.tries: Counter[int] = Counter()
        self.refused: list[str] = []
        self.undecided = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def until_more(self) -> None:
        """Wait until some more requests were answered."""
        more = len(self.seconds) + 10
        until(lambda: len(self.seconds) >= more, "requests were answered", patience=PATIENCE)

    def said(self) -> str:
        slowest = sorted(self.seconds)
        return (
            f"{len(slowest)} answers, median {slowest[len(slowest) // 2] * 1000:.0f} ms, "
            f"slowest {slowest[-1] * 1000:.0f} ms, by tries {dict(sorted(self.tries.items()))}, "
            f"{self.undecided} tokens not judged"
        )

    def _run(self) -> None:
        http = self._asked.client()
        while not self._enough.wait(0.1):
            began, tries, token = time.monotonic(), 0, None
            while token is None and not self._enough.is_set():
                tries += 1
                try:
                    answer = self._scene.mint_with(http)
                except OUTAGE:
                    http.close()
                    http = self._asked.client()
                    continue
                assert answer.status_code in (200, 503), answer.text
                token = answer.json()["access_token"] if answer.is_success else None
            if token is not None:
                self.seconds.append(time.monotonic() - began)
                self.tries[tries] += 1
                try:
                    self._verifier.verify(token)
                except InvalidToken as error:
                    self.refused.append(error.code)
                except VerifierUnavailable:
                    self.undecided += 1
        http.close()


@on_each_store
def test_node_that_hangs_delays_no_answer_and_no_rotation_of_the_others(scene):
    """Stopped, then out of reach: the others answer, the front avoids it, keys rotate, nothing is refused."""
    node, *others = scene.nodes
    with contextlib.ExitStack() as ending:
        verifier = ending.enter_context(Verifier(scene.cluster.issuer, audience="orders"))
        until(verifier.start, "the verifier has keys and feed")
        through_front = ending.enter_context(Pulse(scene, scene.cluster, verifier))
        direct = [ending.enter_context(Pulse(scene, other, verifier)) for other in others]
        pulses = [through_front, *direct]

        def goes_on(when: str) -> None:
            for pulse in pulses:
                pulse.until_more()
            print(f"{when}: front {through_front.said()}; others " + "; ".join(p.said() for p in direct))

        goes_on("all well")
        scene.stop(pids_of(node))
        goes_on("one stopped")
        before = _signers(scene)
        scene.cluster.run("keys", "rotate")
        until(
            lambda: len(_signers(scene) - before) == len(others) == len(_signers(scene)),
            "the others, and they alone, sign with new keys",
            patience=PATIENCE,
        )
        goes_on("others rotated")
        scene.go_on()
        until(node.is_ready, "it joined again", patience=PATIENCE, log=node.tail)
        scene.cluster.front.set(Fault.BLACKHOLE, backend=scene.cluster.backend(0))
        goes_on("one out of reach")
        scene.cluster.front.set(Fault.PASS, backend=scene.cluster.backend(0))
        goes_on("all well again")
    assert [code for pulse in pulses for code in pulse.refused] == []


def _signers(scene: Scene) -> set[str]:
    """The keys that sign now."""
    return {key.kid for key in scene.inside.ring().ring.keys if key.state is KeyState.ACTIVE}
