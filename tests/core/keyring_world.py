"""A small world for the key ring: a store, nodes, signers, a public path and verifiers, without any I/O.

Everything is as slow, as stale and as broken as design section 3 allows, and nothing else: a node may act on
a ring that it read long ago, lose a swap, lose the answer of one that was taken, crash between any two
effects, pause past its lease, have a clock that is off, be told to leave; the store may be away; publication
may be stuck; a verifier keeps its set for C behind a cache that kept it for M. What the world records it
checks by the promises, not by the code.
"""

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from mintmark.core.timing import MAX_LEEWAY, Timing
from mintmark.units import NumericDate, Seconds

TIMING = Timing(
    verifier_cache=Seconds(40),
    jwks_max_age=Seconds(20),
    propagation=Seconds(3),
    clock_skew=Seconds(4),
    access_ttl=Seconds(30),
    rotate_every=Seconds(160),
    lease=Seconds(24),
    feed_bound=Seconds(60),
    signers=3,
    jwks_limit=24,
)
"""As small as the rules between them allow, so that a few hundred seconds hold several rotations."""

TICK = 3
"""Seconds between two rounds of a node that works."""

HANDOVER = TIMING.lead + 60
"""How long a node that was told to leave goes on at the most."""


class StoreAway(Exception):
    """The store does not answer."""


@dataclass(slots=True)
class Store:
    """Compare-and-swap on the ring's generation, heartbeats, and the time that counts."""

    ring: Any
    now: int = 1_000
    up: bool = True
    beats: dict[str, Any] = field(default_factory=dict)
    away_since: int = 0
    back_since: int = 0
    """When the last outage that was longer than half of a heartbeat's life ended."""

    def need(self) -> None:
        if not self.up:
            raise StoreAway


@dataclass(slots=True, repr=False)
class Node:
    """One run of a node. ``signer`` maps each key that it holds to what it may sign: the latest ``exp``."""

    name: str
    signer: dict[str, int | None] = field(default_factory=dict)
    ring: Any = None
    """As it was read last."""
    serving: Any = None
    """As its listener serves it, where that lags behind."""
    stalled: bool = False
    paused: bool = False
    view: Any = None
    watch: Any = None
    following_since: int = 0
    read_at: int = 0
    settled_at: int = -(10**9)
    """When it last found nothing left to change."""
    off: int = 0
    """Seconds by which its clock differs from the store's."""
    told_at: int | None = None
    """When it was told to leave."""
    departing: bool = False
    """Whether it has decided to go: from then on nobody may rely on it."""
    effects: list[Any] = field(default_factory=list)
    acted: bool = True
    """Whether it has changed the ring, or tried to, since it last looked."""


@dataclass(slots=True)
class Copy:
    """A key set that somebody keeps: the names in it, and when it was fetched."""

    kids: frozenset[str] = frozenset()
    at: int = -(10**9)


