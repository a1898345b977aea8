"""Everything that a store holds, as somebody reads it who stole it, and rows put back as they were."""

from dataclasses import asdict, fields, is_dataclass
from typing import Any

from sqlalchemy import Connection

from mintmark.adapters.memory import MemoryData, MemoryStore
from mintmark.adapters.sql.schema import METADATA
from mintmark.adapters.sql.schema import sessions as table
from mintmark.ports.store import Store
from mintmark.units import Rid

Dump = dict[str, list[dict[str, Any]]]
"""Each table's rows, in an order of their own."""


async def dump(store: Store) -> Dump:
    """Every column of every row, as it is stored."""
    if isinstance(store, MemoryStore):
        return {
            kept.name: _sorted(
                {"": key} | (asdict(value) if is_dataclass(value) else {"value": value})  # type: ignore[arg-type]
                for key, value in getattr(store.data, kept.name).items()
            )
            for kept in fields(MemoryData)
            if kept.name != "lock"
        }

    def read(connection: Connection) -> Dump:
        return {
            each.name: _sorted(dict(row) for row in connection.execute(each.select()).mappings())
            for each in METADATA.sorted_tables
        }

    sql: Any = store
    return dict(await sql.read(read))


async def put_back(store: Store, kept: Dump, rid: Rid) -> None:
    """Have the row of one session as it was when ``kept`` was read, as a backup that is restored would."""
    [row] = [row for row in kept["sessions"] if row["rid"] == rid]
    if isinstance(store, MemoryStore):
        now = store.data.sessions[row[""]]
        store.data.sessions[row[""]] = type(now)(**{name: row[name] for name in row if name})
        return

    def write(connection: Connection) -> None:
        connection.execute(table.update().where(table.c.rid == rid).values(**row))

    sql: Any = store
    await sql.write(write)


def _sorted(rows: Any) -> list[dict[str, Any]]:
    return sorted(rows, key=repr)
