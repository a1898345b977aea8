"""What nodes promise while PostgreSQL is away, stopped, read-only, slow or locked (I8, F15 to F18)."""

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import httpx2
import jwt
import pytest
from sqlalchemy import make_url
from tests.cluster.cluster import PATIENCE, RunningCluster, running_cluster
from tests.cluster.running import Reachable, RunningNode
from tests.cluster.running import until as until_within
from tests.postgresql import postgresql_server

from mintmark import VerificationError, Verifier
from mintmark.adapters.sql.postgres import CONNECTIONS
from mintmark.cli.demonstration.front import Backend, Fault, Front, running_front
from mintmark.cli.demonstration.postgresql import PostgresqlServer, find_programs

NODES = 2
SETTINGS = {"access_ttl": "300s", "rotate_every": "330s", "refresh_grace": "1s", "feed_bound": "300s"}
REFUSALS = 3
"""How often each kind of writing must have been refused, at each node, before a fault ends."""
ANSWER_PATIENCE = 30.0
"""Seconds that a client waits; what is promised is two, beside what a password's hash takes and waits for.

The worst of a run is printed; what is bounded, and when, is shown by tests/http/test_budget.py."""
ROLE = "node"
LIMIT = NODES * 2 * (CONNECTIONS + 1)
"""Connections at the most: of the control process and of the worker of each node, for store and bus."""
OLD, NEW = "the-first-password", "the-second-password"


until = partial(until_within, patience=PATIENCE)


