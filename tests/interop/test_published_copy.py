"""A copy of the public documents that a CDN could serve: every verifier needs nothing else to go on."""

import contextlib

import pytest
from tests.cluster.cluster import CLUSTER, PATIENCE
from tests.cluster.running import RunningNode, until
from tests.cluster.web import web_server
from tests.interop.registry import REGISTRY
from tests.interop.tokens import tampered
from tests.interop.verifier import Guarding, Verdict
from tests.interop.watching import Token

import mintmark

JWKS = ".well-known/jwks.json"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_copy_alone_serves_every_verifier_with_every_node_down(tmp_path):
    """3.7: with all nodes killed, verifiers that start afterwards accept the tokens of every node from the
    published folder alone, behind a plain web server, and refuse what was changed."""
    www = tmp_path / "www"
    www.mkdir()
    with web_server(www) as issuer, contextlib.ExitStack() as running:
        settings = {
            **CLUSTER,
            "issuer": issuer,
            "store": f"sqlite:///{tmp_path}/mintmark.db",
            "publish": [f"file://{www}"],
            # Longer than the test, however slow: nobody can ask for another one.
            "access_ttl": "5m",
            "rotate_every": "10m",
        }
        nodes = []
        for number in range(2):
            folder = tmp_path / f"node-{number}"
            folder.mkdir()
            nodes.append(RunningNode(folder, settings))
            running.callback(nodes[-1].end)
        nodes[0].add_user_and_client()
        tokens: list[str] = []
        for node in nodes:
            node.start().until_ready(patience=PATIENCE)
            tokens.append(_token_of_another_key(node, {Token.of(token).kid for token in tokens}))

        def copied() -> bool:
            copy = www / JWKS
            return copy.exists() and all(node.http.get(JWKS).content == copy.read_bytes() for node in nodes)

        until(copied, "the copy is what the nodes serve", log=nodes[1].tail)
        for node in nodes:
            node.kill()

        for entry in REGISTRY:
            with entry.start(Guarding(issuer=issuer, cache=60), tmp_path) as verify:
                said = {entry.name: [verify(token).verdict for token in (*tokens, tampered(tokens[0]))]}
            assert said[entry.name] == [Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.REFUSED], said
        with mintmark.Verifier(issuer, audience="orders", on_stale="allow") as verifier:
            for token in tokens:
                assert verifier.verify(token).claims["iss"] == issuer
            with pytest.raises(mintmark.InvalidToken):
                verifier.verify(tampered(tokens[0]))


def _token_of_another_key(node: RunningNode, known: set[str]) -> str:
    """An access token that was signed with none of ``known``: a node may begin with the key of a peer."""
    found: list[str] = []

    def another() -> bool:
        found.append(node.log_in()["access_token"])
        return Token.of(found[-1]).kid not in known

    until(another, "the node signs with a key of its own", patience=PATIENCE, log=node.tail)
    return found[-1]
