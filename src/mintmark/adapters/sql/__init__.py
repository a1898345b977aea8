"""SQLite and, by the same schema, PostgreSQL through SQLAlchemy Core."""
