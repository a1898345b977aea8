"""The cache of one issuer's public keys: when to fetch, what changes, which unknown ``kid`` to ask about.

::

    COLD -> FRESH -> REFRESHING -> FRESH
                         |
                         v
                       STALE -> EXPIRED          any success, from anywhere: FRESH

Nothing here fetches, waits or reads a clock. A driver asks :meth:`KeyCache.due_at`, reports
:meth:`~KeyCache.began` and then one of :meth:`~KeyCache.loaded`, :meth:`~KeyCache.unchanged` or
:meth:`~KeyCache.failed`; a caller with a ``kid`` that it does not know asks :meth:`~KeyCache.judge`.

A key is looked up in :attr:`KeyCache.snapshot`, which is immutable and replaced whole, so that readers
need no lock. All other calls are short and must not overlap.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from mintmark.core.jwk import is_kid, is_thumbprint
from mintmark.units import Kid, NumericDate, Seconds

K = TypeVar("K")

_LONG: Final = 2**31
# RFC 9110 s.8.8.3 allows an ETag bytes from 0x80 on, which clients read and cannot write: with such a
# condition no request would ever leave again.
_SENDABLE: Final = re.compile("[ -~]{1,512}")


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on both clocks: ``wall`` to compare with what tokens say, ``mono`` for spans."""

    wall: NumericDate
    mono: float


class Phase(Enum):
    """How good the keys in the cache are."""

    COLD = "cold"
    """Never loaded: nothing can be verified."""
    FRESH = "fresh"
    """Loaded, and not due again."""
    REFRESHING = "refreshing"
    """Due, and being fetched; keys are served."""
    STALE = "stale"
    """The last attempts failed; keys are served, degraded."""
    EXPIRED = "expired"
    """Failing for so long that no key is served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysetPolicy:
    """The numbers of the cache; every span in seconds."""

    lifetime: Seconds = Seconds(300)
    """Where the answer has no ``Cache-Control: max-age``."""
    lifetime_min: Seconds = Seconds(60)
    lifetime_max: Seconds = Seconds(3600)
    refresh_at: float = 0.8
    """The share of its lifetime after which a set is fetched again, in the background …"""
    refresh_jitter: float = 0.1
    """… give or take this share of that moment, so that a fleet spreads out."""
    max_stale: Seconds = Seconds(4 * 3600)
    """How long keys are served without news of them …"""
    max_stale_fed: Seconds = Seconds(24 * 3600)
    """… and while a live feed would report that one was revoked."""
    backoff: Seconds = Seconds(1)
    backoff_max: Seconds = Seconds(60)
    unknown_burst: int = 2
    """Fetches for unknown kids that may come at once …"""
    unknown_every: Seconds = Seconds(30)
    """… and the time in which one more is earned."""
    unchecked_limit: int = 10
    """Tokens a minute that are answered 503 because their ``kid`` could not be checked."""
    negative_size: int = 1024
    negative_ttl: Seconds = Seconds(300)
    revoked_size: int = 10_000
    """Revoked kids kept here; those beyond it are denied by the denylist alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """What an HTTP answer says of its age: ``max_age`` None where it says nothing; ``age`` at least 0."""

    max_age: Seconds | None = None
    age: Seconds = Seconds(0)
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[K]):
    """The keys that may be used until ``expires_at`` (monotonic); a new ``generation`` for new keys."""

    keys: Mapping[Kid, K]
    generation: int
    expires_at: float


@dataclass(frozen=True, slots=True)
class Change:
    """What a new set changed: kids ``added``, ``removed``, and ``rebound`` to other material.

    A Mintmark's ``kid`` is a thumbprint and cannot be rebound. Elsewhere the newest document is believed,
    as it would be for a new ``kid``, but somebody should look.
    """

    added: tuple[Kid, ...] = ()
    removed: tuple[Kid, ...] = ()
    rebound: tuple[Kid, ...] = ()


class Verdict(Enum):
    """What to do about a ``kid`` that the snapshot lacked."""

    FOUND = "it is there now"
    FETCH = "fetch the set; the budget for it is spent"
    JOIN = "wait for the fetch that is under way"
    REFUSE = "no such key: the token is invalid"
    UNCHECKED = "it could not be checked: not the token's fault"


