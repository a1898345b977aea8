"""The SQLite store's own promises: what shares a commit, what happens to callers that go, what breaks."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, insert, text

import mintmark
from mintmark.adapters.sql.database import Collision
from mintmark.adapters.sql.directory import DirectoryRows
from mintmark.adapters.sql.ending import EndingRows
from mintmark.adapters.sql.schema import METADATA, REVISION, nodes
from mintmark.adapters.sql.sqlite import APPLICATION_ID, SqliteStore, from_url, translate
from mintmark.adapters.sql.threads import driver
from mintmark.core.revocation import Kind
from mintmark.core.sessions import EndCause
from mintmark.errors import ConfigurationError, StoreDamaged, StoreUnavailable
from mintmark.ports.budget import Budget
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.rig import ISSUER, OTHER, TIMING, Rig, read_log

Work = Callable[[Connection], object]


def new_store(path: Path) -> SqliteStore:
    return SqliteStore(path, clock=FakeClock(), entropy=SYSTEM_ENTROPY)


@pytest.fixture
async def store(tmp_path) -> AsyncIterator[SqliteStore]:
    store = new_store(tmp_path / "store.db")
    await store.open()
    yield store
    await store.close()


@pytest.mark.parametrize("end", ["sub", "client_id", "everywhere"])
async def test_any_number_of_sessions_end_in_transactions_that_are_bounded(store, monkeypatch, end):
    """R5, V1: none ends more than it has the time for, all are ended, and the log has one entry for each;
    for a client that goes, one before the first of them ends and one with the last."""
    monkeypatch.setattr(EndingRows, "most_at_once", 3)
    parts: list[int] = []
    end_some = EndingRows.end_some

    def counted(*arguments):
        ended = end_some(*arguments)
        parts.append(len(ended))
        return ended

    monkeypatch.setattr(EndingRows, "end_some", counted)
    rig = Rig(store, FakeClock(), SYSTEM_ENTROPY)
    user, client = await rig.someone()
    rids = {(await rig.logged_in(user, client))[0].rid for _ in range(11)}
    match end:
        case "sub":
            ended = await store.directory.disable_user(ISSUER, user.sub, timing=TIMING)
        case "client_id":
            ended = await store.directory.remove_client(ISSUER, client.client_id, timing=TIMING)
        case _:
            cause = EndCause.ADMIN
            ended = len(await store.sessions.end_all(ISSUER, user.sub, cause=cause, timing=TIMING))
    assert ended == 11
    assert parts == [3, 3, 3]
    assert await store.sessions.list(ISSUER) == ()
    entries = await read_log(store)
    said = [client.client_id] * 2 if end == "client_id" else sorted(rids)
    assert [entry.cursor.seq for entry in entries] == list(range(1, len(said) + 1))
    assert sorted(entry.event.value for entry in entries) == said


async def test_client_whose_removal_was_cut_short_leaves_no_token(store, monkeypatch):
    """DIRECTORY-4: of sessions that had ended before the crash no token is left, and the next try goes on."""
    monkeypatch.setattr(EndingRows, "most_at_once", 3)
    clock = FakeClock()
    rig = Rig(store, clock, SYSTEM_ENTROPY)
    user, client = await rig.someone()
    for _ in range(11):
        await rig.logged_in(user, client)
    remove = DirectoryRows.remove_client

    def crash(*arguments):
        raise StoreUnavailable("the node was killed")

    monkeypatch.setattr(DirectoryRows, "remove_client", crash)
    with pytest.raises(StoreUnavailable):
        await store.directory.remove_client(ISSUER, client.client_id, timing=TIMING)
    assert len(await store.sessions.list(ISSUER)) == 2
    found = await store.directory.client(ISSUER, client.client_id)
    assert found is not None
    assert found.not_before > SYSTEM_CLOCK.now()
    (entry,) = await read_log(store)
    assert (entry.event.kind, entry.event.not_before) == (Kind.CLIENT, found.not_before)
    monkeypatch.setattr(DirectoryRows, "remove_client", remove)
    assert await store.directory.remove_client(ISSUER, client.client_id, timing=TIMING) == 2
    assert await store.directory.clients(ISSUER) == ()


async def test_any_number_of_notices_go_with_their_client(store, monkeypatch):
    """OUTBOX-5: a client that was down for days is removed in transactions that are bounded."""
    monkeypatch.setattr(DirectoryRows, "forgotten_at_once", 3)
    rig = Rig(store, FakeClock(), SYSTEM_ENTROPY)
    user = await rig.added_user()
    clients = [replace(rig.client(name), backchannel_logout_uri="https://shop.example.com") for name in "ab"]
    for client in clients:
        await store.directory.add_client(client)
        for _ in range(7):
            await rig.logged_in(user, client)
    await store.sessions.end_all(ISSUER, user.sub, cause=EndCause.ADMIN, timing=TIMING)
    assert await store.outbox.pending(ISSUER) == 14
    await store.directory.remove_client(ISSUER, clients[0].client_id, timing=TIMING)
    assert await store.outbox.pending(ISSUER) == 7


def beat(name: str) -> Work:
    """Insert one row under ``name``; two rows under one name collide."""
    row = {"issuer": ISSUER, "node": name, "seen_at": 1, "ring_generation": 1}
    return lambda connection: connection.execute(insert(nodes), row).rowcount


async def names(store: SqliteStore) -> list[str]:
    return [member.node for member in (await store.keyring.read(ISSUER)).members]


class Pause:
    """Work that stops its thread until it is let go."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self._go = threading.Event()

    def __call__(self, connection: Connection) -> str:
        self._started.set()
        assert self._go.wait(60)
        return "done"

    async def started(self) -> None:
        assert await asyncio.to_thread(self._started.wait, 20)

    def end(self) -> None:
        self._go.set()


