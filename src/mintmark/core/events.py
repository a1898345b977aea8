"""What happened: the facts that core and use cases report, and ``server.audit`` logs and counts.

A name is ``noun.past_tense``; a field's name is the RFC's where one exists. No field ever holds a token,
a secret or a key, and what a caller wrote is cut and escaped by whoever prints it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

Value: TypeAlias = str | int | None


class EventName(StrEnum):
    """Every event there is; its severity is in :data:`WARNINGS`."""

    KEY_PREPARED = "key.prepared"
    KEY_PROVEN = "key.proven"
    KEY_ACTIVATED = "key.activated"
    KEY_SUPERSEDED = "key.superseded"
    KEY_DROPPED = "key.dropped"
    KEY_LAPSED = "key.lapsed"
    KEY_RETIRED = "key.retired"
    KEY_REVOKED = "key.revoked"
    KEY_HELD = "key.held"
    KEY_RELEASED = "key.released"
    KEY_REMOVED = "key.removed"
    KIND_SWITCHED = "kind.switched"
    TIMING_CHANGE_BEGUN = "timing_change.begun"
    TIMING_CHANGE_FINISHED = "timing_change.finished"
    TIMING_CHANGE_WITHDRAWN = "timing_change.withdrawn"
    KEY_RESEALED = "key.resealed"
    KEY_SWEPT = "key.swept"
    KEY_UNLOADABLE = "key.unloadable"
    KIND_DIFFERS = "kind.differs"
    HSM_LOST = "hsm.lost"
    HSM_RESTORED = "hsm.restored"
    LEASE_RENEWED = "lease.renewed"
    PROOF_FAILED = "proof.failed"
    ROTATION_REQUESTED = "rotation.requested"
    ROTATION_OVERDUE = "rotation.overdue"
    JWKS_LIMIT_REACHED = "jwks_limit.reached"
    NODE_STARTED = "node.started"
    NODE_RESIGNED = "node.resigned"
    NODE_SIGNS_ONLY = "node.signs_only"
    NODE_LEFT = "node.left"
    HANDOVER_AWAITED = "handover.awaited"
    HANDOVER_MISSED = "handover.missed"
    SLOTS_EXHAUSTED = "slots.exhausted"
    CLOCK_DRIFTED = "clock.drifted"
    CLOCK_SET_BACK = "clock.set_back"
    PROCESS_ENDED = "process.ended"
    UPKEEP_FAILED = "upkeep.failed"
    PUBLICATION_UPDATED = "publication.updated"
    PUBLICATION_OVERWRITTEN = "publication.overwritten"
    PUBLICATION_UNFENCED = "publication.unfenced"
    PUBLICATION_FAILED = "publication.failed"
    PUBLICATION_RESTORED = "publication.restored"
    STORE_FAILED = "store.failed"
    STORE_RESTORED = "store.restored"
    BUS_LOST = "bus.lost"
    BUS_RESTORED = "bus.restored"
    SESSION_STARTED = "session.started"
    SESSION_REFRESHED = "session.refreshed"
    SESSION_ENDED = "session.ended"
    SESSIONS_ENDED = "sessions.ended"
    SESSION_STOLEN = "session.stolen"
    LOGOUT_NOTICE_DELIVERED = "logout_notice.delivered"
    LOGOUT_NOTICE_FAILED = "logout_notice.failed"
    LOGOUT_NOTICE_REFUSED = "logout_notice.refused"
    LOGOUT_NOTICE_EXPIRED = "logout_notice.expired"
    ADDRESSES_DIFFERED = "addresses.differed"
    REFRESH_REFUSED = "refresh.refused"
    STORE_WENT_BACK = "store.went_back"
    ROW_REJECTED = "row.rejected"
    LOGIN_FAILED = "login.failed"
    CLIENT_REFUSED = "client.refused"
    TOKEN_ISSUED = "token.issued"  # noqa: S105 - the name of an event
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 - the name of an event
    TOKENS_REVOKED = "tokens.revoked"
    TOKEN_SIGNED_FOR_PEER = "token.signed_for_peer"  # noqa: S105 - the name of an event
    PEER_REFUSED = "peer.refused"
    PEER_TURNED_AWAY = "peer.turned_away"
    PEER_FAILED = "peer.failed"
    FEED_STALE = "feed.stale"
    ROWS_PRUNED = "rows.pruned"
    REQUEST_DEFERRED = "request.deferred"
    REQUEST_FAILED = "request.failed"
    USER_ADDED = "user.added"
    USER_DISABLED = "user.disabled"
    USER_LOCKED = "user.locked"
    USER_UNLOCKED = "user.unlocked"
    PASSWORD_CHANGED = "password.changed"  # noqa: S105 - the name of an event
    CLIENT_ADDED = "client.added"
    CLIENT_CHANGED = "client.changed"
    CLIENT_REMOVED = "client.removed"
    CLIENT_SECRET_ROTATED = "client_secret.rotated"  # noqa: S105 - the name of an event


WARNINGS = frozenset(
    {
        EventName.KEY_REVOKED,
        EventName.KEY_UNLOADABLE,
        EventName.KIND_DIFFERS,
        EventName.HSM_LOST,
        EventName.PROOF_FAILED,
        EventName.ROTATION_OVERDUE,
        EventName.JWKS_LIMIT_REACHED,
        EventName.HANDOVER_MISSED,
        EventName.SLOTS_EXHAUSTED,
        EventName.CLOCK_DRIFTED,
        EventName.CLOCK_SET_BACK,
        EventName.PROCESS_ENDED,
        EventName.UPKEEP_FAILED,
        EventName.PUBLICATION_OVERWRITTEN,
        EventName.PUBLICATION_UNFENCED,
        EventName.PUBLICATION_FAILED,
        EventName.STORE_FAILED,
        EventName.BUS_LOST,
        EventName.SESSION_STOLEN,
        EventName.LOGOUT_NOTICE_FAILED,
        EventName.LOGOUT_NOTICE_REFUSED,
        EventName.LOGOUT_NOTICE_EXPIRED,
        EventName.TOKENS_REVOKED,
        EventName.PEER_REFUSED,
        EventName.PEER_TURNED_AWAY,
        EventName.PEER_FAILED,
        EventName.STORE_WENT_BACK,
        EventName.ROW_REJECTED,
        EventName.FEED_STALE,
        EventName.REQUEST_FAILED,
    }
)
"""What a person should look at."""


@dataclass(frozen=True, slots=True)
class Event:
    """One fact and its fields."""

    name: EventName
    fields: Mapping[str, Value] = field(default_factory=dict)
