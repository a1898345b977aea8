"""A node that is cut off from the store while the others are not (I8, K3, F04)."""

import threading
from functools import partial
from typing import Any, Self

import httpx2
import jwt
import pytest
from sqlalchemy import make_url
from tests.cluster.cluster import PATIENCE, running_cluster
from tests.cluster.inside import opened
from tests.cluster.load import OUTAGE
from tests.cluster.running import RunningNode
from tests.cluster.running import until as until_within
from tests.cluster.witness import add_robot, kid_of

from mintmark import Verifier, VerifierUnavailable
from mintmark.cli.demonstration.front import Backend, Fault, running_front
from mintmark.core.key import KeyState
from mintmark.core.minting import BACKDATED

until = partial(until_within, patience=PATIENCE)

# A lease lasts for as long as a busy machine may keep a node that is well from renewing it.
SETTINGS = {"lease": "8s", "access_ttl": "300s", "rotate_every": "4h", "algorithm": "ES256"}


class Asking:
    """Asks ``node`` for tokens in the name of a client, again and again, and keeps what it is told."""

    def __init__(self, node: RunningNode, secret: str) -> None:
        self._node = node
        self._secret = secret
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.tokens: list[str] = []
        self.later = 0
        """How often there was no answer, or the one that says «later»."""
        self.wrong: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def until_answered(self) -> str:
        """A token that was given out from now on."""
        more = len(self.tokens) + 2
        until(lambda: len(self.tokens) >= more, "a token was given out", log=self._node.tail)
        return self.tokens[-1]

    def until_refused(self) -> None:
        """Wait until it is told «later» five times, and nothing else meanwhile."""

        def refused() -> bool:
            tokens, more = len(self.tokens), self.later + 5
            until(lambda: self.later >= more or len(self.tokens) > tokens, "it is told something")
            return len(self.tokens) == tokens

        until(refused, "it mints no more", log=self._node.tail)

    def _run(self) -> None:
        form = {"grant_type": "client_credentials"}
        with self._node.client() as http:
            while not self._enough.wait(0.1):
                try:
                    answer = http.post("/token", data=form, auth=("robot", self._secret))
                except OUTAGE:
                    self.later += 1
                    continue
                if answer.status_code == 503:
                    self.later += 1
                elif answer.status_code == 200:
                    self.tokens.append(answer.json()["access_token"])
                else:
                    self.wrong.append(f"{answer.status_code} {answer.text}")


def signs(node: RunningNode) -> bool:
    """Whether a key of its own signs."""
    return bool(node.events("key.activated"))


def is_ready(node: RunningNode) -> bool:
    try:
        return node.http.get("/readyz").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_node_that_is_cut_off_from_the_store_mints_no_more_and_comes_back(tmp_path, postgresql, database):
    """It stops within its lease, is not ready, and serves its key set on; the other node goes on. Once the
    store can be reached it serves again, the same processes, and what both gave out is accepted."""
    with running_front([Backend("127.0.0.1", postgresql.port)], ready_path=None) as line:
        through = make_url(database).set(port=line.port).render_as_string(hide_password=False)
        with running_cluster(tmp_path, store=database, nodes=2, settings=SETTINGS, start=False) as cluster:
            cut, other = cluster.nodes
            cut.config.write_text(cut.config.read_text().replace(database, through))
            assert through in cut.config.read_text()
            secret = add_robot(other)
            cluster.start().until_ready()
            until(lambda: signs(cut) and signs(other), "each signs with its own key", log=cluster.tail)
            processes = cut.pids()
            with (
                opened(other.config) as inside,
                Verifier(cluster.issuer, audience="orders") as verifier,
                Asking(cut, secret) as asking,
                Asking(other, secret) as beside,
            ):
                kid = until_own(asking, cut)
                line.set(Fault.BLACKHOLE)
                asking.until_refused()
                until(lambda: not is_ready(cut), "it is not ready")
                until(
                    lambda: inside.ring().ring.held_by(node_of(cut), KeyState.ACTIVE) is None,
                    "the other took note that its lease has ended",
                )
                key = inside.key(kid)
                assert key is not None
                assert key.state is KeyState.PASSIVE
                asking.until_refused()
                late = [token for token in asking.tokens if kid_of(token) == kid]
                assert all(claims(token)["iat"] + BACKDATED < key.lease_until for token in late)
                assert cut.http.get("/.well-known/jwks.json").status_code == 200
                beside.until_answered()
                until(lambda: is_ready(other), "the other is ready", log=other.tail)

                line.set(Fault.PASS)
                until(lambda: is_ready(cut), "it is ready again", log=cut.tail)
                assert kid_of(asking.until_answered()) != kid
                assert cut.pids() == processes
                until(verifier.ready, "the verifier has keys and revocations")
                for token in (*asking.tokens[-50:], *beside.tokens[-50:], *late[-10:]):
                    until(lambda: accepts(verifier, token), "it can tell")  # noqa: B023
            assert asking.wrong + beside.wrong == []
    print(
        f"{len(late)} tokens before the lease ended, {asking.later} requests refused, {len(asking.tokens)} "
        f"tokens in all; beside it {len(beside.tokens)} tokens, {beside.later} requests refused"
    )


def until_own(asking: Asking, node: RunningNode) -> str:
    """The key that ``node`` signs with itself, once it does."""
    own = {event["kid"] for event in node.events("key.activated")}
    return until(lambda: next(iter({kid_of(asking.until_answered())} & own), ""), "it signs by itself")


def node_of(node: RunningNode) -> Any:
    return node.events("node.started")[-1]["node"]


def claims(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


def accepts(verifier: Verifier, token: str) -> bool:
    """Whether it does; raises InvalidToken where it refuses a token that has not expired."""
    try:
        verifier.verify(token)
    except VerifierUnavailable:
        return False
    return True
