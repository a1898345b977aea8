"""The threads that run statements on an SQLite file: one that writes, a few that read, one that watches.

A transaction lives within one turn of a thread and never spans turns of an event loop, so no pause of a
coroutine can hold the write lock. The writing thread takes everything that is queued, runs each piece in a
savepoint of one transaction and commits them together: callers that come at once share one sync of the disk,
and none is answered before it. The watching thread answers callers whose work did not come back in time,
whatever it hangs in.
"""

import asyncio
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, cast

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from mintmark.errors import MintmarkError, StoreUnavailable
from mintmark.ports.budget import charged, spent

T = TypeVar("T")

TICK: Final = 0.25
"""Seconds between two looks of the watching thread."""
PATIENCE: Final = 7
"""Ticks after which work is given up: within two seconds of the call, and after the lock time-out."""
_LONGEST: Final = TICK * PATIENCE

LOCK_SLICE: Final = 4
"""Milliseconds for which SQLite waits for the write lock in one go. Its waits grow up to 100 ms, which
starves a process among busy ones; begun anew, they stay near one millisecond."""
LOCK_SLICES: Final = 300
"""Slices after which another process's lock is an outage."""

_WRITES_AT_ONCE: Final = 256
_READS_AT_ONCE: Final = 16
"""Reads that share one snapshot; more are left to the other threads."""


class Errors(Protocol):
    """Turns what a database raises into what callers may see."""

    def __call__(self, error: Exception) -> MintmarkError:
        """The error of ours that says what ``error`` means."""
        ...


@dataclass(slots=True, eq=False)
class _Task:
    """A piece of work, and whom to tell. A caller that went away has a future that is done."""

    work: Callable[[Connection], Any]
    single: bool
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"
    tick: int


@dataclass(slots=True)
class _Failed:
    """In place of a result: what to raise."""

    error: BaseException


class Threads:
    """Runs work on connections that ``connect`` gives; each thread has its own and opens it again when
    it broke. Start once, stop once."""

    def __init__(
        self,
        connect: Callable[[bool], Connection],
        errors: Errors,
        *,
        identity: Callable[[], object],
        readers: int,
        name: str,
    ) -> None:
        """``identity`` tells which file a new connection would open; raises OSError where there is none."""
        self._connect = connect
        self._errors = errors
        self._identity = identity
        self.name: Final = name
        self._writes: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._watched: deque[_Task] = deque()
        self._tick = 0
        self._gate = threading.Lock()
        self._open = True
        self._closed = threading.Event()
        self._workers = [self._thread("writer", _Worker(self, self._writes, writes=True).run)]
        self._workers += [
            self._thread(f"reader-{number}", _Worker(self, self._reads, writes=False).run)
            for number in range(readers)
        ]
        self._watcher = self._thread("watcher", self._watch)
        for thread in (*self._workers, self._watcher):
            thread.start()

    @staticmethod
    def _thread(role: str, run: Callable[[], None]) -> threading.Thread:
        # A daemon: a process that ends without close() must not wait for a disk that hangs.
        return threading.Thread(target=run, name=f"mintmark-store-{role}", daemon=True)

    async def write(self, work: Callable[[Connection], T], *, single: bool) -> T:
        """The result of ``work``, after the commit that holds it."""
        return cast("T", await self._submit(self._writes, work, single))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """The result of ``work`` on a snapshot taken after this call."""
        return cast("T", await self._submit(self._reads, work, single=True))

    async def _submit(
        self, tasks: "queue.SimpleQueue[_Task | None]", work: Callable[[Connection], Any], single: bool
    ) -> Any:
        loop = asyncio.get_running_loop()
        with charged(_LONGEST) as allowed:
            task = _Task(work, single, loop, loop.create_future(), self._tick)
            with self._gate:
                if not self._open:
                    raise StoreUnavailable(f"{self.name}: the store is closed")
                tasks.put(task)
            self._watched.append(task)
            try:
                # Only a request that spent time before needs a timer; the others are watched.
                async with asyncio.timeout(allowed if allowed < _LONGEST else None):
                    return await task.future
            except TimeoutError:
                raise spent() from None

    def _watch(self) -> None:
        slow = f"{self.name}: the database did not answer in time; it is busy, or its disk hangs"
        while not self._closed.wait(TICK):
            self._tick += 1
            late = []
            while self._watched:
                task = self._watched[0]
                if not task.future.done():
                    if task.tick + PATIENCE > self._tick:
                        break
                    late.append((task, _Failed(StoreUnavailable(slow))))
                self._watched.popleft()
            deliver(late)

    async def stop(self) -> None:
        """Finish what is queued, then end the threads and their connections."""
        with self._gate:
            if self._open:
                self._open = False
                self._writes.put(None)
                for _ in self._workers[1:]:
                    self._reads.put(None)
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for thread in self._workers:
            thread.join()
        self._closed.set()
        self._watcher.join()


