"""What the settings amount to: the mistakes in them, the file they came from, the rules between them."""

import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from mintmark.core.timing import KEYS_PER_SIGNER, LEASE_MARGIN, RULES, Timing
from mintmark.errors import ConfigurationError, ConfigurationErrors
from mintmark.server.diagnosis.finding import Check, Finding, failed, ok, warning
from mintmark.server.option import KEYS, PREFIX
from mintmark.server.setting import SecretForm, SecretSource, shown
from mintmark.server.settings import Settings, written
from mintmark.units import spoken

_KEYS: Final = {name: key for key in KEYS for name in (key.name, key.variable)}
_OF_SERVICES: Final = re.compile(r"MINTMARK_\w*(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\d+_\w+)?)")
"""What Kubernetes sets for every Service of the namespace, ``mintmark-db`` for instance."""
_SETTING: Final = frozenset(key.name.replace("_", "") for key in KEYS)


@dataclass(frozen=True, slots=True)
class File:
    """The configuration file: its path, and its mode as stat(2) gives it."""

    path: Path
    mode: int


def of_mistakes(errors: ConfigurationErrors) -> tuple[Finding, ...]:
    """One finding for each mistake, with the place to mend it and what belongs there."""
    return tuple(
        failed(Check.SETTINGS_READ, mistake.where or "settings", f"{mistake.key}: {mistake.reason}",
               fix=_correction(mistake))
        for mistake in errors.mistakes
    )  # fmt: skip


def _correction(mistake: ConfigurationError) -> str:
    key = _KEYS.get(mistake.key)
    if mistake.key == "configuration file":
        if mistake.reason.startswith("cannot be read"):
            return (
                "let this user read it; else give its path with --config, or write one with `mintmark init`"
            )
        return "mend the file there: flat TOML in UTF-8, one line a setting"
    rule = next((rule for rule in RULES if mistake.reason.startswith(rule.formula)), None)
    if rule is not None:
        return f"change {' or '.join(f'`{name}`' for name in rule.settings)} until it holds"
    if mistake.where == "environment":
        if key is None and _OF_SERVICES.fullmatch(mistake.key):
            return "Kubernetes sets it for a Service: put `enableServiceLinks: false` in the pod's spec"
        if key is None:
            return f"`unset {mistake.key}`, or rename it"
        return f"`unset {mistake.key}`, or set it to {_form(key.name)}"
    if key is None:
        return f"remove or rename it in {mistake.where}"
    return f"change `{key.name}` in {mistake.where}: {_form(key.name)}"


def _form(name: str) -> str:
    key = _KEYS[name]
    return f"{key.kind.label}; by default {written(key.default)}"


def of_source(settings: Settings, file: File | None, *, folder: Path) -> Finding:
    """Where the settings came from; ``file`` is None where there is none in ``folder``."""
    sources = settings.sources.values()
    variables = sum(source.startswith(PREFIX) for source in sources)
    defaults = sum(source == "default" for source in sources)
    counted = f"{variables} from variables, {defaults} by default"
    if file is not None:
        in_file = len(settings.sources) - variables - defaults
        return ok(Check.SETTINGS_READ, str(file.path), f"{in_file} settings in the file, {counted}")
    if variables:
        return ok(Check.SETTINGS_READ, "environment", f"no configuration file; {counted}")
    return warning(
        Check.SETTINGS_READ,
        str(folder),
        "no mintmark.toml here and no variable: every setting has its default",
        fix="run it where the node runs, give --config, or begin with `mintmark init`",
    )


def of_mode(settings: Settings, file: File) -> Finding:
    """Whether others may change the file, or read a password in it."""
    subject, shown_mode = str(file.path), f"mode {stat.S_IMODE(file.mode):04o}"
    fix = f"`chmod go-rwx {file.path}`"
    if file.mode & (stat.S_IWGRP | stat.S_IWOTH):
        return warning(
            Check.SETTINGS_MODE, subject, f"{shown_mode}: others may change what this node does", fix=fix
        )
    whose = [
        owner
        for name, owner in (("store", "database"), ("bus", "bus"))
        if _holds_password(getattr(settings, name)) and not settings.sources[name].startswith(PREFIX)
    ]
    if whose and file.mode & (stat.S_IRGRP | stat.S_IROTH):
        found = f"{shown_mode}: others may read the password of the {' and of the '.join(whose)}"
        return warning(Check.SETTINGS_MODE, subject, found, fix=fix)
    return ok(Check.SETTINGS_MODE, subject, shown_mode)


