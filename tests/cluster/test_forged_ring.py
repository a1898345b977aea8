"""A running node with a ``cluster_key``, and somebody who can write its database."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.cluster.running import running_node, until

_KEY = "PGszmd6wkZa3Q1HBjGtsEA"


def execute(path: Path, statement: str, *values: object) -> list[Any]:
    """What the database answers somebody who has its file."""
    with closing(sqlite3.connect(path, timeout=60)) as raw:
        found = raw.execute(statement, values).fetchall()
        raw.commit()
        return found


def test_key_that_somebody_adds_to_a_running_node_is_published_by_no_process(tmp_path):
    """Control and worker have the secret: the row is an alarm, in no key set, and gone; all else goes on."""
    settings, path = {"cluster_key": "env:CLUSTER_KEY"}, tmp_path / "mintmark.db"
    with running_node(tmp_path, settings=settings, environ={"CLUSTER_KEY": _KEY}) as node:
        session = node.log_in()
        names = [row[1] for row in execute(path, "PRAGMA table_info(ring_keys)") if row[1] != "kid"]
        columns = ", ".join(names)
        forge = (
            f"INSERT OR IGNORE INTO ring_keys (kid, {columns}) SELECT 'his', {columns} FROM ring_keys LIMIT 1"
        )

        def reported() -> list[dict[str, Any]]:
            # Again, as a swap may take it away before anybody has read it.
            execute(path, forge)
            return node.events("row.rejected")

        found = until(reported, "the row was reported", log=node.tail)
        assert {(event["table"], event["row"]) for event in found} == {("key", "his")}
        until(
            lambda: not execute(path, "SELECT 1 FROM ring_keys WHERE kid = 'his'"),
            "a swap removed the row",
            log=node.tail,
        )
        shown = node.asked(lambda: node.http.get("/.well-known/jwks.json"), 200)
        assert "his" not in {key["kid"] for key in shown.json()["keys"]}
        node.asked(lambda: node.http.get("/keys/his.json"), 404)
        node.asked(lambda: node.refresh(session["refresh_token"]), 200)
        assert _KEY not in node.tail()
