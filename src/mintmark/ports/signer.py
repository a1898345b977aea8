"""The process that holds private keys, as its two callers see it.

The *control* process makes, extends and forgets keys through :class:`SignerControl`; HTTP workers, and
control itself, sign through :class:`Signer`. What a worker has is one channel on which nothing but
``sign`` exists, so a worker that is taken over can sign what its node could sign just then, and no more.

Clauses, each with a conformance test:

- SIGNER-1 ``generate`` makes a new key each time, and only its public half comes out.
- SIGNER-2 a new key signs nothing before its first ``extend``.
- SIGNER-3 ``sign`` gives a compact JWS (RFC 7515 s.7.1) of exactly the payload's bytes under exactly the
  header ``{"alg", "kid", "typ"}``, which the signer builds itself; the key's public half verifies it.
- SIGNER-4 nothing is signed whose ``exp`` is later than the key's ``max_exp``, or is no integer.
- SIGNER-5 nothing is signed whose ``iss`` is not the key's issuer.
- SIGNER-6 nothing is signed under a ``typ`` that the key was not made for.
- SIGNER-7 nothing is signed that is not one strict JSON object: two parsers that disagree about a
  payload could disagree about its ``exp``.
- SIGNER-8 ``extend`` only ever raises: a late or repeated one changes nothing.
- SIGNER-9 once ``forget`` has returned, no signature of that key comes out, not even one that had
  begun; forgetting again, or forgetting what never was, is no error.
- SIGNER-10 a second line: nothing is signed once ``lease_until`` has passed, by the wall clock or by a
  clock that no step moves, nor anything that has already expired.
- SIGNER-11 every refusal is a SignerRefused with its reason, and changes nothing.
- SIGNER-12 concurrent calls are independent: each gets its own answer, and one that is refused or
  cancelled takes no other with it.
- SIGNER-13 a channel that ``attach`` gave signs like any other; when it is damaged or closed, the keys
  and every other channel live on.
- SIGNER-14 once the signer is gone, every call, also one that was waiting, raises SignerUnavailable.
- SIGNER-15 a mode that the signer was not configured for makes and loads nothing (``no_custody``), and
  ``status`` says which modes it has.
- SIGNER-16 ``load`` brings a key of mode ``shared`` or ``hsm`` that any signer of the same custody made, and
  every clause above holds for it; loading it again is no error and lowers nothing.
- SIGNER-17 nothing is loaded under a ``kid``, an issuer or an ``alg`` other than those it was made for, nor
  from a seal that was changed, nor from a token that has it not (``sealed``, ``absent``).
- SIGNER-18 ``generate`` gives a sealed private half in mode ``shared`` and in no other; ``reseal`` gives the
  same key under the first key-encryption key, and None where it is so already.
- SIGNER-19 ``forget`` leaves a key of mode ``hsm`` in its token, unless it is told to destroy it there.
- SIGNER-20 ``sweep`` destroys in the token what that issuer made longer ago than ``older_than`` and is
  neither known nor loaded; elsewhere there is nothing to sweep.

The first line is data, not clocks: a process that was paused between check and signature can make
nothing that outlives its key, because what it signs carries an ``exp`` that the key covers (K3).
"""

import socket
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias

import msgspec

from mintmark.core.algorithm import Algorithm
from mintmark.core.jwk import PublicKey
from mintmark.core.key import KeyMode
from mintmark.errors import SignerUnavailable
from mintmark.units import Issuer, Kid, NumericDate, Seconds


class Refusal(StrEnum):
    """Why the signer would not; stable, and all that a caller learns."""

    UNKNOWN_KEY = "unknown_key"
    """Never made here, or forgotten."""
    NOT_EXTENDED = "not_extended"
    """The key has no lease yet."""
    EXP_PAST_LIMIT = "exp_past_limit"
    """``exp`` is later than ``max_exp``."""
    BAD_EXP = "bad_exp"
    """``exp`` is missing, or is no integer."""
    WRONG_ISSUER = "wrong_issuer"
    """``iss`` is missing, or is not the key's issuer."""
    WRONG_TYP = "wrong_typ"
    """The key was not made for this ``typ``."""
    BAD_PAYLOAD = "bad_payload"
    """Not one strict JSON object: a duplicate member, say."""
    TOO_LARGE = "too_large"
    """Larger than a token that verifiers accept."""
    LEASE_ENDED = "lease_ended"
    """Past ``lease_until``."""
    EXPIRED = "expired"
    """``exp`` is not in the future."""
    TOO_MANY_KEYS = "too_many_keys"
    """The signer holds as many keys as it will."""
    NO_CUSTODY = "no_custody"
    """The signer was not given what keeps such a key: its mode is not configured, or cannot have that
    algorithm, or it is sealed under a key-encryption key that is not here."""
    SEALED = "sealed"
    """The seal is not this key's, issuer's and algorithm's, or its bytes were changed."""
    ABSENT = "absent"
    """The token has no such key of this issuer and algorithm."""


