"""The signer without its process: for tests, and for a cluster in one process.

Everything but the process boundary is the real thing: the same key table, frames, channels and threads,
in the loop that is running. Private keys are then in the memory of whoever uses it.
"""

import socket
from typing import TYPE_CHECKING

from mintmark.core.algorithm import Algorithm
from mintmark.core.key import KeyMode
from mintmark.ports.clock import Clock
from mintmark.ports.signer import MadeKey, SignerStatus
from mintmark.signer.client import ControlClient, SignerClient
from mintmark.signer.sealed import Seals
from mintmark.signer.service import SignerService
from mintmark.units import Issuer, Kid, NumericDate, Seconds

if TYPE_CHECKING:
    from mintmark.signer.token import Token


class LocalSigner:
    """Both :class:`mintmark.ports.signer.Signer` and ``SignerControl``, in the running loop.

    With ``seals`` it has mode ``shared``; signers whose seals have the same keys share theirs. With ``token``
    it has mode ``hsm``; one object may serve several signers, and whoever made it closes it after them.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        rsa_bits: int = 2048,
        threads: int = 2,
        seals: Seals | None = None,
        token: "Token | None" = None,
    ) -> None:
        self._service = SignerService(
            clock=clock, rsa_bits=rsa_bits, threads=threads, seals=seals, token=token
        )
        ours, theirs = socket.socketpair()
        self._service.serve_control(theirs, lambda: None)
        self._control = ControlClient(ours, clock=clock)
        ours, theirs = socket.socketpair()
        self._service.serve_worker(theirs)
        self._worker = SignerClient(ours, clock=clock)

    async def generate(
        self, *, issuer: Issuer, alg: Algorithm, typs: frozenset[str], mode: KeyMode = KeyMode.OWN
    ) -> MadeKey:
        """A new key; see the port."""
        return await self._control.generate(issuer=issuer, alg=alg, typs=typs, mode=mode)

    async def load(
        self,
        *,
        kid: Kid,
        issuer: Issuer,
        alg: Algorithm,
        typs: frozenset[str],
        mode: KeyMode,
        sealed: bytes | None = None,
    ) -> None:
        """Hold a key of the cluster too; see the port."""
        await self._control.load(kid=kid, issuer=issuer, alg=alg, typs=typs, mode=mode, sealed=sealed)

    async def reseal(self, *, kid: Kid, issuer: Issuer, alg: Algorithm, sealed: bytes) -> bytes | None:
        """Another seal for the same key; see the port."""
        return await self._control.reseal(kid=kid, issuer=issuer, alg=alg, sealed=sealed)

    async def extend(self, kid: Kid, *, max_exp: NumericDate, lease_until: NumericDate) -> None:
        """Raise what ``kid`` may sign; see the port."""
        await self._control.extend(kid, max_exp=max_exp, lease_until=lease_until)

    async def forget(self, kid: Kid, *, destroy: bool = False) -> None:
        """Destroy the private half of ``kid``; see the port."""
        await self._control.forget(kid, destroy=destroy)

    async def sweep(self, *, known: frozenset[Kid], issuer: Issuer, older_than: Seconds) -> tuple[Kid, ...]:
        """Destroy what was left behind in the token; see the port."""
        return await self._control.sweep(known=known, issuer=issuer, older_than=older_than)

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
