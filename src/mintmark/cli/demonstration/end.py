"""One end of a TCP connection, which may be ended in the ways in which connections end."""

import asyncio
import contextlib
import socket
import struct
from typing import Final

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class End:
    """One of the two ends of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader: Final = reader
        self._writer: Final = writer

    async def send(self, chunk: bytes) -> None:
        """Send, and wait while the other side does not read; raises OSError."""
        self._ensure_open()
        self._writer.write(chunk)
        await self._writer.drain()

    def send_end(self) -> None:
        """Say that nothing more comes; the other direction stays open. Raises OSError."""
        self._ensure_open()
        self._writer.write_eof()

    async def close(self) -> None:
        """Send what is still to be sent, and close; raises OSError."""
        self._writer.close()
        await self._writer.wait_closed()

    def reset(self) -> None:
        """End it at once, so that the other side sees an error and no ordinary end."""
        sock = self._writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._writer.transport.abort()

    def drop(self) -> None:
        """Close it if it is open still."""
        self._writer.transport.abort()

    def _ensure_open(self) -> None:
        # asyncio only logs what is written to a closed connection, and uvloop raises something else.
        if self._writer.is_closing():
            raise ConnectionResetError
