"""Some verifiers in a process of their own, each shown one token again and again until all refuse it.

A program: ``python -m mintmark.cli.drill.probing``, which speaks :mod:`mintmark.cli.drill.wire` over standard
input and output, and ends with its input.
"""

import asyncio
import contextlib
import logging
import os
import sys
from dataclasses import dataclass, field
from typing import Final

from mintmark import InvalidToken, Verifier, VerifierUnavailable
from mintmark.cli.drill import wire
from mintmark.core.refusal import Code
from mintmark.ports.clock import Clock
from mintmark.system import SYSTEM_CLOCK

_AGAIN: Final = 0.1
_SETTLED: Final = 3
"""Rounds in a row in which every verifier refuses, after which none is taken to change its mind."""


@dataclass(slots=True)
class _Shown:
    """One token, and what each verifier said of it."""

    token: str
    accepted: list[float]
    refused: list[float]
    unavailable: int = 0
    told: bool = False
    settled: int = 0
    broken: str | None = None


@dataclass(slots=True)
class Probing:
    """Shows a token to each of ``verifiers`` every so many seconds; ``say`` takes what is found."""

    verifiers: list[Verifier]
    every: float
    clock: Clock = SYSTEM_CLOCK
    late: list[float] = field(default_factory=list)
    _shown: _Shown | None = None

    def show(self, token: str) -> None:
        """Begin with this token."""
        self._shown = _Shown(token, [0.0] * len(self.verifiers), [0.0] * len(self.verifiers))

    async def run(self, say: "asyncio.Queue[wire.Answer]") -> None:
        """Ask, without end."""
        due = self.clock.monotonic()
        while True:
            due += self.every
            await self.clock.sleep(max(0.0, due - self.clock.monotonic()))
            woke = self.clock.monotonic()
            if self._shown is None:
                self.late.append(woke - due)
            elif (found := await self._ask(self._shown)) is not None:
                say.put_nowait(found)
            # What could not be done in time is left out, or rounds would follow each other without a pause.
            due = max(due, self.clock.monotonic() - self.every)

    async def _ask(self, shown: _Shown) -> wire.Answer | None:
        """Show the token to each; what there is to say now."""
        refusals = 0
        for number, verifier in enumerate(self.verifiers):
            try:
                await verifier.averify(shown.token)
            except InvalidToken as error:
                if error.code != Code.REVOKED:
                    self._shown = None
                    return wire.Broken(str(error.code))
                refusals += 1
                if not shown.refused[number]:
                    shown.refused[number] = self.clock.monotonic()
            except VerifierUnavailable:
                shown.unavailable += 1
            else:
                # Taken when the answer is there, so that nothing is left out of what is measured.
                shown.accepted[number], shown.refused[number] = self.clock.monotonic(), 0.0
        if not shown.told and all(shown.accepted):
            shown.told = True
            return wire.Accepted()
        shown.settled = shown.settled + 1 if refusals == len(self.verifiers) else 0
        if shown.settled < _SETTLED:
            return None
        self._shown = None
        return wire.Refused(tuple(shown.accepted), tuple(shown.refused), shown.unavailable)


async def serve() -> None:
    """Obey the lines of standard input until it ends."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=2**20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    setup = wire.order(await lines.readline())
    if not isinstance(setup, wire.Setup):
        raise TypeError("the first line says what to verify")
    # A token that was logged out is what this is about, and no incident.
    logging.getLogger("mintmark.verifier").setLevel(logging.CRITICAL)
    verifiers = [
        Verifier(setup.issuer, audience=setup.audience, feed_token=setup.feed_token)
        for _ in range(setup.verifiers)
    ]
    say: asyncio.Queue[wire.Answer] = asyncio.Queue()
    probing = Probing(verifiers, setup.every)
    tasks: list[asyncio.Task[None]] = []
    try:
        await asyncio.gather(*map(_warm, verifiers))
        say.put_nowait(wire.Ready())
        tasks = [asyncio.create_task(probing.run(say)), asyncio.create_task(_write(say))]
        while text := await lines.readline():
            match wire.order(text):
                case wire.Show(token):
                    probing.show(token)
                case wire.Idle():
                    say.put_nowait(wire.Idle(tuple(probing.late)))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for verifier in verifiers:
            verifier.close()


async def _warm(verifier: Verifier) -> None:
    """Start it as often as it takes: how long that may be is the drill's to say."""
    while True:
        # On a machine that is very busy its thread may not even get a turn.
        with contextlib.suppress(VerifierUnavailable):
            if await verifier.astart():
                return
        await SYSTEM_CLOCK.sleep(_AGAIN)


async def _write(say: "asyncio.Queue[wire.Answer]") -> None:
    while True:
        text = wire.line(await say.get())
        # A pipe takes some kilobytes at once; whoever reads it does so all the time.
        while text:
            text = text[os.write(sys.stdout.fileno(), text) :]


if __name__ == "__main__":
    asyncio.run(serve())
