"""What is said of the machine: its clock, its limits, each protection, and who listens."""

import errno
import json
from dataclasses import replace

import pytest

from mintmark.ports.signer import Hardened
from mintmark.server.diagnosis import machine
from mintmark.server.diagnosis.finding import Verdict
from mintmark.server.diagnosis.machine import ENOUGH_FILES, Free, Held, Unit, Unusable, WallClock
from mintmark.server.health import Reason
from mintmark.server.setting import Address
from mintmark.units import Issuer, Seconds

ISSUER = Issuer("https://auth.example.com")
HERE = Address("127.0.0.1", 8420)
DISCOVERY = json.dumps({"issuer": ISSUER, "mintmark_feed": ISSUER + "/revocations"}).encode()


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (WallClock(synchronised=True, max_error=1_500), Verdict.OK),
        (WallClock(synchronised=False, max_error=16_000_000), Verdict.WARNING),
        ("the kernel does not tell: Operation not permitted", Verdict.SKIPPED),
    ],
)
def test_clock_that_nothing_keeps_right_is_a_warning(found, verdict):
    """A clock that drifts works for now, and where the kernel does not tell nothing is claimed."""
    assert machine.of_wall_clock(found).verdict is verdict


@pytest.mark.parametrize(
    ("hard", "verdict"),
    [
        (None, Verdict.OK),
        (ENOUGH_FILES, Verdict.OK),
        (ENOUGH_FILES - 1, Verdict.WARNING),
        (64, Verdict.WARNING),
    ],
)
def test_few_open_files_are_few_connections(hard, verdict):
    """A low hard limit is a warning that names the setting of systemd."""
    found = machine.of_open_files(hard)
    assert found.verdict is verdict
    assert ("LimitNOFILE" in (found.fix or "")) is (verdict is Verdict.WARNING)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (Unit("mintmark.service", None), Verdict.OK),
        (Unit("mintmark.service", Seconds(1015)), Verdict.OK),
        (Unit("mintmark.service", Seconds(90)), Verdict.WARNING),
        ("no systemd here", Verdict.SKIPPED),
    ],
)
def test_unit_that_kills_a_node_before_it_may_leave_is_a_warning(found, verdict):
    """The stop timeout must cover the longest way out of a node."""
    said = machine.of_unit(found, needed=Seconds(1015))
    assert said.verdict is verdict
    assert ("TimeoutStopSec=1015" in (said.fix or "")) is (verdict is Verdict.WARNING)


def hardened(**off):
    names = ("no_core_file", "not_dumpable", "memory_locked", "landlock", "seccomp")
    return tuple(Hardened(name, on=name not in off, reason=off.get(name, "put on")) for name in names)


def test_each_protection_is_told_as_on_or_off_with_its_reason():
    """What all processes have is one line that names them; where they differ there are two."""
    reports = {"control": hardened(), "signer": hardened(landlock="the kernel has none")}
    found = {(f.check, f.subject): f for f in machine.of_hardening(reports, swap=False)}
    assert found["hardening.seccomp", "control, signer"].found == "on: put on"
    assert found["hardening.landlock", "control"].verdict is Verdict.OK
    off = found["hardening.landlock", "signer"]
    assert (off.verdict, off.found) == (Verdict.WARNING, "off: the kernel has none")
    assert "5.13" in (off.fix or "")


@pytest.mark.parametrize(("swap", "verdict"), [(True, Verdict.WARNING), (False, Verdict.OK)])
def test_memory_that_is_not_locked_matters_where_there_is_swap(swap, verdict):
    """Keys can reach a disk only where the kernel writes memory to one."""
    (found,) = machine.of_hardening(
        {"signer": (Hardened("memory_locked", on=False, reason="RLIMIT_MEMLOCK is 8192 bytes"),)}, swap=swap
    )
    assert found.verdict is verdict
    assert "RLIMIT_MEMLOCK is 8192 bytes" in found.found
    assert ("LimitMEMLOCK=infinity" in (found.fix or "")) is swap


@pytest.mark.parametrize("name", ["no_core_file", "not_dumpable"])
def test_memory_that_others_may_read_is_a_failure(name):
    """Without these a private key is anybody's who runs as the same user."""
    (found,) = machine.of_hardening({"signer": (Hardened(name, on=False, reason="no"),)}, swap=False)
    assert found.verdict is Verdict.FAILED


def test_profile_that_cannot_be_tried_hides_no_other():
    """One process that does not start is a failure, and the others are told all the same."""
    found = machine.of_hardening({"control": "it ended with status 1", "signer": hardened()}, swap=False)
    assert [f.verdict for f in found] == [Verdict.FAILED] + [Verdict.OK] * 5


def test_free_address_is_right_before_the_first_start():
    """Nobody listens: a node can start, and none is asked whether it is ready."""
    listen, ready = machine.of_listen(HERE, ISSUER, Free())
    assert (listen.verdict, ready.verdict) == (Verdict.OK, Verdict.SKIPPED)


