"""Another timing for a running cluster: begun, finished or withdrawn, for all issuers of a node at once.

The settings of time are a node's, and the store holds them for each issuer. So each step is first decided for
every issuer, and only then written. Should the store fail in between, the same step again does the rest.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mintmark.core import timing_change
from mintmark.core.timing import Timing
from mintmark.core.timing_change import Agreement, ChangeRefused
from mintmark.errors import StoreUnavailable
from mintmark.ports.clock import Clock
from mintmark.ports.keyring import KeyRingStore
from mintmark.server.agreement import Presence, encode_agreement, presence, read_agreement
from mintmark.units import Issuer, NodeId

_ATTEMPTS: Final = 8

Step = Callable[[Agreement, Presence], Agreement]
"""What an agreement becomes, with who is there; raises ChangeRefused, which changes nothing."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the nodes of an issuer have agreed on, and who is there. ``generation`` 0: no node ever began."""

    issuer: Issuer
    generation: int
    agreement: Agreement | None
    present: Presence

    def differing(self) -> tuple[NodeId, ...]:
        """The nodes that are there and do not have the wanted settings, while the timing changes."""
        if self.agreement is None or self.agreement.wanted is None:
            return ()
        return tuple(sorted(self.present.nodes - set(self.agreement.on_wanted)))

    def refusals(self) -> tuple[str, ...]:
        """Why the change that is under way cannot be finished yet; empty where it can."""
        if self.agreement is None:
            return ()
        try:
            finish(self.agreement, self.present)
        except ChangeRefused as refused:
            return refused.reasons
        return ()


class Refused(ValueError):
    """A step may not be taken; ``reasons`` are sentences, by issuer. Nothing was changed."""

    def __init__(self, reasons: Mapping[Issuer, tuple[str, ...]]) -> None:
        super().__init__("; ".join(reason for found in reasons.values() for reason in found))
        self.reasons = reasons


async def standing(store: KeyRingStore, issuer: Issuer, *, clock: Clock) -> Standing:
    """What holds now. Raises StoreUnavailable, StoreDamaged."""
    # In this order: a node that notes itself meanwhile is counted as one that has not, until the next look.
    stored = await store.timing(issuer)
    present = await presence(store, issuer, clock=clock)
    if stored is None:
        return Standing(issuer, 0, None, present)
    return Standing(issuer, stored.generation, read_agreement(stored), present)


def change(wanted: Timing) -> Step:
    """Nodes may be restarted with ``wanted`` from now on. With the current settings, a change that is under
    way is withdrawn."""

    def begun(agreement: Agreement, present: Presence) -> Agreement:
        if wanted == agreement.current:
            return timing_change.withdraw(agreement, present=present.nodes)
        return timing_change.begin(agreement, wanted, now=present.view.now)

    return begun


def finish(agreement: Agreement, present: Presence) -> Agreement:
    """Only nodes with the wanted settings may work from now on."""
    return timing_change.finish(agreement, present.view.ring, present=present.nodes, now=present.view.now)


async def take(
    store: KeyRingStore,
    issuers: tuple[Issuer, ...],
    step: Step,
    *,
    clock: Clock,
    on_taken: Callable[[Standing, Agreement], None],
) -> tuple[Standing, ...]:
    """Take ``step`` for each of ``issuers``, and what holds then; ``on_taken`` learns of each that changed.

    An issuer that no node has begun yet is left alone: the first one writes its own settings. Raises Refused,
    and then has changed nothing, unless a node joined or left meanwhile; StoreUnavailable, StoreDamaged.
    """
    refused: dict[Issuer, tuple[str, ...]] = {}
    for before in await _all(standing(store, issuer, clock=clock) for issuer in issuers):
        try:
            if before.agreement is not None:
                step(before.agreement, before.present)
        except ChangeRefused as error:
            refused[before.issuer] = error.reasons
    if refused:
        raise Refused(refused)
    return await _all(_take(store, issuer, step, clock=clock, on_taken=on_taken) for issuer in issuers)


async def _take(
    store: KeyRingStore,
    issuer: Issuer,
    step: Step,
    *,
    clock: Clock,
    on_taken: Callable[[Standing, Agreement], None],
) -> Standing:
    for _ in range(_ATTEMPTS):
        before = await standing(store, issuer, clock=clock)
        if before.agreement is None:
            return before
        try:
            after = step(before.agreement, before.present)
        except ChangeRefused as error:
            raise Refused({issuer: error.reasons}) from None
        if after == before.agreement:
            return before
        document = encode_agreement(after)
        if await store.swap_timing(issuer, expected=before.generation, document=document):
            on_taken(before, after)
            return Standing(issuer, before.generation + 1, after, before.present)
    raise StoreUnavailable("the timing settings changed at each of many attempts")


async def _all(works: Iterable[Awaitable[Standing]]) -> tuple[Standing, ...]:
    """Together, because each may listen for some seconds; the first that fails fails all, once all ended."""
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return tuple(outcome for outcome in outcomes if isinstance(outcome, Standing))
