"""An operator in a hurry, for tests: keys follow each other as fast as the arithmetic lets them."""

import threading
from typing import Self

from tests.cluster.cluster import RunningCluster


class Rotator:
    """Asks for a rotation whenever a key has become active, so that each node always has a successor due."""

    def __init__(self, cluster: RunningCluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask_forever)
        self._asked_at = -1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask_forever(self) -> None:
        while not self._stop.wait(2):
            activations = len(self._cluster.events("key.activated"))
            if activations != self._asked_at:
                self._asked_at = activations
                self._cluster.run("keys", "rotate")
