"""Which schema a database has, whether this code may use it, and how it is brought up to date."""

from enum import Enum

from sqlalchemy import Connection, inspect, select, text

from mintmark.adapters.sql.schema import METADATA, REVISION, schema_compatibility
from mintmark.errors import StoreDamaged


class SchemaState(Enum):
    """What :func:`examine` found."""

    EMPTY = "no table at all"
    OLDER = "a revision before ours"
    USABLE = "ours, or a newer one that this code can live with"


def examine(connection: Connection, name: str) -> SchemaState:
    """What is in the database called ``name``; changes nothing.

    Raises StoreDamaged where it belongs to something else, lacks a table, or was upgraded past what this
    code understands.
    """
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return SchemaState.EMPTY
    if "alembic_version" not in tables or schema_compatibility.name not in tables:
        raise StoreDamaged(f"{name}: this is a database, but not one of Mintmark: its tables are others")
    found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    usable_from = connection.scalar(select(schema_compatibility.c.usable_from))
    if found is None or usable_from is None:
        raise StoreDamaged(f"{name}: the database does not say which schema it has")
    if usable_from > REVISION:
        raise StoreDamaged(
            f"{name}: a newer Mintmark upgraded this database to schema {found}, which needs a version that "
            f"knows schema {usable_from}; this one knows up to {REVISION}"
        )
    if found < REVISION:
        return SchemaState.OLDER
    missing = sorted(METADATA.tables.keys() - tables)
    if missing:
        raise StoreDamaged(f"{name}: the database lacks the table {missing[0]}")
    return SchemaState.USABLE


def upgrade(connection: Connection) -> None:
    """Run every migration that is missing, inside the transaction that is open on ``connection``."""
    # Most databases are up to date, and a third of a second is much for a command that lists users.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    # The package's own files, from a wheel as from a work tree; there is no ini file.
    config.set_main_option("script_location", "mintmark.adapters.sql:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
