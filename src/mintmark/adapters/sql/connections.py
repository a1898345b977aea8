"""A few connections to a database server, and the work that runs on them, each piece bounded in time.

A piece of work is a task of its own. Its caller waits for an answer, never for the task: when time is up the
answer is that the store is unavailable, and the connection is cut off. The driver then fails whatever waits
on it, so that the task ends by itself; nothing is cancelled in the middle of a statement, which would have
the driver ask the server for that over another connection, and wait.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Final, Generic, Protocol, TypeVar

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from mintmark.errors import MintmarkError, StoreUnavailable
from mintmark.ports.budget import charged, spent

T = TypeVar("T")

_FAREWELL: Final = 0.5
"""Seconds that a connection may take to end in the way that the server likes."""

FOREIGN: Final = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""What SQLAlchemy, the driver and the operating system raise; a time-out is an OSError too."""


class Raw(Protocol):
    """What is used of :class:`asyncpg.Connection`, which brings no types."""

    async def execute(self, query: str) -> str: ...
    async def close(self, *, timeout: float) -> None: ...  # noqa: ASYNC109 - the driver's
    def terminate(self) -> None: ...
    def is_closed(self) -> bool: ...
    def is_in_transaction(self) -> bool: ...


class _Operation(Generic[T]):
    """One piece of work under way: whom to answer, and what to cut off where that takes too long."""

    __slots__ = ("answer", "begun", "raw", "task")

    def __init__(self, answer: "asyncio.Future[T]") -> None:
        self.answer = answer
        self.begun = False
        self.raw: Raw | None = None
        self.task: asyncio.Task[None] | None = None

    def cut_off(self) -> None:
        """Let the task end now."""
        if self.raw is not None:
            self.raw.terminate()
        elif self.task is not None:
            # It waits for a place or for a connection to be made, and both can be given up.
            self.task.cancel()


_operation: ContextVar[_Operation[Any]] = ContextVar("operation")


class _Session:
    """A connection, as SQLAlchemy and as the driver know it."""

    __slots__ = ("connection", "raw")

    def __init__(self, connection: AsyncConnection, raw: Raw) -> None:
        self.connection = connection
        self.raw = raw


