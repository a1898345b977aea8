"""PostgreSQL servers for tests, and empty databases on them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mintmark.cli.demonstration.postgresql import PostgresqlMissing, PostgresqlServer


@contextmanager
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A server that whoever asked may stop, pause or slow.

    Without the programs of PostgreSQL the test fails in CI and is skipped elsewhere.
    """
    try:
        server = PostgresqlServer()
    except PostgresqlMissing as missing:
        pytest.fail(str(missing)) if os.environ.get("CI") == "true" else pytest.skip(str(missing))
    with server:
        yield server


@contextmanager
def empty_database(server: PostgresqlServer) -> Iterator[str]:
    """The URL of an empty database, removed afterwards whoever is connected to it."""
    name = f"t{os.urandom(8).hex()}"
    try:
        yield server.create_database(name)
    finally:
        server.drop_database(name)