class SignerRefused(SignerUnavailable):
    """The signer is there and may not sign, or make, this; ``reason`` says why."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(f"the signer refused: {reason.value}")
        self.reason = reason


class Hardened(msgspec.Struct, frozen=True):
    """One protection of a process: whether it is on, and why, or why not."""

    name: str
    on: bool
    reason: str


HardeningReport: TypeAlias = tuple[Hardened, ...]
"""What ``harden`` did to a process, one entry for each protection."""


class TokenState(StrEnum):
    """How the PKCS#11 token was when the signer last asked it for something."""

    READY = "ready"
    AWAY = "away"
    """It does not answer, or has no such label. The signer goes on asking."""
    PIN_REFUSED = "pin_refused"
    """The PIN is wrong or locked. It is not tried again before a restart: a few wrong tries lock a token."""


@dataclass(frozen=True, slots=True, repr=False)
class MadeKey:
    """A new key: its public half, and in mode ``shared`` its private half as it goes into the store."""

    public: PublicKey
    sealed: bytes | None = None


class KeyStatus(msgspec.Struct, frozen=True):
    """One key that the signer holds; ``max_exp`` and ``lease_until`` are None before the first extend."""

    kid: Kid
    issuer: Issuer
    alg: Algorithm
    max_exp: NumericDate | None
    lease_until: NumericDate | None
    signed: int
    mode: KeyMode = KeyMode.OWN


class SignerStatus(msgspec.Struct, frozen=True):
    """The signer's process id, its keys in the order they came, its channels, its protections.

    ``modes`` is what it was configured for, and ``token`` how its PKCS#11 token is, None without one.
    """

    pid: int
    keys: tuple[KeyStatus, ...]
    channels: int
    hardening: HardeningReport
    modes: frozenset[KeyMode] = frozenset({KeyMode.OWN})
    token: TokenState | None = None


class Signer(Protocol):
    """Signs; what a worker has."""

    async def sign(self, kid: Kid, typ: str, payload: bytes) -> str:
        """The compact JWS of ``payload`` by the key ``kid``.

        ``payload`` is the JSON text of the claims, ``typ`` the header's. Raises SignerRefused when the
        signer may not, SignerUnavailable when it is away, Overloaded when too many calls wait.
        """
        ...


class SignerControl(Protocol):
    """Makes keys, says how far they reach, and forgets them; what the control process has."""

    async def generate(
        self, *, issuer: Issuer, alg: Algorithm, typs: frozenset[str], mode: KeyMode = KeyMode.OWN
    ) -> MadeKey:
        """A new key of ``issuer`` that signs with ``alg`` under ``typs`` alone, kept as ``mode`` says.

        It signs nothing before its first :meth:`extend`. Raises SignerRefused, SignerUnavailable.
        """
        ...

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
        """Hold ``kid`` too: ``sealed`` opened, or found in the token. Idempotent.

        Like a new key it signs nothing before an :meth:`extend`. A :meth:`forget` meanwhile wins
        (``unknown_key``). Raises SignerRefused (``no_custody``, ``sealed``, ``absent``, ``too_many_keys``),
        SignerUnavailable, also when the token is away.
        """
        ...

    async def reseal(self, *, kid: Kid, issuer: Issuer, alg: Algorithm, sealed: bytes) -> bytes | None:
        """``sealed`` under the first key-encryption key; None when it is so already.

        Needs no loaded key and loads none. Raises SignerRefused (``no_custody``, ``sealed``),
        SignerUnavailable.
        """
        ...

    async def extend(self, kid: Kid, *, max_exp: NumericDate, lease_until: NumericDate) -> None:
        """Let ``kid`` sign what expires by ``max_exp``, until ``lease_until``; never lowers either.

        Call it only after the renewal that it follows is committed. Raises SignerRefused
        (``unknown_key``), SignerUnavailable.
        """
        ...

    async def forget(self, kid: Kid, *, destroy: bool = False) -> None:
        """Destroy the private half of ``kid`` here, and with ``destroy`` also in the token; idempotent.

        What cannot be destroyed, because the token is away, is left to :meth:`sweep`. Raises
        SignerUnavailable.
        """
        ...

    async def sweep(self, *, known: frozenset[Kid], issuer: Issuer, older_than: Seconds) -> tuple[Kid, ...]:
        """Destroy what ``issuer`` left behind in the token, and say what that was.

        That is every key that this project made there for it more than ``older_than`` ago, that is not in
        ``known`` and not loaded: its maker ended between making it and writing it down. Nothing without a
        token. Raises SignerUnavailable.
        """
        ...

    async def status(self) -> SignerStatus:
        """What the signer holds and how it is protected; nothing secret. Raises SignerUnavailable.

        To ask for it is to have a token that is away looked for again.
        """
        ...

    async def attach(self) -> socket.socket:
        """One end of a new channel on which only ``sign`` exists.

        Hand it to one worker, by inheritance, and close it here. Raises SignerUnavailable.
        """
        ...
