"""Verify access tokens of Mintmark, or of any other issuer, and obey its logouts.

::

    from mintmark import Verifier

    verifier = Verifier("https://auth.example.com", audience="orders")
    token = verifier.verify(raw, scopes="orders:read")
"""

from mintmark.core.claims import AccessToken, Revocation
from mintmark.core.feed import FeedPolicy
from mintmark.core.keyset import KeysetPolicy
from mintmark.core.refusal import Code
from mintmark.errors import (
    ConfigurationError,
    InsufficientScope,
    InvalidToken,
    MintmarkError,
    VerificationError,
    VerifierUnavailable,
)
from mintmark.verifier.event import Event, EventName
from mintmark.verifier.setting import Issuer
from mintmark.verifier.verifier import Requirement, Verifier

__all__ = [
    "AccessToken",
    "Code",
    "ConfigurationError",
    "Event",
    "EventName",
    "FeedPolicy",
    "InsufficientScope",
    "InvalidToken",
    "Issuer",
    "KeysetPolicy",
    "MintmarkError",
    "Requirement",
    "Revocation",
    "VerificationError",
    "Verifier",
    "VerifierUnavailable",
]
