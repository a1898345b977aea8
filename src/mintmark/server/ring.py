"""The key ring as this process last read it from the store."""

import asyncio

from mintmark.core.events import EventName
from mintmark.core.keyring import Key, KeyState
from mintmark.core.timing import Timing
from mintmark.errors import NotReady, Unavailable
from mintmark.ports.bus import Bus
from mintmark.ports.clock import Clock
from mintmark.ports.keyring import KeyRingStore, RingView
from mintmark.server.audit import Audit
from mintmark.units import Issuer, Kid, NodeId, NumericDate, Seconds

POLL: float = 1.0
"""Seconds between two reads where the bus says nothing; half of what the freshness bounds allow."""


class RingFollower:
    """Reads the ring when the bus wakes it, and each second whatever the bus does.

    What it holds is a snapshot, swapped whole. ``is_fresh`` says whether the store was read within
    ``propagation``: a node that is further behind must not say that a key does not exist.
    """

    def __init__(
        self, issuer: Issuer, *, store: KeyRingStore, bus: Bus, clock: Clock, timing: Timing, audit: Audit
    ) -> None:
        self._issuer = issuer
        self._store = store
        self._bus = bus
        self._clock = clock
        self._timing = timing
        self._audit = audit
        self._view: RingView | None = None
        self._read_at = float("-inf")
        self._offset = Seconds(0)
        self._failing = False
        self._changed = asyncio.Event()

    @property
    def view(self) -> RingView:
        """The last snapshot; raises NotReady before the first."""
        if self._view is None:
            raise NotReady("the key ring was not read yet")
        return self._view

    def is_fresh(self) -> bool:
        """Whether the store was read within ``propagation``."""
        return self._clock.monotonic() - self._read_at <= self._timing.propagation

    def clock_is_off(self) -> bool:
        """Whether this machine's clock is further from the store's than ``clock_skew``, as last read."""
        return self._offset > self._timing.clock_skew

    def now(self) -> NumericDate:
        """The store's time, carried on from the last read without trust in this machine's clock."""
        return NumericDate(self.view.now + max(0, int(self._clock.monotonic() - self._read_at)))

    def find(self, kid: Kid) -> Key | None:
        """The published key under ``kid``.

        None is said only on a fresh ring; else NotReady, so that a new key is never called unknown (503,
        not 404).
        """
        key = self.view.ring.find(kid)
        if key is not None and key.is_published():
            return key
        if not self.is_fresh():
            raise NotReady("the key ring is older than the propagation bound")
        return None

    def active(self, node: NodeId) -> Key:
        """The key that ``node`` signs with; raises NotReady where it has none that may sign now."""
        key = self.view.ring.held_by(node, KeyState.ACTIVE)
        if key is None:
            raise NotReady("this node has no active key yet", retry_after=Seconds(1))
        # Tokens minted on such a clock would be refused as not yet valid, or outlive their revocation.
        if self.clock_is_off():
            raise NotReady("this node's clock is too far from the store's")
        if self.now() >= key.lease_until:
            raise NotReady("the lease of this node's key has ended")
        return key

    async def refresh(self) -> RingView:
        """Read the ring now; raises StoreUnavailable."""
        asked_at, before = self._clock.monotonic(), self._clock.now()
        view = await self._store.read(self._issuer)
        # The store's time was taken in between, so only what lies outside proves that a clock is off.
        self._offset = Seconds(max(0, before - view.now, view.now - self._clock.now()))
        if self._view is None or view.ring.generation != self._view.ring.generation:
            self._changed.set()
            self._changed = asyncio.Event()
        self._view, self._read_at = view, asked_at
        return view

    async def changed(self, generation: int) -> RingView:
        """Wait for a ring of another generation than ``generation``."""
        while self._view is None or self._view.ring.generation == generation:
            await self._changed.wait()
        return self._view

    async def run(self) -> None:
        """Follow until cancelled; a failing store is reported once, and its return once."""
        subscription = self._bus.subscribe()
        try:
            while True:
                await self._refresh_or_report()
                await subscription.wait(POLL)
        finally:
            subscription.close()

    async def _refresh_or_report(self) -> None:
        try:
            await self.refresh()
        except Unavailable as error:
            if not self._failing:
                self._audit.record(EventName.STORE_FAILED, what="key ring", reason=str(error))
            self._failing = True
        else:
            if self._failing:
                self._audit.record(EventName.STORE_RESTORED, what="key ring")
            self._failing = False
