"""A signer that stands still between the check and the signature, or with requests in its socket.

What lets it sign is data: the ``exp`` that is asked for is compared with what the key covers, so however late
the signature comes out, it outlives nothing (K3). Clocks are the second line.
"""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mintmark.core import jws
from mintmark.core.algorithm import Algorithm
from mintmark.ports.signer import Refusal, SignerRefused
from mintmark.signer import service
from mintmark.signer.client import ControlClient, SignerClient
from mintmark.signer.keys import new_private_key
from mintmark.signer.launch import SignerProcess, start_signer
from mintmark.signer.service import SignerService
from mintmark.system import SYSTEM_CLOCK
from mintmark.testing.clock import FakeClock
from mintmark.units import Issuer, Kid, NumericDate, Seconds

ISSUER = Issuer("https://auth.example.com")
TYP = "at+jwt"
LEASE, TTL = 120, 900
PATIENT = Seconds(100_000)
RSA = new_private_key(Algorithm.RS256, 2048)


def payload(exp: int, number: int = 0) -> bytes:
    return msgspec.json.encode({"iss": ISSUER, "exp": exp, "jti": str(number)})


def exp_of(token: str) -> int:
    return int(msgspec.json.decode(jws.parse(token).payload)["exp"])


# --- between check and signature, in one process -------------------------------------------------------


class Gate:
    """Holds every signature back in its thread: after the check, before the arithmetic."""

    def __init__(self) -> None:
        self._sign = jws.sign
        self._arrived = threading.Semaphore(0)
        self._opened = threading.Event()

    def __call__(self, *arguments: object) -> bytes:
        self._arrived.release()
        assert self._opened.wait(60), "nobody opened the gate"
        return self._sign(*arguments)  # type: ignore[arg-type]

    async def arrived(self) -> None:
        """Wait until one more signature stands at the gate."""
        assert await asyncio.to_thread(self._arrived.acquire, timeout=60)

    def open(self) -> None:
        """Let all go on, and whoever waits for another one to arrive."""
        self._opened.set()
        self._arrived.release(100)


