"""I1 on three nodes: keys rotate, nodes restart and die, and no valid token is refused."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

import jwt
import pytest
from tests.cluster.cluster import PATIENCE, RunningCluster, running_cluster
from tests.cluster.load import Load
from tests.cluster.rotator import Rotator
from tests.cluster.running import until

from mintmark import InvalidToken, Verifier, VerifierUnavailable

ACTIVATIONS = {"postgresql": 20, "sqlite": 12}
"""By store: the rules are the same, and each takes a minute for every four."""
SETTINGS = {
    # PyJWKClient looks for an unknown key at most every 30 s.
    "verifier_cache": "30s",
    "jwks_max_age": "1s",
    "propagation": "2s",
    "clock_skew": "1s",
    "lease": "15s",
    "access_ttl": "60s",
    "rotate_every": "100s",
    # Keys stay public for six minutes after their last signature, so all of them are at the end.
    "jwks_limit": 60,
}
FRESH = 3.0
"""Seconds for which a token is checked in every pass; later in every fifth one."""


Check = Callable[[str], object]
"""Raises what says that a token is refused, or that nothing can be said."""


class FetchFailed(Exception):
    """The verifier could not ask: nobody said anything about the token."""


class PyJwt:
    """A service with PyJWT, as its documentation has it: one PyJWKClient for as long as it runs."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self._keys = jwt.PyJWKClient(f"{issuer}/.well-known/jwks.json")

    def __call__(self, token: str) -> object:
        try:
            key = self._keys.get_signing_key_from_jwt(token)
        except (jwt.PyJWKClientConnectionError, OSError) as error:
            raise FetchFailed(str(error)) from error
        return jwt.decode(token, key, algorithms=["RS256"], audience="orders", issuer=self._issuer)


class Checker:
    """Shows every token of a load to every verifier, at once and again and again while it is valid."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._verifiers: dict[str, Check] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._check_forever)
        self._seen: dict[str, tuple[int, float]] = {}
        self.checks: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.kids: set[str] = set()
        self.refused: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def add(self, name: str, verifier: Check) -> None:
        """One more verifier, from the next pass on."""
        self._verifiers = {**self._verifiers, name: verifier}

    def _check_forever(self) -> None:
        number = 0
        while not self._stop.wait(0.5):
            self._take_new()
            since = 0.0 if number % 5 == 0 else time.monotonic() - FRESH
            for token, (exp, seen_at) in tuple(self._seen.items()):
                if seen_at >= since:
                    for name, verify in self._verifiers.items():
                        self._check(name, verify, token, exp)
            number += 1

    def _take_new(self) -> None:
        record = self._load.record
        with record.lock:
            tokens, record.tokens = record.tokens, []
        now = time.time()
        self._seen = {token: about for token, about in self._seen.items() if about[0] > now}
        for token in tokens:
            self.kids.add(jwt.get_unverified_header(token)["kid"])
            claims = jwt.decode(token, options={"verify_signature": False})
            self._seen[token] = (claims["exp"], time.monotonic())

    def _check(self, name: str, verify: Check, token: str, exp: int) -> None:
        try:
            verify(token)
        except FetchFailed:
            self.failed[name] += 1
            return
        except (InvalidToken, VerifierUnavailable, jwt.PyJWTError) as error:
            # A token that has expired meanwhile is rightly refused.
            if time.time() < exp:
                kid = jwt.get_unverified_header(token)["kid"]
                said = getattr(error, "code", error)
                self.refused.append(f"{name} refused a token of {kid}: {type(error).__name__} {said}")
                return
        self.checks[name] += 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_rotations_of_three_nodes_under_load_refuse_no_valid_token(tmp_path, store_url):
    """KY3: many activations, a rolling restart and a SIGKILL: every verifier accepts every valid token."""
    wanted = ACTIVATIONS["postgresql" if store_url else "sqlite"]
    with (
        running_cluster(tmp_path, store=store_url, settings=SETTINGS) as cluster,
        Verifier(cluster.issuer, audience="orders") as first,
        Verifier(cluster.issuer, audience="orders") as second,
        contextlib.ExitStack() as later,
        Load(cluster, sessions=3, pause=0.4) as load,
        Checker(load) as checker,
        Rotator(cluster),
    ):
        until(lambda: first.ready() and second.ready(), "the verifiers have keys and revocations")
        checker.add("SDK 1", first.verify)
        checker.add("SDK 2", second.verify)
        checker.add("PyJWKClient 1", PyJwt(cluster.issuer))
        checker.add("PyJWKClient 2", PyJwt(cluster.issuer))

        _until_activated(cluster, 6)
        checker.add("PyJWKClient 3, later", PyJwt(cluster.issuer))
        cluster.rolling_restart()
        third = later.enter_context(Verifier(cluster.issuer, audience="orders"))
        until(third.ready, "one more verifier has keys and revocations")
        checker.add("SDK 3, later", third.verify)
        checker.add("PyJWKClient 4, later", PyJwt(cluster.issuer))
        cluster.kill(1)
        went_on = load.record.refreshed
        until(lambda: load.record.refreshed > went_on + 20, "clients go on without the killed node")
        cluster.nodes[1].start().until_ready(patience=PATIENCE)
        _until_activated(cluster, wanted)
        _until_used(cluster, checker)
        activated = cluster.events("key.activated")
        sets = [node.http.get("/.well-known/jwks.json").json() for node in cluster.nodes]

    print(f"{len(activated)} activations ({Counter(event['cause'] for event in activated)})")
    print(f"{sum(checker.checks.values())} checks: {dict(checker.checks)}; failed fetches: {checker.failed}")
    print(f"{load.record.refreshed} refreshes, {load.record.outages} outages, {len(sets[0]['keys'])} keys")
    assert checker.refused == []
    assert load.record.wrong == []
    assert [event["cause"] for event in activated].count("bootstrap") == 1
    assert {event["cause"] for event in activated} == {"bootstrap", "proven"}


def _until_activated(cluster: RunningCluster, count: int) -> None:
    def activated() -> list[dict[str, Any]]:
        found = cluster.events("key.activated")
        return found if len(found) >= count else []

    until(activated, f"{count} keys were activated", patience=600, log=cluster.tail)


def _until_used(cluster: RunningCluster, checker: Checker) -> None:
    """Wait until every node has signed something with the key that it activated last."""

    def used() -> bool:
        newest = {str(node.events("key.activated")[-1]["kid"]) for node in cluster.nodes}
        return newest <= checker.kids

    until(used, "each node's newest key has signed for a client", patience=PATIENCE)
