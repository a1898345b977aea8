"""What may be in the repository at all: no secrets, no mirrors, no paths of somebody's machine.

Each check takes files by name and content, so that a test can show what it would find.
"""

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

Files = Mapping[str, bytes]

SECRETS = {
    "a private key": rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----\s*[A-Za-z0-9+/=]{20}",
    "a private JWK": rb"[\"']d[\"']\s*:\s*[\"'][A-Za-z0-9_-]{40,}[\"']",
    "a symmetric JWK": rb"[\"']k[\"']\s*:\s*[\"'][A-Za-z0-9_-]{20,}[\"']",
    "a signed token": rb"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{40,}",
    "an AWS key": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": rb"\bgh[pousr]_[A-Za-z0-9]{36,}",
    "a Slack token": rb"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a PyPI token": rb"\bpypi-[A-Za-z0-9_-]{50,}",
}
"""Patterns of secrets. A line that says ``not a secret`` and why is left alone."""

PUBLIC_HOSTS = {"pypi.org", "files.pythonhosted.org"}
"""Where packages may come from: the public index, and where it keeps the files."""

OWN_PATHS = re.compile(rb"(?<![\w./~$}-])/(?:work|root|Users|home/[a-z][\w-]*|opt/pypi[\w-]*)/[\w.]")
"""Absolute paths that exist on some machine only."""

UNFINISHED = re.compile(rb"\b(?:TODO|FIXME|XXX|HACK)\b|^(?:<{7}|>{7}) ", re.MULTILINE)

MAX_BYTES = 300_000


def line_of(text: bytes, hit: re.Match[bytes]) -> int:
    """The number of the line in which ``hit`` begins."""
    return text.count(b"\n", 0, hit.start()) + 1


def lines(text: bytes) -> list[tuple[int, bytes]]:
    """The lines of ``text`` with their numbers."""
    return list(enumerate(text.split(b"\n"), start=1))


def find_secrets(files: Files) -> list[str]:
    """Private keys, tokens and credentials, in any file."""
    found = []
    for name, text in files.items():
        for what, pattern in SECRETS.items():
            for hit in re.finditer(pattern, text):
                number = line_of(text, hit)
                if b"not a secret" not in lines(text)[number - 1][1]:
                    found.append(f"{name}:{number} holds {what}")
    return found


def find_mirrors(files: Files) -> list[str]:
    """Package sources other than the public index, in what names package sources."""
    found = []
    for name, text in files.items():
        if Path(name).name not in {
            "uv.lock",
            "pyproject.toml",
            "uv.toml",
            "pip.conf",
            "package-lock.json",
            ".npmrc",
        }:
            continue
        for number, line in lines(text):
            # npm notes where authors ask for money, which is no place that packages come from.
            if Path(name).name == "package-lock.json" and line.strip().startswith(b'"url": '):
                continue
            hosts = {host.decode() for host in re.findall(rb"(?:https?|file)://([^/\"'\s]*)", line)}
            found += [
                f"{name}:{number} names {host or 'a local folder'}" for host in sorted(hosts - PUBLIC_HOSTS)
            ]
    return found


def find_own_paths(files: Files) -> list[str]:
    """Paths that exist on one machine only."""
    return [
        f"{name}:{number} names a path of one machine"
        for name, text in files.items()
        for number, line in lines(text)
        if OWN_PATHS.search(line)
    ]


def find_unfinished(files: Files) -> list[str]:
    """Marks of work that was put off, and of merges that were not finished."""
    return [
        f"{name}:{line_of(text, hit)} is unfinished"
        for name, text in files.items()
        for hit in UNFINISHED.finditer(text)
    ]


def find_large(files: Files) -> list[str]:
    """Files that belong somewhere else by their size; a lock is as long as it is."""
    return [
        f"{name} has {len(text)} bytes"
        for name, text in files.items()
        if len(text) > MAX_BYTES and name != "uv.lock"
    ]


def find_bad_text(files: Files) -> list[str]:
    """Text with carriage returns, without a final newline, or not UTF-8."""
    found = []
    for name, text in files.items():
        if b"\0" in text or not text:
            continue
        try:
            text.decode()
        except UnicodeDecodeError:
            found.append(f"{name} is not UTF-8")
        if b"\r" in text:
            found.append(f"{name} has carriage returns")
        if not text.endswith(b"\n"):
            found.append(f"{name} does not end with a newline")
    return found


