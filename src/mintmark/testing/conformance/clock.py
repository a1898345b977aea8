"""The clauses of :mod:`mintmark.ports.clock`, one test each; every clock and every entropy runs them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from mintmark.ports.clock import Clock, Entropy


@dataclass(frozen=True, slots=True)
class ClockRig:
    """A clock, and what makes its time pass (nothing, where it passes by itself)."""

    clock: Clock
    let_pass: Callable[[float], None]


class ClockConformance:
    """CLOCK-1 to CLOCK-3."""

    async def test_now_is_whole_seconds_rounded_down(self, rig: ClockRig) -> None:
        """CLOCK-1: an int, that never runs ahead of the time that passed."""
        start = rig.clock.now()
        assert type(start) is int
        before = rig.clock.monotonic()
        rig.let_pass(0.75)
        elapsed = rig.clock.monotonic() - before
        assert 0 <= rig.clock.now() - start <= elapsed + 1

    async def test_monotonic_never_goes_back(self, rig: ClockRig) -> None:
        """CLOCK-2: each reading is at least the one before."""
        readings = []
        for _ in range(100):
            readings.append(rig.clock.monotonic())
            rig.let_pass(0.001)
        assert readings == sorted(readings)

    async def test_sleep_is_not_shorter_than_asked(self, rig: ClockRig) -> None:
        """CLOCK-3: at its end at least that much of ``monotonic`` has passed."""
        before = rig.clock.monotonic()
        sleeping = asyncio.ensure_future(rig.clock.sleep(0.01))
        await asyncio.sleep(0)
        rig.let_pass(0.01)
        await asyncio.wait_for(sleeping, 20)
        assert rig.clock.monotonic() - before >= 0.01

    async def test_sleep_ends_when_it_is_cancelled(self, rig: ClockRig) -> None:
        """CLOCK-3: no time need pass for that, and none is left armed."""
        sleeping = asyncio.ensure_future(rig.clock.sleep(3_600))
        await asyncio.sleep(0)
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(sleeping, 20)


class EntropyConformance:
    """ENTROPY-1."""

    def test_bytes_are_as_many_as_asked_and_never_the_same(self, entropy: Entropy) -> None:
        """ENTROPY-1: a thousand calls give a thousand different values of the length asked for."""
        drawn = {entropy.token_bytes(16) for _ in range(1_000)}
        assert len(drawn) == 1_000
        assert {len(value) for value in drawn} == {16}
        assert [len(entropy.token_bytes(n)) for n in (0, 1, 32)] == [0, 1, 32]
