"""How a command ends: its exit status, and the lines that it says about what went wrong."""

import difflib
from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from mintmark.errors import (
    ConfigurationError,
    ConfigurationErrors,
    Conflict,
    MintmarkError,
    NotFound,
    RequestError,
    StoreDamaged,
    Unavailable,
)

EXTRA: Final = "mintmark[server]"
"""What to install for the command line and everything behind it."""


class Status(IntEnum):
    """Exit statuses. Those above 64 are the meanings of sysexits(3)."""

    OK = 0
    FAILED = 1
    MISUSED = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 69
    DEFECT = 70
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """What it tells a script."""
        return _MEANINGS[self]


_MEANINGS: Final = {
    Status.OK: "It was done, or was so already.",
    Status.FAILED: "It could not be done; the line on standard error says why. Trying again does not help.",
    Status.MISUSED: "The command line, a value in it or the configuration is wrong. Nothing was changed.",
    Status.NOT_FOUND: "What the command names does not exist: user, client, key, session or database.",
    Status.CONFLICT: "It exists already, or somebody changed it meanwhile.",
    Status.UNAVAILABLE: "The store or another part is away. Worth another try.",
    Status.DEFECT: "A defect of Mintmark. With `MINTMARK_LOG_LEVEL=debug` it shows its traceback.",
    Status.INTERRUPTED: "Interrupted by Ctrl-C.",
}


class Misused(MintmarkError):
    """The command line cannot be meant as it is; the message is one line and says what to write."""


class Failed(MintmarkError):
    """The command cannot be carried out; the message is one line and says why."""


def status_of(error: MintmarkError) -> Status:
    """The exit status of a command that ended with ``error``."""
    match error:
        case Misused() | ConfigurationError():
            return Status.MISUSED
        case NotFound():
            return Status.NOT_FOUND
        case Conflict():
            return Status.CONFLICT
        case RequestError():
            return Status.MISUSED
        # Damaged is damaged: no other try mends it.
        case StoreDamaged():
            return Status.FAILED
        case Unavailable():
            return Status.UNAVAILABLE
        case _:
            return Status.FAILED


def lines_of(error: MintmarkError) -> tuple[str, ...]:
    """What to say about ``error``: one line for each mistake."""
    mistakes = error.mistakes if isinstance(error, ConfigurationErrors) else (error,)
    return tuple(printable(str(mistake)) for mistake in mistakes)


def missing_package(error: ModuleNotFoundError) -> str:
    """What to install where a package of the server is missing.

    Raises ``error`` again where the module that is missing is one of ours.
    """
    name = (error.name or "").partition(".")[0]
    if name in {"", "mintmark"}:
        raise error
    return f"the package {name} is not installed: the command line needs `pip install '{EXTRA}'`"


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?``, or nothing where none of ``known`` is near."""
    found = difflib.get_close_matches(word[:80], list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def printable(text: str) -> str:
    """``text`` fit for one line of a terminal: whatever is not printable is escaped.

    That is control characters, which a terminal would obey, and those that turn the direction of text.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
