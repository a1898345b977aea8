"""The store in memory, for tests and as the plainest reading of the ports.

Several stores may share one :class:`MemoryData`, as nodes share a database.
Every operation lets others run before it does its work, as one on a real database does, and then does it
under one lock.

Longer than 300 lines because all ports of the store are here: that they hang together is easiest to see in
one place.
"""

import math
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Final

from mintmark.core.directory import Client, User
from mintmark.core.key import Key, KeyMode
from mintmark.core.keyring import Member, Ring
from mintmark.core.log import MARK_BYTES, Cursor, LogEntry, LogPage, denied_until
from mintmark.core.mark import UNMARKED, MarkKey, Marks
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.sessions import EndCause, Redeem, Session
from mintmark.core.timing import Timing
from mintmark.errors import Conflict, NotFound, StoreUnavailable
from mintmark.ports.budget import charged
from mintmark.ports.clock import Clock, Entropy
from mintmark.ports.keyring import FORGOTTEN_AFTER, RejectedRow, RingView, RowKind, StoredTiming
from mintmark.ports.revocations import CursorGone
from mintmark.ports.sessions import KEPT_FOR, SessionView
from mintmark.units import ClientId, Issuer, NodeId, NumericDate, Rid, Sub

Events = tuple[tuple[RevocationEvent, str], ...]


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


class _Shared:
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

    def end(
        self, which: Callable[[Session], bool], cause: EndCause, timing: Timing, *, at: NumericDate
    ) -> tuple[Rid, ...]:
        """End the sessions that ``which`` picks, with one event each where a token may still be valid."""
        ended = [s for s in self.data.sessions.values() if s.ended_at is None and which(s)]
        for session in ended:
            key = (session.issuer, session.rid)
            self.data.sessions[key] = replace(
                session, ended_at=at, end_cause=cause, version=session.version + 1
            )
            until = denied_until(session.last_exp, timing)
            if until > at:
                event = RevocationEvent(kind=Kind.RID, value=session.rid, expires_at=until)
                self.append(session.issuer, ((event, cause.value),), at=at)
        return tuple(session.rid for session in ended)


class MemoryStore:
    """:class:`mintmark.ports.store.Store` in memory; stores that share ``data`` are one database."""

    def __init__(
        self, *, clock: Clock, entropy: Entropy, data: MemoryData | None = None, marks: Marks = UNMARKED
    ) -> None:
        self._shared = _Shared(MemoryData() if data is None else data, clock, entropy, marks)
        self.keyring: Final = MemoryKeyRing(self._shared)
        self.sessions: Final = MemorySessions(self._shared)
        self.revocations: Final = MemoryRevocations(self._shared)
        self.directory: Final = MemoryDirectory(self._shared)

    @property
    def data(self) -> MemoryData:
        """What it keeps, to share or to back up."""
        return self._shared.data

    async def open(self) -> None:
        """From now on operations work."""
        self._shared.is_open = True

    async def close(self) -> None:
        """From now on operations raise StoreUnavailable; the data stays."""
        self._shared.is_open = False

    async def now(self) -> NumericDate:
        """The store's time."""
        async with self._shared.transaction() as now:
            return now


