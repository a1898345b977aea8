"""One end of a stream of frames between two processes, in the running event loop.

A frame is four bytes of length, big-endian, and as many bytes of message. Both ends are unnamed Unix
sockets made by ``socketpair``: there is no name in any file system to connect to, and a descriptor
cannot be guessed. Frames that arrive together are handed on in one turn of the loop and their answers
leave in one write, which is most of what a busy channel saves.

What the other side can do is bounded: a frame has a size limit, a half frame costs its own bytes and
nobody's time, and a peer that does not read its answers is not read from either.
"""

import array
import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

_READ: Final = 128 * 1024
_MAX_DESCRIPTORS: Final = 16
_HIGH_WATER: Final = 256 * 1024
"""Bytes of unread answers beyond which no more requests are read."""
_BATCH: Final = 8
"""Frames that leave in one write. Fewer cost more system calls; more, and of two busy ends one would wait
for the other's whole batch instead of working beside it."""
_DESCRIPTOR_BYTES: Final = array.array("i").itemsize


class Channel:
    """Sends and receives frames on ``sock``, which it owns from now on.

    ``on_frame`` gets each frame as a memoryview that is valid during the call; ``on_end`` gets one
    sentence, once, when the channel has ended for whatever reason, its own :meth:`close` included.
    With ``descriptors=True`` file descriptors may come along; :meth:`take_descriptor` yields them in
    the order of the frames that they came with.
    """

    __slots__ = (
        "_descriptors", "_flush_due", "_held", "_limit", "_loop", "_need", "_on_end", "_on_frame", "_out",
        "_rest", "_sock", "_unsent", "_with_descriptors",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_frame: Callable[[memoryview], None],
        on_end: Callable[[str], None],
        limit: int,
        descriptors: bool = False,
    ) -> None:
        sock.setblocking(False)
        self._sock: socket.socket | None = sock
        self._loop = asyncio.get_running_loop()
        self._on_frame = on_frame
        self._on_end = on_end
        self._limit = limit
        self._with_descriptors = descriptors
        self._descriptors: deque[int] = deque()
        self._rest = bytearray()
        self._need = 4
        self._out: list[bytes] = []
        self._unsent = b""
        self._flush_due = False
        self._held = False
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def closed(self) -> bool:
        """Whether it has ended; what is sent from then on is dropped."""
        return self._sock is None

    def send(self, message: bytes) -> None:
        """Queue one frame; a few that are queued in one turn of the loop leave together, in order."""
        if self._sock is None:
            return
        self._out.append(len(message).to_bytes(4) + message)
        if len(self._out) >= _BATCH:
            self._flush()
        elif not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_later)

    def send_with_descriptor(self, message: bytes, descriptor: int) -> None:
        """Queue one frame that carries a copy of ``descriptor``, which may be closed right after.

        Raises OSError when that cannot be done at once: the descriptor must travel with the first byte
        of its frame, so nothing may wait before it.
        """
        self._flush()
        sock = self._sock
        if sock is None or self._unsent:
            raise BlockingIOError("the channel is closed, or too busy to carry a descriptor")
        frame = len(message).to_bytes(4) + message
        sent = socket.send_fds(sock, [frame], [descriptor])
        if sent < len(frame):
            self._unsent = frame[sent:]
            self._loop.add_writer(sock.fileno(), self._writable)

    def take_descriptor(self) -> int | None:
        """The oldest descriptor that came and was not taken; its owner is now the caller."""
        return self._descriptors.popleft() if self._descriptors else None

    def hold(self, held: bool) -> None:
        """Stop reading, or go on: how a receiver with enough to do pushes back."""
        if held != self._held and self._sock is not None:
            self._held = held
            self._set_reading()

    def close(self, why: str = "closed here") -> None:
        """End it now; what was not sent yet is lost. Idempotent."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._loop.remove_reader(sock.fileno())
        self._loop.remove_writer(sock.fileno())
        sock.close()
        while self._descriptors:
            socket.close(self._descriptors.popleft())
        self._out.clear()
        self._rest.clear()
        self._on_end(why)

    def _set_reading(self) -> None:
        if self._sock is None:
            return
        if self._held or len(self._unsent) > _HIGH_WATER:
            self._loop.remove_reader(self._sock.fileno())
        else:
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def _readable(self) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            received = self._receive(sock)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(f"reading failed: {error.strerror}")
            return
        if not received:
            self.close("closed by the other side")
            return
        # What answers these frames leaves below, and needs no turn of its own.
        waiting, self._flush_due = self._flush_due, True
        self._cut(received)
        self._flush_due = waiting
        self._flush()

    def _receive(self, sock: socket.socket) -> bytes:
        if not self._with_descriptors:
            return sock.recv(_READ)
        received, ancillary, flags, _ = sock.recvmsg(
            _READ, socket.CMSG_SPACE(_MAX_DESCRIPTORS * _DESCRIPTOR_BYTES), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors = array.array("i")
                descriptors.frombytes(content[: len(content) - len(content) % _DESCRIPTOR_BYTES])
                self._descriptors.extend(descriptors)
        if flags & socket.MSG_CTRUNC:
            raise OSError(0, "descriptors were cut off")
        return received

    def _cut(self, received: bytes) -> None:
        """Hand on each whole frame of what has come so far."""
        if self._rest:
            # A peer may send a frame byte by byte: pile up, and look again only when it can be whole.
            self._rest += received
            if len(self._rest) < self._need:
                return
            received = bytes(self._rest)
            self._rest.clear()
        view = memoryview(received)
        at, end = 0, len(view)
        self._need = 4
        while end - at >= 4:
            size = int.from_bytes(view[at : at + 4])
            if not 0 < size <= self._limit:
                self.close("a frame of a size that is not allowed")
                return
            if end - at < 4 + size:
                self._need = 4 + size
                break
            self._on_frame(view[at + 4 : at + 4 + size])
            if self._sock is None:
                return
            at += 4 + size
        self._rest += view[at:]

    def _flush_later(self) -> None:
        self._flush_due = False
        self._flush()

    def _flush(self) -> None:
        if self._sock is None or not self._out:
            return
        frames = b"".join(self._out)
        self._out.clear()
        if self._unsent:
            self._unsent += frames
        else:
            self._write(frames)
        self._set_reading_if_full()

    def _writable(self) -> None:
        waiting, self._unsent = self._unsent, b""
        was_full = len(waiting) > _HIGH_WATER
        self._write(waiting)
        if self._sock is not None and not self._unsent:
            self._loop.remove_writer(self._sock.fileno())
        if was_full and len(self._unsent) <= _HIGH_WATER:
            self._set_reading()

    def _write(self, frames: bytes) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            sent = sock.send(frames)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.close(f"writing failed: {error.strerror}")
            return
        if sent < len(frames):
            self._unsent = frames[sent:]
            self._loop.add_writer(sock.fileno(), self._writable)

    def _set_reading_if_full(self) -> None:
        if len(self._unsent) > _HIGH_WATER:
            self._set_reading()
