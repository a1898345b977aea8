"""What revokes, and what asks for it, goes by an index however many rows there are."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, text
from tests.registry import store_rig

from mintmark.adapters.sql import directory, ending, outbox, tokens
from mintmark.testing.conformance.rig import ISSUER

ASKED = {
    "issuer": ISSUER,
    "of": ISSUER,
    "client_id": "shop",
    "token_jti": "jti",
    "token_rid": "rid",
    "token_client_id": "shop",
    "which": "shop",
    "node": "node",
    "span": 1,
    "most": 5,
    "behind": 0,
    "upto": 10,
    "floor": 10,
    "at": 10,
    "cause": "admin",
    "now": 10,
    "store_now": 10,
}
DENIED = "ix_log_entries_issuer_value_not_before"


def statements(store: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Each with the indexes that it must go by; SQLite has names of its own for those of primary keys."""
    yield directory._CLIENT, (DENIED, "sqlite_autoindex_log_heads")
    yield (
        store.revocations._tokens._told,
        (
            "ix_revoked_tokens_issuer_rid_expires_at",
            "ix_revoked_tokens_issuer_client_id_expires_at",
            "sqlite_autoindex_revoked_tokens",
        ),
    )
    yield tokens._PRUNE, ("ix_revoked_tokens_issuer_expires_at",)
    yield outbox._claim(store.time.expression), ("ix_logout_notices_issuer_client_id_ended_at_rid",)
    yield directory._FORGET_NOTICES, ("ix_logout_notices_issuer_client_id_ended_at_rid",)
    yield ending._ENDING_REVOKED, ("ix_sessions_issuer_created_at",)


def explain(connection: Connection, statement: Any) -> str:
    compiled = statement.compile(connection.engine)
    values = tuple({**compiled.params, **ASKED}[name] for name in compiled.positiontup or ())
    raw: Any = connection.connection.dbapi_connection
    return " | ".join(row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {compiled}", values))


async def test_no_statement_reads_a_whole_table(tmp_path, request):
    """V4, LOG-5: SQLite says by which index it would go, however few rows there are."""
    async with store_rig("sqlite", tmp_path, request.getfixturevalue) as rig:
        store: Any = rig.store
        for statement, indexes in statements(store):
            plan = await store.write(lambda c: explain(c, statement))  # noqa: B023
            for index in indexes:
                assert index in plan


async def test_postgresql_can_use_the_index_of_revoked_clients(tmp_path, request):
    """LOG-7: it holds a few entries of a million, and serves only who asks for just these."""

    def plan(connection: Connection) -> str:
        # An empty table is read as a whole, unless that costs more than anything.
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        literal = directory._CLIENT.params(ASKED).compile(
            dialect=connection.dialect, compile_kwargs={"literal_binds": True}
        )
        return " | ".join(connection.exec_driver_sql(f"EXPLAIN {literal}").scalars())

    async with store_rig("postgresql", tmp_path, request.getfixturevalue) as rig:
        store: Any = rig.store
        found = await store.write(plan)
    assert DENIED in found
    assert "Seq Scan" not in found
