"""What every test shares: hypothesis profiles, the event loop, the vectors, and a check for leftovers."""

import contextlib
import faulthandler
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from hypothesis import HealthCheck, settings
from tests.bus_servers import BusServer, NatsServer, RedisServer, running
from tests.postgresql import empty_database, postgresql_server
from tests.s3 import S3Server, moto_server, seaweedfs_server

from mintmark.cli.demonstration.front import Backend, Front, running_front
from mintmark.cli.demonstration.postgresql import PostgresqlServer

ROOT = Path(__file__).resolve().parent.parent

# No deadlines: on a busy machine they would measure the machine. The database of failures stays off, so
# that a run depends on nothing that an earlier one left; the printed blob repeats a failure anywhere.
settings.register_profile(
    "dev",
    deadline=None,
    max_examples=50,
    print_blob=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("ci", settings.get_profile("dev"), max_examples=100, derandomize=False)
settings.register_profile("soak", settings.get_profile("ci"), max_examples=5_000, stateful_step_count=200)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "dev")
)


TEARDOWN_SECONDS = 60
"""How long the fixtures of a test may take to end."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """End the process, with all stacks, when a test that timed out hangs once more in its fixtures.

    pytest-timeout acts once a test. An event loop that it interrupted may never end its fixtures, and
    the run would stand still; this way pytest-xdist reports the test and goes on with a new process.
    """
    stderr = item.config.stash[fault_handler_stderr_fd_key]
    faulthandler.dump_traceback_later(TEARDOWN_SECONDS, exit=True, file=stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of asynchronous tests."""
    return "asyncio"


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of published test vectors; absent ones fail in CI and skip elsewhere."""
    folder = Path(os.environ.get("MINTMARK_VECTORS") or ROOT.parent / "shared" / "vectors")
    if not folder.is_dir():
        missing = f"no vectors in {folder}: set MINTMARK_VECTORS"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    return folder


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server of this process; without its programs tests fail in CI and skip elsewhere.

    Whoever stops, pauses or slows it starts a server of its own.
    """
    with postgresql_server() as server:
        yield server


@pytest.fixture
def database(postgresql: PostgresqlServer) -> Iterator[str]:
    """The URL of an empty database, removed after the test."""
    with empty_database(postgresql) as url:
        yield url


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """moto's S3 server of this process, which takes every credential."""
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[S3Server]:
    """A SeaweedFS of this process, which checks credentials."""
    with seaweedfs_server() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[BusServer]:
    """A Redis of this process; whoever stops or pauses one starts another."""
    with running(RedisServer) as server:
        yield server


@pytest.fixture(scope="session")
def nats_server() -> Iterator[BusServer]:
    """A NATS of this process; whoever stops or pauses one starts another."""
    with running(NatsServer) as server:
        yield server


@pytest.fixture
def line_to() -> Iterator[Callable[[int], Front]]:
    """What makes a line to a port of loopback, which can be made to fail."""
    with contextlib.ExitStack() as lines:
        yield lambda port: lines.enter_context(running_front([Backend("127.0.0.1", port)], ready_path=None))


def children() -> dict[int, str]:
    """The running child processes of this one, with their command lines."""
    found: dict[int, str] = {}
    for listed in Path("/proc/self/task").glob("*/children"):
        try:
            pids = listed.read_text().split()
        except OSError:
            # A thread that ended meanwhile; what it had started is another's.
            continue
        for pid in pids:
            try:
                # The name, in brackets, may hold anything; the state follows it (proc(5)).
                state = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
                command = (
                    Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            # What has ended and is not yet waited for runs no more.
            if state not in "ZX" and "multiprocessing.resource_tracker" not in command:
                found[int(pid)] = command.strip()
    return found


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left() -> Iterator[None]:
    """After the last test nothing that a test started is still running."""
    before = set(children())
    yield
    left = {pid: command for pid, command in children().items() if pid not in before}
    assert not left, f"tests left processes running: {left}"
