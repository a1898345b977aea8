"""Alembic's environment and the revisions, run from here by :mod:`mintmark.adapters.sql.migrate`."""
