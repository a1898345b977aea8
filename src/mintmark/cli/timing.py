"""``mintmark timing``: the settings of time that all nodes share, and how a running cluster gets others."""

from collections.abc import Sequence
from typing import Final

from cyclopts import App
from rich.table import Table

from mintmark.cli.invocation import Given, Opened
from mintmark.cli.output import distance, table
from mintmark.cli.status import Failed
from mintmark.core.events import EventName
from mintmark.core.timing import COUNTS, NAMES, Timing
from mintmark.core.timing_change import Agreement
from mintmark.server.retiming import Refused, Standing, Step, change, finish, standing, take
from mintmark.units import NodeId, NumericDate, Seconds, format_duration

app = App(name="timing", help="Show the settings of time that all nodes share, and change them.")

_NODE_SHOWN: Final = 8


@app.command
async def show(*, given: Given) -> None:
    """Show the settings of time that the nodes share, and what differs here.

    While they change, it shows both, which nodes have which, and what is to be done next. Where rows of nodes
    that are gone are still there, it listens for some seconds for who lives.
    """
    async with given.open_each() as each:
        found = [await standing(one.store.keyring, one.settings.issuer, clock=given.clock) for one in each]
        here = each[0].settings.timing
    lines: list[str | Table] = []
    for one in found:
        lines += [one.issuer] if len(found) > 1 else []
        lines += _shown(one, here)
    given.output.answer(
        {"settings": _numbers(here), "issuers": [_document(one, here) for one in found]}, *lines
    )


@app.command(name="change")
async def change_timing(*, given: Given) -> None:
    """Have the nodes work by the settings of time that are configured here, without an end of service.

    From then on nodes may start with either settings, and work by what is safe beside both: restart them one
    by one with the new ones, then finish the change. It is refused, with the reasons, where the two cannot
    be worked by side by side, and while an earlier change is not over. With the former settings the change
    is withdrawn; then no node may have the new ones. To give the same command again does what is left.
    """
    async with given.open_each() as each:
        wanted = each[0].settings.timing
        done = await _take(given, each, change(wanted))
    found = [after for after, _ in done]
    given.output.answer(
        _answer(done),
        *(line for after, changed in done for line in _begun(after, changed, several=len(done) > 1)),
        *(_next_steps(found) if any(_is_changing(one) for one in found) else ()),
    )


@app.command(name="finish")
async def finish_change(*, given: Given) -> None:
    """Let only nodes with the new settings of time work from now on.

    It is refused while a node that lives or may sign yet has the former ones, and names it; and while a key
    that signs is not published for long enough for the tokens to come (K2). Where rows of nodes that are gone
    are still there, it listens for some seconds for who lives.
    """
    async with given.open_each() as each:
        done = await _take(given, each, finish)
    lines = []
    for after, changed in done:
        where = f"{after.issuer}: " if len(done) > 1 else ""
        agreement, now = after.agreement, after.present.view.now
        if not changed:
            lines.append(f"{where}No change of the timing is under way.")
            continue
        lines.append(f"{where}Only nodes with these settings may work from now on.")
        if agreement is not None and now < agreement.copies_until:
            left = distance(agreement.copies_until, now)
            lines.append(
                f"{where}Caches may hold key sets from before: nodes that start keep the former lead, and no "
                f"other change begins, until that is over {left}."
            )
    if any(changed for _, changed in done):
        lines.append(
            "Nodes that began during the change keep to the safe side of both until their next restart."
        )
    given.output.answer(_answer(done), *lines)


async def _take(given: Given, each: Sequence[Opened], step: Step) -> list[tuple[Standing, bool]]:
    """What holds for each issuer after ``step``, and whether it changed."""
    audits = {one.settings.issuer: one.audit for one in each}
    changed = set()

    def note(before: Standing, after: Agreement) -> None:
        changed.add(before.issuer)
        audits[before.issuer].record(
            _event(before.agreement, after),
            generation=before.generation + 1,
            settings="; ".join(_differences(before.agreement, after)) or None,
        )

    store = each[0].store.keyring
    try:
        found = await take(store, tuple(audits), step, clock=given.clock, on_taken=note)
    except Refused as refused:
        several = len(each) > 1
        raise Failed(
            "; ".join(
                f"{issuer}: {reason}" if several else reason
                for issuer, reasons in refused.reasons.items()
                for reason in reasons
            )
        ) from None
    return [(one, one.issuer in changed) for one in found]


def _event(before: Agreement | None, after: Agreement) -> EventName:
    if after.wanted is not None:
        return EventName.TIMING_CHANGE_BEGUN
    withdrawn = before is not None and before.current == after.current
    return EventName.TIMING_CHANGE_WITHDRAWN if withdrawn else EventName.TIMING_CHANGE_FINISHED


