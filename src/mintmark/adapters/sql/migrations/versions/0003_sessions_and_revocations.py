"""Where sessions are used, what clients are told and may ask, and what was revoked one by one or by time.

Code of revision 0002 goes on with this: it leaves every new column empty, and the new tables as they are.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add nullable columns, two tables, and an index of what code of 0002 never appends."""
    # First, because it reads the whole table: logouts wait for it, and for no more than it.
    op.create_index(
        "ix_log_entries_issuer_value_not_before",
        "log_entries",
        ["issuer", "value", "not_before"],
        sqlite_where=sa.text("kind = 'client'"),
        postgresql_where=sa.text("kind = 'client'"),
    )
    # From here on nothing is read or written anew, however many rows there are.
    op.add_column("sessions", sa.Column("used_at", sa.BigInteger()))
    op.add_column("sessions", sa.Column("device", sa.Text()))
    op.add_column("sessions", sa.Column("address", sa.Text()))
    op.add_column("log_heads", sa.Column("tokens_floor", sa.BigInteger()))
    op.add_column("log_heads", sa.Column("sessions_floor", sa.BigInteger()))
    op.add_column("users", sa.Column("locked_until", sa.BigInteger()))
    op.add_column("clients", sa.Column("rotates_refresh", sa.Boolean(create_constraint=False)))
    op.add_column("clients", sa.Column("origins", sa.Text()))
    op.add_column("clients", sa.Column("serves", sa.Text()))
    op.add_column("clients", sa.Column("backchannel_logout_uri", sa.Text()))
    op.create_table(
        "revoked_tokens",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("jti", sa.Text(), nullable=False),
        sa.Column("rid", sa.Text()),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "jti", name="pk_revoked_tokens"),
    )
    for columns in (["rid", "expires_at"], ["client_id", "expires_at"], ["expires_at"]):
        name = "_".join(["ix_revoked_tokens_issuer", *columns])
        op.create_index(name, "revoked_tokens", ["issuer", *columns])
    op.create_table(
        "logout_notices",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("rid", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("sub", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("claimed_by", sa.Text()),
        sa.Column("claimed_until", sa.BigInteger()),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "rid", name="pk_logout_notices"),
    )
    op.create_index(
        "ix_logout_notices_issuer_client_id_ended_at_rid",
        "logout_notices",
        ["issuer", "client_id", "ended_at", "rid"],
    )
