"""Whether somebody listens (DOOR clauses)."""

import asyncio
import contextlib
import socket

import pytest

from mintmark.adapters.doorway import TcpDoorway
from mintmark.ports.clock import Clock
from mintmark.system import SYSTEM_CLOCK
from mintmark.testing.clock import FakeClock


def door(*, clock: Clock | None = None, one_machine: bool = True) -> TcpDoorway:
    """One that waits for as long as an answer takes, unless time passes."""
    return TcpDoorway(clock=clock or FakeClock(), one_machine=one_machine)


async def test_place_where_nobody_listens_is_refused():
    """DOOR-1: the machine says so at once, even where somebody has the port and does not listen."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        assert await door().is_refused(f"127.0.0.1:{sock.getsockname()[1]}")


async def test_place_where_somebody_listens_is_not_refused():
    """DOOR-2: not even where nobody ever accepts, as in a process that stands still; and nothing is sent."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert not await door().is_refused(f"127.0.0.1:{sock.getsockname()[1]}")
        sock.settimeout(10)
        called, _ = await asyncio.to_thread(sock.accept)
        with called:
            called.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.to_thread(called.recv, 1) == b""


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_loopback_of_another_machine_is_not_refused(host: str):
    """DOOR-2: a node that reaches its database through a proxy beside it gives such an address, and lives."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        assert not await door(one_machine=False).is_refused(f"{host}:{sock.getsockname()[1]}")


@pytest.mark.parametrize("address", ["", "127.0.0.1", ":", "127.0.0.1:port", "127.0.0.1:99999999", "[:1"])
async def test_address_that_is_none_is_not_refused(address: str):
    """DOOR-2: whoever can write a row could put anything there."""
    assert not await door().is_refused(address)


async def test_place_that_says_nothing_is_not_refused_and_not_waited_for(monkeypatch):
    """DOOR-3: a machine that is away tells nothing; the answer comes nevertheless."""
    loop = asyncio.get_running_loop()

    async def silent(*_: object, **__: object) -> None:
        await loop.create_future()

    monkeypatch.setattr(loop, "create_connection", silent)
    assert not await door(clock=SYSTEM_CLOCK).is_refused("127.0.0.1:9")
