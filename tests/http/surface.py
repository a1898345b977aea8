"""One node's HTTP surface for tests: the real use cases on the store in memory, and a signer in the loop."""

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import argon2
import httpx2
from starlette.applications import Starlette

from mintmark.adapters.argon2 import Argon2Hasher
from mintmark.adapters.memory import MemoryStore
from mintmark.adapters.memory_bus import MemoryBus
from mintmark.core import keyring
from mintmark.core.algorithm import Algorithm
from mintmark.core.directory import Client, User
from mintmark.core.key import Activation
from mintmark.core.logout_token import LOGOUT_TOKEN_TYP
from mintmark.core.minting import ACCESS_TOKEN_TYP
from mintmark.core.sealing import UNPEPPERED, Pepper
from mintmark.core.timing import Timing
from mintmark.http.app import create_app
from mintmark.ports.bus import Bus
from mintmark.ports.clock import Clock
from mintmark.ports.store import Store
from mintmark.server import document
from mintmark.server.audit import Audit
from mintmark.server.services import Services, compose
from mintmark.signer.local import LocalSigner
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults, FaultyStore
from mintmark.units import ClientId, Issuer, Kid, NodeId, NumericDate, Sub

ISSUER: Final = Issuer("https://auth.example.com")
PASSWORD: Final = "correct horse battery staple"
SECRET: Final = "s3cret-of-the-service"
ALICE: Final = Sub("usr_alice")
ALG: Final = Algorithm.ES256


@dataclass(slots=True)
class Surface:
    """A running node and what a test may reach behind its HTTP surface."""

    services: Services
    app: Starlette
    http: httpx2.AsyncClient
    clock: Clock
    store: Store
    bus: Bus
    signer: LocalSigner
    kid: Kid
    reading: asyncio.Task[None]
    """The loop that reads the ring."""
    following: asyncio.Task[None]
    """The loop that reads the revocation log."""

    @property
    def issuer(self) -> Issuer:
        """The issuer."""
        return self.services.issuer

    async def read_ring(self) -> None:
        """Read the ring now, and tell the feed's followers of it, as a worker does at each change."""
        self.services.feed.announce_keys((await self.services.ring.refresh()).ring)

    async def log_in(self, **members: Any) -> dict[str, Any]:
        """The tokens of a new session of Alice."""
        body = {"username": "alice", "password": PASSWORD, "client_id": "spa"} | members
        answer = await self.http.post("/v1/sessions", json=body)
        assert answer.status_code == 201, answer.text
        tokens: dict[str, Any] = answer.json()
        return tokens

    async def refresh(self, refresh_token: str, **fields: str) -> httpx2.Response:
        """What /token answers to a refresh by the public client."""
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": "spa"} | fields
        return await self.http.post("/token", data=form)

    async def log_out(self, access_token: str) -> httpx2.Response:
        """What the log-out with an access token answers."""
        return await self.http.delete(
            "/v1/sessions/current", headers={"Authorization": f"Bearer {access_token}"}
        )

    async def add_key(self, *, node: NodeId | None = None) -> Kid:
        """A new active key, in the ring and in the signer."""
        services, store = self.services, self.store.keyring
        made = await self.signer.generate(
            issuer=self.issuer, alg=services.algorithm, typs=frozenset({ACCESS_TOKEN_TYP, LOGOUT_TOKEN_TYP})
        )
        public = made.public
        view = await store.read(self.issuer)
        prepared = keyring.prepare(
            view.ring,
            kid=public.kid,
            node=node or services.node,
            alg=public.alg.value,
            jwk=document.encode(public.jwk),
            timing=services.timing,
            now=view.now,
        )
        active = keyring.activate(
            prepared, public.kid, Activation.BOOTSTRAP, timing=services.timing, now=view.now
        )
        assert await store.swap(view.ring.generation, active)
        await self.extend(public.kid)
        self.kid = public.kid
        return public.kid

    async def extend(self, kid: Kid) -> None:
        """Tell the signer the lease that the ring has of ``kid``."""
        found = (await self.store.keyring.read(self.issuer)).ring.find(kid)
        assert found is not None
        await self.signer.extend(
            kid,
            max_exp=self.services.timing.latest_exp(found.lease_until),
            lease_until=found.lease_until,
        )


