"""The messages between the signer and its callers.

Each is one msgpack array whose first element names its kind; :mod:`mintmark.signer.channel` puts a
length before it. Requests carry an ``id`` that the answer repeats, so many may be under way at once and
answers come in any order. What a side may send is a type: a worker's channel decodes :class:`Sign` and
nothing else, so there is no other request that it would have to forbid.
"""

from typing import Final, TypeAlias

import msgspec

from mintmark.core.algorithm import Algorithm
from mintmark.core.key import KeyMode
from mintmark.core.minting import MAX_PAYLOAD
from mintmark.ports.signer import Refusal, SignerStatus
from mintmark.units import Issuer, Kid, NumericDate, Seconds

MAX_REQUEST: Final = MAX_PAYLOAD + 1024
"""Bytes of one request frame of a worker: the largest payload, and room for its envelope."""
MAX_ORDER: Final = 64 * 1024
"""Bytes of one request frame of control: a sealed key, or the names of every key of an issuer."""
MAX_ANSWER: Final = 64 * 1024
"""Bytes of one answer frame: a token, or the status of as many keys as the signer holds."""


class Sign(msgspec.Struct, array_like=True, tag="sign", frozen=True, gc=False):
    """From a worker: sign this."""

    id: int
    kid: Kid
    typ: str
    payload: bytes

    def __repr__(self) -> str:
        """The request without its payload, so that no log or traceback that prints it shows claims."""
        return f"Sign(id={self.id})"


class Generate(msgspec.Struct, array_like=True, tag="generate", frozen=True):
    """From control: make a key."""

    id: int
    issuer: Issuer
    alg: Algorithm
    typs: frozenset[str]
    mode: KeyMode


class Load(msgspec.Struct, array_like=True, tag="load", frozen=True):
    """From control: hold this key of the cluster too."""

    id: int
    kid: Kid
    issuer: Issuer
    alg: Algorithm
    typs: frozenset[str]
    mode: KeyMode
    sealed: bytes | None

    def __repr__(self) -> str:
        """The request without what is sealed."""
        return f"Load(id={self.id}, kid={self.kid!r})"


class Reseal(msgspec.Struct, array_like=True, tag="reseal", frozen=True):
    """From control: seal this under the first key-encryption key."""

    id: int
    kid: Kid
    issuer: Issuer
    alg: Algorithm
    sealed: bytes

    def __repr__(self) -> str:
        """The request without what is sealed."""
        return f"Reseal(id={self.id}, kid={self.kid!r})"


class Extend(msgspec.Struct, array_like=True, tag="extend", frozen=True):
    """From control: the renewal is committed."""

    id: int
    kid: Kid
    max_exp: NumericDate
    lease_until: NumericDate


class Forget(msgspec.Struct, array_like=True, tag="forget", frozen=True):
    """From control: destroy a key here, and in its token too when ``destroy`` says so."""

    id: int
    kid: Kid
    destroy: bool


class Sweep(msgspec.Struct, array_like=True, tag="sweep", frozen=True):
    """From control: destroy what was left behind in the token."""

    id: int
    known: frozenset[Kid]
    issuer: Issuer
    older_than: Seconds


class Report(msgspec.Struct, array_like=True, tag="report", frozen=True):
    """From control: what do you hold?"""

    id: int


class Attach(msgspec.Struct, array_like=True, tag="attach", frozen=True):
    """From control: serve the descriptor that came with this frame as a worker's channel."""

    id: int


class Signed(msgspec.Struct, array_like=True, tag="signed", frozen=True, gc=False):
    """To a worker: the compact JWS."""

    id: int
    token: str

    def __repr__(self) -> str:
        """The answer without its token."""
        return f"Signed(id={self.id})"


class Generated(msgspec.Struct, array_like=True, tag="generated", frozen=True):
    """To control: the new key's public half, as SubjectPublicKeyInfo in DER (RFC 5280 s.4.1)."""

    id: int
    spki: bytes
    sealed: bytes | None

    def __repr__(self) -> str:
        """The answer without what is sealed."""
        return f"Generated(id={self.id})"


class Resealed(msgspec.Struct, array_like=True, tag="resealed", frozen=True):
    """To control: the new seal, or None where the old one is as good."""

    id: int
    sealed: bytes | None

    def __repr__(self) -> str:
        """The answer without what is sealed."""
        return f"Resealed(id={self.id})"


class Swept(msgspec.Struct, array_like=True, tag="swept", frozen=True):
    """To control: what the token has no more."""

    id: int
    kids: tuple[Kid, ...]


class Done(msgspec.Struct, array_like=True, tag="done", frozen=True):
    """To control: it is so now."""

    id: int


class Reported(msgspec.Struct, array_like=True, tag="reported", frozen=True):
    """To control: what the signer holds."""

    id: int
    status: SignerStatus


class Refused(msgspec.Struct, array_like=True, tag="refused", frozen=True, gc=False):
    """To either: no, and why."""

    id: int
    reason: Refusal


class Failed(msgspec.Struct, array_like=True, tag="failed", frozen=True, gc=False):
    """To either: a fault of the signer itself; what it was stays in there."""

    id: int


ControlRequest: TypeAlias = Generate | Load | Reseal | Extend | Forget | Sweep | Report | Attach
ControlAnswer: TypeAlias = Generated | Resealed | Swept | Done | Reported | Refused | Failed
WorkerAnswer: TypeAlias = Signed | Refused | Failed

encode: Final = msgspec.msgpack.Encoder().encode
decode_sign: Final = msgspec.msgpack.Decoder(Sign).decode
decode_control_request: Final = msgspec.msgpack.Decoder(ControlRequest).decode
decode_control_answer: Final = msgspec.msgpack.Decoder(ControlAnswer).decode
decode_worker_answer: Final = msgspec.msgpack.Decoder(WorkerAnswer).decode
