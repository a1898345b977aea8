"""A signer under test, as the suites of its port use it."""

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import pytest

from mintmark.core.algorithm import Algorithm
from mintmark.core.jwk import PublicKey
from mintmark.core.key import KeyMode
from mintmark.ports.clock import Clock
from mintmark.ports.signer import MadeKey, Refusal, Signer, SignerControl, SignerRefused
from mintmark.units import Issuer, Kid, NumericDate

ISSUER = Issuer("https://auth.example.com")
TYP = "at+jwt"
LEASE = 120
TTL = 900


@dataclass(frozen=True, slots=True)
class Rig:
    """A signer under test, with the clock that it goes by."""

    control: SignerControl
    signer: Signer
    clock: Clock
    connect: Callable[[socket.socket], Signer]
    """A worker's signer on a channel that ``control.attach`` gave."""
    end: Callable[[], Awaitable[None]]
    """Make the signer go away, as if it had crashed."""
    mode: KeyMode = KeyMode.OWN
    """What keys the suite makes."""
    twin: SignerControl | None = None
    """Another signer with the same custody, as another node has it; None in mode ``own``, whose
    keys are one signer's alone."""
    algorithms: frozenset[Algorithm] = frozenset(Algorithm)
    """What keys of that mode can sign with."""

    async def make(
        self,
        alg: Algorithm = Algorithm.ES256,
        *,
        issuer: Issuer = ISSUER,
        typs: frozenset[str] = frozenset({TYP}),
    ) -> MadeKey:
        """A new key of the mode under test."""
        return await self.control.generate(issuer=issuer, alg=alg, typs=typs, mode=self.mode)

    async def generate(self, alg: Algorithm = Algorithm.ES256) -> PublicKey:
        """A new key of :data:`ISSUER` for access tokens."""
        return (await self.make(alg)).public

    async def has(self, alg: Algorithm) -> bool:
        """Whether keys of the mode under test sign with ``alg``; where not, none is made either."""
        if alg in self.algorithms:
            return True
        with pytest.raises(SignerRefused) as refused:
            await self.make(alg)
        assert refused.value.reason is Refusal.NO_CUSTODY
        return False

    async def load(
        self,
        made: MadeKey,
        *,
        into: SignerControl | None = None,
        kid: Kid | None = None,
        issuer: Issuer = ISSUER,
        alg: Algorithm | None = None,
        sealed: bytes | None = None,
    ) -> None:
        """Have ``into``, or the signer under test, load ``made``; what is given replaces what is true."""
        await (into or self.control).load(
            kid=kid or made.public.kid,
            issuer=issuer,
            alg=alg or made.public.alg,
            typs=frozenset({TYP}),
            mode=self.mode,
            sealed=made.sealed if sealed is None else sealed,
        )

    async def extend(self, kid: Kid) -> None:
        """Give ``kid`` a lease that has just begun."""
        now = self.clock.now()
        await self.control.extend(kid, max_exp=self.max_exp(now), lease_until=NumericDate(now + LEASE))

    async def ready_key(self, alg: Algorithm = Algorithm.ES256) -> PublicKey:
        """A new key with a lease that has just begun."""
        key = await self.generate(alg)
        await self.extend(key.kid)
        return key

    def max_exp(self, now: NumericDate | None = None) -> NumericDate:
        """The latest ``exp`` under a lease that begins at ``now``."""
        return NumericDate((self.clock.now() if now is None else now) + LEASE + TTL)

    def payload(self, **changed: object) -> bytes:
        """Claims that a fresh key may sign, with some changed; a claim changed to UNSET is left out."""
        claims = {"iss": ISSUER, "sub": "usr_1", "exp": self.clock.now() + TTL, **changed}
        return msgspec.json.encode(
            {name: value for name, value in claims.items() if value is not msgspec.UNSET}
        )

    async def refusal(self, kid: Kid, typ: str, payload: bytes) -> Refusal:
        """Why the signer refuses to sign this; fails the test when it does not."""
        with pytest.raises(SignerRefused) as refused:
            await self.signer.sign(kid, typ, payload)
        return refused.value.reason
