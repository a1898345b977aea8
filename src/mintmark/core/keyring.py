"""The key ring: every key of one issuer, the states they pass through, and what changes them.

One table, :data:`mintmark.core.key.TRANSITIONS`, says which state follows which. What changes the ring are
plain functions from a ring to a ring, and the store takes the result by compare-and-swap on the ring's
generation, so that of two nodes that act on the same ring one acts again on the new one. What a node must
do, and when, is decided in :mod:`mintmark.core.succession`, and who is there in
:mod:`mintmark.core.membership`.

Keys that one node holds form a line of succession of their own for each node. Keys that the cluster holds
(shared ones, and those of a token) form one line, of which at most one key is active, whoever made it.

All times are the store's. The arithmetic is in :mod:`mintmark.core.timing`; the rules that all of it keeps:

- K1 no key signs before it has been readable for the lead, except a bootstrap or an emergency;
- K2 a key stays readable until every token that it signed has expired, plus leeway and skew;
- K3 no token's ``exp`` is later than what its key's ``publish_until`` covers;
- K6 the number of keys is bounded, but no bound ever prevents a bootstrap;
- K7 a revoked key is out of the set at once and signs nowhere once its lease has ended.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from mintmark.core.algorithm import Algorithm
from mintmark.core.key import SIGNING, TRANSITIONS, Activation, Key, KeyEvent, KeyKind, KeyMode, KeyState
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.timing import MAX_LEEWAY, Timing
from mintmark.units import Issuer, Kid, NodeId, NumericDate, Seconds

MAX_STALE: Final = Seconds(86_400)
"""The longest that a verifier goes on with the keys it has while it cannot fetch any (``max_stale``)."""
REVOCATION_KEPT: Final = Seconds(7 * 86_400)

LIVE_FOR: Final = Seconds(10)
"""A node is live while its heartbeat is younger than this, by the store's clock."""

HEARD_WITHIN: Final = Seconds(6)
"""Three heartbeats: whoever lives while the store answers has been heard from by then."""

SILENT_FOR: Final = Seconds(4)
"""More than a node that works leaves between two heartbeats, which is 3.2 s at the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """Every key of one issuer as of one generation; ``keys`` are in the order of ``prepared_at``."""

    issuer: Issuer
    generation: int = 0
    keys: tuple[Key, ...] = ()
    rotate_requested_at: NumericDate | None = None
    """An operator asked at this time for new keys: active keys that are older are due."""
    kind: KeyKind | None = None
    """What keys are to sign; None until a node has written it. Keys of another kind are succeeded."""

    def find(self, kid: Kid) -> Key | None:
        """The key under ``kid``, whatever its state."""
        return next((key for key in self.keys if key.kid == kid), None)

    def published(self) -> tuple[Key, ...]:
        """The keys of the JWKS."""
        return tuple(key for key in self.keys if key.is_published())

    def held_by(self, node: NodeId, state: KeyState) -> Key | None:
        """The newest key in ``state`` that ``node`` alone holds."""
        keys = (key for key in reversed(self.keys) if key.node == node and not key.is_of_cluster())
        return next((key for key in keys if key.state is state), None)

    def held_by_cluster(self, state: KeyState) -> Key | None:
        """The newest key of the cluster in ``state``; of active ones there is one at most."""
        keys = (key for key in reversed(self.keys) if key.is_of_cluster())
        return next((key for key in keys if key.state is state), None)


@dataclass(frozen=True, slots=True)
class Member:
    """A node's heartbeat row: when it was last seen, and the ring generation that it serves."""

    node: NodeId
    seen_at: NumericDate
    ring_generation: int
    address: str = ""
    """Where its cluster listener is, ``host:port``; empty where it has none."""
    certificate: bytes = b""
    """The certificate of that listener, in DER; whoever calls it accepts no other."""
    modes: frozenset[KeyMode] = frozenset({KeyMode.OWN})
    """Whose keys it can sign with. Not that of a key that it could not open; none once it is leaving."""

    def is_leaving(self) -> bool:
        """Whether nobody may count on it any more."""
        return not self.modes

    def is_live(self, now: NumericDate) -> bool:
        """Whether the heartbeat is young enough; a lease is permission to sign, not a sign of life.

        One from the future is none: the store's clock was set back, and who lives has beaten since.
        """
        return abs(now - self.seen_at) < LIVE_FOR


class InvalidTransition(ValueError):
    """The table has no such transition: a defect of ours, or a ring that changed meanwhile."""


