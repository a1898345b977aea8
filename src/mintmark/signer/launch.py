"""Starting the signer from the control process, and ending it."""

import asyncio
import socket
import subprocess
import sys
from typing import Final

from mintmark.errors import ConfigurationError, SignerUnavailable
from mintmark.ports.clock import Clock
from mintmark.signer.client import ControlClient
from mintmark.signer.custody import NO_CUSTODY, Custody, Fault

_STOPPING: Final = 5.0
"""Real seconds that a signer gets to exit; it has nothing to finish, so this is the machine's time."""


class SignerProcess:
    """A running signer: its control client, and the process to end.

    ``process`` is the one to wait for; the keys are in a child of it, whose id ``status`` tells.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", control: ControlClient) -> None:
        self.process = process
        self.control = control

    async def stop(self) -> int:
        """Close the control channel and wait for the process to exit; its exit status.

        Kills what has not gone after five seconds. Idempotent.
        """
        self.control.close()
        return await asyncio.to_thread(self._wait)

    def _wait(self) -> int:
        try:
            return self.process.wait(_STOPPING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


async def start_signer(
    *,
    clock: Clock,
    rsa_bits: int = 2048,
    custody: Custody = NO_CUSTODY,
    threads: int | None = None,
    log_level: str = "WARNING",
    log_json: bool = False,
) -> SignerProcess:
    """A new signer process that answers; it has no key yet.

    It gets an empty environment, a session of its own (no terminal signals it), standard error, and one
    end of a socket pair. ``threads`` is how many RSA signatures run at once, as many as there are
    processors by default. Of ``custody`` it inherits the descriptors. Raises SignerUnavailable when it does
    not come up, ConfigurationError where the reason is what ``custody`` gives.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        # -I: neither PYTHON… variables nor the working directory decide what code holds the keys.
        command = [sys.executable, "-I", "-m", "mintmark.signer", str(theirs.fileno())]
        command += ["--rsa-bits", str(rsa_bits), "--log-level", log_level]
        command += ["--log-json"] if log_json else []
        command += [] if threads is None else ["--threads", str(threads)]
        command += custody.arguments
        try:
            process = await asyncio.to_thread(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={},
                pass_fds=(theirs.fileno(), *custody.descriptors),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise SignerUnavailable(f"the signer did not start: {error.strerror}") from None
    signer = SignerProcess(process, ControlClient(ours, clock=clock))
    try:
        await signer.control.status()
    except BaseException:
        status = await signer.stop()
        if status in frozenset(Fault):
            raise ConfigurationError(Fault(status).setting, Fault(status).reason) from None
        raise
    return signer
