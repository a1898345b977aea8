"""A verifier whose issuer restarts follows it again at once: until it does, it hears of no logout."""

import pytest

from mintmark import EventName, InvalidToken
from mintmark.testing import Fault, Recorder


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


def test_streams_that_end_together_are_not_taken_up_together(issuer, follow, clock):
    """A node that dies ends thousands of streams in one moment: those who followed it come one by one."""
    followers = []
    for _ in range(8):
        recorder = Recorder()
        assert follow(issuer, on_event=recorder).start()
        recorder.wait_for(EventName.FEED_FOLLOWED, 2)
        followers.append(recorder)
    issuer.disconnect()
    clock.wait_armed(within=0.5, count=8)
    waits = [span for span in clock.armed_spans() if span <= 0.5]
    assert len(set(waits)) >= 4
    clock.advance(0.5)
    for recorder in followers:
        recorder.pass_until(clock, EventName.FEED_FOLLOWED, 4)


@pytest.mark.parametrize("told", [0, 700, 86_400_000, -5])
def test_a_stream_tells_when_to_come_again(issuer, follow, recorder, clock, told):
    """``retry:`` is kept to, but no number makes a verifier stay away for longer than two seconds."""
    least = {0: 0, 700: 0.7, 86_400_000: 2, -5: 0}[told]
    most = least + 0.1
    issuer.tell_retry(told)
    assert follow(issuer).start()
    recorder.wait_for(EventName.FEED_FOLLOWED, 2)
    issuer.disconnect()
    clock.wait_armed(within=most, beyond=0)
    assert all(least < span for span in clock.armed_spans() if span <= most)
    clock.advance(most)
    recorder.pass_until(clock, EventName.FEED_FOLLOWED, 4)


def test_a_gap_is_filled_without_a_pause(issuer, follow, recorder, clock):
    """Only streams that end wait: what a heartbeat shows to be missing is asked for at once."""
    issuer.tell_retry(2_000)
    verifier = follow(issuer)
    assert verifier.start()
    recorder.wait_for(EventName.FEED_FOLLOWED, 2)
    issuer.revoke(rid="session-1", lose=True)
    issuer.beat()
    recorder.wait_for(EventName.REVOCATION_APPLIED)
    with pytest.raises(InvalidToken, match="revoked"):
        verifier.verify(issuer.mint(rid="session-1"))
