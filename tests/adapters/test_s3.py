"""The bucket's own promises: how it is configured, what its errors say, which servers cannot be trusted."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, environ, unfaithful_server

from mintmark.adapters.registry import make_publisher
from mintmark.adapters.s3 import BucketPublisher, from_url
from mintmark.errors import ConfigurationError
from mintmark.ports.publisher import Entry, Headers, PublicationFailed
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

ENTRY = Entry(b"{}", Headers("application/json", "public, max-age=5"))


def made(url: str) -> BucketPublisher:
    return from_url(url, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)


@pytest.fixture
def careless(moto: S3Server, monkeypatch) -> Iterator[str]:
    """The URL of a place on a server that ignores conditions."""
    with unfaithful_server(moto) as server:
        server.ignores_conditions = True
        for name, value in environ(server.endpoint).items():
            monkeypatch.setenv(name, value)
        yield f"s3://{BUCKET}/{moto.new_prefix()}"


async def test_server_that_ignores_conditions_takes_what_it_should_refuse(careless):
    """PUB-3: such a server says yes to a creation of what is there, and to one in place of what is not."""
    place = made(careless)
    assert await place.put("a.json", ENTRY, over=None)
    assert await place.put("a.json", ENTRY, over=None)
    assert await place.put("b.json", Entry(b"[]", ENTRY.headers), over=None)
    other = await place.read("b.json")
    assert other is not None
    assert await place.put("a.json", ENTRY, over=other.version)
    await place.close()


@pytest.mark.parametrize(
    "url",
    ["s3:bucket", "s3:///bucket", "s3://Bucket/x", "s3://bucket/x?y=1", "s3://bucket/x#y", "s3://b/x",
     "s3://user:secret@bucket/x", "s3://bucket/a//b", "s3://bucket/a/../b", "s3://bucket/a b"],
)  # fmt: skip
def test_url_that_names_no_bucket_is_refused(url):
    """A bucket is written with its name and a plain prefix; what else is in the URL is not repeated."""
    with pytest.raises(ConfigurationError) as raised:
        made(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "s3://my.bucket-1/auth/eu"])
async def test_url_of_a_bucket_is_its_name_in_messages(url):
    """The place is called what it was configured as, without a slash at its end."""
    place = made(url)
    assert place.place == url.rstrip("/")
    await place.close()


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"])
def test_plain_http_is_for_loopback_alone(monkeypatch, name):
    """DP1: credentials and key sets go to another machine over TLS or not at all."""
    monkeypatch.setenv(name, "http://minio.example.com:9000")
    with pytest.raises(ConfigurationError, match="https"):
        made("s3://bucket/x")


def test_missing_extra_is_one_line_that_names_it(monkeypatch):
    """Without obstore a bucket is a configuration error that says what to install."""
    monkeypatch.delitem(sys.modules, "mintmark.adapters.s3")
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mintmark\[s3\]'"):
        make_publisher("s3://bucket/x", clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)


@pytest.mark.parametrize(
    ("key", "secret"), [("AKIDUNKNOWN", SECRET_KEY), (ACCESS_KEY, "wrong-secret-of-a-bucket")]
)
async def test_refused_credentials_are_named_as_that_and_not_repeated(seaweedfs, monkeypatch, key, secret):
    """PUB-7: the message says that access was denied; neither it nor what it came from holds a credential."""
    for name, value in (
        seaweedfs.environ | {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    ).items():
        monkeypatch.setenv(name, value)
    place = made(f"s3://{BUCKET}/{seaweedfs.new_prefix()}")
    with pytest.raises(PublicationFailed, match="access denied") as raised:
        await place.put("a.json", ENTRY, over=None)
    assert key not in str(raised.value)
    assert secret not in str(raised.value)
    assert raised.value.__cause__ is None
    await place.close()


async def test_bucket_that_does_not_exist_is_named_as_that(moto, monkeypatch):
    """PUB-7: a write into a bucket that nobody made fails with that reason."""
    for name, value in moto.environ.items():
        monkeypatch.setenv(name, value)
    place = made("s3://nobody-made-this/x")
    with pytest.raises(PublicationFailed, match="no such bucket"):
        await place.put("a.json", ENTRY, over=None)
    await place.close()


@pytest.mark.slow
async def test_server_that_says_nothing_is_a_failure(monkeypatch):
    """PUB-7, F32: a server that accepts and never answers is a failure, and no call waits for good."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name, value in environ(f"http://127.0.0.1:{silent.getsockname()[1]}").items():
            monkeypatch.setenv(name, value)
        place = made("s3://bucket/x")
        calls = (place.read("a.json"), place.put("a.json", ENTRY, over=None))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [PublicationFailed, PublicationFailed]
        await place.close()


def test_process_that_ends_at_once_ends_well(moto):
    """A process whose last act was a call to a bucket exits with its own status, and does not abort."""
    script = f"""
import asyncio
from mintmark.adapters.s3 import BucketPublisher
from mintmark.ports.publisher import Entry, Headers

async def write():
    place = BucketPublisher("{BUCKET}", "{moto.new_prefix()}", plain_http=True)
    puts = (place.put(f"{{n}}.json", Entry(b"", Headers("", "")), over=None) for n in range(8))
    await asyncio.gather(*puts, return_exceptions=True)

asyncio.run(write())
"""
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-c", script.replace(".json", f"-{os.urandom(4).hex()}.json")],
            env={**os.environ, **moto.environ}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