class Paused:
    """A signer with one RSA key under a lease, and one signature of it that stands at the gate.

    Its own clock is moved by the test; its callers go by another and wait for as long as it takes.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.clock = FakeClock()
        self._service = SignerService(clock=self.clock, rsa_bits=2048, threads=2)
        ours, theirs = socket.socketpair()
        self._service.serve_control(theirs, lambda: None)
        self.control = ControlClient(ours, clock=SYSTEM_CLOCK, timeout=PATIENT)
        ours, theirs = socket.socketpair()
        self._service.serve_worker(theirs)
        self._worker = SignerClient(ours, clock=SYSTEM_CLOCK, timeout=PATIENT)

    async def begin(self) -> None:
        key = (await self.control.generate(issuer=ISSUER, alg=Algorithm.RS256, typs=frozenset({TYP}))).public
        self.kid = key.kid
        self.max_exp = self.clock.now() + LEASE + TTL
        await self.extend(LEASE)
        self.signing = asyncio.create_task(self.sign(self.max_exp))
        await self.gate.arrived()

    async def extend(self, lease: int) -> None:
        until = self.clock.now() + lease
        await self.control.extend(self.kid, max_exp=NumericDate(until + TTL), lease_until=NumericDate(until))

    async def sign(self, exp: int) -> str:
        return await self._worker.sign(self.kid, TYP, payload(exp))

    async def refusal(self, exp: int) -> Refusal:
        with pytest.raises(SignerRefused) as refused:
            await self.sign(exp)
        return refused.value.reason

    def close(self) -> None:
        self.gate.open()
        self._worker.close()
        self.control.close()
        self._service.close()


@pytest.fixture
def gate(monkeypatch) -> Iterator[Gate]:
    made = Gate()
    monkeypatch.setattr(jws, "sign", made)
    yield made
    made.open()


@pytest.fixture
async def paused(gate) -> AsyncIterator[Paused]:
    made = Paused(gate)
    try:
        await made.begin()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("step", [0, -3600, 3600], ids=["clock-right", "clock-set-back", "clock-set-on"])
async def test_what_comes_out_after_the_lease_is_covered_by_it(paused, step):
    """K3: a signature that began under a lease and ends hours later outlives nothing; none begins by then."""
    paused.clock.advance(LEASE + TTL * 10)
    paused.clock.step(step)
    assert await paused.refusal(paused.max_exp) is Refusal.LEASE_ENDED
    paused.gate.open()
    assert exp_of(await paused.signing) <= paused.max_exp
    assert await paused.refusal(paused.max_exp) is Refusal.LEASE_ENDED


async def test_nothing_comes_out_of_a_key_that_was_forgotten_meanwhile(paused):
    """SIGNER-9, K7: forget returns while a thread signs with the key, and that token is never given out."""
    await paused.control.forget(paused.kid)
    assert (await paused.control.status()).keys == ()
    assert not paused.signing.done()
    paused.gate.open()
    with pytest.raises(SignerRefused) as refused:
        await paused.signing
    assert refused.value.reason is Refusal.UNKNOWN_KEY


async def test_signatures_that_wait_behind_it_are_forgotten_with_it(paused):
    """SIGNER-9: those that wait for a thread give no token either, once forget has returned."""
    waiting = [asyncio.create_task(paused.sign(paused.max_exp)) for _ in range(50)]
    await paused.gate.arrived()
    await paused.control.forget(paused.kid)
    paused.gate.open()
    outcomes = await asyncio.gather(paused.signing, *waiting, return_exceptions=True)
    assert [getattr(outcome, "reason", outcome) for outcome in outcomes] == [Refusal.UNKNOWN_KEY] * 51


async def test_control_is_obeyed_while_signatures_stand_still(paused):
    """A key is made, extended and forgotten although every signing thread stands at the gate."""
    waiting = asyncio.create_task(paused.sign(paused.max_exp))
    await paused.gate.arrived()
    await paused.extend(LEASE * 2)
    other = (await paused.control.generate(issuer=ISSUER, alg=Algorithm.EDDSA, typs=frozenset({TYP}))).public
    held = (await paused.control.status()).keys
    assert [(key.kid, key.max_exp) for key in held] == [
        (paused.kid, paused.max_exp + LEASE),
        (other.kid, None),
    ]
    assert not waiting.done()
    paused.gate.open()
    assert exp_of(await waiting) == exp_of(await paused.signing) == paused.max_exp


meanwhiles = st.lists(
    st.one_of(
        st.tuples(st.just("extend"), st.integers(-100, 400)),
        st.tuples(st.just("advance"), st.integers(0, 2000)),
        st.tuples(st.just("step"), st.integers(-2000, 2000)),
        st.tuples(st.just("forget"), st.just(0)),
    ),
    max_size=6,
)


@settings(max_examples=30)
@given(exp=st.one_of(st.integers(1, LEASE + TTL), st.integers(LEASE + TTL + 1, 9999)), meanwhile=meanwhiles)
def test_no_pause_lets_a_key_sign_more_than_it_covered_when_it_was_asked(exp, meanwhile):
    """K3, SIGNER-9: whatever happens between check and signature, what comes out was covered before it."""

    async def run() -> None:
        with pytest.MonkeyPatch.context() as patched:
            gate = Gate()
            patched.setattr(jws, "sign", gate)
            # Making an RSA key takes longer than all the rest.
            patched.setattr(service, "new_private_key", lambda *_: RSA)
            paused = Paused(gate)
            try:
                await paused.begin()
                limit = paused.max_exp
                asked = asyncio.create_task(paused.sign(paused.clock.now() + exp))
                allowed = paused.clock.now() + exp <= limit
                arrived = asyncio.create_task(gate.arrived())
                await asyncio.wait({asked, arrived}, return_when=asyncio.FIRST_COMPLETED)
                for what, amount in meanwhile:
                    match what:
                        case "extend":
                            await asyncio.gather(paused.extend(amount), return_exceptions=True)
                        case "advance":
                            paused.clock.advance(amount)
                        case "step":
                            paused.clock.step(amount)
                        case _:
                            await paused.control.forget(paused.kid)
                gate.open()
                outcomes = await asyncio.gather(paused.signing, asked, return_exceptions=True)
            finally:
                paused.close()
        forgotten = ("forget", 0) in meanwhile
        for outcome, admitted in zip(outcomes, (True, allowed), strict=True):
            if admitted and not forgotten:
                assert isinstance(outcome, str)
                assert exp_of(outcome) <= limit
            else:
                assert isinstance(outcome, SignerRefused)

    asyncio.run(run())


# --- a process that is stopped --------------------------------------------------------------------------


class Stopped:
    """A real signer, a worker's channel to it, and SIGSTOP and SIGCONT for the process with the keys."""

    def __init__(self, signer: SignerProcess, worker: SignerClient, holder: int) -> None:
        self.control = signer.control
        self.worker = worker
        self._holder = holder

    def stop(self) -> None:
        os.kill(self._holder, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._holder, signal.SIGCONT)

    async def ready_key(self, alg: Algorithm, lease: int) -> tuple[Kid, int]:
        """A key with a lease of so many seconds, and the latest ``exp`` that it covers."""
        key = (await self.control.generate(issuer=ISSUER, alg=alg, typs=frozenset({TYP}))).public
        until = SYSTEM_CLOCK.now() + lease
        await self.control.extend(key.kid, max_exp=NumericDate(until + TTL), lease_until=NumericDate(until))
        return key.kid, until + TTL

    async def ask(self, kid: Kid, exp: int, count: int) -> list["asyncio.Task[str]"]:
        """So many signatures, asked for and in the socket."""
        asked = [
            asyncio.create_task(self.worker.sign(kid, TYP, payload(exp, number))) for number in range(count)
        ]
        await asyncio.sleep(0)
        return asked


