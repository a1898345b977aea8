"""The line between the control process and a worker: settings one way, what it serves the other.

It is a socketpair that the worker inherits. Its end is also the sign of life: a worker whose control
process is gone reads end-of-file and leaves, whatever ended it.
"""

import asyncio
import dataclasses
import socket
from typing import Final

import msgspec

from mintmark.server.settings import Settings
from mintmark.units import Issuer, NodeId

_LIMIT: Final = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker is told once, at its start."""

    node: NodeId
    settings: Settings


class Served(msgspec.Struct, frozen=True):
    """What a worker tells: the generation of an issuer's ring that it answers with, and that it accepts
    requests."""

    issuer: Issuer
    generation: int


def encode_assignment(assignment: Assignment) -> bytes:
    """One line of JSON."""
    # Where each value came from is for people at the start, and of no use to a worker.
    settings = dataclasses.replace(assignment.settings, sources={}, warnings=())
    return msgspec.json.encode(dataclasses.replace(assignment, settings=settings)) + b"\n"


def decode_assignment(line: bytes) -> Assignment:
    """What :func:`encode_assignment` wrote."""
    return msgspec.json.decode(line, type=Assignment)


class Line:
    """One end, in the running event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> "Line":
        """Take over ``sock``."""
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_LIMIT)
        return cls(reader, writer)

    async def receive(self) -> bytes:
        """The next line; empty when the other side is gone."""
        try:
            return await self._reader.readline()
        except (ConnectionError, ValueError):
            return b""

    def send(self, line: bytes) -> None:
        """Queue one line, newline included; what the other side no longer reads is dropped."""
        if not self._writer.is_closing():
            self._writer.write(line)

    def close(self) -> None:
        """End it; the other side reads end-of-file."""
        self._writer.close()
