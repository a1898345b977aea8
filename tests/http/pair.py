"""Two nodes on one store for tests over HTTP, and what clients ask of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest.mock import patch

import httpx2
from tests.http.surface import PASSWORD, Surface, client, password_hash, surface, user

from mintmark.core import jws, strict_json
from mintmark.core.events import EventName
from mintmark.core.log import LogEntry
from mintmark.core.revocation import Kind
from mintmark.core.sessions import Session
from mintmark.core.timing import Timing
from mintmark.http import endpoint
from mintmark.ports.revocations import CursorGone
from mintmark.testing.conformance.rig import Rig
from mintmark.testing.faults import Faults
from mintmark.units import ClientId, Rid, Seconds, Sub

# A lease that nobody renews here lasts for as long as the time that passes.
TIMING: Final = replace(Timing(), lease=Seconds(2_000 * 86_400))
GRACE: Final = TIMING.refresh_grace + 1
RETRY: Final = TIMING.refresh_retry
JSON: Final = "json"
FORM: Final = "form"
OK: Final = (200, None)
REFUSED: Final = (400, "invalid_grant")


@dataclass
class Someone:
    """A user, the client at which he logs in, and the tokens of his session."""

    sub: Sub
    username: str
    client_id: ClientId
    rid: Rid
    refresh_token: str
    access_token: str


@dataclass
class Pair:
    """Two nodes on one store; ``faults`` are those of the first one's store."""

    rig: Rig
    faults: Faults
    one: Surface
    other: Surface

    @property
    def nodes(self) -> tuple[Surface, Surface]:
        return self.one, self.other

    async def pass_time(self, span: int) -> None:
        """``span`` seconds later; each node has read the ring since."""
        self.rig.clock.advance(span)
        for node in self.nodes:
            await node.services.ring.refresh()

    async def someone(
        self, *, scope: str | None = None, secret: str | None = None, **client_changes: Any
    ) -> Someone:
        """A new user, logged in at a new client, which is public without a ``secret``."""
        name = self.rig.entropy.token_bytes(6).hex()
        directory = self.rig.store.directory
        await directory.add_user(user(password_hash(), name=name))
        await directory.add_client(client(f"client-{name}", secret=secret, **client_changes))
        more = {} if secret is None else {"client_secret": secret}
        return await self.log_in(Sub(f"usr_{name}"), name, ClientId(f"client-{name}"), scope=scope, **more)

    async def log_in(
        self, sub: Sub, username: str, client_id: ClientId, *, scope: str | None = None, **more: str
    ) -> Someone:
        """The user again, with another session."""
        body = {"username": username, "password": PASSWORD, "client_id": client_id} | more
        body |= {"scope": scope} if scope else {}
        answer = await settled(lambda: self.one.http.post("/v1/sessions", json=body))
        assert answer.status_code == 201, answer.text
        tokens = answer.json()
        return Someone(
            sub, username, client_id, tokens["rid"], tokens["refresh_token"], tokens["access_token"]
        )

    async def row(self, who: Someone) -> Session:
        """The row of a session."""
        found = (await self.rig.store.sessions.read(self.one.issuer, who.rid)).session
        assert found is not None
        return found

    def counted(self, name: EventName) -> int:
        """How often both nodes together have reported an event so far."""
        return sum(node.services.audit.counts[name] for node in self.nodes)

    async def ends(self, who: Someone) -> list[LogEntry]:
        """What the log says of this session or of its client, which is nobody else's."""
        page = await self.rig.store.revocations.read(self.one.issuer, None, limit=10_000)
        assert not isinstance(page, CursorGone)
        return [entry for entry in page.entries if entry.event.value in (who.rid, who.client_id)]

    async def check_stolen(self, who: Someone, *tokens: str) -> None:
        """The session is over everywhere, and that was told once."""
        await self.check_refused(who, *tokens)
        assert [(e.event.kind, e.cause) for e in await self.ends(who)] == [(Kind.RID, "theft")]

    async def check_refused(self, who: Someone, *tokens: str) -> None:
        """Neither node answers any of ``tokens`` with more than a refusal."""
        for node in self.nodes:
            for token in tokens:
                assert outcome(await refresh(node, who, token)) == REFUSED


@asynccontextmanager
async def pair_on(rig: Rig, *, beside: Surface | None = None, **changes: Any) -> AsyncIterator[Pair]:
    """Two nodes on the rig's data, each with a store of its own on it; they may stand ``beside`` others."""
    faults = Faults(clock=rig.clock)
    # In reality a request gives its store less, which a database on a busy machine needs now and then.
    patient = patch.object(endpoint, "STORE_WITHIN", 60.0)
    shared: dict[str, Any] = {"clock": rig.clock, "timing": TIMING} | changes
    with patient:
        async with (
            surface(store=rig.closed(), faults=faults, beside=beside, **shared) as one,
            surface(store=rig.closed(), beside=one, **shared) as other,
        ):
            yield Pair(rig, faults, one, other)


async def settled(ask: Callable[[], Awaitable[httpx2.Response]]) -> httpx2.Response:
    """The answer to a request, asked again as clients do where it is «later», as on a busy machine."""
    async with asyncio.timeout(60):
        while (answer := await ask()).status_code == 503:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
    return answer


async def refresh(
    node: Surface, who: Someone, token: str, *, form: str = FORM, **more: str
) -> httpx2.Response:
    """What a node answers to a refresh, at one of the two paths that there are."""
    return await settled(lambda: refresh_once(node, who, token, form=form, **more))


async def refresh_once(
    node: Surface, who: Someone, token: str, *, form: str = FORM, **more: str
) -> httpx2.Response:
    """The same, also where the answer is «later»."""
    given = {"refresh_token": token, "client_id": who.client_id} | more
    if form == FORM:
        return await node.http.post("/token", data={"grant_type": "refresh_token"} | given)
    return await node.http.post("/v1/sessions/refresh", json=given)


async def refreshed(node: Surface, who: Someone, token: str, **how: str) -> str:
    """The refresh token in the answer."""
    answer = await refresh(node, who, token, **how)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["refresh_token"])


def outcome(answer: httpx2.Response) -> tuple[int, str | None]:
    """The status, and the error where there is one."""
    body = answer.json()
    return answer.status_code, body.get("error", body.get("code"))


def claims_of(access_token: str) -> dict[str, Any]:
    """The payload of an access token, unverified."""
    claims = strict_json.decode(jws.parse(access_token).payload)
    assert isinstance(claims, dict)
    return claims
