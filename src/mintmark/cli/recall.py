"""Revocations by time on the command line: the time, and what it means for those who log in meanwhile."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from cyclopts import Parameter

from mintmark.cli.output import instant
from mintmark.cli.status import Misused
from mintmark.server.recall import Recall
from mintmark.units import NumericDate, spoken

IssuedBefore = Annotated[
    str | None,
    Parameter(
        help="Spare what was issued later than this: a time with its zone, like `2026-11-20T07:00:00Z`, or "
        "a NumericDate. Else nothing is spared."
    ),
]
DryRun = Annotated[bool, Parameter(help="Say what it would mean, and change nothing.")]

_NUMBER: Final = re.compile(r"[0-9]{1,10}")


def time_of(text: str | None) -> NumericDate | None:
    """The time that ``--issued-before`` gives; raises Misused for what is none, or has no zone."""
    if text is None:
        return None
    if _NUMBER.fullmatch(text):
        return NumericDate(int(text))
    try:
        at = datetime.fromisoformat(text)
        # The first and the last day of the calendar are outside it in some zones.
        seconds = None if at.tzinfo is None else int(at.astimezone(UTC).timestamp())
    except (ValueError, OverflowError):
        seconds = None
    if seconds is None:
        raise Misused("--issued-before: write a time with its zone, like 2026-11-20T07:00:00Z")
    return NumericDate(max(0, seconds))


def recall_document(recall: Recall) -> dict[str, object]:
    """A revocation as JSON tells it."""
    return {"not_before": recall.not_before, "mints_from": recall.mints_from, "pause": recall.pause}


def consequences(recall: Recall, client_id: str | None = None) -> tuple[str, ...]:
    """What everybody should know of a revocation: of one client's tokens, or of everybody's."""
    of = "" if client_id is None else f" of {client_id}"
    refused = f"Verifiers that follow the feed refuse tokens{of} issued until {instant(recall.not_before)}"
    pause = f"Nothing{of} is minted for {spoken(recall.pause)}: who asks is answered 503 until then."
    return (
        f"{refused} at once, others accept them until they expire.",
        pause if recall.pause else "Minting does not pause for that.",
    )
