"""What a drill and its processes with verifiers say to each other: one JSON document a line.

Times are seconds of CLOCK_MONOTONIC, which all processes of a machine read alike.
"""

from typing import Final, TypeAlias

import msgspec


class Setup(msgspec.Struct, frozen=True, tag="setup"):
    """The first line: how many verifiers of which issuer and audience, asked how often, in seconds.

    ``feed_token`` is what they show the revocation feed, if it asks for one.
    """

    issuer: str
    audience: str
    verifiers: int
    every: float
    feed_token: str | None = None


class Show(msgspec.Struct, frozen=True, tag="show"):
    """Show this token to every verifier from now on, until all refuse it."""

    token: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Every verifier has keys and revocations."""


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    """Every verifier has accepted the token."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Every verifier refuses the token as revoked; by verifier, when it last accepted it and when it then
    first refused it. ``unavailable`` answers were neither."""

    accepted: tuple[float, ...]
    refused: tuple[float, ...]
    unavailable: int


class Idle(msgspec.Struct, frozen=True, tag="idle"):
    """How many seconds late the loop woke up, each time that it had nothing to ask."""

    late: tuple[float, ...]


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """A verifier refused the token for another reason: the code."""

    code: str


Order: TypeAlias = Setup | Show | Idle
"""To a process; an Idle without times asks for one with them."""
Answer: TypeAlias = Ready | Accepted | Refused | Idle | Broken

_encoder: Final = msgspec.json.Encoder()
_orders: Final[msgspec.json.Decoder[Order]] = msgspec.json.Decoder(Order)
_answers: Final[msgspec.json.Decoder[Answer]] = msgspec.json.Decoder(Answer)


def line(message: Order | Answer) -> bytes:
    """``message`` as it goes through a pipe."""
    return _encoder.encode(message) + b"\n"


def order(text: bytes) -> Order:
    """The order in a line; raises msgspec.DecodeError."""
    return _orders.decode(text)


def answer(text: bytes) -> Answer:
    """The answer in a line; raises msgspec.DecodeError."""
    return _answers.decode(text)
