"""SIGKILL at each step of a rotation: a node that starts again finishes or undoes it (I1, I2, I7, F01).

strace has the control process stand still after each system call of a kind. What stands in the write-ahead
log then, or in the arguments of the call, says which step is under way; in the wanted one it is killed.
"""

import re
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx2
import pytest
from hypothesis import settings as profile
from tests.cluster.cluster import PATIENCE
from tests.cluster.running import RunningNode, alive, children_of
from tests.cluster.running import until as until_within
from tests.cluster.tracing import kill_after, traced
from tests.cluster.witness import Witness, add_robot, kids_at

until = partial(until_within, patience=PATIENCE)

SETTINGS = {
    "verifier_cache": "2s",
    "jwks_max_age": "1s",
    "propagation": "3s",
    "clock_skew": "1s",
    "lease": "5s",
    # Three processes make keys at once.
    "algorithm": "ES256",
    # Tokens outlive the test.
    "access_ttl": "300s",
    "rotate_every": "4h",
}
CACHE = 2.0
SOAK = profile().max_examples > 100
SWEPT = {"fdatasync": 24, "pwrite64": 72, "sendto": 8}
"""Calls of a control process, and about how many there are from a request to rotate to the key's lease."""
LIVES = 8
"""Kills of a sweep on one store, so that no key's time is over meanwhile."""


@dataclass(frozen=True)
class Row:
    """A key as the database has it."""

    state: str
    node: str
    proven: bool
    signed: bool
    """Whether it was ever active."""


Ring = dict[str, Row]


def ring_in(database: Path) -> Ring:
    """Every key, by ``kid``."""
    columns = "kid, state, node, proven_at IS NOT NULL, activated_at IS NOT NULL"
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        rows = connection.execute(f"SELECT {columns} FROM ring_keys").fetchall()
    return {kid: Row(state, node, bool(proven), bool(signed)) for kid, state, node, proven, signed in rows}


@contextmanager
def copied(database: Path) -> Iterator[Path]:
    """A copy as the next who opens the file would find it, if all who have it open now were gone.

    Only while nobody writes, or who does stands still.
    """
    folder = database.parent / "copy"
    folder.mkdir()
    try:
        shutil.copyfile(database, folder / database.name)
        # Whoever closed the file last has removed its log.
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{database}-wal", folder / f"{database.name}-wal")
        yield folder / database.name
    finally:
        shutil.rmtree(folder)


def ring_of(node: RunningNode) -> Ring:
    return ring_in(database_of(node))


def database_of(node: RunningNode) -> Path:
    return node.folder / "mintmark.db"


# --- the steps, and how to know them --------------------------------------------------------------------


def prepared(before: Ring, now: Ring) -> bool:
    return any(row.state == "prepared" for kid, row in now.items() if kid not in before)


def proven(before: Ring, now: Ring) -> bool:
    return any(row.state == "prepared" and row.proven for row in now.values())


def activated(before: Ring, now: Ring) -> bool:
    return any(row.state == "active" and before.get(kid, row).state == "prepared" for kid, row in now.items())


def retired(before: Ring, now: Ring) -> bool:
    return any(row.state == "passive" and kid not in now for kid, row in before.items())


@dataclass(frozen=True)
class Point:
    """Where a control process is killed: after a system call that says ``text``, or that commits ``done``."""

    step: str
    what: str
    call: str
    text: str = ""
    done: Callable[[Ring, Ring], bool] | None = None

    def is_hit(self, call: str, before: Ring, database: Path) -> bool:
        if self.done is None:
            return self.text in call
        # Synced, and nobody has been told: whoever reads the file now sees the ring as it was before.
        with copied(database) as copy:
            return self.done(before, ring_in(copy))


