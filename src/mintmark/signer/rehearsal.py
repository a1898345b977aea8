"""``python -I -m mintmark.signer.rehearsal PROFILE``: what would protect a process of a node on this machine.

Hardening cannot be asked for, only put on, and never taken off again. So a process of its own puts it on,
says what worked, and ends.
"""

import asyncio
import subprocess
import sys
from typing import Final

import msgspec

from mintmark.ports.signer import HardeningReport
from mintmark.signer.hardening import Profile, harden

_PATIENCE: Final = 20.0
"""Real seconds that such a process gets; it has nothing to do but to start."""


async def rehearse(profile: Profile) -> HardeningReport | str:
    """What :func:`mintmark.signer.hardening.harden` reports in a process of ``profile``; why not, as text."""
    return await asyncio.to_thread(_run, profile)


def _run(profile: Profile) -> HardeningReport | str:
    command = [sys.executable, "-I", "-m", "mintmark.signer.rehearsal", profile.value]
    try:
        done = subprocess.run(  # noqa: S603 - our own words
            command, stdin=subprocess.DEVNULL, capture_output=True, env={}, timeout=_PATIENCE, check=False
        )
    except OSError as error:
        return f"no process could be started: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"a process did not start in {_PATIENCE:.0f} s"
    try:
        return msgspec.json.decode(done.stdout, type=HardeningReport)
    except msgspec.DecodeError:
        return f"a process that tried it ended with status {done.returncode}"


def main() -> int:
    """Harden this process as its argument says, and print the report."""
    report = harden(Profile(sys.argv[1]))
    # No file can be opened any more; standard output is open already.
    sys.stdout.buffer.write(msgspec.json.encode(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
