"""A running node ends what an administrator revoked by time: control writes the rows by itself."""

from tests.cluster.running import running_node, until


def test_node_ends_the_rows_that_a_command_revoked(tmp_path):
    """After ``sessions revoke --all`` no refresh works, and the node reports how many sessions it ended."""
    with running_node(tmp_path) as node:
        tokens = node.asked(lambda: node.log_in_with(node.http), 201).json()
        node.add("sessions", "revoke", "--all")
        until(lambda: node.refresh(tokens["refresh_token"]).status_code == 400, "the session is over")
        ended = until(lambda: node.events("sessions.ended"), "the node ended the rows", log=node.tail)
        assert sum(event["sessions"] for event in ended) >= 1
