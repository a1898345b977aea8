"""What a cluster promises its clients whichever node answers, and that the harness does what it says."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cluster.cluster import PATIENCE, running_cluster
from tests.cluster.conftest import spread
from tests.cluster.load import Load
from tests.cluster.running import state_of, until

from mintmark import Verifier

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_session_goes_on_at_any_node(tmp_path, store_url):
    """Log in at one node, refresh at the next, log out at a third: the first one refuses the session."""
    with running_cluster(tmp_path, store=store_url) as cluster:
        first, second, third = cluster.nodes
        tokens = first.asked(lambda: first.log_in_with(first.http), 201).json()
        renewed = second.asked(lambda: second.refresh(tokens["refresh_token"]), 200).json()
        with Verifier(cluster.issuer, audience="orders") as verifier:
            until(verifier.ready, "the verifier has keys and revocations")
            rids = {verifier.verify(each["access_token"]).rid for each in (tokens, renewed)}
            assert len(rids) == 1
        third.asked(lambda: third.log_out(renewed["access_token"]), 204)
        first.asked(lambda: first.refresh(renewed["refresh_token"]), 400)


def test_load_goes_on_while_nodes_pause_die_and_restart(tmp_path):
    """A node that stands still, one that is killed and one that restarts: clients go on at the others."""
    with running_cluster(tmp_path) as cluster, Load(cluster, sessions=2, pause=0.05) as load:

        def goes_on(while_what: str) -> None:
            before = load.record.refreshed
            until(lambda: load.record.refreshed > before + 10, f"clients go on {while_what}")

        cluster.pause(0)
        stopped = cluster.nodes[0].process
        assert stopped is not None
        assert state_of(stopped.pid) == "T"
        goes_on("beside a paused node")
        cluster.resume(0)
        cluster.nodes[0].until_ready(patience=PATIENCE)

        cluster.kill(1)
        goes_on("beside a dead node")
        cluster.nodes[1].start().until_ready(patience=PATIENCE)

        cluster.restart(2)
        goes_on("after a restart")
    assert load.record.wrong == []
    assert {event["cause"] for event in cluster.events("key.activated")} == {"bootstrap", "proven"}
    assert len(cluster.events("node.left")) == 1


@given(first=st.integers(0, 9), rest=st.integers(0, 60), workers=st.integers(1, 5))
def test_long_tests_begin_in_processes_of_their_own(first, rest, workers):
    """None is lost or run twice, and no two of the first ones are neighbours while there are parts enough."""
    long, short = [f"long {number}" for number in range(first)], [f"short {number}" for number in range(rest)]
    ordered = spread(long, short, workers)
    assert sorted(ordered) == sorted(long + short)
    assert [name for name in ordered if name in short] == short
    if first <= workers and rest >= 2 * workers:
        places = [ordered.index(name) for name in long]
        assert places[:1] in ([0], [])
        assert all(after - before > 1 for before, after in itertools.pairwise(places))