class Connections:
    """Runs work on up to ``size`` connections that ``connect`` makes, and keeps these for later.

    A caller is answered after ``patience`` seconds at the latest, whatever hangs, and earlier where its
    request has no more time left (:mod:`mintmark.ports.budget`).
    ``translate`` makes an error of ours of a foreign one. Between two pieces of work no transaction is
    open, and where one went wrong its connection is not used again unless the server said what was wrong.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Raw]],
        translate: Callable[[Exception], MintmarkError],
        *,
        name: str,
        size: int,
        patience: float,
    ) -> None:
        self._connect = connect
        self._translate = translate
        self._name = name
        self._patience = patience
        self._places = asyncio.Semaphore(size)
        self._idle: list[_Session] = []
        self._running: set[asyncio.Task[None]] = set()
        self._open = True
        self._engine: Final[AsyncEngine] = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._create,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
        )

    async def run(
        self,
        work: Callable[[Connection], T],
        *,
        begin: str | None = None,
        repeatable: bool = False,
        patience: float | None = None,
    ) -> T:
        """The result of ``work``, in a transaction that ``begin`` begins or, without one, in none.

        ``repeatable`` work may run again where its connection turns out to be dead. Raises what ``work``
        raises where that is ours, and otherwise what ``translate`` makes of it.
        """
        if not self._open:
            raise StoreUnavailable(f"{self._name}: the store is closed")
        patience = patience or self._patience
        with charged(patience) as allowed:
            operation: _Operation[T] = _Operation(asyncio.get_running_loop().create_future())
            operation.task = self._begin(self._answer(operation, work, begin, repeatable))
            try:
                async with asyncio.timeout(allowed):
                    return await operation.answer
            except TimeoutError:
                if allowed < patience:
                    # The request has no time left, its operation has. To cut that off would cost a server
                    # that is slow already a new connection, which is many round trips.
                    self._begin(self._watch(operation, patience - allowed))
                    raise spent() from None
                operation.cut_off()
                raise StoreUnavailable(f"{self._name}: the database did not answer in time") from None
            except asyncio.CancelledError:
                # The caller has gone, and with it who looks at the time.
                self._begin(self._watch(operation, patience))
                raise

    def _begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _watch(self, operation: _Operation[Any], patience: float) -> None:
        if operation.task is not None:
            _, late = await asyncio.wait({operation.task}, timeout=patience)
            if late:
                operation.cut_off()

    async def close(self) -> None:
        """Finish what is under way, and end the connections; may be called twice."""
        self._open = False
        while self._running:
            await asyncio.wait(self._running)
        idle, self._idle = self._idle, []
        await asyncio.gather(*(_end(session) for session in idle))

    # --- one piece of work ---------------------------------------------------------------------------

    async def _answer(
        self, operation: _Operation[T], work: Callable[[Connection], T], begin: str | None, repeatable: bool
    ) -> None:
        _operation.set(operation)
        try:
            async with self._places:
                result = await self._attempt(operation, work, begin, repeatable)
        except FOREIGN as error:
            _settle(operation.answer, self._translate(error))
        except Exception as error:  # noqa: BLE001 - an outcome, or a defect: its caller's to see
            _settle(operation.answer, error)
        else:
            if not operation.answer.done():
                operation.answer.set_result(result)

    async def _attempt(
        self, operation: _Operation[T], work: Callable[[Connection], T], begin: str | None, repeatable: bool
    ) -> T:
        if operation.answer.done():
            raise asyncio.CancelledError  # whoever asked has gone: then better not done at all
        session = await self._take()
        if session is not None:
            operation.raw = session.raw
            try:
                return await self._perform(operation, session, work, begin)
            except FOREIGN as error:
                # The server was restarted meanwhile, say. Where we cut it off ourselves nobody waits.
                died = session.raw.is_closed() or _is_fatal(error)
                if operation.answer.done() or not died or (operation.begun and not repeatable):
                    raise
        return await self._perform(operation, await self._new(operation), work, begin)

    async def _perform(
        self,
        operation: _Operation[T],
        session: _Session,
        work: Callable[[Connection], T],
        begin: str | None,
    ) -> T:
        """The result of ``work``; the connection is kept unless it broke."""
        sound = False
        try:
            if begin is not None:
                await session.raw.execute(begin)
            operation.begun = True
            result = await session.connection.run_sync(work)
            # Where the transaction had failed before, the server says so in place of an error.
            if begin is not None and await session.raw.execute("COMMIT") != "COMMIT":
                raise StoreUnavailable(f"{self._name}: a transaction was rolled back")
            sound = True
        except FOREIGN as error:
            if _is_fatal(error):
                # So may be all others, and each would cost a caller his answer.
                await self._drop_idle()
            else:
                sound = await _rolled_back(session.raw)
            raise
        except Exception:
            sound = await _rolled_back(session.raw)
            raise
        finally:
            # From here on it is not this operation's to cut off.
            operation.raw = None
            if sound and not session.raw.is_closed():
                self._idle.append(session)
            else:
                session.raw.terminate()
                await _forget(session)
        return result

    # --- connections ---------------------------------------------------------------------------------

    async def _take(self) -> _Session | None:
        while self._idle:
            session = self._idle.pop()
            if not session.raw.is_closed():
                return session
            await _forget(session)
        return None

    async def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for session in idle:
            session.raw.terminate()
            await _forget(session)

    async def _new(self, operation: _Operation[T]) -> _Session:
        connection = self._engine.connect()
        try:
            await connection.start()
        except FOREIGN:
            raise
        except Exception as error:
            # What speaks another protocol than PostgreSQL's can have the driver raise anything.
            raise OSError from error
        finally:
            raw = operation.raw
            if raw is not None and connection.sync_connection is None:
                raw.terminate()
        if raw is None:
            raise StoreUnavailable(f"{self._name}: there is no connection")
        return _Session(connection, raw)

    async def _create(self) -> Raw:
        operation = _operation.get()
        operation.raw = raw = await self._connect()
        if operation.answer.done():
            raw.terminate()
        return raw


async def _rolled_back(raw: Raw) -> bool:
    """Whether the connection is outside any transaction now, so that it can be used again."""
    try:
        if raw.is_in_transaction():
            await raw.execute("ROLLBACK")
    except FOREIGN:
        return False
    return not raw.is_in_transaction()


async def _end(session: _Session) -> None:
    try:
        await session.raw.close(timeout=_FAREWELL)
    except FOREIGN:
        session.raw.terminate()
    await _forget(session)


async def _forget(session: _Session) -> None:
    """Have SQLAlchemy know that the connection has ended."""
    try:
        await session.connection.invalidate()
        await session.connection.close()
    except FOREIGN:
        return  # it has ended either way


def _is_fatal(error: Exception) -> bool:
    """Whether the server said that the connection is good for nothing more.

    It may not be seen to have ended yet; and one that was made while the database was set to be read-only
    stays so.
    """
    cause = error.orig if isinstance(error, DBAPIError) else error
    said = cause if isinstance(cause, asyncpg.PostgresError) else getattr(cause, "__cause__", None)
    return getattr(said, "severity_en", None) in {"FATAL", "PANIC"} or (
        isinstance(said, asyncpg.ReadOnlySQLTransactionError)
    )


def _settle(answer: "asyncio.Future[Any]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
