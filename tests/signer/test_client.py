"""The callers' side: signer.client, against a signer that the test plays."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mintmark.errors import Overloaded, SignerUnavailable
from mintmark.ports.signer import Refusal, SignerRefused
from mintmark.signer import protocol
from mintmark.signer.channel import Channel
from mintmark.signer.client import CONTROL_TIMEOUT, MAX_WAITING, SIGN_TIMEOUT, ControlClient, SignerClient
from mintmark.testing.clock import FakeClock
from mintmark.units import Kid

KID = Kid("k" * 43)


class Played:
    """A worker's client, and the far end of its channel in the test's hands."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        near, far = socket.socketpair()
        self.client = SignerClient(near, clock=self.clock)
        self.requests: asyncio.Queue[protocol.Sign] = asyncio.Queue()
        self.far = Channel(
            far,
            on_frame=lambda frame: self.requests.put_nowait(protocol.decode_sign(frame)),
            on_end=lambda _: None,
            limit=protocol.MAX_REQUEST,
        )

    def sign(self, payload: bytes = b"{}") -> "asyncio.Task[str]":
        return asyncio.create_task(self.client.sign(KID, "at+jwt", payload))

    def answer(self, request: protocol.Sign, token: str) -> None:
        self.far.send(protocol.encode(protocol.Signed(request.id, token)))


@contextmanager
def played() -> Iterator[Played]:
    made = Played()
    try:
        yield made
    finally:
        made.client.close()
        made.far.close()


async def test_answers_find_their_calls_in_any_order():
    """Answers are matched by id, not by the order in which they come."""
    with played() as signer:
        calls = [signer.sign(str(number).encode()) for number in range(10)]
        requests = [await signer.requests.get() for _ in calls]
        for request in reversed(requests):
            signer.answer(request, request.payload.decode())
        assert await asyncio.gather(*calls) == [str(number) for number in range(10)]


async def test_signer_that_stops_answering_is_unavailable_after_the_timeout():
    """F06: a stopped signer fails the calls that wait for it, the oldest first, and hangs none."""
    with played() as signer:
        first = signer.sign()
        await signer.requests.get()
        await signer.clock.armed(within=SIGN_TIMEOUT)
        signer.clock.advance(2)
        second = signer.sign()
        await signer.requests.get()
        signer.clock.advance(SIGN_TIMEOUT - 2)
        with pytest.raises(SignerUnavailable, match="in time"):
            await first
        assert not second.done()
        await signer.clock.armed(within=2)
        signer.clock.advance(2)
        with pytest.raises(SignerUnavailable, match="in time"):
            await second


async def test_answer_that_comes_too_late_goes_nowhere():
    """After a timeout the channel goes on: the late answer is dropped and the next call gets its own."""
    with played() as signer:
        late = signer.sign()
        request = await signer.requests.get()
        await signer.clock.armed(within=SIGN_TIMEOUT)
        signer.clock.advance(SIGN_TIMEOUT)
        with pytest.raises(SignerUnavailable):
            await late
        next_call = signer.sign()
        following = await signer.requests.get()
        signer.answer(request, "late")
        signer.answer(following, "right")
        assert await next_call == "right"


async def test_cancelled_call_leaves_nothing_behind():
    """A caller that is cancelled leaves; its answer, when it comes, harms nobody."""
    with played() as signer:
        call = signer.sign()
        request = await signer.requests.get()
        call.cancel()
        await asyncio.wait([call])
        other = signer.sign()
        following = await signer.requests.get()
        signer.answer(request, "nobody's")
        signer.answer(following, "right")
        assert await other == "right"


async def test_all_waiting_calls_fail_when_the_signer_goes():
    """SIGNER-14: end-of-file fails every waiting call at once, and later ones without a hop."""
    with played() as signer:
        calls = [signer.sign() for _ in range(100)]
        for _ in calls:
            await signer.requests.get()
        signer.far.close()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [SignerUnavailable] * 100
        assert await signer.client.ended()
        with pytest.raises(SignerUnavailable):
            await signer.client.sign(KID, "at+jwt", b"{}")


async def test_too_many_waiting_calls_are_refused_not_queued():
    """PW13's rule for signing: a bounded queue, and Overloaded beyond it."""
    with played() as signer:
        calls = [signer.sign() for _ in range(MAX_WAITING)]
        await signer.requests.get()
        with pytest.raises(Overloaded):
            await signer.client.sign(KID, "at+jwt", b"{}")
        signer.client.close()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {SignerUnavailable}


@pytest.mark.parametrize(
    "message",
    [b"\xc1", b"junk", protocol.encode(protocol.Sign(1, KID, "x", b"")), protocol.encode(protocol.Done(1))],
)
async def test_answer_that_is_none_ends_the_channel(message):
    """A signer that answers nonsense is not trusted with another request."""
    with played() as signer:
        call = signer.sign()
        await signer.requests.get()
        signer.far.send(message)
        with pytest.raises(SignerUnavailable):
            await call
        assert "no answer" in await signer.client.ended()


async def test_refusal_and_failure_are_told_apart():
    """A refusal carries its reason; a fault of the signer is plain unavailability."""
    with played() as signer:
        refused, failed = signer.sign(), signer.sign()
        first, second = await signer.requests.get(), await signer.requests.get()
        signer.far.send(protocol.encode(protocol.Refused(first.id, Refusal.LEASE_ENDED)))
        signer.far.send(protocol.encode(protocol.Failed(second.id)))
        with pytest.raises(SignerRefused) as refusal:
            await refused
        assert refusal.value.reason is Refusal.LEASE_ENDED
        with pytest.raises(SignerUnavailable) as failure:
            await failed
        assert type(failure.value) is SignerUnavailable


async def test_request_too_large_for_a_frame_is_refused_without_sending_it():
    """A frame that would end the channel is never sent."""
    with played() as signer:
        with pytest.raises(SignerRefused) as refused:
            await signer.client.sign(Kid("k" * 100_000), "at+jwt", b"{}")
        assert refused.value.reason is Refusal.TOO_LARGE
        call = signer.sign()
        signer.answer(await signer.requests.get(), "on it goes")
        assert await call == "on it goes"


async def test_control_waits_longer_than_a_worker():
    """A call of control that gets no answer fails too, after its own longer time."""
    clock = FakeClock()
    near, far = socket.socketpair()
    with far:
        control = ControlClient(near, clock=clock)
        call = asyncio.create_task(control.status())
        await clock.armed(within=CONTROL_TIMEOUT)
        clock.advance(SIGN_TIMEOUT)
        assert not call.done()
        clock.advance(CONTROL_TIMEOUT - SIGN_TIMEOUT)
        with pytest.raises(SignerUnavailable):
            await call
        control.close()


async def test_attach_to_a_signer_that_is_gone_leaks_no_descriptor():
    """An attach that fails closes both ends of its pair."""
    near, far = socket.socketpair()
    control = ControlClient(near, clock=FakeClock())
    far.close()
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(SignerUnavailable):
        await control.attach()
    assert set(os.listdir("/proc/self/fd")) <= before
    control.close()


def test_frames_show_no_payload_and_no_token():
    """LG2: what logs a frame logs its id."""
    assert "canary" not in repr(protocol.Sign(1, KID, "at+jwt", b"canary"))
    assert "canary" not in repr(protocol.Signed(1, "canary"))
