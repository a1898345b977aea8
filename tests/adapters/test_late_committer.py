"""A committer held open between taking its place in the log and committing: readers lose nothing (V1).

The check is one, and is made on each database; and on a log with the mistake that it is about, whose places
are a sequence's, handed out before the commit, and whose reader follows the highest: there it must fail.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Sequence
from typing import Protocol

import asyncpg  # type: ignore[import-untyped]
import pytest
from tests.adapters.postgres import new_store, waiting

from mintmark.adapters.sql.sqlite import SqliteStore
from mintmark.core.log import Cursor
from mintmark.core.sessions import EndCause, Session
from mintmark.errors import StoreUnavailable
from mintmark.ports.revocations import CursorGone, IssuedToken
from mintmark.ports.store import Store
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.conformance.rig import ISSUER, TIMING, Rig
from mintmark.units import Jti

OTHERS = 5


class Log(Protocol):
    """What the check drives."""

    async def hold(self) -> None:
        """Take a place in the log for the entry ``late``, and commit nothing."""

    async def release(self) -> None:
        """Commit it."""

    async def append(self) -> str:
        """Append one more entry; which."""

    async def begun(self, appending: Sequence["asyncio.Future[str]"]) -> None:
        """Return once each of ``appending`` is done, or waits for the one that is held."""

    async def read(self) -> list[str]:
        """What the reader has not read before."""


async def check(log: Log) -> None:
    """A reader that reads before, during and after a late commit is given each entry once."""
    appended = [await log.append()]
    given = await log.read()
    await log.hold()
    appending = [asyncio.ensure_future(log.append()) for _ in range(OTHERS)]
    await log.begun(appending)
    for _ in range(3):
        given += await log.read()
    await log.release()
    appended += [*await asyncio.gather(*appending), "late"]
    while more := await log.read():
        given += more
    lost = sorted(set(appended) - set(given))
    assert not lost, f"the reader lost {lost}"
    assert sorted(given) == sorted(appended)


class StoreLog:
    """The log of a store; what differs between databases is how somebody else takes a place in it."""

    by_time = False
    """Whether it also appends what would be there twice if it were tried again."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._rig = Rig(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)  # type: ignore[arg-type]
        self._cursor: Cursor | None = None
        self._places: list[int] = []

    async def set_up(self) -> None:
        self._user, self._client = await self._rig.someone()
        self._cursor, _ = await self.store.revocations.head(ISSUER)
        self._started = [(await self._rig.logged_in(self._user, self._client))[0] for _ in range(OTHERS + 1)]

    async def append(self) -> str:
        """By another operation each time, as far as there are more."""
        session, log = self._started.pop(), self.store.revocations
        match len(self._started):
            case 0 | 1:
                await self._end(session)
                return session.rid
            case 2 if self.by_time:
                await log.revoke_all(ISSUER, cause="test", timing=TIMING)
                return ""
            case 3 if self.by_time:
                client_id = self._client.client_id
                await log.revoke_client(ISSUER, client_id, cause="test", timing=TIMING)
                return client_id
            case number:
                await self._revoke(session, Jti(f"jti-{number}"))
                return f"jti-{number}"

    async def _end(self, session: Session) -> None:
        while True:
            try:
                await self.store.sessions.end(ISSUER, session.rid, cause=EndCause.LOGOUT, timing=TIMING)
            except StoreUnavailable:
                continue  # on SQLite, where the lock is held for longer than it waits for it
            return

    async def _revoke(self, session: Session, jti: Jti) -> None:
        token = IssuedToken(jti=jti, client_id=session.client_id, rid=session.rid, exp=session.last_exp)
        while True:
            try:
                await self.store.revocations.revoke_token(ISSUER, token, cause="test", timing=TIMING)
            except StoreUnavailable:
                continue
            return

    async def read(self) -> list[str]:
        page = await self.store.revocations.read(ISSUER, self._cursor, limit=2)
        assert not isinstance(page, CursorGone)
        self._cursor = page.cursor
        self._places += [entry.cursor.seq for entry in page.entries]
        assert self._places == list(range(1, len(self._places) + 1))
        return [entry.event.value for entry in page.entries]


