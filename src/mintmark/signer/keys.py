"""The private keys of one node, and the rules under which each may sign.

No I/O and no thread of its own: whoever calls it decides where the arithmetic runs. A signature is made
in three steps, so that the slow one in the middle may run in another thread: :meth:`KeyTable.admit`
applies every rule, :meth:`Admitted.signature` is the bare arithmetic on data that no longer changes, and
:meth:`KeyTable.finish` gives the token out, unless the key has been forgotten meanwhile.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol, TypeAlias, cast

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from mintmark.core import base64url, jws, strict_json
from mintmark.core.algorithm import Algorithm
from mintmark.core.jwk import PublicKey
from mintmark.core.jws import PrivateKeyObject
from mintmark.core.key import KeyMode
from mintmark.core.minting import MAX_PAYLOAD
from mintmark.ports.clock import Clock
from mintmark.ports.signer import KeyStatus, Refusal, SignerRefused
from mintmark.units import Issuer, Kid, NumericDate

MAX_KEYS: Final = 64
"""Keys that one signer holds: a few of each issuer, and a limit, so that no fault can pile them up."""

THREADED: Final = frozenset({Algorithm.RS256, Algorithm.PS256})
"""Algorithms whose signature takes longer than a hop to another thread."""

_TYP: Final = re.compile(r"[A-Za-z0-9!#$&^_.+/-]{1,64}")


class TokenKey(Protocol):
    """A private half that is not in this process: whoever has it signs for us."""

    def sign(self, message: bytes) -> bytes:
        """The JWS signature of ``message``; may take long, or raise SignerUnavailable."""
        ...

    def check(self) -> None:
        """Raise SignerUnavailable where whoever has it is known to be away; asks nobody."""
        ...


PrivateHalf: TypeAlias = PrivateKeyObject | TokenKey


class Where(Enum):
    """Where the arithmetic of a signature belongs."""

    LOOP = "loop"
    """It is cheaper than a hop to a thread."""
    THREAD = "thread"
    DEVICE = "device"
    """A thread of its own kind: one that waits for a device keeps no other signature waiting."""


@dataclass(slots=True, eq=False, repr=False)
class _Key:
    """One key; its private half is None once it is forgotten."""

    public: PublicKey
    private: PrivateHalf | None
    issuer: Issuer
    mode: KeyMode
    heads: dict[str, bytes]
    """By ``typ``: the encoded header and its dot, the same for every token of this key."""
    max_exp: NumericDate | None = None
    lease_until: NumericDate = NumericDate(0)
    lease_deadline: float = 0.0
    signed: int = 0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Admitted:
    """A signing that every rule allows."""

    key: _Key
    private: PrivateHalf
    message: bytes

    @property
    def where(self) -> Where:
        """Where :meth:`signature` is to run."""
        if self.key.mode is KeyMode.HSM:
            return Where.DEVICE
        return Where.THREAD if self.key.public.alg in THREADED else Where.LOOP

    def signature(self) -> bytes:
        """The signature over the message, in JWS form; safe in any thread."""
        match self.private:
            case rsa.RSAPrivateKey() | ec.EllipticCurvePrivateKey() | ed25519.Ed25519PrivateKey() as held:
                return jws.sign(self.key.public.alg, held, self.message)
            case elsewhere:
                return elsewhere.sign(self.message)


class KeyTable:
    """Holds private keys and applies the rules of SIGNER-2 to SIGNER-10.

    ``clock`` is the second line: its ``monotonic`` should count the time that the machine was suspended.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._keys: dict[Kid, _Key] = {}

    def add(
        self,
        public: PublicKey,
        private: PrivateHalf,
        *,
        issuer: Issuer,
        typs: frozenset[str],
        mode: KeyMode = KeyMode.OWN,
    ) -> None:
        """Take a key in; it signs nothing before :meth:`extend`. One that is here already stays as it is.

        Raises SignerRefused (``too_many_keys``, ``wrong_typ``).
        """
        if public.kid in self._keys:
            return
        self.check_room(typs)
        header = {"alg": public.alg.value, "kid": public.kid}
        heads = {typ: jws.signing_input({**header, "typ": typ}, b"") for typ in typs}
        self._keys[public.kid] = _Key(public, private, issuer, mode, heads)

    def check_room(self, typs: frozenset[str]) -> None:
        """Raise SignerRefused when :meth:`add` of a key for ``typs`` would; ask before a key is made."""
        if len(self._keys) >= MAX_KEYS:
            raise SignerRefused(Refusal.TOO_MANY_KEYS)
        if not typs or not all(_TYP.fullmatch(typ) for typ in typs):
            raise SignerRefused(Refusal.WRONG_TYP)

    def holds(self, kid: Kid, *, issuer: Issuer, alg: Algorithm, typs: frozenset[str]) -> bool:
        """Whether ``kid`` is here; raises SignerRefused when it is, and is another issuer's, or for else."""
        key = self._keys.get(kid)
        if key is None:
            return False
        if key.issuer != issuer:
            raise SignerRefused(Refusal.WRONG_ISSUER)
        if key.public.alg is not alg or key.heads.keys() != typs:
            raise SignerRefused(Refusal.WRONG_TYP)
        return True

    def extend(self, kid: Kid, *, max_exp: NumericDate, lease_until: NumericDate) -> None:
        """Raise what ``kid`` may sign; see SIGNER-8. Raises SignerRefused (``unknown_key``)."""
        key = self._find(kid)
        key.max_exp = max_exp if key.max_exp is None else max(key.max_exp, max_exp)
        if lease_until > key.lease_until:
            key.lease_until = lease_until
            key.lease_deadline = self._clock.monotonic() + (lease_until - self._clock.now())

    def forget(self, kid: Kid) -> None:
        """Drop the private half; OpenSSL clears its memory as the last use of it ends. Idempotent."""
        key = self._keys.pop(kid, None)
        if key is not None:
            key.private = None

    def forget_all(self) -> None:
        """Drop every private half."""
        for kid in tuple(self._keys):
            self.forget(kid)

    def status(self) -> tuple[KeyStatus, ...]:
        """Every key, in the order in which they came; nothing secret."""
        return tuple(
            KeyStatus(
                kid,
                key.issuer,
                key.public.alg,
                key.max_exp,
                None if key.max_exp is None else key.lease_until,
                key.signed,
                key.mode,
            )
            for kid, key in self._keys.items()
        )

    def admit(self, kid: Kid, typ: str, payload: bytes) -> Admitted:
        """The signing of ``payload``, when every rule allows it; raises SignerRefused, SignerUnavailable."""
        key = self._find(kid)
        head = key.heads.get(typ)
        if head is None or key.private is None:
            raise SignerRefused(Refusal.WRONG_TYP)
        if key.max_exp is None:
            raise SignerRefused(Refusal.NOT_EXTENDED)
        if not payload and key.mode is KeyMode.HSM:
            # A probe of readiness gets no further than this, so it would never hear of the token.
            cast("TokenKey", key.private).check()
        if len(payload) > MAX_PAYLOAD:
            raise SignerRefused(Refusal.TOO_LARGE)
        try:
            claims = strict_json.decode(payload)
        except strict_json.NotStrictJson:
            raise SignerRefused(Refusal.BAD_PAYLOAD) from None
        if type(claims) is not dict:
            raise SignerRefused(Refusal.BAD_PAYLOAD)
        if claims.get("iss") != key.issuer:
            raise SignerRefused(Refusal.WRONG_ISSUER)
        exp = claims.get("exp")
        if type(exp) is not int:  # True is an int to isinstance, and a float may round either way.
            raise SignerRefused(Refusal.BAD_EXP)
        if exp > key.max_exp:
            raise SignerRefused(Refusal.EXP_PAST_LIMIT)
        # The second line. What was checked above holds however late the signature comes out.
        now = self._clock.now()
        if now >= key.lease_until or self._clock.monotonic() >= key.lease_deadline:
            raise SignerRefused(Refusal.LEASE_ENDED)
        if exp <= now:
            raise SignerRefused(Refusal.EXPIRED)
        return Admitted(key, key.private, head + base64url.encode(payload).encode())

    def finish(self, admitted: Admitted, signature: bytes) -> str:
        """The token; raises SignerRefused (``unknown_key``) if its key was forgotten meanwhile."""
        key = admitted.key
        if key.private is None:
            raise SignerRefused(Refusal.UNKNOWN_KEY)
        key.signed += 1
        return jws.compact(admitted.message, signature)

    def _find(self, kid: Kid) -> _Key:
        key = self._keys.get(kid)
        if key is None:
            raise SignerRefused(Refusal.UNKNOWN_KEY)
        return key


def new_private_key(alg: Algorithm, rsa_bits: int) -> PrivateKeyObject:
    """A private key for ``alg`` from the kernel's randomness; slow for RSA, so call it in a thread."""
    match alg:
        case Algorithm.RS256 | Algorithm.PS256:
            return rsa.generate_private_key(public_exponent=65537, key_size=rsa_bits)
        case Algorithm.ES256:
            return ec.generate_private_key(ec.SECP256R1())
        case Algorithm.EDDSA:
            return ed25519.Ed25519PrivateKey.generate()
