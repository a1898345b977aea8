"""The whole examination: every check runs, whatever becomes of the others."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mintmark.errors import ConfigurationError, ConfigurationErrors, MintmarkError
from mintmark.node.examination import machine
from mintmark.node.examination.bus import look_at_bus
from mintmark.node.examination.publication import look_at_publication
from mintmark.node.examination.store import Looked, look_at_store, place_of
from mintmark.node.examination.web import Web
from mintmark.ports.clock import Clock, Entropy
from mintmark.server.diagnosis import configuration
from mintmark.server.diagnosis import machine as judged
from mintmark.server.diagnosis.configuration import File
from mintmark.server.diagnosis.finding import Check, Finding, failed, skipped
from mintmark.server.diagnosis.machine import Held
from mintmark.server.settings import DEFAULT_FILE, Settings, load
from mintmark.signer.hardening import Profile
from mintmark.signer.rehearsal import rehearse
from mintmark.units import Issuer, Seconds

ENDING: Final = Seconds(20)
"""What a node may need after `handover`: for requests under way, the last writes, and its processes' ends."""
_OF_SETTINGS: Final = (
    Check.SETTINGS_MODE,
    Check.SETTINGS_SECRETS,
    Check.SETTINGS_UNUSUAL,
    Check.TIMING_RULE,
    Check.TIMING_LEAD,
    Check.MACHINE_UNIT,
    *(check for check in Check if check.startswith(("node.", "store.", "bus.", "publication."))),
)
"""What cannot be looked at without settings."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Every finding, in the order of the report, and the settings that they are about.

    The settings are None where they have mistakes.
    """

    findings: tuple[Finding, ...]
    settings: Settings | None


async def diagnose(
    config: Path | None,
    environ: Mapping[str, str],
    *,
    clock: Clock,
    entropy: Entropy,
    issuer: str | None = None,
) -> Diagnosis:
    """What a node with this configuration and environment would find on this machine, now.

    Of several issuers each is looked at, or ``issuer`` alone; raises ConfigurationError where that is none.
    """
    try:
        settings = load(config, environ)
    except ConfigurationErrors as errors:
        why = "the configuration has mistakes"
        findings = (
            *configuration.of_mistakes(errors),
            configuration.of_variables(environ),
            *await _kept(Check.MACHINE_CLOCK, "machine", _look_at_machine()),
            *(skipped(check, "settings", why) for check in _OF_SETTINGS),
        )
        return Diagnosis(_ordered(findings), None)
    try:
        settings = settings if issuer is None else settings.of(issuer)
    except LookupError:
        listed = ", ".join(one.issuer for one in settings.issuers)
        raise ConfigurationError("--issuer", f"is none of those configured: {listed}") from None
    about_machine = asyncio.create_task(_kept(Check.MACHINE_CLOCK, "machine", _look_at_machine()))
    about_bus = asyncio.create_task(_kept(Check.BUS_REACH, "bus", look_at_bus(settings, clock=clock)))
    about_issuers = []
    async with Web(clock) as web:
        for one in settings.issuers:
            own = settings.of(one.issuer)
            about_issuers.append((one.issuer, await _of_issuer(own, web, clock=clock, entropy=entropy)))
    unit = judged.of_unit(await machine.unit(), needed=Seconds(settings.handover + ENDING))
    about_settings = _of_settings(settings, config, environ)
    findings = (
        *about_settings,
        *await about_machine,
        unit,
        *await about_bus,
        *_together(about_issuers),
    )
    return Diagnosis(_ordered(findings), settings)


async def _of_issuer(settings: Settings, web: Web, *, clock: Clock, entropy: Entropy) -> tuple[Finding, ...]:
    """What can be said of one issuer, and of what it shares with the others."""
    store = asyncio.create_task(_look(settings, clock=clock, entropy=entropy))
    listen, held = await _look_at_listen(settings, web)
    looked = await store
    running = held or looked.live > 0
    published = await _kept(
        Check.PUBLICATION_REACH,
        settings.issuer,
        look_at_publication(settings, looked, running=running, web=web, clock=clock, entropy=entropy),
    )
    return (*listen, *looked.findings, *published)


