"""The keys of an issuer as a picture in the terminal: one bar a key, from its making to its end."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from mintmark.cli.status import printable
from mintmark.core.key import Key, KeyState
from mintmark.core.keyring import Ring
from mintmark.core.timing import Timing
from mintmark.ports.keyring import RingView
from mintmark.units import NodeId, NumericDate, spoken

MIN_WIDTH: Final = 40
_KID_SHOWN: Final = 8
_ALG_SHOWN: Final = 5
_LABEL: Final = 2 + _KID_SHOWN + 2 + _ALG_SHOWN + 1
"""Columns before each bar: indent, the beginning of the kid, held or not, the algorithm."""


class Phase(StrEnum):
    """What a key did, or is to do, in one part of its life."""

    PREPARED = "prepared"
    ACTIVE = "active"
    PASSIVE = "passive"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Span:
    """One phase; ``planned`` where its end is what the arithmetic says and not what happened."""

    phase: Phase
    begin: NumericDate
    end: NumericDate
    planned: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """One key, the spans of its life in order, and whose it is."""

    key: Key
    group: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Glyphs:
    """How the phases look; they differ without colour."""

    phases: Mapping[Phase, str]
    now: str
    held: str


UNICODE: Final = Glyphs(
    {Phase.PREPARED: "░", Phase.ACTIVE: "█", Phase.PASSIVE: "▒", Phase.REVOKED: "x"}, "│", "+"
)
ASCII: Final = Glyphs(
    {Phase.PREPARED: ".", Phase.ACTIVE: "#", Phase.PASSIVE: "-", Phase.REVOKED: "x"}, "|", "+"
)
_STYLES: Final = {
    Phase.PREPARED: "yellow",
    Phase.ACTIVE: "green",
    Phase.PASSIVE: "cyan",
    Phase.REVOKED: "red",
}


def bars(view: RingView, timing: Timing) -> tuple[Bar, ...]:
    """One bar for each key, those of the cluster first and then by node, each in the order of the ring."""
    live = {member.node for member in view.members if member.is_live(view.now)}
    made = [Bar(key, _group(key, live), _spans(key, view.ring, timing, view.now)) for key in view.ring.keys]
    return tuple(sorted(made, key=lambda bar: (not bar.key.is_of_cluster(), bar.group)))


def _group(key: Key, live: set[NodeId]) -> str:
    if key.is_of_cluster():
        return f"cluster, {key.mode.value}"
    return f"node {key.node}, {'live' if key.node in live else 'gone'}"


def _spans(key: Key, ring: Ring, timing: Timing, now: NumericDate) -> tuple[Span, ...]:
    ends = key.revoked_at if key.state is KeyState.REVOKED else None
    found = [one for one in _life(key, ring, timing, now) if ends is None or one.begin < ends]
    if ends is None:
        return tuple(found)
    cut = [replace(one, end=min(one.end, ends)) for one in found[:-1]]
    last = [replace(one, end=ends, planned=False) for one in found[-1:]]
    return (*cut, *last, Span(Phase.REVOKED, ends, max(ends, key.publish_until), planned=True))


def _life(key: Key, ring: Ring, timing: Timing, now: NumericDate) -> Iterator[Span]:
    """The phases of a key that nobody revokes."""
    if key.activated_at is None:
        ready = max(now, NumericDate((key.proven_at or now) + timing.lead), key.prepared_at)
        yield Span(Phase.PREPARED, key.prepared_at, ready, planned=True)
        return
    yield Span(Phase.PREPARED, min(key.prepared_at, key.activated_at), key.activated_at)
    if key.state is KeyState.ACTIVE:
        signs = max(now, key.sign_until or now, key.activated_at)
        yield Span(Phase.ACTIVE, key.activated_at, signs, planned=True)
        yield Span(Phase.PASSIVE, signs, max(timing.covered_until(signs), key.publish_until), planned=True)
        return
    signed = _signed_until(key, ring, now)
    yield Span(Phase.ACTIVE, key.activated_at, signed)
    kept = max(signed, key.publish_until, now if key.held else signed)
    yield Span(Phase.PASSIVE, signed, kept, planned=True)


def _signed_until(key: Key, ring: Ring, now: NumericDate) -> NumericDate:
    """When a key that signs no more was last allowed to: until its successor did, or its lease ended."""
    began = key.activated_at or key.prepared_at
    after = [
        other.activated_at
        for other in ring.keys
        if other.activated_at is not None
        and other.activated_at > began
        and (other.is_of_cluster() or (other.node == key.node and not key.is_of_cluster()))
    ]
    return max(began, min([key.lease_until, now, *after]))


# --- the picture -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Axis:
    """Which column a time has; ``begin`` has the first of ``width``, ``end`` the last."""

    begin: NumericDate
    end: NumericDate
    width: int

    def column(self, at: int) -> int:
        share = (at - self.begin) * (self.width - 1) // (self.end - self.begin)
        return max(0, min(self.width - 1, share))


def window(found: Sequence[Bar], timing: Timing, now: NumericDate) -> tuple[NumericDate, NumericDate]:
    """From when to when there is something to see; at most twice ``rotate_every`` to each side of now.

    A key that is held or was revoked may stay for weeks, and would press the others into one column.
    """
    far = 2 * timing.rotate_every
    spans = [span for bar in found for span in bar.spans if span.phase is not Phase.REVOKED]
    begin = min((span.begin for span in spans), default=now)
    end = max((span.end for span in spans), default=now)
    return (
        NumericDate(max(now - far, min(begin, now - 1))),
        NumericDate(min(now + far, max(end, now + 1))),
    )


def draw(view: RingView, timing: Timing, *, width: int, glyphs: Glyphs = UNICODE) -> tuple[Text, ...]:
    """The lines of the picture, none wider than ``width``, which counts as 40 where it is less."""
    found = bars(view, timing)
    begin, end = window(found, timing, view.now)
    axis = _Axis(begin, end, max(width, MIN_WIDTH) - _LABEL)
    lines = [*_scale(axis, view.now, glyphs)]
    for group, of_group in groupby(found, key=lambda bar: bar.group):
        lines.append(Text(_cut(printable(group), max(width, MIN_WIDTH)), style="bold"))
        lines += [_line(bar, axis, view.now, glyphs) for bar in of_group]
    return (*lines, Text(), *_legend(glyphs, max(width, MIN_WIDTH)))


def _line(bar: Bar, axis: _Axis, now: NumericDate, glyphs: Glyphs) -> Text:
    key = bar.key
    mark = glyphs.held if key.held else " "
    kid, alg = set_cell_size(printable(key.kid), _KID_SHOWN), set_cell_size(printable(key.alg), _ALG_SHOWN)
    line = Text(f"  {kid}{mark} {alg} ")
    cells: list[Phase | None] = [None] * axis.width
    # Later phases are drawn over earlier ones, so that a short one is seen where they meet.
    for part in bar.spans:
        for column in range(axis.column(part.begin), axis.column(part.end) + 1):
            cells[column] = part.phase
    for column, phase in enumerate(cells):
        if column == axis.column(now):
            line.append(glyphs.now, style="bold")
        elif phase is None:
            line.append(" ")
        else:
            line.append(glyphs.phases[phase], style=_STYLES[phase])
    return line


def _scale(axis: _Axis, now: NumericDate, glyphs: Glyphs) -> Iterable[Text]:
    """What the columns mean: how long ago the first is, now, and how far ahead the last is."""
    at = axis.column(now)
    ago, ahead = f"{spoken(now - axis.begin)} ago", f"in {spoken(axis.end - now)}"
    before = ago if at - 2 >= len(ago) else ""
    start = max(0, min(at - 1, axis.width - 3))
    text = before.ljust(start) + "now"
    if len(text) + 1 + len(ahead) <= axis.width:
        text = text + ahead.rjust(axis.width - len(text))
    yield Text(" " * _LABEL + text)
    yield Text(" " * (_LABEL + at) + glyphs.now, style="bold")


def _legend(glyphs: Glyphs, width: int) -> Iterable[Text]:
    parts = [f"{glyphs.phases[phase]} {phase.value}" for phase in Phase]
    parts += [f"{glyphs.now} now", f"{glyphs.held} held"]
    line = ""
    for part in parts:
        if line and len(line) + 3 + len(part) > width:
            yield Text(line)
            line = ""
        line = f"{line}   {part}" if line else part
    yield Text(line)


def _cut(text: str, width: int) -> str:
    # A character may be two columns wide: names come from the database.
    return text if cell_len(text) <= width else set_cell_size(text, width)


def document(view: RingView, timing: Timing) -> Mapping[str, object]:
    """The same for programs."""
    found = bars(view, timing)
    begin, end = window(found, timing, view.now)
    return {
        "issuer": view.ring.issuer,
        "generation": view.ring.generation,
        "now": view.now,
        "begin": begin,
        "end": end,
        "keys": [
            {
                "kid": bar.key.kid,
                "mode": bar.key.mode.value,
                "node": bar.key.node,
                "alg": bar.key.alg,
                "state": bar.key.state.value,
                "held": bar.key.held,
                "spans": [
                    {"phase": one.phase.value, "begin": one.begin, "end": one.end, "planned": one.planned}
                    for one in bar.spans
                ],
            }
            for bar in found
        ],
    }
