"""Users and clients in memory."""

from dataclasses import replace

from mintmark.adapters.memory_data import NEVER, Shared
from mintmark.core.directory import Client, User
from mintmark.core.revocation import Kind
from mintmark.core.sessions import EndCause
from mintmark.core.timing import Timing
from mintmark.errors import Conflict, NotFound
from mintmark.units import ClientId, Issuer, NumericDate, Sub


class MemoryDirectory:
    """:class:`mintmark.ports.directory.Directory` in memory."""

    def __init__(self, shared: Shared) -> None:
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

    async def lock_user(self, issuer: Issuer, sub: Sub, until: NumericDate | None) -> None:
        """Have nothing minted in the user's name before ``until``."""
        async with self._shared.transaction():
            self._data.users[issuer, sub] = replace(self._known(issuer, sub), locked_until=until)

    async def rehash_password(self, user: User, password_hash: str) -> bool:
        """Store the same password under newer parameters; False where it was changed meanwhile."""
        async with self._shared.transaction():
            found = self._data.users.get((user.issuer, user.sub))
            if found is None or found.password_hash != user.password_hash:
                return False
            self._data.users[user.issuer, user.sub] = replace(found, password_hash=password_hash)
            return True

    async def remove_user(self, issuer: Issuer, sub: Sub) -> None:
        """Remove a user who was disabled."""
        async with self._shared.transaction():
            if self._known(issuer, sub).disabled_at is None:
                raise NotFound("there is no such user who is disabled")
            del self._data.users[issuer, sub]

    async def add_client(self, client: Client) -> None:
        """Raises Conflict where the id is taken."""
        async with self._shared.transaction():
            if (client.issuer, client.client_id) in self._data.clients:
                raise Conflict("there is a client of this id already")
            self._data.clients[client.issuer, client.client_id] = client

    async def client(self, issuer: Issuer, client_id: ClientId) -> Client | None:
        """The client of this id."""
        async with self._shared.transaction():
            client = self._data.clients.get((issuer, client_id))
            return None if client is None else self._shown(client)

    def _shown(self, client: Client) -> Client:
        """``client`` with what the log says of it; no entry that still matters has been pruned."""
        denied, _ = self._data.floors.get(client.issuer, (NEVER, NEVER))
        events = (entry.event for entry in self._data.entries.get(client.issuer, ()))
        named = (
            event.not_before or NEVER
            for event in events
            if event.kind is Kind.CLIENT and event.value == client.client_id
        )
        return replace(client, not_before=NumericDate(max(0, denied, *named)))

    async def clients(self, issuer: Issuer) -> tuple[Client, ...]:
        """All clients, by id."""
        async with self._shared.transaction():
            found = [self._shown(c) for c in self._data.clients.values() if c.issuer == issuer]
            return tuple(sorted(found, key=lambda client: client.client_id))

    async def set_client_secret(self, issuer: Issuer, client_id: ClientId, secret_hash: bytes) -> None:
        """Replace the secret."""
        async with self._shared.transaction():
            client = self._registered(issuer, client_id)
            self._data.clients[issuer, client_id] = replace(client, secret_hash=secret_hash)

    async def set_backchannel_logout_uri(self, issuer: Issuer, client_id: ClientId, uri: str | None) -> None:
        """Change where the client is told of ended sessions."""
        async with self._shared.transaction():
            client = self._registered(issuer, client_id)
            self._data.clients[issuer, client_id] = replace(client, backchannel_logout_uri=uri)

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
            for row in [row for row, notice in self._data.notices.items() if notice.client_id == client_id]:
                if row[0] == issuer:
                    del self._data.notices[row]
            cause, this = EndCause.CLIENT_REMOVED, (issuer, client_id)
            self._shared.deny_client(issuer, client_id, cause.value, timing, at=now)
            ended = self._shared.end(lambda s: (s.issuer, s.client_id) == this, cause, timing, at=now)
            return len(ended)
