"""Who holds a key, what keys an issuer wants, where a node listens, and the marks of `cluster_key`.

Code of revision 0001 goes on with this: it leaves every new column empty, which reads as what its own rows
mean, and the table that it does not know as it is.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add nullable columns, and a table beside `ring_keys`."""
    op.add_column("rings", sa.Column("kind_mode", sa.Text()))
    op.add_column("rings", sa.Column("kind_alg", sa.Text()))
    op.add_column("rings", sa.Column("mac", sa.LargeBinary()))
    op.add_column("ring_keys", sa.Column("mac", sa.LargeBinary()))
    op.create_table(
        "key_custody",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("kid", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary()),
        sa.Column("held", sa.Boolean(create_constraint=False), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "kid", name="pk_key_custody"),
    )
    op.add_column("nodes", sa.Column("address", sa.Text()))
    op.add_column("nodes", sa.Column("certificate", sa.LargeBinary()))
    op.add_column("nodes", sa.Column("modes", sa.Text()))
    op.add_column("nodes", sa.Column("mac", sa.LargeBinary()))