@contextmanager
def damaged(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection on the file, to do what nobody should do to it."""
    with closing(sqlite3.connect(path)) as raw:
        yield raw
        raw.commit()


# --- one transaction for many ----------------------------------------------------------------------


async def test_writes_that_wait_share_one_commit(store):
    """Group commit: fifty writes queued behind one that takes its time make one transaction, not fifty."""
    statements: list[str] = []
    pause = Pause()
    await store.write(lambda c: driver(c).set_trace_callback(statements.append))
    first = asyncio.ensure_future(store.write(pause))
    await pause.started()
    others = [asyncio.ensure_future(store.write(beat(f"n{n:02}"))) for n in range(50)]
    await asyncio.sleep(0)
    statements.clear()
    pause.end()
    assert await first == "done"
    assert await asyncio.gather(*others) == [1] * 50
    assert [s for s in statements if s in {"COMMIT", "BEGIN IMMEDIATE"}] == [
        "COMMIT",
        "BEGIN IMMEDIATE",
        "COMMIT",
    ]
    assert await names(store) == [f"n{n:02}" for n in range(50)]


async def test_work_that_fails_takes_nobody_with_it(store):
    """STORE-1: of three that share a commit the one that raises leaves nothing, and the others all."""

    def fails(connection: Connection) -> None:
        beat("half")(connection)
        raise LookupError("no")

    pause = Pause()
    first = asyncio.ensure_future(store.write(pause))
    await pause.started()
    sharing = asyncio.gather(
        store.write(beat("a")), store.write(fails), store.write(beat("b")), return_exceptions=True
    )
    await asyncio.sleep(0)
    pause.end()
    a, failed, b = await sharing
    assert (a, b) == (1, 1)
    assert isinstance(failed, LookupError)
    await first
    assert await names(store) == ["a", "b"]


async def test_row_that_collides_takes_back_what_came_before_it(store):
    """STORE-1: work whose second statement is refused leaves nothing of its first."""

    def twice(connection: Connection) -> None:
        beat("new")(connection)
        beat("old")(connection)

    await store.write(beat("old"))
    with pytest.raises(StoreDamaged):
        await store.write(twice)
    assert await names(store) == ["old"]


async def test_reader_sees_one_state(store, tmp_path):
    """RING-3: what is committed between two statements of one read is not in the second."""
    peer = new_store(tmp_path / "store.db")
    await peer.open()
    await store.write(beat("a"))
    pause = Pause()

    def counts(connection: Connection) -> list[int]:
        question = text("SELECT count(*) FROM nodes")
        before = connection.execute(question).scalar_one()
        pause(connection)
        return [before, connection.execute(question).scalar_one()]

    counting = asyncio.ensure_future(store.read(counts))
    await pause.started()
    await peer.write(beat("b"))
    pause.end()
    assert await counting == [1, 1]
    assert len(await names(store)) == 2
    await peer.close()


async def test_reader_cannot_write(store):
    """A read that tries to change something is refused, and reads go on."""
    with pytest.raises(StoreUnavailable, match="read-only"):
        await store.read(beat("a"))
    assert await names(store) == []


# --- callers that go -------------------------------------------------------------------------------


async def test_cancelled_work_that_waits_is_not_done(store):
    """A caller that goes before its turn leaves nothing, and the next one is served."""
    pause = Pause()
    first = asyncio.ensure_future(store.write(pause))
    await pause.started()
    gone, stays = (asyncio.ensure_future(store.write(beat(name))) for name in ("gone", "stays"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    pause.end()
    await asyncio.gather(first, stays)
    assert await names(store) == ["stays"]


async def test_cancelled_work_that_runs_wedges_nothing(store):
    """A caller that goes during its turn is not waited for; the writer works on, and so does the reader."""
    for submit in (store.write, store.read):
        pause = Pause()
        running = asyncio.ensure_future(submit(pause))
        await pause.started()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert running.cancelled()
        pause.end()
    assert await store.write(beat("a")) == 1
    assert await names(store) == ["a"]


async def test_work_that_hangs_is_given_up(store):
    """STORE-2: a disk that does not come back is StoreUnavailable, for those behind it too, until it does."""
    pause = Pause()
    outcomes = await asyncio.gather(store.write(pause), store.write(beat("behind")), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 2
    assert await names(store) == []
    pause.end()
    assert await store.write(beat("later")) == 1
    assert await names(store) == ["later"]


async def test_request_without_time_is_refused_before_its_operation_is(store):
    """STORE-7, F17: whoever has less time than an operation may take hears so when that is up, and what has
    not begun by then is not done; later operations are."""
    pause = Pause()
    hanging = asyncio.ensure_future(store.write(pause))
    await pause.started()
    # By a clock that stands still: what passes in reality depends on the machine.
    with Budget(FakeClock(), 0.05).covering(), pytest.raises(StoreUnavailable, match="this request"):
        await store.write(beat("refused"))
    pause.end()
    await asyncio.gather(hanging, return_exceptions=True)
    assert await store.write(beat("later")) == 1
    assert await names(store) == ["later"]


async def test_close_finishes_what_is_queued(store, tmp_path):
    """STORE-1: writes that were asked for before the close are done, and later ones are refused."""
    pause = Pause()
    first = asyncio.ensure_future(store.write(pause))
    await pause.started()
    queued = [asyncio.ensure_future(store.write(beat(f"n{n}"))) for n in range(5)]
    await asyncio.sleep(0)
    closing_ = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await store.write(beat("late"))
    pause.end()
    await asyncio.gather(first, *queued, closing_)
    peer = new_store(tmp_path / "store.db")
    await peer.open()
    assert await names(peer) == [f"n{n}" for n in range(5)]
    await peer.close()


async def test_stopped_threads_take_no_work(store):
    """STORE-2: whoever still holds the threads of a closed store is refused, and does not wait for ever."""
    threads = store._threads
    await store.close()
    for submit in (threads.read(beat("a")), threads.write(beat("a"), single=True)):
        with pytest.raises(StoreUnavailable, match="closed"):
            await submit
    await threads.stop()


# --- what breaks -----------------------------------------------------------------------------------


async def sharing(store: SqliteStore, *works: Work) -> list[object]:
    """What ``works`` come to in one transaction."""
    pause = Pause()
    first = asyncio.ensure_future(store.write(pause))
    await pause.started()
    together = asyncio.gather(*(store.write(work) for work in works), return_exceptions=True)
    await asyncio.sleep(0)
    pause.end()
    await first
    return list(await together)


async def test_transaction_that_breaks_fails_whoever_shared_it(store):
    """STORE-1, F33: where SQLite rolls all of it back, as on a full disk, nothing is said to be kept."""

    def breaks(connection: Connection) -> None:
        driver(connection).execute(
            "INSERT OR ROLLBACK INTO nodes (issuer, node, seen_at, ring_generation)"
            " VALUES ('i', 'n', 1, 1), ('i', 'n', 1, 1)"
        )

    outcomes = await sharing(store, beat("a"), breaks, beat("b"))
    # Whoever did not collide must not hear that he did: to a port that is an outcome, not a failure.
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, Collision, StoreUnavailable]
    assert await names(store) == []
    assert await store.write(beat("later")) == 1


async def test_full_disk_keeps_what_it_says_it_keeps(store):
    """STORE-1, STORE-2, F33: a row is there exactly if its caller was told so, and room heals the store."""

    def fill(connection: Connection) -> None:
        raw = driver(connection)
        (pages,) = raw.execute("PRAGMA page_count").fetchone()
        raw.execute(f"PRAGMA max_page_count = {pages}")
        for number in range(200):
            row = {"issuer": OTHER, "node": f"{number}" + "x" * 1_000, "seen_at": 1, "ring_generation": 1}
            connection.execute(insert(nodes), row)

    first, filling, last = await sharing(store, beat("first"), fill, beat("last"))
    assert isinstance(filling, StoreUnavailable)
    assert "the disk is full" in str(filling)
    kept = [name for name, outcome in (("first", first), ("last", last)) if outcome == 1]
    assert await names(store) == kept
    assert (await store.keyring.read(OTHER)).members == ()
    await store.write(lambda c: driver(c).execute("PRAGMA max_page_count = 1000000").fetchall())
    assert await store.write(beat("later")) == 1


async def test_file_that_vanished_does_not_come_back_empty(store, tmp_path):
    """STORE-1: a store whose file was removed is unavailable, rather than new."""
    for file in tmp_path.iterdir():
        file.unlink()
    for attempt in (store.write(beat("a")), store.now()):
        with pytest.raises(StoreUnavailable, match="No such file"):
            await attempt
    assert list(tmp_path.iterdir()) == []


async def test_file_that_was_removed_under_open_connections_answers_nothing(store, tmp_path):
    """I7: connections that worked go on with no file that nobody else can see."""
    await store.write(beat("a"))
    await store.read(lambda connection: connection.execute(text("SELECT 1")).one())
    for file in tmp_path.iterdir():
        file.unlink()
    for attempt in (store.write(beat("b")), store.now()):
        with pytest.raises(StoreUnavailable, match="No such file"):
            await attempt


async def test_backup_that_is_moved_into_place_is_what_is_read(store, tmp_path):
    """I7, F38: after a restore under a running store, it reads and writes what everybody else does."""
    (path,) = tmp_path.glob("*.db")
    await store.write(beat("before"))
    backup = tmp_path / "backup"
    with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(backup)) as copied:
        live.backup(copied)
    await store.write(beat("lost"))
    for file in tmp_path.glob("*.db*"):
        file.unlink()
    backup.rename(path)
    await store.write(beat("after"))
    statement = text("SELECT node FROM nodes ORDER BY node")
    seen = await store.read(lambda connection: connection.execute(statement).scalars().all())
    with closing(sqlite3.connect(path)) as other:
        assert seen == [node for (node,) in other.execute(str(statement))] == ["after", "before"]


async def test_commit_to_a_file_that_was_replaced_meanwhile_is_not_answered(store, tmp_path):
    """STORE-1: what was written to a file that is gone at the commit is unavailable, not done."""
    (path,) = tmp_path.glob("*.db")
    await store.write(beat("a"))

    def replaced(connection: Connection) -> None:
        beat("b")(connection)
        shutil.copy(path, tmp_path / "copy")
        (tmp_path / "copy").rename(path)

    with pytest.raises(StoreUnavailable, match="replaced"):
        await store.write(replaced)


async def test_file_that_is_damaged_while_it_is_open(store, tmp_path):
    """STORE-2: bytes that rot under an open store come out as an error of ours, and never as rows."""
    for number in range(200):
        await store.write(beat(f"{number:03}" + "x" * 500))
    path = tmp_path / "store.db"
    with damaged(path) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    with path.open("r+b") as file:
        file.write(content)
    peer = new_store(path)
    with pytest.raises(StoreDamaged):
        await peer.open()
    with pytest.raises((StoreDamaged, StoreUnavailable)) as raised:
        await store.directory.users(ISSUER)
    assert str(path) in str(raised.value)


def test_opening_something_else_says_what_it_is(tmp_path):
    """STORE-2: each kind of file that is no store has its own sentence, which names it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    text_file = tmp_path / "text.db"
    text_file.write_bytes(b"this is no database, " * 100)
    foreign = tmp_path / "foreign.db"
    with damaged(foreign) as raw:
        raw.execute("CREATE TABLE recipes (name TEXT)")
    cases = [
        (tmp_path / "absent" / "store.db", StoreUnavailable, "does not exist"),
        (folder, StoreUnavailable, "this is a folder"),
        (text_file, StoreDamaged, "not an SQLite database"),
        (foreign, StoreDamaged, "not one of Mintmark"),
    ]
    for path, error, sentence in cases:
        with pytest.raises(error, match=sentence) as raised:
            new_store(path)._prepare()
        assert str(path) in str(raised.value)
    assert text_file.read_bytes().startswith(b"this is no database")
    with damaged(foreign) as raw:
        assert raw.execute("SELECT name FROM sqlite_master").fetchall() == [("recipes",)]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, where the test has them."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_written_is_said_at_once():
    """STORE-2: a folder or a file without the right to write is refused before anything is tried."""
    folder = Path(tempfile.mkdtemp(prefix="mintmark-test-"))
    try:
        path = folder / "store.db"
        folder.chmod(0o555)
        with as_nobody(), pytest.raises(StoreUnavailable, match=r"folder .* is not writable"):
            new_store(path)._prepare()
        folder.chmod(0o777)
        new_store(path)._prepare()
        path.chmod(0o444)
        with as_nobody(), pytest.raises(StoreUnavailable, match="the file is not readable and writable"):
            new_store(path)._prepare()
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)


