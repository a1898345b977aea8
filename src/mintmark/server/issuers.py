"""The issuers that one node serves: what each has of its own, and what two of them must not share.

What tells two issuers apart is the name of the host and the path. The scheme and the port do not: a proxy
ends TLS, and passes on a ``Host`` with a port or without.
"""

import difflib
import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final
from urllib.parse import urlsplit

from mintmark.errors import ConfigurationError
from mintmark.ports.publisher import bucket_of, folder_of
from mintmark.server.document import discovery_paths, jwks_path, key_path, path_of
from mintmark.server.option import KEYS
from mintmark.server.setting import shown
from mintmark.signer.keys import MAX_KEYS
from mintmark.units import Issuer

TABLES: Final = "issuers"
"""The one key of the file that holds tables."""

KEYS_OF_AN_ISSUER: Final = 8
"""What a signer may hold for one issuer at once, at the worst: of a node's own keys one that was just made,
one that comes, one that signs and one whose lease still runs, and the like of the cluster's in a switch."""

MAX_ISSUERS: Final = MAX_KEYS // KEYS_OF_AN_ISSUER

ROUTES: Final = frozenset(
    {
        ".well-known",
        "account",
        "admin",
        "authorize",
        "consent",
        "console",
        "device",
        "introspect",
        "keys",
        "livez",
        "login",
        "logout",
        "metrics",
        "par",
        "readyz",
        "register",
        "revocations",
        "revoke",
        "static",
        "token",
        "userinfo",
        "v1",
    }
)
"""What begins a path of ours, now or later: no issuer's path goes on with one of these behind another's."""

_WELL_KNOWN: Final = ".well-known"
_OWN: Final = {key.name: key for key in KEYS if key.of_issuer}
_GLOBAL: Final = frozenset(key.name for key in KEYS if not key.of_issuer)

Place = Callable[[str, int], str]
"""Where a key stands, in the Nth table of ``[[issuers]]`` (from 1), or at the top of the file (0)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSettings:
    """What was configured for one issuer; everything else is the node's."""

    issuer: Issuer
    key_mode: str
    algorithm: str
    proof_urls: tuple[str, ...]
    publish: tuple[str, ...]

    @property
    def host(self) -> str:
        """The name of its host, without a port."""
        return urlsplit(self.issuer).hostname or ""