class MemoryKeyRing:
    """:class:`mintmark.ports.keyring.KeyRingStore` in memory."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._data = shared.data

    async def read(self, issuer: Issuer) -> RingView:
        """The ring as it is."""
        async with self._shared.transaction() as now:
            members = [member for (of, _), member in self._data.members.items() if of == issuer]
            members.sort(key=lambda member: member.node)
            strange = [member for member in members if not self._is_ours(issuer, member.node)]
            ring = self._ring(issuer)
            rejected = [RejectedRow(RowKind.NODE, member.node, member.seen_at) for member in strange]
            if not self._is_ours(issuer, None):
                keys = [RejectedRow(RowKind.KEY, key.kid) for key in ring.keys]
                rejected = [RejectedRow(RowKind.RING, issuer), *keys, *rejected]
                ring = Ring(issuer=issuer, generation=ring.generation)
            return RingView(
                ring,
                tuple(member for member in members if member not in strange),
                now,
                tuple(rejected),
                self._shared.marks.key is None
                and any(key is not None for (of, _), key in self._data.keys.items() if of == issuer),
            )

    def _is_ours(self, issuer: Issuer, node: NodeId | None) -> bool:
        marks, row = self._shared.marks, (issuer, node)
        if marks.key is None or row not in self._data.keys:
            return True
        written = self._data.keys[row]
        return marks.unmarked if written is None else written in {marks.key, *marks.also}

    def _ring(self, issuer: Issuer) -> Ring:
        return self._data.rings.get(issuer) or Ring(issuer=issuer)

    async def swap(self, expected: int, ring: Ring, *, events: Events = ()) -> bool:
        """Whether ``ring`` was taken in place of generation ``expected``, its events with it."""
        if ring.generation <= expected:
            raise ValueError("a ring that replaces another has a later generation")
        async with self._shared.transaction() as now:
            before = self._ring(ring.issuer)
            if before.generation != expected:
                return False
            if not self._is_ours(ring.issuer, None):
                before = Ring(issuer=ring.issuer)
            keys = tuple(_raised(key, before.find(key.kid)) for key in ring.keys)
            self._data.rings[ring.issuer] = replace(ring, keys=keys)
            self._data.keys[ring.issuer, None] = self._shared.marks.key
            for row in [row for row in self._data.members if row[0] == ring.issuer]:
                if not self._is_ours(*row):
                    del self._data.members[row]
                    del self._data.keys[row]
            self._shared.append(ring.issuer, events, at=now)
            return True

    async def beat(
        self,
        issuer: Issuer,
        node: NodeId,
        *,
        ring_generation: int,
        address: str = "",
        certificate: bytes = b"",
        modes: frozenset[KeyMode] = frozenset({KeyMode.OWN}),
    ) -> NumericDate:
        """Write the heartbeat row of ``node``; the store's time that it now carries."""
        async with self._shared.transaction() as now:
            members = self._data.members
            if (issuer, node) not in members:
                old = [k for k, m in members.items() if k[0] == issuer and m.seen_at + FORGOTTEN_AFTER <= now]
                for key in old:
                    del members[key]
                    self._data.keys.pop(key, None)
            self._data.keys[issuer, node] = self._shared.marks.key
            members[issuer, node] = Member(node, now, ring_generation, address, certificate, modes)
            return now

    async def leave(self, issuer: Issuer, node: NodeId) -> None:
        """Remove the heartbeat row."""
        async with self._shared.transaction():
            self._data.members.pop((issuer, node), None)
            self._data.keys.pop((issuer, node), None)

    async def timing(self, issuer: Issuer) -> StoredTiming | None:
        """The timing settings that the nodes of this issuer share."""
        async with self._shared.transaction():
            return self._data.timings.get(issuer)

    async def swap_timing(self, issuer: Issuer, *, expected: int, document: bytes) -> bool:
        """Whether ``document`` was taken in place of generation ``expected`` (0: there was none)."""
        async with self._shared.transaction():
            before = self._data.timings.get(issuer)
            if (before.generation if before else 0) != expected:
                return False
            self._data.timings[issuer] = StoredTiming(document, expected + 1)
            return True


def _raised(key: Key, before: Key | None) -> Key:
    until = key.publish_until if before is None else max(key.publish_until, before.publish_until)
    return replace(key, publish_until=until)


