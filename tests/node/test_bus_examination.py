"""What doctor says of a bus that has a server of its own."""

import sys

import pytest
from tests.bus_servers import PASSWORD

from mintmark.cli.demonstration.loopback import free_ports
from mintmark.node.examination import bus as examination
from mintmark.node.examination.bus import look_at_bus
from mintmark.server.settings import read
from mintmark.system import SYSTEM_CLOCK

PATIENT = 100.0
"""Real seconds for a server; a test that passes does not wait for them."""


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine is no finding."""
    monkeypatch.setattr(examination, "PATIENCE", PATIENT)


@pytest.fixture(params=["redis", "nats"])
def server(request):
    return request.getfixturevalue(f"{request.param}_server")


async def look(bus):
    (found,) = await look_at_bus(read({"bus": bus}, {}), clock=SYSTEM_CLOCK)
    assert found.check == "bus.reach"
    return found


async def test_bus_that_works_is_ok(server):
    """It is tried as a node does: log in, listen, announce."""
    found = await look(server.url("doctor"))
    assert (found.verdict, found.fix) == ("ok", None)
    assert found.subject == f"{server.scheme} 127.0.0.1:{server.port}, mintmark.doctor"


async def test_bus_that_is_away_is_a_warning_with_its_place_and_a_fix(server):
    """A node works without it, a second later; the place is named, and what to do."""
    (port,) = free_ports(1)
    found = await look(server.url(port=port))
    assert found.verdict == "warning"
    assert "nothing listens there" in found.found
    assert f"127.0.0.1:{port}" in found.subject
    assert found.fix is not None


async def test_refused_password_is_told_and_not_shown(server):
    """No part of it is in what doctor says."""
    for url in (
        server.url().replace("mintmark:", "nobody:"),
        f"{server.scheme}://:ge-heim@127.0.0.1:{server.port}",
    ):
        found = await look(url)
        assert found.verdict == "warning"
        assert "refused the user" in found.found
        for secret in (PASSWORD, "geheim", "ge-heim"):
            assert secret not in repr(found)


async def test_bus_of_the_store_needs_no_look():
    """With `none` there is nothing beside the store."""
    assert (await look("none")).found == "the store brings it"


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("redis://u:geheim@db", "redis", "redis"),
        ("rediss://u:geheim@db", "redis", "redis"),
        ("nats://u:geheim@db", "nats", "nats"),
        ("tls://u:geheim@db", "nats", "nats"),
    ],
)
async def test_missing_extra_is_named(monkeypatch, url, module, extra):
    """A bus whose package is not there is a failure that says what to install."""
    for name in list(sys.modules):
        if name.partition(".")[0] == module or name == f"mintmark.adapters.{module}_bus":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    found = await look(url)
    assert found.verdict == "failed"
    assert f"pip install 'mintmark[{extra}]'" in found.found
    assert "geheim" not in repr(found)
