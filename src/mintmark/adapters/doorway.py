"""Whether anybody listens at an address, told by the first step of a TCP connection."""

import asyncio
import ipaddress
from typing import Final

from mintmark.adapters.cluster_wire import within
from mintmark.ports.clock import Clock

_PATIENCE: Final = 0.3
"""Seconds for an answer: a machine that is there refuses within a round trip."""


class TcpDoorway:
    """:class:`mintmark.ports.doorway.Doorway` by connecting and hanging up.

    ``one_machine`` says that all nodes are on this one. Else a loopback address is that of another machine,
    whose node reaches the database on it or through a proxy there: here nobody listens, and it may well live.
    """

    def __init__(self, *, clock: Clock, one_machine: bool) -> None:
        self._clock = clock
        self._one_machine = one_machine

    async def is_refused(self, address: str) -> bool:
        """Whether nobody listens at ``address``; see the port."""
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        if not self._one_machine and _is_loopback(host):
            return False
        try:
            transport, _ = await within(
                self._clock,
                _PATIENCE,
                asyncio.get_running_loop().create_connection(asyncio.Protocol, host, int(port)),
            )
        except ConnectionRefusedError:
            return True
        except (OSError, ValueError, OverflowError):
            return False
        transport.abort()
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
