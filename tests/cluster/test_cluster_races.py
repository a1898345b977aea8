"""Refresh tokens that are redeemed at several nodes at once, and sessions that end meanwhile (F26-F29, F44).

Whoever wins is decided by the store in one statement, so it does not matter which node asked.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx2
import jwt
import pytest
from tests.cluster.cluster import PATIENCE, RunningCluster, running_cluster
from tests.cluster.inside import Inside, fate_of, opened, settled
from tests.cluster.load import OUTAGE
from tests.cluster.running import RunningNode, until

from mintmark import Verifier
from mintmark.core import log
from mintmark.core.directory import User
from mintmark.units import NumericDate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Tokens outlive the test, so that what a verifier refuses was denied; and so does the grace in which a
# redemption is repeated, and a lease, since a busy machine may take a while for all that is asked here.
SETTINGS = {"access_ttl": "300s", "rotate_every": "4h", "refresh_grace": "120s", "lease": "15s"}
AT_ONCE = 100
ROUNDS = 100
"""Of each kind of ending."""
ROUNDS_AT_ONCE = 10
REFRESHES = 4
JITTER = 0.005


@dataclass
class Scene:
    """A cluster and its store."""

    cluster: RunningCluster
    inside: Inside

    def thefts(self) -> int:
        """How many sessions were ended as stolen so far."""
        return len(self.cluster.events("session.stolen"))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def scene(request, tmp_path_factory) -> Iterator[Scene]:
    """One cluster for the tests of this module on one store."""
    with contextlib.ExitStack() as ending:
        url = None
        if request.param == "postgresql":
            server = request.getfixturevalue("postgresql")
            name = f"races_{os.getpid()}"
            url = server.create_database(name)
            ending.callback(server.drop_database, name)
        folder = tmp_path_factory.mktemp("cluster")
        cluster = ending.enter_context(running_cluster(folder, store=url, settings=SETTINGS))
        yield Scene(cluster, ending.enter_context(opened(cluster.nodes[0].config)))


class Clients:
    """Clients of one node in this event loop."""

    def __init__(self, node: RunningNode) -> None:
        limits = httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
        self.http = httpx2.AsyncClient(base_url=node.url, timeout=60, trust_env=False, limits=limits)

    async def refresh(self, token: str) -> httpx2.Response:
        body = {"refresh_token": token, "client_id": "shop"}
        return await self.http.post("/v1/sessions/refresh", json=body)

    async def log_out(self, token: str) -> httpx2.Response:
        return await self.http.request("DELETE", "/v1/sessions/current", json={"refresh_token": token})


@contextlib.asynccontextmanager
async def clients_of(cluster: RunningCluster) -> AsyncIterator[list[Clients]]:
    """Clients of each node, the node of that place in the list."""
    made = [Clients(node) for node in cluster.nodes]
    try:
        yield made
    finally:
        for clients in made:
            await clients.http.aclose()


# --- one winner ----------------------------------------------------------------------------------------


def test_of_a_hundred_redemptions_at_three_nodes_one_makes_a_successor(scene):
    """I4, F26, F27: all that are answered get one refresh token, and nobody is taken for a thief."""
    user = scene.inside.add_user("hundred")
    thefts = scene.thefts()
    for _ in range(3):
        rid, token = scene.inside.new_session(user)
        # A machine that is busy with much else may answer all of them «later».
        successors = until(lambda: _successors_at_once(scene.cluster, token), "one won")  # noqa: B023
        assert len(successors) == 1
        assert scene.inside.session(rid).generation == 1
        assert scene.inside.session(rid).ended_at is None
        for node in scene.cluster.nodes:
            assert {_refreshed(node, token), _refreshed(node, *successors)} == successors
    assert scene.thefts() == thefts


def _successors_at_once(cluster: RunningCluster, token: str) -> set[str]:
    """The refresh tokens with which a hundred redemptions of ``token`` were answered."""
    answers = asyncio.run(_redeem_at_once(cluster, token))
    print(", ".join(f"{n} x {status}" for status, n in Counter(a.status_code for a in answers).items()))
    assert {answer.status_code for answer in answers} <= {200, 503}
    return {answer.json()["refresh_token"] for answer in answers if answer.status_code == 200}


async def _redeem_at_once(cluster: RunningCluster, token: str) -> list[httpx2.Response]:
    """Every request has a connection already, and leaves when all have."""
    async with clients_of(cluster) as clients:
        places = [clients[number % len(clients)] for number in range(AT_ONCE)]
        await asyncio.gather(*(place.http.get("/livez") for place in places))
        return await asyncio.gather(*(place.refresh(token) for place in places))


# --- a session that ends meanwhile -------------------------------------------------------------------------


@dataclass
class Round:
    """One session, refreshed at every node while it is ended at one, and what was answered."""

    user: User
    token: str
    by: str
    late: bool
    """Whether the ending waits for the first answer of a refresh."""
    tokens: list[dict[str, Any]] = field(default_factory=list)
    survivors: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


@pytest.mark.parametrize("by", ["logout", "password change"])
def test_no_refresh_survives_the_end_of_its_session(scene, by):
    """I6, F29, R5: refreshed at three nodes while it is ended: no token of any answer is good afterwards.

    No refresh token redeems anything at any node once the ending was answered, no access token is accepted
    by a verifier that has read the feed up to then, and the event lasts for longer than any of them.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    rounds = []
    for number in range(ROUNDS):
        # A password is one user's, and ends all sessions of that user.
        user = scene.inside.add_user("racer")
        rounds.append(Round(user, scene.inside.new_session(user)[1], by, late=number % 2 == 0))
    with Verifier(scene.cluster.issuer, audience="orders") as verifier:
        until(verifier.start, "the verifier has keys and feed")
        asyncio.run(_race_all(scene, rounds, chance))
        _follow_to_the_end(scene, verifier)
        fates = Counter(fate_of(verifier, t["access_token"]) for round_ in rounds for t in round_.tokens)
    denied = scene.inside.denied_until()
    for tokens in (tokens for round_ in rounds for tokens in round_.tokens):
        assert denied[tokens["rid"]] >= log.denied_until(_exp(tokens), scene.inside.timing)
    statuses = sum((round_.statuses for round_ in rounds), Counter())
    print(f"{ROUNDS} rounds, answers of refreshes: {dict(statuses)}")
    assert set(fates) == {"revoked"}
    assert [survivor for round_ in rounds for survivor in round_.survivors] == []
    assert set(statuses) <= {200, 400, 503}
    # Were one of these 0, the endings would have raced nothing.
    assert statuses[200] > 0
    assert statuses[400] > 0


