"""Logs sessions out, and measures until when verifiers went on accepting their tokens."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from mintmark.cli.drill.probes import Probes
from mintmark.cli.status import Failed
from mintmark.ports.clock import Clock

_AGAIN: Final = 0.2
_IDLE: Final = 2.0
"""Seconds for which nothing is asked, to see how late those who will ask wake up."""
_STATED: Final = 600
"""Characters of a refusal that are shown."""


@dataclass(frozen=True, slots=True)
class Spans:
    """Seconds of which only the order matters."""

    values: tuple[float, ...]

    def at(self, share: float) -> float:
        """The smallest value that ``share`` of all do not exceed; raises ValueError where there is none."""
        if not self.values:
            raise ValueError("nothing was measured")
        ordered = sorted(self.values)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a drill found, in seconds from the answer of each logout, and 0 for what came before it.

    ``accepted``: by logout, the last acceptance at any verifier. ``each``: the same by verifier.
    ``refused``: by logout, when every verifier had refused. ``answered``: how long a logout took.
    ``idle``: how late the loops that ask woke up before there was anything to ask.
    """

    accepted: Spans
    each: Spans
    refused: Spans
    answered: Spans
    idle: Spans
    unavailable: int
    processes: int


@dataclass(frozen=True, slots=True, repr=False)
class Person:
    """Who logs in and out at ``issuer``: a user of a public first-party client."""

    issuer: str
    client_id: str
    username: str
    password: str


async def measure(
    person: Person,
    probes: Probes,
    *,
    logouts: int,
    http: httpx2.AsyncClient,
    clock: Clock,
    patience: float,
    advance: Callable[[], None] = lambda: None,
) -> Measured:
    """Log in, have the token accepted everywhere, log out and wait for its refusal, ``logouts`` times.

    ``advance`` is called after each. Raises Failed where something of this does not happen in time.
    """
    await probes.until_ready()
    await clock.sleep(_IDLE)
    idle = await probes.idle()
    client = _Client(person, http, clock, patience)
    accepted, each, refused, answered = list[float](), list[float](), list[float](), list[float]()
    unavailable = 0
    for _ in range(logouts):
        token = await client.log_in()
        await probes.show(token)
        asked = clock.monotonic()
        await client.log_out(token)
        answer = clock.monotonic()
        answered.append(answer - asked)
        found = await probes.until_refused()
        last = [max(0.0, at - answer) for one in found for at in one.accepted]
        each += last
        accepted.append(max(last))
        refused.append(max(0.0, *(at - answer for one in found for at in one.refused)))
        unavailable += sum(one.unavailable for one in found)
        advance()
    return Measured(
        accepted=Spans(tuple(accepted)),
        each=Spans(tuple(each)),
        refused=Spans(tuple(refused)),
        answered=Spans(tuple(answered)),
        idle=Spans(idle),
        unavailable=unavailable,
        processes=probes.processes,
    )


@dataclass(frozen=True, slots=True)
class _Client:
    """Does what the person's application does; what says «later» is asked again."""

    person: Person
    http: httpx2.AsyncClient
    clock: Clock
    patience: float

    async def log_in(self) -> str:
        """The access token of a new session."""
        body = {
            "username": self.person.username,
            "password": self.person.password,
            "client_id": self.person.client_id,
        }
        url = f"{self.person.issuer}/v1/sessions"
        answer = await self._answer(lambda: self.http.post(url, json=body), 201, "the log-in")
        members: dict[str, Any] = answer.json()
        return str(members["access_token"])

    async def log_out(self, token: str) -> None:
        """End the session of this token."""
        url = f"{self.person.issuer}/v1/sessions/current"
        headers = {"Authorization": f"Bearer {token}"}
        await self._answer(lambda: self.http.delete(url, headers=headers), 204, "the log-out")

    async def _answer(
        self, ask: Callable[[], Awaitable[httpx2.Response]], wanted: int, what: str
    ) -> httpx2.Response:
        until = self.clock.monotonic() + self.patience
        while True:
            try:
                answer = await ask()
            except httpx2.TransportError as error:
                said = type(error).__name__
            else:
                if answer.status_code == wanted:
                    return answer
                said = f"{answer.status_code} {answer.text[:_STATED]}".strip()
                if answer.status_code != httpx2.codes.SERVICE_UNAVAILABLE:
                    raise Failed(f"{what} was refused: {said}")
            if self.clock.monotonic() > until:
                raise Failed(f"{what} was not answered in {self.patience:.0f} s; last: {said}")
            await self.clock.sleep(_AGAIN)
