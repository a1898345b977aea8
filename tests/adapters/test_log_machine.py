"""The revocation log under writers that commit late, readers that pause, pruning and restores (V1, V3).

One machine drives any log. Its writers open transactions and commit them when the machine likes, its
readers keep snapshots open and fall behind, time passes, the log is pruned, and the whole store goes back
to a backup.
Whatever happens, a reader that then reads to the end denies exactly what the log's history denies.

Two logs with a planted mistake show that the machine would notice.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection

from mintmark.adapters.memory import MemoryData, MemoryStore
from mintmark.adapters.sql.log import LogRows
from mintmark.adapters.sql.sqlite import SqliteStore
from mintmark.adapters.sql.threads import driver
from mintmark.core.denylist import Denylist
from mintmark.core.keyring import Ring
from mintmark.core.log import Cursor, LogEntry, LogPage
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.ports.revocations import CursorGone
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.rig import ISSUER
from mintmark.units import Kid, NumericDate, Rid

WRITERS = (0, 1, 2)
SPANS = st.lists(st.integers(1, 60), min_size=1, max_size=3)
READERS = (0, 1, 2)
Events = tuple[RevocationEvent, ...]


class CountingEntropy:
    """Bytes that differ from call to call and are the same in each run; ``constant`` plants a mistake."""

    def __init__(self, *, constant: bool = False) -> None:
        self._constant = constant
        self._drawn = 0

    def token_bytes(self, n: int) -> bytes:
        self._drawn += not self._constant
        return self._drawn.to_bytes(n)


class Log(Protocol):
    """What the machine drives."""

    def begin(self, writer: int, events: Events) -> bool:
        """Open a transaction that appends; False where another's keeps it out."""

    def commit(self, writer: int) -> None: ...

    def roll_back(self, writer: int) -> None: ...

    def open_snapshot(self, reader: int) -> None:
        """The next read of ``reader`` sees this moment."""

    def read(self, reader: int, after: Cursor | None, limit: int) -> LogPage | CursorGone: ...

    def prune(self) -> None: ...

    def back_up(self) -> Any: ...

    def restore(self, backup: Any) -> None:
        """Go back; whatever was open is gone."""

    def close(self) -> None: ...


