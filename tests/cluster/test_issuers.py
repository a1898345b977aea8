"""Two issuers of a real node, by path and by host: each with its keys, clients, users, and its own fate."""

import contextlib
import json
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from tests.cluster.running import PASSWORD, SHORT, RunningNode, until

from mintmark import AccessToken, InvalidToken, Issuer, Verifier, VerifierUnavailable
from mintmark.cli.demonstration.loopback import free_ports

PASSWORDS = (PASSWORD, "another horse, another staple")


CALM = {**SHORT, "rotate_every": "1h", "lease": "30s", "feed_bound": "60s"}
"""Keys change when a test asks for it, and on a busy machine no lease runs out."""


class Tenants:
    """One node that serves two issuers, each with a user ada of its own and a client shop.

    The first one's keys are the node's own and for ES256, the second one's for RS256, in ``mode``.
    """

    def __init__(self, folder: Path, *, port: int, issuers: tuple[str, str], mode: str) -> None:
        self.folder = folder
        self.issuers = issuers
        self.node = RunningNode(folder, port=port)
        settings = {"listen": f"127.0.0.1:{port}", "store": f"sqlite:///{folder}/mintmark.db"}
        lines = [
            f"{key} = {json.dumps(value)}\n"
            for key, value in {**settings, "log_format": "json", **CALM}.items()
        ]
        if mode == "shared":
            sealing = folder / "seal.key"
            sealing.touch(mode=0o600)
            sealing.write_bytes(os.urandom(32))
            lines.append(f'seal_key = "file:{sealing}"\n')
        for issuer, algorithm, held in zip(issuers, ("ES256", "RS256"), ("own", mode), strict=True):
            lines.append(
                f'\n[[issuers]]\nissuer = "{issuer}"\nalgorithm = "{algorithm}"\nkey_mode = "{held}"\n'
            )
        self.node.config.write_text("".join(lines))
        self.https = tuple(httpx2.Client(base_url=issuer, timeout=10, trust_env=False) for issuer in issuers)

    def prepare(self) -> None:
        """Ada and the shop at each issuer; Ada has another password at each."""
        for issuer, password in zip(self.issuers, PASSWORDS, strict=True):
            self.run(
                issuer, "users", "add", "ada", "--scope", "orders:read", "--password-stdin", given=password
            )
            self.run(
                issuer, "clients", "add", "Shop", "--client-id", "shop", "--public", "--first-party",
                "--audience", "orders", "--scope", "orders:read",
            )  # fmt: skip

    def run(self, issuer: str, *arguments: str, given: str = "") -> str:
        return self.node.run("--issuer", issuer, *arguments, given=given)

    def log_in(self, number: int, *, password: str = "", patience: bool = True) -> dict[str, Any]:
        """The tokens of a new session; asked again while the issuer says «later»."""
        body = {"username": "ada", "password": password or PASSWORDS[number], "client_id": "shop"}

        def ask() -> httpx2.Response | None:
            answer = self.https[number].post("/v1/sessions", json=body)
            return None if answer.status_code == 503 and patience else answer

        answer = until(ask, "the issuer answers", log=self.node.tail)
        assert answer is not None
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def keys(self, number: int) -> dict[str, dict[str, Any]]:
        """The keys of an issuer as the command lists them, by ``kid``."""
        listed = json.loads(self.run(self.issuers[number], "keys", "list", "--json"))["keys"]
        return {key["kid"]: key for key in listed}

    def published(self, number: int) -> set[str]:
        """The ``kid`` of every key that an issuer publishes."""
        keys = self.https[number].get("/.well-known/jwks.json").json()["keys"]
        return {key["kid"] for key in keys}

    def events(self, number: int, name: str) -> list[dict[str, Any]]:
        return [event for event in self.node.events(name) if event.get("issuer") == self.issuers[number]]

    def ready(self) -> dict[str, Any]:
        return dict(self.node.http.get("/readyz").json())

    def end(self) -> None:
        for http in self.https:
            http.close()
        self.node.end()


@contextlib.contextmanager
def running(
    folder: Path, issuers: Callable[[int], tuple[str, str]], *, mode: str = "own"
) -> Iterator[Tenants]:
    """Two issuers on a node that is ready for both."""
    (port,) = free_ports(1)
    tenants = Tenants(folder, port=port, issuers=issuers(port), mode=mode)
    try:
        tenants.prepare()
        tenants.node.start().until_ready()
        yield tenants
    finally:
        tenants.end()


def by_path(port: int) -> tuple[str, str]:
    return f"http://127.0.0.1:{port}/a", f"http://127.0.0.1:{port}/b"


def by_host(port: int) -> tuple[str, str]:
    return f"http://127.0.0.1:{port}", f"http://localhost:{port}"


def header(token: str) -> dict[str, Any]:
    return dict(jwt.get_unverified_header(token))


def refuses(verifier: Verifier, token: str) -> str:
    """Why ``verifier`` refuses ``token``."""
    with pytest.raises(InvalidToken) as refused:
        verifier.verify(token)
    return refused.value.code


