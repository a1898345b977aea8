"""Every store keeps every clause of its ports."""

import pytest

from mintmark.testing.conformance.directory import DirectoryConformance
from mintmark.testing.conformance.keyring import KeyRingConformance
from mintmark.testing.conformance.outbox import OutboxConformance
from mintmark.testing.conformance.revocations import LogConformance
from mintmark.testing.conformance.revoking import RevokingConformance
from mintmark.testing.conformance.rig import Rig
from mintmark.testing.conformance.sessions import SessionConformance
from mintmark.testing.conformance.store import StoreConformance


@pytest.fixture
def rig(store: Rig) -> Rig:
    return store


class TestStore(StoreConformance):
    """What holds for all of it."""


class TestKeyRing(KeyRingConformance):
    """Keys, heartbeats, timing settings."""


class TestSessions(SessionConformance):
    """Refresh sessions."""


class TestRevocations(LogConformance):
    """The revocation log."""


class TestRevoking(RevokingConformance):
    """Tokens, clients and issuers that are revoked."""


class TestDirectory(DirectoryConformance):
    """Users and clients."""


class TestOutbox(OutboxConformance):
    """Whom to tell of ended sessions."""
