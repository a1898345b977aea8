"""Where a node listens for others, and what it tells them."""

import socket

import pytest

from mintmark.cli.demonstration.loopback import free_ports
from mintmark.errors import ConfigurationError
from mintmark.node.listener import listen_for_nodes
from mintmark.server.setting import Address
from mintmark.server.settings import Settings, read


def settings(**values: object) -> Settings:
    return read(values, {})


def place_of(**values: object) -> tuple[str, int]:
    found = listen_for_nodes(settings(**values))
    assert found is not None
    sock, told = found
    with sock:
        assert told.port == sock.getsockname()[1]
        return told.host, told.port


@pytest.mark.parametrize(
    "store",
    [
        "sqlite:///x.db",
        "postgresql://mint@127.0.0.1:5432/mint",
        "postgresql:///mint?host=/var/run/postgresql",
        "postgresql://mint@nowhere.invalid/mint",
    ],
)
def test_store_on_this_machine_is_reached_through_loopback(store):
    """So are the nodes that share it: nothing listens on the network unasked."""
    assert place_of(store=store)[0] == "127.0.0.1"


def test_place_that_is_configured_is_the_one():
    """And the address that is told may be another one; a wildcard is told as an address of this machine."""
    (port,) = free_ports(1)
    assert place_of(cluster_listen=f"127.0.0.1:{port}") == ("127.0.0.1", port)
    assert place_of(cluster_listen=f"0.0.0.0:{port}") == ("127.0.0.1", port)
    found = listen_for_nodes(
        settings(cluster_listen=f"127.0.0.1:{port}", cluster_address="mint-1.internal:8421")
    )
    assert found is not None
    found[0].close()
    assert found[1] == Address("mint-1.internal", 8421)


def test_off_listens_nowhere():
    """A node that is to sign for no other has no listener."""
    assert listen_for_nodes(settings(cluster_listen="off")) is None


def test_place_that_is_taken_stops_the_start():
    """The error names the setting."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError) as refused:
            listen_for_nodes(settings(cluster_listen=f"127.0.0.1:{taken.getsockname()[1]}"))
    assert refused.value.key == "cluster_listen"
