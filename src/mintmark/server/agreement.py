"""Every node of an issuer works with the same timing, or the rules between the numbers mean nothing."""

from typing import Final

import msgspec

from mintmark.core.keyring import HEARD_WITHIN
from mintmark.core.timing import Timing
from mintmark.errors import ConfigurationError, StoreUnavailable
from mintmark.ports.clock import Clock
from mintmark.ports.keyring import FORGOTTEN_AFTER, KeyRingStore, RingView, StoredTiming
from mintmark.server.rejection import check_cluster_key
from mintmark.units import Issuer, NodeId, NumericDate

_ATTEMPTS: Final = 8
_LISTEN_EVERY: Final = 0.5


async def agree(store: KeyRingStore, issuer: Issuer, timing: Timing, *, clock: Clock) -> int:
    """The generation of the timing settings that this node shares with all others, now that it does.

    The first node writes its own. A node that starts while no other is live replaces what is there: keys
    keep the ``publish_until`` that was right when they signed, so no token is cut short. A node that
    starts beside others must agree: raises ConfigurationError, which names each setting that differs; also
    where they have another ``cluster_key``.

    Where settings differ and other nodes have left traces, it takes some seconds to tell: a heartbeat that
    is old proves nothing after an outage of the store, and a young one nothing after a power cut.
    """
    check_cluster_key(await store.read(issuer))
    document = msgspec.json.encode(timing)
    for _ in range(_ATTEMPTS):
        stored = await store.timing(issuer)
        if stored is not None and _is_same(stored, timing):
            return stored.generation
        if stored is not None and await _hears_a_node(store, issuer, clock):
            raise _difference(stored.document, timing, "other nodes are live and work with other timing")
        generation = stored.generation if stored is not None else 0
        if await store.swap_timing(issuer, expected=generation, document=document):
            return generation + 1
    raise StoreUnavailable("the timing settings changed at each of many attempts")


async def check_agreed(store: KeyRingStore, issuer: Issuer, timing: Timing) -> None:
    """Raise ConfigurationError where the nodes work with other timing by now.

    That happens to a node that was silent for so long that another one, started with other timing, found
    nobody live; and to one of two that start on an empty store in the same moment with different timing.
    """
    stored = await store.timing(issuer)
    if stored is not None and not _is_same(stored, timing):
        raise _difference(
            stored.document, timing, "this node was not heard of, and others work with other timing by now"
        )


async def _hears_a_node(store: KeyRingStore, issuer: Issuer, clock: Clock) -> bool:
    """Whether any node beats: a heartbeat that is renewed, or one of a node that was not there before.

    Nobody is called dead before the store was read for HEARD_WITHIN without a failure, nor while its
    heartbeat is young. A lease that still runs is a trace like any other, and holds nobody up for longer:
    what its node signs is covered by its key's row, and it ends itself when it comes back (check_agreed).
    """
    first = await store.read(issuer)
    if not _has_traces(first):
        return False
    seen = _heartbeats(first)
    began = clock.monotonic()
    while True:
        await clock.sleep(_LISTEN_EVERY)
        view = await store.read(issuer)
        if any(at > seen.get(node, at - 1) for node, at in _heartbeats(view).items()):
            return True
        is_over = clock.monotonic() - began >= HEARD_WITHIN
        if is_over and not any(member.is_live(view.now) for member in view.members):
            return False


def _has_traces(view: RingView) -> bool:
    beaten = any(view.now - member.seen_at < FORGOTTEN_AFTER for member in view.members)
    return beaten or any(view.now < key.lease_until for key in view.ring.keys)


def _heartbeats(view: RingView) -> dict[NodeId, NumericDate]:
    return {member.node: member.seen_at for member in view.members}


def _is_same(stored: StoredTiming, timing: Timing) -> bool:
    return bool(msgspec.json.decode(stored.document) == msgspec.to_builtins(timing))


def _difference(document: bytes, timing: Timing, said: str) -> ConfigurationError:
    theirs: dict[str, int] = msgspec.json.decode(document)
    ours: dict[str, int] = msgspec.to_builtins(timing)
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    shown = ", ".join(f"{name} is {ours.get(name)} here and {theirs.get(name)} there" for name in differing)
    return ConfigurationError(
        differing[0],
        f"{said}: {shown}; give all nodes the same settings, or stop them all before one starts with others",
    )