async def test_opening_waits_where_sqlite_does_not(tmp_path, monkeypatch):
    """F07: a change to the write-ahead log is refused at once while another writes; open asks again."""
    store = new_store(tmp_path / "store.db")
    once, refused = store._prepare_once, []
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as held:
        held.execute("BEGIN IMMEDIATE")

        def attempt() -> None:
            try:
                once()
            except sqlite3.OperationalError as error:
                refused.append(str(error))
                if held.in_transaction:
                    held.execute("ROLLBACK")
                raise

        monkeypatch.setattr(store, "_prepare_once", attempt)
        await store.open()
    assert refused[0] == "database is locked"
    assert await store.now()
    await store.close()


def test_file_that_is_damaged_is_found_at_open(tmp_path):
    """STORE-2, STORE-5: a file whose pages were overwritten does not open."""
    path = tmp_path / "store.db"
    new_store(path)._prepare()
    content = bytearray(path.read_bytes())
    content[8_192:12_288] = bytes(range(256)) * 16
    path.write_bytes(content)
    with pytest.raises(StoreDamaged, match="damaged"):
        new_store(path)._prepare()


def test_table_that_is_missing_is_found_at_open(tmp_path):
    """STORE-2: a schema that somebody cut is named, not mended."""
    path = tmp_path / "store.db"
    new_store(path)._prepare()
    with damaged(path) as raw:
        raw.execute("DROP TABLE log_entries")
    with pytest.raises(StoreDamaged, match="lacks the table log_entries"):
        new_store(path)._prepare()