class MemorySessions:
    """:class:`mintmark.ports.sessions.SessionStore` in memory."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._data = shared.data

    async def start(self, session: Session, *, user: User) -> bool:
        """Whether the session was written; False where the user or the client changed meanwhile."""
        async with self._shared.transaction():
            now_user = self._data.users.get((session.issuer, user.sub))
            if now_user is None or now_user.disabled_at is not None:
                return False
            if now_user.password_hash != user.password_hash:
                return False
            if (session.issuer, session.client_id) not in self._data.clients:
                return False
            if (session.issuer, session.rid) in self._data.sessions:
                return False
            self._data.sessions[session.issuer, session.rid] = session
            return True

    async def read(self, issuer: Issuer, rid: Rid) -> SessionView:
        """The row as it is."""
        async with self._shared.transaction() as now:
            return SessionView(self._data.sessions.get((issuer, rid)), now)

    async def redeem(self, change: Redeem) -> bool:
        """Whether ``change.after`` was taken in place of the version of ``change.before``."""
        before, after = change.before, change.after
        async with self._shared.transaction() as now:
            row = self._data.sessions.get((before.issuer, before.rid))
            if row is None or row.version != before.version or not _is_live(row, now):
                return False
            self._data.sessions[row.issuer, row.rid] = replace(
                row,
                generation=after.generation,
                sealed=after.sealed,
                rotated_at=after.rotated_at,
                presented=after.presented,
                parent=after.parent,
                parent_sealed=after.parent_sealed,
                parent_spent_at=after.parent_spent_at,
                idle_until=max(row.idle_until, after.idle_until),
                last_exp=max(row.last_exp, after.last_exp),
                last_kid=after.last_kid,
                version=after.version,
            )
            return True

    async def end(self, issuer: Issuer, rid: Rid, *, cause: EndCause, timing: Timing) -> bool:
        """Whether this call ended the session."""
        async with self._shared.transaction() as now:
            this = (issuer, rid)
            return bool(self._shared.end(lambda s: (s.issuer, s.rid) == this, cause, timing, at=now))

    async def end_all(self, issuer: Issuer, sub: Sub, *, cause: EndCause, timing: Timing) -> tuple[Rid, ...]:
        """End every session of a user; those that this call ended."""
        async with self._shared.transaction() as now:
            return self._shared.end(lambda s: (s.issuer, s.sub) == (issuer, sub), cause, timing, at=now)

    async def list(self, issuer: Issuer, *, sub: Sub | None = None, limit: int = 100) -> tuple[Session, ...]:
        """Sessions that have neither ended nor expired, newest first."""
        async with self._shared.transaction() as now:
            found = [
                session
                for session in self._data.sessions.values()
                if session.issuer == issuer and sub in (None, session.sub) and _is_live(session, now)
            ]
            found.sort(key=lambda session: (-session.created_at, session.rid))
            return tuple(found[:limit])

    async def prune(self, issuer: Issuer) -> int:
        """Remove rows that can matter to nobody any more."""
        async with self._shared.transaction() as now:
            over = [
                key
                for key, session in self._data.sessions.items()
                if key[0] == issuer and _is_over(session, now - KEPT_FOR)
            ]
            for key in over:
                del self._data.sessions[key]
            return len(over)


def _is_live(session: Session, now: NumericDate) -> bool:
    return session.ended_at is None and now < session.expires_at and now < session.idle_until


def _is_over(session: Session, before: int) -> bool:
    ends = [session.expires_at, session.idle_until]
    if session.ended_at is not None:
        ends.append(session.ended_at)
    return session.last_exp <= before and min(ends) <= before


class MemoryRevocations:
    """:class:`mintmark.ports.revocations.RevocationLog` in memory."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._data = shared.data

    async def read(self, issuer: Issuer, after: Cursor | None, *, limit: int) -> LogPage | CursorGone:
        """Up to ``limit`` unexpired entries behind ``after``, or from the first where it is None."""
        if limit < 1:
            raise ValueError("a page has room for at least one entry")
        async with self._shared.transaction() as now:
            head = self._shared.head(issuer)
            kept = self._data.entries.get(issuer, ())
            places = {head, self._data.genesis[issuer], *(entry.cursor for entry in kept)}
            if after is not None and after not in places:
                return CursorGone()
            seq = after.seq if after else 0
            unread = [e for e in kept if e.cursor.seq > seq and e.event.expires_at > now]
            page = tuple(unread[:limit])
            complete = len(unread) <= limit
            return LogPage(page, head if complete else page[-1].cursor, complete, now)

    async def head(self, issuer: Issuer) -> tuple[Cursor, NumericDate]:
        """The cursor behind the newest entry, and the store's time at which it was read."""
        async with self._shared.transaction() as now:
            return self._shared.head(issuer), now

    async def prune(self, issuer: Issuer) -> int:
        """Remove what has expired; how many entries went."""
        async with self._shared.transaction() as now:
            before = self._data.entries.get(issuer, ())
            kept = tuple(entry for entry in before if entry.event.expires_at > now)
            self._data.entries[issuer] = kept
            return len(before) - len(kept)