CHECKS = (find_secrets, find_mirrors, find_own_paths, find_unfinished, find_large, find_bad_text)
Check = Callable[[Files], list[str]]


@pytest.fixture(scope="module")
def tracked() -> Files:
    """The files that git tracks, but for this one, which is full of what it looks for."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        reason = "this is not a git work tree"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    names = {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()}
    return {name: (ROOT / name).read_bytes() for name in sorted(names - {"tests/test_repository.py"})}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_nothing_tracked_is_out_of_place(tracked: Files, check: Check):
    """DP3: no tracked file holds a secret, a mirror, a path of one machine, or unfinished work."""
    assert check(tracked) == []


def test_executables_are_executable(tracked: Files):
    """What begins with #! can be run from a fresh clone."""
    modes = subprocess.run(
        ["git", "ls-files", "-s", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    runnable = {entry.partition("\t")[2] for entry in modes.split("\0") if entry.startswith("100755")}
    assert {name for name, text in tracked.items() if text.startswith(b"#!")} == runnable


def test_lock_belongs_to_the_project(tracked: Files):
    """Every package of the lock comes from the public index, and its files have hashes."""
    lock = tomllib.loads(tracked["uv.lock"].decode())
    for package in lock["package"]:
        assert package["source"] in ({"registry": "https://pypi.org/simple"}, {"editable": "."})
        for file in [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]:
            assert file["hash"].startswith("sha256:")


def test_lock_of_npm_belongs_to_no_registry(tracked: Files):
    """Every package of npm's lock has a hash, and says of no registry that it comes from there."""
    lock = json.loads(tracked["tests/interop/package-lock.json"])
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    for package in packages.values():
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package


@pytest.mark.parametrize(
    ("check", "name", "text"),
    [
        (find_secrets, "a.pem", b"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\n"),
        (find_secrets, "a.pem", b"-----BEGIN RSA PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\n"),
        (find_secrets, "a.json", b'{"kty": "OKP", "d": "' + b"A" * 43 + b'"}\n'),
        (find_secrets, "a.json", b'{"kty":"oct","k":"' + b"A" * 43 + b'"}\n'),
        (find_secrets, "a.md", b"x eyJ" + b"A" * 20 + b".eyJ" + b"B" * 20 + b"." + b"C" * 86 + b"\n"),
        (find_secrets, "a.env", b"AWS_ACCESS_KEY_ID=AKIA" + b"A" * 16 + b"\n"),
        (find_secrets, "a.env", b"TOKEN=ghp_" + b"a" * 36 + b"\n"),
        (find_mirrors, "uv.lock", b'source = { registry = "https://mirror.example/simple" }\n'),
        (find_mirrors, "pyproject.toml", b'url = "file:///srv/wheels"\n'),
        (
            find_mirrors,
            "a/package-lock.json",
            b'"resolved": "https://mirror.example/jose/-/jose-6.2.17.tgz"\n',
        ),
        (find_own_paths, "a.md", b"cd /home/alice/src\n"),
        (find_own_paths, "a.md", b"see `/root/.config`\n"),
        (find_unfinished, "a.py", b"x = 1  # TODO: more\n"),
        (find_unfinished, "a.py", b"<<<<<<< ours\n"),
        (find_large, "a.bin", b"\0" * (MAX_BYTES + 1)),
        (find_bad_text, "a.txt", b"a\r\n"),
        (find_bad_text, "a.txt", b"a"),
        (find_bad_text, "a.txt", b"\xe4\n"),
    ],
)
def test_planted_file_is_found(check: Check, name, text):
    """The check finds this one file, and names it."""
    assert [line for line in check({name: text, "other.txt": b"nothing\n"}) if line.startswith(name)]


@pytest.mark.parametrize(
    ("check", "name", "text"),
    [
        (find_secrets, "a.json", b'{"d": "' + b"A" * 43 + b'"}  # not a secret: RFC 8037 A.1\n'),
        (find_secrets, "a.json", b'{"kty": "EC", "x": "' + b"A" * 43 + b'"}\n'),
        (find_own_paths, "a.md", b"https://example.com/home/alice/x and ~/work/x and $HOME/root/x\n"),
        (find_mirrors, "README.md", b"https://auth.example.com\n"),
        (find_mirrors, "package-lock.json", b'        "url": "https://money.example/author"\n'),
        (find_bad_text, "a.png", b"\0\r\n\xff"),
    ],
)
def test_what_belongs_there_is_left_alone(check: Check, name, text):
    """The check has nothing to say about this file."""
    assert check({name: text}) == []
