"""Callers whose verifier has no thread, or one that does not answer: each gets an answer in bounded time."""

import asyncio
import os
import subprocess
import sys
import threading

import httpx2
import pytest

from mintmark import EventName, Issuer, Verifier, VerifierUnavailable
from mintmark.testing import Fault
from mintmark.verifier import following
from mintmark.verifier.engine import Engine
from mintmark.verifier.setting import Timing

pytestmark = pytest.mark.anyio

IMPORTS = """
import sys, threading
from mintmark import Verifier
from mintmark.testing import FakeIssuer

imported = []

class Watch:
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread().name == "mintmark-verifier":
            imported.append(name)

sys.meta_path.insert(0, Watch())
with FakeIssuer() as issuer, Verifier(issuer.issuer, audience="api") as verifier:
    verifier.verify(issuer.mint())
print(*imported)
"""


def engine(prepare=lambda: None, ended=lambda: None) -> Engine:
    """One that waits until it is stopped."""

    async def main() -> None:
        await asyncio.Event().wait()

    return Engine(main, lambda: None, prepare=prepare, ended=ended)


def test_the_thread_imports_nothing():
    """A process may fork at any time: a child must not inherit the lock of a module half imported."""
    found = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


class Gate:
    """Something slow that a thread does, and that a fork must not cut in two."""

    def __init__(self) -> None:
        self.begun, self.go_on, self.done = threading.Event(), threading.Event(), threading.Event()

    def pass_through(self) -> None:
        self.begun.set()
        self.go_on.wait(20)
        self.done.set()

    def fork(self) -> int:
        """The exit code of a child that was forked meanwhile: 0 where the slow thing was done by then."""
        codes: list[int] = []

        def fork() -> None:
            pid = os.fork()
            if pid == 0:
                os._exit(0 if self.done.is_set() else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

        assert self.begun.wait(20)
        forking = threading.Thread(target=fork)
        forking.start()
        forking.join(0.2)  # all the time that a fork which does not wait could want
        self.go_on.set()
        forking.join(20)
        [code] = codes
        return code


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_waits_until_the_imports_are_done():
    """Those that the starting caller makes, in whichever thread that is."""
    gate = Gate()
    started = engine(gate.pass_through)
    starting = threading.Thread(target=started.start)
    starting.start()
    assert gate.fork() == 0
    starting.join(20)
    started.stop()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_waits_until_the_client_is_made(issuer, follow, monkeypatch):
    """It reads certificates meanwhile, under locks of OpenSSL's that a child could never take."""
    gate, make = Gate(), httpx2.AsyncClient

    def slow(**options):
        gate.pass_through()
        return make(**options)

    monkeypatch.setattr(httpx2, "AsyncClient", slow)
    verifier = follow(issuer)
    starting = threading.Thread(target=verifier.start)
    starting.start()
    assert gate.fork() == 0
    starting.join(20)
    assert verifier.ready()


@pytest.mark.parametrize("lack", ["thread", "loop", "module"])
def test_a_verifier_that_cannot_start_says_so_and_tries_again(issuer, follow, monkeypatch, lack):
    """503 while the machine gives no thread, no descriptor or no module; good tokens pass once it does."""
    verifier = follow(issuer)

    def fail(*_args, **_options):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without:
        match lack:
            case "thread":
                without.setattr(threading.Thread, "start", fail)
            case "loop":
                without.setattr(asyncio, "new_event_loop", fail)
            case "module":
                without.setattr(verifier._following.engine, "_prepare", fail)
        for _ in range(3):
            with pytest.raises(VerifierUnavailable) as refused:
                verifier.verify(issuer.mint())
            assert refused.value.code == "internal"
    assert verifier.verify(issuer.mint()).sub == "usr_1"


def test_a_client_that_cannot_be_made_is_a_failed_attempt(issuer, follow, clock, recorder, monkeypatch):
    """Without certificates, say: 503 at once, and tried again after a pause, not by thread after thread."""
    verifier = follow(issuer)
    made: list[int] = []

    def fail(**_options):
        made.append(1)
        raise OSError("no certificates")

    with monkeypatch.context() as without:
        without.setattr(httpx2, "AsyncClient", fail)
        for _ in range(3):
            with pytest.raises(VerifierUnavailable) as refused:
                verifier.verify(issuer.mint())
            assert refused.value.code == "keys_cold"
    assert len(made) <= 6
    recorder.pass_until(clock, EventName.KEYSET_LOADED)
    assert verifier.verify(issuer.mint()).sub == "usr_1"


@pytest.mark.parametrize("ask", ["ask_key", "ask_feed", "ask_ready"])
def test_a_verifier_closed_before_the_caller_waits(issuer, follow, monkeypatch, ask):
    """It is asked under the lock: nobody begins to wait for a thread that has ended."""
    verifier = follow(issuer)
    inner = verifier._following
    if ask == "ask_feed":
        issuer.fail(Fault.HOLD, "feed")
    original = getattr(inner, ask)

    def closed_meanwhile(*args):
        if ask == "ask_ready":
            monkeypatch.setattr(inner, "renew", lambda: None)
        verifier.close()
        return original(*args)

    monkeypatch.setattr(inner, ask, closed_meanwhile)
    with pytest.raises(VerifierUnavailable) as refused:
        verifier.start() if ask == "ask_ready" else verifier.verify(issuer.mint())
    assert refused.value.code == "closed"


def test_an_engine_stopped_before_it_began_still_ends():
    """What it was to run may not have had its first step: whoever waits is woken all the same."""
    for _ in range(50):
        woken = threading.Event()
        started = engine(ended=woken.set)
        started.start()
        started.stop()
        assert woken.is_set()
        assert not started.running


async def test_nobody_waits_longer_than_real_time_allows(plain_issuer, clock, monkeypatch):
    """A clock that stands still, or a thread that hangs, ends in 503 for threads and for coroutines."""
    monkeypatch.setattr(following, "_MARGIN", 0.2)
    timing = Timing(load_wait=0.01, unknown_wait=0.01, rejoin_wait=0.01)
    asked = Issuer(issuer=plain_issuer.issuer, audience="api", timing=timing)
    with plain_issuer.fail(Fault.HOLD):
        verifier = Verifier.many(asked, clock=clock)
        try:
            with pytest.raises(VerifierUnavailable) as refused:
                await asyncio.to_thread(verifier.verify, plain_issuer.mint())
            assert refused.value.code == "internal"
            with pytest.raises(VerifierUnavailable):
                await verifier.averify(plain_issuer.mint())
            with pytest.raises(VerifierUnavailable):
                await verifier.astart()
        finally:
            verifier.close()
