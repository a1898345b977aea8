"""Relying parties on loopback that read logout tokens as others do, and the nodes that tell them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast
from urllib.parse import parse_qs

import jwt
from tests.http.surface import Surface, client, surface

from mintmark.adapters.relying_parties import HttpRelyingParties
from mintmark.core.key import Activation
from mintmark.core.minting import BACKDATED
from mintmark.ports.outbox import LogoutOutbox
from mintmark.ports.relying_party import RelyingParties
from mintmark.ports.signer import Signer
from mintmark.ports.store import Store
from mintmark.server.audit import Audit
from mintmark.server.backchannel import Backchannel
from mintmark.server.ring import RingFollower
from mintmark.server.services import Services
from mintmark.server.signing import Signing
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults
from mintmark.testing.origin import Origin, Reply, Request
from mintmark.units import ClientId, NodeId

EVENT = "http://schemas.openid.net/event/backchannel-logout"


class Party:
    """One relying party; ``answer`` gives the status and the headers that it answers the Nth post with."""

    def __init__(self, name: str = "spa") -> None:
        self.client_id = ClientId(name)
        self.answer: Callable[[int], tuple[int, Mapping[str, str]]] = lambda _: (200, {})
        self.posted: list[str] = []
        """Every token that was posted, whatever was answered."""
        self.taken: list[str] = []
        """Those to which a success was answered."""
        self.site = Origin(
            routes={"/hooks/s3cret": "logout"}, answer=self._answer, clock=SYSTEM_CLOCK, method="POST"
        )
        self.site.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.site.port}/hooks/s3cret?key=t0ken"

    def _answer(self, _name: str, request: Request) -> Reply:
        (token,) = parse_qs(request.body.decode(), strict_parsing=True)["logout_token"]
        status, headers = self.answer(len(self.posted))
        self.posted.append(token)
        if status == 200:
            self.taken.append(token)
        return Reply(status=status, headers=headers)

    def always(self, status: int, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answer = lambda _: (status, named)


def read_logout_token(
    raw: str, jwks: Mapping[str, Any], *, issuer: str, client_id: str, now: int | None = None
) -> dict[str, Any]:
    """What a relying party makes of a token with PyJWT alone (s.2.6); raises where it is none.

    ``now`` stands for the machine's time, where a test's clock is another.
    """
    header = jwt.get_unverified_header(raw)
    key = next(each for each in jwt.PyJWKSet.from_dict(dict(jwks)).keys if each.key_id == header["kid"])
    times = now is None
    claims: dict[str, Any] = jwt.decode(
        raw,
        key,
        algorithms=["ES256"],
        audience=client_id,
        issuer=issuer,
        options={
            "require": ["iss", "aud", "iat", "exp", "jti", "events"],
            "verify_exp": times,
            "verify_iat": times,
            "verify_nbf": times,
        },
    )
    assert header["typ"] == "logout+jwt"
    assert claims["events"] == {EVENT: {}}
    assert "nonce" not in claims
    assert claims["exp"] - claims["iat"] <= 120
    if now is not None:
        assert claims["iat"] <= now < claims["exp"]
    return claims


class Watched:
    """An outbox, and how many calls of it are under way: they take real time, in which no other may pass."""

    def __init__(self, inner: LogoutOutbox) -> None:
        self._inner = inner
        self.under_way = 0

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        call = getattr(self._inner, name)

        async def counted(*arguments: Any, **options: Any) -> Any:
            self.under_way += 1
            try:
                return await call(*arguments, **options)
            finally:
                self.under_way -= 1

        return counted


@dataclass
class Teller:
    """One node's loop, and what it reports."""

    backchannel: Backchannel
    outbox: Watched
    audit: Audit
    running: "asyncio.Task[None] | None" = None

    @property
    def is_busy(self) -> bool:
        """Whether it is telling somebody now, or asks whom to tell."""
        return self.work > 0

    @property
    def work(self) -> int:
        """How many parties it is telling now, and how much else it has to do with the store."""
        return sum(not task.done() for task in self.backchannel._under_way) + self.outbox.under_way

    def start(self) -> "Teller":
        self.running = asyncio.create_task(self.backchannel.run())
        return self

    async def stop(self) -> None:
        """The end of its node, as far as anybody can tell."""
        if self.running is not None:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)
            self.running = None


