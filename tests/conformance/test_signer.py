"""Every signer keeps every clause of its port."""

import os
import signal
from collections.abc import AsyncIterator

import pytest

from mintmark.core.key import KeyMode
from mintmark.core.sealing import SealKey
from mintmark.signer.client import SignerClient
from mintmark.signer.launch import start_signer
from mintmark.signer.local import LocalSigner
from mintmark.signer.sealed import Seals
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.signer import Rig, SignerConformance


async def local() -> AsyncIterator[Rig]:
    clock = FakeClock()
    signer = LocalSigner(clock=clock)

    async def end() -> None:
        signer.close()

    try:
        yield Rig(signer, signer, clock, lambda sock: SignerClient(sock, clock=clock), end)
    finally:
        signer.close()


async def shared() -> AsyncIterator[Rig]:
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


async def process() -> AsyncIterator[Rig]:
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


@pytest.fixture(params=[local, shared, process], ids=lambda make: make.__name__)
async def rig(request) -> AsyncIterator[Rig]:
    async for made in request.param():
        yield made


class TestSigner(SignerConformance):
    """The suite, on the signer in this process and on the real one."""
