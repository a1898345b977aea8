"""The signer without its process: for tests, and for a cluster in one process.

Everything but the process boundary is the real thing: the same key table, frames, channels and threads,
in the loop that is running. Private keys are then in the memory of whoever uses it.
"""

import socket

from mintmark.core.algorithm import Algorithm
from mintmark.core.jwk import PublicKey
from mintmark.ports.clock import Clock
from mintmark.ports.signer import SignerStatus
from mintmark.signer.client import ControlClient, SignerClient
from mintmark.signer.service import SignerService
from mintmark.units import Issuer, Kid, NumericDate


class LocalSigner:
    """Both :class:`mintmark.ports.signer.Signer` and ``SignerControl``, in the running loop."""

    def __init__(self, *, clock: Clock, rsa_bits: int = 2048, threads: int = 2) -> None:
        self._service = SignerService(clock=clock, rsa_bits=rsa_bits, threads=threads)
        ours, theirs = socket.socketpair()
        self._service.serve_control(theirs, lambda: None)
        self._control = ControlClient(ours, clock=clock)
        ours, theirs = socket.socketpair()
        self._service.serve_worker(theirs)
        self._worker = SignerClient(ours, clock=clock)

    async def generate(self, *, issuer: Issuer, alg: Algorithm, typs: frozenset[str]) -> PublicKey:
        """The public half of a new key; see the port."""
        return await self._control.generate(issuer=issuer, alg=alg, typs=typs)

    async def extend(self, kid: Kid, *, max_exp: NumericDate, lease_until: NumericDate) -> None:
        """Raise what ``kid`` may sign; see the port."""
        await self._control.extend(kid, max_exp=max_exp, lease_until=lease_until)

    async def forget(self, kid: Kid) -> None:
        """Destroy the private half of ``kid``; see the port."""
        await self._control.forget(kid)

    async def status(self) -> SignerStatus:
        """What it holds; see the port."""
        return await self._control.status()

    async def attach(self) -> socket.socket:
        """One end of a new worker's channel; see the port."""
        return await self._control.attach()

    async def sign(self, kid: Kid, typ: str, payload: bytes) -> str:
        """The compact JWS of ``payload``; see the port."""
        return await self._worker.sign(kid, typ, payload)

    def close(self) -> None:
        """End it and forget every key; what waits raises SignerUnavailable. Idempotent."""
        self._worker.close()
        self._control.close()
        self._service.close()
