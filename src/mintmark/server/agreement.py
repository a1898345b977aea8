"""Every node of an issuer works with the same timing, or the rules between the numbers mean nothing."""

from typing import Final

import msgspec

from mintmark.core.timing import Timing
from mintmark.errors import ConfigurationError, StoreUnavailable
from mintmark.ports.keyring import KeyRingStore
from mintmark.units import Issuer

_ATTEMPTS: Final = 8


async def agree(store: KeyRingStore, issuer: Issuer, timing: Timing) -> int:
    """The generation of the timing settings that this node shares with all others, now that it does.

    The first node writes its own. A node that starts while no other is live replaces what is there: keys
    keep the ``publish_until`` that was right when they signed, so no token is cut short. A node that
    starts beside others must agree: raises ConfigurationError, which names each setting that differs.
    """
    document = msgspec.json.encode(timing)
    for _ in range(_ATTEMPTS):
        stored = await store.timing(issuer)
        if stored is not None and msgspec.json.decode(stored.document) == msgspec.to_builtins(timing):
            return stored.generation
        view = await store.read(issuer)
        if stored is not None and any(member.is_live(view.now) for member in view.members):
            raise _difference(stored.document, timing)
        generation = stored.generation if stored is not None else 0
        if await store.swap_timing(issuer, expected=generation, document=document):
            return generation + 1
    raise StoreUnavailable("the timing settings changed at each of many attempts")


def _difference(document: bytes, timing: Timing) -> ConfigurationError:
    theirs: dict[str, int] = msgspec.json.decode(document)
    ours: dict[str, int] = msgspec.to_builtins(timing)
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    shown = ", ".join(f"{name} is {ours.get(name)} here and {theirs.get(name)} there" for name in differing)
    return ConfigurationError(differing[0], f"other nodes are live and work with other timing: {shown}")
