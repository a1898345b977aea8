"""An issuer on loopback, verifiers that follow it, and a clock that both share."""

from collections.abc import Callable, Iterator

import pytest

from mintmark import Verifier
from mintmark.testing import FakeClock, FakeIssuer, Recorder


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the test: it stands still."""
    return FakeClock(1_800_000_000)


@pytest.fixture
def issuer(clock) -> Iterator[FakeIssuer]:
    """An issuer with a revocation feed."""
    with FakeIssuer(clock=clock) as issuer:
        yield issuer


@pytest.fixture
def plain_issuer(clock) -> Iterator[FakeIssuer]:
    """An issuer without a feed, whose keys live 300 s."""
    with FakeIssuer(clock=clock, feed=False) as issuer:
        yield issuer


@pytest.fixture
def recorder() -> Recorder:
    """What the verifiers of the test report."""
    return Recorder()


@pytest.fixture
def follow(clock, recorder) -> Iterator[Callable[..., Verifier]]:
    """Makes verifiers for the audience ``api``, and closes them."""
    made: list[Verifier] = []

    def follow(issuer: FakeIssuer, **options) -> Verifier:
        settings = {"audience": "api", "clock": clock, "on_event": recorder} | options
        verifier = Verifier(issuer.issuer, **settings)
        made.append(verifier)
        return verifier

    yield follow
    for verifier in made:
        verifier.close()
