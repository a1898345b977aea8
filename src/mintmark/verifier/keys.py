"""Keeping one issuer's keys: one attempt at a time, when the cache says so or a caller asked."""

from typing import Final

from mintmark.core.keyset import Freshness, parse_freshness
from mintmark.verifier import discovery
from mintmark.verifier.discovery import Discovery
from mintmark.verifier.event import LOGGER
from mintmark.verifier.fetch import Answer, FetchFailed, within
from mintmark.verifier.link import Link
from mintmark.verifier.wait import sleep_until

_MOVED: Final = frozenset(
    {"status_301", "status_302", "status_307", "status_308", "status_404", "status_410"}
)


async def keep(link: Link) -> None:
    """Fetch whenever it is due, until cancelled."""
    source = link.source
    while True:
        with link.engine.lock:
            begun = source.cache.fetching
            due_at = source.cache.due_at()
            if not begun and link.clock.monotonic() >= due_at:
                source.cache.began(source.instant())
                begun = True
        if begun:
            await _attempt(link)
        else:
            await sleep_until(link.clock, due_at, link.poke)


async def _attempt(link: Link) -> None:
    """One attempt, begun already, that ends in ``loaded``, ``unchanged`` or ``failed``."""
    source = link.source
    failure: str | None = None
    try:
        await within(link.clock, source.terms.limits.total, _load(link))
    except FetchFailed as error:
        failure = error.reason
    except Exception:  # noqa: BLE001 - whatever a library does must not end the verifier
        LOGGER.exception("an attempt at the keys failed in an unforeseen way")
        failure = "internal"
    if failure is not None:
        with link.engine.lock:
            if failure in _MOVED:
                source.discovered_at = float("-inf")
            source.failed(failure)
    link.news()


async def _load(link: Link) -> None:
    source = link.source
    found = await _locate(link)
    conditional = source.cache.etag
    headers = {"If-None-Match": conditional} if conditional is not None else {}
    answer = await link.fetcher.get(found.jwks_uri, headers=headers)
    freshness = _freshness(answer)
    with link.engine.lock:
        if answer.status == 304:
            source.unchanged(freshness)
        else:
            source.loaded(answer.body, freshness)


async def _locate(link: Link) -> Discovery:
    """The issuer's URLs: those known, or, from time to time, those of a fresh discovery document."""
    source = link.source
    known = source.discovery
    age = link.clock.monotonic() - source.discovered_at
    if known is not None and age < source.terms.timing.discovery_lifetime:
        return known
    try:
        found = await _discover(link)
    except FetchFailed:
        if known is None:
            raise
        # The keys may still be where they were.
        return known
    with link.engine.lock:
        source.discovered(found)
    link.located.set()
    return found


async def _discover(link: Link) -> Discovery:
    source = link.source
    first, second = discovery.documents(source.issuer)
    try:
        answer = await link.fetcher.get(first)
    except FetchFailed as error:
        if error.reason != "status_404":
            raise
        answer = await link.fetcher.get(second)
    return discovery.parse(answer.body, issuer=source.issuer, origins=source.terms.origins)


def _freshness(answer: Answer) -> Freshness:
    headers = answer.headers
    return parse_freshness(headers.get("cache-control"), headers.get("age"), headers.get("etag"))
