"""A relying party of real nodes is told of a logout although the node that had it was killed (RV5, F02)."""

import pytest
from tests.cluster.cluster import PATIENCE, running_cluster
from tests.cluster.running import PASSWORD, until
from tests.server.relying import Party, read_logout_token

from mintmark.testing.origin import Fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = {
    "algorithm": "ES256",
    # However slow the machine is, nobody's lease ends while it stands still.
    "lease": "2m",
    "feed_bound": "3m",
    "rotate_every": "30m",
}


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_logout_at_a_node_that_is_killed_at_once_is_told_by_another(tmp_path, store_url):
    """RV5: the node that ended the session dies while the relying party keeps it waiting; the other node
    tells it once the claim has ended, in a token that PyJWT takes with the keys that it serves."""
    party = Party("told")
    try:
        with running_cluster(tmp_path, store=store_url, nodes=2, settings=SETTINGS) as cluster:
            first, second = cluster.nodes
            first.add(
                "clients", "add", "Told", "--client-id", "told", "--public", "--first-party",
                "--audience", "orders", "--backchannel-logout-uri", party.uri,
            )  # fmt: skip
            body = {"username": "ada", "password": PASSWORD, "client_id": "told"}
            tokens = first.asked(lambda: first.http.post("/v1/sessions", json=body), 201).json()
            party.site.fail(Fault.HOLD)
            cluster.pause(1)
            first.asked(lambda: first.log_out(tokens["access_token"]), 204)
            until(lambda: party.site.count("logout"), "the first node tells", log=cluster.tail)
            cluster.kill(0)
            party.site.recover()
            heard = len(party.taken)
            cluster.resume(1)
            until(
                lambda: second.events("logout_notice.delivered"),
                "the second node tells", patience=PATIENCE, log=cluster.tail,
            )  # fmt: skip
            assert len(party.taken) > heard
            claims = read_logout_token(
                party.taken[-1],
                second.asked(lambda: second.http.get("/.well-known/jwks.json"), 200).json(),
                issuer=cluster.issuer,
                client_id="told",
            )
            assert claims["sid"] == tokens["rid"]
            assert not first.events("logout_notice.delivered")
            logged = "".join(node.log.read_text(errors="replace") for node in cluster.nodes)
            assert "s3cret" not in logged
            assert "t0ken" not in logged
            assert not any(token in logged for token in party.posted)
    finally:
        party.site.close()
