"""What a bus that is away, or cannot be had, means, and how to mend it."""

from mintmark.ports.bus import BusState
from mintmark.server.diagnosis.finding import Check, Finding, failed, ok, warning


def of_store_bus() -> Finding:
    """`bus` is none, so that it needs no look of its own."""
    return ok(Check.BUS_REACH, "bus", "the store brings it")


def of_missing(scheme: str, reason: str) -> Finding:
    """The scheme is known, and what it needs is not installed."""
    return failed(Check.BUS_REACH, f"{scheme} bus", reason, fix="install the extra, or change `bus`")


def of_bus(state: BusState) -> Finding:
    """Whether others are heard through it. Nothing is refused or lost without: readers poll."""
    if state.is_up:
        return ok(Check.BUS_REACH, state.place, "logs in, hears and announces")
    reason = state.reason or "no answer in time"
    return warning(
        Check.BUS_REACH,
        state.place,
        f"{reason}: what other processes change is known after a second, not at once",
        fix="start the server, open the way there, or mend the user and the password in `bus`",
    )