def read_tables(
    tables: object, place: Place
) -> tuple[tuple[IssuerSettings, ...], tuple[ConfigurationError, ...]]:
    """The issuers of ``[[issuers]]``, and every mistake in them. Pure."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        reason = "must be tables: write `[[issuers]]`, with two brackets, above the settings of each issuer"
        return (), (ConfigurationError(TABLES, reason, where=place(TABLES, 0)),)
    if not 1 <= len(tables) <= MAX_ISSUERS:
        reason = f"must be 1 to {MAX_ISSUERS} tables: a signer holds the keys of no more"
        return (), (ConfigurationError(TABLES, reason, where=place(TABLES, 0)),)
    found: dict[int, IssuerSettings] = {}
    mistakes: list[ConfigurationError] = []
    for number, table in enumerate(tables, start=1):
        one, wrong = _read_table(table, number, place)
        mistakes += wrong
        if one is not None:
            found[number] = one
    # In the order of the file: the later one of two that collide is the one to change.
    for (_, first), (number, second) in combinations(found.items(), 2):
        for key, reason in _collisions(first, second):
            mistakes.append(ConfigurationError(key, reason, where=place(key, number)))
    return tuple(found.values()), tuple(mistakes)


def _read_table(
    table: Mapping[str, object], number: int, place: Place
) -> tuple[IssuerSettings | None, list[ConfigurationError]]:
    mistakes = [
        ConfigurationError(shown(name), _not_here(name), where=place(name, number))
        for name in table
        if name not in _OWN
    ]
    values: dict[str, Any] = {}
    for name, key in _OWN.items():
        if name == "issuer" and name not in table:
            reason = "is missing: each table of `[[issuers]]` names its issuer"
            mistakes.append(ConfigurationError(name, reason, where=place(TABLES, number)))
            continue
        try:
            values[name] = key.kind.parse(table.get(name, key.default))
        except ValueError as error:
            mistakes.append(ConfigurationError(name, str(error), where=place(name, number)))
    if _WELL_KNOWN in path_of(values.get("issuer", "")).split("/"):
        reason = f"must have no {_WELL_KNOWN} in its path: documents of other issuers are there"
        mistakes.append(ConfigurationError("issuer", reason, where=place("issuer", number)))
    if len(values) < len(_OWN):
        return None, mistakes
    return IssuerSettings(**values), mistakes


def _not_here(name: str) -> str:
    if name in _GLOBAL:
        return "holds for the whole node: write it at the top of the file, above the first `[[issuers]]`"
    near = difflib.get_close_matches(name[:80], _OWN, n=1, cutoff=0.7)
    return "is not a setting of an issuer" + (f"; did you mean {near[0]}?" if near else "")


# --- two issuers ---------------------------------------------------------------------------------


def _collisions(first: IssuerSettings, second: IssuerSettings) -> Iterable[tuple[str, str]]:
    """The keys of ``second`` that cannot stand beside ``first``, each with the reason."""
    if first.issuer == second.issuer:
        yield "issuer", "is there twice: each issuer has one table"
        return
    if first.host == second.host:
        reason = _same_host(path_of(first.issuer), path_of(second.issuer), first.issuer)
        if reason is not None:
            yield "issuer", reason
            return
    for url in second.publish:
        reason = next(
            (why for other in first.publish if (why := _same_place(first, other, second, url)) is not None),
            None,
        )
        if reason is not None:
            yield "publish", reason


def _same_host(one: str, other: str, issuer: Issuer) -> str | None:
    """Why paths ``one`` and ``other`` cannot both be issuers of one host; None where they can."""
    if one == other:
        return f"differs from {issuer} by its scheme or port alone, which proxies do not pass on"
    outer, inner = sorted((one, other), key=len)
    if not inner.startswith(outer + "/"):
        return None
    begins = inner.removeprefix(outer + "/").partition("/")[0]
    if begins not in ROUTES:
        return None
    return f"collides with {issuer}: {outer}/{begins} is one of the outer issuer's own paths"


def _same_place(first: IssuerSettings, one: str, second: IssuerSettings, other: str) -> str | None:
    """Why ``second`` cannot be published to ``other`` while ``first`` is to ``one``; None where it can."""
    if urlsplit(first.issuer)[:2] != urlsplit(second.issuer)[:2] and _root(one) == _root(other):
        return (
            f"is a place of {first.issuer} already: it is a copy of one host, so another has one of its own"
        )
    theirs, ours = _names(first.issuer, one), _names(second.issuer, other)
    if theirs & ours:
        return f"collides with {first.issuer}: both would write the same names there"
    # A bucket has no folders: there one name may go on behind another.
    if one.startswith("file:") and any(a.startswith(b + "/") for a, b in _pairs(theirs, ours)):
        return f"collides with {first.issuer}: a document of one is a folder of the other; a bucket could"
    return None


def _pairs(some: frozenset[str], others: frozenset[str]) -> Iterable[tuple[str, str]]:
    for one in some:
        for other in others:
            yield one, other
            yield other, one


def _root(url: str) -> str:
    """The place in its one spelling."""
    if url.startswith("file:"):
        return "file:" + posixpath.normpath(folder_of(url)).rstrip("/")
    return "s3:" + "/".join(filter(None, bucket_of(url)))


def _names(issuer: Issuer, url: str) -> frozenset[str]:
    """What is written for ``issuer`` at ``url``; a key is named after itself, so one stands for all."""
    paths = (jwks_path(issuer), key_path(issuer, "{kid}"), *discovery_paths(issuer))
    return frozenset(_root(url) + path for path in paths)
