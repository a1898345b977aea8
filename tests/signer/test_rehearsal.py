"""Hardening that is tried out in a process of its own."""

import sys
from pathlib import Path

import pytest

from mintmark.signer.hardening import Profile
from mintmark.signer.rehearsal import rehearse

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="hardening is for Linux")


def status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("profile", Profile)
async def test_every_protection_of_a_profile_is_told_and_this_process_gets_none(profile: Profile):
    """The report is that of a process like a node's; the one that asked is as it was (KY3)."""
    before = status()
    report = await rehearse(profile)
    assert not isinstance(report, str), report
    names = {item.name for item in report}
    assert {"no_core_file", "not_dumpable", "no_new_privileges"} <= names
    assert ({"memory_locked", "landlock", "seccomp"} <= names) is (profile is Profile.SIGNER)
    assert all(item.reason for item in report)
    after = status()
    assert [after[name] for name in ("NoNewPrivs", "Seccomp")] == [
        before[name] for name in ("NoNewPrivs", "Seccomp")
    ]


async def test_process_that_cannot_start_is_told_in_words(monkeypatch):
    """Where no interpreter is found the answer is text, and no exception."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    found = await rehearse(Profile.SIGNER)
    assert found == "no process could be started: No such file or directory"
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert await rehearse(Profile.SIGNER) == "a process that tried it ended with status 1"
