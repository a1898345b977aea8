"""One issuer as a running verifier knows it: its keys and revocations, and what callers may ask of them.

Callers' threads and the engine's loop share this. Whatever changes it holds the engine's lock; what it
decides is decided in core.keyset and core.feed.
"""

from collections.abc import Collection
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from mintmark.core.claims import Revocation
from mintmark.core.denylist import Denylist
from mintmark.core.feed import Follower, Health, Heartbeat, Keys, OnStale, Page
from mintmark.core.feed import Revocation as Revoked
from mintmark.core.jwk import PublicKey, RefusedKey, UnusableKeySet, parse_jwk_set, thumbprint
from mintmark.core.keyset import Change, Freshness, Instant, KeyCache, Phase, Verdict
from mintmark.core.refusal import Code
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.verification import KeyAbsent, Trust
from mintmark.errors import InvalidToken, VerifierUnavailable
from mintmark.ports.clock import Clock, Entropy
from mintmark.units import Kid, NumericDate, Seconds
from mintmark.verifier.discovery import Discovery
from mintmark.verifier.event import EventName, Reporter
from mintmark.verifier.fetch import FetchFailed
from mintmark.verifier.setting import Terms

TOO_MANY: Final = "too_many_revocations"
_NEVER: Final = NumericDate(2**63 - 1)
_NO_KEYS: Final = MappingProxyType[Kid, PublicKey]({})


