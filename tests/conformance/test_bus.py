"""Every bus keeps every clause of its port."""

import pytest

from mintmark.testing.conformance.bus import BusConformance, BusRig


@pytest.fixture
def rig(bus: BusRig) -> BusRig:
    return bus


class TestBus(BusConformance):
    """The suite, within one process; between processes see tests/adapters/test_sqlite_processes.py."""
