"""Where the key ring, the heartbeats and the timing settings are kept.

- RING-1 Of any number of swaps that expect one generation exactly one is taken, on any nodes.
- RING-2 A swap is taken whole or not at all, its log entries included.
- RING-3 ``read`` shows one generation, never parts of two, with all heartbeats and the store's time.
- RING-4 An issuer that nothing was written for reads as an empty ring of generation 0.
- RING-5 A heartbeat carries the store's time, not the node's; leaving removes it, and one that was not
  renewed for a day is forgotten once another node joins.
- RING-6 Of any number of first writers of the timing settings one is taken, and all read the same.
- RING-7 A ``publish_until`` in the store is never lowered, whatever is swapped in.
- RING-8 A store that holds the cluster's key shows no ring, key or node that was written without it: such a
  row is in ``rejected`` only, a swap replaces it, and nothing that it says reaches what is swapped in.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from mintmark.core.key import KeyMode
from mintmark.core.keyring import Member, Ring
from mintmark.core.revocation import RevocationEvent
from mintmark.units import Issuer, NodeId, NumericDate, Seconds

FORGOTTEN_AFTER: Final = Seconds(86_400)
"""A heartbeat row this old is of a node that died long ago: nodes are never the same twice."""


class RowKind(StrEnum):
    """What a row of the store is of."""

    RING = "ring"
    KEY = "key"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row written by somebody who does not hold the cluster's key. Nothing of it is to be trusted."""

    kind: RowKind
    name: str
    """The issuer, ``kid`` or node that it claims."""
    seen_at: NumericDate | None = None
    """The heartbeat that the row of a node claims."""


@dataclass(frozen=True, slots=True)
class RingView:
    """A ring, all heartbeat rows and the store's time, read together.

    Where the ring's own row is rejected, only its generation is the row's: the number that a swap expects.
    """

    ring: Ring
    members: tuple[Member, ...]
    now: NumericDate
    rejected: tuple[RejectedRow, ...] = ()
    unchecked: bool = False
    """Whether a row carries the mark of a cluster's key, and this store was given none to check it by."""


@dataclass(frozen=True, slots=True)
class StoredTiming:
    """Timing settings (``document`` is JSON) and the generation that counts their changes, from 1."""

    document: bytes
    generation: int


class KeyRingStore(Protocol):
    """Compare-and-swap on a ring's generation, and what hangs on it."""

    async def read(self, issuer: Issuer) -> RingView:
        """The ring as it is."""
        ...

    async def swap(
        self, expected: int, ring: Ring, *, events: tuple[tuple[RevocationEvent, str], ...] = ()
    ) -> bool:
        """Whether ``ring`` was taken in place of generation ``expected``, its events (each with its cause)
        appended to the log in the same transaction. False: somebody else was first; read again.

        Raises ValueError unless the generation of ``ring`` is later than ``expected``: two rings under one
        number could not be told apart.
        """
        ...

    async def beat(
        self,
        issuer: Issuer,
        node: NodeId,
        *,
        ring_generation: int,
        address: str = "",
        certificate: bytes = b"",
        modes: frozenset[KeyMode] = frozenset({KeyMode.OWN}),
    ) -> NumericDate:
        """Write the heartbeat row of ``node``; the store's time that it now carries."""
        ...

    async def leave(self, issuer: Issuer, node: NodeId) -> None:
        """Remove the heartbeat row: this node is no longer live. Its keys stay."""
        ...

    async def timing(self, issuer: Issuer) -> StoredTiming | None:
        """The timing settings that the nodes of this issuer share."""
        ...

    async def swap_timing(self, issuer: Issuer, *, expected: int, document: bytes) -> bool:
        """Whether ``document`` was taken in place of generation ``expected`` (0: there was none)."""
        ...
