"""Places outside the store that hold copies of public documents: a folder, a bucket.

A place holds entries by name, as a web server or a CDN gives them out. Whoever writes there decides on the
store, never on what the place says, so that a copy that went wrong can be made again.

- PUB-1 What ``put`` took is what ``read`` gives afterwards, with its headers where the place keeps headers;
  what is not there reads as None.
- PUB-2 Whoever reads during a ``put`` finds the entry whole, as it was before or as it is after.
- PUB-3 Of any number of puts that expect one version exactly one is taken, and one that expects what is no
  longer so is not. A place may fail to keep this clause: servers exist that ignore conditions in silence.
- PUB-4 ``versions`` gives each entry that is directly in a folder, with the version that ``read`` gives.
- PUB-5 What was deleted is not there; deleting what is not there is no error.
- PUB-6 A name is made of plain segments, and so leads nowhere out of the place; any other is a ValueError.
- PUB-7 What fails is PublicationFailed with a sentence, within ten seconds; nothing foreign, no credential.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NewType, Protocol
from urllib.parse import unquote, urlsplit

from mintmark.errors import MintmarkError

Version = NewType("Version", str)
"""What one state of an entry is told by; other bytes have another one. It means nothing elsewhere."""

LARGEST: Final = 1 << 20
"""Bytes that an entry may have at the most; more is nothing of ours, and is not read into memory."""

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._~-]{1,200}")


class PublicationFailed(MintmarkError):
    """The place did not do it, or perhaps did; the message says which place and why."""


@dataclass(frozen=True, slots=True)
class Headers:
    """What a web server says about an entry (RFC 9110 s.8.3, RFC 9111 s.5.2)."""

    content_type: str
    cache_control: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be at a place under one name."""

    body: bytes
    headers: Headers


@dataclass(frozen=True, slots=True)
class Found:
    """What is there; ``headers`` is None where the place keeps none, because a web server adds them."""

    body: bytes
    version: Version
    headers: Headers | None

    def is_copy_of(self, entry: Entry) -> bool:
        """Whether nothing is left to do for ``entry``."""
        return self.body == entry.body and self.headers in (None, entry.headers)


class Publisher(Protocol):
    """One place."""

    @property
    def place(self) -> str:
        """The URL that it was configured with, for messages."""
        ...

    async def read(self, name: str) -> Found | None:
        """What is there under ``name`` now. Raises PublicationFailed."""
        ...

    async def versions(self, folder: str) -> Mapping[str, Version]:
        """The entries directly in ``folder``, by name: ``keys/x.json``. Raises PublicationFailed."""
        ...

    async def put(self, name: str, entry: Entry, *, over: Version | None) -> bool:
        """Whether ``entry`` was taken in place of version ``over``, or where there was nothing (None).

        Raises PublicationFailed; the entry may have been taken all the same, then or later.
        """
        ...

    async def delete(self, name: str) -> None:
        """Remove ``name``, whatever it is now. Raises PublicationFailed."""
        ...

    async def close(self) -> None:
        """Let go of what is open; may be called twice."""
        ...


def segments_of(name: str) -> tuple[str, ...]:
    """The segments of the path ``name``; ValueError where one of them is not plain (PUB-6)."""
    segments = tuple(name.split("/"))
    if any(_SEGMENT.fullmatch(segment) is None or segment in {".", ".."} for segment in segments):
        raise ValueError("the name of an entry is a path of plain segments")
    return segments


def folder_of(url: str) -> str:
    """The path that ``file:///srv/www`` names; ValueError, for whoever wrote it, where it names none."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc or not path.startswith("/") or "?" in url or "#" in url:
        raise ValueError('must name a folder by its whole path, like "file:///srv/www"')
    return path


def bucket_of(url: str) -> tuple[str, str]:
    """The bucket and the prefix that ``s3://bucket/prefix`` names; ValueError where it names none."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    plain = parts.scheme == "s3" and _BUCKET.fullmatch(parts.netloc) and not ("?" in url or "#" in url)
    try:
        segments_of(prefix or "none")
    except ValueError:
        plain = None
    if not plain:
        # Without the value: a URL with a password in it ends up here.
        raise ValueError('must name a bucket and a plain prefix, like "s3://bucket/prefix"')
    return parts.netloc, prefix
