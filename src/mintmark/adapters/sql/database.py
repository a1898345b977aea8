"""The seam between the statements and a database: transactions, time, and the loser of an insert.

The statements are plain functions of a SQLAlchemy :class:`~sqlalchemy.Connection`. A database runs them:
SQLite in threads of its own, a server's through ``AsyncConnection.run_sync``. None begins or ends a
transaction, waits, or keeps the connection.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Connection, Table, bindparam
from sqlalchemy.dialects import postgresql, sqlite

from mintmark.errors import StoreDamaged
from mintmark.ports.clock import Clock, Entropy
from mintmark.units import NumericDate

T = TypeVar("T")


class Collision(StoreDamaged):
    """A row with this key exists already. Where that can happen it is caught, and is an outcome."""


class StoreTime(Protocol):
    """The store's one clock: the machine's under SQLite, the server's under a database server."""

    @property
    def expression(self) -> ColumnElement[int]:
        """The store's time as a part of a statement, evaluated when that runs."""
        ...

    def parameters(self) -> Mapping[str, int]:
        """What a statement with :attr:`expression` in it must be given, read now."""
        ...

    def read(self, connection: Connection) -> NumericDate:
        """The store's time as a transaction's first statement asks it: what was committed before, it sees."""
        ...


class ClockTime:
    """The time of a clock that all who use the store share: the machine's, for a file on it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.expression: ColumnElement[int] = bindparam("store_now", type_=BigInteger)

    def parameters(self) -> Mapping[str, int]:
        """The clock's time, read now."""
        return {"store_now": self._clock.now()}

    def read(self, connection: Connection) -> NumericDate:  # noqa: ARG002 - other databases ask it
        """The clock's time, read now."""
        return self._clock.now()


class Database(Protocol):
    """Runs statements; raises StoreUnavailable, StoreDamaged, or what they raise."""

    @property
    def time(self) -> StoreTime:
        """The store's clock."""
        ...

    @property
    def entropy(self) -> Entropy:
        """Where marks come from."""
        ...

    async def read(self, work: Callable[[Connection], T], *, single: bool = False) -> T:
        """The result of ``work``, which sees one consistent state and changes nothing.

        ``single`` promises that one statement is all that ``work`` needs a consistent state for.
        """
        ...

    async def write(self, work: Callable[[Connection], T], *, single: bool = False) -> T:
        """The result of ``work`` once it is committed, whole; nothing of it remains where it raises.

        ``single`` promises that ``work`` executes at most one statement, so that needs no more than the
        atomicity that every statement has.
        """
        ...


def insert_if_absent(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Insert ``row`` unless one with its key exists, without failing the transaction."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    connection.execute(insert(table).values(**row).on_conflict_do_nothing())


def is_storable(text: str) -> bool:
    """Whether any database can hold ``text``; what none can is in none.

    PostgreSQL has no NUL in text, and no text that is not UTF-8, as half of a surrogate pair is not.
    """
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def encode_list(values: tuple[str, ...]) -> str:
    """``values`` as JSON text."""
    return msgspec.json.encode(values).decode()


_LIST = msgspec.json.Decoder(tuple[str, ...])


def decode_list(text: str) -> tuple[str, ...]:
    """What :func:`encode_list` wrote; raises StoreDamaged for anything else."""
    try:
        return _LIST.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError):
        raise StoreDamaged("a list in the database is not JSON text") from None
