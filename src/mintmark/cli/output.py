"""What a command prints: tables and sentences for people, or one JSON document for programs.

Everything that came from outside is printed as text: no markup, no control characters, no escape codes.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mintmark.cli.status import printable
from mintmark.units import NumericDate, spoken

_UNBOUNDED: Final = 100_000


class Output:
    """Standard output and error of one command; ``as_json`` is the option ``--json``."""

    def __init__(self, *, as_json: bool, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.as_json = as_json
        self._out = _console(stdout or sys.stdout)
        self._error = _console(stderr or sys.stderr)

    @property
    def width(self) -> int:
        """The columns of the terminal; 80 where there is none."""
        return self._out.width if self._out.width != _UNBOUNDED else 80

    def fits(self, table: Table) -> bool:
        """Whether no cell of ``table`` has to be folded; always where there is no terminal."""
        unbounded = self._out.options.update(max_width=_UNBOUNDED)
        return self._out.measure(table, options=unbounded).maximum <= self._out.width

    @property
    def is_unicode(self) -> bool:
        """Whether what it prints may hold more than ASCII."""
        return (self._out.encoding or "").lower().startswith("utf")

    def answer(self, document: Mapping[str, Any], *human: str | Text | Table) -> None:
        """Print ``document`` as JSON where that was asked for, and ``human`` otherwise."""
        if self.as_json:
            # ASCII alone: the C1 controls are legal in JSON text, and terminals obey them.
            self._out.file.write(json.dumps(document, indent=2) + "\n")
            return
        for item in human:
            if isinstance(item, str):
                self._out.print(Text(printable(item)), soft_wrap=True)
            elif isinstance(item, Text):
                self._out.print(item, soft_wrap=True)
            else:
                self._out.print(item)

    def heading(self, text: str) -> None:
        """A line that people should not overlook, on standard error."""
        self._error.print(Text(text, style="bold red"), soft_wrap=True)

    def note(self, text: str) -> None:
        """A line about the command, on standard error, so that it is in nobody's pipe."""
        self._error.print(Text(printable(text)), soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """What to call at each of ``total`` steps: a bar on standard error, gone when the block ends.

        Nothing is shown where standard error is no terminal.
        """
        from rich.progress import (  # noqa: PLC0415 - slow to load, and most commands are done at once
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        shown = self._error.is_terminal
        with Progress(*columns, console=self._error, transient=True, disable=not shown) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)


def _console(stream: TextIO) -> Console:
    # NO_COLOR and dumb terminals are rich's own business. A pipe has no width: nothing is folded there.
    width = None if stream.isatty() else _UNBOUNDED
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of text; on a narrow terminal long cells are folded, and nothing is cut off."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(Text(column), overflow="fold")
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def instant(at: int) -> str:
    """``2026-11-20 07:12:05Z``, or the bare number where no calendar has it."""
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}Z"
    except (ValueError, OverflowError, OSError):
        return str(at)


def distance(at: int, now: NumericDate) -> str:
    """``in 3h 20m``, ``5m ago`` or ``now``."""
    if at == now:
        return "now"
    return f"in {spoken(at - now)}" if at > now else f"{spoken(now - at)} ago"
