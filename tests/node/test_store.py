"""The backends that settings name, opened."""

import pytest

from mintmark.errors import ConfigurationError
from mintmark.node.store import open_places
from mintmark.server.settings import read


async def test_places_are_opened_in_the_order_of_the_setting(tmp_path, monkeypatch):
    """Each item of ``publish`` is one place, whether it is there or not; without any there is none."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    missing = f"file://{tmp_path}/not-mounted"
    async with open_places(read({"publish": [missing, "s3://bucket/auth/"]}, {})) as places:
        assert [place.place for place in places] == [missing, "s3://bucket/auth"]
    async with open_places(read({}, {})) as places:
        assert places == ()


async def test_issuer_whose_documents_can_have_no_name_is_refused_where_it_publishes():
    """A path that no file can have is a mistake before the node starts, unless nothing is published."""
    issuer = "https://example.com/" + "a" * 300
    with pytest.raises(ConfigurationError, match="too long"):
        async with open_places(read({"issuer": issuer, "publish": ["s3://bucket"]}, {})):
            pass
    async with open_places(read({"issuer": issuer}, {})) as places:
        assert places == ()
