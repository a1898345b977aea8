"""Every reader of our own key set keeps every clause of its port."""

from collections.abc import AsyncIterator

import pytest

from mintmark.adapters.http_reader import HttpReader
from mintmark.testing.conformance.proof import ProofConformance, ProofRig


@pytest.fixture
async def rig() -> AsyncIterator[ProofRig]:
    reader = HttpReader()
    rig = ProofRig(reader)
    try:
        yield rig
    finally:
        await reader.close()
        rig.origin.close()


class TestProof(ProofConformance):
    """The suite, on the reader over HTTP."""
