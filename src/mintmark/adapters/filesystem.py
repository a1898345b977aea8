"""A folder that a web server serves, as a place for published documents: ``file:///srv/www``.

Nodes that share a folder, on one machine or over a network file system, take turns by a lock on a file in it;
the lock ends with the process that holds it. Below the folder no symbolic link is followed, so whoever may
write there cannot lead a node's writes elsewhere. The folder itself must exist: one that is missing is a
disk that was not mounted, or a mistake.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

from mintmark.adapters.offload import PATIENCE, Offload
from mintmark.errors import ConfigurationError
from mintmark.ports.clock import Clock, Entropy
from mintmark.ports.publisher import (
    LARGEST,
    Entry,
    Found,
    PublicationFailed,
    Version,
    folder_of,
    segments_of,
)

T = TypeVar("T")

_LOCK: Final = ".mintmark.lock"
_TEMPORARY: Final = ".mintmark-"
_BUSY_PAUSE: Final = 0.02
"""Seconds until the lock is tried again. It is held for one write, unless its holder was stopped."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_FOLDER_MODE: Final = 0o755
_FILE_MODE: Final = 0o644
"""The web server is another user; what is published is for everybody, whatever this process's umask."""


def from_url(url: str, *, clock: Clock, entropy: Entropy) -> "FolderPublisher":
    """The folder at ``file:///path``; raises ConfigurationError where the URL names none."""
    try:
        return FolderPublisher(Path(folder_of(url)), clock=clock, entropy=entropy)
    except ValueError as error:
        raise ConfigurationError("publish", str(error)) from None


