"""The use cases of one issuer on one node, as its HTTP surface gets them."""

from dataclasses import dataclass

from mintmark.core.algorithm import Algorithm
from mintmark.core.timing import Timing
from mintmark.ports.clock import Clock
from mintmark.server.audit import Audit
from mintmark.server.clients import Clients
from mintmark.server.feed import RevocationFeed
from mintmark.server.health import Health
from mintmark.server.ring import RingFollower
from mintmark.server.sessions import Sessions
from mintmark.server.tokens import Tokens
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
    clients: Clients
    tokens: Tokens
    health: Health
    audit: Audit
    clock: Clock
    streams_per_address: int = 256
    """How many streams of the feed one address may hold open at this process."""
