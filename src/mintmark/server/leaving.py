"""A node that was told to leave: whether it may go, asked after each round of rotation."""

import asyncio
from dataclasses import replace
from typing import Final

from mintmark.core import keyring, membership
from mintmark.core.events import EventName
from mintmark.core.key import KeyState
from mintmark.core.keyring import LIVE_FOR
from mintmark.core.membership import Departure, View
from mintmark.core.timing import Timing
from mintmark.ports.clock import Clock
from mintmark.server.audit import Audit
from mintmark.units import NodeId


class Leaving:
    """``allowed`` is set once the node may go; before ``begin`` nothing is decided."""

    def __init__(self, node: NodeId, *, timing: Timing, clock: Clock, audit: Audit) -> None:
        self._node = node
        self._timing = timing
        self._clock = clock
        self._audit = audit
        self._seen: View | None = None
        self._seen_at = 0.0
        self._reported = False
        self.begun = False
        self.allowed: Final = asyncio.Event()

    def begin(self) -> None:
        """The node was told to leave: the next round says so to the others, and asks whether it may."""
        self.begun = True

    def saw(self, view: View) -> None:
        """The store was read, and what was due in ``view`` is done."""
        self._seen, self._seen_at = view, self._clock.monotonic()
        if self.begun:
            self._decide(membership.departure(view, self._timing), view)

    def failed(self) -> None:
        """A round failed: while the store is away, what was seen last counts.

        Nobody can write a heartbeat then, so silence makes nobody dead; and this node cannot resign, but no
        other can take a key further either. It waits no longer than its own lease.
        """
        view = self._seen
        if not self.begun:
            return
        if view is None:
            self.allowed.set()
            return
        signing = [key for key in view.ring.keys if key.state is KeyState.ACTIVE and view.holds(key)]
        passed = self._clock.monotonic() - self._seen_at
        if signing and view.now + passed >= max(key.lease_until for key in signing):
            self._decide(Departure.SIGNS_NOTHING, view)
            return
        resigned = replace(view, ring=keyring.resign(view.ring, self._node))
        departure = membership.departure(resigned, self._timing)
        # A round that failed is no outage yet. Another node that leaves might have resigned meanwhile, and
        # counts on this one, which has not, until its heartbeat is old.
        if departure is not Departure.COVERED or passed > LIVE_FOR:
            self._decide(departure, view)

    def _decide(self, departure: Departure, view: View) -> None:
        if departure is not Departure.AWAITED:
            self.allowed.set()
        elif not self._reported:
            self._reported = True
            self._audit.record(
                EventName.HANDOVER_AWAITED,
                nodes=len(membership.staying_nodes(view)),
                reason="no other node signs yet with a key that has been public for its lead",
            )
