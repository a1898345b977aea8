"""Whether a node wants requests, as its own answer to a probe says."""

import asyncio
from enum import StrEnum
from typing import Final

_STATUS_LINE: Final = "HTTP/1.1 200"


class Answer(StrEnum):
    """What a probe found, the best first."""

    READY = "ready"
    NOT_READY = "not_ready"
    """It answered, with another status than 200."""
    NONE = "none"


async def ask(host: str, port: int, path: str) -> Answer:
    """What the node there answers to a GET of ``path``; raises OSError where nobody accepts."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        status = await reader.readexactly(len(_STATUS_LINE))
        return Answer.READY if status.endswith(b" 200") else Answer.NOT_READY
    except EOFError:
        return Answer.NONE
    finally:
        writer.transport.abort()
