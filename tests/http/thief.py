"""Somebody who has every table of the database, as often as it was backed up, and perhaps a few tokens."""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mintmark.core import base64url, sealing, sessions
from mintmark.core.sealing import SealBroken
from mintmark.core.sessions import RefreshToken

_DOMAIN = b"mintmark refresh token 1\x00"


@dataclass(frozen=True)
class Stolen:
    """One copy of the database: every row of every table that there is, and all of its bytes."""

    tables: dict[str, list[dict[str, Any]]]
    raw: bytes

    @property
    def sessions(self) -> list[dict[str, Any]]:
        return self.tables["sessions"]


def steal_file(path: Path) -> Stolen:
    """A copy of an SQLite file, with what its tables are called by itself."""
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as database:
        database.row_factory = sqlite3.Row
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        tables = {name: [dict(row) for row in database.execute(f'SELECT * FROM "{name}"')] for name in names}
        beside = (Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm"))
        return Stolen(tables, b"".join(file.read_bytes() for file in beside if file.exists()))


async def steal_database(url: str) -> Stolen:
    """A copy of every table of a PostgreSQL database."""
    database = await asyncpg.connect(url, timeout=60)
    try:
        found = await database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        tables = {
            name: [dict(row) for row in await database.fetch(f'SELECT * FROM "{name}"')] for (name,) in found
        }
    finally:
        await database.close()
    values = (value for rows in tables.values() for row in rows for value in row.values())
    return Stolen(
        tables, b"\x00".join(value if isinstance(value, bytes) else str(value).encode() for value in values)
    )


@dataclass
class Thief:
    """What he has, and what he makes of it."""

    loot: list[Stolen]
    tokens: list[str]
    """Refresh tokens that he has beside: spent ones of others, and those of a session of his own."""

    def values(self) -> set[bytes]:
        """Everything in a column, as it is and decoded; and what the tokens are made of."""
        found = {
            form
            for stolen in self.loot
            for rows in stolen.tables.values()
            for row in rows
            for value in row.values()
            for form in _forms(value)
        }
        for token in self._parsed():
            found |= {token.signature, token.signature[:32], token.signature[32:], token.text().encode()}
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Every row of every session that there ever was in a copy."""
        return [row for stolen in self.loot for row in stolen.sessions]

    def seeds(self) -> Iterator[tuple[str, bytes]]:
        """The private halves of sessions that he finds: in clear, or behind a seal that something opens."""
        public = {row["public_key"]: row["rid"] for row in self.rows()}
        values = self.values()
        windows = {value[at : at + 32] for value in values for at in range(min(len(value), 200) - 31)}
        for seed in windows | {hashlib.sha256(value).digest() for value in values}:
            key = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
            if key in public:
                yield public[key], seed
        for rid, sealed, generation in self._seals():
            for secret in self._secrets(rid, values):
                with contextlib.suppress(SealBroken):
                    context = _DOMAIN + base64url.decode(rid) + generation.to_bytes(4)
                    yield rid, sealing.unseal_once(sealed, secret=secret, context=context)

    def _seals(self) -> set[tuple[str, bytes, int]]:
        """Each seal, with each generation that it may belong to."""
        return {
            (row["rid"], sealed, generation)
            for row in self.rows()
            for sealed in (row["sealed"], row["parent_sealed"])
            if sealed is not None
            for generation in (row["generation"], row["parent"], 0)
            if generation is not None
        }

    def _secrets(self, rid: str, values: set[bytes]) -> set[bytes]:
        """All values, and those of the session's own rows in pairs."""
        own = {
            form
            for row in self.rows()
            if row["rid"] == rid
            for value in row.values()
            for form in _forms(value)
        }
        own = {value for value in own if len(value) >= 16}
        return values | {first + second for first in own for second in own}

    def forgeries(self) -> set[str]:
        """Texts that he would present: values as they are, values in the place of signatures, tokens of one
        session or generation made into another's, and what the seeds sign that he found."""
        newest = {row["rid"]: row["generation"] for row in self.rows()}
        made = {value.decode() for value in self.values() if value.isascii() and len(value) < 500}
        made |= {sessions.PREFIX + base64url.encode(value) for value in self.values()}
        for rid, generation in newest.items():
            named = [value for value in self.values() if 32 <= len(value) <= 128]
            named += [token.signature for token in self._parsed()]
            signatures = {value[:64].ljust(64, b"\x00") for value in named}
            made |= {RefreshToken(rid, generation, each).text() for each in signatures}
            for token in self._parsed():
                made |= {
                    RefreshToken(rid, number, token.signature).text() for number in range(generation + 2)
                }
        for rid, seed in self.seeds():
            private = Ed25519PrivateKey.from_private_bytes(seed)
            message = _DOMAIN + base64url.decode(rid) + newest[rid].to_bytes(4)
            made.add(RefreshToken(rid, newest[rid], private.sign(message)).text())  # type: ignore[arg-type]
        return made - set(self.tokens)

    def _parsed(self) -> list[RefreshToken]:
        return [token for text in self.tokens if (token := sessions.parse(text)) is not None]


def _forms(value: Any) -> Iterable[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, str) and value:
        yield value.encode()
        with contextlib.suppress(ValueError):
            yield base64url.decode(value)
