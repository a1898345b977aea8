"""Following one issuer's revocations: pages until we are up to date, then the stream, then again."""

import asyncio
import logging
from typing import Final
from urllib.parse import urlencode

from mintmark.core.feed import (
    Heartbeat,
    Keys,
    Malformed,
    Message,
    Page,
    Reset,
    Revocation,
    parse_message,
    parse_page,
)
from mintmark.core.feed_table import MEDIA_TYPE, parse_table
from mintmark.core.keyset import Bucket
from mintmark.verifier.discovery import origin
from mintmark.verifier.event import EventName
from mintmark.verifier.fetch import FetchFailed
from mintmark.verifier.link import Link
from mintmark.verifier.source import TOO_MANY, Source

_LOGGER: Final = logging.getLogger("mintmark.verifier")
_BACKOFF_MAX: Final = 60
_SOON: Final = 2.0
"""Seconds that a verifier whose stream spoke lately waits at the most before it asks again. A node that
restarts is back in a second or two, and until its followers are too they do not hear of a logout."""
_AWAY: Final = frozenset({"connect", "network", "timeout", "status_502", "status_503", "status_504"})
"""Failures that an issuer which restarts gives; for those of another kind haste is of no use."""
_RESTARTS: Final = 3
"""A stream that ends is taken up again soon this many times; then as often as heartbeats come, so that
pages alone keep us up to date where no stream ever works."""
_SPREAD: Final = 0.5
"""Seconds over which those spread whose streams ended together, because a node died: the others could not
answer thousands at once. Who was told when to come spreads over a fifth of it besides."""

_SLICE: Final = 500
"""Events that are applied under the lock at once: a millisecond or two."""


async def follow(link: Link) -> None:
    """Follow the feed until cancelled; an issuer without one is looked at again when it moves."""
    source = link.source
    restarts = Bucket(_RESTARTS, source.terms.feed.heartbeat)
    while True:
        if not source.has_feed:
            await link.located.wait()
            link.located.clear()
            continue
        failure, pause = await _attempt(link)
        with link.engine.lock:
            source.feed_lost()
            if failure is not None:
                source.feed_failed(failure)
            failures, chance = source.feed_failures, source.random()
        link.news()
        now = link.clock.monotonic()
        spoke_lately = now - source.stream_spoke_at < source.terms.feed.bound
        if failures:
            longest = _SOON if spoke_lately and failure in _AWAY else _BACKOFF_MAX
            await link.clock.sleep(min(longest, 2 ** min(failures - 1, 16)) * chance)
        elif not restarts.take(now):
            wait = restarts.wait(now)
            await link.clock.sleep(max(pause, min(_SOON * chance, wait)) if spoke_lately else wait)
            restarts.take(link.clock.monotonic())
        elif pause:
            await link.clock.sleep(pause)


async def _attempt(link: Link) -> tuple[str | None, float]:
    """Catch up and listen until the stream ends: why that failed, or None where only the stream ended, and
    the seconds to wait after a stream that worked."""
    try:
        await _catch_up(link)
    except FetchFailed as error:
        return error.reason, 0
    except Malformed:
        return "malformed", 0
    except Exception:  # whatever a library does must not end the verifier
        _LOGGER.exception("reading revocations failed in an unforeseen way")
        return "internal", 0
    link.news()
    source = link.source
    spoke_at, ended = source.stream_spoke_at, True
    try:
        ended = await _listen(link)
    except FetchFailed as error:
        if error.reason == TOO_MANY:
            return error.reason, 0
        _LOGGER.debug("the stream of revocations ended: %s", error)
    except Malformed:
        # Pages keep us up to date from now on, but later than the stream would: somebody should look.
        link.source.reporter.tell(EventName.FEED_FAILED, reason="stream_malformed")
    except Exception:
        _LOGGER.exception("following revocations failed in an unforeseen way")
    if not ended or source.stream_spoke_at == spoke_at:
        # Only a page can help, or no stream works here: neither comes to all followers at one time.
        return None, 0
    with link.engine.lock:
        chance = source.random()
    return None, chance * _SPREAD if source.retry is None else source.retry + chance * _SPREAD / 5


