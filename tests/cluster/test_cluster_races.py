"""Refresh tokens that are redeemed at several nodes at once, answers that are lost, tokens that are replayed,
and sessions that end meanwhile (F19, F26-F29, F44).

Whoever wins is decided by the store in one statement, so it does not matter which node asked. Outcomes are
counted and printed; ``scripts/soak tests/cluster/test_cluster_races.py`` runs every round that they are meant
for, and any other run a sample.
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
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
import jwt
import pytest
from hypothesis import settings as profile
from sqlalchemy import make_url
from tests.cluster.cluster import PATIENCE, RunningCluster, running_cluster
from tests.cluster.inside import Inside, fate_of, opened, settled
from tests.cluster.load import OUTAGE
from tests.cluster.running import RunningNode, until

from mintmark import Verifier
from mintmark.cli.demonstration.front import Backend, Fault, Front, running_front
from mintmark.core import log, sessions
from mintmark.core.directory import User
from mintmark.core.sessions import Redeem
from mintmark.units import ClientId, NumericDate, Rid

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7_200 if profile().max_examples > 100 else 600)]

# Tokens outlive the test, so that what a verifier refuses was denied; and so does the grace in which a
# redemption is repeated, and a lease, since a busy machine may take a while for all that is asked here.
SETTINGS = {"access_ttl": "300s", "rotate_every": "4h", "refresh_grace": "120s", "lease": "15s"}
AT_ONCE = 100
SOAK: Final = profile().max_examples > 100
HUNDREDS = 10 if SOAK else 2
"""How often a hundred redeem one token."""
PAIRS = 1_000 if SOAK else 40
"""Pairs of tabs that refresh up to 50 ms apart."""
ROUNDS = 200 if SOAK else 30
"""Of each kind of ending."""
LOST = 50 if SOAK else 5
"""Answers that are lost, in each way."""
REPLAYS = 25 if SOAK else 4
"""Of each kind of replay."""
ROUNDS_AT_ONCE = 10
REFRESHES = 4
JITTER = 0.005
APART = 0.05


@dataclass
class Scene:
    """A cluster and its store."""

    cluster: RunningCluster
    inside: Inside
    way_to_store: Front | None
    """The line between the nodes and their database, where there is one."""

    def thefts(self) -> int:
        """How many sessions were ended as stolen so far."""
        return len(self.cluster.events("session.stolen"))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def scene(request, tmp_path_factory) -> Iterator[Scene]:
    """One cluster for the tests of this module on one store."""
    with contextlib.ExitStack() as ending:
        url, way = None, None
        if request.param == "postgresql":
            server = request.getfixturevalue("postgresql")
            name = f"races_{os.getpid()}"
            url = server.create_database(name)
            ending.callback(server.drop_database, name)
            way = ending.enter_context(running_front([Backend("127.0.0.1", server.port)], ready_path=None))
            url = make_url(url).set(port=way.port).render_as_string(hide_password=False)
        folder = tmp_path_factory.mktemp("cluster")
        cluster = ending.enter_context(running_cluster(folder, store=url, settings=SETTINGS))
        yield Scene(cluster, ending.enter_context(opened(cluster.nodes[0].config)), way)


class Clients:
    """Clients of one node in this event loop."""

    def __init__(self, node: RunningNode) -> None:
        limits = httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
        self.http = httpx2.AsyncClient(base_url=node.url, timeout=60, trust_env=False, limits=limits)

    async def refresh(self, token: str, client_id: str = "shop") -> httpx2.Response:
        body = {"refresh_token": token, "client_id": client_id}
        return await self.http.post("/v1/sessions/refresh", json=body)

    async def refreshed(self, token: str, client_id: str = "shop") -> httpx2.Response:
        """The answer that is not «later», as a client asks that is told so."""
        while (answer := await self.refresh(token, client_id)).status_code == 503:
            pass
        return answer

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


@pytest.mark.hypothesis
def test_of_a_hundred_redemptions_at_three_nodes_one_makes_a_successor(scene):
    """I4, F26, F27: all that are answered get one refresh token, and nobody is taken for a thief."""
    user = scene.inside.add_user("hundred")
    thefts = scene.thefts()
    for _ in range(HUNDREDS):
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


@pytest.mark.hypothesis
def test_two_tabs_up_to_fifty_milliseconds_apart_keep_their_session(scene):
    """F26, R2: whichever is first, at whichever nodes: both get one successor, and both go on with it."""
    chance = seeded()
    user, thefts = scene.inside.add_user("tabs"), scene.thefts()
    pairs = scene.inside.new_sessions(user, count=PAIRS)
    outcomes: Counter[str] = Counter()

    async def tab(at: Clients, token: str) -> str:
        await asyncio.sleep(chance.uniform(0, APART))
        answer = await at.refreshed(token)
        outcomes[f"{answer.status_code}"] += 1
        return str(answer.json().get("refresh_token"))

    async def pair(clients: list[Clients], token: str) -> None:
        for _ in range(2):
            made = {*await asyncio.gather(*(tab(at, token) for at in chance.sample(clients, 2)))}
            outcomes[f"{len(made)} successor"] += 1
            token = made.pop()

    async def run() -> None:
        async with clients_of(scene.cluster) as clients:
            await at_most(ROUNDS_AT_ONCE, (pair(clients, token) for _, [token] in pairs))

    asyncio.run(run())
    print(f"{PAIRS} pairs, each twice: {dict(outcomes)}")
    assert outcomes == {"200": 4 * PAIRS, "1 successor": 2 * PAIRS}
    for rid, _ in pairs:
        row = scene.inside.session(rid)
        assert (row.generation, row.ended_at) == (1, None)
    assert scene.thefts() == thefts


def seeded() -> random.Random:
    """Chance that can be had again."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


