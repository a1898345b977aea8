"""Log lines of the processes of a node, which share one standard error."""

import os
import socket
import subprocess
import sys

SAY = """
from mintmark.node import logs
from mintmark.server.audit import Audit
from mintmark.core.events import EventName
from mintmark.server.settings import load
logs.configure(load(None, {"MINTMARK_LOG_FORMAT": "json"}))
Audit().record(EventName.NODE_LEFT)
"""


def test_each_event_is_written_at_once():
    """A line and its end are one write, so that no line of another process comes between them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
        subprocess.run(
            [sys.executable, "-c", SAY], stderr=theirs.fileno(), env=environ, check=True, timeout=60
        )
        ours.settimeout(10)
        line = ours.recv(65_536)
    assert b'"event": "node.left"' in line
    assert line.endswith(b"\n")
