"""A node whose machine has the wrong time, beside nodes whose machines have the right one (F08, I10)."""

import mmap
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.cluster.cluster import PATIENCE, RunningCluster, running_cluster
from tests.cluster.running import RunningNode, until

from mintmark import Verifier

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static volatile const long *offset;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("WALL_CLOCK_OFFSET");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    real = dlsym(RTLD_NEXT, "clock_gettime");
    if (fd >= 0) {
        void *page = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
        if (page != MAP_FAILED)
            offset = page;
        close(fd);
    }
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (!real)
        real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, now);
    if (status == 0 && clock == CLOCK_REALTIME && offset)
        now->tv_sec += *offset;
    return status;
}
"""


class WallClock:
    """The time of day of processes that are started with ``environ``, and of nobody else."""

    def __init__(self, folder: Path) -> None:
        source, library, self._path = folder / "clock.c", folder / "clock.so", folder / "offset"
        source.write_text(SHIM)
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"],
            check=True, timeout=120,
        )  # fmt: skip
        self._path.write_bytes(bytes(mmap.PAGESIZE))
        self.environ = {"LD_PRELOAD": str(library), "WALL_CLOCK_OFFSET": str(self._path)}

    def set(self, offset: int) -> None:
        """Be ``offset`` seconds ahead of the machine from now on; behind, where it is negative."""
        with self._path.open("r+b") as file:
            file.write(offset.to_bytes(8, "little", signed=True))


@pytest.fixture
def wall_clock(tmp_path: Path) -> WallClock:
    """A wall clock that can be set; without a compiler tests fail in CI and skip elsewhere."""
    if shutil.which("gcc") is None:
        missing = "no gcc, with which a library for other clocks is made (Debian, Ubuntu: gcc libc6-dev)"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    return WallClock(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_node_whose_clock_is_off_signs_nothing_and_says_so(tmp_path, wall_clock, database):
    """F08, F14, I10: it starts so, or becomes so, 600 s ahead or behind: unready, 503, and others go on."""
    with running_cluster(tmp_path, store=database, start=False) as cluster:
        first, second, wrong = cluster.nodes
        wrong.environ = wall_clock.environ
        cluster.add_user_and_client()
        wall_clock.set(600)
        cluster.start()
        for node in (first, second):
            node.until_ready(patience=PATIENCE)
        _until_off(wrong)
        tokens = _others_go_on(cluster, wrong)
        assert wrong.events("key.activated") == []
        assert {event["offset"] > 590 for event in wrong.events("clock.drifted")} == {True}

        wall_clock.set(0)
        wrong.until_ready(patience=PATIENCE)
        wrong.asked(lambda: wrong.refresh(tokens["refresh_token"]), 200)

        # It mints through another node before it signs itself.
        until(lambda: wrong.events("key.activated"), "its own key signs", patience=PATIENCE, log=wrong.tail)
        activated = len(wrong.events("key.activated"))
        wall_clock.set(-600)
        _until_off(wrong)
        _others_go_on(cluster, wrong)
        assert len(wrong.events("key.activated")) == activated
        wall_clock.set(0)
        wrong.until_ready(patience=PATIENCE)
        wrong.asked(lambda: wrong.log_in_with(wrong.http), 201)


def _until_off(node: RunningNode) -> None:
    """Wait until the node gives its clock as a reason for not being ready."""

    def is_off() -> bool:
        assert node.process is not None
        assert node.process.poll() is None, f"the node ended: {node.tail()}"
        try:
            answer = node.http.get("/readyz")
        except httpx2.TransportError:
            return False
        return answer.status_code == 503 and "clock_off" in answer.json()["reasons"]

    until(is_off, "the node says that its clock is off", patience=PATIENCE, log=node.tail)


def _others_go_on(cluster: RunningCluster, wrong: RunningNode) -> dict[str, Any]:
    """What a log-in elsewhere gave, while ``wrong`` gives out nothing but the key set."""
    refused = wrong.log_in_with(wrong.http)
    assert refused.status_code == 503, refused.text
    assert "Retry-After" in refused.headers
    tokens: dict[str, Any] = cluster.asked(lambda: cluster.log_in_with(cluster.http), 201).json()
    assert wrong.refresh(tokens["refresh_token"]).status_code == 503
    assert wrong.http.get("/.well-known/jwks.json").status_code == 200
    with Verifier(cluster.issuer, audience="orders") as verifier:
        until(verifier.ready, "the verifier has keys and revocations")
        verifier.verify(tokens["access_token"])
    return tokens
