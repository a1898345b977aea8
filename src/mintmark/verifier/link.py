"""What the tasks that follow one issuer share, on the engine's event loop."""

import asyncio
from collections.abc import Callable

from mintmark.ports.clock import Clock
from mintmark.verifier.engine import Engine
from mintmark.verifier.fetch import Fetcher
from mintmark.verifier.source import Source


class Link:
    """One issuer's source and the means to ask it; lives as long as the loop."""

    __slots__ = ("clock", "engine", "fetcher", "located", "news", "poke", "source")

    def __init__(
        self, source: Source, fetcher: Fetcher, engine: Engine, clock: Clock, news: Callable[[], None]
    ) -> None:
        self.source = source
        self.fetcher = fetcher
        self.engine = engine
        self.clock = clock
        self.news = news
        """Called, without the lock, after each change of the source."""
        self.poke = asyncio.Event()
        """Set when a caller began an attempt at the keys that the loop must make."""
        self.located = asyncio.Event()
        """Set when the discovery document was read: where the feed is may have changed."""