async def test_table_that_vanishes_is_an_error_of_ours(store):
    """STORE-2: what the schema lacks comes out as StoreDamaged, without a word of SQL."""
    await store.write(lambda c: c.execute(text("DROP TABLE users")).rowcount)
    with pytest.raises(StoreDamaged) as raised:
        await store.directory.users(ISSUER)
    assert "users" not in str(raised.value).removeprefix(str(store._path))
    assert raised.value.__cause__ is None
    assert await store.directory.clients(ISSUER) == ()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sessions SET scope = 'orders:read'",
        "UPDATE sessions SET amr = '[1]'",
        "UPDATE sessions SET audience = x'00ff'",
    ],
)
async def test_row_that_cannot_be_read_is_damage(store, statement):
    """STORE-2: a value that this code cannot have written is StoreDamaged, not a guess."""
    rig = Rig(store, store.time._clock, SYSTEM_ENTROPY)
    session, _ = await rig.logged_in(*await rig.someone())
    await store.write(lambda c: c.execute(text(statement)).rowcount)
    with pytest.raises(StoreDamaged):
        await store.sessions.read(ISSUER, session.rid)


async def test_log_entry_that_cannot_be_read_is_damage(store):
    """STORE-2, V1: a kind that this code does not know is never skipped."""
    rig = Rig(store, store.time._clock, SYSTEM_ENTROPY)
    session, _ = await rig.logged_in(*await rig.someone())
    await store.sessions.end(ISSUER, session.rid, cause=EndCause.LOGOUT, timing=TIMING)
    await store.write(lambda c: c.execute(text("UPDATE log_entries SET kind = 'mood'")).rowcount)
    with pytest.raises(StoreDamaged, match="entry 1"):
        await store.revocations.read(ISSUER, None, limit=1)