class FolderPublisher:
    """:class:`mintmark.ports.publisher.Publisher` in a folder; headers are for its web server to add."""

    def __init__(self, root: Path, *, clock: Clock, entropy: Entropy) -> None:
        self.place: Final = f"file://{root}"
        self._root = root
        self._clock = clock
        self._entropy = entropy
        self._threads = Offload(self.place)

    async def read(self, name: str) -> Found | None:
        """What is there under ``name`` now. Raises PublicationFailed."""
        segments = segments_of(name)
        return await self._run(lambda: self._read(segments))

    async def versions(self, folder: str) -> Mapping[str, Version]:
        """The entries directly in ``folder``, by name. Raises PublicationFailed."""
        segments = segments_of(folder)
        return await self._run(lambda: self._versions(segments))

    async def put(self, name: str, entry: Entry, *, over: Version | None) -> bool:
        """Whether ``entry`` was taken in place of version ``over``. Raises PublicationFailed."""
        segments = segments_of(name)
        temporary = f"{_TEMPORARY}{self._entropy.token_bytes(16).hex()}"
        return await self._run_locked(lambda: self._put(segments, entry.body, over, temporary))

    async def delete(self, name: str) -> None:
        """Remove ``name``, whatever it is now. Raises PublicationFailed."""
        segments = segments_of(name)
        await self._run_locked(lambda: self._delete(segments))

    async def close(self) -> None:
        """Let the threads go."""
        self._threads.close()

    async def _run_locked(self, work: Callable[[], T]) -> T:
        """``work`` while no other process writes here; waits without holding a thread."""
        deadline = self._clock.monotonic() + PATIENCE
        while self._clock.monotonic() < deadline:
            with contextlib.suppress(_Busy):
                return await self._run(lambda: self._locked(work))
            await self._clock.sleep(_BUSY_PAUSE)
        raise PublicationFailed(f"{self.place}: another process holds its lock")

    async def _run(self, work: Callable[[], T]) -> T:
        def translated() -> T:
            try:
                return work()
            except OSError as error:
                reason = error.strerror or type(error).__name__
                raise PublicationFailed(f"{self.place}: {reason}") from error

        return await self._threads.run(translated)

    # --- in a thread ---------------------------------------------------------------------------------

    def _locked(self, work: Callable[[], T]) -> T:
        with self._folder(()) as root:
            lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=root)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return work()
        except BlockingIOError:
            raise _Busy from None
        finally:
            # Closing is what unlocks: nobody else has this description of the file.
            os.close(lock)

    @contextlib.contextmanager
    def _folder(self, segments: tuple[str, ...], *, make_as: str | None = None) -> Iterator[int]:
        """A descriptor of the folder, each step opened below the one before it.

        With ``make_as`` a step that is missing is made, under that name until it is as it should be.
        """
        at = os.open(self._root, _DIRECTORY)
        try:
            for segment in segments:
                if make_as is not None:
                    _make_folder(segment, make_as, at)
                below = os.open(segment, _DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
                os.close(at)
                at = below
            yield at
        finally:
            os.close(at)

    def _read(self, segments: tuple[str, ...]) -> Found | None:
        with self._existing(segments[:-1]) as folder:
            return _read_file(segments[-1], folder) if folder is not None else None

    @contextlib.contextmanager
    def _existing(self, segments: tuple[str, ...]) -> Iterator[int | None]:
        """The folder, or None where it is not there though the root is."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._folder(()))
            try:
                yield stack.enter_context(self._folder(segments))
            except FileNotFoundError:
                yield None

    def _versions(self, segments: tuple[str, ...]) -> Mapping[str, Version]:
        found = {}
        with self._existing(segments) as folder:
            if folder is None:
                return {}
            for name in sorted(os.listdir(folder)):
                if name.startswith(_TEMPORARY) or name == _LOCK:
                    continue
                with contextlib.suppress(IsADirectoryError):
                    entry = _read_file(name, folder)
                    if entry is not None:
                        found["/".join((*segments, name))] = entry.version
        return found

    def _put(self, segments: tuple[str, ...], body: bytes, over: Version | None, temporary: str) -> bool:
        found = self._read(segments)
        if (found.version if found is not None else None) != over:
            return False
        with self._folder(segments[:-1], make_as=temporary) as folder:
            _forget_unfinished(folder)
            _write(temporary, body, folder)
            os.rename(temporary, segments[-1], src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        return True

    def _delete(self, segments: tuple[str, ...]) -> None:
        with self._existing(segments[:-1]) as folder:
            if folder is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(segments[-1], dir_fd=folder)
                    os.fsync(folder)


class _Busy(Exception):
    """Another process writes here."""


def _make_folder(name: str, temporary: str, at: int) -> None:
    """Make what is missing. It appears with its mode: a process killed in between would leave it closed."""
    with contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=at, follow_symlinks=False)
        return
    _forget_unfinished(at)
    os.mkdir(temporary, 0o700, dir_fd=at)
    made = os.open(temporary, _DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
    try:
        os.fchmod(made, _FOLDER_MODE)
    finally:
        os.close(made)
    os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)
    os.fsync(at)


def _read_file(name: str, folder: int) -> Found | None:
    try:
        file = os.open(name, _FILE, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(file)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if status.st_size > LARGEST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        body = b""
        while chunk := os.read(file, LARGEST):
            body += chunk
    finally:
        os.close(file)
    return Found(body, Version(hashlib.sha256(body).hexdigest()), None)


def _write(name: str, body: bytes, folder: int) -> None:
    """A file that is whole on the disk before anybody but its owner may read it."""
    file = os.open(name, _NEW, 0o600, dir_fd=folder)
    try:
        left = memoryview(body)
        while left:
            left = left[os.write(file, left) :]
        os.fchmod(file, _FILE_MODE)
        os.fsync(file)
    except OSError:
        os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(file)


def _forget_unfinished(folder: int) -> None:
    """Remove what processes left that were killed while they wrote: under the lock nobody writes now."""
    for name in os.listdir(folder):
        if name.startswith(_TEMPORARY):
            try:
                os.unlink(name, dir_fd=folder)
            except IsADirectoryError:
                os.rmdir(name, dir_fd=folder)
