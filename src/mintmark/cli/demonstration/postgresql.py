"""A PostgreSQL server for as long as a block lasts: in a temporary folder, on a free port, ended with it.

For the demo and the tests. The server's programs must be on the machine (Debian: ``postgresql``); its data
is worth nothing, but it syncs like any other, so that what is shown is what a real one does.
"""

import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Final, Self

from mintmark.cli.demonstration.loopback import free_ports
from mintmark.errors import MintmarkError
from mintmark.ports.clock import Entropy
from mintmark.system import SYSTEM_ENTROPY

_DEBIAN: Final = Path("/usr/lib/postgresql")
_PATIENCE: Final = 240
"""Real seconds for a start or a stop, on a machine that is busy."""

_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
}


class PostgresqlMissing(MintmarkError):
    """There is no PostgreSQL server on this machine; the message says how to get one."""


class PostgresqlFailed(MintmarkError):
    """The server, or a statement, failed; the message holds what it said."""


def find_programs() -> Path:
    """The folder with ``postgres`` and ``initdb``; raises PostgresqlMissing."""
    on_path = shutil.which("postgres")
    if on_path is not None:
        return Path(on_path).resolve().parent
    versions = sorted(_DEBIAN.glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if not versions:
        raise PostgresqlMissing(
            "no PostgreSQL server was found: install one (Debian, Ubuntu: apt install postgresql)"
        )
    return versions[-1].parent


class PostgresqlServer:
    """One server with one superuser, ``mintmark``; use it as a context manager.

    ``stop`` and ``start`` may be called in between, to show what happens without it. ``url(database)`` is
    what the setting ``store`` takes. Raises PostgresqlMissing, PostgresqlFailed.
    """

    def __init__(self, *, entropy: Entropy = SYSTEM_ENTROPY) -> None:
        self._programs = find_programs()
        self._password = entropy.token_bytes(18).hex()
        self._process: subprocess.Popen[bytes] | None = None
        self._account = _account()
        self.folder: Final = Path(tempfile.mkdtemp(prefix="mintmark-postgresql-", dir=_place(self._account)))
        self.log: Final = self.folder / "server.log"
        self.port: Final = free_ports(1, entropy)[0]

    def __enter__(self) -> Self:
        try:
            self._initialize()
            self.start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise PostgresqlFailed("the server does not run")
        return self._process.pid

    def url(self, database: str = "postgres", *, port: int | None = None) -> str:
        """Where ``database`` is; ``port`` is that of a proxy in front of the server."""
        return f"postgresql://mintmark:{self._password}@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = [f"--{name.replace('_', '-')}={value}" for name, value in _SETTINGS.items()]
        with self.log.open("ab") as log:
            self._process = self._run(
                "postgres", "-D", str(self.folder / "data"), "-p", str(self.port),
                "-k", str(self.folder), *settings, output=log,
            )  # fmt: skip
        answered = self._program("psql", "-h", "127.0.0.1", "-c", "SELECT 1", attempts=_PATIENCE * 10)
        if answered.returncode:
            raise PostgresqlFailed(f"the server does not answer: {self.tail()}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT cuts connections (fast), SIGQUIT leaves a recovery to the next start."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            # One that was paused hears nothing else.
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def end(self) -> None:
        """Stop it and remove its folder."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def execute(self, statement: str, *, database: str = "postgres") -> str:
        """What ``psql`` prints for ``statement``: unaligned rows, no header."""
        done = self._program("psql", "-h", "127.0.0.1", "-d", database, "-qAtX", "-c", statement)
        if done.returncode:
            raise PostgresqlFailed(done.stderr.decode(errors="replace").strip())
        return done.stdout.decode().strip()

    def create_database(self, name: str) -> str:
        """The URL of a new and empty database."""
        self.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def tail(self) -> str:
        """The end of the server's log."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""

    # --- its programs --------------------------------------------------------------------------------

    def _initialize(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self._password)
        if self._account is not None:
            os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
            os.chown(secret, self._account.pw_uid, self._account.pw_gid)
        initdb = self._run(
            "initdb", "-D", str(self.folder / "data"), "-U", "mintmark", "--pwfile", str(secret),
            "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync",
            output=subprocess.PIPE,
        )  # fmt: skip
        try:
            said, _ = initdb.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            raise PostgresqlFailed("initdb did not end in time") from None
        finally:
            # It goes with its children, which nobody else would end.
            if initdb.returncode is None:
                os.killpg(initdb.pid, signal.SIGKILL)
                initdb.communicate()
            secret.unlink()
        if initdb.returncode:
            raise PostgresqlFailed(f"initdb: {said.decode(errors='replace').strip()}")

    def _run(self, program: str, *arguments: str, output: IO[bytes] | int) -> "subprocess.Popen[bytes]":
        account = self._account
        return subprocess.Popen(  # noqa: S603 - a program of PostgreSQL, arguments of our own
            [str(self._programs / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            process_group=0,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"},
            user=None if account is None else account.pw_uid,
            group=None if account is None else account.pw_gid,
            extra_groups=None if account is None else [],
        )

    def _program(
        self, program: str, *arguments: str, attempts: int = 1
    ) -> "subprocess.CompletedProcess[bytes]":
        environ = {
            "PATH": os.environ.get("PATH", ""),
            "PGUSER": "mintmark",
            "PGPASSWORD": self._password,
            "PGPORT": str(self.port),
            "PGDATABASE": "postgres",
            "PGCONNECT_TIMEOUT": "5",
        }
        while True:
            attempts -= 1
            done = subprocess.run(  # noqa: S603 - as above
                [str(self._programs / program), *arguments], env=environ, capture_output=True, check=False
            )
            gone = self._process is None or self._process.poll() is not None
            if done.returncode == 0 or attempts <= 0 or gone:
                return done
            # The one wait here: a tenth of a second, by a program that is there wherever psql is.
            subprocess.run(["sleep", "0.1"], check=True)  # noqa: S607 - on the caller's own PATH


def _account() -> pwd.struct_passwd | None:
    """As whom to run the server, which refuses to run as root; None where we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresqlMissing("run this as another user than root: PostgreSQL refuses to run as root")


def _place(account: pwd.struct_passwd | None) -> Path:
    """Where to put its folder: for temporary files, and where its user, if it is another one, gets to."""
    given = Path(tempfile.gettempdir()).resolve()
    if account is None:
        return given
    # A TMPDIR of root's own may be closed to everybody else; these are for everybody.
    for place in (given, Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - mkdtemp makes the folder in it
        if all(_may_pass(folder, account) for folder in (place, *place.parents)):
            return place
    raise PostgresqlFailed(
        f"user {account.pw_name}, who runs PostgreSQL, gets into no folder for temporary files"
    )


def _may_pass(folder: Path, account: pwd.struct_passwd) -> bool:
    try:
        found = folder.stat()
    except OSError:
        return False
    if found.st_uid == account.pw_uid:
        return bool(found.st_mode & stat.S_IXUSR)
    return bool(found.st_mode & (stat.S_IXGRP if found.st_gid == account.pw_gid else stat.S_IXOTH))
