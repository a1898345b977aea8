"""Argon2id in threads: the library lets go of the interpreter's lock while it works (RFC 9106)."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import argon2

from mintmark.errors import Overloaded, StoreDamaged
from mintmark.ports.passwords import PasswordCheck
from mintmark.units import Seconds

_T = TypeVar("_T")

# OWASP's first choice: 19 MiB, two passes, one lane.
_PARAMETERS: Final = argon2.Parameters(
    type=argon2.Type.ID, version=19, salt_len=16, hash_len=32, time_cost=2, memory_cost=19_456, parallelism=1
)


class Argon2Hasher:
    """:class:`mintmark.ports.passwords.PasswordHasher`; at most ``workers`` hashes run and ``queue`` wait."""

    def __init__(self, *, workers: int, queue: int) -> None:
        self._hasher = argon2.PasswordHasher.from_parameters(_PARAMETERS)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="argon2")
        self._room = workers + queue
        # Compared against where there is no user, so that both cases do the same work (PASSWORD-1).
        self._nobody = self._hasher.hash("nobody has this password")

    async def hash(self, password: str) -> str:
        """A new salted hash; raises Overloaded when the queue is full."""
        return await self._run(self._hash, password)

    async def verify(self, password_hash: str | None, password: str) -> PasswordCheck:
        """Compare, also against nobody's hash; raises Overloaded when the queue is full."""
        check = await self._run(self._verify, password_hash or self._nobody, password)
        return PasswordCheck.WRONG if password_hash is None else check

    def close(self) -> None:
        """End the threads; hashes that wait are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[..., _T], *args: str) -> _T:
        if self._room == 0:
            raise Overloaded("too many passwords are being checked", retry_after=Seconds(1))
        self._room -= 1
        future = self._threads.submit(work, *args)
        # The place is free when the thread is, not when an impatient caller goes away.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: None if loop.is_closed() else self._free(loop))
        return await asyncio.wrap_future(future)

    def _free(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self._room += 1

    def _hash(self, password: str) -> str:
        return self._hasher.hash(password)

    def _verify(self, password_hash: str, password: str) -> PasswordCheck:
        try:
            self._hasher.verify(password_hash, password)
        except argon2.exceptions.InvalidHashError:
            raise StoreDamaged("a password hash in the store is none of ours") from None
        except argon2.exceptions.VerificationError:
            return PasswordCheck.WRONG
        if self._hasher.check_needs_rehash(password_hash):
            return PasswordCheck.RIGHT_BUT_WEAKLY_HASHED
        return PasswordCheck.RIGHT
