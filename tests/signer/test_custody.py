"""What a signer process is given to keep keys with: signer.custody, keeping, launch and the sandbox."""

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.softhsm import SoftHsm, soft_hsm

from mintmark.core import jws
from mintmark.core.algorithm import Algorithm
from mintmark.core.key import KeyMode
from mintmark.errors import ConfigurationError, SignerUnavailable
from mintmark.ports.signer import MadeKey, Refusal, SignerRefused, TokenState
from mintmark.signer.client import SignerClient
from mintmark.signer.custody import MAX_SECRET, NETWORK, Custody, Fault, HsmCustody
from mintmark.signer.launch import SignerProcess, start_signer
from mintmark.system import SYSTEM_CLOCK
from mintmark.units import Issuer, Kid, NumericDate

ISSUER = Issuer("https://auth.example.com")
TYPS = frozenset({"at+jwt"})
PATIENCE = 60
FIRST, SECOND = b"1" * 32, b"2" * 32


@contextlib.contextmanager
def given(content: bytes) -> Iterator[int]:
    """A descriptor that gives ``content``."""
    reading, writing = os.pipe()
    try:
        os.write(writing, content)
        os.close(writing)
        yield reading
    finally:
        os.close(reading)


@contextlib.asynccontextmanager
async def with_seal_keys(first: bytes, previous: bytes | None = None) -> AsyncIterator[SignerProcess]:
    """A signer with these key-encryption keys."""
    with given(first) as one, given(previous or b"") as other:
        custody = Custody(seal_key=one, seal_key_previous=None if previous is None else other)
        signer = await start_signer(clock=SYSTEM_CLOCK, custody=custody)
    try:
        yield signer
    finally:
        await signer.stop()


@contextlib.asynccontextmanager
async def with_token(found: SoftHsm, *, pin: str = SoftHsm.pin) -> AsyncIterator[SignerProcess]:
    """A signer whose token that is."""
    with given(pin.encode() + b"\n") as descriptor:
        hsm = HsmCustody(
            module=found.module,
            token=found.label,
            pin=descriptor,
            environment=tuple(found.environment.items()),
            allow=(str(found.tokens.parent),),
        )
        signer = await start_signer(clock=SYSTEM_CLOCK, custody=Custody(hsm=hsm))
    try:
        yield signer
    finally:
        await signer.stop()


async def generate(signer: SignerProcess, mode: KeyMode, alg: Algorithm = Algorithm.ES256) -> MadeKey:
    return await signer.control.generate(issuer=ISSUER, alg=alg, typs=TYPS, mode=mode)


async def load(signer: SignerProcess, made: MadeKey, mode: KeyMode) -> None:
    await signer.control.load(
        kid=made.public.kid,
        issuer=ISSUER,
        alg=made.public.alg,
        typs=TYPS,
        mode=mode,
        sealed=made.sealed,
    )


async def extend(signer: SignerProcess, kid: Kid) -> None:
    now = SYSTEM_CLOCK.now()
    await signer.control.extend(
        kid, max_exp=NumericDate(now + 100_000), lease_until=NumericDate(now + 100_000)
    )


@contextlib.asynccontextmanager
async def signing(signer: SignerProcess, made: MadeKey) -> AsyncIterator[Callable[[], asyncio.Task[str]]]:
    """What signs one token with ``made``, which has a lease from now on."""
    await extend(signer, made.public.kid)
    worker = SignerClient(await signer.control.attach(), clock=SYSTEM_CLOCK)

    def sign() -> asyncio.Task[str]:
        claims = f'{{"iss":"{ISSUER}","exp":{SYSTEM_CLOCK.now() + 60}}}'.encode()
        return asyncio.create_task(worker.sign(made.public.kid, "at+jwt", claims))

    try:
        yield sign
    finally:
        worker.close()


def check(made: MadeKey, token: str) -> None:
    signed = jws.parse(token)
    jws.verify(made.public, signed.signing_input, signed.signature)


@pytest.mark.parametrize("alg", list(Algorithm))
async def test_node_with_the_same_seal_key_signs_with_the_shared_key(alg):
    """KY5: what one signer made another opens, in its sandbox, from what the store has."""
    async with with_seal_keys(FIRST) as one, with_seal_keys(base64.b64encode(FIRST) + b"\n") as other:
        assert (await one.control.status()).modes == {KeyMode.OWN, KeyMode.SHARED}
        made = await generate(one, KeyMode.SHARED, alg)
        await load(other, made, KeyMode.SHARED)
        async with signing(other, made) as sign:
            check(made, await sign())


