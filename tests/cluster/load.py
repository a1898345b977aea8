"""Clients that work on a node without pause and write down what was answered, for tests that break things."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import httpx2
from tests.cluster.running import Reachable

OUTAGE = (httpx2.TransportError, httpx2.TimeoutException)


@dataclass
class Record:
    """What clients were told; a promise is broken where the node later says otherwise."""

    refreshed: int = 0
    logged_out: int = 0
    outages: int = 0
    wrong: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    """Access tokens of sessions that go on."""
    ended: list[dict[str, Any]] = field(default_factory=list)
    """Answers of sessions whose logout was answered."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Load:
    """``sessions`` clients refresh in a loop, and one logs in and out; each waits ``pause`` seconds between.

    They work on a node, or on a cluster through its front. What was not answered, or answered 503, is
    asked again, at another node if there is one; any other answer than the right one is recorded as wrong.
    """

    def __init__(self, node: Reachable, *, sessions: int, pause: float = 0.01) -> None:
        self.node = node
        self.record = Record()
        self._pause = pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._refresh_forever) for _ in range(sessions)]
        self._threads.append(threading.Thread(target=self._log_in_and_out_forever))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, ask: Callable[[], httpx2.Response], expected: int, what: str) -> dict[str, Any] | None:
        """The answer; None where there was none, or one that says «later»."""
        try:
            answer = ask()
        except OUTAGE:
            answer = None
        if answer is None or answer.status_code == 503:
            self.record.outages += 1
            self._stop.wait(0.05)
            return None
        if answer.status_code != expected:
            self.record.wrong.append(f"{what}: {answer.status_code} {answer.text}")
            self._stop.wait(0.05)
            return None
        return answer.json() if answer.content else {}

    def _log_in(self, http: httpx2.Client) -> dict[str, Any] | None:
        return self._ask(lambda: self.node.log_in_with(http), 201, "log in")

    def _refresh_forever(self) -> None:
        with self.node.client() as http:
            tokens = None
            while not self._stop.is_set():
                if tokens is None:
                    tokens = self._log_in(http)
                    continue
                held = tokens["refresh_token"]
                renewed = self._ask(lambda: self.node.refresh_with(http, held), 200, "refresh")  # noqa: B023
                if renewed is not None:
                    tokens = renewed
                    with self.record.lock:
                        self.record.refreshed += 1
                        self.record.tokens.append(renewed["access_token"])
                self._stop.wait(self._pause)

    def _log_in_and_out_forever(self) -> None:
        with self.node.client() as http:
            while not self._stop.is_set():
                tokens = self._log_in(http)
                if tokens is None:
                    continue
                access = tokens["access_token"]
                while not self._stop.is_set():
                    done = self._ask(lambda: self.node.log_out_with(http, access), 204, "log out")  # noqa: B023
                    if done is not None:
                        with self.record.lock:
                            self.record.logged_out += 1
                            self.record.ended.append(tokens)
                        break
                self._stop.wait(self._pause)