class MemoryDirectory:
    """:class:`mintmark.ports.directory.Directory` in memory."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._data = shared.data

    async def add_user(self, user: User) -> None:
        """Raises Conflict where the name or the subject is taken."""
        async with self._shared.transaction():
            if (user.issuer, user.sub) in self._data.users or self._named(user.issuer, user.username):
                raise Conflict("there is a user of this name or subject already")
            self._data.users[user.issuer, user.sub] = user

    async def user_named(self, issuer: Issuer, username: str) -> User | None:
        """The user of this normalized name."""
        async with self._shared.transaction():
            return self._named(issuer, username)

    def _named(self, issuer: Issuer, username: str) -> User | None:
        these = (u for u in self._data.users.values() if (u.issuer, u.username) == (issuer, username))
        return next(these, None)

    async def user(self, issuer: Issuer, sub: Sub) -> User | None:
        """The user of this subject."""
        async with self._shared.transaction():
            return self._data.users.get((issuer, sub))

    async def users(self, issuer: Issuer) -> tuple[User, ...]:
        """All users, by name."""
        async with self._shared.transaction():
            found = [user for user in self._data.users.values() if user.issuer == issuer]
            return tuple(sorted(found, key=lambda user: user.username))

    async def disable_user(self, issuer: Issuer, sub: Sub, *, timing: Timing) -> int:
        """Disable, and end every session; how many it ended."""
        async with self._shared.transaction() as now:
            user = self._known(issuer, sub)
            if user.disabled_at is not None:
                return 0
            self._data.users[issuer, sub] = replace(user, disabled_at=now)
            return self._end_of(issuer, sub, EndCause.USER_DISABLED, timing, now)

    async def set_password(self, issuer: Issuer, sub: Sub, password_hash: str, *, timing: Timing) -> int:
        """Change the password, and end every session; how many it ended."""
        async with self._shared.transaction() as now:
            user = self._known(issuer, sub)
            changed = replace(user, password_hash=password_hash, password_changed_at=now)
            self._data.users[issuer, sub] = changed
            return self._end_of(issuer, sub, EndCause.PASSWORD_CHANGED, timing, now)

    def _known(self, issuer: Issuer, sub: Sub) -> User:
        user = self._data.users.get((issuer, sub))
        if user is None:
            raise NotFound("there is no such user")
        return user

    def _end_of(self, issuer: Issuer, sub: Sub, cause: EndCause, timing: Timing, now: NumericDate) -> int:
        return len(self._shared.end(lambda s: (s.issuer, s.sub) == (issuer, sub), cause, timing, at=now))

    async def rehash_password(self, user: User, password_hash: str) -> bool:
        """Store the same password under newer parameters; False where it was changed meanwhile."""
        async with self._shared.transaction():
            found = self._data.users.get((user.issuer, user.sub))
            if found is None or found.password_hash != user.password_hash:
                return False
            self._data.users[user.issuer, user.sub] = replace(found, password_hash=password_hash)
            return True

    async def add_client(self, client: Client) -> None:
        """Raises Conflict where the id is taken."""
        async with self._shared.transaction():
            if (client.issuer, client.client_id) in self._data.clients:
                raise Conflict("there is a client of this id already")
            self._data.clients[client.issuer, client.client_id] = client

    async def client(self, issuer: Issuer, client_id: ClientId) -> Client | None:
        """The client of this id."""
        async with self._shared.transaction():
            return self._data.clients.get((issuer, client_id))

    async def clients(self, issuer: Issuer) -> tuple[Client, ...]:
        """All clients, by id."""
        async with self._shared.transaction():
            found = [client for client in self._data.clients.values() if client.issuer == issuer]
            return tuple(sorted(found, key=lambda client: client.client_id))

    async def set_client_secret(self, issuer: Issuer, client_id: ClientId, secret_hash: bytes) -> None:
        """Replace the secret."""
        async with self._shared.transaction():
            client = self._registered(issuer, client_id)
            self._data.clients[issuer, client_id] = replace(client, secret_hash=secret_hash)

    def _registered(self, issuer: Issuer, client_id: ClientId) -> Client:
        client = self._data.clients.get((issuer, client_id))
        if client is None:
            raise NotFound("there is no such client")
        return client

    async def remove_client(self, issuer: Issuer, client_id: ClientId, *, timing: Timing) -> int:
        """Remove it, and end every session of its; how many it ended."""
        async with self._shared.transaction() as now:
            self._registered(issuer, client_id)
            del self._data.clients[issuer, client_id]
            cause, this = EndCause.CLIENT_REMOVED, (issuer, client_id)
            ended = self._shared.end(lambda s: (s.issuer, s.client_id) == this, cause, timing, at=now)
            return len(ended)
