"""A SoftHSM token of a test's own, in a folder of its own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
LABEL = "mintmark test"
PIN = "correct horse"
SO_PIN = "battery staple"


class SoftHsm:
    """An initialized token in ``folder``; whoever uses it needs :attr:`environment`."""

    module = str(MODULE)
    label = LABEL
    pin = PIN

    def __init__(self, folder: Path) -> None:
        self.tokens = folder / "tokens"
        self._gone = folder / "gone"
        self.tokens.mkdir()
        self.configuration = folder / "softhsm2.conf"
        self.configuration.write_text(
            f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        self.environment = {"SOFTHSM2_CONF": str(self.configuration)}
        self.run("--init-token", "--free", "--label", LABEL, "--so-pin", SO_PIN, "--pin", PIN)

    def run(self, *arguments: str) -> None:
        """``softhsm2-util`` with these arguments."""
        subprocess.run(
            ["softhsm2-util", *arguments],
            env={**os.environ, **self.environment},
            check=True,
            capture_output=True,
        )

    def take_away(self) -> None:
        """As if somebody pulled it out."""
        self.tokens.rename(self._gone)

    def bring_back(self) -> None:
        """As if somebody plugged it in again."""
        self._gone.rename(self.tokens)


def soft_hsm(folder: Path) -> SoftHsm:
    """A new token; without SoftHSM the test fails in CI and skips elsewhere."""
    if not MODULE.exists() or shutil.which("softhsm2-util") is None:
        missing = "no SoftHSM: install softhsm2"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    return SoftHsm(folder)