@dataclass
class World:
    """A node's HTTP surface, relying parties, and any number of tellers on its store."""

    node: Surface
    parties: list[Party] = field(default_factory=list)
    tellers: list[Teller] = field(default_factory=list)

    @property
    def clock(self) -> FakeClock:
        assert isinstance(self.node.clock, FakeClock)
        return self.node.clock

    @property
    def services(self) -> Services:
        return self.node.services

    async def party(self, name: str = "shop") -> Party:
        """A relying party, and the client that it is; ``name`` may be given once."""
        party = Party(name)
        self.parties.append(party)
        await self.node.store.directory.add_client(client(name, backchannel_logout_uri=party.uri))
        return party

    def teller(
        self,
        name: str = "node-1",
        *,
        outbox: LogoutOutbox | None = None,
        parties: RelyingParties | None = None,
        signer: Signer | None = None,
        ring: RingFollower | None = None,
    ) -> Teller:
        """A node that tells, and signs with the key of the surface."""
        audit = Audit(node=NodeId(name))
        ring = ring or self.services.ring
        watched = Watched(outbox or self.node.store.outbox)
        backchannel = Backchannel(
            self.node.issuer,
            node=NodeId(name),
            outbox=cast("LogoutOutbox", watched),
            ring=ring,
            signing=Signing(node=self.services.node, ring=ring, signer=signer or self.node.signer),
            parties=parties or HttpRelyingParties(),
            bus=self.node.bus,
            clock=self.clock,
            entropy=SYSTEM_ENTROPY,
            timing=self.services.timing,
            audit=audit,
        )
        made = Teller(backchannel, watched, audit)
        self.tellers.append(made)
        return made

    async def log_in(self, party: Party, **members: Any) -> dict[str, Any]:
        return await self.node.log_in(client_id=party.client_id, **members)

    async def ended(self, party: Party, count: int) -> list[str]:
        """``count`` sessions at ``party`` that were ended, each in a second of its own: their ``rid``."""
        rids = []
        for _ in range(count):
            tokens = await self.log_in(party)
            assert (await self.node.log_out(tokens["access_token"])).status_code in (200, 204)
            rids.append(tokens["rid"])
            self.clock.advance(1)
        return rids

    async def read(self, party: Party, tokens: list[str] | None = None) -> list[dict[str, Any]]:
        """The claims of what ``party`` took, or of ``tokens``, each read with the key set as it is served."""
        jwks = (await self.node.http.get("/.well-known/jwks.json")).json()
        return [
            # Its own time: when it arrived is long ago for some that are read here.
            read_logout_token(
                raw, jwks, issuer=self.node.issuer, client_id=party.client_id, now=_iat(raw) + BACKDATED
            )
            for raw in (party.taken if tokens is None else tokens)
        ]

    async def sids(self, party: Party) -> list[str]:
        return [claims["sid"] for claims in await self.read(party)]

    async def until(self, condition: Callable[[], object], *, span: float = 0.0, held: int = 0) -> None:
        """Wait until ``condition`` holds, while up to ``span`` seconds of the clock pass.

        They pass only while nobody is being told, for that takes real time; but for ``held`` that hang.
        """
        async with asyncio.timeout(60):
            left = span
            while not condition():
                await asyncio.sleep(0.005)
                if left > 0 and sum(teller.work for teller in self.tellers) <= held:
                    step = min(left, 0.25)
                    left -= step
                    self.clock.advance(step)

    async def quiet(self, span: float) -> None:
        """Let ``span`` seconds of the clock pass, with everything done that is due meanwhile."""
        left = span
        async with asyncio.timeout(60):
            while left > 0 or any(teller.is_busy for teller in self.tellers):
                await asyncio.sleep(0.005)
                if left > 0 and not any(teller.is_busy for teller in self.tellers):
                    left -= 0.25
                    self.clock.advance(0.25)

    async def pending(self) -> int:
        return await self.node.store.outbox.pending(self.node.issuer)

    async def another_day(self, span: int) -> None:
        """Let ``span`` seconds pass at once, after which the node signs with another key."""
        self.clock.advance(span)
        await self.node.add_key()
        await self.services.ring.refresh()

    async def prove_key(self) -> None:
        """Have the active key be one that was public for the lead before it signed."""
        keyring, issuer = self.node.store.keyring, self.node.issuer
        view = await keyring.read(issuer)
        keys = tuple(
            replace(key, activation=Activation.PROVEN) if key.activation is not None else key
            for key in view.ring.keys
        )
        changed = replace(view.ring, keys=keys, generation=view.ring.generation + 1)
        assert await keyring.swap(view.ring.generation, changed)
        await self.services.ring.refresh()


def _iat(raw: str) -> int:
    return int(jwt.decode(raw, options={"verify_signature": False})["iat"])


@asynccontextmanager
async def world(
    *, store: Store | None = None, clock: FakeClock | None = None, faults: Faults | None = None
) -> AsyncIterator[World]:
    """A world without parties and tellers; whatever was added is ended with it."""
    async with surface(store=store, clock=clock, faults=faults) as node:
        made = World(node)
        try:
            yield made
        finally:
            for teller in made.tellers:
                await teller.stop()
            for party in made.parties:
                party.site.close()
