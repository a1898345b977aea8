"""``mintmark doctor``: what is wrong here, and how to mend it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final

from rich.table import Table
from rich.text import Text

from mintmark.cli.invocation import Given
from mintmark.cli.status import Status, printable
from mintmark.server.diagnosis.finding import Finding, Verdict, overall

_STYLES: Final = {
    Verdict.OK: "green",
    Verdict.WARNING: "yellow",
    Verdict.FAILED: "bold red",
    Verdict.SKIPPED: "dim",
}
_TITLES: Final = {
    "settings": "Settings",
    "timing": "Timing",
    "machine": "Machine",
    "hardening": "Hardening",
    "node": "Node",
    "store": "Store",
    "bus": "Bus",
    "publication": "Publication",
}


async def doctor(*, given: Given) -> int:
    """Check settings, machine, store and publication, and say how to mend what is not right.

    Changes nothing: it makes no database and upgrades none. Run it as the node's user, before the first
    start or beside a running node. Every check runs; one that depends on another's failure is skipped. Of
    several issuers each is looked at; `--issuer` names one.

    The exit status is 0 where nothing failed, whatever the warnings, 1 where something failed, and 2 where
    the configuration has mistakes.
    """
    # All of the server, and its HTTP client.
    from mintmark.node.examination.examination import diagnose  # noqa: PLC0415

    found = await diagnose(
        given.config, given.environ, clock=given.clock, entropy=given.entropy, issuer=given.issuer
    )
    counts = Counter(finding.verdict for finding in found.findings)
    verdict = overall(found.findings)
    issuers = [] if found.settings is None else [one.issuer for one in found.settings.issuers]
    document = {
        "issuer": issuers[0] if len(issuers) == 1 else None,
        "issuers": issuers,
        "status": verdict.value,
        "counts": {each.value: counts[each] for each in Verdict},
        "checks": [
            {
                "id": str(finding.check),
                "status": finding.verdict.value,
                "subject": finding.subject,
                "found": finding.found,
                "fix": finding.fix,
            }
            for finding in found.findings
        ],
    }
    given.output.answer(document, *_report(found.findings), _summary(counts))
    if found.settings is None:
        return Status.MISUSED
    return Status.FAILED if verdict is Verdict.FAILED else Status.OK


def _report(findings: Sequence[Finding]) -> Iterable[str | Table]:
    """A heading and a table for each family of checks; what was skipped for one reason is one line."""
    widest = max(len(finding.check) for finding in findings)
    for family, members in groupby(findings, key=lambda finding: finding.check.partition(".")[0]):
        yield _TITLES.get(family, family)
        made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        made.add_column(min_width=len(Verdict.SKIPPED), no_wrap=True)
        made.add_column(min_width=widest, no_wrap=True)
        made.add_column(overflow="fold")
        for skipped_for, group in groupby(members, key=_skipped_for):
            together = list(group)
            if skipped_for is not None and len(together) > 1:
                names = ", ".join(dict.fromkeys(finding.check.partition(".")[2] for finding in together))
                _add(made, Verdict.SKIPPED, family, f"{names}: {skipped_for}")
                continue
            for finding in together:
                _add(made, finding.verdict, finding.check, f"{finding.subject}: {finding.found}")
                if finding.fix is not None:
                    made.add_row("", "", Text(printable(f"fix: {finding.fix}"), style="bold"))
        yield made
        yield ""


def _skipped_for(finding: Finding) -> str | None:
    return finding.found if finding.verdict is Verdict.SKIPPED else None


def _add(made: Table, verdict: Verdict, check: str, found: str) -> None:
    made.add_row(Text(verdict.value, style=_STYLES[verdict]), Text(check), Text(printable(found)))


def _summary(counts: Counter[Verdict]) -> str:
    said = [
        f"{counts[verdict]} {verdict.value}"
        for verdict in (Verdict.FAILED, Verdict.WARNING, Verdict.OK, Verdict.SKIPPED)
        if counts[verdict]
    ]
    return ", ".join(said)