LANES = (
    (
        Point("prepare", "the signer was asked for a key pair", "sendto", text="generate"),
        Point("prove", "the commit is synced", "fdatasync", done=proven),
        Point("retire", "the commit is synced", "fdatasync", done=retired),
    ),
    (
        Point("prepare", "the commit is synced", "fdatasync", done=prepared),
        Point("publish", "the store has the key, no worker serves it", "write", text="key.prepared"),
        Point("activate", "the signer was not told yet", "write", text="key.activated"),
    ),
    (
        Point("publish", "it is being read back", "write", text="GET /.well-known/jwks.json"),
        Point("activate", "the commit is synced", "fdatasync", done=activated),
    ),
)
"""Each lane is one node's store: the later kills of it meet what the earlier ones have left."""


# --- one life after the other ----------------------------------------------------------------------------


@dataclass
class Report:
    """What became of the kills."""

    steps: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    checks: Counter[str] = field(default_factory=Counter)


@dataclass
class Lane:
    """A node on a store of its own, who follows it, and what it is killed at."""

    node: RunningNode
    witness: Witness
    report: Report
    expired: set[str] = field(default_factory=set)
    """Keys whose time the test has brought forward."""

    def kill_at(self, point: Point) -> None:
        """Kill the control process there, start a node again, and see what came of the step."""
        self.witness.until_accepted()
        before, begin = self._lead_up_to(point)
        database, starter = database_of(self.node), _Starter(begin)
        with self._dying() as pid:
            kill_after(
                pid, self.node.folder, [point.call],
                lambda call: point.is_hit(call, before, database), starter.start,
            )  # fmt: skip
        starter.join()
        self.report.steps[point.step] += 1
        self._come_back(before, f"{point.step}: killed when {point.what}", point.done)

    def _lead_up_to(self, point: Point) -> tuple[Ring, Callable[[], object]]:
        """The ring before the step, and what brings it about once the process is watched."""
        if point.step == "retire":
            kid = self._passive()
            # Its tokens would have expired by then.
            self.witness.forget(kid)
            self.expired.add(kid)
            return ring_of(self.node), lambda: expire(database_of(self.node), kid)
        if point.step == "activate":
            self.node.run("keys", "rotate")
            (waiting,) = until(
                lambda: _proven(ring_of(self.node)), "it waits for its lead", log=self.node.tail
            )
            return waiting, lambda: None
        return ring_of(self.node), lambda: self.node.run("keys", "rotate")

    def _passive(self) -> str:
        """A key of an earlier life, which only verifies."""
        ring = ring_of(self.node)
        return next(kid for kid, row in ring.items() if row.state == "passive")

    def sweep(self, call: str, number: int) -> None:
        """Have strace kill the control process at the N-th such call of a rotation, whatever it does then."""
        self.witness.until_accepted()
        before = ring_of(self.node)
        with self._dying() as pid, traced(pid, self.node.folder, [call], f"signal=SIGKILL:when={number}"):
            self.node.run("keys", "rotate")
            until(lambda: not alive(pid), "it was killed")
        self._come_back(before, f"{call} {number}", None)

    @contextmanager
    def _dying(self) -> Iterator[int]:
        """The control process, which is killed in the block; what it had started has ended thereafter."""
        process = self.node.process
        assert process is not None
        children = children_of(process.pid)
        yield process.pid
        process.wait(60)
        # A worker that has the database open knows nothing of a commit that nobody was told of.
        until(lambda: not any(alive(pid) for pid in children), "the children of the killed process ended")

    def _come_back(self, before: Ring, what: str, done: Callable[[Ring, Ring], bool] | None) -> None:
        node = self.node
        with copied(database_of(node)) as copy:
            dead = ring_in(copy)
        assert_sound(dead)
        began = time.monotonic()
        node.start().until_ready(patience=PATIENCE)
        healed = time.monotonic() - began
        me = newest_node(node)
        (ring,) = until(lambda: _settled(ring_of(node), me), "only keys that signed are left", log=node.tail)
        # Every key that ever signed verifies until its tokens have expired, and only those.
        signed = {kid for kid, row in dead.items() if row.signed}
        left = {kid for kid, row in ring.items() if row.state == "passive"}
        assert left == signed - self.expired, (what, dead, ring)
        until(lambda: kids_at(node.http) == ring.keys(), "the key set is that ring", log=node.tail)
        for kid in (before.keys() | dead.keys()) - ring.keys():
            assert document(node.http, kid) == 404, "nobody finds a key that left"
        self.witness.until_checked()
        self.witness.until_accepted(other_than=frozenset(left))
        outcome = "" if done is None else ": finished" if done(before, dead) else ": undone"
        self.report.lines.append(f"{what}{outcome}; ready again after {healed:.1f} s")


