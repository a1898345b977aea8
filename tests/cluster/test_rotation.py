"""I1 on one node: keys rotate under load, and no valid token is refused."""

import time

import httpx2
import jwt
import pytest
from tests.cluster.load import Load
from tests.cluster.running import running_node, until

from mintmark import InvalidToken, Verifier


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rotations_under_load_refuse_no_valid_token(tmp_path):
    """KY3: rotations and a restart: the SDK accepts every token that was given out, each time it is asked."""
    with (
        running_node(tmp_path) as node,
        Verifier(node.issuer, audience="orders") as verifier,
        Load(node, sessions=2) as load,
    ):
        kids: set[str] = set()
        checks = 0
        restarted = False
        deadline = time.monotonic() + 120
        while len(kids) < 5 and time.monotonic() < deadline:
            seen = len(kids)
            if not restarted and seen == 3:
                node.stop()
                node.start().until_ready()
                restarted = True
            elif seen:
                node.run("keys", "rotate")

            def another_key(known: int = seen) -> bool:
                nonlocal checks
                with load.record.lock:
                    tokens = load.record.tokens[-200:]
                for token in tokens:
                    kids.add(jwt.get_unverified_header(token)["kid"])
                    try:
                        verifier.verify(token)
                    except InvalidToken as error:
                        load.record.wrong.append(f"refused: {error.code}")
                    checks += 1
                return len(kids) > known

            until(another_key, "another key signs")
    assert load.record.wrong == []
    assert len(kids) >= 5
    print(f"{len(kids)} keys, {checks} checks, {load.record.refreshed} refreshes, 0 refused")


def test_node_with_several_workers_is_one_node(tmp_path):
    """Whichever worker answers, keys, sessions and logouts are the same; a key signs once all serve it."""
    with (
        running_node(tmp_path, settings={"workers": 3}) as node,
        Verifier(node.issuer, audience="orders") as verifier,
        Load(node, sessions=3) as load,
    ):
        assert len(node.pids()["worker"]) == 3
        node.run("keys", "rotate")

        def signing_keys() -> set[str]:
            with load.record.lock:
                tokens = list(load.record.tokens)
            for token in tokens[-50:]:
                verifier.verify(token)
            return {jwt.get_unverified_header(token)["kid"] for token in tokens}

        until(lambda: len(signing_keys()) == 2, "the successor signs")
    assert load.record.wrong == []
    assert load.record.logged_out > 0


def test_key_set_follows_a_key_through_its_life(tmp_path):
    """KY4: a successor is in the set before it signs; the old key stays; a revoked key leaves at once."""
    with running_node(tmp_path) as node:
        (first,) = kids(node.http)
        node.run("keys", "rotate")
        until(lambda: len(kids(node.http)) == 2, "the successor is published")
        assert jwt.get_unverified_header(node.log_in()["access_token"])["kid"] == first
        (second,) = set(kids(node.http)) - {first}

        def signs() -> str:
            return str(jwt.get_unverified_header(node.log_in()["access_token"])["kid"])

        until(lambda: signs() == second, "the successor signs")
        assert first in kids(node.http)
        document = node.http.get(f"/keys/{first}.json")
        assert document.json()["state"] == "passive"

        before = node.log_in()
        node.run("keys", "revoke", second, "--reason", "drill")
        until(lambda: second not in kids(node.http), "the revoked key left the set")
        until(lambda: node.http.get(f"/keys/{second}.json").status_code == 404, "its document is gone")
        node.until_ready()
        # Sessions live on: their next refresh mints with another key.
        renewed = node.asked(lambda: node.refresh(before["refresh_token"]), 200)
        assert jwt.get_unverified_header(renewed.json()["access_token"])["kid"] not in {first, second}
        with Verifier(node.issuer, audience="orders") as verifier:
            verifier.verify(renewed.json()["access_token"])
            with pytest.raises(InvalidToken):
                verifier.verify(before["access_token"])


def kids(http: httpx2.Client) -> list[str]:
    """The key ids of the published set."""
    return [key["kid"] for key in http.get("/.well-known/jwks.json").json()["keys"]]
