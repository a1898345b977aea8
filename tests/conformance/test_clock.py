"""The machine's clock and the tests' keep every clause of their port; so does the kernel's entropy."""

import pytest

from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.clock import ClockConformance, ClockRig, EntropyConformance


@pytest.fixture(params=["system", "fake"])
def rig(request) -> ClockRig:
    if request.param == "system":
        return ClockRig(SYSTEM_CLOCK, lambda _: None)
    clock = FakeClock()
    return ClockRig(clock, clock.advance)


@pytest.fixture
def entropy():
    return SYSTEM_ENTROPY


class TestClock(ClockConformance):
    """The suite."""


class TestEntropy(EntropyConformance):
    """The suite."""
