"""What a node hands its signer: node.custody."""

import asyncio
import os
from pathlib import Path

import pytest

from mintmark.core.algorithm import Algorithm
from mintmark.core.key import KeyMode
from mintmark.errors import ConfigurationError, SignerUnavailable
from mintmark.node.custody import modes_of, open_custody, secret_variables
from mintmark.server.settings import Settings, read
from mintmark.signer.custody import MAX_SECRET
from mintmark.signer.launch import start_signer
from mintmark.system import SYSTEM_CLOCK
from mintmark.units import Issuer

ISSUER = Issuer("https://auth.example.com")
SECRET = "5eca" * 16
HSM = {"hsm_module": "/usr/lib/module.so", "hsm_token": "auth", "hsm_pin": "env:PIN"}


def sealed(source: str, **others: str) -> Settings:
    return read({"seal_key": source, **others}, {})


async def modes_with(settings: Settings, environ: dict[str, str]) -> frozenset[KeyMode]:
    """What a signer that was started with that custody can hold."""
    async with open_custody(settings, environ=environ) as custody:
        signer = await start_signer(clock=SYSTEM_CLOCK, custody=custody)
    try:
        return (await signer.control.status()).modes
    finally:
        await signer.stop()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("form", ["file", "env", "command"])
async def test_key_reaches_the_signer_from_wherever_it_is(tmp_path: Path, form: str):
    """Each form gives a signer that makes shared keys, and nothing stays open in the node."""
    file = tmp_path / "key"
    file.write_text(SECRET + "\n")
    source = {"file": f"file:{file}", "env": "env:SEAL_KEY", "command": f"command:/bin/cat {file}"}[form]
    # The event loop's own descriptors come with the first process that it starts.
    await modes_with(sealed(source), {"SEAL_KEY": SECRET})
    before = descriptors()
    assert KeyMode.SHARED in await modes_with(sealed(source), {"SEAL_KEY": SECRET})
    assert descriptors() == before


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("file:/nonexistent/key", "file:/nonexistent/key: no such file"),
        ("env:SEAL_KEY", "env:SEAL_KEY: there is no such variable"),
        ("env:LONG", f"is longer than {MAX_SECRET} bytes"),
        ("command:/nonexistent/program", "no such file"),
        ("command:/bin/sh -c 'echo canary; exit 3'", "the command ended with status 3"),
        ("command:/bin/echo canary", "must give 32 random bytes"),
        ("file:/dev/null", "must give 32 random bytes"),
    ],
)
async def test_source_that_fails_is_said_with_its_setting(source: str, reason: str, capfd):
    """LG2: the error names setting and source, and nothing shows what was read."""
    environ = {"LONG": "canary" * MAX_SECRET}
    with pytest.raises(ConfigurationError) as wrong:
        await modes_with(sealed(source), environ)
    assert wrong.value.key == "seal_key"
    assert reason in wrong.value.reason
    shown = capfd.readouterr()
    assert "canary" not in str(wrong.value).replace(source, "") + shown.out + shown.err


async def test_command_that_does_not_end_is_the_reason_and_is_ended(tmp_path: Path):
    """A signer that waited for it in vain says less than that; it does not outlive the start."""
    pipe = tmp_path / "pid"
    os.mkfifo(pipe)
    settings = sealed(f"command:/bin/sh -c 'echo $$ > {pipe}; exec sleep 1000'")
    started: list[str] = []

    async def wait_in_vain() -> None:
        async with open_custody(settings):
            started.append((await asyncio.to_thread(pipe.read_text)).strip())
            raise SignerUnavailable("the signer does not answer")

    with pytest.raises(ConfigurationError, match="does not end"):
        await wait_in_vain()
    assert started
    assert not is_running(started[0])


def is_running(pid: str) -> bool:
    return Path("/proc", pid).exists()


async def test_previous_key_is_named_where_it_is_the_one_that_is_wrong(tmp_path: Path):
    """Two secrets of one kind are told apart."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text(SECRET)
    bad.write_text(SECRET[:-2])
    with pytest.raises(ConfigurationError) as wrong:
        await modes_with(sealed(f"file:{good}", seal_key_previous=f"file:{bad}"), {})
    assert wrong.value.key == "seal_key_previous"


def test_modes_are_those_that_something_was_given_for():
    """A node counts on no mode that its signer would refuse."""
    for document, modes in (
        ({}, {KeyMode.OWN}),
        ({"seal_key": "env:K"}, {KeyMode.OWN, KeyMode.SHARED}),
        (HSM, {KeyMode.OWN, KeyMode.HSM}),
        ({"seal_key": "env:K", **HSM}, set(KeyMode)),
    ):
        assert modes_of(read(document, {})) == modes


def test_variables_that_hold_a_secret_of_the_signer_are_known():
    """They are withheld from every other process; files and commands are nobody's variables."""
    settings = read({"seal_key": "env:K", "seal_key_previous": "file:/k", **HSM}, {})
    assert secret_variables(settings) == {"K", "PIN"}
    assert secret_variables(read({"algorithm": Algorithm.ES256.value}, {})) == frozenset()


async def test_command_sees_no_secret_that_a_variable_holds(tmp_path: Path):
    """A program that prints one secret is told what it needs to ask for it, and none of the others."""
    document = {
        "seal_key": f"command:/bin/sh -c 'env > {tmp_path}/seen; echo {SECRET}'",
        "seal_key_previous": "env:OLD",
        "cluster_key": "env:MARK",
        "cluster_key_also": "env:MARK_OLD",
        **HSM,
    }
    held = ("OLD", "MARK", "MARK_OLD", "PIN")
    environ = {name: f"canary-{name}" for name in held} | {"VAULT_ADDR": "https://vault.example.com"}
    async with open_custody(read(document, {}), environ=environ) as custody:
        assert custody.seal_key is not None
        # The end of the pipe: all that the command had to say was said.
        with open(custody.seal_key, "rb", closefd=False) as pipe:  # noqa: ASYNC230
            printed = await asyncio.to_thread(pipe.read)
    assert printed.strip() == SECRET.encode()
    seen = (tmp_path / "seen").read_text()
    assert "VAULT_ADDR=https://vault.example.com" in seen
    assert "canary" not in seen
