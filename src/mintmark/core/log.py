"""The revocation log as its readers see it: entries in commit order, and the cursor between them."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from mintmark.core import base64url
from mintmark.core.minting import BACKDATED
from mintmark.core.revocation import RevocationEvent
from mintmark.core.timing import MAX_LEEWAY, Timing
from mintmark.units import NumericDate

_SEQ_BYTES: Final = 8
_MARK_BYTES: Final = 8
MARK_BYTES: Final = _MARK_BYTES
"""Random bytes that every entry has, so that one ``seq`` of two histories can be told apart."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in one log: after the entry ``seq``, whose random ``mark`` proves that it is that log's.

    After a restore from a backup the same ``seq`` comes again with another mark, and a reader that holds
    the old one is told so instead of missing what it never saw.
    """

    seq: int
    mark: bytes

    def text(self) -> str:
        """The opaque form that readers hold: 22 characters of base64url."""
        return base64url.encode(self.seq.to_bytes(_SEQ_BYTES) + self.mark)


def parse_cursor(text: str) -> Cursor | None:
    """The cursor that ``text`` is, or None where it is none of ours."""
    try:
        raw = base64url.decode(text)
    except ValueError:
        return None
    # The first bit is never set: stores count in signed integers, and would fail on it.
    if len(raw) != _SEQ_BYTES + _MARK_BYTES or raw[0] & 0x80:
        return None
    return Cursor(int.from_bytes(raw[:_SEQ_BYTES]), raw[_SEQ_BYTES:])


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One committed revocation: what is denied, why, when, and the cursor behind it."""

    cursor: Cursor
    event: RevocationEvent
    cause: str
    at: NumericDate


@dataclass(frozen=True, slots=True)
class LogPage:
    """Entries in ``seq`` order; ``cursor`` continues behind them, ``complete`` says that nothing was left.

    ``now`` is the store's time at which this was so.
    """

    entries: tuple[LogEntry, ...]
    cursor: Cursor
    complete: bool
    now: NumericDate


def denied_until(exp: NumericDate, timing: Timing) -> NumericDate:
    """How long a token that expires at ``exp`` must stay on the log: until no verifier takes it any more."""
    return NumericDate(exp + MAX_LEEWAY + timing.widest.clock_skew)


def not_before(now: NumericDate, timing: Timing, *, before: NumericDate | None = None) -> NumericDate:
    """Up to which ``iat`` an event by time denies tokens, made at the store's time ``now``.

    The latest that any node which has not heard of it can give, or ``before`` where that is earlier.
    ``now`` was rounded down, so the second after it is the one that counts.
    """
    latest = NumericDate(now + 1 + timing.widest.clock_skew + timing.widest.propagation)
    return latest if before is None else min(before, latest)


def denied_by_time_until(not_before: NumericDate, timing: Timing) -> NumericDate:
    """How long tokens with an ``iat`` up to ``not_before`` must stay denied; ``exp`` counts from later."""
    return denied_until(NumericDate(not_before + BACKDATED + timing.widest.access_ttl), timing)


JTI_A_SESSION: Final = 16
"""Live ``jti`` events of one session; one more would say less than the end of that session."""
JTI_A_CLIENT: Final = 1_000
"""Live ``jti`` events of one client, which is told to wait beyond them (429)."""


class Admission(Enum):
    """What the revocation of a single token comes to, so that the log stays bounded (V4)."""

    NOTHING = auto()
    """Its ``exp`` has passed everywhere: there is nothing left to deny."""
    APPEND = auto()
    """One ``jti`` event."""
    END_SESSION = auto()
    """The session ends instead: one ``rid`` event takes the place of them all."""
    REFUSE = auto()
    """The client has too many already; later it may again."""


def admit(
    exp: NumericDate, *, live_in_session: int | None, live_of_client: int, timing: Timing, now: NumericDate
) -> Admission:
    """Whether one token that expires at ``exp`` may have an event of its own at ``now`` (V4).

    ``live_in_session`` counts the unexpired ``jti`` events of its session, None for a token without one;
    ``live_of_client`` those of its client.
    """
    if now >= denied_until(exp, timing):
        return Admission.NOTHING
    if live_in_session is not None and live_in_session >= JTI_A_SESSION:
        return Admission.END_SESSION
    return Admission.REFUSE if live_of_client >= JTI_A_CLIENT else Admission.APPEND