class World:
    """``rules`` has the names of the modules under test, or of copies with a rule planted wrong."""

    def __init__(self, rules: ModuleType, *, timing: Timing = TIMING) -> None:
        self.rules = rules
        self.timing = timing
        self.store = Store(rules.Ring(issuer="https://auth.example.com"))
        self.nodes: dict[str, Node] = {}
        self.made = 0
        self.signed: dict[str, int] = {}
        """The latest ``exp`` of each key that signed anything."""
        self.published: list[tuple[int, frozenset[str]]] = [(0, frozenset())]
        """What the bucket held from when on."""
        self.publishing = True
        self.public_since: dict[str, int] = {}
        """Since when each key can be read through every public path."""
        self.revoked: dict[str, int] = {}
        self.edges = [Copy(), Copy()]
        self.verifiers = [Copy(), Copy(), Copy()]

    # --- time, publication and verifiers -----------------------------------------------------------

    @property
    def now(self) -> int:
        return self.store.now

    def wait(self, seconds: int) -> None:
        # What was published just now is public everywhere after the lag, long before the wait may end. Other
        # waits may have passed a part of the lag, so each second of it is looked at.
        lag = min(seconds, self.timing.propagation)
        for _ in range(lag):
            self.store.now += 1
            self._check_public()
        self.store.now += seconds - lag
        for kid, exp in list(self.signed.items()):
            if self.now >= exp + MAX_LEEWAY + self.timing.clock_skew:
                del self.signed[kid]

    def publish(self) -> None:
        """Write the derived set to the bucket, unless that is broken."""
        kids = frozenset(key.kid for key in self.store.ring.published())
        if self.publishing and kids != self.published[-1][1]:
            self.published.append((self.now, kids))

    def bucket(self, lag: int) -> frozenset[str]:
        """What the bucket held ``lag`` seconds ago."""
        return next(kids for at, kids in reversed(self.published) if at <= self.now - lag)

    def origins(self) -> list[frozenset[str]]:
        """Every answer that a fetch of the key set can get just now."""
        sets = [self.bucket(0), self.bucket(self.timing.propagation)]
        for node in self.nodes.values():
            beat = self.store.beats.get(node.name)
            ready = self.now - node.read_at <= self.timing.propagation and not node.paused
            if ready and beat is not None and beat.is_live(self.now):
                sets.append(frozenset(key.kid for key in node.serving.published()))
        return sets

    def edge(self, number: int, choice: int) -> Copy:
        """An HTTP cache's copy: it asks an origin once its own is M old."""
        edge = self.edges[number % len(self.edges)]
        if self.now - edge.at >= self.timing.jwks_max_age:
            origins = self.origins()
            edge.kids, edge.at = origins[choice % len(origins)], self.now
        return edge

    def fetch(self, number: int, choice: int) -> None:
        """A verifier fetches, through an edge."""
        verifier = self.verifiers[number]
        verifier.kids, verifier.at = self.edge(number, choice).kids, self.now

    # --- what a node does --------------------------------------------------------------------------

    def start(self) -> Node:
        self.made += 1
        node = Node(f"n{self.made}")
        self.nodes[node.name] = node
        return node

    def look(self, node: Node) -> None:
        """Beat, read, tell the signer what was committed, and see what is due; raises StoreAway."""
        store, k = self.store, self.rules
        store.need()
        if node.serving is None or self.now - node.read_at > self.timing.propagation:
            # Who has not read the store for d is not ready, and comes back with what it reads.
            node.serving, node.stalled = store.ring, False
        served = node.serving
        store.beats[node.name] = k.Member(node.name, self.now, served.generation)
        if node.watch is None or self.now - node.read_at >= k.LIVE_FOR // 2:
            node.following_since = self.now
        node.watch = node.watch.read(self.now) if node.watch else k.Watch(self.now, self.now)
        node.ring, node.read_at = store.ring, self.now
        if not node.stalled:
            node.serving = store.ring
        self._follow_leases(node)
        self.publish()
        in_bucket = self.published[-1][1]
        node.view = k.View(
            ring=store.ring,
            members=tuple(store.beats.values()),
            node=node.name,
            now=self.now,
            served=frozenset(key.kid for key in node.serving.published() if key.kid in in_bucket),
            watched_since=node.watch.since,
            interrupted=node.watch.interrupted,
            clock_off=self.is_off(node),
            leaving=node.told_at is not None,
        )
        node.effects, node.acted = list(k.due(node.view, self.timing)), False

    def _follow_leases(self, node: Node) -> None:
        states = self.rules.KeyState
        for kid in list(node.signer):
            key = node.ring.find(kid)
            if key is None or key.state is states.REVOKED:
                if key is not None or node.signer[kid] is not None:
                    del node.signer[kid]
            elif key.state is states.ACTIVE:
                node.signer[kid] = max(node.signer[kid] or 0, self.timing.latest_exp(key.lease_until))

    def is_off(self, node: Node) -> bool:
        return abs(node.off) > self.timing.clock_skew

    def act(self, node: Node) -> bool:
        """Perform the next effect of what the node saw, however long ago; whether it changed the ring."""
        if node.acted:
            return False
        view, ring, now = node.view, node.view.ring, node.view.now
        k, timing = self.rules, self.timing
        while node.effects:
            effect = node.effects.pop(0)
            if isinstance(effect, k.PrepareKey | k.ProveKey | k.ActivateKey | k.RenewLease):
                assert not view.clock_off, "a node whose clock is off took a key further"
            if isinstance(effect, k.PrepareKey | k.ProveKey | k.ActivateKey):
                assert not view.leaving, "a node that is leaving took a key further"
            match effect:
                case k.PrepareKey(_):
                    self._check_room(node)
                    self.made += 1
                    kid = f"k{self.made}"
                    node.signer[kid] = None
                    after = k.prepare(
                        ring, kid=kid, node=node.name, alg="RS256", jwk=b"", timing=timing, now=now
                    )
                case k.ProveKey(kid):
                    if not self._is_readable(kid, view):
                        continue
                    # The lead counts from a time that is read after the proof.
                    after = k.prove(ring, kid, now=self.now)
                case k.ActivateKey(kid, activation):
                    after = k.activate(ring, kid, activation, timing=timing, now=now)
                case k.RenewLease(kids):
                    after = k.renew(ring, kids, timing=timing, now=now)
                case k.LapseKey(kid):
                    after = k.lapse(ring, kid, now=now)
                case k.RetireKey(kid):
                    after = k.retire(ring, kid, now=now)
                case k.ResignKeys():
                    after = k.resign(ring, node.name)
                case _:
                    continue
            node.acted = True
            return self.swap(ring, after, node=node)
        node.settled_at = now
        return False

    def round(self, node: Node) -> None:
        """What a node that works does each few seconds."""
        for _ in range(12):
            self.look(node)
            if not self.act(node):
                break
        if node.told_at is not None and node.settled_at == self.now:
            self.decide(node)

    def decide(self, node: Node) -> None:
        """Whether a node that was told to leave may go, having done what was due; it goes some time later."""
        k = self.rules
        if k.departure(node.view, self.timing) is k.Departure.AWAITED:
            return
        node.departing = True
        own = node.ring.held_by(node.name, k.KeyState.ACTIVE)
        if own is None or self.is_off(node) or self.now >= own.lease_until:
            return
        others = {name for name, beat in self.store.beats.items() if beat.is_live(self.now)} - {node.name}
        staying = {name for name in others & self.nodes.keys() if self.nodes[name].told_at is None}
        known = {
            key.node
            for key in self.store.ring.keys
            if key.state is k.KeyState.ACTIVE and self.now < key.lease_until and self.is_known(key)
        }
        # One that died less than ten seconds ago may be relied on: nobody can know.
        departing = {n.name for n in self.nodes.values() if n.departing}
        relied_on = others & known - departing
        assert relied_on or not staying, "a node left and nobody signs with a key that is known"
        silent = {n.name for n in self.nodes.values() if n is not node and n.told_at is None}
        if not relied_on and node.view.interrupted and silent & self.store.beats.keys():
            self._check_patience(node, "a node left that could not hear others")

    def is_known(self, key: Any) -> bool:
        """Whether verifiers have had the time to learn it."""
        since = self.public_since.get(key.kid)
        return since is not None and self.now >= since + self.timing.lead - self.timing.propagation

    def run(self, seconds: int) -> None:
        """Let every node that is not paused work for some time."""
        for _ in range(0, seconds, TICK):
            self.wait(TICK)
            for node in list(self.nodes.values()):
                if not node.paused:
                    try:
                        self.go(node) if self.may_go(node) else self.round(node)
                    except StoreAway:
                        continue
            self.check()

    def may_go(self, node: Node) -> bool:
        """Whether it has decided to leave, or has waited for long enough."""
        return node.departing or (node.told_at is not None and self.now >= node.told_at + HANDOVER)

    def go(self, node: Node) -> None:
        """Leave: in good order where the store has ever heard of it."""
        if node.name in self.store.beats:
            self.leave(node)
        else:
            del self.nodes[node.name]

    def sign(self, node: Node, kid: str, late: int) -> bool:
        """Have the signer sign claims that were fixed ``late`` seconds ago; whether it did."""
        if self.is_off(node):
            # Its workers find that out themselves.
            return False
        exp = self.now + self.timing.access_ttl - late
        max_exp = node.signer.get(kid)
        if max_exp is None or exp > max_exp or exp <= self.now:
            return False
        if kid in self.revoked:
            bound = self.revoked[kid] + self.timing.lease + self.timing.access_ttl
            assert exp <= bound, f"K7: a revoked key signed for {exp - bound} s too long"
        self.signed[kid] = max(exp, self.signed.get(kid, 0))
        return True

    def can_mint(self, node: Node) -> bool:
        """Whether the node can sign a token of full length with the key that it calls active."""
        key = node.ring.held_by(node.name, self.rules.KeyState.ACTIVE) if node.ring is not None else None
        return key is not None and self.sign(node, key.kid, 0)

    def leave(self, node: Node) -> None:
        """Leave in good order: forget, give up the leases, take the heartbeat away."""
        self.store.need()
        node.signer.clear()
        self.swap(self.store.ring, self.rules.release(self.store.ring, node.name, now=self.now), left=node)
        del self.store.beats[node.name], self.nodes[node.name]

    def revoke(self, kid: str) -> None:
        self.store.need()
        after, event = self.rules.revoke(
            self.store.ring, kid, reason="leaked", timing=self.timing, now=self.now
        )
        self.revoked[kid] = self.now
        assert event.expires_at >= self.now + 7 * 86_400, "K7: the event is forgotten too soon"
        self.swap(self.store.ring, after)

    def rotate(self) -> None:
        self.store.need()
        self.swap(self.store.ring, self.rules.request_rotation(self.store.ring, now=self.now))

    # --- the store's answer, and what every change must keep -----------------------------------------

    def swap(self, before: Any, after: Any, *, node: Node | None = None, left: Node | None = None) -> bool:
        """Whether ``after`` was taken in place of ``before``; a change that breaks a promise fails."""
        self.store.need()
        if self.store.ring.generation != before.generation or after is before:
            return False
        assert after.generation == before.generation + 1, "a change that the compare-and-swap cannot see"
        self.store.ring = after
        for old in before.keys:
            new = after.find(old.kid)
            if new is None:
                exp = self.signed.get(old.kid, 0)
                safe = self.now >= exp + MAX_LEEWAY + self.timing.clock_skew
                assert safe or old.kid in self.revoked, "K2: a key left while its tokens were valid"
                continue
            assert new.publish_until >= old.publish_until, "RING-7: publish_until was lowered"
            self._check_move(old, new, after, node, left)
        self._check_public()
        return True

    def _check_move(self, old: Any, new: Any, after: Any, node: Node | None, left: Node | None) -> None:
        states = self.rules.KeyState
        if old.state is states.PREPARED and new.state is states.ACTIVE:
            assert node is not None, "only a node activates a key"
            assert new.node == node.name, "a node activated a key that it does not hold"
            self._check_activation(new, node)
        if old.state is states.ACTIVE and new.state is states.PASSIVE and left is None:
            replaced = after.held_by(old.node, states.ACTIVE)
            if replaced is None:
                assert node is not None, "only a node ends a lease"
                assert node.view.now >= old.lease_until, "a lease was ended while it ran"
                self._check_patience(node, "took a key from a node that could not renew its lease")
        if new.state is states.ACTIVE:
            count = sum(key.node == new.node and key.state is states.ACTIVE for key in after.keys)
            assert count == 1, "a node has two active keys"

    def _check_activation(self, key: Any, node: Node) -> None:
        if key.activation is self.rules.Activation.PROVEN:
            since = self.public_since.get(key.kid)
            assert since is not None, "K1: a proven key that nobody can read"
            # Publication may lag by d, which L allows for.
            early = since + self.timing.lead - self.timing.propagation - self.now
            assert early <= 0, "K1: a key signs before it was readable for L"
            return
        assert key.kid in self.published[-1][1], "K1: a bootstrap with a key that nobody can read"
        for other in node.view.ring.keys:
            if other.state is self.rules.KeyState.ACTIVE and other.node != node.name:
                seen = next((m for m in node.view.members if m.node == other.node), None)
                assert seen is None or node.view.now - seen.seen_at >= 10, "K1: bootstrap beside a live node"
                if node.view.now < other.lease_until or node.view.interrupted:
                    self._check_patience(node, "K1: bootstrap beside a node that could not be heard")
                signer = self.nodes.get(other.node)
                back = signer is not None and not self.is_off(signer) and signer.settled_at > node.view.now
                assert not back, "K1: bootstrap beside a node that has come back"

    def _check_patience(self, node: Node, fault: str) -> None:
        heard_for = node.view.now - max(self.store.back_since, node.following_since)
        assert heard_for >= 6, fault

    def _check_room(self, node: Node) -> None:
        """K6: who prepares a key has a slot and room, or is the one who must begin."""
        ring, now, states = node.view.ring, node.view.now, self.rules.KeyState
        # The place of a node that has said that it leaves is free.
        signers = {
            key.node
            for key in ring.keys
            if key.state in (states.PREPARED, states.ACTIVE)
            and (key.sign_until is None or key.sign_until != key.activated_at)
        }
        fits = node.name in signers or len(signers) < self.timing.signers
        if fits and sum(key.is_published() for key in ring.keys) < self.timing.jwks_limit:
            return
        for key in ring.keys:
            seen = next((m for m in node.view.members if m.node == key.node), None)
            alive = seen is not None and now - seen.seen_at < 10 and key.node != node.name
            begins = key.state is states.PREPARED and now - key.prepared_at < self.timing.lease
            assert not (alive and (begins or key.state is states.ACTIVE)), "K6: a key beyond the bounds"

    def _is_readable(self, kid: str, view: Any) -> bool:
        """The proof of 3.3: read back through the public path, and served by every live node."""
        key = view.ring.find(kid)
        if self.rules.unserved(key, view.members, view.now):
            return False
        return all(kid in self.edge(number, 0).kids for number in range(len(self.edges)))

    def _check_public(self) -> None:
        self.publish()
        sets = self.origins()
        for key in self.store.ring.keys:
            if all(key.kid in kids for kids in sets):
                self.public_since.setdefault(key.kid, self.now)

    def check(self) -> None:
        """The promises that hold at every moment."""
        self._check_public()
        states = self.rules.KeyState
        public = {key.kid: key for key in self.store.ring.published()}
        for kid, at in self.revoked.items():
            assert kid not in public, f"K7: revoked {self.now - at} s ago and still published"
        for kid, exp in self.signed.items():
            if kid in self.revoked:
                continue
            assert kid in public, "K2: a token's key is not published"
            covered = public[kid].publish_until
            assert exp + MAX_LEEWAY + self.timing.clock_skew <= covered, "K3: a token outlives its key"
        for key in self.store.ring.keys:
            assert key.state is not states.RETIRED, "a retired key is still in the ring"
        self._check_verifiers()

    def _check_verifiers(self) -> None:
        for number, verifier in enumerate(self.verifiers):
            if self.now - verifier.at >= self.timing.verifier_cache:
                self.fetch(number, 1)
            for kid, exp in self.signed.items():
                if kid in self.revoked or self.now >= exp or kid in verifier.kids:
                    continue
                proven = self.store.ring.find(kid).activation is self.rules.Activation.PROVEN
                lead_over = self.now - self.public_since.get(kid, self.now) >= self.timing.lead
                refused = proven or lead_over
                assert not refused, "K1: a verifier that follows the cache rule refused a valid token"

    # --- recovery ----------------------------------------------------------------------------------

    def heal(self) -> None:
        """End every fault."""
        self.set_store(up=True)
        self.publishing = True
        for node in list(self.nodes.values()):
            node.paused = node.stalled = False
            node.off = 0
            if node.told_at is not None:
                # Told once more: it goes at once.
                self.go(node)

    def set_store(self, *, up: bool) -> None:
        if self.store.up and not up:
            self.store.away_since = self.now
        if up and not self.store.up and self.now - self.store.away_since >= self.rules.LIVE_FOR // 2:
            self.store.back_since = self.now
        self.store.up = up

    def settle(self) -> None:
        """Once every fault has ended, some node can mint, soon."""
        self.heal()
        if not self.nodes:
            self.start()
        self._until_someone_mints()

    def settle_beside(self, node: Node) -> None:
        """A clock that is off keeps the others from minting for a lease and the time to begin, no longer."""
        self.heal()
        if len(self.nodes) < 2:
            self.start()
        if node.name in self.nodes:
            node.off = 600
        self._until_someone_mints()

    def _until_someone_mints(self) -> None:
        soon = 2 * self.rules.LIVE_FOR + self.timing.lease + 2 * TICK
        for _ in range(0, soon, TICK):
            self.run(TICK)
            if any(self.can_mint(node) for node in self.nodes.values()):
                return
        message = f"nobody can mint {soon} s after every fault ended"
        raise AssertionError(message)

    def settle_all(self) -> None:
        """After a lead and a rotation without faults every node with a slot signs, and no key is overdue."""
        self.settle()
        # Keys of dead nodes leave first, where they fill the set; then overdue keys are replaced.
        self.run(self.timing.covered_until(NumericDate(self.timing.lease)) + self.timing.prepare_before)
        for _ in range(0, self.timing.rotate_every, TICK):
            self.run(TICK)
            for key in self.store.ring.keys:
                signs = key.state is self.rules.KeyState.ACTIVE
                # A proof may need the lag of publication and some rounds more than one max-age.
                late = self.timing.propagation + 4 * TICK
                assert not signs or self.now < key.sign_until + late, "rotation is overdue"
        minting = [node for node in self.nodes.values() if self.can_mint(node)]
        # One more signs for good where it began while a node that had the slot was stuck.
        assert len(minting) >= min(len(self.nodes), self.timing.signers), "a live node has no active key"
