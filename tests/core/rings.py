"""Rings for tests, built key by key, and what is due on them. Defaults: L = 935 s, H = 120 s."""

from mintmark.core import keyring, succession
from mintmark.core.key import Activation, Key
from mintmark.core.keyring import Member, Ring
from mintmark.core.membership import View
from mintmark.core.succession import Effect
from mintmark.core.timing import Timing
from mintmark.units import Issuer, Kid, NodeId, NumericDate

T = Timing()
A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
NOW = NumericDate(1_000_000)
EMPTY = Ring(issuer=Issuer("https://auth.example.com"))


def at(offset: int) -> NumericDate:
    return NumericDate(NOW + offset)


def prepared(ring: Ring, kid: str, node: NodeId = A, *, now: NumericDate = NOW, timing: Timing = T) -> Ring:
    return keyring.prepare(ring, kid=Kid(kid), node=node, alg="RS256", jwk=b"{}", timing=timing, now=now)


def active(ring: Ring, kid: str, node: NodeId = A, *, now: NumericDate = NOW, timing: Timing = T) -> Ring:
    ring = prepared(ring, kid, node, now=now, timing=timing)
    return keyring.activate(ring, Kid(kid), Activation.BOOTSTRAP, timing=timing, now=now)


def passive(ring: Ring, kid: str, node: NodeId = A, *, now: NumericDate = NOW, timing: Timing = T) -> Ring:
    ring = active(ring, kid, node, now=now, timing=timing)
    return keyring.lapse(ring, Kid(kid), now=NumericDate(now + timing.lease))


def key(ring: Ring, kid: str) -> Key:
    found = ring.find(Kid(kid))
    assert found is not None
    return found


def live(*nodes: NodeId, now: NumericDate = NOW, generation: int = 0) -> tuple[Member, ...]:
    return tuple(Member(node, now, generation) for node in nodes)


def due(
    ring: Ring,
    node: NodeId = A,
    *,
    now: NumericDate = NOW,
    members: tuple[Member, ...] = (),
    served: tuple[str, ...] = (),
    watched_since: NumericDate = NumericDate(0),
    interrupted: bool = False,
    clock_off: bool = False,
    leaving: bool = False,
    gone: tuple[NodeId, ...] = (),
    timing: Timing = T,
) -> tuple[Effect, ...]:
    view = View(
        ring=ring,
        members=members,
        node=node,
        now=now,
        served=frozenset(map(Kid, served)),
        watched_since=watched_since,
        interrupted=interrupted,
        clock_off=clock_off,
        leaving=leaving,
        gone=frozenset(gone),
    )
    return succession.due(view, timing)


def revoked(ring: Ring, kid: str, *, now: NumericDate = NOW) -> Ring:
    return keyring.revoke(ring, Kid(kid), reason="leaked", timing=T, now=now)[0]
