"""What a service says about an issuer that it trusts, checked once."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, Literal, TypeAlias, TypeVar

from mintmark.core.algorithm import Algorithm
from mintmark.core.feed import FeedPolicy, OnStale
from mintmark.core.keyset import KeysetPolicy
from mintmark.core.policy import Policy, Profile
from mintmark.errors import ConfigurationError
from mintmark.ports.clock import Clock
from mintmark.system import SYSTEM_CLOCK
from mintmark.units import Issuer as IssuerUrl
from mintmark.units import NumericDate, Seconds
from mintmark.verifier import discovery
from mintmark.verifier.fetch import Limits

Names: TypeAlias = str | Iterable[str]
ALGORITHMS: Final = tuple(Algorithm)
"""All that there are: each key is pinned to one."""
E = TypeVar("E", bound=Enum)
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750 s.2.1."""
_MAX_TOKEN: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The numbers of a verifier beside those of its key cache and feed; spans in seconds."""

    unknown_wait: float = 1.0
    """How long a token with a new ``kid`` waits for the key set."""
    load_wait: float = 5.0
    """How long a token waits for the first key set and the first revocations."""
    rejoin_wait: float = 1.0
    """How long a token waits for a feed whose silence was only now noticed."""
    discovery_lifetime: Seconds = Seconds(3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """One issuer that a :class:`~mintmark.Verifier` accepts tokens of.

    ``audience``: this service's name, or several. ``leeway``: seconds for ``exp``, ``nbf`` and ``iat``
    alike; by default 30 for ``exp`` and 60 for the others. ``profile``: ``"jwt"`` for issuers whose access
    tokens are not RFC 9068's. ``on_stale`` decides about revocations older than ``feed_bound`` seconds.
    ``allow_origins``: where, beside the issuer's own origin, its keys may be. ``feed_token``: what an issuer
    asks for whose revocation feed is not everybody's; it is sent to the issuer's own origin alone.
    """

    issuer: str
    audience: Names
    algorithms: Names = ALGORITHMS
    leeway: int | None = None
    max_lifetime: int = 86_400
    profile: Literal["rfc9068", "jwt"] = "rfc9068"
    audience_claim: Literal["aud", "client_id"] = "aud"
    on_stale: Literal["deny", "allow", "prove"] = "prove"
    feed_bound: int = 300
    max_stale: int | None = None
    allow_origins: Names = ()
    feed_token: str | None = field(default=None, repr=False)
    keyset: KeysetPolicy = field(default_factory=KeysetPolicy, repr=False)
    feed: FeedPolicy = field(default_factory=FeedPolicy, repr=False)
    limits: Limits = field(default_factory=Limits, repr=False)
    timing: Timing = field(default_factory=Timing, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """An :class:`Issuer` checked and typed."""

    policy: Policy
    keyset: KeysetPolicy
    feed: FeedPolicy
    limits: Limits
    timing: Timing
    on_stale: OnStale
    origins: frozenset[str]
    feed_token: str | None = field(default=None, repr=False)


def check(issuer: Issuer) -> Terms:
    """The typed form of ``issuer``; raises ConfigurationError that names the setting."""
    discovery.check_issuer(issuer.issuer)
    return Terms(
        policy=token_policy(issuer),
        keyset=_stale_bound(issuer),
        feed=_feed_bound(issuer),
        limits=issuer.limits,
        timing=issuer.timing,
        on_stale=_one_of(OnStale, "on_stale", issuer.on_stale),
        origins=frozenset(_origin(url) for url in names("allow_origins", issuer.allow_origins)),
        feed_token=_feed_token(issuer.feed_token),
    )


def token_policy(issuer: Issuer) -> Policy:
    """What tokens of ``issuer`` must be; raises ConfigurationError."""
    policy = Policy(
        issuer=IssuerUrl(issuer.issuer),
        audiences=names("audience", issuer.audience),
        algorithms=frozenset(
            _one_of(Algorithm, "algorithms", name) for name in names("algorithms", issuer.algorithms)
        ),
        profile=_one_of(Profile, "profile", issuer.profile),
        max_lifetime=whole("max_lifetime", issuer.max_lifetime, least=1),
        audience_claim=issuer.audience_claim,
    )
    if issuer.leeway is None:
        return policy
    span = whole("leeway", issuer.leeway, least=0)
    return replace(policy, leeway=span, exp_leeway=span)


def names(key: str, value: Names) -> frozenset[str]:
    """One text, or several, as a set of texts; raises ConfigurationError that names ``key``."""
    try:
        found = frozenset((value,) if isinstance(value, str) else value)
    except TypeError:
        raise ConfigurationError(key, "text, or a list of text") from None
    if not all(isinstance(item, str) for item in found):
        raise ConfigurationError(key, "text, or a list of text")
    return found


def whole(key: str, value: int, *, least: int) -> Seconds:
    """``value`` as a span; raises ConfigurationError that names ``key``."""
    if type(value) is not int or value < least:
        raise ConfigurationError(key, f"a whole number of seconds, at least {least}")
    return Seconds(value)


def as_clock(clock: object) -> Clock:
    """A Clock from an object with ``now``, or from a callable that gives the time in seconds.

    What such an object cannot do (``monotonic``, ``sleep``) the system's clock does.
    """
    if all(callable(getattr(clock, name, None)) for name in ("now", "monotonic", "sleep")):
        return clock  # type: ignore[return-value]
    now = getattr(clock, "now", None)
    if callable(now):
        return _WallClock(now)
    if callable(clock):
        return _WallClock(clock)
    raise ConfigurationError("clock", "an object with now(), or a callable that gives seconds")


class _WallClock:
    """The system's clock, but for the time of day."""

    __slots__ = ("_now",)

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def now(self) -> NumericDate:
        return NumericDate(int(self._now()))

    def monotonic(self) -> float:
        return SYSTEM_CLOCK.monotonic()

    async def sleep(self, span: float) -> None:
        await SYSTEM_CLOCK.sleep(span)


def _stale_bound(issuer: Issuer) -> KeysetPolicy:
    if issuer.max_stale is None:
        return issuer.keyset
    span = whole("max_stale", issuer.max_stale, least=60)
    return replace(issuer.keyset, max_stale=span, max_stale_fed=span)


def _feed_bound(issuer: Issuer) -> FeedPolicy:
    return replace(issuer.feed, bound=whole("feed_bound", issuer.feed_bound, least=30))


def _feed_token(value: object) -> str | None:
    if value is None or (isinstance(value, str) and len(value) <= _MAX_TOKEN and _TOKEN.fullmatch(value)):
        return value
    # The message repeats nothing of it.
    raise ConfigurationError("feed_token", "text of the characters that a Bearer token may have")


def _origin(url: str) -> str:
    found = discovery.origin(url)
    if found is None:
        raise ConfigurationError("allow_origins", "an origin is written like https://keys.example.com")
    return found


def _one_of(kind: type[E], key: str, value: object) -> E:
    try:
        return kind(value)
    except ValueError:
        raise ConfigurationError(key, "one of " + ", ".join(str(item.value) for item in kind)) from None
