"""`mintmark doctor` beside a real node: in order, stopped in many ways, and gone."""

import asyncio
import json
import os
import signal
import subprocess
from typing import Any

import pytest
from tests.cluster.running import RunningNode, running_node, until

from mintmark.node.examination.store import look_at_store
from mintmark.server.settings import load
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

pytestmark = pytest.mark.slow

CALM = {"rotate_every": "1h", "lease": "30s", "feed_bound": "60s", "propagation": "10s"}
"""No rotation falls into an examination, and a busy machine makes no node stale."""


def examined(node: RunningNode) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit status, and the checks by id; of several under one id the worst."""
    command = node.command("doctor", "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=node.folder)
    assert done.stderr == ""
    worst = ("failed", "warning", "skipped", "ok")
    found: dict[str, dict[str, Any]] = {}
    for check in sorted(json.loads(done.stdout)["checks"], key=lambda check: -worst.index(check["status"])):
        found[check["id"]] = check
    return done.returncode, found


def of_mintmark(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The checks of what is the same on every machine."""
    return {
        name: check["status"]
        for name, check in found.items()
        if not name.startswith(("machine.", "hardening."))
    }


def test_node_in_order_has_no_word_against_it_and_each_fault_is_found(tmp_path):
    """Beside a healthy node all is ok; a signer that hangs, other timing, and a node that left are told."""
    with running_node(tmp_path, settings=CALM) as node:
        status, found = examined(node)
        assert set(of_mintmark(found).values()) == {"ok"}, found
        assert status == 0

        # A signer that stands still: the node says so itself, and doctor says where to look.
        signers = node.pids()["signer"]
        for pid in signers:
            os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: node.http.get("/readyz").status_code == 503, "the node sees its signer hang")
            status, found = examined(node)
        finally:
            for pid in signers:
                os.kill(pid, signal.SIGCONT)
        assert status == 1
        assert "its signer does not answer" in found["node.ready"]["found"]
        assert found["publication.reach"]["status"] == "ok"

        # A second configuration for the same store, with other timing.
        good = node.config.read_text()
        node.config.write_text(good.replace('lease = "30s"', 'lease = "29s"'))
        status, found = examined(node)
        node.config.write_text(good)
        assert status == 1
        assert "lease is 29 here and 30 there" in found["store.timing"]["found"]

        # A configuration for another issuer on the same port.
        node.config.write_text(good.replace(f'"{node.issuer}"', f'"{node.issuer}/tenant"', 1))
        status, found = examined(node)
        node.config.write_text(good)
        assert status == 1
        assert found["node.listen"]["found"] == "a node of another issuer listens here"

        # It left in good order: nothing is broken, and nobody answers.
        assert node.stop() == 0
        status, found = examined(node)
        assert status == 0
        assert found["node.listen"]["found"] == "free: no node runs here"
        assert found["store.nodes"]["found"] == "0 live"
        assert found["publication.reach"]["status"] == "warning"


def test_node_that_was_killed_is_counted_and_its_database_is_looked_at(tmp_path):
    """After SIGKILL the files beside the database are there; doctor reads them and says that a node died."""
    with running_node(tmp_path, settings=CALM) as node:
        settings = load(node.config, {})
        node.kill()

        def live() -> int:
            looking = look_at_store(settings, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
            return asyncio.run(looking).live

        until(lambda: live() == 0, "its heartbeat is old")
        status, found = examined(node)
        assert status == 0
        assert "1 ended without leaving" in found["store.nodes"]["found"]
        # It can be started again, as if nobody had looked.
        node.start().until_ready()
        assert examined(node)[1]["node.ready"]["status"] == "ok"
