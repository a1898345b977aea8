"""Every signer keeps every clause of its port."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.softhsm import soft_hsm

from mintmark.core.key import KeyMode
from mintmark.core.sealing import SealKey
from mintmark.signer.client import SignerClient
from mintmark.signer.cryptoki import Module
from mintmark.signer.launch import start_signer
from mintmark.signer.local import LocalSigner
from mintmark.signer.sealed import Seals
from mintmark.signer.token import ALGORITHMS, Token
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.custody import CustodyConformance
from mintmark.testing.conformance.signer import SignerConformance
from mintmark.testing.conformance.signing import Rig


async def local(*_: object) -> AsyncIterator[Rig]:
    clock = FakeClock()
    signer = LocalSigner(clock=clock)

    async def end() -> None:
        signer.close()

    try:
        yield Rig(signer, signer, clock, lambda sock: SignerClient(sock, clock=clock), end)
    finally:
        signer.close()


async def shared(*_: object) -> AsyncIterator[Rig]:
    clock = FakeClock()
    seals = Seals([SealKey.from_bytes(b"k" * 32)], entropy=SYSTEM_ENTROPY)
    signer, twin = LocalSigner(clock=clock, seals=seals), LocalSigner(clock=clock, seals=seals)

    async def end() -> None:
        signer.close()

    try:
        yield Rig(
            signer,
            signer,
            clock,
            lambda sock: SignerClient(sock, clock=clock),
            end,
            mode=KeyMode.SHARED,
            twin=twin,
        )
    finally:
        signer.close()
        twin.close()


async def hsm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    found = soft_hsm(folder)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    clock = FakeClock()
    token = Token(Module(found.module), label=found.label, pin=found.pin, rsa_bits=2048, clock=clock)
    signer, twin = LocalSigner(clock=clock, token=token), LocalSigner(clock=clock, token=token)

    async def end() -> None:
        signer.close()

    try:
        yield Rig(
            signer,
            signer,
            clock,
            lambda sock: SignerClient(sock, clock=clock),
            end,
            mode=KeyMode.HSM,
            twin=twin,
            algorithms=ALGORITHMS,
        )
    finally:
        signer.close()
        twin.close()
        token.close()


async def process(*_: object) -> AsyncIterator[Rig]:
    signer = await start_signer(clock=SYSTEM_CLOCK)
    try:
        worker = SignerClient(await signer.control.attach(), clock=SYSTEM_CLOCK)
        pid = (await signer.control.status()).pid

        async def end() -> None:
            os.kill(pid, signal.SIGKILL)
            await worker.ended()
            await signer.control.ended()

        yield Rig(
            signer.control, worker, SYSTEM_CLOCK, lambda sock: SignerClient(sock, clock=SYSTEM_CLOCK), end
        )
        worker.close()
    finally:
        await signer.stop()


@pytest.fixture(params=[local, shared, hsm, process], ids=lambda make: make.__name__)
async def rig(request, tmp_path, monkeypatch) -> AsyncIterator[Rig]:
    async for made in request.param(tmp_path, monkeypatch):
        yield made


class TestSigner(SignerConformance):
    """The suite, on the signer in this process and on the real one, with keys of each mode."""


class TestCustody(CustodyConformance):
    """The suite of keys that outlive a signer, on the same."""
