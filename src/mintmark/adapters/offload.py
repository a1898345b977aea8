"""Blocking calls to a place for published documents, in threads and within a bound."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from mintmark.ports.publisher import PublicationFailed

T = TypeVar("T")

PATIENCE: Final = 9.0
"""Seconds after which a call is given up (PUB-7). Its thread goes on: a late write is the fence's matter."""


class Offload:
    """Two threads of one place, so that a proof can still read while a write hangs."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="mintmark-publisher")

    async def run(self, work: Callable[[], T]) -> T:
        """The result of ``work``; raises what it raises, or PublicationFailed when it takes too long."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            done, _ = await asyncio.wait({running}, timeout=PATIENCE)
        finally:
            # Nobody waits for it any more, here or because the caller was cancelled.
            running.cancel()
        if not done:
            raise PublicationFailed(f"{self._place}: no answer within {PATIENCE:.0f} s")
        return running.result()

    def close(self) -> None:
        """Start nothing more; what runs ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