def parse_freshness(cache_control: str | None, age: str | None, etag: str | None) -> Freshness:
    """The headers ``Cache-Control`` and ``Age`` (RFC 9111 s.5), where nonsense counts as absent."""
    max_age: int | None = None
    for directive in (cache_control or "").split(","):
        name, _, value = directive.partition("=")
        match name.strip().lower():
            case "max-age" if max_age is None:
                max_age = _delta_seconds(value.strip().strip('"'))
            case "no-store" | "no-cache":
                max_age = 0
    return Freshness(
        max_age=None if max_age is None else Seconds(max_age),
        age=Seconds(_delta_seconds(age or "") or 0),
        etag=etag if _SENDABLE.fullmatch(etag or "") else None,
    )


def _delta_seconds(text: str) -> int | None:
    # RFC 9111 s.1.2.2: what is too large to hold is some large number.
    return min(int(text[:12]), _LONG) if text.isascii() and text.isdecimal() else None


class Bucket:
    """A budget: ``size`` at once, one more each ``every`` seconds; asking never waits."""

    __slots__ = ("_at", "_every", "_left", "_size")

    def __init__(self, size: int, every: float) -> None:
        self._size = size
        self._every = every
        self._left = float(size)
        self._at = -math.inf

    def take(self, now: float) -> bool:
        """Whether there was one left at monotonic ``now``; then it is spent."""
        self._refill(now)
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def wait(self, now: float) -> float:
        """Seconds until one is there."""
        self._refill(now)
        return max(0.0, (1 - self._left) * self._every)

    def _refill(self, now: float) -> None:
        if now > self._at:
            earned = (now - self._at) / self._every
            self._left = min(float(self._size), self._left + earned)
            self._at = now


@dataclass(frozen=True, slots=True)
class _Source(Generic[K]):
    """One key set, and the monotonic time as of which its origin stated it; ``turn`` breaks ties."""

    keys: Mapping[Kid, K]
    as_of: float
    turn: int

    @property
    def order(self) -> tuple[float, int]:
        """The later of two statements has the higher one."""
        return self.as_of, self.turn


