"""A verifier whose issuer restarts follows it again at once: until it does, it hears of no logout."""

import pytest

from mintmark import EventName, InvalidToken
from mintmark.testing import Fault


@pytest.mark.parametrize("outage", [1, 30, 120])
def test_after_an_outage_the_feed_is_followed_again_within_two_seconds(
    issuer, follow, recorder, clock, outage
):
    """However long the issuer was away, within the bound, its next logout is heard soon after it is back."""
    verifier = follow(issuer)
    verifier.start()
    recorder.wait_for(EventName.FEED_FOLLOWED, 2)
    issuer.fail(Fault.REFUSE, "feed", "stream", "jwks", "discovery")
    issuer.disconnect()
    clock.pass_armed(0.5)
    recorder.wait_for(EventName.FEED_FAILED)
    clock.advance(outage)
    recorder.pass_until(clock, EventName.FEED_FAILED, recorder.count(EventName.FEED_FAILED) + 2)
    known = recorder.count(EventName.FEED_FOLLOWED)
    issuer.recover()
    issuer.revoke(rid="session-1")
    back_at = clock.monotonic()
    recorder.pass_until(clock, EventName.FEED_FOLLOWED, known + 1)
    assert clock.monotonic() - back_at <= 2
    with pytest.raises(InvalidToken, match="revoked"):
        verifier.verify(issuer.mint(rid="session-1"))


def test_a_restart_that_ends_many_streams_is_no_reason_to_wait(issuer, follow, recorder, clock):
    """Streams that end one after another, as while a node drains, are taken up again within two seconds."""
    verifier = follow(issuer)
    verifier.start()
    for _ in range(8):
        recorder.wait_for(EventName.FEED_FOLLOWED, recorder.count(EventName.FEED_FOLLOWED))
        known, ended_at = recorder.count(EventName.FEED_FOLLOWED), clock.monotonic()
        issuer.disconnect()
        recorder.pass_until(clock, EventName.FEED_FOLLOWED, known + 1)
        assert clock.monotonic() - ended_at <= 2
