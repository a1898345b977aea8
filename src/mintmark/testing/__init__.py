"""For tests: a clock that stands still, an issuer that misbehaves on demand."""

from mintmark.testing.clock import FakeClock
from mintmark.testing.issuer import FakeIssuer
from mintmark.testing.key import SigningKey
from mintmark.testing.origin import Fault
from mintmark.testing.recorder import Recorder

__all__ = ["FakeClock", "FakeIssuer", "Fault", "Recorder", "SigningKey"]