class KeyCache(Generic[K]):
    """One issuer's keys, from its key-set document and, where it has one, its live feed.

    Times are :class:`Instant` or monotonic seconds; ``random`` arguments are uniform in [0, 1).
    """

    def __init__(self, policy: KeysetPolicy, *, thumbprint_kids: bool = False) -> None:
        self.policy = policy
        self.thumbprint_kids = thumbprint_kids
        """Whether every ``kid`` is an RFC 7638 thumbprint, so that anything else is no key's."""
        self.snapshot: Snapshot[K] = Snapshot(MappingProxyType({}), 0, -math.inf)
        self.etag: str | None = None
        self._fetched: _Source[K] | None = None
        self._pushed: _Source[K] | None = None
        # Until when each kid is kept out: for ever where the feed stated no time.
        self._revoked: dict[Kid, float] = {}
        self._forget_at = math.inf
        self._feed_live = False
        self._loaded_at = -math.inf
        self._heard_at = -math.inf
        self._known_wall = NumericDate(0)
        self._stated = Freshness()
        self._max_age = policy.lifetime
        self._refresh_at = -math.inf
        self._began_at: float | None = None
        self._began_turn = 0
        self._turns = 0
        self._attempts = 0
        self._failures = 0
        self._negative: dict[Kid, float] = {}
        self._unknown = Bucket(policy.unknown_burst, policy.unknown_every)
        self._unchecked = Bucket(policy.unchecked_limit, 60 / policy.unchecked_limit)

    # --- for the driver ------------------------------------------------------------------------

    def phase(self, now: float) -> Phase:
        """The state at monotonic ``now``."""
        if self._loaded_at == -math.inf:
            return Phase.COLD
        if now >= self.snapshot.expires_at:
            return Phase.EXPIRED
        if self._failures:
            return Phase.STALE
        return Phase.REFRESHING if self._began_at is not None else Phase.FRESH

    @property
    def fetching(self) -> bool:
        """Whether an attempt is under way."""
        return self._began_at is not None

    @property
    def attempts(self) -> int:
        """How many attempts have begun."""
        return self._attempts

    @property
    def failures(self) -> int:
        """Attempts that failed since the last success."""
        return self._failures

    @property
    def negative_entries(self) -> int:
        """How many absent kids are remembered."""
        return len(self._negative)

    def due_at(self) -> float:
        """The monotonic time of the next fetch in the background: refresh, or retry after a failure."""
        return self._refresh_at

    def retry_after(self, now: float) -> Seconds:
        """Whole seconds, at least 1, after which asking again may be answered otherwise."""
        return Seconds(max(1, min(60, math.ceil(self._refresh_at - now)))) if self._failures else Seconds(1)

    def age(self, now: float) -> float:
        """Seconds since the keys were last confirmed; infinite when never."""
        return now - max(self._loaded_at, self._heard_at if self._pushed else -math.inf)

    def began(self, now: Instant) -> None:
        """An attempt starts; there is one at a time."""
        if self._began_at is not None:
            raise RuntimeError("one fetch at a time")
        self._began_at = now.mono
        self._began_turn = self._next_turn()
        self._attempts += 1

    def loaded(self, keys: Mapping[Kid, K], freshness: Freshness, now: Instant, random: float) -> Change:
        """The attempt brought a set with at least one usable key."""
        began = self._end(freshness, now, random)
        self.etag = freshness.etag
        elapsed = math.ceil(now.mono - began) + freshness.age
        self._fetched = _Source(keys, began - freshness.age, self._began_turn)
        self._known_wall = max(self._known_wall, NumericDate(now.wall - elapsed))
        return self._publish()

    def unchanged(self, freshness: Freshness, now: Instant, random: float) -> None:
        """The attempt brought a 304: what was loaded last still holds (RFC 9111 s.4.3.4)."""
        if self._fetched is None:
            raise RuntimeError("nothing was loaded that could be unchanged")
        # A header that the 304 does not repeat is still the stored one.
        max_age = self._stated.max_age if freshness.max_age is None else freshness.max_age
        renewed = Freshness(max_age=max_age, age=freshness.age, etag=freshness.etag or self.etag)
        self.loaded(self._fetched.keys, renewed, now, random)

    def failed(self, now: Instant, random: float) -> None:
        """The attempt failed, or its document was rejected: what was loaded last stays.

        The next one follows after 1, 2, 4 … 60 s, each drawn evenly from the span (full jitter), and is
        unconditional: the condition may be what failed.
        """
        self._began_at = None
        self.etag = None
        span = min(self.policy.backoff_max, self.policy.backoff * 2 ** min(self._failures, 16))
        self._failures += 1
        self._refresh_at = now.mono + span * random

    def abandoned(self) -> None:
        """The attempt ended with its process or loop, and says nothing of the issuer."""
        self._began_at = None

    # --- for the feed --------------------------------------------------------------------------

    def pushed(self, keys: Mapping[Kid, K], revoked: frozenset[Kid], now: Instant) -> Change:
        """The live feed states the published set; ``revoked`` kids never come back."""
        self._pushed = _Source(keys, now.mono, self._next_turn())
        self._keep_out(dict.fromkeys(revoked, math.inf))
        self._known_wall = max(self._known_wall, now.wall)
        return self._publish()

    def revoke_many(self, kids: Mapping[Kid, NumericDate]) -> Change:
        """Keys were revoked until some time: they are gone, whatever any document says."""
        return self._publish() if self._keep_out(kids) else Change()

    def forget_revoked(self, now: NumericDate) -> None:
        """Forget kids whose revocation expired by ``now``, but for those that a set still lists."""
        if now < self._forget_at:
            return
        self._revoked = {kid: end for kid, end in self._revoked.items() if end > now or self._is_listed(kid)}
        self._forget_at = min(self._revoked.values(), default=math.inf)

    def is_revoked(self, kid: Kid) -> bool:
        """Whether the issuer said that the key ``kid`` was revoked."""
        return kid in self._revoked

    def heard(self, now: Instant, *, announces: bool) -> None:
        """The feed is live; if it ``announces`` keys, it has announced every change up to ``now``."""
        self._feed_live = announces
        self._heard_at = now.mono
        if announces and self._pushed is not None:
            self._pushed = _Source(self._pushed.keys, now.mono, self._next_turn())
            self._known_wall = max(self._known_wall, now.wall)
        self._publish()

    def feed_lost(self) -> None:
        """The feed is not live any more: only the newest of the two sets counts."""
        self._feed_live = False
        self._publish()

    # --- for callers ---------------------------------------------------------------------------

    def may_load(self, now: float) -> bool:
        """Whether a caller without any usable key may cause a fetch now, or must come back later."""
        return self._began_at is None and (not self._failures or now >= self._refresh_at)

    def judge(self, kid: Kid, iat: int | None, now: Instant, *, since: int) -> Verdict:
        """What to do about ``kid``; asked again after each wait, with the same ``since``.

        ``since`` is what :attr:`attempts` was when the token came: an attempt that had begun by then may
        have been answered before the key was published, and proves nothing.

        No wait is ever imposed here, and garbage costs the issuer at most the budget.
        """
        if kid in self.snapshot.keys:
            return Verdict.FOUND
        if not self._plausible(kid, iat) or self._negative.get(kid, -math.inf) > now.mono:
            return Verdict.REFUSE
        if self._began_at is not None:
            return Verdict.JOIN
        if self._attempts > since:
            if self._failures:
                return self.unchecked(now)
            self._remember_absent(kid, now.mono)
            return Verdict.REFUSE
        if self._unknown.take(now.mono):
            return Verdict.FETCH
        # With a live feed an announced key would be here already.
        return Verdict.REFUSE if self._feed_live and self._pushed is not None else self.unchecked(now)

    def unchecked(self, now: Instant) -> Verdict:
        """UNCHECKED (503) at most ten times a minute, then REFUSE (401).

        Else garbage tokens would make a healthy service look ill and get it taken out of service.
        """
        return Verdict.UNCHECKED if self._unchecked.take(now.mono) else Verdict.REFUSE

    # --- inside --------------------------------------------------------------------------------

    def _keep_out(self, kids: Mapping[Kid, float]) -> bool:
        """Remember revoked ``kids`` until the times given; whether there were new ones."""
        before = len(self._revoked)
        for kid, end in kids.items():
            known = self._revoked.get(kid)
            if known is None and len(self._revoked) >= self.policy.revoked_size and not self._is_listed(kid):
                continue
            if known is None or known < end:
                self._revoked[kid] = end
                self._forget_at = min(self._forget_at, end)
        return len(self._revoked) > before

    def _is_listed(self, kid: Kid) -> bool:
        return any(source is not None and kid in source.keys for source in (self._fetched, self._pushed))

    def _plausible(self, kid: Kid, iat: int | None) -> bool:
        if not (is_thumbprint(kid) if self.thumbprint_kids else is_kid(kid)):
            return False
        if kid in self._revoked:
            return False
        # Keys are published before use, so a token from before the set we hold names a key in it or none.
        oldest = self._known_wall - max(self.policy.lifetime_min, self._max_age)
        return iat is None or iat > oldest

    def _remember_absent(self, kid: Kid, now: float) -> None:
        # Not for long: an HTTP cache may have answered with an old copy.
        span = min(self.policy.negative_ttl, self._max_age)
        if len(self._negative) >= self.policy.negative_size:
            del self._negative[next(iter(self._negative))]
        self._negative[kid] = now + span

    def _end(self, freshness: Freshness, now: Instant, random: float) -> float:
        began = now.mono if self._began_at is None else self._began_at
        self._began_at = None
        self._failures = 0
        self._loaded_at = now.mono
        self._stated = freshness
        policy = self.policy
        if freshness.max_age is None:
            self._max_age = policy.lifetime
            lifetime = float(policy.lifetime)
        else:
            self._max_age = freshness.max_age or policy.lifetime_min
            least = min(policy.lifetime_min, self._max_age)
            lifetime = float(min(policy.lifetime_max, max(least, self._max_age - freshness.age)))
        spread = 1 + policy.refresh_jitter * (2 * random - 1)
        self._refresh_at = now.mono + lifetime * policy.refresh_at * spread
        return began

    def _next_turn(self) -> int:
        self._turns += 1
        return self._turns

    def _publish(self) -> Change:
        """Put the snapshot together: the newest set, joined by the live feed's."""
        fetched, pushed = self._fetched, self._pushed
        usable: dict[Kid, K] = {}
        if fetched is not None and (pushed is None or fetched.order > pushed.order):
            usable |= fetched.keys
            if pushed is not None and self._feed_live:
                usable |= pushed.keys
        elif pushed is not None:
            usable |= pushed.keys
        usable = {kid: key for kid, key in usable.items() if kid not in self._revoked}
        before = self.snapshot
        changed = usable != before.keys
        if changed:
            self._negative.clear()
        if pushed is not None:
            self._loaded_at = max(self._loaded_at, pushed.as_of)
        policy = self.policy
        # While a feed is live a revoked key would be reported, so keys may be older; once it is lost, the
        # shorter span counts from its last word.
        expires_at = min(
            self._loaded_at + policy.max_stale_fed, max(self._loaded_at, self._heard_at) + policy.max_stale
        )
        self.snapshot = Snapshot(
            MappingProxyType(usable) if changed else before.keys, before.generation + changed, expires_at
        )
        return Change(
            added=tuple(kid for kid in usable if kid not in before.keys),
            removed=tuple(kid for kid in before.keys if kid not in usable),
            rebound=tuple(kid for kid, key in usable.items() if before.keys.get(kid, key) != key),
        )