class _Worker:
    """One thread, its queue and its connection."""

    def __init__(self, threads: Threads, tasks: "queue.SimpleQueue[_Task | None]", *, writes: bool) -> None:
        self._threads = threads
        self._tasks = tasks
        self._writes = writes
        self._begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
        self._most = _WRITES_AT_ONCE if writes else _READS_AT_ONCE
        self._connection: Connection | None = None
        self._identity: object = None

    def run(self) -> None:
        """Work until the queue says that it is the end."""
        while (tasks := self._take()) is not None:
            # Callers that were cancelled or given up meanwhile are not run at all.
            if tasks := [task for task in tasks if not task.future.done()]:
                deliver(self._transact(tasks))
        self._drop()

    def _take(self) -> list[_Task] | None:
        task = self._tasks.get()
        taken: list[_Task] = []
        while task is not None:
            taken.append(task)
            if len(taken) == self._most:
                return taken
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                return taken
        if not taken:
            return None
        self._tasks.put(None)  # the end comes after these
        return taken

    def _transact(self, tasks: Sequence[_Task]) -> list[tuple[_Task, Any]]:
        """Run ``tasks`` in one transaction; each with its result or error, once that is committed."""
        try:
            connection = self._connect()
            raw = driver(connection)
            self._enter(raw)
            outcomes = []
            for task in tasks:
                if task.future.done():
                    continue  # told meanwhile that it is unavailable: then better not done at all
                outcomes.append((task, self._attempt(connection, raw, task)))
                if not raw.in_transaction:
                    # A full disk and the like may roll back the whole transaction, not only the statement.
                    lost = StoreUnavailable(f"{self._threads.name}: a transaction was rolled back")
                    return [*self._failed([t for t in tasks if t is not task], lost), outcomes[-1]]
            if self._writes and self._threads._identity() != self._identity:  # noqa: SLF001
                moved = StoreUnavailable(f"{self._threads.name}: the file was replaced")
                return self._failed(tasks, moved)
            raw.execute("COMMIT")
        except (sqlite3.Error, SQLAlchemyError, OSError) as error:
            return self._failed(tasks, self._threads._errors(error))  # noqa: SLF001
        except MintmarkError as error:
            return self._failed(tasks, error)
        return outcomes

    def _connect(self) -> Connection:
        """The connection to the file that is there now.

        One that was opened before the file was removed, or replaced by a backup, would go on answering
        from what nobody else can see, and what it commits would be gone.
        """
        identity = self._threads._identity()  # noqa: SLF001 - one unit
        if self._connection is None or identity != self._identity:
            self._drop()
            self._connection = self._threads._connect(self._writes)  # noqa: SLF001
            self._identity = identity
        return self._connection

    def _enter(self, raw: sqlite3.Connection) -> None:
        for left in range(LOCK_SLICES if self._writes else 1, 0, -1):
            try:
                raw.execute(self._begin)
            except sqlite3.OperationalError as error:
                # The low byte: it is BUSY_RECOVERY while somebody mends the log of a process that died.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or left == 1:
                    raise
            else:
                return

    def _attempt(self, connection: Connection, raw: sqlite3.Connection, task: _Task) -> Any:
        """The result of one task, or what it raised; then nothing of what it wrote is left."""
        guarded = self._writes and not task.single
        if guarded:
            raw.execute("SAVEPOINT task")
        try:
            result = task.work(connection)
        except (sqlite3.Error, SQLAlchemyError) as error:
            result = _Failed(self._threads._errors(error))  # noqa: SLF001
        except Exception as error:  # noqa: BLE001 - an outcome, or a defect: its caller's to see
            result = _Failed(error)
        if guarded and raw.in_transaction:
            if isinstance(result, _Failed):
                raw.execute("ROLLBACK TO task")
            raw.execute("RELEASE task")
        return result

    def _failed(self, tasks: Iterable[_Task], error: BaseException) -> list[tuple[_Task, Any]]:
        # After an error of the file itself a new connection sees what is there now.
        self._drop()
        # Each caller raises one of its own: an exception collects the traceback of who raises it.
        return [(task, _Failed(copy(error))) for task in tasks]

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            # Closing rolls back what was not committed.
            driver(connection).close()
            connection.invalidate()
            connection.close()
        except (sqlite3.Error, SQLAlchemyError):
            return  # it is gone either way


def driver(connection: Connection) -> sqlite3.Connection:
    """The sqlite3 connection below ``connection``."""
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)


def deliver(outcomes: Iterable[tuple[_Task, Any]]) -> None:
    """Tell each caller in its own event loop; one wake-up a loop, however many callers."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Task, Any]]] = {}
    for outcome in outcomes:
        by_loop.setdefault(outcome[0].loop, []).append(outcome)
    for loop, told in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, told)
        except RuntimeError:
            continue  # the loop is closed, and with it everybody who waited


def _settle(outcomes: list[tuple[_Task, Any]]) -> None:
    for task, outcome in outcomes:
        if task.future.done():
            continue
        if isinstance(outcome, _Failed):
            task.future.set_exception(outcome.error)
        else:
            task.future.set_result(outcome)
