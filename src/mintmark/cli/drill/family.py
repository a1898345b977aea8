"""``mintmark drill``: try on a running cluster what is promised of it."""

import asyncio
import contextlib
import re
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import App, Parameter

from mintmark.cli.invocation import Given, Invocation
from mintmark.cli.output import Output
from mintmark.cli.status import Misused, Status

if TYPE_CHECKING:
    from mintmark.cli.drill.logout import Measured

app = App(name="drill", help="Try on a running cluster what is promised of it, and measure.")

_SPAN: Final = re.compile(r"([0-9]{1,6})(ms|s)")
_MOST_VERIFIERS: Final = 200
_MOST_LOGOUTS: Final = 10_000


@app.command
async def logout(
    *,
    verifiers: Annotated[
        int,
        Parameter(
            help=f"How many verifiers to run, 1 to {_MOST_VERIFIERS}, in up to five processes. Else 50."
        ),
    ] = 50,
    logouts: Annotated[
        int, Parameter(help=f"How many sessions to log out, 1 to {_MOST_LOGOUTS:,}. Else 100.")
    ] = 100,
    every: Annotated[
        str, Parameter(help="How often each verifier is shown the token, `2ms` to `1s`. Else `5ms`.")
    ] = "5ms",
    within: Annotated[
        str | None,
        Parameter(
            help="The target, like `1s` or `50ms`: exit status 1 where 1 in 100 last acceptances came later."
        ),
    ] = None,
    patience: Annotated[
        str, Parameter(help="How long each step may take before the drill is given up. Else `30s`.")
    ] = "30s",
    given: Given,
) -> int:
    """Log sessions out of the running cluster, and measure until when verifiers accept their tokens.

    Makes a user and a client of its own for as long as it runs, logs that user in and out at the issuer's
    URL, as applications do, and shows each token to verifiers of this machine without pause. What counts
    is the time from the answer to a logout to the last acceptance at any of them.
    """
    if not 1 <= verifiers <= _MOST_VERIFIERS:
        raise Misused(f"--verifiers: must be from 1 to {_MOST_VERIFIERS}")
    if not 1 <= logouts <= _MOST_LOGOUTS:
        raise Misused(f"--logouts: must be from 1 to {_MOST_LOGOUTS}")
    asked_every = _span("--every", every)
    if not 0.002 <= asked_every <= 1:
        raise Misused("--every: must be from 2ms to 1s")
    target = None if within is None else _span("--within", within)
    with _interruptible():
        try:
            return await _logout(
                given,
                verifiers=verifiers,
                logouts=logouts,
                every=asked_every,
                within=target,
                patience=_span("--patience", patience),
            )
        except asyncio.CancelledError:
            return Status.INTERRUPTED


async def _logout(
    given: Invocation, *, verifiers: int, logouts: int, every: float, within: float | None, patience: float
) -> int:
    import httpx2  # noqa: PLC0415 - slow to load, and so is what follows

    from mintmark.cli.drill.guest import guest  # noqa: PLC0415
    from mintmark.cli.drill.logout import measure  # noqa: PLC0415
    from mintmark.cli.drill.probes import running  # noqa: PLC0415
    from mintmark.node.secret import read_feed_tokens  # noqa: PLC0415
    from mintmark.verifier.discovery import is_loopback  # noqa: PLC0415

    output = given.output
    feed_tokens = await read_feed_tokens(given.settings())
    async with given.open() as opened, guest(opened, given.entropy) as person:
        # A proxy named in the environment is for the outside world, as it is to verifiers.
        http = httpx2.AsyncClient(timeout=patience, trust_env=not is_loopback(person.issuer))
        probing = running(
            person.issuer,
            person.client_id,
            verifiers=verifiers,
            every=every,
            patience=patience,
            feed_token=next(iter(feed_tokens), None),
        )
        async with http, probing as probes:
            with output.progress("logouts", logouts) as advance:
                found = await measure(
                    person,
                    probes,
                    logouts=logouts,
                    http=http,
                    clock=given.clock,
                    patience=patience,
                    advance=advance,
                )
    return report(
        output, found, issuer=person.issuer, verifiers=verifiers, logouts=logouts, every=every, within=within
    )


def report(
    output: Output,
    found: "Measured",
    *,
    issuer: str,
    verifiers: int,
    logouts: int,
    every: float,
    within: float | None,
) -> Status:
    """Print what was found; FAILED where the target was missed."""
    from mintmark.cli.drill import picture  # noqa: PLC0415 - slow to load

    p99 = found.accepted.at(0.99)
    met = None if within is None else p99 <= within
    document = {
        "issuer": issuer,
        "verifiers": verifiers,
        "processes": found.processes,
        "logouts": logouts,
        "every_ms": 1000 * every,
        **picture.document(found),
        "unavailable": found.unavailable,
        "within_ms": None if within is None else 1000 * within,
        "met": met,
    }
    verdict = []
    if within is not None:
        asked = f"p99 {picture.spoken(p99)}, and at most {picture.spoken(within)} was asked for"
        verdict = ["", f"The target was {'met' if met else 'MISSED'}: {asked}."]
    output.answer(
        document,
        *picture.lines(found, every=every, verifiers=verifiers, logouts=logouts),
        "",
        picture.figures(found),
        "",
        *picture.draw(found, unicode=output.is_unicode),
        *verdict,
    )
    return Status.FAILED if met is False else Status.OK


def _span(option: str, text: str) -> float:
    found = _SPAN.fullmatch(text)
    if found is None or not int(found[1]):
        raise Misused(f"{option}: write a whole number and ms or s, like 50ms or 1s")
    return int(found[1]) / (1000 if found[2] == "ms" else 1)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Have a signal to end cancel this task, once: a second one must not cut short what cleans up."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    told: list[None] = []

    def interrupt() -> None:
        if not told and task is not None:
            told.append(None)
            task.cancel()

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