class MixedAlgorithms(ValueError):
    """EdDSA and another family would be in one set: some verifiers then refuse the whole set.

    ``until`` is when the last key that stands in the way may be gone, as it looks now.
    """

    def __init__(self, until: NumericDate) -> None:
        super().__init__("EdDSA is never mixed into a key set with RSA or EC keys")
        self.until = until


class KeyInUse(ValueError):
    """A key may not be removed: ``latest_exp`` is the latest ``exp`` that this could break.

    It may go from ``publish_until`` on, unless it is ``held``.
    """

    def __init__(self, latest_exp: NumericDate, publish_until: NumericDate, *, held: bool) -> None:
        super().__init__("the key is held" if held else "tokens of this key may still be valid (K2)")
        self.latest_exp = latest_exp
        self.publish_until = publish_until
        self.held = held


# --- from ring to ring ---------------------------------------------------------------------------


def step(key: Key, event: KeyEvent) -> KeyState:
    """The state that follows; raises InvalidTransition where the table has none."""
    try:
        return TRANSITIONS[key.state, event]
    except KeyError:
        raise InvalidTransition(f"a {key.state} key cannot be {event}") from None


def prepare(
    ring: Ring,
    *,
    kid: Kid,
    node: NodeId,
    alg: str,
    jwk: bytes,
    timing: Timing,
    now: NumericDate,
    mode: KeyMode = KeyMode.OWN,
    sealed: bytes | None = None,
    kind: KeyKind | None = None,
) -> Ring:
    """The ring with a new prepared key; a ``kid`` that it has already is the same key, so a defect.

    ``sealed`` is the private half of a shared key. ``kind`` is what keys are to sign from now on, where the
    ring does not say so yet. Raises MixedAlgorithms.
    """
    if ring.find(kid) is not None:
        raise InvalidTransition("this key is in the ring already")
    if (sealed is None) is (mode is KeyMode.SHARED):
        raise InvalidTransition("a shared key has its sealed half beside it, and no other has")
    if mode is not KeyMode.OWN and ring.held_by_cluster(KeyState.PREPARED) is not None:
        raise InvalidTransition("the cluster has prepared a key already")
    if (until := mixes(ring, alg)) is not None:
        raise MixedAlgorithms(until)
    key = Key(
        kid=kid,
        node=node,
        alg=alg,
        jwk=jwk,
        state=KeyState.PREPARED,
        since=ring.generation + 1,
        prepared_at=now,
        lease_until=NumericDate(now + timing.lease),
        mode=mode,
        sealed=sealed,
    )
    return replace(ring, generation=ring.generation + 1, keys=(*ring.keys, key), kind=ring.kind or kind)


def prove(ring: Ring, kid: Kid, *, now: NumericDate) -> Ring:
    """The ring in which the lead of ``kid`` starts to count."""
    key = _require(ring, kid)
    if key.state is not KeyState.PREPARED:
        raise InvalidTransition(f"a {key.state} key needs no proof")
    return _with(ring, replace(key, proven_at=key.proven_at or now))


def activate(ring: Ring, kid: Kid, activation: Activation, *, timing: Timing, now: NumericDate) -> Ring:
    """The ring in which ``kid`` signs, and what it takes the place of does not.

    A node's key takes the place of its former one; a key of the cluster that of every other key. Raises
    InvalidTransition where the key is not prepared or, for a proven activation, not readable for the lead
    yet (K1).
    """
    key = _require(ring, kid)
    if activation is Activation.PROVEN and (key.proven_at is None or now < key.proven_at + timing.lead):
        raise InvalidTransition("the key has not been readable for the lead yet (K1)")
    lease_until = NumericDate(now + timing.lease)
    activated = replace(
        key,
        state=step(key, KeyEvent.ACTIVATED),
        activated_at=now,
        activation=activation,
        sign_until=NumericDate(now + timing.rotate_every),
        lease_until=lease_until,
        publish_until=max(key.publish_until, timing.covered_until(lease_until)),
    )
    former = tuple(
        _moved(old, KeyEvent.SUPERSEDED)
        for old in ring.keys
        if old.state is KeyState.ACTIVE
        and (key.is_of_cluster() or (old.node == key.node and not old.is_of_cluster()))
    )
    return _with(ring, activated, *former)


def supersede(ring: Ring, kid: Kid) -> Ring:
    """The ring in which ``kid`` verifies only, because keys of another mode sign in its place."""
    key = _require(ring, kid)
    if not any(key.state is KeyState.ACTIVE and key.kid != kid for key in ring.keys):
        raise InvalidTransition("no other key signs")
    return _with(ring, _moved(key, KeyEvent.SUPERSEDED))