def newest_node(node: RunningNode) -> str:
    """The id of the node that runs now. A line that a kill has cut off may have no end of its own."""
    started = re.findall(r'"node": "([^"]+)"[^{}]*"event": "node.started"', node.log.read_text())
    return str(started[-1])


def document(http: httpx2.Client, kid: str) -> int:
    return http.get(f"/keys/{kid}.json").status_code


def assert_sound(ring: Ring) -> None:
    """No node ever has two keys that sign, nor two that wait."""
    for state in ("active", "prepared"):
        by_node = Counter(row.node for row in ring.values() if row.state == state)
        assert all(count == 1 for count in by_node.values()), ring


def _settled(ring: Ring, me: str) -> list[Ring]:
    """The ring once the living node signs, all else verifies, and nothing waits for a node that is dead."""
    assert_sound(ring)
    rest = {row.state for row in ring.values() if row.node != me}
    own = [row.state for row in ring.values() if row.node == me]
    return [ring] if own == ["active"] and rest <= {"passive"} else []


def _proven(ring: Ring) -> list[Ring]:
    return [ring] if proven(ring, ring) else []


def expire(database: Path, kid: str) -> None:
    """Bring the time forward at which a key that only verifies may go.

    As a change of the ring: a node that has read it before must not write back what it read.
    """
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.execute("UPDATE rings SET generation = generation + 1")
        connection.execute(
            "UPDATE ring_keys SET publish_until = 1 WHERE kid = ? AND state = 'passive'", (kid,)
        )


class _Starter:
    """Does something on a thread: who watches a process that stands still must not wait for it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._thread = threading.Thread(target=work)
        self.start = self._thread.start
        self.join = self._thread.join


@contextmanager
def lane(folder: Path, report: Report) -> Iterator[Lane]:
    """A node that is ready, with a witness; in the end nothing of what it saw was wrong."""
    folder.mkdir()
    node = RunningNode(folder, SETTINGS)
    try:
        secret = add_robot(node)
        node.start().until_ready(patience=PATIENCE)
        with Witness(node, node.issuer, secret, cache=CACHE) as witness:
            yield Lane(node, witness, report)
        begun = {event["kid"] for event in node.events("key.activated") if event["cause"] != "proven"}
        witness.check(frozenset(begun))
        report.checks += witness.checks
        report.lines.append(witness.said())
    finally:
        node.end()


@pytest.mark.slow
@pytest.mark.hypothesis
@pytest.mark.timeout(7200 if SOAK else 900)
def test_rotation_that_is_killed_at_any_step_is_finished_or_undone(tmp_path):
    """F01, I1: one active key, no orphan, a key set that is never empty; no valid token is ever refused."""
    report = Report()

    def run(number: int, points: Iterable[Point]) -> None:
        with lane(tmp_path / f"lane-{number}", report) as made:
            for point in points:
                made.kill_at(point)

    def sweep(call: str, first: int) -> None:
        with lane(tmp_path / f"sweep-{call}-{first}", report) as made:
            for number in range(first, first + LIVES):
                made.sweep(call, number)

    with ThreadPoolExecutor(len(LANES)) as pool:
        begun = [pool.submit(run, number, points) for number, points in enumerate(LANES)]
        if SOAK:
            begun += [
                pool.submit(sweep, call, first)
                for call, last in SWEPT.items()
                for first in range(1, last + 1, LIVES)
            ]
        for done in begun:
            done.result()
    print(*sorted(report.lines), f"{report.checks.total()} checks: {dict(report.checks)}", sep="\n")
    assert set(report.steps) == {"prepare", "publish", "prove", "activate", "retire"}
