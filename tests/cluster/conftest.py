"""Which stores several nodes share, and that tests of minutes do not wait for each other."""

import os
from collections.abc import Sequence
from typing import TypeVar

import pytest

T = TypeVar("T")

MINUTES = 900
"""The timeout of a test that takes minutes: it mostly waits."""


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str | None:
    """The ``store`` of a cluster: an empty PostgreSQL database, or None for an SQLite file of its own."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("database")
    return url


def spread(first: Sequence[T], rest: Sequence[T], workers: int) -> list[T]:
    """``first`` and ``rest``, so that each of ``workers`` equal parts begins with its share of ``first``.

    pytest-xdist gives each process such a part, and a process that is done takes from the end of another's:
    what waits behind a long test at the beginning of a part is never taken.
    """
    ordered: list[T] = []
    left, taken = len(first) + len(rest), 0
    for number in range(workers):
        share = first[number::workers]
        size = left // (workers - number)
        left -= size
        more = max(0, size - len(share)) if number < workers - 1 else len(rest)
        ordered += [*share, *rest[taken : taken + more]]
        taken += more
    return ordered


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests of minutes, each in another process, and go on with the slow ones.

    So what runs when most processes have nothing left to do is short.
    """
    long = [item for item in items if _timeout(item) >= MINUTES]
    slow = [item for item in items if _timeout(item) < MINUTES and item.get_closest_marker("slow")]
    first = {item.nodeid for item in (*long, *slow)}
    rest = [item for item in items if item.nodeid not in first]
    items[:] = spread([*long, *slow], rest, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def _timeout(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker is not None and marker.args else 0.0
