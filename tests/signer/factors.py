"""Looks for an RSA private key in a stretch of memory, knowing its public half alone.

Whoever holds a factor of the modulus holds the key. OpenSSL keeps numbers as little-endian words and writes
them big-endian; a factor of an n-bit modulus has n/2 bits, its top byte is at least 0xb5 (FIPS 186-5
A.1.3) and it is odd. Each place that looks so is tried by division.
"""

import re
from typing import Literal


def holds_factor(memory: bytes, n: int) -> bool:
    """Whether a factor of ``n`` lies in ``memory``, in either byte order."""
    size = n.bit_length() // 16
    odd = b"[" + b"".join(b"\\x%02x" % byte for byte in range(1, 256, 2)) + b"]"
    top = rb"[\xb5-\xff]"
    between = b".{%d}" % (size - 2)
    big = re.compile(b"(?s)(?=" + top + between + odd + b")")
    little = re.compile(b"(?s)(?=" + odd + between + top + b")")
    return _found(memory, n, big, "big") or _found(memory, n, little, "little")


def _found(memory: bytes, n: int, shape: "re.Pattern[bytes]", order: Literal["big", "little"]) -> bool:
    size = n.bit_length() // 16
    for match in shape.finditer(memory):
        at = match.start()
        if order == "little" and at % 8:  # Words are aligned; text can begin anywhere.
            continue
        candidate = memory[at : at + size]
        # A random number of this size has no dozen zero bytes; pointers and small integers do.
        if candidate.count(0) < 12 and n % int.from_bytes(candidate, order) == 0:
            return True
    return False
