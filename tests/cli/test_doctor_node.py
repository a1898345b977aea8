"""What doctor says beside a real node: in order, stopped in many ways, and gone."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.running import RunningNode, until

from mintmark.node.examination.examination import diagnose
from mintmark.node.examination.store import look_at_store
from mintmark.node.store import open_store
from mintmark.server.diagnosis.finding import Finding, Verdict
from mintmark.server.settings import load
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CALM = {"rotate_every": "1h", "lease": "30s", "feed_bound": "60s", "propagation": "10s"}
"""No rotation falls into an examination, and a busy machine makes no node stale."""


@contextlib.contextmanager
def calm_node(folder: Path) -> Iterator[RunningNode]:
    """A node that is ready, without users: on a machine that does much else that takes its time."""
    node = RunningNode(folder, settings=CALM)
    try:
        yield node.start().until_ready(patience=200)
    finally:
        node.end()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node that every test leaves as it was."""
    with calm_node(tmp_path_factory.mktemp("node")) as running:
        yield running


def examined(config: Path) -> dict[str, Finding]:
    """The findings by check; of several of one check the worst."""
    found = asyncio.run(diagnose(config, {}, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY))
    order = (Verdict.OK, Verdict.SKIPPED, Verdict.WARNING, Verdict.FAILED)
    return {
        finding.check: finding for finding in sorted(found.findings, key=lambda f: order.index(f.verdict))
    }


def changed(node: RunningNode, folder: Path, before: str, after: str) -> Path:
    """A copy of the node's configuration with one text replaced."""
    text = node.config.read_text()
    assert before in text
    copy = folder / "mintmark.toml"
    copy.write_text(text.replace(before, after, 1))
    return copy


def test_healthy_node_has_no_word_against_it(node: RunningNode):
    """All of settings, timing, node, store and publication is ok, and the exit status is 0."""
    command = node.command("doctor", "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=node.folder)
    assert (done.returncode, done.stderr) == (0, "")
    told = {
        check["id"]: check
        for check in json.loads(done.stdout)["checks"]
        if not check["id"].startswith(("machine.", "hardening.")) and check["status"] != "ok"
    }
    assert told == {}


def test_signer_that_hangs_is_told_with_where_to_look(node: RunningNode):
    """The node says so itself at /readyz, and its key set is served all the same."""
    signers = node.pids()["signer"]
    for pid in signers:
        os.kill(pid, signal.SIGSTOP)
    try:
        with node.client() as http:
            until(lambda: http.get("/readyz").status_code == 503, "the node sees its signer hang")
        found = examined(node.config)
    finally:
        for pid in signers:
            os.kill(pid, signal.SIGCONT)
    assert found["node.ready"].verdict is Verdict.FAILED
    assert "its signer, or its token, does not answer" in found["node.ready"].found
    assert found["publication.reach"].verdict is Verdict.OK
    with node.client() as http:
        until(lambda: http.get("/readyz").status_code == 200, "the node is ready again")


def test_timing_that_differs_from_a_live_nodes_is_told(node: RunningNode, tmp_path):
    """A second configuration for the same store would not start, and the setting is named."""
    found = examined(changed(node, tmp_path, 'lease = "30s"', 'lease = "29s"'))
    assert found["store.timing"].verdict is Verdict.FAILED
    assert "lease is 29 here and 30 there" in found["store.timing"].found
    assert found["node.listen"].verdict is Verdict.OK


def test_port_of_another_issuers_node_is_told(node: RunningNode, tmp_path):
    """A configuration for another issuer cannot have this node's address."""
    found = examined(changed(node, tmp_path, f'issuer = "{node.issuer}"', f'issuer = "{node.issuer}/tenant"'))
    assert found["node.listen"].verdict is Verdict.FAILED
    assert found["node.listen"].found == "a node of another issuer listens here"


def test_store_of_another_node_is_told(node: RunningNode, tmp_path):
    """Who answers publishes keys that an own, empty database does not know; nobody is called live there."""
    copy = changed(node, tmp_path, f"sqlite:///{node.folder}/mintmark.db", f"sqlite:///{tmp_path}/other.db")
    settings = load(copy, {})

    async def make() -> None:
        async with open_store(settings):
            pass

    asyncio.run(make())
    found = examined(copy)
    assert found["publication.keys"].verdict is Verdict.WARNING
    assert "which the store does not publish" in found["publication.keys"].found
    assert found["store.nodes"].found == "0 live"


def test_node_that_left_is_nobodys_fault(tmp_path):
    """After SIGTERM nothing is broken, the address is free, and the fix is to start a node."""
    with calm_node(tmp_path) as node:
        assert node.stop() == 0
        found = examined(node.config)
        failures = [finding for finding in found.values() if finding.verdict is Verdict.FAILED]
        assert [f for f in failures if not f.check.startswith(("machine.", "hardening."))] == []
        assert found["node.listen"].found == "free: no node runs here"
        assert found["store.nodes"].found == "0 live"
        assert found["publication.reach"].verdict is Verdict.WARNING


def test_node_that_was_killed_is_counted(tmp_path):
    """After SIGKILL the files beside the database are there; they are read."""
    with calm_node(tmp_path) as node:
        settings = load(node.config, {})
        node.kill()

        def live() -> int:
            return asyncio.run(look_at_store(settings, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)).live

        until(lambda: live() == 0, "its heartbeat is old")
        found = examined(node.config)
        assert "1 ended without leaving" in found["store.nodes"].found
        assert found["store.reach"].verdict is Verdict.OK
