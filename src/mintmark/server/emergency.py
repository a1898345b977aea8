"""What an operator does to a key ring from any node: withdraw, hold or remove a key, switch to others."""

from collections.abc import Callable
from typing import Final

from mintmark.core import keyring
from mintmark.core.key import KeyKind, KeyState
from mintmark.core.keyring import Member, Ring
from mintmark.core.revocation import RevocationEvent
from mintmark.core.timing import Timing
from mintmark.errors import StoreUnavailable
from mintmark.ports.keyring import KeyRingStore, RingView
from mintmark.units import Issuer, Kid

_ATTEMPTS: Final = 16
_Events = tuple[tuple[RevocationEvent, str], ...]


class ModeUnavailable(ValueError):
    """A switch would leave nodes that live without a key: ``nodes`` are not set up for the mode."""

    def __init__(self, nodes: tuple[Member, ...]) -> None:
        super().__init__("a live node is not set up for this mode")
        self.nodes = nodes


async def revoke_key(store: KeyRingStore, issuer: Issuer, kid: Kid, *, reason: str, timing: Timing) -> bool:
    """Withdraw ``kid``, any node's, dead or alive, with its event, in one transaction (design 3.8).

    False where the ring has no such key, or it is revoked already. Raises StoreUnavailable.
    """

    def withdraw(view: RingView) -> tuple[Ring, _Events]:
        key = view.ring.find(kid)
        if key is None or key.state is KeyState.REVOKED:
            return view.ring, ()
        after, event = keyring.revoke(view.ring, kid, reason=reason, timing=timing, now=view.now)
        return after, ((event, "key_revoked"),)

    return await _change(store, issuer, withdraw)


async def request_rotation(store: KeyRingStore, issuer: Issuer) -> None:
    """Have every node that signs prepare a successor now. Raises StoreUnavailable."""
    await _change(store, issuer, lambda view: (keyring.request_rotation(view.ring, now=view.now), ()))


async def hold_key(store: KeyRingStore, issuer: Issuer, kid: Kid, *, held: bool) -> bool:
    """Whether this made ``kid`` stay published until it is let go, or let it go; False where it was so.

    Raises InvalidTransition for a key that is not published, and StoreUnavailable.
    """
    return await _change(store, issuer, lambda view: (keyring.hold(view.ring, kid, held), ()))


async def remove_key(store: KeyRingStore, issuer: Issuer, kid: Kid, *, timing: Timing) -> None:
    """Retire ``kid`` now, where nothing that it signed can be valid.

    Raises KeyInUse, which says what that would break; InvalidTransition for no key; and StoreUnavailable.
    """
    await _change(
        store,
        issuer,
        lambda view: (keyring.discard(view.ring, kid, timing=timing, now=view.now), ()),
    )


async def switch_kind(store: KeyRingStore, issuer: Issuer, kind: KeyKind) -> bool:
    """Whether keys of ``kind`` succeed all others from now on; False where they do so already.

    Raises ModeUnavailable, MixedAlgorithms, InvalidTransition for a kind that nobody makes, and
    StoreUnavailable.
    """
    return await _change(store, issuer, lambda view: (switched(view, kind), ()))


def switched(view: RingView, kind: KeyKind) -> Ring:
    """The ring in which keys of ``kind`` succeed all others; the same one where they do so already."""
    live = (member for member in view.members if member.is_live(view.now) and not member.is_leaving())
    unable = tuple(member for member in live if kind.mode not in member.modes)
    if unable and view.ring.kind != kind:
        raise ModeUnavailable(unable)
    return keyring.switch(view.ring, kind, now=view.now)


async def _change(
    store: KeyRingStore, issuer: Issuer, change: Callable[[RingView], tuple[Ring, _Events]]
) -> bool:
    """Whether the ring is another one now; decided anew on each ring that somebody else was faster with."""
    for _ in range(_ATTEMPTS):
        view = await store.read(issuer)
        after, events = change(view)
        if after is view.ring:
            return False
        if await store.swap(view.ring.generation, after, events=events):
            return True
    raise StoreUnavailable("the key ring changed at each of many attempts")