def renew(ring: Ring, kids: Iterable[Kid], *, timing: Timing, now: NumericDate) -> Ring:
    """The ring with the leases of ``kids`` renewed; ``publish_until`` of an active key rises with it.

    A key that is no longer prepared or active keeps what it had: its lease cannot be renewed.
    """
    lease_until = NumericDate(now + timing.lease)
    renewed = []
    for kid in kids:
        key = ring.find(kid)
        if key is None or key.state not in SIGNING:
            continue
        until = max(key.lease_until, lease_until)
        covered = timing.covered_until(until) if key.state is KeyState.ACTIVE else key.publish_until
        renewed.append(replace(key, lease_until=until, publish_until=max(key.publish_until, covered)))
    return _with(ring, *renewed) if renewed else ring


def lapse(ring: Ring, kid: Kid, *, now: NumericDate) -> Ring:
    """The ring after the lease of ``kid`` ended: it verifies only, or leaves where it never signed."""
    key = _require(ring, kid)
    if now < key.lease_until:
        raise InvalidTransition("the lease has not ended")
    return _with(ring, _moved(key, KeyEvent.LAPSED))


def drop(ring: Ring, kid: Kid) -> Ring:
    """The ring without a prepared key that will not sign: keys of another kind are wanted now."""
    key = _require(ring, kid)
    if key.state is not KeyState.PREPARED:
        raise InvalidTransition(f"a {key.state} key may have signed")
    return _with(ring, _moved(key, KeyEvent.LAPSED))


def retire(ring: Ring, kid: Kid, *, now: NumericDate) -> Ring:
    """The ring without ``kid``; raises InvalidTransition while it may still be needed (K2), or is held."""
    key = _require(ring, kid)
    if now < key.publish_until or key.held:
        raise InvalidTransition("tokens of this key may still be valid (K2)")
    return _with(ring, _moved(key, KeyEvent.EXPIRED))


def discard(ring: Ring, kid: Kid, *, timing: Timing, now: NumericDate) -> Ring:
    """The ring without ``kid``, because an operator asks for what time would do anyway, only later.

    Raises KeyInUse while a token of the key may be valid, or it is held; InvalidTransition for no key.
    """
    key = _require(ring, kid)
    signs = key.state is KeyState.ACTIVE and now < key.lease_until
    if signs or key.held or now < key.publish_until:
        latest_exp = NumericDate(max(0, key.publish_until - MAX_LEEWAY - timing.widest.clock_skew))
        raise KeyInUse(latest_exp, key.publish_until, held=key.held)
    if key.state is KeyState.ACTIVE:
        key = _moved(key, KeyEvent.LAPSED)
    return _with(ring, _moved(key, KeyEvent.LAPSED if key.state is KeyState.PREPARED else KeyEvent.EXPIRED))


def hold(ring: Ring, kid: Kid, held: bool) -> Ring:
    """The ring in which ``kid`` stays published until it is let go; the same ring where that is so already.

    Raises InvalidTransition for a key that is not published. A revocation takes a held key out all the same.
    """
    key = _require(ring, kid)
    if not key.is_published():
        raise InvalidTransition(f"a {key.state} key is not published")
    return ring if key.held is held else _with(ring, replace(key, held=held))


def revoke(
    ring: Ring, kid: Kid, *, reason: str, timing: Timing, now: NumericDate
) -> tuple[Ring, RevocationEvent]:
    """The ring in which ``kid`` is withdrawn, and the event that denies its tokens (design 3.8).

    The row and the event stay for as long as a verifier may still hold the key, and at least for seven
    days: whoever stole a key writes the ``exp`` of his tokens himself.
    """
    key = _require(ring, kid)
    kept = max(max(MAX_STALE, key.publish_until - now) + timing.verifier_cache, REVOCATION_KEPT)
    until = max(key.publish_until, NumericDate(now + kept))
    withdrawn = replace(
        _moved(key, KeyEvent.REVOKED), revoked_at=now, reason=reason, publish_until=until, held=False
    )
    return _with(ring, withdrawn), RevocationEvent(kind=Kind.KID, value=kid, expires_at=until)


def release(ring: Ring, node: NodeId, *, now: NumericDate) -> Ring:
    """The ring after ``node`` gave up signing: the leases of its own keys end now. The same ring where it
    held none.

    Call it only when its signer has forgotten the keys. Keys of the cluster are not its to give up.
    """
    given_up = tuple(
        replace(_moved(key, KeyEvent.LAPSED), lease_until=min(key.lease_until, now))
        for key in ring.keys
        if key.node == node and not key.is_of_cluster() and key.state in SIGNING
    )
    return _with(ring, *given_up) if given_up else ring


