"""What doctor says of a PostgreSQL database, which it does not change."""

import dataclasses

import pytest
from sqlalchemy import make_url
from tests.registry import PATIENT

from mintmark.adapters.sql import postgres
from mintmark.adapters.sql.postgres import PostgresStore
from mintmark.cli.demonstration.postgresql import PostgresqlServer
from mintmark.errors import StoreUnavailable
from mintmark.node.examination.store import look_at_store, place_of
from mintmark.server.settings import read
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.units import NodeId, NumericDate


async def looked(url: str, clock=SYSTEM_CLOCK, **configured: str):
    left = 20
    while True:
        given = dataclasses.replace(read(configured, {}), store=url)
        found = await look_at_store(given, clock=clock, entropy=SYSTEM_ENTROPY)
        by_check = {str(finding.check): finding for finding in found.findings}
        left -= 1
        # A machine that does much else may take longer than anybody's patience.
        if not left or "in time" not in by_check["store.reach"].found:
            return by_check, found


async def make(url: str) -> None:
    for left in reversed(range(20)):
        store = postgres.from_url(url, clock=SYSTEM_CLOCK, entropy=SYSTEM_ENTROPY)
        try:
            await store.open()
        except StoreUnavailable:
            if not left:
                raise
        else:
            return await store.close()
    return None


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


async def test_empty_database_gets_no_tables(postgresql: PostgresqlServer, database: str):
    """Before the first start all is well, the role may make tables, and none was made."""
    found, _ = await looked(database)
    assert {check: one.verdict for check, one in found.items() if one.verdict != "skipped"} == {
        "store.reach": "ok",
        "store.schema": "ok",
        "store.write": "ok",
    }
    assert "PostgreSQL 15" in found["store.reach"].found
    # Looked at once more, it is as empty as before.
    assert "the first start makes the tables" in (await looked(database))[0]["store.schema"].found


async def test_database_of_a_node_is_read(database: str):
    """With a schema every check of the store has an answer."""
    await make(database)
    found, view = await looked(database)
    assert {check: one.found for check, one in found.items() if one.verdict != "ok"} == {
        "store.mode": "no file",
        "store.space": "no file",
        "store.rows": "no cluster_key: whoever can write the database can add a signing key of his own",
    }
    assert view.ring is not None
    assert view.ring.keys == ()


async def test_rows_are_checked_with_the_clusters_key(database: str, monkeypatch: pytest.MonkeyPatch):
    """Those of a node without it are a failure, and so is a secret that cannot be read."""
    await make(database)
    store = PostgresStore(make_url(database), entropy=SYSTEM_ENTROPY, bounds=PATIENT)
    await store.open()
    await store.keyring.beat(read({}, {}).issuer, NodeId("other"), ring_generation=0)
    await store.close()
    monkeypatch.setenv("CLUSTER", "x" * 16)
    found, _ = await looked(database, cluster_key="env:CLUSTER")
    assert found["store.rows"].verdict == "failed"
    assert "node other" in found["store.rows"].found
    found, _ = await looked(database, cluster_key="env:NOT_THERE")
    assert found["store.rows"].verdict == "failed"
    assert "no such variable" in found["store.rows"].found


@pytest.mark.parametrize(("off", "verdict"), [(-3600, "failed"), (3600, "failed")])
async def test_clock_that_is_off_the_servers_is_a_failure(database: str, off: int, verdict: str):
    """A machine whose clock is an hour off the server's is told so."""
    await make(database)
    clock = FakeClock(NumericDate(SYSTEM_CLOCK.now() + off))
    found, _ = await looked(database, clock)
    assert found["store.clock"].verdict == verdict


async def test_database_that_takes_no_writes_is_a_failure(postgresql: PostgresqlServer, database: str):
    """A database that was made read-only is found while it can still be read."""
    await make(database)
    postgresql.execute(f"ALTER DATABASE {name_of(database)} SET default_transaction_read_only = on")
    found, _ = await looked(database)
    assert found["store.write"].verdict == "failed"
    assert "read-only" in found["store.write"].found
    assert found["store.keys"].verdict == "ok"


async def test_database_that_is_not_there_is_told_without_its_password(database: str):
    """A wrong name, password and port are failures with a fix, and no word of the password."""
    wrong = {
        "does not exist": database.replace(name_of(database), "none_such"),
        "refused the user": database.replace("mintmark:", "mintmark:canary", 1),
        "nothing listens": "postgresql://ada:canary@127.0.0.1:1/mintmark",
    }
    for reason, url in wrong.items():
        found, _ = await looked(url)
        assert found["store.reach"].verdict == "failed"
        assert reason in found["store.reach"].found
        assert found["store.schema"].verdict == "skipped"
        password = url.partition("://")[2].partition("@")[0].partition(":")[2]
        assert password not in repr(found)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://ada:s%40cret@db.example:5433/mint?sslmode=require", "db.example:5433/mint"),
        ("postgresql://db.example/mint", "db.example/mint"),
        ("postgresql://a:b@c@db/x", "db/x"),
        ("sqlite:////srv/mintmark.db", "/srv/mintmark.db"),
    ],
)
def test_place_of_a_store_holds_no_password(url: str, place: str):
    """People see where the store is, and neither user nor password."""
    assert place_of(url) == place
