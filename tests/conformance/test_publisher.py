"""Every place for published documents keeps every clause of its port, on real servers."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store
from tests.s3 import BUCKET, S3Server, environ

from mintmark.adapters.memory_publisher import MemoryPublisher
from mintmark.adapters.registry import PUBLISHERS, make_publisher
from mintmark.cli.demonstration.loopback import free_ports
from mintmark.ports.publisher import Found, Publisher
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.conformance.publisher import PublisherConformance, PublisherRig

PLACES = {"memory": "memory", "folder": "file", "seaweedfs": "s3", "moto": "s3"}
"""What is tested, and the scheme by which it is configured."""


def make(url: str) -> Publisher:
    return make_publisher(url, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)


def memory_rig() -> PublisherRig:
    entries: dict[str, Found] = {}
    return PublisherRig(
        MemoryPublisher(entries), lambda: MemoryPublisher(entries), keeps_headers=True, away=None,
        spoil=None,
    )  # fmt: skip


def folder_rig(folder: Path, made: Callable[[str], Publisher]) -> PublisherRig:
    root = folder / "www"
    root.mkdir()

    def spoil(name: str, body: bytes) -> None:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(body)

    return PublisherRig(
        made(f"file://{root}"), lambda: made(f"file://{root}"), keeps_headers=False,
        away=made(f"file://{folder}/not-mounted"), spoil=spoil,
    )  # fmt: skip


def bucket_rig(
    server: S3Server, made: Callable[[str], Publisher], monkeypatch: pytest.MonkeyPatch
) -> PublisherRig:
    prefix = server.new_prefix()
    url = f"s3://{BUCKET}/{prefix}"
    (nobody,) = free_ports(1)
    for name, value in environ(f"http://127.0.0.1:{nobody}").items():
        monkeypatch.setenv(name, value)
    away = made(url)
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)

    def spoil(name: str, body: bytes) -> None:
        store = S3Store(BUCKET, prefix=prefix, client_options={"allow_http": True})
        obstore.put(store, name, body, use_multipart=False)

    return PublisherRig(
        made(url), lambda: made(url), keeps_headers=True, away=away,
        spoil=spoil, decides_races=server.name != "moto",
    )  # fmt: skip


@pytest.fixture(params=PLACES)
async def rig(request, tmp_path, monkeypatch) -> AsyncIterator[PublisherRig]:
    opened: list[Publisher] = []

    def made(url: str) -> Publisher:
        opened.append(make(url))
        return opened[-1]

    match request.param:
        case "memory":
            yield memory_rig()
        case "folder":
            yield folder_rig(tmp_path, made)
        case server:
            yield bucket_rig(request.getfixturevalue(server), made, monkeypatch)
    for publisher in opened:
        await publisher.close()


class TestPublisher(PublisherConformance):
    """The suite, in memory, in a folder and in buckets of two servers."""


def test_every_place_that_can_be_configured_is_tested():
    """Each scheme of the registry of adapters is among the places of this suite."""
    assert set(PUBLISHERS) <= set(PLACES.values())
