"""A small world for the key ring: a store, nodes, signers, a public path and verifiers, without any I/O.

Everything is as slow, as stale and as broken as design section 3 allows, and nothing else: a node may act on
a ring that it read long ago, lose a swap, lose the answer of one that was taken, crash between any two
effects, pause past its lease, have a clock that is off, be told to leave, have another key-encryption key
than the others or no token; the store may be away, take a change long after it was asked to, and have its
clock set back; publication may be stuck; a verifier keeps its set for C behind a cache that kept it for M.
What the world records it checks by the promises, not by the code.

There are two times. ``now`` is the store's, by which everything is written down; ``t`` counts the seconds
that pass, whatever is done to clocks.
"""

import contextlib
from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True, slots=True)
class Means:
    """What a node was set up with: the name of its key-encryption key, and whether it reaches the token."""

    secret: str | None = None
    token: bool = False


EVERYTHING, NOTHING, ANOTHER = Means("a", token=True), Means(), Means("b")


@dataclass(slots=True)
class Held:
    """A private half in a signer: the latest ``exp`` that it may sign, and until when by a clock that nobody
    sets."""

    max_exp: int | None = None
    lease_until: int = 0
    deadline: int = 0


class StoreAway(Exception):
    """The store does not answer."""


@dataclass(slots=True)
class Store:
    """Compare-and-swap on the ring's generation, heartbeats, and the time that counts."""

    ring: Any
    now: int = 1_000_000
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
    """One run of a node. ``signer`` has what it holds of each key."""

    name: str
    means: Means = EVERYTHING
    kind: Any = None
    """What its settings want."""
    spare: bool = False
    signer: dict[str, Held] = field(default_factory=dict)
    usable: frozenset[Any] = frozenset()
    """What its heartbeat says of it: nothing that it has not seen."""
    made: str | None = None
    """A key that it made and the ring has not taken yet, and the generation that it was offered to."""
    made_kind: Any = None
    offered_to: int = -1
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
    """When it last found nothing left to change, as ``t``; and when it last looked."""
    looked_at: int = -(10**9)
    off: int = 0
    """Seconds by which its clock differs from the store's."""
    told_at: int | None = None
    """When it was told to leave."""
    gone: set[str] = field(default_factory=set)
    """The nodes that it knows to be dead."""
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
        self.t = 1_000
        self.kind = rules.DEFAULT_KIND
        self.token: set[str] = set()
        """The keys in the token that nodes share."""
        self.token_up = True
        self.deaths_show = False
        """Whether nodes ask at the addresses of those that fell silent."""
        self.set_back = 0
        """How far the store's clock was set back in all. Nodes that died before keep their places so long."""
        self.late: list[tuple[Any, Any, Node]] = []
        """Changes that the store was asked for and has not taken or refused yet."""
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
            self.pass_time(1)
            self._check_public()
        self.pass_time(seconds - lag)
        for kid, exp in list(self.signed.items()):
            if self.now >= exp + MAX_LEEWAY + self.timing.clock_skew:
                del self.signed[kid]

    def pass_time(self, seconds: int) -> None:
        self.store.now += seconds
        self.t += seconds

    def publish(self) -> None:
        """Write the derived set to the bucket, unless that is broken."""
        kids = frozenset(key.kid for key in self.store.ring.published())
        if self.publishing and kids != self.published[-1][1]:
            self.published.append((self.t, kids))

    def bucket(self, lag: int) -> frozenset[str]:
        """What the bucket held ``lag`` seconds ago."""
        return next(kids for at, kids in reversed(self.published) if at <= self.t - lag)

    def origins(self) -> list[frozenset[str]]:
        """Every answer that a fetch of the key set can get just now."""
        sets = [self.bucket(0), self.bucket(self.timing.propagation)]
        for node in self.nodes.values():
            beat = self.store.beats.get(node.name)
            ready = self.t - node.read_at <= self.timing.propagation and not node.paused
            if ready and beat is not None and beat.is_live(self.now):
                sets.append(frozenset(key.kid for key in node.serving.published()))
        return sets

    def edge(self, number: int, choice: int) -> Copy:
        """An HTTP cache's copy: it asks an origin once its own is M old."""
        edge = self.edges[number % len(self.edges)]
        if self.t - edge.at >= self.timing.jwks_max_age:
            origins = self.origins()
            edge.kids, edge.at = origins[choice % len(origins)], self.t
        return edge

    def fetch(self, number: int, choice: int) -> None:
        """A verifier fetches, through an edge."""
        verifier = self.verifiers[number]
        verifier.kids, verifier.at = self.edge(number, choice).kids, self.t

    # --- what a node does --------------------------------------------------------------------------

    def start(self, means: Means = EVERYTHING, *, spare: bool = False) -> Node:
        self.made += 1
        own = frozenset({self.rules.KeyMode.OWN})
        node = Node(f"n{self.made}", means, self.kind, spare, usable=own)
        self.nodes[node.name] = node
        return node

    def look(self, node: Node) -> None:
        """Beat, read, tell the signer what was committed, and see what is due; raises StoreAway."""
        store, k = self.store, self.rules
        store.need()
        if node.serving is None or self.t - node.read_at > self.timing.propagation:
            # Who has not read the store for d is not ready, and comes back with what it reads.
            node.serving, node.stalled = store.ring, False
        served = node.serving
        usable = node.usable if node.told_at is None else frozenset()
        store.beats[node.name] = k.Member(
            node.name, self.now, served.generation, address=node.name, modes=usable
        )
        if node.watch is None or self.t - node.read_at >= k.LIVE_FOR // 2:
            node.following_since = self.t
        node.watch = node.watch.read(self.now) if node.watch else k.Watch(self.now, self.now)
        node.ring, node.read_at, node.looked_at = store.ring, self.t, self.t
        if not node.stalled:
            node.serving = store.ring
        self._follow(node)
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
            kind=node.kind,
            spare=node.spare,
            modes=self.modes(node),
            loaded=self.loaded(node),
        )
        if self.deaths_show:
            # Nobody listens where a dead node did, and whoever asks there hears so.
            silent = {member.node for member in k.silent(node.view)}
            node.gone |= silent - self.nodes.keys()
            node.view = replace(node.view, gone=frozenset(node.gone))
        node.effects, node.acted = list(k.due(node.view, self.timing)), False
        wants = any(isinstance(effect, k.PrepareKey) for effect in node.effects)
        if node.made is not None and not wants and node.ring.generation > node.offered_to:
            self._forget(node, node.made, destroy=True)

    def modes(self, node: Node) -> frozenset[Any]:
        """What the signer of ``node`` was configured for."""
        modes = self.rules.KeyMode
        shared = {modes.SHARED} if node.means.secret is not None else set()
        return frozenset({modes.OWN} | shared | ({modes.HSM} if node.means.token else set()))

    def can_open(self, node: Node, key: Any) -> bool:
        """Whether the signer of ``node`` can get the private half of ``key``, which the cluster holds."""
        if key.mode is self.rules.KeyMode.HSM:
            return node.means.token and self.token_up and key.kid in self.token
        return key.sealed is not None and key.sealed == (node.means.secret or "").encode()

    def loaded(self, node: Node) -> frozenset[str]:
        """The keys of the cluster that ``node`` can sign with just now."""
        hsm = self.rules.KeyMode.HSM
        cluster = (key for key in node.ring.keys if key.is_of_cluster() and key.kid in node.signer)
        return frozenset(key.kid for key in cluster if key.mode is not hsm or self.token_up)

    def _follow(self, node: Node) -> None:
        """Load what the ring shows, tell the signer what was committed, forget what may not sign."""
        states = self.rules.KeyState
        if node.made is not None and node.ring.find(node.made) is not None:
            node.made = None
        for key in node.ring.keys:
            held = node.signer.get(key.kid)
            if held is not None and key.is_of_cluster() and held.lease_until > key.lease_until:
                held = None
                del node.signer[key.kid]
            signs = key.state in (states.PREPARED, states.ACTIVE)
            if held is None and key.is_of_cluster() and signs and self.can_open(node, key):
                held = node.signer[key.kid] = Held()
            if held is not None and key.state is states.ACTIVE and key.lease_until > held.lease_until:
                held.max_exp = max(held.max_exp or 0, self.timing.latest_exp(key.lease_until))
                held.lease_until, held.deadline = key.lease_until, self.t + key.lease_until - self.now
            ended = key.state is states.PASSIVE and self.now >= key.lease_until
            if held is not None and (key.state is states.REVOKED or ended):
                self._forget(node, key.kid, destroy=True)
        for kid in list(node.signer):
            if node.ring.find(kid) is None and kid != node.made:
                self._forget(node, kid, destroy=True)
        able = {
            key.mode
            for key in node.ring.keys
            if key.is_of_cluster() and key.state in (states.PREPARED, states.ACTIVE)
            if key.kid not in self.loaded(node)
        }
        away = set() if self.token_up else {self.rules.KeyMode.HSM}
        node.usable = self.modes(node) - able - away

    def _forget(self, node: Node, kid: str, *, destroy: bool) -> None:
        node.signer.pop(kid, None)
        if destroy:
            self.token.discard(kid)
        if node.made == kid:
            node.made = None

    def is_off(self, node: Node) -> bool:
        return abs(node.off) > self.timing.clock_skew

    def act(self, node: Node, *, late: bool = False) -> bool:
        """Perform the next effect of what the node saw, however long ago; whether it changed the ring.

        Where the store is ``late`` nobody learns what becomes of it.
        """
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
                case k.PrepareKey(kind):
                    if kind.mode is k.KeyMode.HSM and not self.token_up:
                        continue
                    self._check_room(node, kind)
                    shared = kind.mode is k.KeyMode.SHARED
                    after = k.prepare(
                        ring,
                        kid=self.make(node, kind),
                        node=node.name,
                        alg=kind.alg.value,
                        jwk=b"",
                        timing=timing,
                        now=now,
                        mode=kind.mode,
                        sealed=(node.means.secret or "").encode() if shared else None,
                        kind=kind,
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
                case k.SupersedeKey(kid):
                    after = k.supersede(ring, kid)
                case k.DropKey(kid):
                    after = k.drop(ring, kid)
                case k.ReleaseKeys():
                    node.signer.clear()
                    node.made = None
                    after = k.rewind(ring, node.name, timing=timing, now=now)
                case k.LapseKey(kid):
                    after = k.lapse(ring, kid, now=now)
                case k.RetireKey(kid):
                    after = k.retire(ring, kid, now=now)
                case k.ResignKeys():
                    after = k.resign(ring, node.name)
                case _:
                    continue
            node.acted = True
            if late:
                self.late.append((ring, after, replace(node)))
                return False
            return self.swap(ring, after, node=node)
        node.settled_at = node.looked_at
        return False

    def make(self, node: Node, kind: Any) -> str:
        """A key pair to be offered to the ring; the last one again where it was not taken."""
        if node.made is not None and node.made_kind != kind:
            self._forget(node, node.made, destroy=True)
        if node.made is None:
            self.made += 1
            node.made, node.made_kind = f"k{self.made}", kind
            node.signer[node.made] = Held()
            if kind.mode is self.rules.KeyMode.HSM:
                self.token.add(node.made)
        node.offered_to = node.view.ring.generation
        return node.made

    def arrive(self) -> None:
        """The store gets to what it was asked for last; it is taken where nobody was faster."""
        if self.late and self.store.up:
            before, after, node = self.late.pop()
            self.swap(before, after, node=node)

    def round(self, node: Node) -> None:
        """What a node that works does each few seconds."""
        for _ in range(12):
            self.look(node)
            if not self.act(node):
                break
        if node.told_at is not None and node.settled_at == self.t:
            self.decide(node)

    def decide(self, node: Node) -> None:
        """Whether a node that was told to leave may go, having done what was due; it goes some time later."""
        k = self.rules
        if k.departure(node.view, self.timing) is k.Departure.AWAITED:
            return
        node.departing = True
        own = node.ring.held_by(node.name, k.KeyState.ACTIVE)
        signing = [
            key
            for key in self.store.ring.keys
            if key.state is k.KeyState.ACTIVE and self.now < key.lease_until and key.kid in node.signer
            if not key.is_of_cluster() or key.kid in self.loaded(node)
        ]
        if not signing or self.is_off(node):
            return
        others = {name for name, beat in self.store.beats.items() if beat.is_live(self.now)} - {node.name}
        staying = {name for name in others & self.nodes.keys() if self.nodes[name].told_at is None}
        known = set[str]()
        for key in self.store.ring.keys:
            # Who goes on with the very key that this node signed with makes no verifier learn another.
            same = own is None and key.kid in node.signer and key.is_of_cluster()
            counts = key.state is k.KeyState.ACTIVE and self.now < key.lease_until
            if counts and (same or self.is_known(key)):
                able = {name for name, beat in self.store.beats.items() if key.mode in beat.modes}
                known |= able if key.is_of_cluster() else {key.node}
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
        return since is not None and self.t >= since + self.timing.lead - self.timing.propagation

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
        return node.departing or (node.told_at is not None and self.t >= node.told_at + HANDOVER)

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
        held = node.signer.get(kid)
        if held is None or held.max_exp is None or exp > held.max_exp or exp <= self.now:
            return False
        key = self.store.ring.find(kid)
        in_token = key is not None and key.mode is self.rules.KeyMode.HSM
        if (in_token and not (self.token_up and kid in self.token)) or self.t >= held.deadline:
            return False
        if kid in self.revoked:
            bound = self.revoked[kid] + self.timing.lease + self.timing.access_ttl
            assert exp <= bound, f"K7: a revoked key signed for {exp - bound} s too long"
        self.signed[kid] = max(exp, self.signed.get(kid, 0))
        return True

    def can_mint(self, node: Node) -> bool:
        """Whether the node can sign a token of full length with a key that it calls active."""
        keys = node.ring.keys if node.ring is not None else ()
        active = [key for key in keys if key.state is self.rules.KeyState.ACTIVE]
        return any(self.now < key.lease_until and self.sign(node, key.kid, 0) for key in active)

    def leave(self, node: Node) -> None:
        """Leave in good order: forget, give up the leases, take the heartbeat away."""
        self.store.need()
        if node.made is not None:
            self._forget(node, node.made, destroy=True)
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

    def switch(self, kind: Any) -> None:
        self.store.need()
        with contextlib.suppress(self.rules.MixedAlgorithms, self.rules.InvalidTransition):
            self.swap(self.store.ring, self.rules.switch(self.store.ring, kind, now=self.now))

    def hold(self, kid: str, *, held: bool) -> None:
        self.store.need()
        self.swap(self.store.ring, self.rules.hold(self.store.ring, kid, held))

    def discard(self, kid: str) -> None:
        self.store.need()
        with contextlib.suppress(self.rules.KeyInUse):
            after = self.rules.discard(self.store.ring, kid, timing=self.timing, now=self.now)
            self.swap(self.store.ring, after)

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
                assert not (old.held and old.activated_at), "a key left that an operator holds"
                continue
            assert new.publish_until >= old.publish_until, "RING-7: publish_until was lowered"
            self._check_move(old, new, after, node, left)
        self._check_public()
        return True

    def _check_move(self, old: Any, new: Any, after: Any, node: Node | None, left: Node | None) -> None:
        states = self.rules.KeyState
        active = [key for key in after.keys if key.state is states.ACTIVE]
        if old.state is states.PREPARED and new.state is states.ACTIVE:
            assert node is not None, "only a node activates a key"
            assert new.kid in node.signer, "a node activated a key that it does not hold"
            assert new.is_of_cluster() or new.node == node.name, "a node activated a key of another one"
            self._check_activation(new, node)
            alone = [key.kid for key in active] == [new.kid]
            assert alone or not new.is_of_cluster(), "another key signs beside the cluster's first one"
        if old.state is states.ACTIVE and new.state is states.PASSIVE and left is None:
            line = [key for key in active if key.is_of_cluster() or key.node == old.node]
            if not line:
                self._check_end(old, after, node)
        if new.state is states.ACTIVE:
            count = sum(
                key.is_of_cluster()
                if new.is_of_cluster()
                else key.node == new.node and not key.is_of_cluster()
                for key in active
            )
            assert count == 1, "a node has two active keys, or the cluster has"

    def _check_end(self, old: Any, after: Any, node: Node | None) -> None:
        """A key ends and none takes its place in its line: its lease has ended, or others sign by now."""
        states, modes = self.rules.KeyState, self.rules.KeyMode
        assert node is not None, "only a node ends a lease"
        if not old.is_of_cluster():
            if old.node == node.name and old.lease_until > node.view.now + self.timing.lease:
                # Its node gave it up, because the store's clock was set back.
                return
            assert node.view.now >= old.lease_until, "a lease was ended while it ran"
            if old.node not in node.view.gone:
                self._check_patience(node, "took a key from a node that could not renew its lease")
            return
        assert after.kind is not None, "the cluster's key was ended before anything else was wanted"
        assert after.kind.mode is modes.OWN, "the cluster's key was ended while it is wanted"
        taken_over = [
            key
            for key in after.keys
            if key.state is states.ACTIVE and self.is_known(key) and node.view.now < key.lease_until
        ]
        unheard = node.view.now >= old.lease_until
        assert taken_over or unheard, "a switch left nobody who signs with a key that is known"

    def _check_activation(self, key: Any, node: Node) -> None:
        if key.activation is self.rules.Activation.PROVEN:
            since = self.public_since.get(key.kid)
            assert since is not None, "K1: a proven key that nobody can read"
            # Publication may lag by d, which L allows for.
            early = since + self.timing.lead - self.timing.propagation - self.t
            assert early <= 0, "K1: a key signs before it was readable for L"
            return
        assert key.kid in self.published[-1][1], "K1: a bootstrap with a key that nobody can read"
        view = node.view
        live = [m for m in view.members if abs(view.now - m.seen_at) < 10 and m.node != node.name]
        live = [member for member in live if member.node not in view.gone]
        for other in view.ring.keys:
            # A lease from a time that has not come yet is given up by its node as soon as it looks.
            ahead = other.lease_until > view.now + self.timing.lease + self.timing.clock_skew
            if other.state is not self.rules.KeyState.ACTIVE or (ahead and not other.is_of_cluster()):
                continue
            if other.is_of_cluster():
                wants_own = view.ring.kind is not None and view.ring.kind.mode is self.rules.KeyMode.OWN
                assert wants_own, "K1: bootstrap beside a key of the cluster that is wanted"
                assert view.now >= other.lease_until, "K1: bootstrap beside a key that signs"
                able = any(other.mode in member.modes for member in live) or other.kid in view.loaded
                assert not able, "K1: bootstrap beside a live node that holds the cluster's key"
            elif other.node != node.name:
                assert all(m.node != other.node for m in live), "K1: bootstrap beside a live node"
                if other.node not in view.gone and (view.now < other.lease_until or view.interrupted):
                    self._check_patience(node, "K1: bootstrap beside a node that could not be heard")
                signer = self.nodes.get(other.node)
                back = signer is not None and not self.is_off(signer) and signer.settled_at > node.looked_at
                assert not back, "K1: bootstrap beside a node that has come back"

    def _check_patience(self, node: Node, fault: str) -> None:
        heard_for = node.looked_at - max(self.store.back_since, node.following_since)
        assert heard_for >= 6, fault

    def _check_room(self, node: Node, kind: Any) -> None:
        """K6: who prepares a key has a slot and room, or is the one who must begin."""
        ring, now, states = node.view.ring, node.view.now, self.rules.KeyState
        # The place of a node that has said that it leaves is free.
        signers = {
            key.node
            for key in ring.keys
            if key.state in (states.PREPARED, states.ACTIVE)
            and not key.is_of_cluster()
            and (key.sign_until is None or key.sign_until != key.activated_at)
        }
        fits = node.name in signers or len(signers) < self.timing.signers
        clusters = [key for key in ring.keys if key.is_of_cluster()]
        if kind.mode is not self.rules.KeyMode.OWN:
            fits = all(key.state is not states.PREPARED for key in clusters)
            assert fits, "K6: the cluster has two keys prepared"
        if fits and sum(key.is_published() for key in ring.keys) < self.timing.jwks_limit:
            return
        for key in ring.keys:
            seen = next((m for m in node.view.members if m.node == key.node), None)
            alive = seen is not None and abs(now - seen.seen_at) < 10 and key.node != node.name
            alive = alive and key.node not in node.view.gone
            if key.lease_until > now + self.timing.lease + self.timing.clock_skew:
                continue
            begins = key.state is states.PREPARED and now - key.prepared_at < self.timing.lease
            signs = key.state is states.ACTIVE and not key.is_of_cluster()
            assert not (alive and (begins or signs)), "K6: a key beyond the bounds"
            if key.is_of_cluster() and key.state is states.ACTIVE:
                assert key.kid not in node.view.loaded, "K6: a key beyond the bounds"

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
                self.public_since.setdefault(key.kid, self.t)

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
            may_sign = key.state in (states.PREPARED, states.ACTIVE)
            shut = key.sealed is None or (may_sign and key.mode is self.rules.KeyMode.SHARED)
            assert shut, "a key that may not sign is still in the store"
        families = {key.alg == "EdDSA" for key in public.values()}
        assert len(families) < 2, "EdDSA is mixed with another family"
        self._check_verifiers()

    def _check_verifiers(self) -> None:
        for number, verifier in enumerate(self.verifiers):
            if self.t - verifier.at >= self.timing.verifier_cache:
                self.fetch(number, 1)
            for kid, exp in self.signed.items():
                if kid in self.revoked or self.now >= exp or kid in verifier.kids:
                    continue
                proven = self.store.ring.find(kid).activation is self.rules.Activation.PROVEN
                lead_over = self.t - self.public_since.get(kid, self.t) >= self.timing.lead
                refused = proven or lead_over
                assert not refused, "K1: a verifier that follows the cache rule refused a valid token"

    # --- recovery ----------------------------------------------------------------------------------

    def heal(self) -> None:
        """End every fault."""
        self.set_store(up=True)
        self.publishing = self.token_up = True
        while self.late:
            self.arrive()
        for key in self.store.ring.published():
            self.hold(key.kid, held=False)
        for node in list(self.nodes.values()):
            node.paused = node.stalled = False
            node.off = 0
            if node.told_at is not None:
                # Told once more: it goes at once.
                self.go(node)

    def set_store(self, *, up: bool) -> None:
        if self.store.up and not up:
            self.store.away_since = self.t
        if up and not self.store.up and self.t - self.store.away_since >= self.rules.LIVE_FOR // 2:
            self.store.back_since = self.t
        self.store.up = up

    def set_clock_back(self, seconds: int) -> None:
        """Everybody's clock, the store's first of all, was ahead and is right now."""
        self.store.now -= seconds
        self.set_back += seconds

    def settle(self) -> None:
        """Once every fault has ended, some node can mint, soon."""
        self.heal()
        self.equip()
        self._until_someone_mints()

    def cut_power(self, away: int, nodes: int) -> None:
        """Every node is gone at once; the cluster's key signs on with whoever is back, and none is begun."""
        before = self.store.ring.held_by_cluster(self.rules.KeyState.ACTIVE)
        self.nodes.clear()
        self.wait(away)
        for _ in range(nodes):
            self.start()
        if before is None or before.sealed == b"b" or self.store.ring.kind != before.kind():
            return
        for _ in range(4):
            self.run(TICK)
            if any(self.can_mint(node) for node in self.nodes.values()):
                break
        after = self.store.ring.held_by_cluster(self.rules.KeyState.ACTIVE)
        minting = [node for node in self.nodes.values() if after and self.sign(node, after.kid, 0)]
        assert after is not None, "the cluster's key is gone after a power cut"
        assert minting, "nobody signs with the cluster's key after a power cut"
        unproven = after.kid != before.kid and after.activation is not self.rules.Activation.PROVEN
        assert not unproven, "a key was begun beside the cluster's"

    def equip(self) -> None:
        """See that a node lives that can open what the cluster has, and one that can make what is wanted."""
        ring, states = self.store.ring, self.rules.KeyState
        if not self.nodes:
            self.start()
        active = ring.held_by_cluster(states.ACTIVE)
        if active is not None and not any(self.can_open(node, active) for node in self.nodes.values()):
            self.start(ANOTHER if active.sealed == b"b" else EVERYTHING)
        kind = ring.kind or self.kind
        if not any(kind.mode in self.modes(node) for node in self.nodes.values()):
            self.start()

    def give_same_means(self) -> None:
        """Where own keys wait for the cluster's first one, see that every node can open it.

        Until then they go on, past their time: a switch must leave nobody behind.
        """
        ring, states, own = self.store.ring, self.rules.KeyState, self.rules.KeyMode.OWN
        if (ring.kind or self.kind).mode is own or ring.held_by_cluster(states.ACTIVE) is not None:
            return
        prepared = ring.held_by_cluster(states.PREPARED)
        means = ANOTHER if prepared is not None and prepared.sealed == b"b" else EVERYTHING
        for node in [node for node in self.nodes.values() if node.means != means]:
            del self.nodes[node.name]
            self.start(means)

    def settle_beside(self, node: Node) -> None:
        """A clock that is off keeps the others from minting for a lease and the time to begin, no longer."""
        self.heal()
        off = self.nodes.pop(node.name, None)
        self.equip()
        if off is not None:
            off.off = 600
            self.nodes[off.name] = off
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
        self.give_same_means()
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
        active = self.store.ring.held_by_cluster(self.rules.KeyState.ACTIVE)
        if active is None:
            # One more signs for good where it began while a node that had the slot was stuck.
            assert len(minting) >= min(len(self.nodes), self.timing.signers), "a live node has no active key"
            return
        able = [node for node in self.nodes.values() if self.can_open(node, active)]
        assert len(minting) >= len(able), "a node that can open the cluster's key cannot sign"
        assert active.kind() == self.store.ring.kind, "a switch has not come to its end"
        clusters = [key for key in self.store.ring.published() if key.is_of_cluster()]
        # One that comes, one that signs, and those that leave: they stay for longer here than a key signs.
        assert len(clusters) <= 6, "K6: the cluster has too many keys"
