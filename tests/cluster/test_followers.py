"""A real node sends those who follow its revocations elsewhere before it goes."""

import signal
import threading

import pytest
from tests.cluster.running import RunningNode, running_node, until

from mintmark.server.document import STREAM_PATH

FOLLOWERS = 3


class Reader:
    """One follower's stream, read in a thread to its end."""

    def __init__(self, node: RunningNode) -> None:
        self._node = node
        self.text = ""
        self.is_whole = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._node.client() as http, http.stream("GET", STREAM_PATH, timeout=120) as answer:
            for part in answer.iter_text():
                self.text += part
            # An end that is cut off raises before this.
            self.is_whole = True

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join(120)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_node_that_leaves_tells_each_follower_when_to_come_again(tmp_path):
    """Each stream ends whole, its last word another span to wait than anybody else's, and the node with 0."""
    with running_node(tmp_path) as node:
        readers = [Reader(node) for _ in range(FOLLOWERS)]
        until(lambda: all("event: heartbeat" in one.text for one in readers), "all follow", patience=120)
        assert node.process is not None
        node.process.send_signal(signal.SIGTERM)
        for reader in readers:
            reader.join()
        assert node.process.wait(120) == 0
    assert [reader.is_whole for reader in readers] == [True] * FOLLOWERS
    last = [reader.text.rstrip().rpartition("\n")[2] for reader in readers]
    assert all(line.startswith("retry: ") for line in last), last
    assert len(set(last)) == FOLLOWERS