def user(password_hash: str, *, issuer: Issuer = ISSUER, name: str = "alice", **changes: Any) -> User:
    """Alice, or another one."""
    made = User(
        issuer=issuer,
        sub=Sub(f"usr_{name}"),
        username=name,
        password_hash=password_hash,
        scopes=("orders:read", "orders:write"),
        created_at=NumericDate(1),
        password_changed_at=NumericDate(1),
    )
    return replace(made, **changes)


def client(client_id: str, *, issuer: Issuer = ISSUER, secret: str | None = None, **changes: Any) -> Client:
    """A client; public without a secret."""
    made = Client(
        issuer=issuer,
        client_id=ClientId(client_id),
        name=client_id,
        secret_hash=None if secret is None else hashlib.sha256(secret.encode()).digest(),
        grant_types=("refresh_token",),
        audiences=("orders", "https://stock.example.com"),
        scopes=("orders:read", "orders:write", "stock:read"),
        first_party=True,
        created_at=NumericDate(1),
    )
    return replace(made, **changes)


async def until(condition: Callable[[], object]) -> None:
    """Let other tasks run until ``condition`` holds; TimeoutError where it does not in a minute."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)


@functools.cache
def password_hash() -> str:
    """The hash of Alice's password, made once."""
    return argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1).hash(PASSWORD)


@asynccontextmanager
async def surface(
    *,
    issuer: str = ISSUER,
    algorithm: Algorithm = Algorithm.ES256,
    clock: Clock | None = None,
    store: Store | None = None,
    faults: Faults | None = None,
    timing: Timing | None = None,
    feed_limit: int = 100,
    streams_per_address: int = 50,
    hash_queue: int = 64,
    beside: Surface | None = None,
    feed_tokens: tuple[str, ...] = (),
    pepper: Pepper = UNPEPPERED,
) -> AsyncIterator[Surface]:
    """A node of ``issuer`` with an active key, Alice, a public client ``spa`` and a service ``stock``.

    ``faults`` are those of the store that the node uses, not of the one that the test reaches. One that runs
    ``beside`` another has a ``store`` on the same data, signs with the same key and adds nothing.
    """
    iss, timing, clock = Issuer(issuer), timing or Timing(), clock or FakeClock()
    store = store or MemoryStore(clock=clock, entropy=SYSTEM_ENTROPY)
    await store.open()
    behind: Store = store if faults is None else FaultyStore(store, faults)
    bus, node = MemoryBus(clock=clock), NodeId("node-1")
    await bus.open()
    signer = beside.signer if beside is not None else LocalSigner(clock=clock)
    passwords = Argon2Hasher(workers=2, queue=hash_queue)
    audit = Audit(issuer=iss, node=node)
    services = compose(
        iss,
        node=node,
        timing=timing,
        algorithm=algorithm,
        store=behind,
        bus=bus,
        signer=signer,
        passwords=passwords,
        clock=clock,
        entropy=SYSTEM_ENTROPY,
        audit=audit,
        followers=feed_limit,
        streams_per_address=streams_per_address,
        feed_tokens=feed_tokens,
        pepper=pepper,
    )
    ring, feed = services.ring, services.feed
    app = create_app(services)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url=iss) as http:
        loops = [asyncio.create_task(ring.run()), asyncio.create_task(feed.run())]
        running = Surface(
            services=services,
            app=app,
            http=http,
            clock=clock,
            store=store,
            bus=bus,
            signer=signer,
            kid=Kid("") if beside is None else beside.kid,
            reading=loops[0],
            following=loops[1],
        )
        try:
            if beside is None:
                await _settle(running)
            await until(lambda: ring.is_fresh() and feed.is_fresh())
            await running.read_ring()
            yield running
        finally:
            feed.close()
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            if beside is None:
                signer.close()
            passwords.close()
            await bus.close()
            await store.close()


async def _settle(node: Surface) -> None:
    """A key, a user and clients, where there are none yet."""
    await node.add_key()
    directory = node.store.directory
    await directory.add_user(user(password_hash(), issuer=node.issuer))
    await directory.add_client(client("spa", issuer=node.issuer))
    grants = ("client_credentials", "refresh_token")
    await directory.add_client(client("stock", issuer=node.issuer, secret=SECRET, grant_types=grants))