@pytest.mark.parametrize(
    ("number", "fix"),
    [(errno.EACCES, "CAP_NET_BIND_SERVICE"), (errno.EADDRNOTAVAIL, "ip address"), (7, "listen")],
)
def test_address_that_the_system_refuses_is_a_failure(number, fix):
    """A privileged port and an address of another machine each have their fix."""
    listen, _ = machine.of_listen(HERE, ISSUER, Unusable(number, "no"))
    assert listen.verdict is Verdict.FAILED
    assert fix in (listen.fix or "")


@pytest.mark.parametrize(
    ("held", "found"),
    [
        (
            Held(b"", b"", 0),
            "somebody listens here and does not answer: a node that hangs, or another program",
        ),
        (Held(b"<h1>It works</h1>", b"[]", 200), "another program listens here"),
        (Held(b'{"issuer": "https://accounts.example"}', b"", 404), "another program listens here"),
        (
            Held(DISCOVERY.replace(b"auth.", b"other."), b'{"reasons": []}', 200),
            "a node of another issuer listens here (https://other.example.com)",
        ),
        (Held(b'{"title": "Not Found"}', b'{"reasons": []}', 200), "a node of another issuer listens here"),
    ],
)
def test_address_that_others_hold_is_a_failure(held, found):
    """Another program and a node of another issuer are told apart, and none is asked whether it is ready."""
    listen, ready = machine.of_listen(HERE, ISSUER, held)
    assert (listen.verdict, listen.found) == (Verdict.FAILED, found)
    assert ready.verdict is Verdict.SKIPPED


def test_node_that_is_ready_is_ok():
    """A node of this issuer that is ready leaves nothing to say."""
    listen, ready = machine.of_listen(HERE, ISSUER, Held(DISCOVERY, b'{"reasons": []}', 200))
    assert (listen.verdict, ready.verdict) == (Verdict.OK, Verdict.OK)


@pytest.mark.parametrize("reason", [*Reason, "one_of_next_year"])
def test_node_that_is_not_ready_says_why_and_what_to_do(reason):
    """Each reason has a fix, also one of another version; only waiting for a key is no failure."""
    body = json.dumps({"reasons": [reason]}).encode()
    _, ready = machine.of_listen(HERE, ISSUER, Held(DISCOVERY, body, 503))
    waits = reason in {Reason.NO_ACTIVE_KEY, Reason.NO_SLOT}
    assert ready.verdict is (Verdict.WARNING if waits else Verdict.FAILED)
    assert ready.fix
    assert ready.found.startswith("not ready: ")


def test_node_that_waits_for_its_key_and_has_another_trouble_is_a_failure():
    """Waiting for a key excuses nothing else."""
    for reasons, verdict in (
        (["no_active_key", "signer_away"], Verdict.FAILED),
        (["no_active_key", "no_slot"], Verdict.WARNING),
        ([], Verdict.FAILED),
    ):
        body = json.dumps({"reasons": reasons}).encode()
        assert machine.of_listen(HERE, ISSUER, Held(DISCOVERY, body, 503))[1].verdict is verdict


def test_node_that_answers_nothing_useful_is_not_ready():
    """A worker that hangs, or an answer of another form, is not taken for readiness."""
    for held in (
        Held(DISCOVERY, b"", 0),
        Held(DISCOVERY, b'{"reasons": []}', 500),
        Held(DISCOVERY, b"[]", 200),
    ):
        assert machine.of_listen(HERE, ISSUER, held)[1].verdict is Verdict.FAILED


def test_what_a_stranger_answers_is_not_repeated_raw():
    """Control characters of another program's answer do not reach a terminal, nor does a long text."""
    body = json.dumps({"issuer": "\x1b[2J" + "x" * 9_000, "mintmark_feed": "x"}).encode()
    listen, _ = machine.of_listen(HERE, ISSUER, Held(body, b"", 0))
    assert listen.found.isprintable()
    assert len(listen.found) < 400
    text = json.dumps({"reasons": ["\x1b[2J"]}).encode()
    assert machine.of_listen(HERE, ISSUER, Held(DISCOVERY, text, 503))[1].found.isprintable()


def test_trouble_of_one_issuer_is_told_though_the_node_is_ready():
    """A node of several issuers answers 200 where one of them lacks a key: that one's check says so."""
    other = Issuer(ISSUER + "/other")
    ready: dict[str, object] = {
        "status": "ready",
        "reasons": [],
        "issuers": {ISSUER: [], other: ["ring_stale"]},
    }
    held = Held(discovery=DISCOVERY, ready=json.dumps(ready).encode(), ready_status=200)
    assert [finding.verdict for finding in machine.of_listen(HERE, ISSUER, held)] == [Verdict.OK] * 2
    theirs = replace(held, discovery=DISCOVERY.replace(ISSUER.encode(), other.encode()))
    _, found = machine.of_listen(HERE, other, theirs)
    assert found.verdict is Verdict.FAILED
    assert found.fix
