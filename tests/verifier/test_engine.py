"""Callers whose verifier has no thread, or one that does not answer: each gets an answer in bounded time."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest

from mintmark import Issuer, Verifier, VerifierUnavailable
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


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_waits_until_the_imports_are_done():
    """Those that the starting caller makes, in whichever thread that is."""
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()
    codes: list[int] = []

    def prepare() -> None:
        begun.set()
        go_on.wait(20)
        done.set()

    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if done.is_set() else 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    started = engine(prepare)
    starting = threading.Thread(target=started.start)
    forking = threading.Thread(target=fork)
    starting.start()
    assert begun.wait(20)
    forking.start()
    forking.join(0.2)  # all the time that a fork which does not wait could want
    go_on.set()
    forking.join(20)
    starting.join(20)
    started.stop()
    assert codes == [0]


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
