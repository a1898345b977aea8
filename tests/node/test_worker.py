"""An HTTP worker, where it cannot be seen from outside: node.worker."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from mintmark.errors import SignerUnavailable
from mintmark.node import worker
from mintmark.node.link import Assignment
from mintmark.server.peers import PATIENCE
from mintmark.server.settings import read
from mintmark.testing.clock import FakeClock
from mintmark.units import Kid, NodeId


async def test_silence_of_control_costs_little_more_than_that_of_other_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A worker waits for other nodes for as long as control asks them, and gives up within two seconds."""
    clock = FakeClock()
    peers: list[Any] = []

    def compose(*_: object, **given: Any) -> None:
        peers.append(given["peers"])

    monkeypatch.setattr(worker, "SYSTEM_CLOCK", clock)
    monkeypatch.setattr(worker, "compose", compose)
    settings = read({"store": f"sqlite:///{tmp_path}/mintmark.db", "cold_start": "peer"}, {})
    pairs = [socket.socketpair() for _ in range(2)]
    (signing, signer), (elsewhere, control) = pairs
    with signer, control:
        async with worker._services(Assignment(NodeId("a"), settings), signing, elsewhere):
            asking = asyncio.ensure_future(peers[0].sign(Kid("k"), "at+jwt", b"{}"))
            await clock.armed(within=2, beyond=PATIENCE)
            clock.advance(2)
            with pytest.raises(SignerUnavailable):
                await asking
