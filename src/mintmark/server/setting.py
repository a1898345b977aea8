"""What the value of a setting may be: one :class:`Kind` for each form, with the reason when it is not.

A kind never repeats a value that could hold a secret (a URL with a password) in its reason. Longer than 300
lines because every form that a value can have is here, in one place to look for it.
"""

import ipaddress
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from mintmark.ports.bus_place import PORTS, bus_place
from mintmark.ports.publisher import bucket_of, folder_of
from mintmark.units import Seconds, format_duration, parse_duration

T = TypeVar("T")
U = TypeVar("U")

AUTO: Final = "auto"
"""Written where a value follows from others."""
OFF: Final = "off"
PEER: Final = "peer"
NONE: Final = "none"
"""Written where there is no such thing."""
_MAX_TEXT: Final = 2048
_LOCAL_HOSTS: Final = frozenset({"localhost"})
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._~-]+")
_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
)
_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:]+)):(?P<port>[0-9]{1,5})")

_STORES: Final = '"sqlite:///mintmark.db" or "postgresql://user:password@host/database"'
_BUSES: Final = '"redis://host", "nats://host" or "postgresql://user:password@host/database"'
_SECRETS: Final = '"file:/path", "env:NAME" or "command:/path argument"'
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PASSWORD: Final = re.compile(r"(://[^:@/?#]*:)[^/?#]*(@)")
_POSTGRESQL_OPTIONS: Final = frozenset({"host", "sslmode", "sslrootcert", "sslcert", "sslkey"})
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A form of value: ``parse`` takes what TOML gave, ``from_text`` makes that of a variable's text.

    Both raise ValueError with a reason that follows the key's name in a message.
    """

    label: str
    parse: Callable[[object], T]
    from_text: Callable[[str], object] = str


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host (IPv6 without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        """The form in which it is configured."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class SecretForm(StrEnum):
    """Where a secret is read from."""

    FILE = "file"
    ENV = "env"
    COMMAND = "command"


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where a secret is to be read; never the secret itself, so it may be shown."""

    form: SecretForm
    target: str
    """A path, the name of a variable, or a command as it is written."""

    @property
    def argv(self) -> tuple[str, ...]:
        """The program and its arguments; no shell sees them."""
        return tuple(shlex.split(self.target))

    def __str__(self) -> str:
        """The form in which it is configured."""
        return f"{self.form.value}:{self.target}"


def shown(value: str, *, limit: int = 60) -> str:
    """``value`` fit for one line of a message: control characters escaped, cut at ``limit``."""
    cut = value[: limit + 1]
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return escaped if len(escaped) <= limit else escaped[:limit] + "…"


def whole(low: int, high: int) -> Kind[int]:
    """A whole number from ``low`` to ``high``."""

    def parse(value: object) -> int:
        # TOML's `true` is a Python int as well, and nobody means 1 by it.
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"must be a whole number, not {_form(value)}")
        if not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return Kind(f"whole number, {low} to {high}", parse, _number)


def number_of(*choices: int) -> Kind[int]:
    """One of a few whole numbers."""
    listed = _listed(str(choice) for choice in choices)

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"must be a whole number, not {_form(value)}")
        if value not in choices:
            raise ValueError(f"must be {listed}")
        return value

    return Kind(listed, parse, _number)


def flag() -> Kind[bool]:
    """True or false."""

    def parse(value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {_form(value)}")
        return value

    return Kind("true or false", parse, lambda text: {"true": True, "false": False}.get(text, text))


def choice(*choices: str) -> Kind[str]:
    """One of ``choices``."""
    listed = _listed(f'"{choice}"' for choice in choices)

    def parse(value: object) -> str:
        found = _text(value)
        if "://" in found:
            # It may hold a password, as that of a store that was written under another name does.
            raise ValueError(f"must be {listed}, not a URL")
        if found not in choices:
            raise ValueError(f'must be {listed}, not "{shown(found)}"')
        return found

    return Kind(listed, parse)


def duration(low: str, high: str) -> Kind[Seconds]:
    """A span from ``low`` to ``high``, written ``"15m"``."""
    shortest, longest = parse_duration(low), parse_duration(high)

    def parse(value: object) -> Seconds:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError('has no unit: write text like "30s", "15m" or "4h"')
        written = _text(value)
        if len(written) > 40:
            raise ValueError("is too long for a duration")
        span = parse_duration(written)
        if not shortest <= span <= longest:
            raise ValueError(f'must be from "{low}" to "{high}", not "{format_duration(span)}"')
        return span

    return Kind(f'duration, "{low}" to "{high}"', parse)


def auto_or(kind: Kind[U]) -> Kind[U | None]:
    """``"auto"``, which is None, or a value of ``kind``."""

    def parse(value: object) -> U | None:
        return None if value == AUTO else kind.parse(value)

    return Kind(f'"{AUTO}" or {kind.label}', parse, kind.from_text)


def word_or(word: str, kind: Kind[U]) -> Kind[U | str]:
    """``word``, or a value of ``kind``."""

    def parse(value: object) -> U | str:
        return word if value == word else kind.parse(value)

    return Kind(f'"{word}", {kind.label}', parse, kind.from_text)


def named_or(kind: Kind[U], *names: str) -> Kind[U | str]:
    """One of a few words, or a value of ``kind``."""

    def parse(value: object) -> U | str:
        return value if isinstance(value, str) and value in names else kind.parse(value)

    quoted = (f'"{name}"' for name in names)
    return Kind(_listed((*quoted, kind.label)), parse, kind.from_text)


def list_of(kind: Kind[U]) -> Kind[tuple[U, ...]]:
    """A list of texts of ``kind``; in a variable they are separated by commas."""

    def parse(value: object) -> tuple[U, ...]:
        if not isinstance(value, list):
            raise ValueError(f"must be a list, not {_form(value)}")
        found: list[U] = []
        for place, item in enumerate(value, start=1):
            try:
                found.append(kind.parse(item))
            except ValueError as error:
                raise ValueError(f"item {place} {error}") from None
        return tuple(found)

    return Kind(
        f"list of {kind.label}",
        parse,
        lambda text: [item.strip() for item in text.split(",")] if text.strip() else [],
    )


def url(label: str, *, plain_http: bool) -> Kind[str]:
    """An absolute http(s) URL without query, fragment, user or trailing slash.

    Plain http is for loopback alone unless ``plain_http``. Two spellings of one URL are refused where
    they can be (upper case, ``..``, ``%``, the default port), since URLs are compared byte for byte.
    """

    def parse(value: object) -> str:
        written = _text(value)
        if not written.isascii() or any(c in written for c in " \\%<>\"'`{}|^"):
            raise ValueError("must be plain ASCII without spaces, quotes and percent signs")
        try:
            parts = urlsplit(written)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError("is not a URL") from None
        if parts.scheme not in {"http", "https"} or not host or not written.startswith(parts.scheme):
            raise ValueError('must be an absolute URL like "https://auth.example.com"')
        if "@" in parts.netloc:
            raise ValueError("must not hold a user or a password")
        if "?" in written or "#" in written:
            raise ValueError("must have no query and no fragment")
        if written.endswith("/"):
            raise ValueError("must not end with a slash")
        _check_spelling(parts.netloc, parts.path, host, port, parts.scheme)
        if parts.scheme == "http" and not plain_http and not is_loopback(host):
            raise ValueError("must be https: plain http is for loopback alone")
        return written

    return Kind(label, parse)


def store_url() -> Kind[str]:
    """Where the store is: a file of SQLite, or a database of PostgreSQL."""

    def parse(value: object) -> str:
        written = _text(value)
        scheme, colon, rest = written.partition(":")
        if colon and scheme == "postgresql":
            _check_postgresql(written)
            return written
        if not colon or scheme != "sqlite":
            raise ValueError(f"must be a URL like {_STORES}")
        path = rest.removeprefix("///")
        if path == rest or path in {"", "/"} or path.startswith((":memory:", "file:")) or "?" in path:
            raise ValueError('must name a file, like "sqlite:///mintmark.db" or "sqlite:////srv/mintmark.db"')
        return written

    return Kind('"sqlite:///path" or "postgresql://user:password@host:port/database"', parse)


def bus_url() -> Kind[str]:
    """What carries wake-ups: a server of Redis, NATS or PostgreSQL; ``"none"`` for what the store brings."""

    def parse(value: object) -> str:
        written = _text(value)
        scheme, colon, _ = written.partition(":")
        if colon and scheme == "postgresql":
            _check_postgresql(written)
        elif colon and scheme in PORTS:
            bus_place(written)
        elif written != NONE:
            # It may hold a password, as one whose scheme is misspelt does.
            raise ValueError(f'must be "{NONE}" or a URL like {_BUSES}')
        return written

    return Kind(
        f'"{NONE}", "redis://user:password@host:port/name", "rediss://…", "nats://…", "tls://…" (NATS over '
        'TLS) or "postgresql://…"',
        parse,
    )


def place_url() -> Kind[str]:
    """A folder or a bucket for copies of the public documents."""

    def parse(value: object) -> str:
        written = _text(value)
        scheme, _, _ = written.partition(":")
        match scheme:
            case "file":
                folder_of(written)
            case "s3":
                bucket_of(written)
            case _:
                raise ValueError('must be a URL like "file:///srv/www" or "s3://bucket/prefix"')
        return written

    return Kind('"file:///path" or "s3://bucket/prefix"', parse)


def secret_source() -> Kind[SecretSource | None]:
    """Where a secret is read from; ``"none"``, which is None, where there is none.

    No reason repeats the value: whoever takes this for the place of the secret itself has written it there.
    """

    def parse(value: object) -> SecretSource | None:
        written = _text(value)
        if written == NONE:
            return None
        form, colon, target = written.partition(":")
        if not colon or form not in frozenset(SecretForm) or not target.strip():
            raise ValueError(f"must say where the secret is: {_SECRETS}")
        source = SecretSource(SecretForm(form), target)
        match source.form:
            case SecretForm.ENV:
                if not _VARIABLE.fullmatch(target):
                    raise ValueError("must name a variable of letters, digits and underscores")
            case SecretForm.FILE:
                if not target.startswith("/"):
                    raise ValueError("must name a file by its absolute path")
            case SecretForm.COMMAND:
                _check_command(source)
        return source

    return Kind(f'"{NONE}" or {_SECRETS}', parse)


def masked(url: str) -> str:
    """``url`` as it may be shown: without the password in it."""
    return _PASSWORD.sub(r"\1***\2", url)


def address() -> Kind[Address]:
    """A host and a port to listen on."""

    def parse(value: object) -> Address:
        written = _text(value)
        found = _ADDRESS.fullmatch(written)
        host = (found["v6"] or found["host"]) if found else ""
        if found is None or not (_is_ip(host, 6) if found["v6"] else _is_ip(host, 4) or _is_name(host)):
            raise ValueError('must be a host and a port, like "127.0.0.1:8420" or "[::1]:8420"')
        port = int(found["port"])
        if not 1 <= port <= 65535:
            raise ValueError("has a port outside 1 to 65535")
        return Address(host, port)

    return Kind('"host:port"', parse)


def network() -> Kind[str]:
    """An address or a network in CIDR form, in its one spelling."""

    def parse(value: object) -> str:
        written = _text(value)
        try:
            found = ipaddress.ip_network(written)
        except ValueError:
            raise ValueError('must be an address or a network, like "10.0.0.7" or "10.0.0.0/24"') from None
        # Trusting every peer to say who it is means trusting nobody's address.
        if found.prefixlen == 0:
            raise ValueError("must not be every address")
        return str(found)

    return Kind("address or network", parse)


def is_loopback(host: str) -> bool:
    """Whether ``host`` can only be this machine."""
    if host in _LOCAL_HOSTS:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_postgresql(written: str) -> None:
    try:
        parts = urlsplit(written)
        host, _ = parts.hostname, parts.port
        unquote(parts.path, errors="strict")
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ValueError("is not a URL: what is special in a user or a password is written %xx") from None
    if parts.netloc.count("@") > 1:
        # What follows the first one would be taken for the server, and shown: the end of a password.
        raise ValueError("is not a URL: an @ in a user or a password is written %40")
    if not (host or options.get("host")) or parts.path.count("/") != 1 or parts.path == "/":
        raise ValueError('must name a server and a database: "postgresql://user:password@host:port/database"')
    if "," in (host or "") or "," in options.get("host", ""):
        raise ValueError("must name one server")
    if parts.fragment:
        raise ValueError("must have no fragment: # is written %23")
    for name in options:
        if name not in _POSTGRESQL_OPTIONS:
            raise ValueError(f"may have {_listed(sorted(_POSTGRESQL_OPTIONS))} after the question mark only")
    if options.get("sslmode", "prefer") not in _SSL_MODES:
        raise ValueError(f"has an sslmode that is not {_listed(_SSL_MODES)}")


def _check_command(source: SecretSource) -> None:
    try:
        program = source.argv[0]
    except ValueError:
        raise ValueError("must be a command whose quotes are closed") from None
    if not program.startswith("/"):
        raise ValueError("must name a program by its absolute path")


def _check_spelling(netloc: str, path: str, host: str, port: int | None, scheme: str) -> None:
    bare = f"[{host}]" if ":" in host else host
    if netloc not in {bare, f"{bare}:{port}"}:
        raise ValueError("must have a host in lower case and a plain port")
    if not (_is_ip(host, 6) if ":" in host else _is_ip(host, 4) or _is_name(host)):
        raise ValueError("has no usable host")
    if port == {"http": 80, "https": 443}[scheme]:
        raise ValueError("must leave the default port out")
    for segment in path.split("/")[1:]:
        if segment in {".", ".."} or not _SEGMENT.fullmatch(segment):
            raise ValueError("must have a plain path of letters, digits and .-_~")


def _is_ip(host: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(host).version == version
    except ValueError:
        return False


def _is_name(host: str) -> bool:
    # A name that ends in a number would be read as an IPv4 address by some, and as a name by others.
    return bool(_HOST.fullmatch(host)) and not host.rpartition(".")[2].isdigit()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {_form(value)}")
    if not value:
        raise ValueError("must not be empty")
    if len(value) > _MAX_TEXT:
        raise ValueError("is too long")
    if not value.isprintable():
        raise ValueError("must not hold control characters")
    return value


def _number(text: str) -> object:
    # What is no number stays text, and `parse` says so.
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def _form(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _listed(choices: Iterable[str]) -> str:
    *first, last = choices
    return f"{', '.join(first)} or {last}" if first else last
