"""The backends that settings name, opened."""

import asyncio

import pytest

from mintmark.errors import ConfigurationError, StoreUnavailable
from mintmark.node.store import open_places, open_store
from mintmark.server.settings import read
from mintmark.testing.clock import FakeClock


async def test_places_are_opened_in_the_order_of_the_setting(tmp_path, monkeypatch):
    """Each item of ``publish`` is one place, whether it is there or not; without any there is none."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    missing = f"file://{tmp_path}/not-mounted"
    async with open_places(read({"publish": [missing, "s3://bucket/auth/"]}, {}).only) as places:
        assert [place.place for place in places] == [missing, "s3://bucket/auth"]
    async with open_places(read({}, {}).only) as places:
        assert places == ()


async def test_issuer_whose_documents_can_have_no_name_is_refused_where_it_publishes():
    """A path that no file can have is a mistake before the node starts, unless nothing is published."""
    issuer = "https://example.com/" + "a" * 300
    with pytest.raises(ConfigurationError, match="too long"):
        async with open_places(read({"issuer": issuer, "publish": ["s3://bucket"]}, {}).only):
            pass
    async with open_places(read({"issuer": issuer}, {}).only) as places:
        assert places == ()


async def test_store_that_is_busy_is_asked_again(tmp_path):
    """F07: of two attempts the second opens what came meanwhile; where there is one, the reason is raised."""
    clock = FakeClock()
    settings = read({"store": f"sqlite:///{tmp_path}/later/mintmark.db"}, {})
    with pytest.raises(StoreUnavailable, match="does not exist"):
        async with open_store(settings, clock=clock):
            pass

    async def opened() -> bool:
        async with open_store(settings, attempts=2, clock=clock) as store:
            return bool(await store.now())

    opening = asyncio.create_task(opened())
    await clock.armed(within=1)
    (tmp_path / "later").mkdir()
    clock.advance(1)
    assert await opening