async def _catch_up(link: Link) -> None:
    """Apply pages until one is complete; from the start, once, where the issuer forgot our cursor.

    What was applied stays when this fails, so that the next attempt goes on from there, after a pause:
    whatever the issuer answers, it is not asked without end.
    """
    source = link.source
    policy = source.terms.feed
    began = link.clock.monotonic()
    forgotten = False
    seen: set[str] = set()
    for _ in range(policy.pages):
        if link.clock.monotonic() - began >= policy.catch_up:
            raise FetchFailed("too_slow")
        found = source.discovery
        if found is None or found.feed is None:
            raise FetchFailed("no_feed")
        asked = source.instant()
        cursor = source.follower.cursor
        headers = _authorization(source, found.feed)
        if forgotten:
            # What an HTTP cache kept of the log that was would lead to the same end.
            headers["Cache-Control"] = "no-cache"
        try:
            answer = await link.fetcher.get(
                _page_url(found.feed, cursor),
                headers=headers,
                size=policy.page_size,
                span=policy.page_within,
                preferred=MEDIA_TYPE,
            )
        except FetchFailed as error:
            if error.reason != "status_410" or cursor is None or forgotten:
                raise
            forgotten = True
            seen.clear()
            with link.engine.lock:
                source.follower.reset()
            continue
        parse = parse_table if answer.media_type == MEDIA_TYPE else parse_page
        page = parse(answer.body, issuer=source.issuer, policy=policy)
        if cursor is not None:
            seen.add(cursor)
        if not page.complete and (page.cursor in seen or not (page.events or page.ignored)):
            raise FetchFailed("no_progress")
        await _apply(link, page)
        with link.engine.lock:
            source.paged(page, asked)
            late = page.complete and source.follower.is_silent(link.clock.monotonic())
        if late:
            # An old copy out of somebody's cache: it must not pass for knowledge.
            raise FetchFailed("late")
        if page.complete:
            return
    raise FetchFailed("too_many_pages")


async def _apply(link: Link, page: Page) -> None:
    """Apply the events of ``page`` a few at a time: every issuer's callers share the lock."""
    for start in range(0, len(page.events), _SLICE):
        if start:
            # Without a turn in between whoever waits for the lock would hardly ever get it.
            await link.clock.sleep(0)
        with link.engine.lock:
            link.source.apply(page.events[start : start + _SLICE], page.at)


def _page_url(feed: str, cursor: str | None) -> str:
    if cursor is None:
        return feed
    return f"{feed}{'&' if '?' in feed else '?'}{urlencode({'after': cursor})}"


def _authorization(source: Source, url: str) -> dict[str, str]:
    """The header that shows the feed's token; none to anybody but the issuer's own origin."""
    token = source.terms.feed_token
    if token is None or origin(url) != origin(source.issuer):
        return {}
    return {"Authorization": f"Bearer {token}"}


async def _listen(link: Link) -> bool:
    """Apply the stream's messages until it falls silent, only a page can help (False), or it ends (True)."""
    reader = asyncio.ensure_future(_read(link))
    watchdog = asyncio.ensure_future(_watch(link))
    try:
        await asyncio.wait({reader, watchdog}, return_when=asyncio.FIRST_COMPLETED)
        return reader.result() if reader.done() else False
    finally:
        for task in (reader, watchdog):
            task.cancel()
        await asyncio.gather(reader, watchdog, return_exceptions=True)


async def _watch(link: Link) -> None:
    """Return once the issuer has not been heard for too long."""
    follower = link.source.follower
    while (span := follower.silent_at() - link.clock.monotonic()) > 0:
        await link.clock.sleep(span)


async def _read(link: Link) -> bool:
    """Whether the stream came to its end."""
    source = link.source
    found, cursor = source.discovery, source.follower.cursor
    if found is None or found.stream is None or cursor is None:
        # No stream: a page each heartbeat does as well, if later.
        await link.clock.sleep(source.terms.feed.heartbeat)
        return False
    announces = False
    headers = _authorization(source, found.stream) | {"Last-Event-ID": cursor, "Cache-Control": "no-store"}
    size = source.terms.feed.message_size
    async with link.fetcher.events(found.stream, headers=headers, message_size=size) as events:
        async for event in events:
            if event.retry is not None:
                # Bounded: a number that some proxy wrote must not keep us from hearing of a log-out.
                source.retry = max(0, min(event.retry, _SOON * 1000)) / 1000
            message = parse_message(event.event, event.id, event.data)
            announces = announces or isinstance(message, Keys)
            if not _take(link, message, announces=announces):
                return False
            link.news()
    return True


def _take(link: Link, message: Message | None, *, announces: bool) -> bool:
    """Apply ``message``; whether the stream can go on."""
    source = link.source
    with link.engine.lock:
        match message:
            case Revocation():
                source.streamed(message)
            case Heartbeat():
                source.stream_spoke_at = link.clock.monotonic()
                return source.beat(message, announces=announces)
            case Keys():
                source.pushed(message)
            case Reset():
                source.follower.reset()
                return False
    return True