def _differences(before: Agreement | None, after: Agreement) -> tuple[str, ...]:
    """``access_ttl 15m to 5m`` for each setting that changes, or would have."""
    wanted = after.wanted or (before.wanted if before is not None else None)
    former = before.current if before is not None else after.current
    return tuple(
        f"{name} {_text(name, former)} to {_text(name, wanted)}"
        for name in NAMES
        if wanted is not None and getattr(former, name) != getattr(wanted, name)
    )


def _is_changing(one: Standing) -> bool:
    return one.agreement is not None and one.agreement.wanted is not None


# --- for people ---------------------------------------------------------------------------------------


def _begun(after: Standing, changed: bool, *, several: bool) -> tuple[str, ...]:
    where = f"{after.issuer}: " if several else ""
    agreement = after.agreement
    if agreement is None:
        return (f"{where}No node has begun yet: the first one writes its own settings.",)
    if agreement.wanted is None:
        said = (
            "Withdrawn: the nodes keep these settings."
            if changed
            else "The nodes have these settings already."
        )
        return (f"{where}{said}",)
    said = "Nodes may have either settings from now on:" if changed else "That change is under way:"
    differing = _differences(Agreement(current=agreement.current), agreement)
    return (f"{where}{said} {', '.join(differing)}.",)


def _next_steps(found: Sequence[Standing]) -> tuple[str, ...]:
    waiting = sorted({node for one in found for node in one.differing()})
    if waiting:
        return (
            f"Restart these nodes with the new settings, one by one: {_named(waiting)}.",
            "After each, wait until its key is active (`mintmark keys list`), if it has one of its own.",
            "Then `mintmark timing finish`.",
        )
    if reasons := [reason for one in found for reason in one.refusals()]:
        return (f"Not to be finished yet: {'; '.join(reasons)}.",)
    return ("Every node has the new settings: `mintmark timing finish` ends the change.",)


def _shown(one: Standing, here: Timing) -> tuple[str | Table, ...]:
    agreement, now = one.agreement, one.present.view.now
    if agreement is None:
        return ("No node has begun yet: the first one writes its own settings.",)
    wanted = agreement.wanted
    columns = ["SETTING", "CURRENT", *(["WANTED"] if wanted is not None else []), "HERE"]
    rows = [
        (
            name,
            _text(name, agreement.current),
            *([_text(name, wanted)] if wanted is not None else []),
            _text(name, here) + ("" if getattr(here, name) in _values(agreement, name) else "  differs"),
        )
        for name in NAMES
    ]
    lines: list[str | Table] = [table(columns, rows)]
    if now < agreement.copies_until:
        left = distance(agreement.copies_until, now)
        lines.append(f"Caches may hold key sets from before the last change; that is over {left}.")
    if not agreement.has(here):
        lines.append("A node with the settings here does not start beside these.")
    if wanted is not None:
        lines += [f"Node {node[:_NODE_SHOWN]} has the {_settings_of(one, node)}." for node in _nodes(one)]
        lines += _next_steps([one])
    return tuple(lines)


def _values(agreement: Agreement, name: str) -> set[int]:
    return {getattr(one, name) for one in (agreement.current, agreement.wanted) if one is not None}


def _nodes(one: Standing) -> list[NodeId]:
    return sorted(one.present.nodes)


def _settings_of(one: Standing, node: NodeId) -> str:
    agreement = one.agreement
    if agreement is None or agreement.wanted is None:
        return "current settings"
    if node in agreement.on_wanted:
        return "wanted settings"
    return "current settings" + ("" if node in agreement.on_current else ", and began before the change")


def _named(nodes: Sequence[NodeId]) -> str:
    return ", ".join(node[:_NODE_SHOWN] for node in nodes)


def _text(name: str, timing: Timing) -> str:
    value: int = getattr(timing, name)
    return str(value) if name in COUNTS else format_duration(Seconds(value))


# --- for programs -------------------------------------------------------------------------------------


def _answer(done: Sequence[tuple[Standing, bool]]) -> dict[str, object]:
    return {
        "issuers": [
            {
                "issuer": one.issuer,
                "generation": one.generation,
                "changed": changed,
                "changing": _is_changing(one),
                "waiting_for": list(one.differing()),
            }
            for one, changed in done
        ]
    }


def _document(one: Standing, here: Timing) -> dict[str, object]:
    agreement = one.agreement
    if agreement is None:
        return {"issuer": one.issuer, "generation": 0, "current": None, "wanted": None}
    until: NumericDate | None = agreement.copies_until or None
    return {
        "issuer": one.issuer,
        "generation": one.generation,
        "current": _numbers(agreement.current),
        "wanted": None if agreement.wanted is None else _numbers(agreement.wanted),
        "may_start": agreement.has(here),
        "caches_until": until,
        "nodes": [
            {
                "node": node,
                "settings": "wanted" if node in agreement.on_wanted else "current",
                "knows_both": node in (*agreement.on_wanted, *agreement.on_current),
            }
            for node in _nodes(one)
        ],
        "unfinished": list(one.refusals()),
    }


def _numbers(timing: Timing) -> dict[str, int]:
    return {name: getattr(timing, name) for name in NAMES}
