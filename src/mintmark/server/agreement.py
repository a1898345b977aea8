"""Every node of an issuer works with the same timing, or the rules between the numbers mean nothing.

While an operator changes it the store holds two, and a node may have the settings of either: it works by
what is safe beside both (:mod:`mintmark.core.timing_change`), and says so in the store.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mintmark.core.keyring import HEARD_WITHIN
from mintmark.core.timing import NAMES, Timing
from mintmark.core.timing_change import Agreement, stands_beside
from mintmark.errors import ConfigurationError, StoreDamaged, StoreUnavailable
from mintmark.ports.clock import Clock
from mintmark.ports.keyring import FORGOTTEN_AFTER, KeyRingStore, RingView, StoredTiming
from mintmark.server.rejection import check_cluster_key
from mintmark.units import Issuer, NodeId, NumericDate, Seconds

_ATTEMPTS: Final = 8
_LISTEN_EVERY: Final = 0.5


async def agree(store: KeyRingStore, issuer: Issuer, timing: Timing, *, clock: Clock) -> int:
    """The generation of the timing settings that this node shares with all others, now that it does.

    The first node writes its own. A node that starts while no other is live replaces what is there: keys
    keep the ``publish_until`` that was right when they signed, so no token is cut short. A node that
    starts beside others must agree, with either timing while it changes: raises ConfigurationError, which
    names each setting that differs; also where they have another ``cluster_key``.

    Where settings differ and other nodes have left traces, it takes some seconds to tell: a heartbeat that
    is old proves nothing after an outage of the store, and a young one nothing after a power cut.
    """
    check_cluster_key(await store.read(issuer))
    document = encode_agreement(Agreement(current=timing))
    for _ in range(_ATTEMPTS):
        stored = await store.timing(issuer)
        if stored is not None and _allows(stored, timing):
            return stored.generation
        if stored is not None and await _hears_a_node(store, issuer, clock):
            raise _difference(stored.document, timing, "other nodes are live and work with other timing")
        generation = stored.generation if stored is not None else 0
        if await store.swap_timing(issuer, expected=generation, document=document):
            return generation + 1
    raise StoreUnavailable("the timing settings changed at each of many attempts")


async def beside(store: KeyRingStore, issuer: Issuer, timing: Timing) -> tuple[Timing, ...]:
    """What others may work by than these settings, for a node that has agreed and starts now.

    Raises ConfigurationError where nodes have come to work with other timing meanwhile.
    """
    await check_agreed(store, issuer, timing)
    stored = await store.timing(issuer)
    if stored is None:
        return ()
    return read_agreement(stored).beside(timing, (await store.read(issuer)).now)


async def check_agreed(
    store: KeyRingStore,
    issuer: Issuer,
    timing: Timing,
    *,
    node: NodeId | None = None,
    working: Timing | None = None,
) -> None:
    """Raise ConfigurationError where the nodes work with other timing by now than these settings.

    That happens to a node that was silent for so long that another one, started with other timing, found
    nobody live; to one that was silent until a change was finished; and to one of two that start on an
    empty store in the same moment with different timing.

    While the timing changes, ``node`` is noted in the store once what it is ``working`` by stands beside
    both timings. Should somebody else write at that moment, the next call does it.
    """
    stored = await store.timing(issuer)
    if stored is None:
        return
    if not _allows(stored, timing):
        raise _difference(
            stored.document, timing, "this node was not heard of, and others work with other timing by now"
        )
    if node is None or working is None or not _is_changing(stored):
        return
    agreement = read_agreement(stored)
    noted = agreement.on_wanted if timing == agreement.wanted else agreement.on_current
    both = (agreement.current, agreement.wanted or agreement.current)
    if node in noted or not all(stands_beside(working, one) for one in both):
        return
    members = {member.node for member in (await store.read(issuer)).members}
    document = encode_agreement(agreement.joined(node, timing, members))
    await store.swap_timing(issuer, expected=stored.generation, document=document)


@dataclass(frozen=True, slots=True)
class Presence:
    """The ring, and every node that lives or may sign yet."""

    view: RingView
    nodes: frozenset[NodeId]


async def presence(store: KeyRingStore, issuer: Issuer, *, clock: Clock) -> Presence:
    """Who lives, or holds a lease that runs: after some seconds, where rows of silent nodes are there.

    Heartbeats are old after an outage of the store, although the nodes live.
    """
    before = await store.read(issuer)
    view = before
    recent = {m.node for m in before.members if abs(before.now - m.seen_at) < FORGOTTEN_AFTER}
    if any(not member.is_live(before.now) for member in before.members if member.node in recent):
        await clock.sleep(HEARD_WITHIN)
        view = await store.read(issuer)
    leased = {
        key.node
        for key in view.ring.keys
        if key.activated_at is not None and not key.is_of_cluster() and view.now < key.lease_until
    }
    live = {member.node for member in view.members if member.is_live(view.now)}
    return Presence(view, frozenset(live | leased))


# --- how an agreement is written -------------------------------------------------------------------


def encode_agreement(agreement: Agreement) -> bytes:
    """The document of an agreement; that of one timing alone is its settings by name."""
    current = _numbers(agreement.current)
    if agreement == Agreement(current=agreement.current):
        return msgspec.json.encode(current)
    return msgspec.json.encode(
        {
            "current": current,
            "wanted": None if agreement.wanted is None else _numbers(agreement.wanted),
            "on_current": agreement.on_current,
            "on_wanted": agreement.on_wanted,
            "copies_age": agreement.copies_age,
            "copies_until": agreement.copies_until,
        }
    )


def read_agreement(stored: StoredTiming) -> Agreement:
    """What :func:`encode_agreement` wrote; raises StoreDamaged for what no node of this version did."""
    document: dict[str, Any] = msgspec.json.decode(stored.document)
    try:
        if "current" not in document:
            return Agreement(current=_timing(document))
        wanted = document["wanted"]
        return Agreement(
            current=_timing(document["current"]),
            wanted=None if wanted is None else _timing(wanted),
            on_current=tuple(map(NodeId, document["on_current"])),
            on_wanted=tuple(map(NodeId, document["on_wanted"])),
            copies_age=Seconds(document["copies_age"]),
            copies_until=NumericDate(document["copies_until"]),
        )
    except (KeyError, TypeError):
        raise StoreDamaged("the timing settings in the store are of another version") from None


def differences(ours: Timing, theirs: Mapping[str, object]) -> tuple[str, ...]:
    """The settings that differ, by name, for people."""
    known = _numbers(ours)
    names = sorted(name for name in known.keys() | theirs.keys() if known.get(name) != theirs.get(name))
    return tuple(f"{name} is {known.get(name)} here and {theirs.get(name)} there" for name in names)


def documents(stored: StoredTiming) -> tuple[Mapping[str, object], ...]:
    """The settings that nodes may have, as they are written, whatever version wrote them."""
    document: Any = msgspec.json.decode(stored.document)
    if not isinstance(document, dict):
        return ({},)
    if "current" not in document:
        return (document,)
    return tuple(one for one in (document["current"], document.get("wanted")) if one is not None)


def _numbers(timing: Timing) -> dict[str, int]:
    return {name: getattr(timing, name) for name in NAMES}


def _timing(document: Mapping[str, Any]) -> Timing:
    # Whoever writes the database must not make a node count with what is no number.
    sound = all(type(value) is int and value >= 0 for value in document.values())
    if not sound or set(document) != set(NAMES):
        raise KeyError
    return Timing(**document)


def _is_changing(stored: StoredTiming) -> bool:
    return len(documents(stored)) > 1


def _allows(stored: StoredTiming, timing: Timing) -> bool:
    return _numbers(timing) in documents(stored)


def _difference(document: bytes, timing: Timing, said: str) -> ConfigurationError:
    stored = documents(StoredTiming(document, 0))
    differing = differences(timing, stored[0])
    name = differing[0].partition(" ")[0]
    others = "; a change to a third timing is under way" if len(stored) > 1 else ""
    return ConfigurationError(
        name,
        f"{said}: {', '.join(differing)}{others}; give all nodes the same settings, change them with "
        "`mintmark timing change`, or stop all nodes before one starts with others",
    )


# --- who is there ----------------------------------------------------------------------------------


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