@pytest.mark.parametrize(
    ("code", "error", "sentence"),
    [
        (sqlite3.SQLITE_BUSY, StoreUnavailable, "locked by another process"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreUnavailable, "locked by another process"),
        (sqlite3.SQLITE_IOERR_FSYNC, StoreUnavailable, "reading or writing the file failed"),
        (sqlite3.SQLITE_READONLY_DBMOVED, StoreUnavailable, "read-only"),
        (sqlite3.SQLITE_CANTOPEN, StoreUnavailable, "cannot be opened"),
        (sqlite3.SQLITE_FULL, StoreUnavailable, "the disk is full"),
        (sqlite3.SQLITE_CORRUPT_INDEX, StoreDamaged, "damaged"),
        (sqlite3.SQLITE_NOTADB, StoreDamaged, "not an SQLite database"),
        (sqlite3.SQLITE_INTERNAL, StoreUnavailable, "cannot be used"),
        (None, StoreUnavailable, "cannot be used"),
    ],
)
def test_each_code_of_sqlite_is_one_sentence(code, error, sentence):
    """STORE-2: locks, full disks and read errors are ours to retry; a broken file is damage."""
    raised = sqlite3.OperationalError("secret SELECT")
    if code is not None:
        raised.sqlite_errorcode = code
    translated = translate(raised, Path("/srv/store.db"))
    assert type(translated) is error
    assert sentence in str(translated)
    assert str(translated).startswith("/srv/store.db: ")
    assert "SELECT" not in str(translated)