async def test_seal_key_is_replaced_while_keys_live_on():
    """A signer that has both opens the old seal and makes the new one, after which the new key is enough."""
    async with with_seal_keys(FIRST) as old, with_seal_keys(SECOND, FIRST) as both:
        made = await generate(old, KeyMode.SHARED)
        assert made.sealed is not None
        kid, alg = made.public.kid, made.public.alg
        sealed = await both.control.reseal(kid=kid, issuer=ISSUER, alg=alg, sealed=made.sealed)
        assert sealed is not None
        again = MadeKey(made.public, sealed)
        assert await both.control.reseal(kid=kid, issuer=ISSUER, alg=alg, sealed=sealed) is None
        await old.control.forget(kid)
        with pytest.raises(SignerRefused) as refused:
            await load(old, again, KeyMode.SHARED)
        assert refused.value.reason is Refusal.NO_CUSTODY
    async with with_seal_keys(SECOND) as new:
        await load(new, again, KeyMode.SHARED)


@pytest.mark.parametrize(
    "content",
    [b"", b"canary", b"1" * 31, b"1" * 33, b"g" * 64, b"\xff" * 64, b"1" * (MAX_SECRET + 1)],
    ids=lambda content: f"{content[:1]!r}x{len(content)}",
)
async def test_seal_key_of_another_form_stops_the_start(content, capfd):
    """LG2: the error names the setting, and neither it nor the log shows what was read."""
    for previous in (False, True):
        with pytest.raises(ConfigurationError) as wrong:
            async with with_seal_keys(*((FIRST, content) if previous else (content,))):
                pass
        assert wrong.value.key == ("seal_key_previous" if previous else "seal_key")
        shown = str(wrong.value) + capfd.readouterr().err
        assert "32 random bytes" in shown
        assert "canary" not in shown
        assert "11111" not in shown


async def test_module_or_path_that_is_not_there_stops_the_start(tmp_path):
    """The error names the setting: nothing starts that could never reach its token."""
    for fault, module, allow in (
        (Fault.HSM_MODULE, "/nonexistent/module.so", ()),
        (Fault.HSM_MODULE, "/usr/lib/x86_64-linux-gnu/libc.so.6", ()),
        (Fault.HSM_ALLOW, soft_hsm(tmp_path).module, ("/nonexistent/tokens",)),
    ):
        with given(b"1234") as pin:
            hsm = HsmCustody(module=module, token="t", pin=pin, allow=allow)
            with pytest.raises(ConfigurationError) as wrong:
                await start_signer(clock=SYSTEM_CLOCK, custody=Custody(hsm=hsm))
        assert wrong.value.key == fault.setting


async def test_token_works_from_within_the_sandbox_and_only_its_folder_is_open(tmp_path):
    """Keys are made, found by another node's signer and used, and the report says what is left open."""
    found = soft_hsm(tmp_path)
    async with with_token(found) as one, with_token(found) as other:
        for alg in (Algorithm.RS256, Algorithm.PS256, Algorithm.ES256):
            made = await generate(one, KeyMode.HSM, alg)
            assert made.sealed is None
            await load(other, made, KeyMode.HSM)
            async with signing(other, made) as sign:
                check(made, await sign())
        status = await one.control.status()
    assert status.token is TokenState.READY
    report = {item.name: item for item in status.hardening}
    if report["landlock"].on:
        assert str(tmp_path) in report["landlock"].reason


async def test_token_that_goes_away_and_comes_back_needs_no_restart(tmp_path):
    """Every signature fails while it is away, the keys stay in the table, and the same signer goes on."""
    found = soft_hsm(tmp_path)
    async with with_token(found) as signer:
        made = await generate(signer, KeyMode.HSM)
        async with signing(signer, made) as sign:
            check(made, await sign())
            held = [key.kid for key in (await signer.control.status()).keys]
            found.take_away()
            for _ in range(3):
                with pytest.raises(SignerUnavailable) as failed:
                    await sign()
                assert type(failed.value) is SignerUnavailable
            with pytest.raises(SignerUnavailable) as failed:
                await generate(signer, KeyMode.HSM)
            assert type(failed.value) is SignerUnavailable
            status = await signer.control.status()
            assert (status.token, [key.kid for key in status.keys]) == (TokenState.AWAY, held)
            found.bring_back()
            check(made, await until_signed(sign))
            assert (await signer.control.status()).token is TokenState.READY


async def test_token_is_looked_for_by_whoever_asks_how_it_is(tmp_path):
    """The first status knows it, and later ones bring it back without a signature that fails first."""
    found = soft_hsm(tmp_path)
    async with with_token(found) as signer:
        assert (await signer.control.status()).token is TokenState.READY
        made = await generate(signer, KeyMode.HSM)
        found.take_away()
        with pytest.raises(SignerUnavailable):
            await generate(signer, KeyMode.HSM)
        assert (await signer.control.status()).token is TokenState.AWAY
        # Forgotten all the same; what stays in the token is left to the sweep.
        await signer.control.forget(made.public.kid, destroy=True)
        assert (await signer.control.status()).keys == ()
        found.bring_back()
        async with asyncio.timeout(PATIENCE):
            while (await signer.control.status()).token is not TokenState.READY:
                pass  # Each round trip is a turn in which it may be found.
        await load(signer, made, KeyMode.HSM)


