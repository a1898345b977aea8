"""The machine's clock and randomness: the only file that reads either."""

import asyncio
import os
import time
from typing import Final

from mintmark.units import NumericDate


class SystemClock:
    """:class:`mintmark.ports.clock.Clock` on this machine."""

    __slots__ = ()

    def now(self) -> NumericDate:
        """Wall-clock time, whole seconds, rounded down."""
        return NumericDate(int(time.time()))

    def monotonic(self) -> float:
        """Seconds of CLOCK_MONOTONIC, which no step of the wall clock moves."""
        return time.monotonic()

    async def sleep(self, span: float) -> None:
        """Wait ``span`` seconds in asyncio."""
        await asyncio.sleep(span)


class SuspendClock:
    """A SystemClock whose ``monotonic`` also counts the time that the machine was suspended."""

    __slots__ = ()

    def now(self) -> NumericDate:
        """Wall-clock time, whole seconds, rounded down."""
        return NumericDate(int(time.time()))

    def monotonic(self) -> float:
        """Seconds of CLOCK_BOOTTIME (Linux), which neither a step nor a suspension holds back."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, span: float) -> None:
        """Wait ``span`` seconds in asyncio, in which a suspension does not count."""
        await asyncio.sleep(span)


class SystemEntropy:
    """:class:`mintmark.ports.clock.Entropy` from the kernel."""

    __slots__ = ()

    def token_bytes(self, n: int) -> bytes:
        """``n`` bytes of getrandom(2)."""
        return os.urandom(n)


SYSTEM_CLOCK: Final = SystemClock()
SUSPEND_CLOCK: Final = SuspendClock()
SYSTEM_ENTROPY: Final = SystemEntropy()
