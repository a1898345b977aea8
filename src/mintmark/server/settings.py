"""The settings of a node: one flat file, ``mintmark.toml``, each value overridable by a variable.

:data:`mintmark.server.option.KEYS` is the one list of them. Every mistake is reported, one line each, with
the place to mend it. The variable of ``access_ttl`` is ``MINTMARK_ACCESS_TTL``. Where one node serves several
issuers, what each has of its own is in a table of ``[[issuers]]``, and in no variable.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from mintmark.core.timing import CROWDED_JWKS, NAMES, Timing, broken_rules
from mintmark.errors import ConfigurationError, ConfigurationErrors
from mintmark.server.issuers import TABLES, IssuerSettings, Place, read_tables
from mintmark.server.key_setting import custody_mistakes
from mintmark.server.option import KEYS, PREFIX, Key
from mintmark.server.setting import NONE, Address, SecretSource, masked, shown
from mintmark.units import Issuer, Seconds, format_duration

DEFAULT_FILE: Final = Path("mintmark.toml")

OTHER_VARIABLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "MINTMARK_CONFIG": "Path of the configuration file, where `--config` does not give it.",
        "MINTMARK_VECTORS": "Folder of test vectors; read by the test suite only.",
    }
)
"""Variables with our prefix that are no settings, and so no mistakes."""


_OF_KUBERNETES: Final = re.compile(r"MINTMARK_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP|SCTP)\w*)?)")
"""What Kubernetes sets in every pod beside a Service called ``mintmark``; nobody wrote these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that was configured, converted and found consistent."""

    issuers: tuple[IssuerSettings, ...]
    """One or more, in the order of the file."""
    store: str
    """``sqlite:///path``, its path already relative to the right folder, or ``postgresql://…``. That may
    hold a password: it is shown through :func:`mintmark.server.setting.masked`."""
    cluster_key: SecretSource | None
    cluster_key_also: SecretSource | str | None
    """Text is :data:`mintmark.server.option.UNMARKED`."""
    feed_token: SecretSource | None
    bus: str
    listen: Address
    workers: int
    trusted_proxies: tuple[str, ...]
    seal_key: SecretSource | None
    seal_key_previous: SecretSource | None
    hsm_module: str | None
    hsm_token: str | None
    hsm_pin: SecretSource | None
    hsm_environment: tuple[str, ...]
    hsm_allow: tuple[str, ...]
    rsa_bits: int
    cold_start: str
    spare: bool
    cluster_listen: Address | str
    """``auto`` and ``off`` are what they say."""
    cluster_address: Address | str
    handover: Seconds
    """How long a node that leaves goes on serving, at the most, for want of another that can."""
    hash_workers: int
    hash_queue: int
    log_level: str
    log_format: str
    timing: Timing
    warnings: tuple[str, ...]
    """Sentences for the person who starts the node: allowed, but likely not what they want."""
    sources: Mapping[str, str]
    """For each key ``default``, ``mintmark.toml:3`` or the name of a variable."""

    @property
    def only(self) -> IssuerSettings:
        """The issuer where there is one; ValueError where there are several, and somebody must choose."""
        (one,) = self.issuers
        return one

    @property
    def issuer(self) -> Issuer:
        """The URL of :attr:`only`."""
        return self.only.issuer

    def of(self, issuer: str) -> "Settings":
        """The same for ``issuer`` alone; LookupError where it is none of :attr:`issuers`."""
        found = next((one for one in self.issuers if one.issuer == issuer), None)
        if found is None:
            raise LookupError(issuer)
        return replace(self, issuers=(found,))


@dataclass(frozen=True, slots=True)
class Description:
    """A key, what it means, what it is now and who said so."""

    key: Key
    value: str
    source: str


_HEADER: Final = re.compile(r"^[ \t]*\[[^\n]*\][ \t]*(?:#[^\n]*)?$", re.MULTILINE)
_TABLE: Final = re.compile(rf"""\[\[[ \t]*(["']?){TABLES}\1[ \t]*\]\][ \t]*(?:#.*)?""")

_HANDOVER_SPARE: Final = 60
"""Seconds beside the lead, in which a joining node prepares and proves its key."""


_BY_NAME: Final = {key.name: key for key in KEYS}
_OF_ISSUER: Final = tuple(key.name for key in KEYS if key.of_issuer)
_BY_VARIABLE: Final = {key.variable: key for key in KEYS}


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of the file at ``path`` and of the variables in ``environ``.

    Without ``path`` the file is the one that ``MINTMARK_CONFIG`` names, or ``mintmark.toml`` in the
    working directory if there is one. Raises ConfigurationErrors, which lists every mistake.
    """
    if path is None and environ.get("MINTMARK_CONFIG"):
        path = Path(environ["MINTMARK_CONFIG"])
    if path is None:
        if not DEFAULT_FILE.is_file():
            return read({}, environ)
        path = DEFAULT_FILE
    name = shown(str(path), limit=4096)
    try:
        text = path.read_text("utf-8")
        document = tomllib.loads(text)
    # A path may be no path at all (a NUL in it), which is a ValueError as well.
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationErrors(
            (ConfigurationError("configuration file", _unread(error), where=name),)
        ) from None
    return read(
        document, environ, folder=path.parent, name=name, line=lambda key, table: _line(text, key, table)
    )


def read(
    document: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    folder: Path = Path(),
    name: str = str(DEFAULT_FILE),
    line: Callable[[str, int], int] = lambda _, __: 0,
) -> Settings:
    """The settings of a file that is already parsed; ``line`` tells where in it a key stands, or 0: in the
    Nth table of ``[[issuers]]``, or at the top (0).

    Pure. Raises ConfigurationErrors, which lists every mistake.
    """

    def place(key: str, table: int = 0) -> str:
        found = line(key, table)
        return f"{name}:{found}" if found else name

    has_tables = TABLES in document
    mistakes = [*_unknown_keys(document, place), *_unknown_variables(environ)]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    wrong: set[str] = set()
    issuers: tuple[IssuerSettings, ...] = ()
    for key in KEYS:
        if has_tables and key.of_issuer:
            mistakes += _beside_tables(key, document, environ, place)
            continue
        given: list[tuple[str, str, object]] = [("default", key.name, key.default)]
        if key.name in document:
            given.append((place(key.name), key.name, document[key.name]))
        if key.variable in environ:
            given.append((key.variable, key.variable, key.kind.from_text(environ[key.variable])))
        # The later one counts, but an overridden mistake in the file is a mistake still.
        for source, spoken, written in given:
            try:
                values[key.name] = key.kind.parse(written)
            except ValueError as error:
                where = "environment" if source == key.variable else source
                mistakes.append(ConfigurationError(spoken, str(error), where=where))
                wrong.add(key.name)
            sources[key.name] = source
    if has_tables:
        issuers, found = read_tables(document[TABLES], place)
        mistakes += found
        sources[TABLES] = place(TABLES)
    elif wrong.isdisjoint(_OF_ISSUER):
        issuers = (IssuerSettings(**{key: values.pop(key) for key in _OF_ISSUER}),)
    timing = Timing(**{key: values.pop(key) for key in NAMES})
    mistakes += _contradictions(timing, wrong, sources)
    if "cluster_key" not in wrong and values.get("cluster_key_also") and values["cluster_key"] is None:
        mistakes.append(_mistake("cluster_key_also", "needs a `cluster_key` beside it", sources))
    if not mistakes:
        mistakes += [
            _mistake(key if key in sources else TABLES, reason, sources, spoken=key)
            for key, reason in custody_mistakes(values, [(one.key_mode, one.algorithm) for one in issuers])
        ]
    if mistakes:
        raise ConfigurationErrors(tuple(mistakes))
    values["store"] = _placed(values["store"], folder)
    if values["handover"] is None:
        values["handover"] = Seconds(timing.lead + _HANDOVER_SPARE)
    return Settings(
        **values,
        issuers=issuers,
        timing=timing,
        warnings=tuple(_warnings(timing, sources)),
        sources=MappingProxyType(sources),
    )


def working_by(settings: Settings, timing: Timing) -> Settings:
    """The settings of a node that works by ``timing``, because other nodes have other settings."""
    by_default = settings.sources["handover"] == "default"
    handover = Seconds(timing.lead + _HANDOVER_SPARE) if by_default else settings.handover
    return replace(settings, timing=timing, handover=handover)


def describe(settings: Settings) -> tuple[Description, ...]:
    """Every key with its present value, as it would be written, and the source of that value.

    A password in a URL is masked. What each issuer has of its own is there once for each.
    """
    return tuple(
        Description(
            key,
            masked(written(_value(settings, one, key))),
            settings.sources[TABLES if key.of_issuer and TABLES in settings.sources else key.name],
        )
        for key in KEYS
        for one in (settings.issuers if key.of_issuer else settings.issuers[:1])
    )


def written(value: object) -> str:
    """``value`` as TOML, whether it is a default of :data:`KEYS` or a value of :class:`Settings`."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case list() | tuple():
            return f"[{', '.join(written(item) for item in value)}]"
        case None:
            return f'"{NONE}"'
        case _:
            escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'


def _value(settings: Settings, issuer: IssuerSettings, key: Key) -> object:
    holder = issuer if key.of_issuer else settings.timing if key.name in NAMES else settings
    value: object = getattr(holder, key.name)
    # A number whose default is text is a span.
    return (
        format_duration(Seconds(value)) if isinstance(value, int) and isinstance(key.default, str) else value
    )


def _unknown_keys(document: Mapping[str, object], place: Place) -> Iterable[ConfigurationError]:
    for name, value in document.items():
        if name in _BY_NAME or name == TABLES:
            continue
        reason = "is not a setting" + _near(name, _BY_NAME)
        if isinstance(value, dict):
            reason = "is a table, but settings are flat: write them at the top of the file, without one"
        yield ConfigurationError(shown(name), reason, where=place(name, 0))


def _beside_tables(
    key: Key, document: Mapping[str, object], environ: Mapping[str, str], place: Place
) -> Iterable[ConfigurationError]:
    if key.name in document:
        reason = f"cannot stand beside `[[{TABLES}]]`: write it into the table of each issuer"
        yield ConfigurationError(key.name, reason, where=place(key.name, 0))
    if key.variable in environ:
        reason = f"is for a file without `[[{TABLES}]]`: it does not say which of the issuers it is about"
        yield ConfigurationError(key.variable, reason, where="environment")


def _unknown_variables(environ: Mapping[str, str]) -> Iterable[ConfigurationError]:
    known = [*_BY_VARIABLE, *OTHER_VARIABLES]
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known and _OF_KUBERNETES.fullmatch(name) is None:
            reason = "is not a setting" + _near(name, known)
            if name == PREFIX + TABLES.upper():
                reason = f"is not a setting: `[[{TABLES}]]` are tables, for which there is no variable"
            yield ConfigurationError(shown(name), reason, where="environment")


def _near(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.7)
    return f"; did you mean {found[0]}?" if found else ""


def _contradictions(
    timing: Timing, wrong: set[str], sources: Mapping[str, str]
) -> Iterable[ConfigurationError]:
    for rule in broken_rules(timing):
        # A rule over a value that could not be read would speak of a default that nobody chose.
        if wrong.isdisjoint(rule.settings):
            key = next((name for name in rule.settings if sources[name] != "default"), rule.settings[0])
            yield _mistake(key, rule.message, sources)


def _mistake(
    key: str, reason: str, sources: Mapping[str, str], *, spoken: str | None = None
) -> ConfigurationError:
    """At the place of ``key``; about ``spoken``, where the two differ."""
    source = sources[key]
    where = "environment" if key in _BY_NAME and source == _BY_NAME[key].variable else source
    return ConfigurationError(source if where == "environment" else spoken or key, reason, where=where)


def _warnings(timing: Timing, sources: Mapping[str, str]) -> Iterable[str]:
    # The default is past this mark too, but reaching it takes eight signers; the key ring warns then.
    if timing.jwks_limit >= CROWDED_JWKS and sources["jwks_limit"] != "default":
        yield f"jwks_limit = {timing.jwks_limit}: some gateways refuse sets of {CROWDED_JWKS} keys or more"


def _placed(store: str, folder: Path) -> str:
    if not store.startswith("sqlite:"):
        return store
    # joinpath leaves an absolute path as it is.
    return f"sqlite:///{folder / store.removeprefix('sqlite:///')}"


def _line(text: str, key: str, table: int) -> int:
    """The line of ``key`` at the top of the file, or in the Nth table of ``[[issuers]]``; 0 for nowhere."""
    headers = [*_HEADER.finditer(text)]
    tables = [header for header in headers if _TABLE.fullmatch(header[0].strip())]
    if table > len(tables):
        return 0
    begin = tables[table - 1].start() if table else 0
    end = next((header.start() for header in headers if header.start() > begin), len(text))
    if headers and not table:
        end = headers[0].start()
    written = re.compile(rf"""^[ \t]*(["']?){re.escape(key)}\1[ \t]*=""", re.MULTILINE)
    found = written.search(text, begin, end)
    at = found.start() if found else None
    if key == TABLES and at is None and tables:
        # The key of a table is in its header.
        at = tables[max(table - 1, 0)].start()
    return text.count("\n", 0, at) + 1 if at is not None else 0


def _unread(error: Exception) -> str:
    match error:
        case OSError():
            return f"cannot be read: {error.strerror or type(error).__name__}"
        case UnicodeDecodeError():
            return "is not UTF-8"
        case tomllib.TOMLDecodeError():
            return f"is not TOML: {shown(str(error))}"
        case RecursionError():
            return "is not a configuration: it is nested too deeply"
        case _:
            return "cannot be read"