@dataclass
class Place:
    """A PostgreSQL server of the test's own, the line to it, and the nodes that use it."""

    server: PostgresqlServer
    line: Front
    cluster: RunningCluster

    def execute(self, statement: str) -> str:
        return self.server.execute(statement, database="auth")

    def connections(self) -> int:
        """How many connections nodes have, as the server sees it."""
        return int(self.execute(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}'"))


@pytest.fixture
def place(tmp_path) -> Iterator[Place]:
    with postgresql_server() as server:
        server.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{OLD}'")
        server.execute(f"CREATE DATABASE auth OWNER {ROLE}")
        backend = Backend("127.0.0.1", server.port)
        with running_front([backend], ready_path=None) as line:
            url = f"postgresql://{ROLE}:{OLD}@127.0.0.1:{line.port}/auth"
            with running_cluster(tmp_path, store=url, nodes=NODES, settings=SETTINGS) as cluster:
                yield Place(server, line, cluster)
                # Whatever a fault left behind would hold up the end.
                line.set(Fault.PASS)


# --- what breaks the database ------------------------------------------------------------------------


@contextmanager
def stopped(place: Place, _users: "Users") -> Iterator[None]:
    """F15: connections are cut, new ones refused."""
    place.server.stop()
    yield
    place.server.start()


@contextmanager
def restarted(place: Place, _users: "Users") -> Iterator[None]:
    """F15: as after a crash: no leave is taken, and a recovery comes first."""
    place.server.stop(signal.SIGQUIT)
    yield
    place.server.start()


@contextmanager
def blackholed(place: Place, _users: "Users") -> Iterator[None]:
    """F15: connections stay open and nothing comes through."""
    place.line.set(Fault.BLACKHOLE)
    yield
    place.line.set(Fault.PASS)


@contextmanager
def slow(place: Place, _users: "Users") -> Iterator[None]:
    """F17: everything that is sent to the server takes two seconds."""
    place.line.set(delay=2.0)
    yield
    place.line.set(Fault.PASS)


@contextmanager
def sluggish(place: Place, _users: "Users") -> Iterator[None]:
    """F17: each thing that a request asks is answered in good time, and all of it is not."""
    place.line.set(delay=0.6)
    yield
    place.line.set(Fault.PASS)


@contextmanager
def read_only(place: Place, _users: "Users") -> Iterator[None]:
    """F16: the server refuses to write, as one that fails over does."""
    place.server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    place.server.execute("SELECT pg_reload_conf()")
    yield
    place.server.execute("ALTER SYSTEM RESET default_transaction_read_only")
    place.server.execute("SELECT pg_reload_conf()")


@contextmanager
def locked(place: Place, table: str) -> Iterator[None]:
    """F17: somebody holds a lock on a table, so that nobody can so much as read it."""
    url = make_url(place.server.url("auth"))
    command = [
        str(find_programs() / "psql"),
        "-qAtX",
        "-h",
        "127.0.0.1",
        "-p",
        str(url.port),
        "-U",
        "mintmark",
    ]
    with subprocess.Popen(
        [*command, "auth"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PGPASSWORD": str(url.password)},
    ) as holder:  # fmt: skip
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            holder.stdin.write(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT 'held';\n")
            holder.stdin.flush()
            assert holder.stdout.readline() == "held\n"
            yield
        finally:
            # Its end is the end of its transaction.
            holder.stdin.close()
            holder.wait(ANSWER_PATIENCE)


@contextmanager
def sessions_locked(place: Place, _users: "Users") -> Iterator[None]:
    """F17: the table that each log-in, refresh and log-out writes to."""
    with locked(place, "sessions"):
        yield


@contextmanager
def password_changed(place: Place, users: "Users") -> Iterator[None]:
    """F18: connections that there are go on; then these end, and with the old password no new one is made."""
    place.server.execute(f"ALTER ROLE {ROLE} PASSWORD '{NEW}'")
    refused = users.refused.total()
    until(grown(users.done, WRITES, REFUSALS), "connections outlive a password", log=users.state)
    print(f"password: {users.refused.total() - refused} requests were refused while connections were there")
    place.server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'")
    yield
    place.server.execute(f"ALTER ROLE {ROLE} PASSWORD '{OLD}'")


SERVER = (stopped, restarted, password_changed)
LINE = (read_only, blackholed, slow, sluggish, sessions_locked)


# --- who uses the nodes meanwhile --------------------------------------------------------------------


class Users:
    """At each node somebody logs in, refreshes, logs out and reads the key set, again and again, and a
    service verifies tokens. What may never be is written down as ``wrong``."""

    def __init__(self, cluster: RunningCluster, verifier: Verifier) -> None:
        self.wrong: list[str] = []
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.worst: dict[str, float] = {}
        """Seconds to an answer, by what was asked."""
        self.ended: list[str] = []
        """Refresh tokens of sessions whose log-out was answered."""
        self._verifier = verifier
        self._stop = threading.Event()
        first = self._logged_in(cluster)["access_token"]
        self._tokens = {-1: first}
        """Of sessions that go on: one for good, and the newest at each node."""
        self._kid = jwt.get_unverified_header(first)["kid"]
        self._threads = [threading.Thread(target=self._verify)]
        for number, node in enumerate(cluster.nodes):
            for use in (self._log_in, self._refresh, self._log_out, self._read_keys):
                self._threads.append(threading.Thread(target=use, args=(node, number)))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def state(self) -> str:
        return f"done {self.done}\nrefused {self.refused}\nwrong {self.wrong[:5]}"

    def _ask(self, what: str, ask: Callable[[], httpx2.Response], expected: int) -> dict[str, Any] | None:
        """The answer; None where it was «later»."""
        began = time.monotonic()
        try:
            answer = ask()
        except httpx2.TransportError as error:
            self.wrong.append(f"{what}: {error!r}")
            return None
        self.worst[what] = max(self.worst.get(what, 0), time.monotonic() - began)
        if answer.status_code == expected:
            self.done[what] += 1
            return answer.json() if answer.content else {}
        if answer.status_code != 503 or not answer.headers.get("Retry-After", "").isdigit():
            self.wrong.append(f"{what}: {answer.status_code} {dict(answer.headers)} {answer.text}")
        self.refused[what] += 1
        return None

    def _logged_in(self, place: Reachable) -> dict[str, Any]:
        with place.client() as http:
            found = until(
                lambda: self._ask("log in", lambda: place.log_in_with(http), 201),
                "somebody logged in",
                log=self.state,
            )
        assert found is not None
        return found

    def _log_in(self, node: RunningNode, number: int) -> None:
        with patient_client(node) as http:
            while not self._stop.wait(0.3):
                self._ask(f"log in at {number}", lambda: node.log_in_with(http), 201)

    def _refresh(self, node: RunningNode, number: int) -> None:
        tokens = self._logged_in(node)
        self._tokens[number] = tokens["access_token"]
        with patient_client(node) as http:
            while not self._stop.wait(0.1):
                held = tokens["refresh_token"]
                renewed = self._ask(
                    f"refresh at {number}",
                    lambda: node.refresh_with(http, held),  # noqa: B023
                    200,
                )
                if renewed is not None:
                    tokens = renewed
                    self._tokens[number] = tokens["access_token"]

    def _log_out(self, node: RunningNode, number: int) -> None:
        stock: list[dict[str, Any]] = []
        with patient_client(node) as http:
            while not self._stop.wait(0.2):
                if len(stock) < 4:  # for when nobody can log in
                    tokens = self._ask("log in", lambda: node.log_in_with(http), 201)
                    if tokens is not None:
                        stock.append(tokens)
                        continue
                if stock:
                    access = stock[0]["access_token"]
                    left = self._ask(
                        f"log out at {number}",
                        lambda: node.log_out_with(http, access),  # noqa: B023
                        204,
                    )
                    if left is not None:
                        self.ended.append(stock.pop(0)["refresh_token"])

    def _read_keys(self, node: RunningNode, number: int) -> None:
        what = f"key set at {number}"
        with patient_client(node) as http:
            while not self._stop.wait(0.05):
                found = self._ask(what, lambda: http.get("/.well-known/jwks.json"), 200)
                if found is None:
                    self.wrong.append(f"{what}: there was none")
                elif self._kid not in {key["kid"] for key in found["keys"]}:
                    self.wrong.append(f"{what}: a key in use is missing")

    def _verify(self) -> None:
        while not self._stop.wait(0.02):
            for token in tuple(self._tokens.values()):
                began = time.monotonic()
                try:
                    self._verifier.verify(token)
                except VerificationError as error:
                    self.wrong.append(f"verify: {error!r}")
                self.worst["verify"] = max(self.worst.get("verify", 0), time.monotonic() - began)
                self.done["verify"] += 1


def patient_client(node: RunningNode) -> httpx2.Client:
    return httpx2.Client(base_url=node.url, timeout=ANSWER_PATIENCE, trust_env=False)


WRITES = [f"{what} at {number}" for number in range(NODES) for what in ("log in", "refresh", "log out")]
READS = ["verify", *(f"key set at {number}" for number in range(NODES))]


def grown(counts: Counter[str], names: list[str], by: int) -> Callable[[], bool]:
    """Whether each of the counts has grown by so much since this call."""
    before = counts.copy()
    return lambda: all(counts[name] >= before[name] + by for name in names)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("cause", ["refused", "silent", "password", "database"])
def test_node_that_starts_without_its_database_says_what_is_missing(postgresql, tmp_path, cause):
    """I8, F15: `serve` ends with status 69 and one line that names server, database and cause and no secret,
    so that whoever supervises it starts it again."""
    server = Backend("127.0.0.1", postgresql.port)
    with running_front([server], ready_path=None) as line:
        if cause == "silent":
            line.set(Fault.BLACKHOLE)
        url = make_url(postgresql.url(port=line.port))
        url = {
            "refused": url.set(port=1),
            "silent": url,
            "password": url.set(password=OLD),
            "database": url.set(database="nowhere"),
        }[cause]
        node = RunningNode(tmp_path, {"store": url.render_as_string(hide_password=False)})
        done = subprocess.run(
            node.command("serve"), capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=tmp_path
        )
        node.end()
    (said,) = done.stderr.splitlines()
    assert f"127.0.0.1:{url.port}/{url.database}: " in said
    assert {
        "refused": "nothing listens there",
        "silent": "did not answer in time",
        "password": "the user or the password",
        "database": "the database does not exist",
    }[cause] in said
    assert str(url.password) not in done.stdout + done.stderr
    assert done.returncode == 69


def lines_of(cluster: RunningCluster) -> str:
    return "".join(node.log.read_text(errors="replace") for node in cluster.nodes)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("faults", [SERVER, LINE], ids=["server", "line"])
def test_database_that_fails_logs_nobody_out(place, faults):
    """I8, F15, F16, F17, F18: key sets and verification go on, writing is refused with 503 and Retry-After,
    and once the database is back everything works with the same processes and the same refresh tokens."""
    cluster = place.cluster
    with Verifier(cluster.issuer, audience="orders") as verifier, Users(cluster, verifier) as users:
        until(grown(users.done, [*WRITES, *READS], 2), "everything works", log=lambda: str(users.wrong))
        for fault in faults:
            name = fault.__name__
            processes = [node.pids() for node in cluster.nodes]
            users.worst.clear()
            with fault(place, users):
                writes = grown(users.refused, WRITES, REFUSALS)
                reads = grown(users.done, READS, 50)
                until(writes, f"{name}: all writes are refused", log=users.state)
                until(reads, f"{name}: all reads go on", log=users.state)
                worst = users.worst.copy()
            began = time.monotonic()
            again = grown(users.done, [*WRITES, *READS], REFUSALS)
            until(again, f"{name}: everything works again", log=lambda: f"{users.state()}\n{cluster.tail()}")
            cluster.until_ready()
            writing = max(worst[what] for what in WRITES)
            reading = max(worst[what] for what in READS)
            print(
                f"{name}: slowest 503 {writing:.2f} s, slowest key set or verification {reading:.2f} s, "
                f"all well {time.monotonic() - began:.1f} s after the end, {place.connections()} connections"
            )
            assert [node.pids() for node in cluster.nodes] == processes, name
            until(lambda: place.connections() <= LIMIT, "superfluous connections ended")
    assert users.wrong == []
    # A session whose log-out was answered is over, and one that was refused is not.
    assert [cluster.refresh(token).status_code for token in users.ended[:20]] == [400] * len(users.ended[:20])
    log = lines_of(cluster)
    assert OLD not in log
    assert NEW not in log
