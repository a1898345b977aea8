"""What a store in memory keeps, and what its subjects do with it together."""

import math
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Final

from mintmark.core.directory import Client, User
from mintmark.core.keyring import Member, Ring
from mintmark.core.log import (
    MARK_BYTES,
    Cursor,
    LogEntry,
    denied_by_time_until,
    denied_until,
    not_before,
)
from mintmark.core.mark import MarkKey, Marks
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.sessions import EndCause, Session
from mintmark.core.timing import Timing
from mintmark.errors import StoreUnavailable
from mintmark.ports.budget import charged
from mintmark.ports.clock import Clock, Entropy
from mintmark.ports.keyring import StoredTiming
from mintmark.ports.outbox import GIVEN_UP_AFTER
from mintmark.ports.revocations import IssuedToken
from mintmark.units import ClientId, Issuer, Jti, NodeId, NumericDate, Rid, Sub

NEVER: Final = NumericDate(-1)
"""Before everything that a store holds."""
UNTOLD: Final = frozenset({EndCause.UNSIGNED, EndCause.CLIENT_REMOVED})
"""Ends of sessions of which no client hears: nobody ever held them, or nobody is left to be told."""

Events = tuple[tuple[RevocationEvent, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One row of the outbox."""

    client_id: ClientId
    sub: Sub
    ended_at: NumericDate
    attempts: int = 0
    due_at: NumericDate
    claimed_by: NodeId | None = None
    claimed_until: NumericDate = NEVER
    expires_at: NumericDate


@dataclass(slots=True)
class MemoryData:
    """Everything that a store keeps, by issuer first. The values are immutable, so a copy is cheap."""

    rings: dict[Issuer, Ring] = field(default_factory=dict)
    members: dict[tuple[Issuer, NodeId], Member] = field(default_factory=dict)
    keys: dict[tuple[Issuer, NodeId | None], MarkKey | None] = field(default_factory=dict)
    """Under which key of the cluster a member, or where there is no node the ring, was written."""
    timings: dict[Issuer, StoredTiming] = field(default_factory=dict)
    sessions: dict[tuple[Issuer, Rid], Session] = field(default_factory=dict)
    users: dict[tuple[Issuer, Sub], User] = field(default_factory=dict)
    clients: dict[tuple[Issuer, ClientId], Client] = field(default_factory=dict)
    genesis: dict[Issuer, Cursor] = field(default_factory=dict)
    heads: dict[Issuer, Cursor] = field(default_factory=dict)
    entries: dict[Issuer, tuple[LogEntry, ...]] = field(default_factory=dict)
    revoked: dict[tuple[Issuer, Jti], tuple[IssuedToken, NumericDate]] = field(default_factory=dict)
    """Tokens that were revoked one by one, and until when their events live."""
    floors: dict[Issuer, tuple[NumericDate, NumericDate]] = field(default_factory=dict)
    """Up to which ``iat`` all tokens of an issuer are denied, and which of its sessions are ended."""
    notices: dict[tuple[Issuer, Rid], Notice] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def backup(self) -> "MemoryData":
        """A copy as of now, which no later change reaches."""
        copy = MemoryData()
        copy.restore(self)
        return copy

    def restore(self, backup: "MemoryData") -> None:
        """Go back to ``backup``: what was committed since is gone."""
        with self.lock, backup.lock:
            for kept in fields(MemoryData):
                if kept.name != "lock":
                    setattr(self, kept.name, dict(getattr(backup, kept.name)))


class Shared:
    """What the subjects of one store have in common."""

    def __init__(self, data: MemoryData, clock: Clock, entropy: Entropy, marks: Marks) -> None:
        self.data: Final = data
        self.marks: Final = marks
        self.clock: Final = clock
        self.entropy: Final = entropy
        self.is_open = False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[NumericDate]:
        """One operation, whole: nothing awaits inside. What raises has changed nothing yet."""
        with charged(math.inf):
            await self.clock.sleep(0)
        if not self.is_open:
            raise StoreUnavailable("the store is not open")
        with self.data.lock:
            yield self.clock.now()

    def head(self, issuer: Issuer) -> Cursor:
        """The newest cursor; the log is begun where it never was."""
        if issuer not in self.data.heads:
            self.data.genesis[issuer] = Cursor(0, self.entropy.token_bytes(MARK_BYTES))
            self.data.heads[issuer] = self.data.genesis[issuer]
        return self.data.heads[issuer]

    def append(self, issuer: Issuer, events: Events, *, at: NumericDate) -> None:
        """Append events, each with its cause, to the log."""
        for event, cause in events:
            cursor = Cursor(self.head(issuer).seq + 1, self.entropy.token_bytes(MARK_BYTES))
            self.data.heads[issuer] = cursor
            entry = LogEntry(cursor, event, cause, at)
            self.data.entries[issuer] = (*self.data.entries.get(issuer, ()), entry)

    def sessions_floor(self, issuer: Issuer) -> NumericDate:
        """Every session that began until then is ended, whatever its row says."""
        return self.data.floors.get(issuer, (NEVER, NEVER))[1]

    def shown(self, session: Session) -> Session:
        """``session`` as its readers see it."""
        floor = self.sessions_floor(session.issuer)
        if session.ended_at is not None or session.created_at > floor:
            return session
        return replace(session, ended_at=floor, end_cause=EndCause.ADMIN)

    def end(
        self, which: Callable[[Session], bool], cause: EndCause, timing: Timing, *, at: NumericDate
    ) -> tuple[Rid, ...]:
        """End the sessions that ``which`` picks, with one event each where a token may still be valid."""
        alive = [s for s in self.data.sessions.values() if self.shown(s).ended_at is None and which(s)]
        for session in alive:
            self.close(session, cause, at=at, now=at)
            if cause is not EndCause.CLIENT_REMOVED:
                self.deny(session, cause, timing, at=at)
        return tuple(session.rid for session in alive)

    def deny(self, session: Session, cause: EndCause, timing: Timing, *, at: NumericDate) -> None:
        """Append the event of a session, where a token of it may still be valid."""
        until = denied_until(session.last_exp, timing)
        if until > at:
            event = RevocationEvent(kind=Kind.RID, value=session.rid, expires_at=until)
            self.append(session.issuer, ((event, cause.value),), at=at)

    def deny_client(
        self,
        issuer: Issuer,
        client_id: ClientId,
        cause: str,
        timing: Timing,
        *,
        before: NumericDate | None = None,
        at: NumericDate,
    ) -> NumericDate:
        """Append the event that denies what a client was given; up to which ``iat``."""
        upto = not_before(at, timing, before=before)
        event = RevocationEvent(
            kind=Kind.CLIENT, value=client_id, expires_at=denied_by_time_until(upto, timing), not_before=upto
        )
        self.append(issuer, ((event, cause),), at=at)
        return upto

    def close(self, session: Session, cause: EndCause, *, at: NumericDate, now: NumericDate) -> None:
        """Write into a session's row that it ended, and what its client is to be told."""
        row = (session.issuer, session.rid)
        self.data.sessions[row] = replace(session, ended_at=at, end_cause=cause, version=session.version + 1)
        client = self.data.clients.get((session.issuer, session.client_id))
        if client is None or client.backchannel_logout_uri is None or cause in UNTOLD:
            return
        self.data.notices[row] = Notice(
            client_id=session.client_id,
            sub=session.sub,
            ended_at=at,
            due_at=at,
            expires_at=NumericDate(now + GIVEN_UP_AFTER),
        )
