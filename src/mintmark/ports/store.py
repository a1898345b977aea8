"""The store: the truth that all nodes share.

One store holds many issuers; every operation names the one it is about, and nothing crosses.
What holds for every operation:

- STORE-1 An operation that returns has been committed and survives the loss of power; one that raises
  StoreUnavailable has left nothing half done, though it may have been committed.
- STORE-2 Any failure of the backend, early or late, is StoreUnavailable or StoreDamaged, within two
  seconds; nothing foreign comes out.
- STORE-3 Times are the store's own: ``now()`` is one clock for all nodes.
- STORE-4 Issuers do not see each other's rows.
- STORE-5 ``open()`` creates or upgrades the schema and may be called by many processes at once. It alone may
  take longer than two seconds, where another process is upgrading.
- STORE-6 What is looked up by text that a database cannot hold (NUL, half a surrogate pair) is absent.
- STORE-7 The operations of one request together take no longer than its
  :class:`mintmark.ports.budget.Budget`: then each is StoreUnavailable, and what had not begun is not done.
"""

from typing import Protocol

from mintmark.ports.directory import Directory
from mintmark.ports.keyring import KeyRingStore
from mintmark.ports.outbox import LogoutOutbox
from mintmark.ports.revocations import RevocationLog
from mintmark.ports.sessions import SessionStore
from mintmark.units import NumericDate


class Store(Protocol):
    """All that is kept, by subject."""

    @property
    def keyring(self) -> KeyRingStore:
        """Keys, heartbeats and timing settings."""
        ...

    @property
    def sessions(self) -> SessionStore:
        """Refresh sessions."""
        ...

    @property
    def revocations(self) -> RevocationLog:
        """The revocation log."""
        ...

    @property
    def directory(self) -> Directory:
        """Users and clients."""
        ...

    @property
    def outbox(self) -> LogoutOutbox:
        """Ended sessions whose clients are still to be told."""
        ...

    async def open(self) -> None:
        """Connect, and bring the schema up to date; raises StoreUnavailable or StoreDamaged."""
        ...

    async def close(self) -> None:
        """Let go of every connection; may be called twice."""
        ...

    async def now(self) -> NumericDate:
        """The store's time, read now; proves that the store answers."""
        ...
