"""Frames on a stream: signer.channel."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.signer.channel import Channel

LIMIT = 1000


class Ends:
    """A channel and the bare socket at its other end."""

    def __init__(self, *, descriptors: bool = False) -> None:
        self.far, near = socket.socketpair()
        self.far.setblocking(False)
        self.frames: list[bytes] = []
        self.ended: list[str] = []
        self.changed = asyncio.Event()
        self.channel = Channel(
            near, on_frame=self._frame, on_end=self._end, limit=LIMIT, descriptors=descriptors
        )

    def _frame(self, frame: memoryview) -> None:
        self.frames.append(bytes(frame))
        self.changed.set()

    def _end(self, why: str) -> None:
        self.ended.append(why)
        self.changed.set()

    async def until(self, *, frames: int = 0, ended: bool = False) -> None:
        """Wait for so many frames, or for the end."""
        while len(self.frames) < frames or (ended and not self.ended):
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 20)

    async def send(self, data: bytes) -> None:
        """Bytes from the far end, and a turn of the loop for the channel to see them."""
        await asyncio.get_running_loop().sock_sendall(self.far, data)
        await asyncio.sleep(0)

    def close(self) -> None:
        self.channel.close()
        self.far.close()


@contextmanager
def ends(**options: bool) -> Iterator[Ends]:
    made = Ends(**options)
    try:
        yield made
    finally:
        made.close()


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(4) + message for message in messages)


@given(
    st.lists(st.binary(min_size=1, max_size=LIMIT), max_size=8), st.lists(st.integers(1, 2000), max_size=12)
)
def test_frames_arrive_whole_and_in_order_however_they_are_cut(messages, cuts):
    """No cut of the stream changes what is received."""

    async def run() -> None:
        with ends() as pair:
            stream, at = framed(*messages), 0
            for cut in cuts:
                await pair.send(stream[at : at + cut])
                at += cut
            await pair.send(stream[at:])
            await pair.until(frames=len(messages))
            assert pair.frames == messages
            assert pair.ended == []

    asyncio.run(run())


@pytest.mark.parametrize("size", [0, LIMIT + 1, 2**31, 2**32 - 1])
async def test_frame_of_another_size_ends_the_channel(size):
    """An empty or oversized frame is refused by its length alone, before its bytes come."""
    with ends() as pair:
        await pair.send(framed(b"good") + size.to_bytes(4) + b"x")
        await pair.until(ended=True)
        assert pair.frames == [b"good"]
        assert await asyncio.get_running_loop().sock_recv(pair.far, 10) == b""


async def test_dripping_peer_delays_nobody_and_its_frame_is_whole():
    """A frame that comes byte by byte blocks nothing else in the loop, and arrives in the end."""
    with ends() as slow, ends() as quick:
        for byte in framed(b"s" * LIMIT)[:-1]:
            await slow.send(bytes([byte]))
        await quick.send(framed(b"quick"))
        await quick.until(frames=1)
        assert slow.frames == []
        await slow.send(b"s")
        await slow.until(frames=1)
        assert slow.frames == [b"s" * LIMIT]


async def test_half_frame_at_the_end_is_dropped():
    """What was not a whole frame when the peer left is nothing."""
    with ends() as pair:
        await pair.send(framed(b"whole") + framed(b"half")[:-1])
        pair.far.close()
        await pair.until(ended=True)
        assert pair.frames == [b"whole"]
        assert len(pair.ended) == 1


async def test_closing_ends_once_and_sending_afterwards_does_nothing():
    """close is idempotent, reports its end once, and what is sent later is dropped."""
    with ends() as pair:
        pair.channel.close("enough")
        pair.channel.close()
        pair.channel.send(b"late")
        pair.channel.hold(held=True)
        assert pair.ended == ["enough"]
        assert pair.channel.closed
        assert pair.far.recv(10) == b""


async def test_frames_of_one_turn_leave_in_order_and_large_ones_in_full():
    """More than a socket's buffer is sent as the peer reads it, in order."""
    with ends() as pair:
        messages = [bytes([number]) * 50_000 for number in range(40)]
        for message in messages:
            pair.channel.send(message)
        wanted, received = framed(*messages), b""
        loop = asyncio.get_running_loop()
        while len(received) < len(wanted):
            received += await loop.sock_recv(pair.far, 65_536)
        assert received == wanted