async def _race_all(scene: Scene, rounds: list[Round], chance: random.Random) -> None:
    few = asyncio.Semaphore(ROUNDS_AT_ONCE)
    async with clients_of(scene.cluster) as clients:

        async def one(round_: Round) -> None:
            async with few:
                await _race(scene, round_, chance.sample(clients, len(clients)), chance)

        await asyncio.gather(*map(one, rounds))


async def _race(scene: Scene, round_: Round, clients: list[Clients], chance: random.Random) -> None:
    answered = asyncio.Event()

    async def refresh(place: Clients) -> None:
        await asyncio.sleep(chance.uniform(0, JITTER))
        answer = await place.refresh(round_.token)
        answered.set()
        round_.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            round_.tokens.append(answer.json())

    async def end() -> None:
        if round_.late:
            await answered.wait()
        await asyncio.sleep(chance.uniform(0, JITTER))
        if round_.by == "logout":
            while (await clients[0].log_out(round_.token)).status_code == 503:
                pass  # as a client does that is told «later»
        else:
            await asyncio.to_thread(scene.inside.set_password, round_.user)

    await asyncio.gather(end(), *(refresh(clients[n % len(clients)]) for n in range(REFRESHES)))
    for token in {round_.token} | {tokens["refresh_token"] for tokens in round_.tokens}:
        while (answer := await chance.choice(clients).refresh(token)).status_code == 503:
            pass
        if answer.status_code != 400:
            round_.survivors.append(f"a refresh token was answered with {answer.status_code}")


def _exp(tokens: dict[str, Any]) -> NumericDate:
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    return NumericDate(claims["exp"])


def _follow_to_the_end(scene: Scene, verifier: Verifier) -> None:
    """Wait until ``verifier`` has read of a logout that came after all others: the log is read in order."""
    cluster = scene.cluster
    last = settled(lambda: cluster.log_in_with(cluster.http)).json()["access_token"]
    assert settled(lambda: cluster.log_out(last)).status_code == 204
    until(lambda: fate_of(verifier, last) == "revoked", "the verifier has read the log to its end")


# --- a node that leaves meanwhile --------------------------------------------------------------------------


def test_refreshes_of_a_node_that_is_told_to_leave_and_then_killed_are_whole(scene):
    """F44, I4, I7: what was answered is stored, and asked again at any other node gives the same."""
    leaving, *others = scene.cluster.nodes
    user = scene.inside.add_user("leaver")
    thefts = scene.thefts()
    asked: list[tuple[str, str | None]] = []
    over = threading.Event()
    lock = threading.Lock()

    def refresh_new_sessions() -> None:
        while not over.is_set():
            _, token = scene.inside.new_session(user)
            answer = None
            # A connection each, so that what is refused was not taken on.
            with contextlib.suppress(*OUTAGE), leaving.client() as http:
                answer = leaving.refresh_with(http, token)
            successor = answer.json()["refresh_token"] if answer is not None and answer.is_success else None
            with lock:
                asked.append((token, successor))

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(refresh_new_sessions) for _ in range(8)]
        until(lambda: len(asked) > 50, "requests are under way")
        assert leaving.process is not None
        leaving.process.send_signal(signal.SIGTERM)
        killed = time.monotonic() + 1
        until(lambda: time.monotonic() > killed, "a second went by")
        leaving.end()
        over.set()
        for run in running:
            run.result()
    print(
        json.dumps(
            {"answered": sum(s is not None for _, s in asked), "not": sum(s is None for _, s in asked)}
        )
    )
    for token, successor in asked:
        found = {_refreshed(other, token) for other in others}
        assert len(found) == 1
        assert successor is None or found == {successor}
    assert scene.thefts() == thefts
    leaving.http = leaving.client()
    leaving.start().until_ready(patience=PATIENCE)


def _refreshed(node: RunningNode, token: str) -> str:
    """The successor that ``node`` answers with."""
    answer = settled(lambda: node.refresh(token))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["refresh_token"])
