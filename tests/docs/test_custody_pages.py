"""The pages about shared keys and HSMs: a node starts with what they say, and each command is run."""

import contextlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.running import RunningNode, until
from tests.softhsm import MODULE, soft_hsm

from mintmark.core.events import EventName
from mintmark.server.option import KEYS
from mintmark.server.settings import read

# Several real nodes start one after the other, each with a minute of patience.
pytestmark = pytest.mark.timeout(400)

HOW_TO = Path(__file__).resolve().parent.parent.parent / "docs" / "how-to"
PAGES = {
    name: (HOW_TO / f"{name}.md").read_text("utf-8") for name in ("share-one-key", "keep-keys-in-an-hsm")
}
PLACES = {"/etc/mintmark": "etc", "/var/lib/mintmark": "lib"}


class Page:
    """A page whose paths are in ``folder``, and the node that it is about."""

    def __init__(self, name: str, folder: Path) -> None:
        self.text = PAGES[name]
        self.folder = folder
        self.node: RunningNode | None = None
        for place in PLACES.values():
            (folder / place).mkdir()

    def block(self, name: str) -> str:
        """The block between the marks ``name``, with folders of the test's in the place of the machine's."""
        found = re.search(rf"(?s)<!-- {name} -->\n```\w+\n(.*?)```\n<!-- /{name} -->", self.text)
        assert found is not None, name
        text = found[1]
        for place, own in PLACES.items():
            text = text.replace(place, str(self.folder / own))
        return text

    def settings(self, name: str) -> dict[str, Any]:
        """The configuration between the marks, which is one without a mistake."""
        given = tomllib.loads(self.block(name))
        read(given, {})
        return given

    def type_in(self, name: str, **replaced: str) -> str:
        """What the commands between the marks print, typed one after the other into one shell."""
        lines = [line.removeprefix("$ ") for line in self.block(name).splitlines()]
        script = "\n".join(lines)
        for old, new in replaced.items():
            script = script.replace(old, new)
        config = {} if self.node is None else {"MINTMARK_CONFIG": str(self.node.config)}
        command = f'mintmark() {{ {sys.executable} -m mintmark "$@"; }}\n{script}'
        done = subprocess.run(
            ["/bin/sh", "-ec", command],
            env={**os.environ, **config},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, environ: Mapping[str, str] | None = None, **settings: object) -> RunningNode:
        """A node with these settings, ready; always of the same issuer."""
        port = 0 if self.node is None else self.node.port
        self.node = RunningNode(self.folder, settings, environ or {}, port=port)
        return self.node.start().until_ready()


@pytest.fixture
def page(request, tmp_path) -> Iterator[Page]:
    made = Page(request.param, tmp_path)
    yield made
    if made.node is not None:
        made.node.end()


def kids(page: Page) -> list[str]:
    """The keys that the node publishes."""
    assert page.node is not None
    return sorted(key["kid"] for key in page.node.http.get("/.well-known/jwks.json").json()["keys"])


@pytest.mark.parametrize("page", ["share-one-key"], indirect=True)
def test_node_shares_its_key_as_the_page_says(page):
    """A node starts with the page's secret, starts again with the same key, and takes another secret."""
    page.type_in("make")
    assert (page.folder / "etc" / "seal.key").stat().st_mode & 0o777 == 0o600
    page.start(**page.settings("set"))
    before = kids(page)
    assert before[0] in page.type_in("list")
    page.node.end()
    page.type_in("make", **{"seal.key": "seal-2.key"})
    page.start(**page.settings("replace"))
    assert kids(page) == before
    until(lambda: page.node.events(EventName.KEY_RESEALED), "the key was sealed anew", log=page.node.tail)
    page.node.end()
    page.start(**{**page.settings("replace"), "seal_key_previous": "none"})
    assert kids(page) == before
    page.type_in("leaked", KID=before[0])
    until(lambda: before[0] not in kids(page), "the key left the key set", log=page.node.tail)


@pytest.mark.parametrize("page", ["share-one-key"], indirect=True)
def test_running_cluster_is_switched_as_the_page_says(page):
    """The commands are taken, a shared key is prepared beside the one that signs, and a key that comes
    from a variable is in no process but control."""
    page.type_in("make")
    secret = (page.folder / "etc" / "seal.key").read_text().strip()
    node = page.start({"SEAL_KEY": secret}, seal_key="env:SEAL_KEY")
    pids = node.pids()
    assert pids["worker"]
    for pid in (*pids["worker"], *pids["signer"]):
        # Only root is told; what others are told is nothing.
        with contextlib.suppress(PermissionError):
            assert secret.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    page.type_in("switch")
    until(lambda: len(kids(page)) == 2, "a shared key was prepared", log=page.node.tail)


@pytest.mark.parametrize("page", ["keep-keys-in-an-hsm"], indirect=True)
def test_node_keeps_its_key_in_a_token_as_the_page_says(page, tmp_path_factory):
    """A node starts with the page's token, logs in with 503 while it is away, and goes on when it is back."""
    soft_hsm(tmp_path_factory.mktemp("probe"))
    page.type_in("make")
    node = page.start(**page.settings("set"))
    node.add_user_and_client()
    (kid,) = kids(page)
    assert kid in page.type_in("list")
    assert node.log_in()
    tokens = page.folder / "lib" / "tokens"
    tokens.rename(page.folder / "gone")
    until(lambda: node.log_in_with(node.http).status_code == 503, "log-ins fail", log=node.tail)
    until(lambda: node.events(EventName.HSM_LOST), "the alarm sounds", log=node.tail)
    assert kids(page) == [kid]
    (page.folder / "gone").rename(tokens)
    assert node.log_in()
    assert kids(page) == [kid]
    until(lambda: node.events(EventName.HSM_RESTORED), "the alarm ends", log=node.tail)


def test_names_of_the_pages_are_those_of_the_code():
    """Settings, events and the module's path are written as they are."""
    together = "".join(PAGES.values())
    for name in ("KEY_RESEALED", "KEY_SWEPT", "KEY_UNLOADABLE", "KIND_DIFFERS", "HSM_LOST", "HSM_RESTORED"):
        assert f"`{EventName[name]}`" in together
    for key in KEYS:
        if key.name.startswith(("hsm_", "seal_")):
            assert key.name in together
    assert str(MODULE) in together
