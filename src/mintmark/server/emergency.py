"""What an operator does to a key ring from any node: withdraw a key, or have all of them succeeded."""

from mintmark.core import keyring
from mintmark.core.key import KeyState
from mintmark.core.timing import Timing
from mintmark.errors import StoreUnavailable
from mintmark.ports.keyring import KeyRingStore
from mintmark.units import Issuer, Kid


async def revoke_key(store: KeyRingStore, issuer: Issuer, kid: Kid, *, reason: str, timing: Timing) -> bool:
    """Withdraw ``kid``, any node's, dead or alive, with its event, in one transaction (design 3.8).

    False where the ring has no such key, or it is revoked already. Raises StoreUnavailable.
    """
    for _ in range(16):
        view = await store.read(issuer)
        key = view.ring.find(kid)
        if key is None or key.state is KeyState.REVOKED:
            return False
        after, event = keyring.revoke(view.ring, kid, reason=reason, timing=timing, now=view.now)
        if await store.swap(view.ring.generation, after, events=((event, "key_revoked"),)):
            return True
    raise StoreUnavailable("the key ring changed at each of many attempts")


async def request_rotation(store: KeyRingStore, issuer: Issuer) -> None:
    """Have every node that signs prepare a successor now. Raises StoreUnavailable."""
    for _ in range(16):
        view = await store.read(issuer)
        if await store.swap(view.ring.generation, keyring.request_rotation(view.ring, now=view.now)):
            return
    raise StoreUnavailable("the key ring changed at each of many attempts")