class Source:
    """The knowledge of one issuer; every method but the constructor needs the engine's lock."""

    def __init__(self, terms: Terms, *, clock: Clock, entropy: Entropy, reporter: Reporter) -> None:
        self.terms = terms
        self.issuer = terms.policy.issuer
        self.clock = clock
        self.reporter = reporter
        self.cache: KeyCache[PublicKey] = KeyCache(terms.keyset)
        self.follower = Follower(terms.feed)
        self.denylist = Denylist()
        self.discovery: Discovery | None = None
        self.discovered_at = float("-inf")
        self.feed_failures = 0
        """Attempts at the feed that failed since it last told us everything."""
        self.stream_spoke_at = float("-inf")
        """When, by the monotonic clock, a heartbeat last came over the stream."""
        self.retry: float | None = None
        """Seconds after which the issuer wants us to come again once a stream has ended."""
        self._room = 0
        self._entropy = entropy
        self._policy = terms.policy

    # --- what is believed now ------------------------------------------------------------------

    def trust(self, now: float) -> tuple[Trust, float]:
        """What to judge tokens by, and the monotonic time until which that holds without news."""
        snapshot = self.cache.snapshot
        served = now < snapshot.expires_at
        keys = snapshot.keys if served else _NO_KEYS
        until = snapshot.expires_at if served else float("inf")
        if self.discovery is None or self.discovery.feed is None:
            return Trust(policy=self._policy, keys=keys), until
        live = self.follower.health(now) is Health.LIVE
        trust = Trust(
            policy=self._policy,
            keys=keys,
            denylist=self.denylist,
            revocation=Revocation.CHECKED if live else Revocation.STALE,
            cutoff=self.follower.cutoff(now, self.terms.on_stale),
        )
        return trust, min(until, self.follower.until(now))

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt at keys or feed failed, so that the next one comes after a pause."""
        return self.cache.failures > 0 or self.feed_failures > 0

    @property
    def has_feed(self) -> bool:
        """Whether the issuer names a revocation feed; False while that is not known."""
        return self.discovery is not None and self.discovery.feed is not None

    def phase(self, now: float) -> Phase:
        """The state of the keys."""
        return self.cache.phase(now)

    def health(self, now: float) -> Health | None:
        """The state of the feed; None for an issuer without one, or of which nothing is known yet."""
        return self.follower.health(now) if self.has_feed else None

    def is_ready(self, now: float) -> bool:
        """Whether a good token would be accepted."""
        if self.cache.phase(now) in (Phase.COLD, Phase.EXPIRED):
            return False
        if not self.has_feed or self.terms.on_stale is OnStale.ALLOW:
            return True
        match self.follower.health(now):
            case Health.COLD:
                return False
            case Health.LOST:
                return self.terms.on_stale is OnStale.PROVE and not self.follower.is_cut_off
        return True

    # --- what callers ask ----------------------------------------------------------------------

    def judge(self, absent: KeyAbsent, since: int) -> tuple[bool, float]:
        """Whether the loop must be woken to fetch, and for how many seconds from its arrival to wait.

        Raises InvalidToken or VerifierUnavailable where no waiting can help.
        """
        now = self.instant()
        phase = self.cache.phase(now.mono)
        if phase is Phase.COLD or phase is Phase.EXPIRED:
            # An issuer that failed before may fail again: not every request waits that long for it.
            timing = self.terms.timing
            span = timing.unknown_wait if self.cache.failures else timing.load_wait
            if self.cache.fetching:
                return False, span
            if not self.cache.may_load(now.mono) or self.cache.attempts > since:
                raise VerifierUnavailable(
                    f"keys_{phase.value}",
                    "the issuer's keys could not be loaded",
                    retry_after=self.cache.retry_after(now.mono),
                )
            self.cache.began(now)
            return True, span
        match self.cache.judge(absent.kid, absent.iat, now, since=since):
            case Verdict.FOUND:
                return False, 0.0
            case Verdict.JOIN:
                return False, self.terms.timing.unknown_wait
            case Verdict.FETCH:
                self.cache.began(now)
                return True, self.terms.timing.unknown_wait
            case Verdict.UNCHECKED:
                raise self._unchecked()
        if self.cache.is_revoked(absent.kid):
            raise InvalidToken(Code.REVOKED, "revoked by kid")
        raise InvalidToken(Code.UNKNOWN_KID, "the issuer publishes no such key")

    def gave_up(self) -> VerifierUnavailable | InvalidToken:
        """The answer to a token whose wait for a key ended before the fetch did."""
        now = self.instant()
        phase = self.cache.phase(now.mono)
        if phase is Phase.COLD or phase is Phase.EXPIRED:
            return VerifierUnavailable(f"keys_{phase.value}", "the issuer's keys are not loaded yet")
        if self.cache.unchecked(now) is Verdict.UNCHECKED:
            return self._unchecked()
        return InvalidToken(Code.UNKNOWN_KID, "the issuer is not known to publish the key")

    def stale_wait(self) -> float:
        """Seconds to wait for the feed; raises VerifierUnavailable where no waiting can help."""
        health = self.health(self.clock.monotonic())
        # Only while the first attempt to catch up is not decided: a feed that is down must not slow
        # every request down.
        if health is None or self.feed_failures:
            raise self.stale()
        return self.terms.timing.load_wait if health is Health.COLD else self.terms.timing.rejoin_wait

    def stale(self) -> VerifierUnavailable:
        """The answer to a token that cannot be checked against the revocations."""
        return VerifierUnavailable(
            Code.REVOCATION_STALE, "revocations are not up to date", retry_after=Seconds(5)
        )

    def _unchecked(self) -> VerifierUnavailable:
        return VerifierUnavailable(
            "key_unchecked", "the token names a key that could not be looked up", retry_after=Seconds(5)
        )

    # --- what the loop reports -----------------------------------------------------------------

    def instant(self) -> Instant:
        """Now, on both clocks."""
        return Instant(self.clock.now(), self.clock.monotonic())

    def random(self) -> float:
        """A number in [0, 1)."""
        return int.from_bytes(self._entropy.token_bytes(7)) / 2**56

    def discovered(self, found: Discovery) -> None:
        """The discovery document was read; a feed that was known once stays known.

        One old copy of the document, from before there was a feed, would else accept every token that was
        revoked. Where the feed is really gone it fails, and ``on_stale`` decides.
        """
        known = self.discovery
        if found.feed is None and known is not None and known.feed is not None:
            found = replace(found, feed=known.feed, stream=known.stream)
            self.reporter.incident("feed_withdrawn")
        mintmark = found.feed is not None
        self.discovery = found
        self.discovered_at = self.clock.monotonic()
        self.cache.thumbprint_kids = mintmark
        self._policy = replace(self.terms.policy, thumbprint_kids=mintmark)

    def loaded(self, body: bytes, freshness: Freshness) -> None:
        """A key-set document came; raises FetchFailed (``unusable``) where it holds no usable key."""
        keys = self._usable(body)
        change = self.cache.loaded(keys, freshness, self.instant(), self.random())
        self.reporter.tell(EventName.KEYSET_LOADED, keys=len(keys), generation=self.cache.snapshot.generation)
        self._report(change)

    def unchanged(self, freshness: Freshness) -> None:
        """A 304 came."""
        self.cache.unchanged(freshness, self.instant(), self.random())
        self.reporter.tell(EventName.KEYSET_UNCHANGED)

    def failed(self, reason: str) -> None:
        """An attempt at the keys failed."""
        self.cache.failed(self.instant(), self.random())
        self.reporter.tell(EventName.REFRESH_FAILED, reason=reason, failures=self.cache.failures)

    def pushed(self, message: Keys) -> None:
        """The feed stated the published set; of one that cannot be used only the revoked kids count."""
        try:
            self._report(self.cache.pushed(self._usable(message.document), message.revoked, self.instant()))
        except FetchFailed as error:
            self.reporter.tell(EventName.FEED_FAILED, reason=f"keys_{error.reason}")
            self._report(self.cache.revoke_many(dict.fromkeys(message.revoked, _NEVER)))

    def apply(self, events: Collection[RevocationEvent], at: NumericDate) -> None:
        """Some events of the log came, told at the issuer's time ``at``.

        Raises FetchFailed (``too_many_revocations``), with nothing applied, where they would be more than are
        kept. The caller lets go of the lock from time to time.
        """
        self._make_room(len(events), at)
        kids: dict[Kid, NumericDate] = {}
        for event in events:
            self.denylist.apply(event)
            if event.kind is Kind.KID:
                kid = Kid(event.value)
                kids[kid] = max(event.expires_at, kids.get(kid, event.expires_at))
        if kids:
            self._report(self.cache.revoke_many(kids))

    def _make_room(self, count: int, at: NumericDate) -> None:
        # Counting takes longer than applying, so it is done only once that many came as there was room for.
        if count > self._room:
            self._forget(max(at, self.follower.issuer_time))
            self._room = max(0, self.terms.feed.entries - len(self.denylist))
            if count > self._room:
                raise FetchFailed(TOO_MANY)
        self._room -= count

    def paged(self, page: Page, asked: Instant) -> None:
        """All events of ``page``, asked for at ``asked``, were applied."""
        if page.events:
            self.reporter.tell(EventName.REVOCATION_APPLIED, events=len(page.events))
        self.follower.paged(page, asked)
        if page.complete:
            self._heard(asked, announces=False)

    def streamed(self, message: Revoked) -> None:
        """An event of the stream came."""
        if message.event is not None:
            self.apply((message.event,), self.follower.issuer_time)
            self.reporter.tell(EventName.REVOCATION_APPLIED, events=1, kind=message.event.kind.value)
        self.follower.applied(message)

    def beat(self, message: Heartbeat, *, announces: bool) -> bool:
        """A heartbeat came; whether we are in step with it."""
        now = self.instant()
        if not self.follower.beat(message, now):
            return False
        self._heard(now, announces=announces)
        return True

    def _heard(self, now: Instant, *, announces: bool) -> None:
        # What a cache or a proxy kept back says nothing of the keys that were revoked since.
        if not self.follower.is_silent(now.mono):
            self.cache.heard(now, announces=announces)
        self._forget(self.follower.issuer_time)
        if self.follower.health(self.clock.monotonic()) is Health.LIVE:
            self.feed_failures = 0
            self.reporter.tell(EventName.FEED_FOLLOWED, entries=len(self.denylist))

    def _forget(self, at: NumericDate) -> None:
        # By the issuer's clock where ours is ahead: a step of ours must not make us forget.
        now = min(self.clock.now(), at)
        self.denylist.prune(now)
        self.cache.forget_revoked(now)

    def feed_failed(self, reason: str) -> None:
        """An attempt at the feed failed."""
        self.feed_failures += 1
        self.reporter.tell(EventName.FEED_FAILED, reason=reason, failures=self.feed_failures)

    def feed_lost(self) -> None:
        """The stream ended or fell silent."""
        self.follower.lost()
        self.cache.feed_lost()

    def forked(self) -> None:
        """This is a child process: nothing is under way any more, and nobody waits."""
        self.cache.abandoned()
        self.feed_lost()
        self.feed_failures = 0
        self.reporter.reset()

    def _usable(self, body: bytes) -> dict[Kid, PublicKey]:
        try:
            parsed = parse_jwk_set(body)
        except UnusableKeySet as error:
            self._report_refused(error.refused)
            self.reporter.tell(EventName.KEYSET_REJECTED, reason=str(error))
            raise FetchFailed("unusable") from error
        self._report_refused(parsed.refused)
        keys: dict[Kid, PublicKey] = {key.kid: key for key in parsed.keys}
        if self.cache.thumbprint_kids:
            # A Mintmark's kid is its key's thumbprint: one that is not was put there by somebody else.
            for kid in [kid for kid, key in keys.items() if thumbprint(key.jwk) != kid]:
                del keys[kid]
                self.reporter.incident("kid_rebound", kid=kid)
            if not keys:
                raise FetchFailed("unusable")
        return keys

    def _report_refused(self, refused: tuple[RefusedKey, ...]) -> None:
        for key in refused:
            self.reporter.tell(EventName.KEY_SKIPPED, reason=key.reason.value, kid=key.kid or "")
            if key.reason.incident:
                self.reporter.incident(key.reason.value, kid=key.kid or "")

    def _report(self, change: Change) -> None:
        for kid in change.added:
            self.reporter.tell(EventName.KEY_ADDED, kid=kid)
        for kid in change.removed:
            self.reporter.tell(EventName.KEY_REMOVED, kid=kid)
        for kid in change.rebound:
            self.reporter.incident("kid_rebound", kid=kid)
