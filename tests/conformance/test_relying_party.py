"""Whatever tells relying parties keeps every clause of its port."""

from collections.abc import Iterator

import pytest

from mintmark.adapters.relying_parties import HttpRelyingParties
from mintmark.testing.conformance.relying_party import PartyRig, RelyingPartyConformance


@pytest.fixture
def rig() -> Iterator[PartyRig]:
    rig = PartyRig(HttpRelyingParties())
    try:
        yield rig
    finally:
        rig.site.close()


class TestRelyingParty(RelyingPartyConformance):
    """The suite, on the one over HTTP."""