def rewind(ring: Ring, node: NodeId, *, timing: Timing, now: NumericDate) -> Ring:
    """The ring after the store's clock was set back: what ``node`` held is given up, and what the cluster
    holds is brought back to ``now``. The same ring where there is neither.

    The cluster's active key goes on as if it had been activated now, its lease to be renewed; what was signed
    under the old one stays covered. A prepared one leaves: when it was proven nobody can tell any more.
    """
    released = release(ring, node, now=now)
    brought_back = tuple(
        replace(
            key,
            lease_until=min(key.lease_until, now),
            activated_at=min(key.activated_at or now, now),
            sign_until=min(key.sign_until or now, NumericDate(now + timing.rotate_every)),
        )
        if key.state is KeyState.ACTIVE
        else _moved(key, KeyEvent.LAPSED)
        for key in ring.keys
        if key.is_of_cluster() and key.state in SIGNING
    )
    return (
        replace(_with(released, *brought_back), generation=ring.generation + 1) if brought_back else released
    )


def resign(ring: Ring, node: NodeId) -> Ring:
    """The ring in which others know that ``node`` is leaving; the same ring where there is nothing to say.

    Its active key signs on but is resigned, and a key that it had prepared leaves: it will not sign.
    """
    changed = tuple(
        replace(key, sign_until=key.activated_at)
        if key.state is KeyState.ACTIVE
        else _moved(key, KeyEvent.LAPSED)
        for key in ring.keys
        if key.node == node
        and not key.is_of_cluster()
        and (key.state is KeyState.PREPARED or (key.state is KeyState.ACTIVE and not key.is_resigned()))
    )
    return _with(ring, *changed) if changed else ring


def reseal(ring: Ring, kid: Kid, sealed: bytes) -> Ring:
    """The ring in which a shared key that may sign is sealed anew."""
    key = _require(ring, kid)
    if key.sealed is None:
        raise InvalidTransition("the key has no sealed half")
    return _with(ring, replace(key, sealed=sealed))


def request_rotation(ring: Ring, *, now: NumericDate) -> Ring:
    """The ring in which every key that is active now has a successor due."""
    return replace(ring, generation=ring.generation + 1, rotate_requested_at=now)


def switch(ring: Ring, kind: KeyKind, *, now: NumericDate) -> Ring:
    """The ring in which keys of ``kind`` succeed all others; the same ring where that is so already.

    Keys under which nothing is left leave at once. Raises MixedAlgorithms where others of another family
    than ``kind`` stay, and InvalidTransition for EdDSA in a token, which PKCS#11 modules do not share.
    """
    if ring.kind == kind:
        return ring
    if kind == KeyKind(KeyMode.HSM, Algorithm.EDDSA):
        raise InvalidTransition("a token signs with RS256, PS256 or ES256")
    kept = tuple(key for key in ring.keys if not key.is_published() or key.held or now < key.needed_until())
    after = replace(ring, generation=ring.generation + 1, keys=kept, kind=kind)
    if (until := _others_until(after, kind.alg)) is not None:
        raise MixedAlgorithms(until)
    return after


def mixes(ring: Ring, alg: str) -> NumericDate | None:
    """Until when a key of ``alg`` would be the first of its family in the set of another; None if never."""
    if any(_family(key.alg) is _family(alg) for key in ring.published()):
        return None
    return _others_until(ring, alg)


def _others_until(ring: Ring, alg: str) -> NumericDate | None:
    others = (key.needed_until() for key in ring.published() if _family(key.alg) is not _family(alg))
    return max(others, default=None)


def _family(alg: str) -> bool:
    """Whether it is EdDSA, which half of the verifiers in use refuse, some of them with the whole set."""
    return alg == Algorithm.EDDSA


def _require(ring: Ring, kid: Kid) -> Key:
    key = ring.find(kid)
    if key is None:
        raise InvalidTransition("no such key in the ring")
    return key


def _moved(key: Key, event: KeyEvent) -> Key:
    """The key in its next state; what may not sign any more needs no sealed half."""
    state = step(key, event)
    return replace(key, state=state, sealed=key.sealed if state in SIGNING else None)


def _with(ring: Ring, *changed: Key) -> Ring:
    """The next generation, with ``changed`` in place of the keys they came from; retired keys leave."""
    new = {key.kid: key for key in changed}
    keys = (new.get(key.kid, key) for key in ring.keys)
    kept = tuple(key for key in keys if key.state is not KeyState.RETIRED)
    return replace(ring, generation=ring.generation + 1, keys=kept)
