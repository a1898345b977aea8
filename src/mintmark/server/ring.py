"""The key ring as this process last read it from the store."""

import asyncio
from typing import Final

from mintmark.core.events import EventName
from mintmark.core.key import Key, KeyMode, KeyState
from mintmark.core.membership import has_slot, offset
from mintmark.core.timing import Timing
from mintmark.errors import NotReady, Unavailable
from mintmark.ports.bus import Bus
from mintmark.ports.clock import Clock
from mintmark.ports.keyring import KeyRingStore, RingView
from mintmark.server.audit import Audit
from mintmark.units import Issuer, Kid, NodeId, NumericDate, Seconds

_LONGEST_RETRY: Final = 30
"""The most that Retry-After asks for while this node has no key, in seconds."""
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
        self._offset = 0
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
        return abs(self._offset) > self._timing.clock_skew

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
        """The key that ``node`` signs with first; raises NotReady where it has none that may sign now.

        It is the first of :meth:`candidates` that is no peer's, so its signer may yet not hold it.
        """
        own = next((key for key in self.candidates(node) if key.is_of_cluster() or key.node == node), None)
        if own is not None:
            return own
        ring = self.view.ring
        if ring.held_by(node, KeyState.ACTIVE) is None and ring.held_by_cluster(KeyState.ACTIVE) is None:
            raise NotReady("this node has no active key yet", retry_after=self._until_active(node))
        raise NotReady("the lease of this node's key has ended")

    def candidates(self, node: NodeId) -> tuple[Key, ...]:
        """The active keys that a token minted at ``node`` may be signed with, in order of preference.

        First what the ring wants: the cluster's key, or the node's own; then the other of the two; then keys
        of other live nodes, those that are leaving last. All nodes find the same key of the cluster first.

        A worker cannot know what its signer holds, and need not: it asks its signer for the first one that is
        the cluster's or its own, and after SignerRefused ``unknown_key`` or ``not_extended`` goes on to the
        next. A key of another node is asked for there; the cluster's, where its own signer does not hold it,
        at any live node whose heartbeat has that mode. Empty where no key may sign; raises NotReady before
        the first read, and where this machine's clock is off.
        """
        view, now = self.view, self.now()
        # Tokens minted on such a clock would be refused as not yet valid, or outlive their revocation.
        if self.clock_is_off():
            raise NotReady("this node's clock is too far from the store's")
        ring = view.ring
        may_sign = [key for key in ring.keys if key.state is KeyState.ACTIVE and now < key.lease_until]
        live = {member.node for member in view.members if member.is_live(now)}
        own = [key for key in may_sign if key.node == node and not key.is_of_cluster()]
        clusters = [key for key in may_sign if key.is_of_cluster()]
        others = [key for key in may_sign if key.node in live - {node} and not key.is_of_cluster()]
        wants_own = ring.kind is None or ring.kind.mode is KeyMode.OWN
        first = [*own, *clusters] if wants_own else [*clusters, *own]
        return (*first, *sorted(others, key=Key.is_resigned))

    def lacks_slot(self, node: NodeId) -> bool:
        """Whether ``node`` has no key because as many others sign as may (K6)."""
        ring = self.view.ring
        wants_own = ring.kind is None or ring.kind.mode is KeyMode.OWN
        return wants_own and not has_slot(ring, node, self._timing)

    def _until_active(self, node: NodeId) -> Seconds:
        """What to say in Retry-After: what is left of the lead, and at most what a client would wait for.

        Another node can answer at once, where a load balancer sends the next try to it; and the first node
        of a cluster needs no lead.
        """
        ring = self.view.ring
        if not any(key.state is KeyState.ACTIVE for key in ring.keys):
            return Seconds(1)
        prepared = ring.held_by(node, KeyState.PREPARED) or ring.held_by_cluster(KeyState.PREPARED)
        left = self._timing.lead
        if prepared is not None and prepared.proven_at is not None:
            left = Seconds(prepared.proven_at + self._timing.lead - self.now())
        return Seconds(max(1, min(left, _LONGEST_RETRY)))

    async def refresh(self) -> RingView:
        """Read the ring now; raises StoreUnavailable."""
        asked_at, before = self._clock.monotonic(), self._clock.now()
        view = await self._store.read(self._issuer)
        if self._view is not None and asked_at < self._read_at:
            # Requests read the ring too: one that was begun later has answered, and knows of more.
            return self._view
        self._offset = offset(before, view.now, self._clock.now())
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
