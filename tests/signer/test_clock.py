"""The clock that the signer goes by keeps every clause of its port, and counts suspensions."""

import time

import pytest

from mintmark.system import SUSPEND_CLOCK
from mintmark.testing.conformance.clock import ClockConformance, ClockRig


@pytest.fixture
def rig() -> ClockRig:
    return ClockRig(SUSPEND_CLOCK, lambda _: None)


class TestSuspendClock(ClockConformance):
    """The suite."""


def test_monotonic_is_the_time_since_boot_with_suspensions():
    """It reads CLOCK_BOOTTIME: between two readings of that clock, and of no other."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    read = SUSPEND_CLOCK.monotonic()
    assert before <= read <= time.clock_gettime(time.CLOCK_BOOTTIME)
