"""Reports of a verifier: whoever listens, and whatever logging is set up, decides about no token."""

import asyncio
import logging
import threading

import pytest

from mintmark import EventName, InvalidToken, Verifier, VerifierUnavailable
from mintmark.testing import SigningKey
from mintmark.verifier.event import Reporter

LOGGER = logging.getLogger("mintmark.verifier")


class Interrupted(BaseException):
    """As Ctrl-C, or a test runner's time limit, from inside a listener."""


@pytest.fixture
def broken_logging(monkeypatch):
    """A filter of the service's own that fails on every record, an error's too."""

    def broken(record):
        raise RuntimeError("filter")

    LOGGER.addFilter(broken)
    monkeypatch.setattr(LOGGER, "level", logging.DEBUG)
    yield
    LOGGER.removeFilter(broken)


@pytest.mark.usefixtures("broken_logging")
@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
def test_broken_logging_and_a_broken_listener_change_no_answer(issuer, follow, error):
    """Good tokens pass, on a loop that lives on, and bad ones are InvalidToken."""

    def listener(event):
        raise error("listener")

    verifier = follow(issuer, on_event=listener)
    assert verifier.verify(issuer.mint()).sub == "usr_1"
    for _ in range(2):
        with pytest.raises(InvalidToken):
            verifier.verify("x")
    issuer.rotate()
    assert verifier.verify(issuer.mint()).sub == "usr_1"


@pytest.mark.usefixtures("broken_logging")
def test_broken_logging_does_not_hide_a_mistake_of_ours(issuer, follow, monkeypatch):
    """It stays a 503."""
    verifier = follow(issuer)
    verifier.start()
    monkeypatch.setattr("mintmark.core.verification.verify", lambda *_args, **_options: 1 / 0)
    with pytest.raises(VerifierUnavailable) as refused:
        verifier.verify(issuer.mint())
    assert refused.value.code == "internal"


def test_an_interrupted_delivery_is_taken_up_by_the_next(clock):
    """What interrupts a listener goes through, and silences nothing that comes later."""
    seen: list[EventName] = []

    def listener(event):
        seen.append(event.name)
        if len(seen) == 1:
            raise Interrupted

    reporter = Reporter("https://auth.example.com", listener, clock)
    reporter.tell(EventName.KEYSET_LOADED)
    reporter.tell(EventName.KEY_ADDED)
    with pytest.raises(Interrupted):
        reporter.flush()
    reporter.flush()
    assert seen == [EventName.KEYSET_LOADED, EventName.KEY_ADDED]


def test_a_listener_on_the_engines_thread_is_never_made_to_wait(issuer, clock):
    """It would wait for itself: a token that needs a fetch is 503 there, and the fetch goes on."""
    answers: list[str] = []
    answered = threading.Event()
    other = SigningKey.generate()
    claims = {"iss": issuer.issuer, "sub": "s", "aud": "api", "client_id": "a", "jti": "t"}
    claims |= {"iat": clock.now(), "exp": clock.now() + 60}
    unknown = other.sign({"alg": other.alg, "kid": other.kid, "typ": "at+jwt"}, claims)

    def listener(event):
        if event.name is EventName.FEED_FOLLOWED and not answers:
            try:
                verifier.verify(unknown)
            except VerifierUnavailable as error:
                answers.append(error.code)
            answered.set()

    verifier = Verifier(issuer.issuer, audience="api", clock=clock, on_event=listener)
    with verifier:
        assert answered.wait(20)
        assert verifier.verify(issuer.mint()).sub == "usr_1"
    assert answers == ["would_block"]
