"""A feed that is for holders of its token: what is shown to whom."""

import pytest

from mintmark import ConfigurationError, EventName, InvalidToken, Issuer, Verifier, VerifierUnavailable
from mintmark.testing import FakeIssuer
from mintmark.testing.origin import Origin, Reply

TOKEN = "feed-token-0123456789"


@pytest.fixture
def protected(clock):
    """An issuer whose feed asks for the token."""
    with FakeIssuer(clock=clock, feed_token=TOKEN) as issuer:
        yield issuer


def test_with_its_token_a_protected_feed_is_followed(protected, follow, recorder):
    """Pages and stream are read, and log-outs come as from any other feed."""
    protected.revoke(rid="before")
    verifier = follow(protected, feed_token=TOKEN)
    assert verifier.start()
    recorder.wait_for(EventName.FEED_FOLLOWED, 2)
    protected.revoke(rid="after")
    recorder.wait_for(EventName.REVOCATION_APPLIED, 2)
    for rid in ("before", "after"):
        with pytest.raises(InvalidToken, match="revoked"):
            verifier.verify(protected.mint(rid=rid))
    assert verifier.verify(protected.mint()).revocation == "checked"


@pytest.mark.parametrize("token", [None, "another-token-0123456"])
def test_without_its_token_nothing_is_known_and_nothing_passes(protected, follow, recorder, token):
    """It is a feed that fails, with a reason that says so, and never one that has nothing to tell."""
    verifier = follow(protected, feed_token=token)
    with pytest.raises(VerifierUnavailable, match="revocations"):
        verifier.verify(protected.mint())
    recorder.wait_for(EventName.FEED_FAILED, reason="status_401")


def test_a_token_changes_nothing_for_a_feed_that_is_everybodys(issuer, follow):
    """It may be configured before the issuer asks for it."""
    assert follow(issuer, feed_token=TOKEN).verify(issuer.mint()).revocation == "checked"


def test_the_token_is_shown_to_the_issuers_own_origin_alone(clock, recorder):
    """Where the discovery document leads to another origin, an allowed one even, nobody there learns it."""
    shown: list[str | None] = []

    def answer(name, request) -> Reply:
        shown.append(request.headers.get("authorization"))
        return Reply(status=404)

    other = Origin(routes={"/revocations": "feed"}, answer=answer, clock=clock)
    other.start()
    with FakeIssuer(clock=clock) as issuer:
        elsewhere = f"http://127.0.0.1:{other.port}"
        issuer.discovery["mintmark_feed"] = f"{elsewhere}/revocations"
        terms = Issuer(
            issuer=issuer.issuer, audience="api", feed_token=TOKEN, allow_origins=elsewhere, on_stale="allow"
        )
        with Verifier.many(terms, clock=clock, on_event=recorder) as verifier:
            verifier.verify(issuer.mint())
            recorder.wait_for(EventName.FEED_FAILED, reason="status_404")
    other.close()
    assert shown
    assert set(shown) == {None}


def test_only_the_feed_is_shown_the_token(clock, follow, recorder):
    """Key set and discovery are everybody's; whoever serves them, a CDN say, must not see it."""
    shown: dict[str, set[str | None]] = {}
    with FakeIssuer(clock=clock, feed_token=TOKEN) as issuer:
        answer = issuer._origin._answer

        def noting(name, request):
            shown.setdefault(name, set()).add(request.headers.get("authorization"))
            return answer(name, request)

        issuer._origin._answer = noting
        verifier = follow(issuer, feed_token=TOKEN)
        assert verifier.start()
        recorder.wait_for(EventName.FEED_FOLLOWED, 2)
        verifier.close()
    bearer = {f"Bearer {TOKEN}"}
    assert shown == {"discovery": {None}, "jwks": {None}, "feed": bearer, "stream": bearer}


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ümlaut", "x" * 5000, 7, b"bytes", "=a"])
def test_what_is_no_bearer_token_is_refused_without_a_word_of_it(token):
    """The error names the setting and repeats nothing."""
    with pytest.raises(ConfigurationError, match="feed_token") as refused:
        Verifier("https://auth.example.com", audience="api", feed_token=token)
    assert not token or str(token) not in str(refused.value)


def test_the_token_is_in_no_text_of_the_options():
    """Whoever logs his configuration does not log it."""
    assert TOKEN not in repr(Issuer(issuer="https://auth.example.com", audience="api", feed_token=TOKEN))