async def test_signer_starts_while_its_token_is_away(tmp_path):
    """A power cut that takes both ends with the node serving again once the token is back, too."""
    found = soft_hsm(tmp_path)
    found.take_away()
    async with with_token(found) as signer:
        assert (await signer.control.status()).token is TokenState.AWAY
        found.bring_back()
        async with asyncio.timeout(PATIENCE):
            while (await signer.control.status()).token is not TokenState.READY:
                pass
        made = await generate(signer, KeyMode.HSM)
        async with signing(signer, made) as sign:
            check(made, await sign())


async def test_key_survives_its_node(tmp_path):
    """A node that starts anew finds the key in the token and signs with it."""
    found = soft_hsm(tmp_path)
    async with with_token(found) as signer:
        made = await generate(signer, KeyMode.HSM)
    async with with_token(found) as signer:
        await load(signer, made, KeyMode.HSM)
        async with signing(signer, made) as sign:
            check(made, await sign())


async def test_own_keys_sign_while_the_token_refuses_the_pin(tmp_path, capfd):
    """LG2: the signer lives, says what is wrong, and shows no PIN; keys of other modes are not concerned."""
    async with with_token(soft_hsm(tmp_path), pin="canary-pin") as signer:
        with pytest.raises(SignerUnavailable):
            await generate(signer, KeyMode.HSM)
        made = await generate(signer, KeyMode.OWN)
        async with signing(signer, made) as sign:
            check(made, await sign())
        assert (await signer.control.status()).token is TokenState.PIN_REFUSED
    shown = capfd.readouterr().err
    assert "refuses the PIN" in shown
    assert "canary" not in shown


async def test_secrets_are_in_no_argument_and_no_environment(tmp_path):
    """Whoever lists processes sees where the token is, and neither PIN nor key-encryption key."""
    found = soft_hsm(tmp_path)
    async with with_token(found) as signer:
        for pid in (signer.process.pid, (await signer.control.status()).pid):
            assert found.pin.encode() not in read(pid, "cmdline")
            assert b"SOFTHSM2_CONF" not in read(pid, "environ")


SANDBOXED = """
import json, os, socket, subprocess, sys
from mintmark.signer.hardening import Profile, harden

def works(what):
    try:
        what()
    except PermissionError:
        return False
    except ConnectionRefusedError:
        pass
    return True

network, inside, outside = sys.argv[1] == "network", sys.argv[2], sys.argv[3]
report = harden(Profile.SIGNER, network=network, paths=[inside])
made = []
print(json.dumps({
    "landlock": next(item.on for item in report if item.name == "landlock"),
    "seccomp": next(item.on for item in report if item.name == "seccomp"),
    "socket": works(lambda: made.append(socket.socket())),
    "connect": works(lambda: made[0].connect(("127.0.0.1", 1))) if made else False,
    "bind": works(lambda: made[0].bind(("127.0.0.1", 0))) if made else False,
    "read inside": works(lambda: open(inside + "/file").read()),
    "write inside": works(lambda: open(inside + "/new", "w").write("x")),
    "replace inside": works(lambda: os.replace(inside + "/new", inside + "/file")),
    "read outside": works(lambda: open(outside + "/file").read()),
    "write outside": works(lambda: open(outside + "/new", "w")),
    "link": works(lambda: os.symlink("/etc", inside + "/link")),
    "run": works(lambda: subprocess.run([inside + "/program"])),
}))
"""
FILES = {"read inside", "write inside", "replace inside"}


@pytest.mark.parametrize(("network", "open_"), [("closed", FILES), (NETWORK, FILES | {"socket", "connect"})])
def test_sandbox_of_a_token_opens_what_was_named_and_nothing_else(tmp_path, network, open_):
    """Reading and writing in a folder that was named, connecting where it was asked for; never a program."""
    places = [tmp_path / "inside", tmp_path / "outside"]
    for place in places:
        place.mkdir()
        (place / "file").write_text("x")
        (place / "program").symlink_to("/bin/true")
    ran = subprocess.run(
        [sys.executable, "-I", "-c", SANDBOXED, network, *map(str, places)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {name for name, works in json.loads(ran.stdout).items() if works}
    assert found >= open_
    if found >= {"landlock", "seccomp"}:
        assert found == open_ | {"landlock", "seccomp"}
    else:
        assert os.environ.get("CI") != "true", "this kernel has no sandbox, so nothing was proved"


def read(pid: int, name: str) -> bytes:
    """What /proc tells of a process; nothing where only root is told."""
    try:
        return Path("/proc", str(pid), name).read_bytes()
    except PermissionError:
        return b""


async def until_signed(sign: Callable[[], asyncio.Task[str]]) -> str:
    """The first token that comes out, within a minute."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(SignerUnavailable):
                return await sign()
            await asyncio.sleep(0.1)
