"""A key signs only once every public URL shows it, however long a cache keeps an older set (I2, F09, F11)."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import jwt
import pytest
from tests.cluster.cluster import PATIENCE
from tests.cluster.edge import Edge, running_edge
from tests.cluster.inside import Inside, opened
from tests.cluster.running import RunningNode
from tests.cluster.running import until as until_within
from tests.cluster.witness import Witness, add_robot

from mintmark.cli.demonstration.loopback import free_ports
from mintmark.core.key import Key, KeyState
from mintmark.core.minting import BACKDATED

until = partial(until_within, patience=PATIENCE)

SETTINGS = {
    "verifier_cache": "2s",
    "jwks_max_age": "1s",
    "propagation": "3s",
    "clock_skew": "1s",
    "lease": "5s",
    "access_ttl": "10s",
    # A successor is prepared about eight seconds before this has passed.
    "rotate_every": "20s",
}
CACHE = 2.0
LEAD = 7
TTL = 10


class Site:
    """A node whose issuer is the URL of a cache, and a second cache that it must be read back through too."""

    def __init__(self, node: RunningNode, inside: Inside, issuer: Edge, other: Edge) -> None:
        self.node = node
        self.inside = inside
        self.edges = {"issuer": issuer, "other": other}

    def keys(self, state: KeyState) -> list[Key]:
        return [key for key in self.inside.ring().ring.keys if key.state is state]

    def events(self, name: str) -> list[dict[str, Any]]:
        return self.node.events(name)

    def until_later(self, seconds: float) -> None:
        """Wait until the store's time has gone on by so much."""
        then = self.inside.ring().now + seconds
        until(lambda: self.inside.ring().now > then, "time goes on")


@pytest.fixture
def site(tmp_path) -> Iterator[Site]:
    (port,) = free_ports(1)
    with ExitStack() as stack:
        issuer, other = (stack.enter_context(running_edge(port)) for _ in range(2))
        settings = {**SETTINGS, "issuer": issuer.url, "proof_urls": [issuer.url, other.url]}
        node = RunningNode(tmp_path, settings, port=port)
        stack.callback(node.end)
        yield Site(node, stack.enter_context(opened(node.config)), issuer, other)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("where", "fault"), [("issuer", "stale"), ("other", "down")])
def test_no_key_signs_while_a_public_url_does_not_show_it(site, where, fault):
    """F11, F09, I1, I2: the key before it signs on, with tokens of the full lifetime and two alarms; once the
    URL shows the new one, that waits for its lead. Who verifies behind the cache never refuses a token."""
    node, edge = site.node, site.edges[where]
    secret = add_robot(node)
    node.start().until_ready(patience=PATIENCE)
    with Witness(node, site.edges["issuer"].url, secret, cache=CACHE) as witness:
        first = witness.until_accepted()
        if fault == "stale":
            edge.frozen = True
        else:
            edge.down = True

        until(lambda: site.keys(KeyState.PREPARED), "a successor is prepared", log=node.tail)
        alarm = until(lambda: site.events("proof.failed"), "it is missed", log=node.tail)[-1]
        assert edge.url in alarm["reason"]
        overdue = until(lambda: site.events("rotation.overdue"), "it is late", log=node.tail)[0]
        assert overdue["kid"] == first
        # Long after it would have signed.
        site.until_later(LEAD + 3)
        (waiting,) = site.keys(KeyState.PREPARED)
        assert waiting.proven_at is None
        assert len(site.events("key.activated")) == 1
        assert witness.until_accepted() == first
        assert lifetime(mint(site, secret)) >= TTL * 95 // 100

        shown_at = int(time.time())
        edge.frozen = edge.down = False
        second = witness.until_accepted(other_than=frozenset({first}))
        assert second == waiting.kid
        signing = site.inside.key(second)
        assert signing is not None
        assert signing.proven_at is not None
        assert signing.activated_at is not None
        assert shown_at <= signing.proven_at <= signing.activated_at - LEAD
        witness.until_checked()
    # On a slow machine the next one may have followed by now.
    cause, *others = (event["cause"] for event in site.events("key.activated"))
    assert (cause, set(others)) == ("bootstrap", {"proven"})
    witness.check(frozenset({first}))
    print(f"{fault}: {witness.said()}; the cache served {edge.served} copies")


def mint(site: Site, secret: str) -> str:
    form = {"grant_type": "client_credentials"}
    answer = site.node.asked(lambda: site.node.http.post("/token", data=form, auth=("robot", secret)), 200)
    return str(answer.json()["access_token"])


def lifetime(token: str) -> int:
    """Seconds from now to ``exp``."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return int(claims["exp"] - claims["iat"] - BACKDATED)
