"""Ports for servers that are about to be started."""

import socket
import subprocess
import sys

from mintmark.cli.demonstration import loopback
from mintmark.cli.demonstration.loopback import free_ports
from mintmark.system import SYSTEM_ENTROPY

ASKING = """
from mintmark.cli.demonstration.loopback import free_ports

class Same:
    def __init__(self):
        self._numbers = iter(range(10_000))

    def token_bytes(self, count):
        return next(self._numbers).to_bytes(count)

print(*free_ports(20, Same()), flush=True)
input()
"""


def test_ports_are_several_free_and_left_alone_by_the_kernel():
    """Each can be listened on, none comes twice, and the kernel gives none to whoever wants any."""
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert max(ports) < loopback._ports().stop
    for port in ports:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            sock.listen()


def test_port_is_given_to_one_process_alone():
    """Processes that look in the same order are given different ports, though nobody listens there yet."""
    asking = [
        subprocess.Popen(
            [sys.executable, "-c", ASKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    given = []
    for process in asking:
        assert process.stdout is not None
        given += process.stdout.readline().split()
    for process in asking:
        process.communicate("\n")
    assert len(given) == 60
    assert len(set(given)) == 60


def test_port_that_somebody_listens_on_is_not_given():
    """What is in use is passed over."""
    used = free_ports(1)[0]
    first = loopback._ports().start

    class Same:
        def __init__(self) -> None:
            self._numbers = iter([used - first, used - first])

        def token_bytes(self, n: int) -> bytes:
            number = next(self._numbers, None)
            return SYSTEM_ENTROPY.token_bytes(n) if number is None else number.to_bytes(n)

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", used))
        sock.listen()
        assert used not in free_ports(1, Same())


def test_only_the_last_ports_are_kept_from_others():
    """However many ports a process asks for, what it holds for them is bounded."""
    free_ports(3 * loopback._KEPT)
    assert len(loopback._taken) <= loopback._KEPT
