"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table, and say that this revision's code may use them."""
    op.create_table(
        "schema_compatibility",
        sa.Column("usable_from", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("usable_from", name="pk_schema_compatibility"),
    )
    op.create_table(
        "rings",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("rotate_requested_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("issuer", name="pk_rings"),
    )
    op.create_table(
        "ring_keys",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("kid", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("alg", sa.Text(), nullable=False),
        sa.Column("jwk", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("prepared_at", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("proven_at", sa.BigInteger()),
        sa.Column("activated_at", sa.BigInteger()),
        sa.Column("activation", sa.Text()),
        sa.Column("sign_until", sa.BigInteger()),
        sa.Column("publish_until", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger()),
        sa.Column("reason", sa.Text()),
        sa.PrimaryKeyConstraint("issuer", "kid", name="pk_ring_keys"),
    )
    op.create_table(
        "nodes",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("ring_generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "node", name="pk_nodes"),
    )
    op.create_table(
        "timings",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("issuer", name="pk_timings"),
    )
    op.create_table(
        "sessions",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("rid", sa.Text(), nullable=False),
        sa.Column("sub", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("audience", sa.Text(), nullable=False),
        sa.Column("auth_time", sa.BigInteger(), nullable=False),
        sa.Column("amr", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("idle_until", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("rotated_at", sa.BigInteger(), nullable=False),
        sa.Column("presented", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("parent", sa.BigInteger()),
        sa.Column("parent_sealed", sa.LargeBinary()),
        sa.Column("parent_spent_at", sa.BigInteger()),
        sa.Column("last_exp", sa.BigInteger(), nullable=False),
        sa.Column("last_kid", sa.Text()),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger()),
        sa.Column("end_cause", sa.Text()),
        sa.PrimaryKeyConstraint("issuer", "rid", name="pk_sessions"),
    )
    op.create_table(
        "log_heads",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("mark", sa.LargeBinary(), nullable=False),
        sa.Column("genesis", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("issuer", name="pk_log_heads"),
    )
    op.create_table(
        "log_entries",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("mark", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("not_before", sa.BigInteger()),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "seq", name="pk_log_entries"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "users",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("sub", sa.Text(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("password_changed_at", sa.BigInteger(), nullable=False),
        sa.Column("disabled_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("issuer", "sub", name="pk_users"),
        sa.UniqueConstraint("issuer", "username", name="uq_users_issuer_username"),
    )
    op.create_table(
        "clients",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary()),
        sa.Column("grant_types", sa.Text(), nullable=False),
        sa.Column("audiences", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("first_party", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "client_id", name="pk_clients"),
    )
    op.create_index("ix_sessions_issuer_sub", "sessions", ["issuer", "sub"])
    op.create_index("ix_sessions_issuer_client_id", "sessions", ["issuer", "client_id"])
    op.create_index("ix_sessions_issuer_created_at", "sessions", ["issuer", "created_at"])
    op.create_index("ix_log_entries_issuer_expires_at", "log_entries", ["issuer", "expires_at"])
    op.execute("INSERT INTO schema_compatibility (usable_from) VALUES ('0001')")