@pytest.fixture
async def stopped() -> AsyncIterator[Stopped]:
    signer = await start_signer(clock=SYSTEM_CLOCK)
    worker = SignerClient(await signer.control.attach(), clock=SYSTEM_CLOCK, timeout=PATIENT)
    made = Stopped(signer, worker, (await signer.control.status()).pid)
    yield made
    made.go_on()
    worker.close()
    await signer.stop()


async def pass_by(moment: int) -> None:
    """Wait until the wall clock, which another process goes by too, has passed ``moment``."""
    await asyncio.sleep(max(0.0, moment + 0.05 - time.time()))


async def results(asked: list["asyncio.Task[str]"]) -> list[str | Refusal]:
    """Tokens, and the reasons where there is none; anything else is raised."""
    found: list[str | Refusal] = []
    for task in asked:
        try:
            found.append(await task)
        except SignerRefused as refused:
            found.append(refused.reason)
    return found


@pytest.mark.parametrize("alg", [Algorithm.RS256, Algorithm.ES256])
async def test_process_that_was_stopped_past_its_lease_begins_no_signature(stopped, alg):
    """K3: of 200 in flight when it stops each is covered or refused; of those that queue, none is signed."""
    kid, max_exp = await stopped.ready_key(alg, 2)
    in_flight = await stopped.ask(kid, max_exp, 200)
    await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
    stopped.stop()
    queued = await stopped.ask(kid, max_exp, 50)
    await pass_by(max_exp - TTL)
    stopped.go_on()
    assert await results(queued) == [Refusal.LEASE_ENDED] * 50
    for result in await results(in_flight):
        assert result is Refusal.LEASE_ENDED or exp_of(result) <= max_exp


@pytest.mark.parametrize("alg", [Algorithm.RS256, Algorithm.ES256])
async def test_renewal_that_a_stopped_process_reads_late_grants_no_time(stopped, alg):
    """SIGNER-10: a lease counts from when it was granted, not from when the signer got to read of it."""
    kid, max_exp = await stopped.ready_key(alg, 60)
    other = (await stopped.control.generate(issuer=ISSUER, alg=alg, typs=frozenset({TYP}))).public.kid
    stopped.stop()
    until = SYSTEM_CLOCK.now() + 1
    granted = asyncio.create_task(
        stopped.control.extend(other, max_exp=NumericDate(until + TTL), lease_until=NumericDate(until))
    )
    queued = await stopped.ask(other, until + TTL, 20)
    await pass_by(until)
    stopped.go_on()
    await granted
    # Requests and the renewal come by two channels, and either may be read first.
    assert set(await results(queued)) <= {Refusal.NOT_EXTENDED, Refusal.LEASE_ENDED}
    assert await results(await stopped.ask(other, until + TTL, 1)) == [Refusal.LEASE_ENDED]
    assert exp_of(await stopped.worker.sign(kid, TYP, payload(max_exp))) == max_exp


async def test_process_that_is_told_to_forget_while_it_is_stopped_forgets_first_of_all(stopped):
    """SIGNER-9, K7: what is asked once forget has returned is refused, whatever queued up before it."""
    kid, max_exp = await stopped.ready_key(Algorithm.RS256, 600)
    stopped.stop()
    before = await stopped.ask(kid, max_exp, 100)
    forgetting = asyncio.create_task(stopped.control.forget(kid))
    await asyncio.sleep(0)
    after = await stopped.ask(kid, max_exp, 100)
    stopped.go_on()
    await forgetting
    late = await stopped.ask(kid, max_exp, 100)
    assert await results(late) == [Refusal.UNKNOWN_KEY] * 100
    for result in await results(before + after):
        assert result is Refusal.UNKNOWN_KEY or exp_of(result) <= max_exp
    assert (await stopped.control.status()).keys == ()
