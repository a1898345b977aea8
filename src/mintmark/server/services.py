"""The use cases of one issuer on one node, as its HTTP surface gets them."""

from dataclasses import dataclass, field

from mintmark.core.algorithm import Algorithm
from mintmark.core.sealing import UNPEPPERED, Pepper
from mintmark.core.timing import Timing
from mintmark.ports.bus import Bus
from mintmark.ports.clock import Clock, Entropy
from mintmark.ports.passwords import PasswordHasher
from mintmark.ports.peer import PeerSigner
from mintmark.ports.signer import Signer
from mintmark.ports.store import Store
from mintmark.server.audit import Audit
from mintmark.server.backlog import Backlog
from mintmark.server.bearer import BearerTokens
from mintmark.server.clients import Clients
from mintmark.server.feed import RevocationFeed
from mintmark.server.health import Health
from mintmark.server.introspection import Introspection
from mintmark.server.issuing import Issuing
from mintmark.server.own_sessions import OwnSessions
from mintmark.server.revoking import Revoking
from mintmark.server.ring import RingFollower
from mintmark.server.sessions import Sessions
from mintmark.server.tokens import Tokens
from mintmark.server.web_origins import WebOrigins
from mintmark.units import Issuer, NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that answers requests; made once, by whoever composes the node."""

    issuer: Issuer
    node: NodeId
    timing: Timing
    algorithm: Algorithm
    ring: RingFollower
    feed: RevocationFeed
    sessions: Sessions
    own_sessions: OwnSessions
    web_origins: WebOrigins
    clients: Clients
    tokens: Tokens
    revoking: Revoking
    introspection: Introspection
    health: Health
    backlog: Backlog
    bus: Bus
    audit: Audit
    clock: Clock
    streams_per_address: int = 256
    """How many streams of the feed one address may hold open at this process."""
    feed_tokens: tuple[str, ...] = field(default=(), repr=False)
    """Any of these is asked for by the feed, which is everybody's where there is none."""


def compose(
    issuer: Issuer,
    *,
    node: NodeId,
    timing: Timing,
    algorithm: Algorithm,
    store: Store,
    bus: Bus,
    signer: Signer,
    passwords: PasswordHasher,
    clock: Clock,
    entropy: Entropy,
    audit: Audit,
    followers: int,
    streams_per_address: int = 256,
    peers: PeerSigner | None = None,
    feed_tokens: tuple[str, ...] = (),
    pepper: Pepper = UNPEPPERED,
) -> Services:
    """The services of ``issuer`` over these ports; ``followers`` bounds the streams of the feed.

    ``peers`` signs where this node cannot, if it is to. ``pepper`` is mixed into the seals of sessions.

    Nothing runs yet: whoever calls this runs ``ring.run()``, ``feed.run()`` and, for the metrics,
    ``backlog.run()`` for as long as they serve.
    """
    ring = RingFollower(issuer, store=store.keyring, bus=bus, clock=clock, timing=timing, audit=audit)
    feed = RevocationFeed(issuer, log=store.revocations, bus=bus, clock=clock, audit=audit, limit=followers)
    issuing = Issuing(
        node=node,
        ring=ring,
        signer=signer,
        clock=clock,
        entropy=entropy,
        timing=timing,
        audit=audit,
        peers=peers,
    )
    sessions = Sessions(
        issuer,
        store=store,
        bus=bus,
        issuing=issuing,
        passwords=passwords,
        entropy=entropy,
        timing=timing,
        audit=audit,
        pepper=pepper,
    )
    clients = Clients(issuer, directory=store.directory, audit=audit)
    bearers = BearerTokens(issuer, ring)
    revoking = Revoking(
        issuer,
        clients=clients,
        sessions=sessions,
        bearers=bearers,
        issuing=issuing,
        store=store,
        bus=bus,
        timing=timing,
        audit=audit,
    )
    introspection = Introspection(
        issuer, clients=clients, sessions=sessions, bearers=bearers, issuing=issuing, store=store
    )
    return Services(
        issuer=issuer,
        node=node,
        timing=timing,
        algorithm=algorithm,
        ring=ring,
        feed=feed,
        sessions=sessions,
        own_sessions=OwnSessions(issuer, store=store, sessions=sessions, bearers=bearers, issuing=issuing),
        web_origins=WebOrigins(issuer, directory=store.directory, clock=clock),
        clients=clients,
        tokens=Tokens(clients=clients, sessions=sessions, issuing=issuing),
        revoking=revoking,
        introspection=introspection,
        backlog=Backlog(issuer, outbox=store.outbox, clock=clock),
        health=Health(node=node, ring=ring, feed=feed, signer=signer, clock=clock, peers=peers),
        bus=bus,
        audit=audit,
        clock=clock,
        streams_per_address=streams_per_address,
        feed_tokens=feed_tokens,
    )