def secret_files(settings: Settings) -> Mapping[str, Path]:
    """The files that secrets are read from, by setting."""
    found = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {
        name: Path(source.target)
        for name, source in found.items()
        if isinstance(source, SecretSource) and source.form is SecretForm.FILE
    }


def of_secret(name: str, path: Path, mode: int | str) -> Finding:
    """Whether the file of a secret is there for the node alone; ``mode`` is text where it cannot be read."""
    subject = f"{path} of {name}"
    if isinstance(mode, str):
        fix = f"make it, and let the node's user read it; or change `{name}`"
        return failed(Check.SETTINGS_SECRETS, subject, mode, fix=fix)
    shown_mode = f"mode {stat.S_IMODE(mode):04o}"
    if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        found = f"{shown_mode}: others may read or change it"
        return warning(Check.SETTINGS_SECRETS, subject, found, fix=f"`chmod g-w,o-rwx {path}`")
    return ok(Check.SETTINGS_SECRETS, subject, shown_mode)


def _holds_password(url: str) -> bool:
    return urlsplit(url).password is not None


def of_variables(environ: Iterable[str]) -> Finding:
    """Whether a variable looks like one of ours under another name; those with our prefix are judged when
    the settings are read."""
    odd = sorted(name for name in environ if not name.startswith(PREFIX) and _looks_like_ours(name))
    if odd:
        return warning(
            Check.SETTINGS_VARIABLES,
            "environment",
            f"{', '.join(shown(name) for name in odd[:5])}: no setting is read from a name like this",
            fix=f"write {PREFIX} in capitals and the setting behind it, like {PREFIX}ACCESS_TTL; or unset it",
        )
    return ok(Check.SETTINGS_VARIABLES, "environment", "no variable that looks like a setting and is none")


def _looks_like_ours(name: str) -> bool:
    bare = name.lower().replace("_", "")
    return bare.startswith("mintmark") and bare.removeprefix("mintmark") in _SETTING


def of_warnings(settings: Settings) -> tuple[Finding, ...]:
    """The sentences that `mintmark serve` says too, each about the setting that it begins with."""
    return tuple(
        warning(Check.SETTINGS_UNUSUAL, name, sentence, fix=_reconsider(name, settings))
        for sentence in settings.warnings
        for name in (re.split(r"\W", sentence, maxsplit=1)[0],)
    )


def _reconsider(name: str, settings: Settings) -> str:
    if name not in _KEYS:
        return "change the setting, or keep it knowing this"
    return f"change `{name}` ({settings.sources[name]}), or keep it knowing this"


def of_timing(timing: Timing) -> tuple[Finding, ...]:
    """Every rule with its values and its margin, and the lead that follows from them.

    A rule that is broken is a mistake in the settings, so none is seen here.
    """
    rules = (ok(Check.TIMING_RULE, rule.formula, _margin(rule.name, timing)) for rule in RULES)
    lead = ok(
        Check.TIMING_LEAD,
        "verifier_cache + jwks_max_age + propagation + clock_skew",
        f"a key is public for {spoken(timing.lead)} before it signs; a node that joins others signs itself "
        "after that",
    )
    return (*rules, lead)


def _margin(name: str, timing: Timing) -> str:
    if name not in _MARGINS:
        return "holds"
    left, right, unit = _MARGINS[name](timing)
    return f"{unit(left)} against {unit(right)}: {unit(abs(right - left))} to spare"


_MARGINS: Final[Mapping[str, Callable[[Timing], tuple[int, int, Callable[[int], str]]]]] = {
    "max_age_within_cache": lambda t: (t.jwks_max_age, t.verifier_cache, spoken),
    "rotation_outlasts_lead": lambda t: (t.rotate_every, t.lead + t.jwks_max_age + t.access_ttl, spoken),
    "lease_within_feed_bound": lambda t: (t.lease + 2 * t.clock_skew + LEASE_MARGIN, t.feed_bound, spoken),
    "keys_fit_jwks": lambda t: (KEYS_PER_SIGNER * t.signers, t.jwks_limit, str),
    "grace_within_retry": lambda t: (t.refresh_grace, t.refresh_retry, spoken),
    "token_within_idle": lambda t: (t.access_ttl, t.session_idle, spoken),
    "idle_within_session": lambda t: (t.session_idle, t.session_ttl, spoken),
}
"""The two sides of each rule of :data:`mintmark.core.timing.RULES`, and how to write them."""
