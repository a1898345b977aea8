"""Whether a node that serves several issuers should get requests, and which of them have what trouble.

A load balancer takes a node out for all of its issuers or for none. So the trouble of one issuer counts only
where taking the node out helps that issuer: while another live node signs for it. An issuer that no live node
can sign for is reported, and alarmed about, and takes nobody else down.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mintmark.core.key import KeyState
from mintmark.core.keyring import LIVE_FOR
from mintmark.core.membership import can_sign
from mintmark.errors import NotReady
from mintmark.server.health import Reason
from mintmark.server.services import Services
from mintmark.units import Issuer

_OF_NODE: Final = frozenset({Reason.LEAVING, Reason.CLOCK_OFF})
"""What is the same for every issuer. A signer can be away for one alone: for that of a lost token."""


@dataclass(frozen=True, slots=True)
class Report:
    """``reasons`` why the node should get no requests, none where it should; and those of each issuer."""

    reasons: tuple[Reason, ...]
    issuers: Mapping[Issuer, tuple[Reason, ...]]


class Readiness:
    """The readiness of one node for ``served``, which share its signer, its store and its clock."""

    def __init__(self, served: Sequence[Services]) -> None:
        self._served = tuple(served)
        self._clock = self._served[0].clock
        self._began = self._clock.monotonic()
        self._began_well: set[Issuer] = set()

    async def report(self) -> Report:
        """What is so now. Answers within a second."""
        found = await asyncio.gather(*(services.health.reasons() for services in self._served))
        by_issuer = {services.issuer: reasons for services, reasons in zip(self._served, found, strict=True)}
        self._began_well |= {issuer for issuer, reasons in by_issuer.items() if not reasons}
        counted = {reason for reasons in found for reason in reasons if reason in _OF_NODE}
        failing = [services for services in self._served if by_issuer[services.issuer]]
        for services in failing:
            if len(failing) == len(self._served) or self._counts(services):
                counted |= {*by_issuer[services.issuer]}
        ordered = dict.fromkeys(reason for reasons in found for reason in reasons if reason in counted)
        return Report(tuple(ordered), by_issuer)

    def _counts(self, services: Services) -> bool:
        """Whether it helps the issuer of ``services`` that requests go elsewhere."""
        if services.issuer not in self._began_well:
            # The first key of an issuer is not there at once; while it may still come it is waited for.
            patience = services.timing.propagation + LIVE_FOR
            if self._clock.monotonic() - self._began < patience:
                return True
        return _is_signed_for_elsewhere(services)


def _is_signed_for_elsewhere(services: Services) -> bool:
    """Whether another live node has a key of the issuer that may sign.

    False where its ring cannot be read although that of another issuer can: its rows are damaged, and so
    they are for every node.
    """
    try:
        view, now = services.ring.view, services.ring.now()
    except NotReady:
        return False
    if not services.ring.is_fresh():
        return False
    others = [member for member in view.members if member.node != services.node and member.is_live(now)]
    return any(
        can_sign(member, key)
        for key in view.ring.keys
        if key.state is KeyState.ACTIVE and now < key.lease_until
        for member in others
    )
