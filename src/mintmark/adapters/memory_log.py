"""The revocation log in memory."""

from mintmark.adapters.memory_data import NEVER, Shared
from mintmark.core.log import (
    Admission,
    Cursor,
    LogPage,
    admit,
    denied_by_time_until,
    denied_until,
    not_before,
)
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.sessions import EndCause
from mintmark.core.timing import Timing
from mintmark.ports.revocations import CursorGone, IssuedToken
from mintmark.units import ClientId, Issuer, Jti, NumericDate


class MemoryRevocations:
    """:class:`mintmark.ports.revocations.RevocationLog` in memory."""

    def __init__(self, shared: Shared) -> None:
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
            for token in [key for key, (_, until) in self._data.revoked.items() if until <= now]:
                if token[0] == issuer:
                    del self._data.revoked[token]
            return len(before) - len(kept)

    async def revoke_token(
        self, issuer: Issuer, token: IssuedToken, *, cause: str, timing: Timing
    ) -> Admission:
        """What revoking ``token`` came to; NOTHING too where it had been revoked before."""
        async with self._shared.transaction() as now:
            if self._is_revoked(issuer, token.jti, now):
                return Admission.NOTHING
            here = [t for (of, _), (t, until) in self._data.revoked.items() if of == issuer and until > now]
            session = self._data.sessions.get((issuer, token.rid)) if token.rid is not None else None
            in_session = sum(t.rid == token.rid for t in here)
            admission = admit(
                token.exp,
                # A session that the store does not know cannot be ended.
                live_in_session=None if session is None else in_session,
                live_of_client=sum(t.client_id == token.client_id for t in here),
                timing=timing,
                now=now,
            )
            match admission:
                case Admission.APPEND:
                    until = denied_until(token.exp, timing)
                    self._data.revoked[issuer, token.jti] = (token, until)
                    event = RevocationEvent(kind=Kind.JTI, value=token.jti, expires_at=until)
                    self._shared.append(issuer, ((event, cause),), at=now)
                case Admission.END_SESSION:
                    self._shared.end(lambda s: s is session, EndCause.REVOKED, timing, at=now)
                case Admission.NOTHING | Admission.REFUSE:
                    pass
            return admission

    async def is_revoked(self, issuer: Issuer, jti: Jti) -> bool:
        """Whether that one token was revoked."""
        async with self._shared.transaction() as now:
            return self._is_revoked(issuer, jti, now)

    def _is_revoked(self, issuer: Issuer, jti: Jti, now: NumericDate) -> bool:
        _, until = self._data.revoked.get((issuer, jti), (None, NEVER))
        return until > now

    async def revoke_client(
        self,
        issuer: Issuer,
        client_id: ClientId,
        *,
        cause: str,
        timing: Timing,
        before: NumericDate | None = None,
    ) -> NumericDate:
        """Deny every token of a client that was issued until now, or until ``before``."""
        async with self._shared.transaction() as now:
            return self._shared.deny_client(issuer, client_id, cause, timing, before=before, at=now)

    async def revoke_all(
        self,
        issuer: Issuer,
        *,
        cause: str,
        timing: Timing,
        before: NumericDate | None = None,
        sessions: bool = False,
    ) -> NumericDate:
        """The same for every token of the issuer, and with ``sessions`` for its sessions."""
        async with self._shared.transaction() as now:
            upto = not_before(now, timing, before=before)
            event = RevocationEvent(
                kind=Kind.ALL, value="", expires_at=denied_by_time_until(upto, timing), not_before=upto
            )
            self._shared.append(issuer, ((event, cause),), at=now)
            tokens_floor, sessions_floor = self._data.floors.get(issuer, (NEVER, NEVER))
            ended = min(upto, now) if sessions else NEVER
            self._data.floors[issuer] = max(tokens_floor, upto), max(sessions_floor, ended)
            return upto

    async def end_revoked(self, issuer: Issuer, *, timing: Timing) -> int:
        """Write into the rows of sessions that ``revoke_all`` ended that it did."""
        async with self._shared.transaction() as now:
            denied, floor = self._data.floors.get(issuer, (NEVER, NEVER))
            left = [
                session
                for session in self._data.sessions.values()
                if session.issuer == issuer and session.ended_at is None and session.created_at <= floor
            ]
            for session in left:
                self._shared.close(session, EndCause.ADMIN, at=floor, now=now)
                late = max(timing.widest.refresh_grace, timing.widest.clock_skew)
                if max(session.used_at, session.rotated_at) + late > denied:
                    self._shared.deny(session, EndCause.ADMIN, timing, at=now)
            return len(left)
