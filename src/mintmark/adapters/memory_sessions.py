"""Refresh sessions in memory."""

from dataclasses import replace

from mintmark.adapters.memory_data import Shared
from mintmark.core.directory import User
from mintmark.core.sessions import EndCause, Redeem, Session
from mintmark.core.timing import Timing
from mintmark.ports.sessions import KEPT_FOR, SessionView
from mintmark.units import Issuer, NumericDate, Rid, Sub


class MemorySessions:
    """:class:`mintmark.ports.sessions.SessionStore` in memory."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._data = shared.data

    async def start(self, session: Session, *, user: User) -> bool:
        """Whether the session was written; False where the user or the client changed meanwhile."""
        async with self._shared.transaction() as now:
            now_user = self._data.users.get((session.issuer, user.sub))
            if now_user is None or now_user.disabled_at is not None:
                return False
            if now_user.locked_until is not None and now < now_user.locked_until:
                return False
            if session.created_at <= self._shared.sessions_floor(session.issuer):
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
            session = self._data.sessions.get((issuer, rid))
            if session is None:
                return SessionView(None, now)
            user = self._data.users.get((issuer, session.sub))
            return SessionView(self._shared.shown(session), now, user)

    async def redeem(self, change: Redeem) -> bool:
        """Whether ``change.after`` was taken in place of the version of ``change.before``."""
        before, after = change.before, change.after
        async with self._shared.transaction() as now:
            row = self._data.sessions.get((before.issuer, before.rid))
            if row is None or row.version != before.version or not self._is_live(row, now):
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
                used_at=after.used_at,
                device=after.device,
                address=after.address,
            )
            return True

    def _is_live(self, session: Session, now: NumericDate) -> bool:
        ended = self._shared.shown(session).ended_at is not None
        return not ended and now < session.expires_at and now < session.idle_until

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
                if session.issuer == issuer and sub in (None, session.sub) and self._is_live(session, now)
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


def _is_over(session: Session, before: int) -> bool:
    ends = [session.expires_at, session.idle_until]
    if session.ended_at is not None:
        ends.append(session.ended_at)
    return session.last_exp <= before and min(ends) <= before
