"""The folder's own promises: who may read it, where writes go, what a crash or a full disk leaves."""

import asyncio
import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from mintmark.adapters.filesystem import FolderPublisher, from_url
from mintmark.errors import ConfigurationError
from mintmark.ports.publisher import Entry, Headers, PublicationFailed, Version
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock

HEADERS = Headers("application/json", "public, max-age=5")
NAME = ".well-known/jwks.json"
OLD, NEW = Entry(b"old" * 1_000, HEADERS), Entry(b"new" * 2_000, HEADERS)

WRITER = f"""
import asyncio, sys
from pathlib import Path
from mintmark.adapters.filesystem import FolderPublisher
from mintmark.ports.publisher import Entry, Headers
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

async def write():
    folder = FolderPublisher(Path(sys.argv[1]), clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
    found = await folder.read({NAME!r})
    await folder.put({NAME!r}, Entry(b"new" * 2_000, Headers("", "")), over=found and found.version)

asyncio.run(write())
"""


@pytest.fixture
async def folder(tmp_path) -> AsyncIterator[FolderPublisher]:
    made = FolderPublisher(tmp_path, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
    yield made
    await made.close()


@pytest.fixture
def closed_umask() -> Iterator[None]:
    """The umask of a careful service: what it makes is for nobody else."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def version_of(folder: FolderPublisher) -> Version | None:
    found = await folder.read(NAME)
    return found.version if found is not None else None


@pytest.mark.usefixtures("closed_umask")
async def test_everybody_may_read_what_is_published(folder, tmp_path):
    """The web server is another user: entries and their folders are readable, whatever the umask."""
    assert await folder.put(NAME, NEW, over=None)
    assert mode(tmp_path / NAME) == 0o644
    assert mode((tmp_path / NAME).parent) == 0o755


async def test_only_entries_are_in_the_folder(folder, tmp_path):
    """After writes and deletions there is nothing but entries and the lock, which nobody else may read."""
    assert await folder.put(NAME, NEW, over=None)
    assert await folder.put("keys/a.json", NEW, over=None)
    await folder.delete("keys/a.json")
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {NAME, ".mintmark.lock"}
    assert mode(tmp_path / ".mintmark.lock") == 0o600


@pytest.mark.parametrize("link", ["folder", "file"])
async def test_symbolic_link_leads_nowhere(folder, tmp_path, tmp_path_factory, link):
    """Whoever may write in the folder cannot lead a node to read or write elsewhere."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    if link == "folder":
        (tmp_path / ".well-known").symlink_to(elsewhere)
    else:
        (elsewhere / "target").write_bytes(b"theirs")
        (tmp_path / ".well-known").mkdir()
        (tmp_path / NAME).symlink_to(elsewhere / "target")
    with pytest.raises(PublicationFailed):
        await folder.read(NAME)
    with pytest.raises(PublicationFailed):
        await folder.put(NAME, NEW, over=None)
    assert [path.read_bytes() for path in elsewhere.iterdir()] == ([b"theirs"] if link == "file" else [])


async def test_folder_in_the_place_of_an_entry_is_a_failure(folder, tmp_path):
    """What is no file under an entry's name is neither read nor replaced."""
    (tmp_path / NAME).mkdir(parents=True)
    with pytest.raises(PublicationFailed):
        await folder.read(NAME)
    with pytest.raises(PublicationFailed):
        await folder.put(NAME, NEW, over=None)


async def test_folder_that_is_missing_is_not_made(tmp_path):
    """A disk that was not mounted is a failure that names it, and is not filled in beneath."""
    missing = tmp_path / "not-mounted"
    folder = FolderPublisher(missing, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
    with pytest.raises(PublicationFailed, match="not-mounted"):
        await folder.put(NAME, NEW, over=None)
    assert not missing.exists()
    await folder.close()


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
async def test_disk_that_fails_leaves_the_old_entry_and_nothing_else(folder, tmp_path, monkeypatch, call):
    """F33: a full or broken disk is a failure; the entry is the old one, and nothing half done is left."""
    assert await folder.put(NAME, OLD, over=None)
    version = await version_of(folder)
    with monkeypatch.context() as broken:
        broken.setattr(os, call, _full)
        with pytest.raises(PublicationFailed, match="No space left"):
            await folder.put(NAME, NEW, over=version)
    assert (tmp_path / NAME).read_bytes() == OLD.body
    assert await folder.put(NAME, NEW, over=version)
    assert [path.name for path in (tmp_path / NAME).parent.iterdir()] == ["jwks.json"]


def _full(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


STEPS = ["mkdirat:when=1", "renameat:when=1", "write:when=1", "fsync:when=2", "renameat:when=2"]
"""Making the folder, its renaming; writing, syncing and renaming the file."""


@pytest.mark.usefixtures("closed_umask")
@pytest.mark.parametrize("step", STEPS)
async def test_process_killed_at_any_step_leaves_whole_entries(folder, tmp_path, step):
    """F01, PUB-2: after SIGKILL at each step of a write nobody can read a part, and the next one succeeds."""
    await asyncio.to_thread(write_and_die, tmp_path, step)
    for path in tmp_path.rglob("*"):
        readable = path.is_file() and mode(path) & 0o004
        assert not readable or path.read_bytes() == NEW.body
    version = await version_of(folder)
    assert await folder.put(NAME, OLD, over=version)
    assert {path.name for path in tmp_path.iterdir()} == {".well-known", ".mintmark.lock"}
    assert [path.name for path in (tmp_path / NAME).parent.iterdir()] == ["jwks.json"]
    assert mode((tmp_path / NAME).parent) == 0o755


def write_and_die(root: Path, step: str) -> None:
    """A process that writes into ``root`` and is killed at a system call, as strace spells it."""
    strace = shutil.which("strace")
    if strace is None:
        cannot("strace is not installed")
    call, _, when = step.partition(":")
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:{when}"]
    # Without bytecode the interpreter neither writes nor makes a folder before it comes to ours.
    command = [strace, "-f", "-o", "/dev/null", *inject, sys.executable, "-B", "-c", WRITER, str(root)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if "ptrace" in done.stderr:
        cannot(f"strace may not trace here: {done.stderr}")
    assert done.returncode == -signal.SIGKILL, done.stderr


def cannot(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


async def test_lock_that_is_held_for_long_is_a_failure_that_says_so(tmp_path):
    """F04: a process that was stopped while it held the lock makes writes fail, and holds up no reader."""
    clock = FakeClock()
    folder = FolderPublisher(tmp_path, clock=clock, entropy=SYSTEM_ENTROPY)
    assert await folder.put(NAME, OLD, over=None)
    version = await version_of(folder)
    with (tmp_path / ".mintmark.lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        late = asyncio.create_task(folder.put(NAME, NEW, over=version))
        await clock.armed(within=1)
        assert await version_of(folder) == version
        clock.advance(60)
        with pytest.raises(PublicationFailed, match="holds its lock"):
            await late
    assert await folder.put(NAME, NEW, over=version)
    await folder.close()


async def test_lock_that_is_let_go_is_taken(tmp_path):
    """A write that found the lock held goes on once it is free."""
    clock = FakeClock()
    folder = FolderPublisher(tmp_path, clock=clock, entropy=SYSTEM_ENTROPY)
    assert await folder.put(NAME, OLD, over=None)
    version = await version_of(folder)
    with (tmp_path / ".mintmark.lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        late = asyncio.create_task(folder.put(NAME, NEW, over=version))
        await clock.armed(within=1)
    clock.advance(0.1)
    assert await late
    await folder.close()


@pytest.mark.parametrize(
    "url", ["file:srv/www", "file://host/srv/www", "file:///srv?x=1", "file:///srv#x", "file://", "file:www"]
)
def test_url_that_names_no_folder_is_refused(url):
    """A folder is written with three slashes; a host, a query or a relative path is a mistake."""
    with pytest.raises(ConfigurationError, match="file:///srv/www"):
        from_url(url, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)


async def test_url_may_hold_encoded_characters(tmp_path):
    """A folder with a space in its name can be named."""
    (tmp_path / "a b").mkdir()
    folder = from_url(f"file://{tmp_path}/a%20b", clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
    assert await folder.put(NAME, NEW, over=None)
    assert (tmp_path / "a b" / NAME).read_bytes() == NEW.body
    await folder.close()
