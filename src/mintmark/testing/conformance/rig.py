"""A store under test, and the users, clients, sessions and keys that the suites put into it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from mintmark.core import base64url, sessions
from mintmark.core.directory import Client, User
from mintmark.core.key import Key, KeyState
from mintmark.core.log import Cursor, LogEntry
from mintmark.core.mark import Marks
from mintmark.core.sessions import Redeem, RefreshToken, Session, SessionStart, Verdict
from mintmark.core.timing import Timing
from mintmark.ports.clock import Entropy
from mintmark.ports.revocations import CursorGone
from mintmark.ports.store import Store
from mintmark.testing.clock import FakeClock
from mintmark.units import ClientId, Issuer, Kid, NodeId, NumericDate, Sub

ISSUER = Issuer("https://auth.example.com")
OTHER = Issuer("https://auth.example.org")
TIMING = Timing()
PASSWORD_HASH = "$argon2id$first"  # noqa: S105 - nobody's


def _alone(*_: object) -> Any:
    raise NotImplementedError("this rig has one store")


@dataclass(frozen=True, slots=True)
class Rig:
    """An open store of its own for one test, and the clock that it goes by."""

    store: Store
    clock: FakeClock
    entropy: Entropy
    peer: Callable[[], Awaitable[Store]] = _alone
    """Another open store on the same data, as another node has one."""
    closed: Callable[[], Store] = _alone
    """Another store on the same data that was not opened."""
    keyed: Callable[[Marks], Awaitable[Store]] = _alone
    """Another open store on the same data, with these marks."""

    def user(self, name: str = "alice", *, issuer: Issuer = ISSUER) -> User:
        """A user who was not added yet; the same each time."""
        now = self.clock.now()
        return User(
            issuer=issuer,
            sub=Sub(f"usr_{name}"),
            username=name,
            password_hash=PASSWORD_HASH,
            scopes=("orders:read", "orders:write"),
            created_at=now,
            password_changed_at=now,
        )

    def client(self, client_id: str = "shop", *, issuer: Issuer = ISSUER) -> Client:
        """A client that was not added yet; the same each time."""
        return Client(
            issuer=issuer,
            client_id=ClientId(client_id),
            name="Shop",
            secret_hash=bytes(32),
            grant_types=("refresh_token",),
            audiences=("orders",),
            scopes=("orders:read",),
            first_party=True,
            created_at=self.clock.now(),
        )

    async def added_user(self, name: str = "alice", *, issuer: Issuer = ISSUER) -> User:
        """A user who is there."""
        user = self.user(name, issuer=issuer)
        await self.store.directory.add_user(user)
        return user

    async def added_client(self, client_id: str = "shop", *, issuer: Issuer = ISSUER) -> Client:
        """A client that is there."""
        client = self.client(client_id, issuer=issuer)
        await self.store.directory.add_client(client)
        return client

    def new_session(
        self, user: User, client: Client, *, timing: Timing = TIMING
    ) -> tuple[Session, RefreshToken]:
        """A session that was not started yet, its first access token noted, and its refresh token."""
        session, token = sessions.start(
            SessionStart(
                issuer=user.issuer,
                sub=user.sub,
                client_id=client.client_id,
                scope=("orders:read",),
                audience=("orders",),
            ),
            rid=self.entropy.token_bytes(16),
            seed=self.entropy.token_bytes(32),
            timing=timing,
            now=self.clock.now(),
        )
        return replace(session, last_exp=NumericDate(self.clock.now() + timing.access_ttl)), token

    async def logged_in(
        self, user: User, client: Client, *, timing: Timing = TIMING
    ) -> tuple[Session, RefreshToken]:
        """A session that was started."""
        session, token = self.new_session(user, client, timing=timing)
        assert await self.store.sessions.start(session, user=user)
        return session, token

    async def someone(self) -> tuple[User, Client]:
        """One user and one client who are there."""
        return await self.added_user(), await self.added_client()

    def key(self, name: str, *, node: str = "node-1", since: int = 1) -> Key:
        """A prepared key; the same for one name."""
        now = self.clock.now()
        return Key(
            kid=Kid(name),
            node=NodeId(node),
            alg="ES256",
            jwk=b'{"kty":"EC"}',
            state=KeyState.PREPARED,
            since=since,
            prepared_at=now,
            lease_until=NumericDate(now + TIMING.lease),
        )


async def redeem(
    store: Store, session: Session, token: RefreshToken, *, timing: Timing = TIMING, kid: str = "kid"
) -> Verdict:
    """What redeeming ``token`` comes to once the store has agreed; asks again whenever another was first."""
    while True:
        view = await store.sessions.read(session.issuer, session.rid)
        verdict = sessions.decide(view.session, token, session.client_id, timing=timing, now=view.now)
        if not isinstance(verdict, Redeem):
            return verdict
        exp = NumericDate(view.now + timing.access_ttl)
        change = sessions.with_access_token(verdict, exp=exp, kid=Kid(kid))
        if await store.sessions.redeem(change):
            return change


async def read_log(store: Store, issuer: Issuer = ISSUER, *, limit: int = 100) -> tuple[LogEntry, ...]:
    """Every unexpired entry of the log, page by page."""
    entries: list[LogEntry] = []
    after: Cursor | None = None
    while True:
        page = await store.revocations.read(issuer, after, limit=limit)
        assert not isinstance(page, CursorGone)
        entries += page.entries
        if page.complete:
            return tuple(entries)
        after = page.cursor


def kid_of(text: str) -> Kid:
    """A kid of the right shape that is the same for one text."""
    return Kid(base64url.encode(text.encode().ljust(32, b"\0")))
