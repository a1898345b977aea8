"""Whether anybody listens at an address, told by the first step of a TCP connection."""

import asyncio
from typing import Final

from mintmark.adapters.cluster_wire import within
from mintmark.ports.clock import Clock

_PATIENCE: Final = 0.3
"""Seconds for an answer: a machine that is there refuses within a round trip."""


class TcpDoorway:
    """:class:`mintmark.ports.doorway.Doorway` by connecting and hanging up."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock

    async def is_refused(self, address: str) -> bool:
        """Whether nobody listens at ``address``; see the port."""
        host, _, port = address.rpartition(":")
        try:
            transport, _ = await within(
                self._clock,
                _PATIENCE,
                asyncio.get_running_loop().create_connection(asyncio.Protocol, host.strip("[]"), int(port)),
            )
        except ConnectionRefusedError:
            return True
        except (OSError, ValueError, OverflowError):
            return False
        transport.abort()
        return False