@pytest.mark.parametrize(("issuers", "mode"), [(by_path, "shared"), (by_host, "own")])
@pytest.mark.timeout(240)
def test_two_issuers_of_one_node_share_nothing(tmp_path, issuers, mode):
    """VF5: keys, users, sessions and revocations of two issuers never cross: a verifier of one refuses the
    other's tokens, one of both takes each under its own ``iss``, and a logout ends what it is about alone."""
    with running(tmp_path, issuers, mode=mode) as tenants:
        here, there = tenants.issuers
        first, second = tenants.log_in(0), tenants.log_in(1)
        tokens = first["access_token"], second["access_token"]
        assert [header(token)["alg"] for token in tokens] == ["ES256", "RS256"]
        assert tenants.published(0) & tenants.published(1) == set()
        assert [header(token)["kid"] in tenants.published(n) for n, token in enumerate(tokens)] == [True] * 2
        modes = [key["mode"] for number in (0, 1) for key in tenants.keys(number).values()]
        assert modes == ["own", mode]
        subs = {jwt.decode(token, options={"verify_signature": False})["sub"] for token in tokens}
        assert len(subs) == 2
        # The other issuer's password is a wrong one.
        body = {"username": "ada", "password": PASSWORDS[1], "client_id": "shop"}
        tenants.node.asked(lambda: tenants.https[0].post("/v1/sessions", json=body), 401)
        with (
            Verifier(here, audience="orders") as one,
            Verifier(there, audience="orders") as other,
            Verifier.many(*(Issuer(issuer=issuer, audience="orders") for issuer in (here, there))) as both,
        ):
            for verifier, good, bad in ((one, *tokens), (other, *reversed(tokens))):
                assert accepted(verifier, good).rid
                assert refuses(verifier, bad) == "unknown_issuer"
            assert {accepted(both, token).iss for token in tokens} == {here, there}
            # Nothing of the one works at the other.
            asked = tenants.node.asked
            asked(lambda: log_out(tenants, 1, tokens[0]), 401)
            refresh = {"refresh_token": first["refresh_token"], "client_id": "shop"}
            answer = asked(lambda: tenants.https[1].post("/v1/sessions/refresh", json=refresh), 400)
            assert answer.json()["code"] == "invalid_grant"
            asked(lambda: tenants.https[1].get(f"/keys/{header(tokens[0])['kid']}.json"), 404)
            asked(lambda: tenants.https[0].post("/v1/sessions/refresh", json=refresh), 200)
            # A logout ends what it is about, and nothing else.
            asked(lambda: log_out(tenants, 0, tokens[0]), 204)
            until(lambda: is_refused(both, tokens[0]), "the logout reached the verifier of both")
            assert accepted(both, tokens[1]).iss == there


def log_out(tenants: Tenants, number: int, token: str) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return tenants.https[number].delete("/v1/sessions/current", headers=headers)


def accepted(verifier: Verifier, token: str) -> AccessToken:
    """What ``verifier`` says of a good token, once it has what it judges by."""

    def judge() -> list[AccessToken]:
        with contextlib.suppress(VerifierUnavailable):
            return [verifier.verify(token)]
        return []

    return until(judge, "the verifier has keys and the feed")[0]


def is_refused(verifier: Verifier, token: str) -> bool:
    try:
        accepted(verifier, token)
    except InvalidToken:
        return True
    return False


@pytest.mark.timeout(300)
def test_issuers_rotate_apart_and_one_that_is_damaged_stops_no_other(tmp_path):
    """A rotation of one issuer leaves the other's keys alone. Damaged rows of one are reported, and the other
    signs, rotates and keeps the node ready; mended it goes on without a restart."""
    with running(tmp_path, by_host, mode="shared") as tenants:
        before = [tenants.published(number) for number in (0, 1)]
        tenants.run(tenants.issuers[0], "keys", "rotate")
        until(lambda: len(tenants.events(0, "key.activated")) == 2, "a new key signs", log=tenants.node.tail)
        assert tenants.events(0, "key.activated")[1]["cause"] == "proven"
        assert tenants.published(1) == before[1]
        tenants.run(tenants.issuers[1], "keys", "rotate")
        until(lambda: len(tenants.events(1, "key.activated")) == 2, "a new key signs", log=tenants.node.tail)
        assert tenants.events(1, "key.activated")[1]["cause"] == "proven"
        # One issuer's rows become what no code of ours wrote.
        kept = damage(tenants, 1)
        until(lambda: tenants.ready()["issuers"][tenants.issuers[1]], "the damage is noticed")
        until(lambda: not tenants.ready()["issuers"][tenants.issuers[0]], "the other is well")
        until(lambda: tenants.node.http.get("/readyz").status_code == 200, "the node is ready all the same")
        tenants.run(tenants.issuers[0], "keys", "rotate")
        until(lambda: len(tenants.events(0, "key.activated")) == 3, "a new key signs", log=tenants.node.tail)
        tenants.log_in(0)
        assert tenants.events(1, "store.failed")
        mend(tenants, 1, kept)
        until(lambda: not tenants.ready()["issuers"][tenants.issuers[1]], "it goes on", log=tenants.node.tail)
        tenants.log_in(1)
        # What nobody has foreseen is a defect, and ends no other issuer either.
        timing = replace_timing(tenants, 1, b"no JSON at all")
        until(lambda: tenants.events(1, "upkeep.failed"), "the defect is reported", log=tenants.node.tail)
        tenants.log_in(0)
        replace_timing(tenants, 1, timing)
        until(lambda: not tenants.ready()["issuers"][tenants.issuers[1]], "it goes on", log=tenants.node.tail)
        tenants.log_in(1)
        assert len(tenants.node.events("node.started")) == 2, "one for each issuer: the node never ended"
        assert tenants.node.stop() == 0
        assert len(tenants.node.events("node.left")) == 2


