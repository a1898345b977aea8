"""``mintmark demo``: one node, one service, and what they promise, shown as it happens.

Everything is real: the node and the service are programs of their own that talk over loopback, the
database is a file in a temporary folder, and the timings are the only thing made short.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import httpx2

from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

_AUDIENCE: Final = "orders"
_SCOPE: Final = "orders:read"
_PATIENCE: Final = 60.0
_PROMISED: Final = 1000
"""Milliseconds from the answer to a logout to the last acceptance, at a service that follows the feed."""

_SETTINGS: Final = """\
issuer = "http://127.0.0.1:{port}"
listen = "127.0.0.1:{port}"
store = "sqlite:///{folder}/mintmark.db"
log_level = "warning"

# Short, so that a rotation takes seconds; the defaults are minutes and hours.
access_ttl = "60s"
rotate_every = "90s"
verifier_cache = "3s"
jwks_max_age = "1s"
propagation = "1s"
clock_skew = "1s"
lease = "5s"
feed_bound = "30s"
"""


class DemoFailed(Exception):
    """Something that the demo shows did not happen; the message says what."""


class _Timeline:
    """Prints what happens, with the seconds since the start."""

    def __init__(self) -> None:
        self._began = SYSTEM_CLOCK.monotonic()

    def say(self, what: str) -> None:
        seconds = SYSTEM_CLOCK.monotonic() - self._began
        sys.stdout.write(f"{seconds:7.2f} s  {what}\n")
        sys.stdout.flush()


class _Program:
    """A child process of the demo, ended with it."""

    def __init__(self, process: asyncio.subprocess.Process, name: str, log: Path) -> None:
        self._process = process
        self._name = name
        self._log = log

    @classmethod
    async def start(cls, name: str, *arguments: str, environ: dict[str, str], folder: Path) -> "_Program":
        log = folder / f"{name.rpartition(' ')[2]}.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *arguments,
                env=environ, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, process_group=0,
            )  # fmt: skip
        return cls(process, name, log)

    def check(self) -> None:
        if self._process.returncode is not None:
            said = self._log.read_text(errors="replace").strip()
            raise DemoFailed(f"{self._name} ended with status {self._process.returncode}: {said}")

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), 30)
            except TimeoutError:
                self._process.kill()
        await self._process.wait()


class _Traffic:
    """A client that refreshes and calls the service without pause, and counts what is refused."""

    def __init__(self, demo: "_Demo", tokens: dict[str, Any]) -> None:
        self._demo = demo
        self.tokens = tokens
        self.calls = 0
        self.refused = 0
        self.kids: set[str] = set()

    async def run(self) -> None:
        while True:
            if self.calls % 20 == 19:
                self.tokens = await self._demo.refresh(self.tokens)
            self.kids.add(_kid(self.tokens["access_token"]))
            status = await self._demo.call(self.tokens["access_token"])
            self.calls += 1
            self.refused += status != httpx2.codes.OK
            await SYSTEM_CLOCK.sleep(0.02)


class _Demo:
    def __init__(self, folder: Path, http: httpx2.AsyncClient) -> None:
        self._folder = folder
        self._http = http
        self._line = _Timeline()
        port, service_port = _free_ports(2)
        self.issuer = f"http://127.0.0.1:{port}"
        self.service = f"http://127.0.0.1:{service_port}"
        self._config = folder / "mintmark.toml"
        self._config.write_text(_SETTINGS.format(port=port, folder=folder))
        # A new password each time: nothing that the demo leaves behind opens anything.
        self._password = SYSTEM_ENTROPY.token_bytes(18).hex()
        self._client_id = ""
        kept = ("PATH", "HOME", "LANG", "LC_ALL", "TERM", "VIRTUAL_ENV", "SSL_CERT_FILE")
        self._environ = {name: os.environ[name] for name in kept if name in os.environ}
        self._environ["MINTMARK_CONFIG"] = str(self._config)

    async def run(self) -> None:
        say = self._line.say
        say(f"settings, database and logs are in {self._folder}, which goes when the demo ends")
        await self._command(
            "users", "add", "ada", "--scope", _SCOPE, "--password-stdin", given=self._password
        )
        await self._command(
            "clients", "add", "shop", "--client-id", "shop", "--public", "--first-party",
            "--audience", _AUDIENCE, "--scope", _SCOPE,
        )  # fmt: skip
        self._client_id = "shop"
        say('user "ada" and client "shop" added')
        async with contextlib.AsyncExitStack() as programs:
            node = await self._node(programs)
            port = self.service.rpartition(":")[2]
            service = await _Program.start(
                "the service", "mintmark.cli.demonstration.service", self.issuer, _AUDIENCE, port,
                environ=self._environ, folder=self._folder,
            )  # fmt: skip
            programs.push_async_callback(service.stop)
            await self._until_up(service, f"{self.service}/openapi.json")
            say(f'service  {self.service}  knows the issuer and the audience "{_AUDIENCE}", nothing else')
            tokens = await self._log_in_and_verify()
            tokens = await self._rotate(tokens)
            tokens = await self._restart(node, tokens, programs)
            await self._log_out(tokens)
            say("all of it held")
            if sys.stdout.isatty():
                say("node and service stay up until Ctrl-C")
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()

    # --- the acts ----------------------------------------------------------------------------------

    async def _log_in_and_verify(self) -> dict[str, Any]:
        say = self._line.say
        tokens = await self._log_in()
        say(f"ada logs in: an access token by key {_short(tokens)}, and a refresh token")
        self._expect(await self.call(tokens["access_token"]), 200, "the service, asked with a good token")
        say("the service accepts it: signature, claims and revocation checked without asking the node")
        await asyncio.to_thread(_verify_with_pyjwt, self.issuer, tokens["access_token"])
        say("PyJWT accepts it too, through its own PyJWKClient")
        self._expect(await self.call(tokens["access_token"][:-8] + "AAAAAAAA"), 401, "a forged token")
        say("the service refuses it with another signature: 401")
        renewed = await self.refresh(tokens)
        say("refreshed: a new access token and a new refresh token")
        again = await self.refresh(tokens)
        if again["refresh_token"] != renewed["refresh_token"]:
            raise DemoFailed("a repeated refresh gave another refresh token")
        say("the same refresh again, as if its answer was lost: the same refresh token, nobody logged out")
        return again

    async def _rotate(self, tokens: dict[str, Any]) -> dict[str, Any]:
        say = self._line.say
        old = _kid(tokens["access_token"])
        traffic = _Traffic(self, tokens)
        running = asyncio.create_task(traffic.run())
        try:
            await self._command("keys", "rotate")
            say("keys rotate: a successor is made, published and read back; requests go on meanwhile")
            deadline = SYSTEM_CLOCK.monotonic() + _PATIENCE
            while len(traffic.kids) < 2 and not running.done():
                if SYSTEM_CLOCK.monotonic() > deadline:
                    raise DemoFailed("no key rotated in time")
                await SYSTEM_CLOCK.sleep(0.1)
            await SYSTEM_CLOCK.sleep(1)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        if running.done() and not running.cancelled():
            running.result()
        say(
            f"key {old[:8]} gave way to {_short(traffic.tokens)}: "
            f"{traffic.calls} requests, {traffic.refused} refused"
        )
        if traffic.refused:
            raise DemoFailed("valid tokens were refused during the rotation")
        return traffic.tokens

    async def _restart(
        self, node: _Program, tokens: dict[str, Any], programs: contextlib.AsyncExitStack
    ) -> dict[str, Any]:
        say = self._line.say
        await node.stop()
        say("node stopped: its private keys are gone with its memory")
        self._expect(await self.call(tokens["access_token"]), 200, "the service, with the node down")
        say("the service still accepts the token: it has the public key")
        await self._node(programs)
        self._expect(await self.call(tokens["access_token"]), 200, "the old token after the restart")
        renewed = await self.refresh(tokens)
        self._expect(await self.call(renewed["access_token"]), 200, "the first token of the new key")
        say(f"old token accepted, refresh token still good; key {_short(renewed)} is accepted at once")
        return renewed

    async def _log_out(self, tokens: dict[str, Any]) -> None:
        say = self._line.say
        await self._until_followed()
        answer = await self._http.delete(
            f"{self.issuer}/v1/sessions/current",
            headers={"Authorization": f"Bearer {tokens['access_token']}"},
        )
        answered = SYSTEM_CLOCK.monotonic()
        self._expect(answer.status_code, 204, "the logout")
        accepted = 0
        while await self.call(tokens["access_token"]) == httpx2.codes.OK:
            accepted += 1
            if SYSTEM_CLOCK.monotonic() - answered > _PATIENCE:
                raise DemoFailed("the service went on accepting a token after the logout")
        took = (SYSTEM_CLOCK.monotonic() - answered) * 1000
        if took > _PROMISED:
            raise DemoFailed(f"the service went on accepting a token for {took:.0f} ms after the logout")
        say(f"ada logs out: first refusal {took:.0f} ms after the answer, {accepted} accepted between")
        refused = await self._http.post(
            f"{self.issuer}/v1/sessions/refresh",
            json={"refresh_token": tokens["refresh_token"], "client_id": self._client_id},
        )
        self._expect(refused.status_code, 400, "a refresh after the logout")
        say("her refresh token is refused: the session is over")

    # --- what they are made of -----------------------------------------------------------------------

    async def _node(self, programs: contextlib.AsyncExitStack) -> _Program:
        node = await _Program.start(
            "the node", "mintmark.cli", "serve", environ=self._environ, folder=self._folder
        )
        programs.push_async_callback(node.stop)
        await self._until_up(node, f"{self.issuer}/readyz")
        self._line.say(f"node     {self.issuer}  is ready; its RS256 key is in its signer alone")
        return node

    async def _log_in(self) -> dict[str, Any]:
        answer = await self._http.post(
            f"{self.issuer}/v1/sessions",
            json={"username": "ada", "password": self._password, "client_id": self._client_id},
        )
        self._expect(answer.status_code, 201, "the login")
        return dict(answer.json())

    async def refresh(self, tokens: dict[str, Any]) -> dict[str, Any]:
        answer = await self._http.post(
            f"{self.issuer}/v1/sessions/refresh",
            json={"refresh_token": tokens["refresh_token"], "client_id": self._client_id},
        )
        self._expect(answer.status_code, 200, "the refresh")
        return dict(answer.json())

    async def call(self, access_token: str) -> int:
        headers = {"Authorization": f"Bearer {access_token}"}
        answer = await self._http.get(f"{self.service}/orders", headers=headers)
        return int(answer.status_code)

    def _expect(self, status: int, wanted: int, what: str) -> None:
        if status != wanted:
            raise DemoFailed(f"{what} was answered with {status} instead of {wanted}")

    async def _until_up(self, program: _Program, url: str) -> None:
        deadline = SYSTEM_CLOCK.monotonic() + _PATIENCE
        while True:
            program.check()
            with contextlib.suppress(httpx2.TransportError):
                if (await self._http.get(url)).status_code == httpx2.codes.OK:
                    return
            if SYSTEM_CLOCK.monotonic() > deadline:
                raise DemoFailed(f"{url} did not answer in time")
            await SYSTEM_CLOCK.sleep(0.05)

    async def _until_followed(self) -> None:
        """After a restart the service must have found the feed again before a logout can reach it."""
        began = SYSTEM_CLOCK.monotonic()
        while "mintmark_feed_followers 1" not in (await self._http.get(f"{self.issuer}/metrics")).text:
            if SYSTEM_CLOCK.monotonic() - began > _PATIENCE:
                raise DemoFailed("the service did not follow the feed again after the restart")
            await SYSTEM_CLOCK.sleep(0.02)
        took = SYSTEM_CLOCK.monotonic() - began
        self._line.say(f"the service follows the node's revocations again, {took:.1f} s later")

    async def _command(self, *arguments: str, given: str = "") -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mintmark.cli", *arguments,
            env=self._environ, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, said = await process.communicate(given.encode())
        if process.returncode:
            raise DemoFailed(f"mintmark {' '.join(arguments[:2])}: {said.decode(errors='replace').strip()}")


def run_demo() -> int:
    """Show it; the exit status: 0 when everything held, 1 with what did not."""
    return asyncio.run(_run())


async def _run() -> int:
    with tempfile.TemporaryDirectory(prefix="mintmark-demo-") as folder:
        async with httpx2.AsyncClient(timeout=10, trust_env=False) as http:
            task = asyncio.ensure_future(_Demo(Path(folder), http).run())
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
            try:
                await task
            except DemoFailed as failed:
                sys.stderr.write(f"mintmark demo: {failed}\n")
                return 1
            except asyncio.CancelledError:
                return 130
    return 0


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


def _verify_with_pyjwt(issuer: str, token: str) -> None:
    import jwt  # noqa: PLC0415 - a peer that only the demo and the tests have

    # It would send its request for loopback through a proxy, where one is set.
    os.environ["no_proxy"] = "127.0.0.1"
    keys = jwt.PyJWKClient(f"{issuer}/.well-known/jwks.json")
    try:
        key = keys.get_signing_key_from_jwt(token)
        jwt.decode(token, key, algorithms=["RS256"], audience=_AUDIENCE, issuer=issuer)
    except jwt.PyJWTError as error:
        raise DemoFailed(f"PyJWT refused a good token: {error}") from None


def _kid(token: str) -> str:
    from mintmark.core import jws  # noqa: PLC0415

    return str(jws.parse(token).header.kid)


def _short(tokens: dict[str, Any]) -> str:
    return _kid(tokens["access_token"])[:8]
