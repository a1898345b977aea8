"""``mintmark demo``: three nodes, one service, and what they promise, shown as it happens.

Everything is real: nodes, database and service are programs of their own that talk over loopback, and
the timings are the only thing made short.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import Final

import httpx2

from mintmark.cli.demonstration.cluster import TIMING, Cluster
from mintmark.cli.demonstration.loopback import free_ports
from mintmark.cli.demonstration.program import PATIENCE, DemoFailed, Program, Timeline
from mintmark.cli.demonstration.shop import (
    AUDIENCE,
    CLIENT_ID,
    SCOPE,
    USER,
    Shop,
    Tokens,
    Traffic,
    expect,
)
from mintmark.cli.status import Status
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.units import format_duration

_PROMISED: Final = 1000
"""Milliseconds from the answer to a logout to the last acceptance, at a service that follows the feed."""


class _Demo:
    def __init__(self, line: Timeline, cluster: Cluster, http: httpx2.AsyncClient, folder: Path) -> None:
        self._line = line
        self._cluster = cluster
        self._http = http
        # A new password each time: nothing that the demo leaves behind opens anything.
        self._password = SYSTEM_ENTROPY.token_bytes(18).hex()
        self._keys: dict[str, str] = {}
        port = free_ports(1)[0]
        self._shop = Shop(cluster.issuer, f"http://127.0.0.1:{port}", self._password, http)
        self._service = Program(
            "the service", "mintmark.cli.demonstration.service", cluster.issuer, AUDIENCE, str(port),
            environ=cluster.environ, log=folder / "service.log",
        )  # fmt: skip

    async def run(self) -> None:
        """Every act; raises DemoFailed for what did not hold."""
        await self._start_nodes()
        try:
            await self._start_service()
            tokens = await self._log_in()
            tokens = await self._refresh_elsewhere(tokens)
            async with self._traffic() as traffic:
                tokens = await self._rotate(tokens, traffic)
                tokens = await self._kill(tokens, traffic)
                await self._restart_all(traffic)
            await self._log_out(tokens)
            self._line.say("all of it held")
            if sys.stdout.isatty():
                await self._stay()
        finally:
            await self._service.end()

    # --- the acts ----------------------------------------------------------------------------------

    async def _start_nodes(self) -> None:
        lead = format_duration(TIMING.lead)
        self._line.say(
            f"three nodes start at once; a key is public for {lead} before it signs, all but the first"
        )
        try:
            async with asyncio.TaskGroup() as starting:
                for name in self._cluster.nodes:
                    starting.create_task(self._start_node(name))
                starting.create_task(self._add_accounts())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _start_node(self, name: str) -> None:
        node = self._cluster.nodes[name]
        await self._cluster.start(name)
        others = [other for other in self._cluster.nodes.values() if other is not node]
        waited = any(self._cluster.is_ready(other) for other in others)
        why = "its own key has been public for the lead" if waited else "the first: its key signs at once"
        self._line.say(f"node {name}   {node.url}  is ready, {why}")

    async def _add_accounts(self) -> None:
        await self._cluster.command(
            "users", "add", USER, "--scope", SCOPE, "--password-stdin", given=self._password
        )
        await self._cluster.command(
            "clients", "add", "shop", "--client-id", CLIENT_ID, "--public", "--first-party",
            "--audience", AUDIENCE, "--scope", SCOPE,
        )  # fmt: skip
        self._line.say(f'user "{USER}" and client "{CLIENT_ID}" added')

    async def _start_service(self) -> None:
        deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
        while True:
            if not self._service.runs:
                # As whoever keeps a service running would: on a stalled machine its verifier may give up.
                self._service.start()
            with contextlib.suppress(httpx2.TransportError):
                if (
                    await self._http.get(f"{self._shop.service}/openapi.json")
                ).status_code == httpx2.codes.OK:
                    break
            if SYSTEM_CLOCK.monotonic() > deadline:
                raise DemoFailed(f"the service did not answer in time: {self._service.tail()}")
            await SYSTEM_CLOCK.sleep(0.05)
        self._line.say(
            f'service  {self._shop.service}  knows the issuer and the audience "{AUDIENCE}", nothing else'
        )

    async def _log_in(self) -> Tokens:
        say, shop = self._line.say, self._shop
        tokens = await shop.log_in(self._url("a"))
        say(f"{USER} logs in at node a: an access token by its key {tokens.key}, and a refresh token")
        await shop.until_warm(tokens)
        await shop.accepted(tokens, "a good token")
        say("the service accepts it: signature, claims and revocation checked without asking any node")
        await self._verify_with_pyjwt(tokens)
        say("PyJWT accepts it too, through its own PyJWKClient")
        forged = await shop.call(tokens.access_token[:-8] + "AAAAAAAA")
        expect(forged.status_code, 401, "a forged token")
        say("the service refuses it with another signature: 401")
        return tokens

    async def _refresh_elsewhere(self, tokens: Tokens) -> Tokens:
        say, shop = self._line.say, self._shop
        renewed = await shop.refresh(tokens, self._url("b"))
        await shop.accepted(renewed, "a token of node b")
        say(f"refreshed at node b: an access token by its key {renewed.key}, and a new refresh token")
        again = await shop.refresh(tokens, self._url("c"))
        if again.refresh_token != renewed.refresh_token:
            raise DemoFailed("a repeated refresh gave another refresh token")
        self._keys = {"a": tokens.kid, "b": renewed.kid, "c": again.kid}
        if len(set(self._keys.values())) != len(self._cluster.nodes):
            raise DemoFailed("three nodes did not sign with three keys")
        await shop.accepted(again, "a token of node c")
        say("the same refresh again, at node c, as if its answer was lost: the same refresh token")
        return again

    async def _rotate(self, tokens: Tokens, traffic: Traffic) -> Tokens:
        say, shop = self._line.say, self._shop
        before = await traffic.report()
        old = dict(self._keys)
        await self._cluster.command("keys", "rotate")
        say("keys rotate: each node makes a successor, publishes it and reads it back; clients go on")
        for name in self._cluster.nodes:
            deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
            while (tokens := await shop.refresh(tokens, self._url(name))).kid == old[name]:
                if SYSTEM_CLOCK.monotonic() > deadline:
                    raise DemoFailed(f"the key of node {name} did not rotate in time")
                await SYSTEM_CLOCK.sleep(0.1)
            say(f"node {name}   key {old[name][:8]} gave way to {tokens.key}")
        await self._verify_with_pyjwt(tokens)
        await traffic.go_on()
        say(f"a rotation: {await traffic.report(before)}")
        return tokens

    async def _kill(self, tokens: Tokens, traffic: Traffic) -> Tokens:
        say, shop, cluster = self._line.say, self._shop, self._cluster
        tokens = await shop.refresh(tokens, self._url("b"))
        before = await traffic.report()
        await cluster.kill("b")
        say("node b is killed with SIGKILL, while clients work: its private keys are gone with its memory")
        await shop.accepted(tokens, "a token of the killed node")
        await self._verify_with_pyjwt(tokens)
        say(f"its token by key {tokens.key} is still accepted, by the service and by PyJWT")
        tokens = await shop.refresh(tokens)
        await shop.accepted(tokens, "the token after it")
        say(f"the session goes on: refreshed at another node, a token by key {tokens.key}")
        took = await cluster.start("b")
        say(f"node b is back as a new node, ready after {took:.1f} s: {await traffic.report(before)}")
        return tokens

    async def _restart_all(self, traffic: Traffic) -> None:
        before = await traffic.report()
        for name in self._cluster.nodes:
            left = await self._cluster.stop(name)
            took = await self._cluster.start(name)
            self._line.say(f"node {name} left within {left:.1f} s of SIGTERM, and is back after {took:.1f} s")
        await traffic.go_on()
        self._line.say(f"a rolling restart of all three: {await traffic.report(before)}")

    async def _log_out(self, tokens: Tokens) -> None:
        say, shop, nodes = self._line.say, self._shop, list(self._cluster.nodes)
        tokens = await shop.refresh(tokens, self._url("b"))
        others = [await shop.log_in(self._url(name)) for name in (*nodes, nodes[0])]
        await self._until_followed()
        first, accepted = await self._until_refused(tokens, "c")
        say(
            f"{USER} logs out at node c: the service's first refusal came {first:.0f} ms after the answer, "
            f"{accepted} accepted between"
        )
        for name in nodes:
            await shop.is_logged_out(tokens, self._url(name))
        say("her refresh token is refused at all three nodes: that session is over")
        took = [first]
        for name, other in zip((*nodes, nodes[0]), others, strict=True):
            took.append((await self._until_refused(other, name))[0])
        say(f"four more of her sessions, logged out at each node in turn: {max(took[1:]):.0f} ms at the most")
        # One pause of this machine is no broken promise.
        if median(took) > _PROMISED:
            raise DemoFailed(f"the service went on accepting tokens for {median(took):.0f} ms after a logout")

    async def _until_refused(self, tokens: Tokens, at: str) -> tuple[float, int]:
        """Log out at a node; milliseconds from its answer to the first refusal, and what was accepted."""
        await self._shop.accepted(tokens, "a token before the logout")
        await self._shop.log_out(tokens, self._url(at))
        answered = SYSTEM_CLOCK.monotonic()
        accepted = 0
        while (answer := await self._shop.call(tokens.access_token)).status_code == httpx2.codes.OK:
            accepted += 1
            if SYSTEM_CLOCK.monotonic() - answered > PATIENCE:
                raise DemoFailed("the service went on accepting a token after the logout")
        expect(answer.status_code, 401, "the token of a session that is over")
        return (SYSTEM_CLOCK.monotonic() - answered) * 1000, accepted

    async def _stay(self) -> None:
        say = self._line.say
        say(f"issuer   {self._cluster.issuer}")
        for node in self._cluster.nodes.values():
            say(f"node {node.name}   {node.url}")
        say(f"service  {self._shop.service}")
        say("nodes and service stay up until Ctrl-C")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    # --- what they are made of -----------------------------------------------------------------------

    def _url(self, name: str) -> str:
        return self._cluster.nodes[name].url

    @contextlib.asynccontextmanager
    async def _traffic(self) -> AsyncIterator[Traffic]:
        # Connections of their own: what the clients keep open says nothing about ada's.
        async with httpx2.AsyncClient(timeout=10, trust_env=False) as http:
            shop = Shop(self._cluster.issuer, self._shop.service, self._password, http)
            async with Traffic(shop) as traffic:
                yield traffic

    async def _verify_with_pyjwt(self, tokens: Tokens) -> None:
        # A client of its own each time: for 30 s after a fetch PyJWT asks for no key that it does not know.
        await asyncio.to_thread(_verify_with_pyjwt, self._cluster.issuer, tokens.access_token)

    async def _until_followed(self) -> None:
        """After a restart the service must have found the feed again before a logout can reach it."""
        began = SYSTEM_CLOCK.monotonic()
        while not await self._followers():
            if SYSTEM_CLOCK.monotonic() - began > PATIENCE:
                raise DemoFailed("the service did not follow the feed again after the restart")
            await SYSTEM_CLOCK.sleep(0.02)
        took = SYSTEM_CLOCK.monotonic() - began
        self._line.say(f"the service follows the revocations again, {took:.1f} s later")

    async def _followers(self) -> bool:
        for node in self._cluster.nodes.values():
            with contextlib.suppress(httpx2.TransportError):
                answer = await self._http.get(f"{node.url}/metrics")
                if re.search(r"(?m)^mintmark_feed_followers\{[^}]*\} 1", answer.text):
                    return True
        return False


def run_demo(store: str) -> int:
    """Show it on ``store``; the exit status: 0 when everything held, 1 with what did not.

    Raises PostgresqlMissing, with what to install.
    """
    return asyncio.run(_run(store))


async def _run(store: str) -> int:
    task = asyncio.ensure_future(_show(store))
    loop = asyncio.get_running_loop()
    told: list[None] = []

    def interrupt() -> None:
        # Once: a second signal must not cut short what ends the nodes.
        if not told:
            told.append(None)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt)
    try:
        await task
    except DemoFailed as failed:
        sys.stderr.write(f"mintmark demo: {failed}\n")
        return Status.FAILED
    except asyncio.CancelledError:
        return Status.INTERRUPTED
    return Status.OK


async def _show(store: str) -> None:
    line = Timeline()
    with tempfile.TemporaryDirectory(prefix="mintmark-demo-") as name:
        folder = Path(name)
        line.say(f"settings, logs and data are in {folder}, which goes when the demo ends")
        async with Cluster(folder, store) as cluster, httpx2.AsyncClient(timeout=30, trust_env=False) as http:
            line.say(f"store    {cluster.store}")
            line.say(
                f"issuer   {cluster.issuer}  a front, which passes each connection to a node that is ready"
            )
            try:
                await _Demo(line, cluster, http, folder).run()
            except DemoFailed as failed:
                raise DemoFailed(f"{failed}\n{cluster.tails()}".rstrip()) from None
            except httpx2.TransportError as error:
                what = f"a request was not answered: {type(error).__name__}"
                raise DemoFailed(f"{what}\n{cluster.tails()}".rstrip()) from None


def _verify_with_pyjwt(issuer: str, token: str) -> None:
    import jwt  # noqa: PLC0415 - a peer that only the demo and the tests have

    # It would send its request for loopback through a proxy, where one is set.
    os.environ["no_proxy"] = "127.0.0.1"
    keys = jwt.PyJWKClient(f"{issuer}/.well-known/jwks.json")
    try:
        key = keys.get_signing_key_from_jwt(token)
        jwt.decode(token, key, algorithms=["RS256"], audience=AUDIENCE, issuer=issuer)
    except jwt.PyJWKClientConnectionError as error:
        raise DemoFailed(f"PyJWT got no key set: {error}") from None
    except jwt.PyJWTError as error:
        raise DemoFailed(f"PyJWT refused a good token: {error}") from None
