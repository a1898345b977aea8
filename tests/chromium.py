"""A real browser for tests: Debian's Chromium, driven by playwright, with nothing of its own left behind."""

import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

PROGRAM = "chromium"
PATIENCE = 120_000
"""Milliseconds that playwright waits for anything, on a busy machine."""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that has not been anywhere; without Chromium the test fails in CI and skips elsewhere."""
    program = shutil.which(PROGRAM)
    if program is None:
        missing = "no Chromium: install chromium"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    with sync_playwright() as driver:
        # Its sandbox needs a user that is not root; it sees no pages but those of the test.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"], timeout=PATIENCE)
        try:
            yield browser
        finally:
            browser.close()