def _together(about: list[tuple[Issuer, tuple[Finding, ...]]]) -> Iterable[Finding]:
    """The findings of all issuers: what is so for each of them once, and whose the others are."""
    everywhere = frozenset.intersection(*(frozenset(findings) for _, findings in about))
    for number, (issuer, findings) in enumerate(about):
        for finding in findings:
            if finding not in everywhere:
                named = issuer in finding.subject
                yield finding if named else replace(finding, subject=f"{finding.subject} of {issuer}")
            elif number == 0:
                yield finding


def _ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """``findings`` by family, in the order of :class:`Check`; within one as they are."""
    families = list(dict.fromkeys(_family(check) for check in Check))
    return tuple(sorted(findings, key=lambda finding: families.index(_family(finding.check))))


def _family(check: str) -> str:
    return check.partition(".")[0]


def _of_settings(settings: Settings, config: Path | None, environ: Mapping[str, str]) -> Iterable[Finding]:
    named = environ.get("MINTMARK_CONFIG")
    path = config or (Path(named) if named else DEFAULT_FILE)
    file = File(path, path.stat().st_mode) if path.is_file() else None
    yield configuration.of_source(settings, file, folder=Path.cwd())
    if file is None:
        yield skipped(Check.SETTINGS_MODE, str(path), "there is no file")
    else:
        yield configuration.of_mode(settings, file)
    for name, secret in configuration.secret_files(settings).items():
        yield configuration.of_secret(name, secret, _mode_of(secret))
    yield configuration.of_variables(environ)
    yield from configuration.of_warnings(settings)
    yield from configuration.of_timing(settings.timing)


def _mode_of(path: Path) -> int | str:
    """The mode of a file, or why it cannot be read."""
    try:
        with path.open("rb"):
            return path.stat().st_mode
    except OSError as error:
        return f"cannot be read: {error.strerror or type(error).__name__}"


async def _look_at_machine() -> tuple[Finding, ...]:
    reports = await asyncio.gather(*(rehearse(profile) for profile in Profile))
    by_profile = {profile.value: report for profile, report in zip(Profile, reports, strict=True)}
    return (
        judged.of_wall_clock(machine.wall_clock()),
        judged.of_open_files(machine.open_files()),
        *judged.of_hardening(by_profile, swap=machine.has_swap()),
    )


async def _look_at_listen(settings: Settings, web: Web) -> tuple[tuple[Finding, ...], bool]:
    """The findings, and whether a node of this issuer answers there."""
    held = False

    async def look() -> tuple[Finding, ...]:
        nonlocal held
        found = await machine.listening(settings.listen, settings.issuer, web)
        findings = judged.of_listen(settings.listen, settings.issuer, found)
        held = isinstance(found, Held) and findings[0].verdict == "ok"
        return findings

    return await _kept(Check.NODE_LISTEN, str(settings.listen), look()), held


async def _look(settings: Settings, *, clock: Clock, entropy: Entropy) -> Looked:
    looked = Looked(())

    async def look() -> tuple[Finding, ...]:
        nonlocal looked
        looked = await look_at_store(settings, clock=clock, entropy=entropy)
        return looked.findings

    findings = await _kept(Check.STORE_REACH, place_of(settings.store), look())
    return Looked(findings, looked.ring, looked.now, looked.live)


async def _kept(check: Check, subject: str, look: Awaitable[tuple[Finding, ...]]) -> tuple[Finding, ...]:
    """The findings of ``look``; what it raises is a finding of ``check``, so that no check hides another."""
    try:
        return await look
    except MintmarkError as error:
        found, fix = str(error), "see the message"
    except Exception as error:  # noqa: BLE001 - a defect of one check must not hide what others found
        # Not its text: nobody knows what that holds.
        found, fix = f"a defect of this check: {type(error).__name__}", "report it as a defect of Mintmark"
    others = (other for other in Check if _family(other) == _family(check) and other is not check)
    return (
        failed(check, subject, found, fix=fix),
        *(skipped(other, subject, f"{check} could not be finished") for other in others),
    )
