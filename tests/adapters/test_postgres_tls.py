"""A PostgreSQL URL with ``sslmode``: what it asks for is done, or the store is unavailable."""

import datetime as dt
import ipaddress
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import text
from tests.adapters.postgres import new_store, opened
from tests.postgresql import empty_database, postgresql_server

from mintmark.cli.demonstration.postgresql import PostgresqlServer
from mintmark.errors import StoreUnavailable

IN_TLS = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


def certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """A self-signed certificate for ``host``, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    begin = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=36_500))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{host}.crt", folder / f"{host}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    """A server of these tests' own, without TLS until it is told."""
    with postgresql_server() as started:
        yield started


@pytest.fixture
def url(server) -> Iterator[str]:
    """An empty database on it."""
    with empty_database(server) as url:
        yield url


def serve(server: PostgresqlServer, cert: Path, key: Path) -> None:
    """Have the server speak TLS with this certificate to who connects from now on."""
    owner = (server.folder / "data").stat()
    for source, name in ((cert, "server.crt"), (key, "server.key")):
        target = server.folder / "data" / name
        shutil.copyfile(source, target)
        os.chown(target, owner.st_uid, owner.st_gid)
        target.chmod(0o600)
    server.execute("ALTER SYSTEM SET ssl = on")
    server.stop()
    server.start()


async def in_tls(url: str) -> bool:
    """Whether a store there has its connection in TLS."""
    async with opened(url) as rig:
        return bool(await rig.store.read(lambda c: c.execute(text(IN_TLS)).scalar()))


async def test_connection_is_as_safe_as_the_url_says(server, url, tmp_path):
    """TLS is required, verified and tied to the host where that is asked for, and never left out."""
    assert not await in_tls(url)
    with pytest.raises(StoreUnavailable):
        await in_tls(f"{url}?sslmode=require")
    right = certificate(tmp_path, "127.0.0.1")
    wrong = certificate(tmp_path, "127.0.0.2")
    serve(server, *right)
    assert await in_tls(f"{url}?sslmode=require")
    assert await in_tls(f"{url}?sslmode=verify-full&sslrootcert={right[0]}")
    with pytest.raises(StoreUnavailable):
        await in_tls(f"{url}?sslmode=verify-full&sslrootcert={wrong[0]}")
    serve(server, *wrong)
    assert await in_tls(f"{url}?sslmode=verify-ca&sslrootcert={wrong[0]}")
    with pytest.raises(StoreUnavailable):
        await in_tls(f"{url}?sslmode=verify-full&sslrootcert={wrong[0]}")
    with pytest.raises(StoreUnavailable):
        await new_store(f"{url}?sslmode=verify-full&sslrootcert={tmp_path}/none").open()


async def test_unix_socket_is_a_host(server, url):
    """A folder in ``host`` is where the server's socket is."""
    name = url.rpartition("/")[2]
    user = url.partition("@")[0]
    assert not await in_tls(f"{user}@:{server.port}/{name}?host={server.folder}")
