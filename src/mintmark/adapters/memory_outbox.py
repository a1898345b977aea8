"""The outbox of ended sessions in memory."""

from collections.abc import Iterator
from dataclasses import replace

from mintmark.adapters.memory_data import NEVER, Notice, Shared
from mintmark.ports.outbox import LogoutNotice
from mintmark.units import Issuer, NodeId, NumericDate, Rid, Seconds


class MemoryOutbox:
    """:class:`mintmark.ports.outbox.LogoutOutbox` in memory."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._data = shared.data

    def _waiting(self, issuer: Issuer) -> Iterator[tuple[Rid, Notice]]:
        """The notices of one issuer, those of a client in the order in which its sessions ended."""
        here = [(rid, notice) for (of, rid), notice in self._data.notices.items() if of == issuer]
        return iter(sorted(here, key=lambda found: (found[1].ended_at, found[0])))

    def _uri(self, issuer: Issuer, notice: Notice) -> str | None:
        client = self._data.clients.get((issuer, notice.client_id))
        return None if client is None else client.backchannel_logout_uri

    async def claim(
        self, issuer: Issuer, node: NodeId, *, span: Seconds, limit: int
    ) -> tuple[LogoutNotice, ...]:
        """Up to ``limit`` notices that are due, of as many clients, for ``node`` to deliver."""
        async with self._shared.transaction() as now:
            first: dict[str, tuple[Rid, Notice]] = {}
            for rid, notice in self._waiting(issuer):
                first.setdefault(notice.client_id, (rid, notice))
            claimed: list[LogoutNotice] = []
            for rid, notice in first.values():
                uri = self._uri(issuer, notice)
                if uri is None or notice.due_at > now or notice.claimed_until > now:
                    continue
                if notice.expires_at <= now or len(claimed) == limit:
                    continue
                self._data.notices[issuer, rid] = replace(
                    notice, claimed_by=node, claimed_until=NumericDate(now + span)
                )
                claimed.append(_notice(issuer, rid, notice, uri))
            return tuple(claimed)

    async def settle(self, notice: LogoutNotice, node: NodeId) -> bool:
        """Remove it; whether ``node`` still had it."""
        async with self._shared.transaction():
            row = (notice.issuer, notice.rid)
            found = self._data.notices.get(row)
            if found is None or found.claimed_by != node:
                return False
            del self._data.notices[row]
            return True

    async def postpone(self, notice: LogoutNotice, node: NodeId, *, span: Seconds) -> bool:
        """Note a failed attempt; whether ``node`` still had it."""
        async with self._shared.transaction() as now:
            row = (notice.issuer, notice.rid)
            found = self._data.notices.get(row)
            if found is None or found.claimed_by != node:
                return False
            self._data.notices[row] = replace(
                found,
                attempts=found.attempts + 1,
                due_at=NumericDate(now + span),
                claimed_by=None,
                claimed_until=NEVER,
            )
            return True

    async def expire(self, issuer: Issuer) -> tuple[LogoutNotice, ...]:
        """Remove what has expired; those."""
        async with self._shared.transaction() as now:
            expired: list[LogoutNotice] = []
            for rid, notice in self._waiting(issuer):
                uri = self._uri(issuer, notice)
                if uri is not None and (notice.expires_at > now or notice.claimed_until > now):
                    continue
                del self._data.notices[issuer, rid]
                if uri is not None:
                    expired.append(_notice(issuer, rid, notice, uri))
            return tuple(expired)

    async def pending(self, issuer: Issuer) -> int:
        """How many wait."""
        async with self._shared.transaction():
            return sum(1 for _ in self._waiting(issuer))


def _notice(issuer: Issuer, rid: Rid, notice: Notice, uri: str) -> LogoutNotice:
    return LogoutNotice(
        issuer=issuer,
        rid=rid,
        client_id=notice.client_id,
        sub=notice.sub,
        ended_at=notice.ended_at,
        uri=uri,
        attempts=notice.attempts,
        expires_at=notice.expires_at,
    )
