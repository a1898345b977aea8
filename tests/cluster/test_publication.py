"""Published copies: verification without any node, rotation that waits for them, outages of a bucket."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from tests.cluster.running import RunningNode, running_node, until
from tests.cluster.web import web_server
from tests.s3 import BUCKET, S3Server, environ

from mintmark import InvalidToken, Verifier
from mintmark.adapters.s3 import from_url
from mintmark.cli.demonstration.front import Backend, Fault, running_front
from mintmark.ports.proof import kids_of
from mintmark.ports.publisher import Found
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

JWKS = ".well-known/jwks.json"


def accepts(issuer: str, token: str) -> None:
    """A new verifier of ours and PyJWT's client, which have seen nothing before, accept the token."""
    with Verifier(issuer, audience="orders", on_stale="allow") as verifier:
        assert verifier.verify(token).claims["iss"] == issuer
    key = jwt.PyJWKClient(f"{issuer}/{JWKS}").get_signing_key_from_jwt(token)
    assert jwt.decode(token, key.key, algorithms=["RS256"], audience="orders", issuer=issuer)["rid"]


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def ends(issuer: str, kid: str) -> int:
    """Until when a key is published, as its own document says; 0 while nothing was signed."""
    return int(httpx2.get(f"{issuer}/keys/{kid}.json").json().get("exp", 0))


def claims(token: str) -> dict[str, Any]:
    return dict(jwt.decode(token, options={"verify_signature": False}))


def token_of_another_key(node: RunningNode, kid: str) -> str:
    """An access token that was signed with another key than ``kid``: workers notice a new one in a moment."""
    tokens: list[str] = []

    def another() -> bool:
        tokens.append(node.log_in()["access_token"])
        return kid_of(tokens[-1]) != kid

    until(another, "another key signs", log=node.tail)
    return tokens[-1]


def is_copied(www: Path, node: RunningNode) -> bool:
    served = node.http.get(f"/{JWKS}").content
    return (www / JWKS).exists() and (www / JWKS).read_bytes() == served


def activated(node: RunningNode) -> list[dict[str, Any]]:
    return node.events("key.activated")


def test_copy_in_a_folder_verifies_with_every_node_dead(tmp_path):
    """3.7: a web server on the published folder alone is an issuer that verifiers follow: tokens from before
    the last node died are accepted by verifiers that start afterwards, and those of others are refused."""
    www = tmp_path / "www"
    www.mkdir()
    with web_server(www) as issuer:
        settings = {"issuer": issuer, "publish": [f"file://{www}"]}
        with running_node(tmp_path, settings=settings) as node:
            first = node.log_in()["access_token"]
            until(lambda: is_copied(www, node), "the copy is what the node serves", log=node.tail)
            node.run("keys", "rotate")
            until(lambda: len(activated(node)) == 2, "the next key signs", log=node.tail)
            assert activated(node)[1]["cause"] == "proven"
            second = token_of_another_key(node, kid_of(first))
            until(lambda: ends(issuer, kid_of(second)), "the copy tells the key's end", log=node.tail)
            node.kill()
        for token in (first, second):
            accepts(issuer, token)
            assert ends(issuer, kid_of(token)) > claims(token)["exp"]
        with Verifier(issuer, audience="orders", on_stale="allow") as verifier:
            tampered = first[:-8] + second[-8:]
            with pytest.raises(InvalidToken):
                verifier.verify(tampered)


def read(place: str, name: str) -> Found | None:
    """What is in the bucket now."""

    async def look() -> Found | None:
        publisher = from_url(place, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
        try:
            return await publisher.read(name)
        finally:
            await publisher.close()

    return asyncio.run(look())


def listed(place: str) -> frozenset[str]:
    """The keys that the bucket's set lists."""
    found = read(place, JWKS)
    return frozenset(kids_of(found.body)) if found is not None else frozenset()


@pytest.mark.slow
def test_bucket_that_is_away_stops_no_node_and_no_login(tmp_path, seaweedfs: S3Server, monkeypatch):
    """F32: a node starts and serves while its bucket is away, with an alarm; its next key waits for the
    bucket, signs once it was read back from there, and a revoked key leaves it."""
    for name, value in seaweedfs.environ.items():
        monkeypatch.setenv(name, value)
    place = f"s3://{BUCKET}/{seaweedfs.new_prefix()}"
    with running_front([Backend("127.0.0.1", seaweedfs.port)], ready_path=None) as front:
        front.set(Fault.RESET)
        away = environ(f"http://127.0.0.1:{front.port}")
        with running_node(tmp_path, settings={"publish": [place]}, environ=away) as node:
            (first,) = activated(node)
            assert first["cause"] == "bootstrap"
            until(lambda: node.events("publication.failed"), "it said so", log=node.tail)
            node.run("keys", "rotate")
            until(lambda: waiting(node), "the next key is held back for want of the bucket", log=node.tail)
            assert kid_of(node.log_in()["access_token"]) == first["kid"]
            assert len(activated(node)) == 1

            front.set(Fault.PASS)
            until(lambda: len(activated(node)) == 2, "the next key signs", log=node.tail)
            assert activated(node)[1]["cause"] == "proven"
            assert node.events("publication.restored")
            second = kid_of(token_of_another_key(node, first["kid"]))
            assert {first["kid"], second} <= listed(place)
            found, served = read(place, JWKS), node.http.get(f"/{JWKS}")
            assert found is not None
            assert found.headers is not None
            assert found.headers.cache_control == served.headers["cache-control"]
            assert found.headers.content_type == served.headers["content-type"]

            node.run("keys", "revoke", first["kid"], "--reason", "test")
            until(lambda: first["kid"] not in listed(place), "the revoked key left", log=node.tail)
            until(lambda: not read(place, f"keys/{first['kid']}.json"), "its own too", log=node.tail)
            assert second in listed(place)
            assert not node.events("publication.unfenced")


def waiting(node: RunningNode) -> bool:
    """Whether a key that is proven elsewhere is reported to be missing from the bucket."""
    return any("s3://" in event["reason"] for event in node.events("proof.failed"))
