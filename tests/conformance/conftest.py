"""One fixture for each kind of port, on every adapter that is registered."""

from collections.abc import AsyncIterator

import pytest
from tests.registry import BUSES, STORES, bus_rig, store_rig

from mintmark.testing.conformance.bus import BusRig
from mintmark.testing.conformance.rig import Rig


@pytest.fixture(params=STORES)
async def store(request, tmp_path) -> AsyncIterator[Rig]:
    """A rig on each store in turn."""
    async with store_rig(request.param, tmp_path, request.getfixturevalue) as rig:
        yield rig


@pytest.fixture(params=BUSES)
async def bus(request, tmp_path) -> AsyncIterator[BusRig]:
    """A rig on each bus in turn."""
    async with bus_rig(request.param, tmp_path, request.getfixturevalue) as rig:
        yield rig
