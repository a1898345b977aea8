"""A running node for each test that asks for one."""

from collections.abc import AsyncIterator

import pytest
from tests.http.surface import Surface, surface


@pytest.fixture
async def node() -> AsyncIterator[Surface]:
    """A node of https://auth.example.com on the store in memory, with a clock that stands still."""
    async with surface() as running:
        yield running