async def at_most(count: int, work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All of ``work``, so many at once."""
    few = asyncio.Semaphore(count)

    async def one(each: Coroutine[Any, Any, None]) -> None:
        async with few:
            await each

    await asyncio.gather(*map(one, work))


# --- an answer that is lost ----------------------------------------------------------------------------


@pytest.mark.hypothesis
def test_answers_that_vanish_on_their_way_to_clients_log_nobody_out(scene):
    """R2 ii, F19: requests arrive, what they are answered does not; asked again, all go on with the successor
    that the store has had since the first time."""
    thefts, front = scene.thefts(), scene.cluster.front
    begun = scene.inside.new_sessions(scene.inside.add_user("vanished"), count=LOST)
    front.set(Fault.HALF_OPEN)
    try:
        left = dict(begun)

        def all_are_committed() -> bool:
            asyncio.run(_ask_in_vain(scene.cluster.url, [token for [token] in left.values()]))
            for rid in [rid for rid in left if scene.inside.session(rid).generation]:
                del left[rid]
            return not left

        until(all_are_committed, "every refresh is committed", patience=PATIENCE)
    finally:
        front.set(Fault.PASS)
    check_goes_on(scene, begun)
    assert scene.thefts() == thefts


async def _ask_in_vain(url: str, tokens: list[str]) -> None:
    """Refresh each token once through a line on which no answer comes back."""
    async with httpx2.AsyncClient(base_url=url, timeout=2, trust_env=False) as http:
        asked = [
            http.post("/v1/sessions/refresh", json={"refresh_token": token, "client_id": "shop"})
            for token in tokens
        ]
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(answer, OUTAGE), answer


@pytest.mark.hypothesis
def test_connections_that_are_cut_after_the_request_log_nobody_out(scene):
    """R2 ii, F19: a client is reset as soon as its request was passed on, and the node goes on with it."""
    thefts, front = scene.thefts(), scene.cluster.front
    begun = scene.inside.new_sessions(scene.inside.add_user("cut"), count=LOST)
    outcomes: Counter[str] = Counter()
    for rid, [token] in begun:
        front.reset_after(None, token.encode())
        with scene.cluster.client() as http:
            try:
                outcomes[f"{scene.cluster.refresh_with(http, token).status_code}"] += 1
            except OUTAGE:
                outcomes["no answer"] += 1

        def committed(rid: Rid = rid, token: str = token) -> bool:
            # A busy node may answer «later» to nobody.
            return scene.inside.session(rid).generation == 1 or _refreshed_quietly(scene.cluster, token)

        until(committed, "the refresh is committed")
    print(f"{LOST} requests: {dict(outcomes)}")
    assert outcomes == {"no answer": LOST}
    check_goes_on(scene, begun)
    assert scene.thefts() == thefts


@pytest.mark.hypothesis
def test_commits_whose_answer_no_node_hears_log_nobody_out(scene):
    """R2 ii, F19: the line to the database is cut once the statement that commits was sent: its client hears
    503, asks again at another node, and gets the successor that was committed."""
    if scene.way_to_store is None:
        return  # an SQLite file has no line to cut
    thefts = scene.thefts()
    begun = scene.inside.new_sessions(scene.inside.add_user("commit"), count=LOST)
    outcomes: Counter[int] = Counter()
    for number, (rid, [text]) in enumerate(begun):
        row, token = scene.inside.session(rid), sessions.parse(text)
        assert token is not None
        verdict = sessions.decide(row, token, row.client_id, timing=scene.inside.timing, now=row.created_at)
        assert isinstance(verdict, Redeem)
        # What only the statement holds that takes this redemption: reads of the row have its ``rid`` as well.
        scene.way_to_store.reset_after(None, verdict.after.sealed)
        node = scene.cluster.nodes[number % 3]

        def committed(rid: Rid = rid, text: str = text, node: RunningNode = node) -> bool:
            # A busy node may answer «later» before it has asked the database for anything.
            outcomes[node.refresh(text).status_code] += 1
            return bool(scene.inside.session(rid).generation == 1)

        until(committed, "the refresh is committed")
        assert _refreshed(scene.cluster.nodes[(number + 1) % 3], text) == verdict.token.text()
    print(f"{LOST} commits: {dict(outcomes)}")
    assert set(outcomes) <= {200, 503}
    assert outcomes[503] >= LOST
    check_goes_on(scene, begun)
    assert scene.thefts() == thefts


def check_goes_on(scene: Scene, begun: list[tuple[Rid, list[str]]]) -> None:
    """Each client that asks again gets one token, from every node, and goes on with it."""
    for number, (rid, [token]) in enumerate(begun):
        nodes = [scene.cluster.nodes[(number + turn) % 3] for turn in range(2)]
        found = {_refreshed(node, token) for node in nodes}
        assert len(found) == 1
        assert {_refreshed(node, *found) for node in nodes} == found
        row = scene.inside.session(rid)
        assert (row.generation, row.ended_at) == (1, None)


def _refreshed_quietly(cluster: RunningCluster, token: str) -> bool:
    with contextlib.suppress(*OUTAGE), cluster.client() as http:
        return cluster.refresh_with(http, token).status_code == 200
    return False


# --- a token that is replayed --------------------------------------------------------------------------


@pytest.mark.hypothesis
def test_replayed_tokens_end_their_sessions_and_no_others(scene):
    """I5, F28: a thief before the victim, after him, in the same second, and three generations late, each at
    another node: every such session is over everywhere, once, and the sessions beside them live."""
    chance, thefts = seeded(), scene.thefts()
    user = scene.inside.add_user("victim")
    beside = scene.inside.new_sessions(user, count=REPLAYS)
    outcomes: Counter[str] = Counter()
    stolen: list[tuple[Rid, str]] = []

    def refresh(node: RunningNode, token: str) -> str:
        return _refreshed(node, token)

    for kind in ("before", "after", "same second", "three generations"):
        for rid, tokens in scene.inside.new_sessions(user, count=REPLAYS, rotations=3):
            victim, thief, third = chance.sample(scene.cluster.nodes, 3)
            newest = tokens[-1]
            match kind:
                case "before":
                    replayed = refresh(thief, newest)
                    scene.inside.pass_grace(rid)
                    newest = refresh(victim, newest)
                case "after":
                    replayed, newest = tokens[-2], refresh(victim, newest)
                case "same second":
                    replayed, newest = _at_once(victim, thief, newest)
                    assert replayed == newest
                    for node in (victim, third):
                        scene.inside.pass_grace(rid)
                        newest = refresh(node, newest)
                case _:
                    replayed = tokens[0]
            answer = settled(lambda: thief.refresh(replayed))  # noqa: B023
            outcomes[f"{kind}: {answer.status_code} {answer.json()['code']}"] += 1
            stolen.append((rid, newest))
            for token in (newest, replayed):
                for node in (victim, third):
                    assert settled(lambda: node.refresh(token)).status_code == 400  # noqa: B023
    print(dict(outcomes))
    assert set(outcomes.values()) == {REPLAYS}
    assert all(outcome.endswith(": 400 invalid_grant") for outcome in outcomes)
    _check_ended_once(scene, [rid for rid, _ in stolen], thefts)
    for _, [token] in beside:
        _refreshed(chance.choice(scene.cluster.nodes), token)


def _at_once(one: RunningNode, other: RunningNode, token: str) -> tuple[str, str]:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda node: _refreshed(node, token), (one, other))
    return first, second


def _check_ended_once(scene: Scene, rids: list[Rid], thefts: int) -> None:
    """Each of them ended as stolen, was told of once, and nothing else was."""
    until(lambda: scene.thefts() >= thefts + len(rids), "every theft is told")
    told = Counter(event["rid"] for event in scene.cluster.events("session.stolen"))
    assert [told[rid] for rid in rids] == [1] * len(rids)
    assert scene.thefts() == thefts + len(rids)
    denied = scene.inside.denied_until()
    assert {rid for rid in rids if scene.inside.session(rid).end_cause != "theft"} == set()
    assert {rid for rid in rids if rid not in denied} == set()


@pytest.mark.hypothesis
def test_restart_of_all_nodes_makes_no_spent_token_good(scene):
    """I5, F28: every process is killed and started again: tokens three generations old end their sessions,
    answers that were not heard before are given again.

    In a sample it is done on one store; that the others keep what was spent is shown within one process.
    """
    if scene.way_to_store is not None and not SOAK:
        return
    thefts = scene.thefts()
    user = scene.inside.add_user("restart")
    replayed = scene.inside.new_sessions(user, count=REPLAYS, rotations=3)
    lost = scene.inside.new_sessions(user, count=REPLAYS)
    before = [_refreshed(scene.cluster.nodes[n % 3], token) for n, (_, [token]) in enumerate(lost)]
    scene.cluster.cut_power()
    scene.cluster.start().until_ready()
    nodes = scene.cluster.nodes
    after = [_refreshed(nodes[(n + 1) % 3], token) for n, (_, [token]) in enumerate(lost)]
    assert after == before
    outcomes: Counter[int] = Counter()
    for number, (_, tokens) in enumerate(replayed):
        for turn, token in enumerate((tokens[0], tokens[-1])):
            node = nodes[(number + turn) % 3]
            outcomes[settled(lambda: node.refresh(token)).status_code] += 1  # noqa: B023
    print(f"{REPLAYS} sessions after a restart of all nodes: {dict(outcomes)}")
    assert outcomes == {400: 2 * REPLAYS}
    _check_ended_once(scene, [rid for rid, _ in replayed], thefts)


# --- a session that ends meanwhile -------------------------------------------------------------------------


@dataclass
class Round:
    """One session, refreshed at every node while it is ended at one, and what was answered."""

    user: User
    client_id: ClientId
    token: str
    by: str
    late: bool
    """Whether the ending waits for the first answer of a refresh."""
    tokens: list[dict[str, Any]] = field(default_factory=list)
    survivors: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


@pytest.mark.hypothesis
@pytest.mark.parametrize("by", ["logout", "password change", "disabling", "removal of the client"])
def test_no_refresh_survives_the_end_of_its_session(scene, by):
    """I6, F29, R5: refreshed at three nodes while it is ended: no token of any answer is good afterwards.

    No refresh token redeems anything at any node once the ending was answered, no access token is accepted
    by a verifier that has read the feed up to then, and the event lasts for longer than any of them.
    """
    chance = seeded()
    rounds = []
    for number in range(ROUNDS):
        # A password is one user's, and ends all sessions of that user.
        user = scene.inside.add_user("racer")
        client_id = ClientId("shop") if by != "removal of the client" else scene.inside.add_client("racer")
        _, token = scene.inside.new_session(user, client_id=client_id)
        rounds.append(Round(user, client_id, token, by, late=number % 2 == 0))
    with Verifier(scene.cluster.issuer, audience="orders") as verifier:
        until(verifier.start, "the verifier has keys and feed")
        asyncio.run(_race_all(scene, rounds, chance))
        _follow_to_the_end(scene, verifier)
        fates = Counter(fate_of(verifier, t["access_token"]) for round_ in rounds for t in round_.tokens)
    denied = scene.inside.denied_until()
    for round_ in rounds:
        for tokens in round_.tokens:
            until_when = denied.get(tokens["rid"]) or denied[round_.client_id]
            assert until_when >= log.denied_until(_exp(tokens), scene.inside.timing)
    statuses = sum((round_.statuses for round_ in rounds), Counter())
    print(f"{ROUNDS} rounds, answers of refreshes: {dict(statuses)}")
    assert set(fates) == {"revoked"}
    assert [survivor for round_ in rounds for survivor in round_.survivors] == []
    assert set(statuses) <= {200, 400, 401, 503}
    # Were one of these 0, the endings would have raced nothing.
    assert statuses[200] > 0
    assert statuses[400] + statuses[401] > 0


async def _race_all(scene: Scene, rounds: list[Round], chance: random.Random) -> None:
    async with clients_of(scene.cluster) as clients:
        racing = (_race(scene, round_, chance.sample(clients, len(clients)), chance) for round_ in rounds)
        await at_most(ROUNDS_AT_ONCE, racing)


async def _race(scene: Scene, round_: Round, clients: list[Clients], chance: random.Random) -> None:
    answered = asyncio.Event()

    async def refresh(place: Clients) -> None:
        await asyncio.sleep(chance.uniform(0, JITTER))
        answer = await place.refresh(round_.token, round_.client_id)
        answered.set()
        round_.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            round_.tokens.append(answer.json())

    async def end() -> None:
        if round_.late:
            await answered.wait()
        await asyncio.sleep(chance.uniform(0, JITTER))
        match round_.by:
            case "logout":
                while (await clients[0].log_out(round_.token)).status_code == 503:
                    pass  # as a client does that is told «later»
            case "disabling":
                await asyncio.to_thread(scene.inside.disable, round_.user)
            case "removal of the client":
                await asyncio.to_thread(scene.inside.remove_client, round_.client_id)
            case _:
                await asyncio.to_thread(scene.inside.set_password, round_.user)

    await asyncio.gather(end(), *(refresh(clients[n % len(clients)]) for n in range(REFRESHES)))
    for token in {round_.token} | {tokens["refresh_token"] for tokens in round_.tokens}:
        answer = await chance.choice(clients).refreshed(token, round_.client_id)
        if answer.status_code not in (400, 401):
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
