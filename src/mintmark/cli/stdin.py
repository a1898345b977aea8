"""Standard input: a person, a pipe, or nothing at all."""

import sys


def is_person() -> bool:
    """Whether somebody can be asked: input is a terminal, and so is where questions are shown."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def read_bytes(limit: int) -> bytes:
    """What is piped in, at most ``limit`` bytes of it; nothing where standard input is closed."""
    return sys.stdin.buffer.read(limit) if sys.stdin is not None else b""
