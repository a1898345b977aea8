"""What came back from a URL, and what can be read in it."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, Final

from mintmark.units import NumericDate

LARGEST: Final = 1 << 20
"""Bytes of an answer, before decompression and after it."""

_GZIP: Final = 16 + zlib.MAX_WBITS


class Trouble(Enum):
    """Why there was no answer."""

    NAME = "the name has no address"
    REFUSED = "nobody listens there"
    TLS = "the certificate or the TLS connection is refused"
    TIMEOUT = "no answer in time"
    BROKEN = "the connection broke"


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Nothing came back; ``detail`` is what the system said."""

    trouble: Trouble
    detail: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: header names in lower case, the body as it was sent, and when it was by our clock."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    asked_at: NumericDate
    answered_at: NumericDate


FIXES: Final[Mapping[Trouble, str]] = {
    Trouble.NAME: "make a DNS record for it, or set `proof_urls` where only nodes cannot resolve it",
    Trouble.REFUSED: "see that the proxy runs and forwards to `listen`, or that `listen` is this address",
    Trouble.TLS: "renew the certificate, or send all of its chain (`openssl s_client -connect HOST:PORT`)",
    Trouble.TIMEOUT: "open the firewall on the way; set `proof_urls` where nodes cannot reach it themselves",
    Trouble.BROKEN: "see the logs of the proxy and of the node",
}


def keys_of(body: bytes) -> dict[str, Any] | None:
    """The JWKs by ``kid``, or None for what is no key set."""
    document = decoded(body)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return None
    return {str(entry.get("kid")): entry for entry in entries}


def decoded(body: bytes) -> object:
    """The JSON in ``body``; None for what is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def unzipped(answer: Answer) -> bytes:
    """The body as it was before compression; empty where nobody here can undo that."""
    match answer.headers.get("content-encoding", "").lower():
        case "" | "identity":
            return answer.body
        case "gzip":
            try:
                return zlib.decompressobj(_GZIP).decompress(answer.body, LARGEST)
            except zlib.error:
                return b""
        case _:
            return b""


def instant_of(text: str) -> NumericDate | None:
    """The time that an HTTP date gives (RFC 9110 s.5.6.7), or None."""
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return NumericDate(int(found.replace(tzinfo=found.tzinfo or UTC).timestamp()))
