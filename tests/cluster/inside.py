"""Inside a running cluster: its store as a test reads and changes it, and processes that stand still."""

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import httpx2
from anyio.from_thread import BlockingPortal, start_blocking_portal
from tests.cluster.load import OUTAGE
from tests.cluster.running import RunningNode, children_of, state_of, until

from mintmark import InvalidToken, Verifier, VerifierUnavailable
from mintmark.core import sessions
from mintmark.core.directory import User
from mintmark.core.key import Key
from mintmark.core.revocation import Kind
from mintmark.core.sessions import Redeem, Session, SessionStart
from mintmark.errors import Conflict, NotFound, Unavailable
from mintmark.node.store import open_store
from mintmark.ports.keyring import RingView
from mintmark.ports.store import Store
from mintmark.server.settings import load
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.conformance.rig import read_log
from mintmark.units import ClientId, Kid, NodeId, NumericDate, Rid, Sub

_WAL_WRITE_LOCK = 120
"""The byte of the file ``-shm`` that SQLite locks for a commit (https://sqlite.org/walformat.html)."""

T = TypeVar("T")


class Inside:
    """The store of a cluster, opened by this process too. Its methods may be called on any thread."""

    def __init__(self, portal: BlockingPortal, store: Store, config: Path) -> None:
        self._portal = portal
        self._store = store
        settings = load(config, {})
        self.issuer = settings.issuer
        self.timing = settings.timing

    def do(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """The result of ``work``, which is tried again while the store is busy, and may be done by then."""

        def attempt() -> list[T]:
            with contextlib.suppress(Unavailable):
                return [self._portal.call(work, self._store)]
            return []

        return until(attempt, "the store answered")[0]

    # --- keys ------------------------------------------------------------------------------------------

    def ring(self) -> RingView:
        """The key ring, the heartbeats and the store's time."""
        return self.do(lambda store: store.keyring.read(self.issuer))

    def key(self, kid: str) -> Key | None:
        """The key under ``kid``, whatever its state."""
        return self.ring().ring.find(Kid(kid))

    def is_live(self, node: NodeId) -> bool:
        """Whether the heartbeat of ``node`` is young enough."""
        view = self.ring()
        return any(member.node == node and member.is_live(view.now) for member in view.members)

    def retire(self, kid: str) -> None:
        """Take a key out of the ring, as any node does once its ``publish_until`` has passed."""

        async def retire(store: Store) -> bool:
            ring = (await store.keyring.read(self.issuer)).ring
            kept = tuple(key for key in ring.keys if key.kid != kid)
            return len(kept) == len(ring.keys) or await store.keyring.swap(
                ring.generation, replace(ring, generation=ring.generation + 1, keys=kept)
            )

        until(lambda: self.do(retire), "the key was retired")

    # --- users and sessions ------------------------------------------------------------------------------

    def add_user(self, kind: str) -> User:
        """A new user who can log in nowhere, but has sessions."""
        name = f"{kind}-{os.urandom(8).hex()}"

        async def add(store: Store) -> User:
            now = await store.now()
            user = User(
                issuer=self.issuer,
                sub=Sub(f"usr_{name}"),
                username=name,
                password_hash="$argon2id$first",
                scopes=("orders:read",),
                created_at=now,
                password_changed_at=now,
            )
            with contextlib.suppress(Conflict):
                await store.directory.add_user(user)
            return user

        return self.do(add)

    def add_client(self, kind: str) -> ClientId:
        """A new client that is what shop is."""

        async def add(store: Store) -> ClientId:
            shop = await store.directory.client(self.issuer, ClientId("shop"))
            assert shop is not None
            client_id = ClientId(f"{kind}-{os.urandom(8).hex()}")
            await store.directory.add_client(replace(shop, client_id=client_id))
            return client_id

        return self.do(add)

    def new_session(self, user: User, *, client_id: str = "shop") -> tuple[Rid, str]:
        """A session of ``user`` at a client, and its first refresh token; no password is hashed."""
        [(rid, [token])] = self.new_sessions(user, client_id=client_id)
        return rid, token

    def new_sessions(
        self, user: User, *, count: int = 1, rotations: int = 0, client_id: str = "shop"
    ) -> list[tuple[Rid, list[str]]]:
        """Sessions of ``user``, each with its tokens, the oldest first.

        They were rotated so often, the last time longer ago than any grace.
        """

        async def begin(store: Store) -> list[tuple[Rid, list[str]]]:
            now = await store.now()
            return [await self._begin(store, user, ClientId(client_id), rotations, now) for _ in range(count)]

        return self.do(begin)

    async def _begin(
        self, store: Store, user: User, client_id: ClientId, rotations: int, now: NumericDate
    ) -> tuple[Rid, list[str]]:
        step = self.timing.refresh_grace + 1
        at = NumericDate(now - rotations * step)
        session, token = sessions.start(
            SessionStart(
                issuer=self.issuer,
                sub=user.sub,
                client_id=client_id,
                scope=("orders:read",),
                audience=("orders",),
            ),
            rid=SYSTEM_ENTROPY.token_bytes(16),
            seed=SYSTEM_ENTROPY.token_bytes(32),
            timing=self.timing,
            now=at,
        )
        if rotations:
            # What ends it denies the access tokens that its last rotation would have given.
            session = replace(session, last_exp=NumericDate(now + self.timing.access_ttl))
        assert await store.sessions.start(session, user=user)
        tokens = [token]
        for _ in range(rotations):
            verdict = sessions.decide(session, token, client_id, timing=self.timing, now=at)
            assert isinstance(verdict, Redeem)
            assert await store.sessions.redeem(verdict)
            session, token, at = verdict.after, verdict.token, NumericDate(at + step)
            tokens.append(token)
        return session.rid, [each.text() for each in tokens]

    def pass_grace(self, rid: Rid) -> None:
        """Have a session as it is once its last rotation is longer ago than any grace."""
        back = self.timing.refresh_grace + 1

        async def age(store: Store) -> bool:
            row = (await store.sessions.read(self.issuer, rid)).session
            assert row is not None
            after = replace(row, rotated_at=NumericDate(row.rotated_at - back), version=row.version + 1)
            return await store.sessions.redeem(Redeem(row, after, None, rotated=True))  # type: ignore[arg-type]

        until(lambda: self.do(age), "the session has aged")

    def session(self, rid: Rid) -> Session:
        """A session's row."""
        row = self.do(lambda store: store.sessions.read(self.issuer, rid)).session
        assert row is not None
        return row

    def denied_until(self) -> dict[str, int]:
        """Until when the revocation log denies each session and each client that it names."""
        entries = self.do(lambda store: read_log(store, self.issuer))
        kinds = (Kind.RID, Kind.CLIENT)
        return {e.event.value: e.event.expires_at for e in entries if e.event.kind in kinds}

    def disable(self, user: User) -> None:
        """What ``mintmark users disable`` does."""
        self.do(lambda store: store.directory.disable_user(self.issuer, user.sub, timing=self.timing))

    def remove_client(self, client_id: ClientId) -> None:
        """What ``mintmark clients remove`` does."""

        async def remove(store: Store) -> None:
            # Done already where an attempt was answered too late.
            with contextlib.suppress(NotFound):
                await store.directory.remove_client(self.issuer, client_id, timing=self.timing)

        self.do(remove)

    def set_password(self, user: User) -> None:
        """What ``mintmark users passwd`` does once the password is hashed."""
        self.do(
            lambda store: store.directory.set_password(
                self.issuer, user.sub, "$argon2id$new", timing=self.timing
            )
        )


@contextlib.contextmanager
def opened(config: Path) -> Iterator[Inside]:
    """The store that the settings in ``config`` name."""
    settings = load(config, {})
    with start_blocking_portal() as portal, contextlib.ExitStack() as opening:

        def attempt() -> list[Store]:
            with contextlib.suppress(Unavailable):
                return [opening.enter_context(portal.wrap_async_context_manager(open_store(settings)))]
            return []

        yield Inside(portal, until(attempt, "the store opened")[0], config)


def settled(ask: Callable[[], httpx2.Response]) -> httpx2.Response:
    """The answer to a request, made again while there is none, or one that says «later»."""

    def answer() -> list[httpx2.Response]:
        with contextlib.suppress(*OUTAGE):
            answered = ask()
            return [answered] if answered.status_code != 503 else []
        return []

    return until(answer, "the request was answered")[0]


def fate_of(verifier: Verifier, token: str) -> str:
    """Why a verifier that has read the feed up to now refuses ``token``; empty where it accepts it."""

    def judge() -> list[str]:
        try:
            verifier.verify(token, fresh_revocation=True)
        except InvalidToken as error:
            return [error.code]
        except VerifierUnavailable:
            return []
        return [""]

    return until(judge, "the verifier has what it judges by")[0]


# --- processes that stand still ----------------------------------------------------------------------------


def pids_of(node: RunningNode) -> list[int]:
    """Every process of a node, the control process first."""
    assert node.process is not None
    return [node.process.pid, *children_of(node.process.pid)]


def stand_still(pids: Iterable[int], database: Path | None) -> int:
    """SIGSTOP to each of ``pids``, but not while one is inside a commit on the SQLite file ``database``.

    A process that is stopped just there holds the file's one write lock, and no other can write until it
    goes on: with one file for all of them that cannot be helped, and a test of something else must not meet
    it. How often the processes were let go on for that reason, and stopped anew.
    """
    stopped = list(pids)
    for again in range(1000):
        _send(stopped, signal.SIGSTOP)
        until(lambda: all(state_of(pid) in "TtZX" for pid in stopped), "all of them stand still")
        if database is None or not _writers(database) & {*stopped}:
            return again
        go_on(stopped)
    raise AssertionError("whenever they are stopped, one of them is inside a commit")


def go_on(pids: Iterable[int]) -> None:
    """SIGCONT to each of ``pids``, the last one first."""
    _send(reversed([*pids]), signal.SIGCONT)


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _writers(database: Path) -> set[int]:
    """Who holds the write lock of an SQLite file in WAL mode, by proc_locks(5): one process at the most.

    Opening the file to ask for its locks would, on closing it, drop those of this process's own SQLite.
    """
    inode = Path(f"{database}-shm").stat().st_ino
    found = set()
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] != "POSIX" or fields[3] != "WRITE" or int(fields[5].rpartition(":")[2]) != inode:
            continue
        first, last = fields[6], fields[7]
        if int(first) <= _WAL_WRITE_LOCK and (last == "EOF" or int(last) >= _WAL_WRITE_LOCK):
            found.add(int(fields[4]))
    return found
