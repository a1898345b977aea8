"""What was measured as a table and a picture: how many logouts took how long, beside idle wake-ups."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from mintmark.cli.drill.logout import Measured, Spans
from mintmark.cli.output import table

_SHARES: Final = {"p50": 0.5, "p99": 0.99, "max": 1.0}
_EDGES: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_BAR: Final = 24


def spoken(span: float) -> str:
    """``0.35 ms``, ``12 ms`` or ``1.20 s``."""
    if span >= 1:
        return f"{span:.2f} s"
    return f"{1000 * span:.0f} ms" if span >= 0.01 else f"{1000 * span:.2f} ms"


def _rows(found: Measured) -> Mapping[str, Spans]:
    return {
        "last acceptance at any verifier": found.accepted,
        "last acceptance at each verifier": found.each,
        "refusal at all verifiers": found.refused,
        "the logout itself": found.answered,
        "an idle wake-up": found.idle,
    }


def figures(found: Measured) -> Table:
    """The percentiles as a table."""
    rows = [
        (name, *(spoken(spans.at(share)) for share in _SHARES.values()))
        for name, spans in _rows(found).items()
    ]
    return table(("FROM THE ANSWER TO THE LOGOUT", *map(str.upper, _SHARES)), rows)


def document(found: Measured) -> dict[str, Any]:
    """The percentiles for programs, in milliseconds."""
    names = ("last_acceptance_ms", "each_verifier_ms", "refused_ms", "logout_ms", "idle_wakeup_ms")
    return {
        name: {share: round(1000 * spans.at(at), 3) for share, at in _SHARES.items()}
        for name, spans in zip(names, _rows(found).values(), strict=True)
    }


def counts(spans: Spans, edges: Sequence[float] = _EDGES) -> tuple[int, ...]:
    """How many values lie up to each edge and beyond the one before; the last counts those beyond all."""
    found = [0] * (len(edges) + 1)
    for value in spans.values:
        found[next((at for at, edge in enumerate(edges) if value <= edge), len(edges))] += 1
    return tuple(found)


def draw(found: Measured, *, unicode: bool) -> tuple[Text, ...]:
    """A histogram: the share of logouts whose last acceptance came within each span, beside idle wake-ups."""
    logouts, idle = counts(found.accepted), counts(found.idle)
    used = [at for at, both in enumerate(zip(logouts, idle, strict=True)) if any(both)]
    labels = [f"up to {spoken(edge)}" for edge in _EDGES] + [f"over {spoken(_EDGES[-1])}"]
    width = max(map(len, labels))
    return (
        Text(f"{'':{width}}  {'last acceptance':{_BAR + 6}}  idle wake-up", style="bold"),
        *(
            Text(f"{labels[at]:>{width}}  ").append_text(_both(logouts, idle, at, unicode=unicode))
            for at in range(used[0], used[-1] + 1)
        ),
    )


def _both(logouts: Sequence[int], idle: Sequence[int], at: int, *, unicode: bool) -> Text:
    line = Text()
    for of, style in ((logouts, "green"), (idle, "cyan")):
        share = of[at] / sum(of)
        line.append(_bar(share, unicode=unicode), style=style)
        line.append(f"{100 * share:>4.0f} %" if of[at] else " " * 6).append("  ")
    line.rstrip()
    return line


def _bar(share: float, *, unicode: bool) -> str:
    # What happened at all is seen, however rare it was.
    cells = max(1, round(share * _BAR)) if share else 0
    return (("█" if unicode else "#") * cells).ljust(_BAR)


def lines(found: Measured, *, every: float, verifiers: int, logouts: int) -> Iterator[str]:
    """What the figures are about."""
    yield (
        f"{logouts} logouts; {verifiers} verifiers in {found.processes} processes of this machine, each "
        f"asked every {spoken(every)}, so that what is shown may be as much too short."
    )
    if found.unavailable:
        yield f"{found.unavailable} times a verifier could tell neither, and said so (503)."
