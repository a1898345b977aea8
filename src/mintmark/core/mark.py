"""Marks: what shows that a row of the store was written by somebody who holds the cluster's key.

HMAC-SHA256 (RFC 2104) under a key derived from the secret of the setting ``cluster_key`` (RFC 5869), over an
encoding that says of each field its name, its type and its length, so that no two sets of fields are
encoded alike. A field that is None is left out: a column that a later revision adds changes no mark while it
is empty.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Value: TypeAlias = int | str | bytes | None
"""What a field may hold; True and False are kept apart from 1 and 0."""

MARK_BYTES: Final = 32
MIN_SECRET_BYTES: Final = 16


@dataclass(frozen=True, slots=True, repr=False)
class MarkKey:
    """A key that makes marks."""

    derived: bytes

    @classmethod
    def from_bytes(cls, secret: bytes) -> "MarkKey":
        """The key of ``secret``; raises ValueError where that is shorter than sixteen bytes."""
        if len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"must be at least {MIN_SECRET_BYTES} bytes")
        kdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"mintmark cluster_key rows 1")
        return cls(kdf.derive(secret))

    def mark(self, table: str, fields: Mapping[str, Value]) -> bytes:
        """The mark of a row with these ``fields`` of ``table``."""
        return hmac.digest(self.derived, _encoded(table, fields), "sha256")


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Marks:
    """Which marks are written, and which are taken. Without a ``key`` none is written or looked at."""

    key: MarkKey | None = None
    also: tuple[MarkKey, ...] = ()
    """Keys whose marks are taken too: while one key replaces another."""
    unmarked: bool = False
    """Whether rows without a mark are taken too: while the first key is introduced."""

    def of(self, table: str, fields: Mapping[str, Value]) -> bytes | None:
        """The mark to write with ``fields``; None where none is written."""
        return None if self.key is None else self.key.mark(table, fields)

    def leaves_unchecked(self, mark: bytes | None) -> bool:
        """Whether somebody made ``mark``, and nobody here could say who."""
        return self.key is None and mark is not None

    def take(self, mark: bytes | None, table: str, fields: Mapping[str, Value]) -> bool:
        """Whether ``fields`` with this ``mark`` were written by somebody who may."""
        if self.key is None:
            return True
        if mark is None:
            return self.unmarked
        return any(hmac.compare_digest(mark, key.mark(table, fields)) for key in (self.key, *self.also))


UNMARKED: Final = Marks()
"""Nothing is marked, and everything is taken."""


def _encoded(table: str, fields: Mapping[str, Value]) -> bytes:
    parts = [table.encode()]
    for name in sorted(fields):
        if (value := fields[name]) is not None:
            parts += [name.encode(), *_typed(value)]
    # Each part has its length before it, and they come in threes after the table.
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _typed(value: object) -> tuple[bytes, bytes]:
    match value:
        case bool():
            return b"bool", b"1" if value else b"0"
        case int():
            return b"int", str(int(value)).encode()
        case str():
            return b"text", str(value).encode()
        case bytes():
            return b"bytes", value
        case _:
            # SQLite takes a value of any type in any column. We write no other, so no mark fits.
            return b"other", b""
