"""Which adapter a setting names: one line each, imported only when it is configured."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, cast

from mintmark.core.mark import UNMARKED, Marks
from mintmark.errors import ConfigurationError
from mintmark.ports.bus import Bus
from mintmark.ports.clock import Clock, Entropy
from mintmark.ports.publisher import Publisher
from mintmark.ports.store import Store

STORES: Final[Mapping[str, str]] = {
    "postgresql": "mintmark.adapters.sql.postgres:from_url",
    "sqlite": "mintmark.adapters.sql.sqlite:from_url",
}
"""By the scheme of the setting ``store``: what makes a store of a URL, a clock, entropy and marks."""

BUSES: Final[Mapping[str, str]] = {
    "nats": "mintmark.adapters.nats_bus:from_url",
    "postgresql": "mintmark.adapters.postgres_bus:from_url",
    "redis": "mintmark.adapters.redis_bus:from_url",
    "rediss": "mintmark.adapters.redis_bus:from_url",
    "sqlite": "mintmark.adapters.sqlite_bus:from_url",
    "tls": "mintmark.adapters.nats_bus:from_url",
}
"""By the scheme of ``bus``, or of ``store`` where ``bus`` is ``none``: what makes a bus of URL and clock."""

PUBLISHERS: Final[Mapping[str, str]] = {
    "file": "mintmark.adapters.filesystem:from_url",
    "s3": "mintmark.adapters.s3:from_url",
}
"""By the scheme of an item of ``publish``: what makes a place of a URL, a clock and entropy."""

EXTRAS: Final[Mapping[str, str]] = {
    "rediss": "redis",
    "tls": "nats",
    "postgresql": "server",
    "sqlite": "server",
}
"""By scheme, where the extra that it needs has another name."""


def make_store(url: str, *, clock: Clock, entropy: Entropy, marks: Marks = UNMARKED) -> Store:
    """The store that ``url`` names, not yet open; raises ConfigurationError for a scheme without one."""
    make = _find(STORES, url, key="store")
    return cast("Store", make(url, clock=clock, entropy=entropy, marks=marks))


def make_bus(url: str, *, store: str, clock: Clock) -> Bus:
    """The bus that ``url`` names, or the one that the store at ``store`` brings where ``url`` is ``none``.

    Raises ConfigurationError.
    """
    found, key = (store, "store") if url == "none" else (url, "bus")
    return cast("Bus", _find(BUSES, found, key=key)(found, clock=clock))


def make_publisher(url: str, *, clock: Clock, entropy: Entropy) -> Publisher:
    """The place that ``url`` names, whether it is there or not; raises ConfigurationError."""
    make = _find(PUBLISHERS, url, key="publish")
    return cast("Publisher", make(url, clock=clock, entropy=entropy))


def _find(registry: Mapping[str, str], url: str, *, key: str) -> Any:
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme not in registry:
        raise ConfigurationError(key, f"{scheme!r} is none of {', '.join(sorted(registry))}")
    module, _, name = registry[scheme].partition(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as missing:
        extra = EXTRAS.get(scheme, scheme)
        reason = f"{scheme}: needs {missing.name}, which is in the extra: pip install 'mintmark[{extra}]'"
        raise ConfigurationError(key, reason) from None