TAKE = "UPDATE log_heads SET seq = seq + 1, mark = '{mark}'"
ENTER = """
INSERT INTO log_entries (issuer, seq, mark, kind, value, expires_at, cause, at)
SELECT issuer, seq, mark, 'rid', 'late', 4000000000, 'logout', 1 FROM log_heads
"""


class PostgresLog(StoreLog):
    """On PostgreSQL, where writers wait for the row of the head."""

    by_time = True

    def __init__(self, store: Store, url: str) -> None:
        super().__init__(store)
        self._url = url

    async def hold(self) -> None:
        self._late = await asyncpg.connect(self._url)
        await self._late.execute("BEGIN")
        await self._late.execute(TAKE.format(mark="12345678"))
        await self._late.execute(ENTER)

    async def begun(self, appending: Sequence["asyncio.Future[str]"]) -> None:
        await waiting(self._late, len(appending))

    async def release(self) -> None:
        await self._late.execute("COMMIT")
        await self._late.close()


class SqliteLog(StoreLog):
    """On SQLite, where writers wait for the file."""

    def __init__(self, store: Store, path: str) -> None:
        super().__init__(store)
        self._path = path

    async def hold(self) -> None:
        self._late = sqlite3.connect(self._path, isolation_level=None, timeout=60)
        self._late.execute("BEGIN IMMEDIATE")
        self._late.execute("UPDATE log_heads SET seq = seq + 1, mark = x'3132333435363738'")
        self._late.execute(ENTER)

    async def begun(self, appending: Sequence["asyncio.Future[str]"]) -> None:
        """They were asked for; whether they wait yet cannot be seen, and does not matter."""
        await asyncio.sleep(0)

    async def release(self) -> None:
        self._late.execute("COMMIT")
        self._late.close()


class NaiveLog:
    """Places of a sequence, and a reader that goes on behind the highest that it has seen."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._seen = 0
        self._count = 0

    async def set_up(self) -> None:
        self._late = await asyncpg.connect(self._url)
        self._reader = await asyncpg.connect(self._url)
        await self._reader.execute("CREATE TABLE naive (seq bigserial PRIMARY KEY, value text)")

    async def close(self) -> None:
        await self._late.close()
        await self._reader.close()

    async def hold(self) -> None:
        await self._late.execute("BEGIN; INSERT INTO naive (value) VALUES ('late')")

    async def release(self) -> None:
        await self._late.execute("COMMIT")

    async def append(self) -> str:
        self._count += 1
        value = f"other-{self._count}"
        connection = await asyncpg.connect(self._url)
        await connection.execute("INSERT INTO naive (value) VALUES ($1)", value)
        await connection.close()
        return value

    async def begun(self, appending: Sequence["asyncio.Future[str]"]) -> None:
        await asyncio.gather(*appending)

    async def read(self) -> list[str]:
        rows = await self._reader.fetch(
            "SELECT seq, value FROM naive WHERE seq > $1 ORDER BY seq", self._seen
        )
        self._seen = max([self._seen, *(row["seq"] for row in rows)])
        return [row["value"] for row in rows]


async def opened(store: Store, work: Awaitable[None]) -> None:
    await store.open()
    try:
        await work
    finally:
        await store.close()


async def run(log: PostgresLog | SqliteLog) -> None:
    await log.set_up()
    await check(log)


async def test_reader_loses_nothing_on_postgresql(database):
    """V1, LOG-1: while one commits late others wait for their places, and readers for none of them."""
    store = new_store(database)
    await opened(store, run(PostgresLog(store, database)))


async def test_reader_loses_nothing_on_sqlite(tmp_path):
    """V1, LOG-1: the same where the lock is the file's."""
    store = SqliteStore(tmp_path / "store.db", clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
    await opened(store, run(SqliteLog(store, str(tmp_path / "store.db"))))


async def test_check_notices_a_reader_that_follows_the_highest_number(database):
    """V1: the very check that the stores pass fails where places are handed out before the commit."""
    log = NaiveLog(database)
    await log.set_up()
    try:
        with pytest.raises(AssertionError, match=r"the reader lost \['late'\]"):
            await check(log)
    finally:
        await log.close()