# --- the file --------------------------------------------------------------------------------------


async def test_file_is_private_and_durable(store, tmp_path):
    """I7: mode 0600 for the file and those beside it, a synced write-ahead log, our mark in the header."""
    await store.write(beat("a"))
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == dict.fromkeys(["store.db", "store.db-wal", "store.db-shm"], 0o600)

    def pragmas(connection: Connection) -> list[object]:
        raw = driver(connection)
        names = ("journal_mode", "synchronous", "foreign_keys", "application_id", "query_only")
        return [raw.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert await store.write(pragmas) == ["wal", 2, 1, APPLICATION_ID, 0]
    assert await store.read(pragmas) == ["wal", 2, 1, APPLICATION_ID, 1]


def test_migrations_make_the_schema(tmp_path):
    """STORE-5: what the migrations build is what the code declares, with nothing over and nothing missing."""
    path = tmp_path / "store.db"
    new_store(path)._prepare()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
        assert context.get_current_revision() == REVISION
    engine.dispose()


def test_revisions_are_one_line_that_ends_here():
    """STORE-5: numbered without a branch, and the newest is the one that the code names."""
    scripts = ScriptDirectory(str(Path(__file__).parents[2] / "src/mintmark/adapters/sql/migrations"))
    revisions = [script.revision for script in scripts.walk_revisions()][::-1]
    assert scripts.get_heads() == [REVISION]
    assert revisions == [f"{number:04}" for number in range(1, len(revisions) + 1)]


def test_migrations_run_from_wherever_the_package_lies(tmp_path):
    """STORE-5: a copy of the package, as an installed one is, opens a store without any file beside it."""
    shutil.copytree(
        Path(mintmark.__file__).parent, tmp_path / "mintmark", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "elsewhere").mkdir()
    program = (
        "import asyncio, mintmark; from pathlib import Path;"
        "from mintmark.adapters.sql.sqlite import SqliteStore;"
        "SqliteStore(Path('store.db'), clock=None, entropy=None)._prepare();"
        "print(Path(mintmark.__file__).parent)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.stdout.strip()) == ("", str(tmp_path / "mintmark"))
    assert (tmp_path / "elsewhere" / "store.db").exists()


def test_newer_schema_is_used_only_where_it_allows_that(tmp_path):
    """I13, F37: once an upgrade was taken back this code goes on if the new schema suits it, or says why."""
    path = tmp_path / "store.db"
    new_store(path)._prepare()
    with damaged(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9998'")
        raw.execute("ALTER TABLE users ADD COLUMN nickname TEXT")
    new_store(path)._prepare()
    with damaged(path) as raw:
        raw.execute("UPDATE schema_compatibility SET usable_from = '9997'")
    with pytest.raises(StoreDamaged, match=r"newer Mintmark .* schema 9998.* schema 9997"):
        new_store(path)._prepare()


def test_database_that_does_not_say_its_schema(tmp_path):
    """STORE-2: a schema without its number is not guessed at."""
    path = tmp_path / "store.db"
    new_store(path)._prepare()
    with damaged(path) as raw:
        raw.execute("DELETE FROM alembic_version")
    with pytest.raises(StoreDamaged, match="does not say"):
        new_store(path)._prepare()


def test_url_names_a_file():
    """The setting is a path; a database in memory would be a store that forgets."""
    made = from_url("sqlite:////srv/mintmark.db", clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
    assert made._path == Path("/srv/mintmark.db")
    for url in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(ConfigurationError):
            from_url(url, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)


async def test_folder_with_odd_characters(tmp_path):
    """A path is a path: spaces, percent and question marks in it mean themselves."""
    folder = tmp_path / "a b%20c?mode=ro#d"
    folder.mkdir()
    store = new_store(folder / "store.db")
    await store.open()
    await store.write(beat("a"))
    await store.close()
    assert [file.name for file in folder.iterdir()] == ["store.db"]
