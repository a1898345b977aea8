"""Alembic's entry: upgrade over the connection, and inside the transaction, that the caller has begun."""

from alembic import context

from mintmark.adapters.sql.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
