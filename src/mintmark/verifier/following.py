"""A running verifier's knowledge of its issuers, and the tasks that keep it up to date.

``view`` is what callers judge tokens by: immutable, replaced whole, read without a lock. It says until
when it holds, so that it goes stale by itself even if the engine's thread gets no turn.
"""

import asyncio
import ssl
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from mintmark.core.feed import Health
from mintmark.core.keyset import Phase
from mintmark.core.verification import KeyAbsent, Trust, Trusted
from mintmark.errors import VerifierUnavailable
from mintmark.ports.clock import Clock, Entropy
from mintmark.verifier import discovery, feed, keys
from mintmark.verifier.engine import Engine
from mintmark.verifier.event import LOGGER, EventName, Listener, Reporter
from mintmark.verifier.fetch import Fetcher, load_client
from mintmark.verifier.link import Link
from mintmark.verifier.setting import Terms
from mintmark.verifier.source import Source
from mintmark.verifier.wait import Waiters, settle, sleep_until

_MARGIN: Final = 5.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What was last reported of an issuer."""

    phase: Phase
    silent: bool


@dataclass(frozen=True, slots=True)
class View:
    """What tokens are judged by until monotonic ``until``.

    ``behind``: issuers whose revocations are older than the bound, or are not known at all.
    """

    trusted: Trusted
    until: float
    behind: frozenset[str] = frozenset()
    standing: dict[str, Standing] = field(default_factory=dict)


class Following:
    """Follows each of ``terms``' issuers, in a thread of its own, from the first use on."""

    def __init__(
        self,
        terms: Iterable[Terms],
        *,
        clock: Clock,
        entropy: Entropy,
        listener: Listener | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.clock = clock
        self._tls = tls
        self.sources: dict[str, Source] = {}
        for term in terms:
            reporter = Reporter(term.policy.issuer, listener, clock)
            source = Source(term, clock=clock, entropy=entropy, reporter=reporter)
            self.sources[source.issuer] = source
        self.engine = Engine(self._main, self._forked, prepare=load_client, ended=self._wake_all)
        self._waiters = Waiters(clock)
        self._links: dict[str, Link] = {}
        self._deadline_moved: asyncio.Event | None = None
        self._view_moved: asyncio.Event | None = None
        # The first renewal is due at once.
        self.view = View(Trusted(source.trust(0.0)[0] for source in self.sources.values()), float("-inf"))

    # --- for callers, on any thread ------------------------------------------------------------

    def renew(self) -> View:
        """The view as of now, which also becomes ``view``; starts the thread where it does not run."""
        if self.engine.closed:
            raise VerifierUnavailable("closed", "the verifier was closed")
        if not self.engine.running:
            self.engine.start()
        with self.engine.lock:
            self._renew()
            return self.view

    def ask_key(
        self, absent: KeyAbsent, since: int | None, arrived: float
    ) -> tuple["Future[None] | None", int]:
        """A future to wait for before judging again (None: judge again now), and the next ``since``.

        Raises InvalidToken or VerifierUnavailable where no waiting can help.
        """
        source = self.sources[absent.issuer]
        with self.engine.lock:
            self._check_may_wait()
            since = source.cache.attempts if since is None else since
            wake, span = source.judge(absent, since)
            if span == 0:
                self._renew()
                return None, since
            deadline = arrived + span
            if not wake and self.clock.monotonic() >= deadline:
                raise source.gave_up()
            added = self._waiters.add(deadline)
        # An attempt that was begun is made, even where nobody more may wait for it.
        if wake:
            self.engine.call(lambda: self._poke(source.issuer))
        return self._armed(added), since

    def ask_feed(self, issuer: str, arrived: float) -> "Future[None] | None":
        """A future to wait for before judging again, after a token that was too new for what is known.

        Raises VerifierUnavailable where no waiting can help.
        """
        source = self.sources[issuer]
        with self.engine.lock:
            self._check_may_wait()
            now = self.clock.monotonic()
            health = source.health(now)
            if health is Health.LIVE or health is Health.DEGRADED:
                self._renew()
                return None
            deadline = arrived + source.stale_wait()
            if now >= deadline:
                raise source.stale()
            added = self._waiters.add(deadline)
        return self._armed(added)

    def prove(self, issuer: str) -> None:
        """A valid token of ``issuer`` was issued after the cutoff: it lives, and we do not hear it."""
        source = self.sources[issuer]
        with self.engine.lock:
            if source.health(self.clock.monotonic()) is Health.LOST and source.follower.proved():
                source.reporter.incident("partition_suspected")
                self._renew()

    def ask_ready(self, deadline: float) -> "Future[None] | None":
        """A future to wait for until each issuer is ready or failing; None once that is so, or time is up."""
        self.renew()
        with self.engine.lock:
            now = self.clock.monotonic()
            if now >= deadline or all(s.is_ready(now) or s.is_failing for s in self.sources.values()):
                return None
            self._check_may_wait()
            added = self._waiters.add(deadline)
        return self._armed(added)

    def is_ready(self) -> bool:
        """Whether good tokens of every issuer would be accepted."""
        with self.engine.lock:
            now = self.clock.monotonic()
            return not self.engine.closed and all(source.is_ready(now) for source in self.sources.values())

    @property
    def load_wait(self) -> float:
        """The longest that starting may take, in seconds."""
        return max(source.terms.timing.load_wait for source in self.sources.values())

    @property
    def patience(self) -> float:
        """Real seconds after which a caller gives up on the thread: longer than any rule lets it wait."""
        spans = (
            max(timing.load_wait, timing.unknown_wait, timing.rejoin_wait)
            for timing in (source.terms.timing for source in self.sources.values())
        )
        return max(spans) + _MARGIN

    def reporter_of(self, issuer: str) -> Reporter:
        """The reporter of ``issuer``, or of the first issuer for tokens that name none of ours."""
        source = self.sources.get(issuer) or next(iter(self.sources.values()))
        return source.reporter

    def flush(self) -> None:
        """Deliver the events that are waiting; without the lock."""
        for source in self.sources.values():
            source.reporter.flush()

    def _check_may_wait(self) -> None:
        """Raise VerifierUnavailable where nobody would wake the caller, who holds the lock."""
        if self.engine.closed:
            raise VerifierUnavailable("closed", "the verifier was closed")
        if self.engine.is_current():
            raise VerifierUnavailable("would_block", "a listener of events cannot wait for the verifier")

    def _armed(self, added: tuple["Future[None]", bool] | None) -> "Future[None]":
        if added is None:
            raise VerifierUnavailable("overloaded", "too many tokens wait for keys or revocations")
        future, first = added
        if first:
            self.engine.call(self._move_deadline)
        return future

    def _move_deadline(self) -> None:
        if self._deadline_moved is not None:
            self._deadline_moved.set()

    def _poke(self, issuer: str) -> None:
        link = self._links.get(issuer)
        if link is not None:
            link.poke.set()

    # --- what is believed ----------------------------------------------------------------------

    def _renew(self) -> None:
        """Put the view together; the caller holds the lock."""
        now = self.clock.monotonic()
        before = self.view
        trusts: list[Trust] = []
        behind = set[str]()
        standing: dict[str, Standing] = {}
        until = float("inf")
        for source in self.sources.values():
            trust, holds = source.trust(now)
            trusts.append(trust)
            until = min(until, holds)
            health = source.health(now)
            if health not in (Health.LIVE, Health.DEGRADED):
                behind.add(source.issuer)
            self._note(source, before, standing, now)
        same = all(before.trusted.trust(trust.policy.issuer) == trust for trust in trusts)
        trusted = before.trusted if same else Trusted(trusts)
        self.view = View(trusted, until, frozenset(behind), standing)

    def _note(self, source: Source, before: View, standing: dict[str, Standing], now: float) -> None:
        """Report what changed in the standing of one issuer."""
        phase = source.phase(now)
        if phase is Phase.REFRESHING:
            phase = Phase.FRESH  # every few minutes, and nothing to act on
        silent = source.has_feed and source.follower.is_silent(now)
        standing[source.issuer] = Standing(phase, silent)
        was = before.standing.get(source.issuer, Standing(Phase.COLD, silent=False))
        if phase is not was.phase:
            source.reporter.tell(EventName.STATE_CHANGED, state=phase.value, before=was.phase.value)
        if silent is not was.silent:
            source.reporter.tell(EventName.FEED_DEGRADED if silent else EventName.FEED_RESTORED)

    def news(self) -> None:
        """Something was learnt: renew the view, wake whoever waits, deliver events. On the loop."""
        with self.engine.lock:
            self._renew()
            waiting = self._waiters.take_all()
        if self._view_moved is not None:
            self._view_moved.set()
        settle(waiting)
        self.flush()

    # --- the loop ------------------------------------------------------------------------------

    async def _main(self) -> None:
        """Follow every issuer until cancelled."""
        self._deadline_moved = asyncio.Event()
        self._view_moved = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._expire_waiters())
                tasks.create_task(self._expire_view())
                for source in self.sources.values():
                    tasks.create_task(self._follow(source))
        except* Exception:  # noqa: BLE001 - logged, and started again by the next caller
            LOGGER.exception("following an issuer ended")
        finally:
            self._links.clear()

    async def _follow(self, source: Source) -> None:
        fetcher = Fetcher(
            limits=source.terms.limits,
            clock=self.clock,
            tls=self._tls,
            # A proxy named in the environment is for the outside world.
            proxies=not discovery.is_loopback(source.issuer),
            vet=partial(discovery.check_address, issuer=source.issuer),
        )
        async with fetcher, asyncio.TaskGroup() as tasks:
            link = Link(source, fetcher, self.engine, self.clock, self.news)
            self._links[source.issuer] = link
            tasks.create_task(keys.keep(link))
            tasks.create_task(feed.follow(link))

    async def _expire_waiters(self) -> None:
        moved = self._deadline_moved
        while moved is not None:
            with self.engine.lock:
                expired = self._waiters.take_expired()
                first = self._waiters.first()
            settle(expired)
            if first is None:
                await moved.wait()
                moved.clear()
            else:
                await sleep_until(self.clock, first, moved)

    async def _expire_view(self) -> None:
        moved = self._view_moved
        while moved is not None:
            until = self.view.until
            if until == float("inf"):
                await moved.wait()
                moved.clear()
            elif await sleep_until(self.clock, until, moved) is False:
                self.news()

    def _wake_all(self) -> None:
        with self.engine.lock:
            waiting = self._waiters.take_all()
        settle(waiting)

    def _forked(self) -> None:
        self._waiters = Waiters(self.clock)
        self._links = {}
        self._deadline_moved = self._view_moved = None
        for source in self.sources.values():
            source.forked()