@pytest.mark.timeout(240)
def test_node_that_joins_mints_for_every_issuer(tmp_path):
    """A second node is ready while others sign for each of its issuers, and mints with the keys of each."""
    with running(tmp_path, by_path) as tenants:
        (port,) = free_ports(1)
        folder = tmp_path / "second"
        folder.mkdir()
        second = RunningNode(folder, port=port)
        first = tenants.node
        second.config.write_text(
            first.config.read_text().replace(
                f'listen = "127.0.0.1:{first.port}"', f'listen = "127.0.0.1:{port}"'
            )
        )
        try:
            second.start().until_ready()
            for number, issuer in enumerate(tenants.issuers):
                body = {"username": "ada", "password": PASSWORDS[number], "client_id": "shop"}
                path = issuer.removeprefix(first.url)
                answer = second.asked(partial(second.http.post, f"{path}/v1/sessions", json=body), 201)
                with Verifier(issuer, audience="orders") as verifier:
                    assert accepted(verifier, answer.json()["access_token"]).iss == issuer
        finally:
            second.end()


def damage(tenants: Tenants, number: int) -> list[tuple[str, str]]:
    """Give every key of an issuer a state that there is not; their own states, by ``kid``."""
    with (
        contextlib.closing(sqlite3.connect(tenants.folder / "mintmark.db", timeout=30)) as database,
        database,
    ):
        issuer = tenants.issuers[number]
        rows = database.execute("select kid, state from ring_keys where issuer = ?", (issuer,)).fetchall()
        database.execute("update ring_keys set state = 'broken' where issuer = ?", (issuer,))
    return [(kid, state) for kid, state in rows]


def mend(tenants: Tenants, number: int, kept: list[tuple[str, str]]) -> None:
    """Undo the damage."""
    with (
        contextlib.closing(sqlite3.connect(tenants.folder / "mintmark.db", timeout=30)) as database,
        database,
    ):
        for kid, state in kept:
            database.execute(
                "update ring_keys set state = ? where issuer = ? and kid = ?",
                (state, tenants.issuers[number], kid),
            )


def replace_timing(tenants: Tenants, number: int, document: bytes) -> bytes:
    """Put ``document`` in place of the issuer's timing settings; what was there."""
    with (
        contextlib.closing(sqlite3.connect(tenants.folder / "mintmark.db", timeout=30)) as database,
        database,
    ):
        issuer = tenants.issuers[number]
        (before,) = database.execute("select document from timings where issuer = ?", (issuer,)).fetchone()
        database.execute("update timings set document = ? where issuer = ?", (document, issuer))
    return bytes(before)


def test_absolute_target_says_which_host_is_meant(tmp_path):
    """RFC 9112 s.3.2.2: a target in absolute form counts, whatever Host says beside it."""
    with running(tmp_path, by_host) as tenants:
        port = tenants.node.port
        for target, host, number in (
            ("/.well-known/jwks.json", "127.0.0.1", 0),
            ("/.well-known/jwks.json", f"LOCALHOST.:{port}", 1),
            (f"http://localhost:{port}/.well-known/jwks.json", "127.0.0.1", 1),
            ("http://127.0.0.1/.well-known/jwks.json", "localhost", 0),
            (f"HTTP://LocalHost:{port}/.well-known/jwks.json", "127.0.0.1", 1),
        ):
            kids = {key["kid"] for key in ask(port, target, host)["keys"]}
            assert kids == tenants.published(number), (target, host)
        for target, host in (
            ("http://elsewhere.example/.well-known/jwks.json", "localhost"),
            ("/.well-known/jwks.json", "elsewhere.example"),
        ):
            assert ask(port, target, host)["code"] == "misdirected_request"


def ask(port: int, target: str, host: str) -> dict[str, Any]:
    """The JSON that a request with this target and this Host is answered with."""
    command = [
        "curl", "-s", "--max-time", "20", "--request-target", target, "-H", f"Host: {host}",
        f"http://127.0.0.1:{port}/",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))