class SqliteLog:
    """The real statements on real connections, one for each writer and each reader."""

    def __init__(self, template: Path) -> None:
        self._clock = FakeClock()
        self._folder = Path(tempfile.mkdtemp(prefix="mintmark-log-"))
        self._path = self._folder / "store.db"
        shutil.copy(template, self._path)
        self._entropy = CountingEntropy()
        self._connections: dict[str, Connection] = {}
        self._start()
        self._rows.begin(self._writer(0), ISSUER)

    @property
    def clock(self) -> FakeClock:
        return self._clock

    def _start(self) -> None:
        store = SqliteStore(self._path, clock=self._clock, entropy=self._entropy)
        self._rows = LogRows(store)
        for name in [f"w{n}" for n in WRITERS] + [f"r{n}" for n in READERS]:
            connection = store._connect(name.startswith("w"))
            # No power fails here, and a lock is there or not: nothing is worth waiting for.
            driver(connection).execute("PRAGMA synchronous = OFF")
            driver(connection).execute("PRAGMA busy_timeout = 0")
            self._connections[name] = connection

    def _writer(self, writer: int) -> Connection:
        return self._connections[f"w{writer}"]

    def begin(self, writer: int, events: Events) -> bool:
        connection = self._writer(writer)
        try:
            driver(connection).execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        self._rows.append(connection, ISSUER, [(e, "test") for e in events], at=self._clock.now())
        return True

    def commit(self, writer: int) -> None:
        driver(self._writer(writer)).execute("COMMIT")

    def roll_back(self, writer: int) -> None:
        driver(self._writer(writer)).execute("ROLLBACK")

    def open_snapshot(self, reader: int) -> None:
        raw = driver(self._connections[f"r{reader}"])
        if not raw.in_transaction:
            raw.execute("BEGIN")
            raw.execute("SELECT seq FROM log_heads").fetchall()

    def read(self, reader: int, after: Cursor | None, limit: int) -> LogPage | CursorGone:
        connection = self._connections[f"r{reader}"]
        raw = driver(connection)
        if not raw.in_transaction:
            raw.execute("BEGIN")
        page = self._rows.page(connection, ISSUER, after, limit)
        raw.execute("COMMIT")
        assert page is not None
        return page

    def prune(self) -> None:
        for writer in WRITERS:
            raw = driver(self._writer(writer))
            if not raw.in_transaction:
                with suppress(sqlite3.OperationalError):
                    raw.execute("BEGIN IMMEDIATE")
                    self._rows.prune(self._writer(writer), ISSUER)
                    raw.execute("COMMIT")
                return

    def back_up(self) -> Path:
        copy = Path(tempfile.mktemp(dir=self._folder, suffix=".backup"))
        # Not through a reader's connection, whose open snapshot would be what is copied.
        with closing(sqlite3.connect(self._path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        return copy

    def restore(self, backup: Path) -> None:
        self._disconnect()
        for file in self._folder.glob("store.db*"):
            file.unlink()
        shutil.copy(backup, self._path)
        self._start()

    def _disconnect(self) -> None:
        for connection in self._connections.values():
            driver(connection).close()
            connection.invalidate()
            connection.close()
        self._connections.clear()

    def close(self) -> None:
        self._disconnect()
        shutil.rmtree(self._folder)


def run(coroutine: Any) -> Any:
    """The result of a coroutine that never has to wait."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as done:
            return done.value


class MemoryLog:
    """The store in memory through its ports: a transaction there is one moment, that of its commit."""

    def __init__(self, *, constant_marks: bool = False) -> None:
        self._clock = FakeClock()
        entropy = CountingEntropy(constant=constant_marks)
        self._store = MemoryStore(clock=self._clock, entropy=entropy)
        run(self._store.open())
        self._begun: dict[int, Events] = {}
        self._snapshots: dict[int, MemoryData] = {}

    @property
    def clock(self) -> FakeClock:
        return self._clock

    def begin(self, writer: int, events: Events) -> bool:
        self._begun[writer] = events
        return True

    def commit(self, writer: int) -> None:
        generation = run(self._store.keyring.read(ISSUER)).ring.generation
        events = tuple((event, "test") for event in self._begun.pop(writer))
        after = Ring(issuer=ISSUER, generation=generation + 1)
        assert run(self._store.keyring.swap(generation, after, events=events))

    def roll_back(self, writer: int) -> None:
        del self._begun[writer]

    def open_snapshot(self, reader: int) -> None:
        pass

    def read(self, reader: int, after: Cursor | None, limit: int) -> LogPage | CursorGone:
        page: LogPage | CursorGone = run(self._store.revocations.read(ISSUER, after, limit=limit))
        return page

    def prune(self) -> None:
        run(self._store.revocations.prune(ISSUER))

    def back_up(self) -> MemoryData:
        return self._store.data.backup()

    def restore(self, backup: MemoryData) -> None:
        self._begun.clear()
        self._store.data.restore(backup)

    def close(self) -> None:
        run(self._store.close())


class NaiveLog:
    """A planted mistake: numbers are handed out before the commit, as a database's sequence does it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self._next = 0
        self._begun: dict[int, list[LogEntry]] = {}
        self._visible: list[LogEntry] = []

    def begin(self, writer: int, events: Events) -> bool:
        self._begun[writer] = []
        for event in events:
            self._next += 1
            cursor = Cursor(self._next, self._next.to_bytes(8))
            self._begun[writer].append(LogEntry(cursor, event, "test", self.clock.now()))
        return True

    def commit(self, writer: int) -> None:
        self._visible = sorted((*self._visible, *self._begun.pop(writer)), key=lambda entry: entry.cursor.seq)

    def roll_back(self, writer: int) -> None:
        del self._begun[writer]

    def open_snapshot(self, reader: int) -> None:
        pass

    def read(self, reader: int, after: Cursor | None, limit: int) -> LogPage | CursorGone:
        now = self.clock.now()
        seq = after.seq if after else 0
        behind = [e for e in self._visible if e.cursor.seq > seq and e.event.expires_at > now]
        page = tuple(behind[:limit])
        start = after or Cursor(0, bytes(8))
        return LogPage(page, page[-1].cursor if page else start, len(behind) <= limit, now)

    def prune(self) -> None:
        pass

    def back_up(self) -> None:
        return None

    def restore(self, backup: None) -> None:
        # What is planted is found without going back.
        pass

    def close(self) -> None:
        pass


@dataclass
class Reader:
    """A follower: its cursor, what it applied since it last took a snapshot, and the denylist of it."""

    cursor: Cursor | None = None
    applied: dict[str, NumericDate] = field(default_factory=dict)
    complete: bool = False
    make: Callable[[], Any] = Denylist
    denylist: Any = field(init=False)

    def __post_init__(self) -> None:
        self.denylist = self.make()

    def take(self, page: LogPage | CursorGone) -> None:
        if isinstance(page, CursorGone):
            self.cursor, self.applied, self.denylist = None, {}, self.make()
            self.complete = False
            return
        last = self.cursor.seq if self.cursor else 0
        for entry in page.entries:
            assert entry.cursor.seq > last, "entries come in order"
            assert entry.event.value not in self.applied, "each entry comes once"
            last = entry.cursor.seq
            self.applied[entry.event.value] = entry.event.expires_at
            self.denylist.apply(entry.event)
        assert page.cursor.seq >= last
        self.cursor, self.complete = page.cursor, page.complete


class LogMachine(RuleBasedStateMachine):
    """Any log; a subclass says which."""

    goes_back = True
    denylist: Callable[[], Any] = Denylist

    def make(self) -> Any:
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.log = self.make()
        self.readers = {name: Reader(make=type(self).denylist) for name in READERS}
        self.open: dict[int, Events] = {}
        self.committed: list[RevocationEvent] = []
        self.backups: list[tuple[Any, list[RevocationEvent]]] = []
        self.named = 0

    @property
    def now(self) -> NumericDate:
        now: NumericDate = self.log.clock.now()
        return now

    @rule(writer=st.sampled_from(WRITERS), spans=SPANS)
    def append(self, writer: int, spans: list[int]) -> None:
        """Most writers are quick."""
        if writer not in self.open:
            self.begin(writer, spans)
            if writer in self.open:
                self.finish(sorted(self.open).index(writer), rolls_back=False)

    @rule(writer=st.sampled_from(WRITERS), spans=SPANS)
    def begin(self, writer: int, spans: list[int]) -> None:
        if writer in self.open:
            return
        events = []
        for span in spans:
            self.named += 1
            until = NumericDate(self.now + span)
            events.append(RevocationEvent(kind=Kind.RID, value=f"rid-{self.named}", expires_at=until))
        if self.log.begin(writer, tuple(events)):
            self.open[writer] = tuple(events)

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 2), rolls_back=st.booleans())
    def finish(self, pick: int, rolls_back: bool) -> None:
        writer = sorted(self.open)[pick % len(self.open)]
        events = self.open.pop(writer)
        if rolls_back:
            self.log.roll_back(writer)
        else:
            self.log.commit(writer)
            self.committed += events

    @rule(reader=st.sampled_from(READERS))
    def open_snapshot(self, reader: int) -> None:
        self.log.open_snapshot(reader)

    @rule(reader=st.sampled_from(READERS), limit=st.integers(1, 4))
    def read(self, reader: int, limit: int) -> None:
        follower = self.readers[reader]
        follower.take(self.log.read(reader, follower.cursor, limit))

    @rule(reader=st.sampled_from(READERS))
    def catch_up(self, reader: int) -> None:
        """Most readers are up to date."""
        follower = self.readers[reader]
        # The first read may belong to a snapshot that is still open.
        follower.take(self.log.read(reader, follower.cursor, 2))
        follower.complete = False
        while not follower.complete:
            follower.take(self.log.read(reader, follower.cursor, 2))

    @rule(span=st.integers(1, 40))
    def wait(self, span: int) -> None:
        self.log.clock.advance(span)

    @rule()
    def prune(self) -> None:
        self.log.prune()

    @precondition(lambda self: self.goes_back and len(self.backups) < 3)
    @rule()
    def back_up(self) -> None:
        self.backups.append((self.log.back_up(), list(self.committed)))

    @precondition(lambda self: self.backups)
    @rule(pick=st.integers(0, 2))
    def restore(self, pick: int) -> None:
        backup, committed = self.backups[pick % len(self.backups)]
        self.log.restore(backup)
        self.open.clear()
        self.committed = list(committed)

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        try:
            for writer in tuple(self.open):
                self.log.roll_back(writer)
            truth = {e.value: e.expires_at for e in self.committed if e.expires_at > self.now}
            for name, reader in self.readers.items():
                self.catch_up(name)
                known = {value: until for value, until in reader.applied.items() if until > self.now}
                assert known == truth, f"reader {name} ended with another idea of what is revoked"
                for value in truth:
                    denied = reader.denylist.covers(Rid(value), None, Kid("kid"), None, self.now)
                    assert denied is Kind.RID
        finally:
            self.log.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A file with an empty schema, to copy."""
    path: Path = tmp_path_factory.mktemp("template") / "store.db"
    store = SqliteStore(path, clock=FakeClock(), entropy=CountingEntropy())
    store._prepare()
    return path


PLANTED = settings(
    max_examples=2_000,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    print_blob=False,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_every_reader_of_the_file_ends_with_the_truth(template):
    """LOG-1, V1, V3, F24: on SQLite no order of commits, reads, pruning and restores loses a revocation."""

    class SqliteMachine(LogMachine):
        def make(self) -> SqliteLog:
            return SqliteLog(template)

    run_state_machine_as_test(SqliteMachine, settings=settings(stateful_step_count=40))


def test_every_reader_of_the_memory_ends_with_the_truth():
    """LOG-1, V1, V3: the same of the store in memory."""

    class MemoryMachine(LogMachine):
        def make(self) -> MemoryLog:
            return MemoryLog()

    run_state_machine_as_test(MemoryMachine, settings=settings(stateful_step_count=40))


def test_machine_finds_numbers_given_before_the_commit():
    """V1: a log whose readers skip whoever commits late does not pass."""

    class NaiveMachine(LogMachine):
        goes_back = False

        def make(self) -> NaiveLog:
            return NaiveLog()

    with pytest.raises(AssertionError, match="another idea"):
        run_state_machine_as_test(NaiveMachine, settings=PLANTED)


def test_machine_finds_cursors_that_do_not_tell_histories_apart():
    """LOG-3, F38: a log whose marks are all the same, so that a restore goes unnoticed, does not pass."""

    class UnmarkedMachine(LogMachine):
        def make(self) -> MemoryLog:
            return MemoryLog(constant_marks=True)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(UnmarkedMachine, settings=PLANTED)


class OrderedDenylist:
    """A denylist planted wrong: what would expire before what came last is taken for old news."""

    def __init__(self) -> None:
        self._denylist = Denylist()
        self._latest = NumericDate(0)

    def apply(self, event: RevocationEvent) -> None:
        if event.expires_at >= self._latest:
            self._latest = event.expires_at
            self._denylist.apply(event)

    def covers(self, *token: Any) -> Kind | None:
        return self._denylist.covers(*token)


def test_machine_finds_a_denylist_in_which_the_order_decides():
    """V3: a reader whose denylist depends on the order of events does not pass."""

    class OrderedMachine(LogMachine):
        denylist = OrderedDenylist

        def make(self) -> MemoryLog:
            return MemoryLog()

    with pytest.raises(AssertionError):
        run_state_machine_as_test(OrderedMachine, settings=PLANTED)