async def test_peer_that_reads_no_answers_is_not_read_from():
    """Unread answers stop the reading of requests, so a peer cannot fill our memory; reading resumes."""
    with ends() as pair:
        for _ in range(40):
            pair.channel.send(b"a" * 50_000)
        await asyncio.sleep(0)
        await pair.send(framed(b"request"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert pair.frames == []
        loop, unread = asyncio.get_running_loop(), 40 * 50_004
        while unread:
            unread -= len(await loop.sock_recv(pair.far, 65_536))
        await pair.until(frames=1)
        assert pair.frames == [b"request"]


async def test_held_channel_reads_nothing_until_it_is_let_go():
    """hold is back-pressure: what comes meanwhile waits in the socket."""
    with ends() as pair:
        pair.channel.hold(held=True)
        await pair.send(framed(b"request"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert pair.frames == []
        pair.channel.hold(held=False)
        await pair.until(frames=1)


async def test_peer_that_resets_ends_the_channel_on_writing():
    """Writing to a peer that is gone ends the channel instead of raising."""
    with ends() as pair:
        pair.channel.hold(held=True)
        pair.far.close()
        pair.channel.send(b"x")
        await pair.until(ended=True)
        assert pair.ended[0].startswith("writing failed")


async def test_descriptor_comes_with_its_frame():
    """A descriptor that is sent with a frame is there, once, when the frame is."""
    with ends(descriptors=True) as receiver:
        first, second = os.pipe(), os.pipe()
        try:
            sending = Channel(receiver.far.dup(), on_frame=lambda _: None, on_end=lambda _: None, limit=LIMIT)
            sending.send(b"none")
            sending.send_with_descriptor(b"one", first[1])
            sending.send_with_descriptor(b"two", second[1])
            await receiver.until(frames=3)
            assert receiver.frames == [b"none", b"one", b"two"]
            for message, pipe in ((b"1", first), (b"2", second)):
                taken = receiver.channel.take_descriptor()
                assert taken is not None
                assert not os.get_inheritable(taken)
                os.write(taken, message)
                os.close(taken)
                assert os.read(pipe[0], 1) == message
            assert receiver.channel.take_descriptor() is None
            sending.close()
        finally:
            for descriptor in (*first, *second):
                os.close(descriptor)


async def test_descriptors_that_nobody_takes_are_closed():
    """Closing the channel closes what came along; nothing leaks."""
    with ends(descriptors=True) as receiver:
        reading, writing = os.pipe()
        socket.send_fds(receiver.far, [framed(b"x")], [writing])
        os.close(writing)
        await receiver.until(frames=1)
        receiver.channel.close()
        assert os.read(reading, 1) == b""
        os.close(reading)


async def test_descriptors_on_a_channel_without_are_not_taken_in():
    """A worker that sends descriptors leaves none of them open here."""
    with ends() as receiver:
        reading, writing = os.pipe()
        socket.send_fds(receiver.far, [framed(b"x")], [writing])
        os.close(writing)
        await receiver.until(frames=1)
        assert os.read(reading, 1) == b""
        os.close(reading)


async def test_busy_channel_carries_no_descriptor():
    """A descriptor is refused, not misplaced, while earlier bytes still wait to be sent."""
    with ends() as pair:
        for _ in range(40):
            pair.channel.send(b"a" * 50_000)
        await asyncio.sleep(0)
        with pytest.raises(BlockingIOError):
            pair.channel.send_with_descriptor(b"x", pair.far.fileno())
        # There is room again, but the loop has not had its turn to fill it with what came first.
        pair.far.recv(1_000_000)
        with pytest.raises(BlockingIOError):
            pair.channel.send_with_descriptor(b"x", pair.far.fileno())


async def test_closed_channel_carries_no_descriptor():
    """On a channel that has ended a descriptor is refused."""
    with ends() as pair:
        pair.channel.close()
        with pytest.raises(BlockingIOError):
            pair.channel.send_with_descriptor(b"x", pair.far.fileno())
