"""Which stores several nodes share."""

import pytest


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str | None:
    """The ``store`` of a cluster: an empty PostgreSQL database, or None for an SQLite file of its own."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("database")
    return url
