"""The one schema, for every database: tables, keys and the indexes that the queries need.

Times are ``NumericDate`` in BIGINT, lists are JSON text, and ``issuer`` is part of every key, so that no
statement can reach another issuer's row by an id alone. The migrations build exactly this; a test says so.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

REVISION: Final = "0003"
"""The newest migration that this code knows; revisions are numbered, so text order is their order."""

METADATA: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# What says which code may use this schema: a newer revision that older code can live with leaves this
# number alone, so that an upgrade can be taken back (a rolling one runs both at once).
schema_compatibility: Final = Table(
    "schema_compatibility",
    METADATA,
    Column("usable_from", Text, nullable=False),
    PrimaryKeyConstraint("usable_from"),
)

rings: Final = Table(
    "rings",
    METADATA,
    Column("issuer", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("rotate_requested_at", BigInteger),
    Column("kind_mode", Text),
    Column("kind_alg", Text),
    Column("mac", LargeBinary),
    PrimaryKeyConstraint("issuer"),
)

# `keys` is a reserved word of some databases.
ring_keys: Final = Table(
    "ring_keys",
    METADATA,
    Column("issuer", Text, nullable=False),
    Column("kid", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("node", Text, nullable=False),
    Column("alg", Text, nullable=False),
    Column("jwk", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("prepared_at", BigInteger, nullable=False),
    Column("lease_until", BigInteger, nullable=False),
    Column("proven_at", BigInteger),
    Column("activated_at", BigInteger),
    Column("activation", Text),
    Column("sign_until", BigInteger),
    Column("publish_until", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("reason", Text),
    Column("mac", LargeBinary),
    PrimaryKeyConstraint("issuer", "kid"),
)

# Apart from `ring_keys`, whose rows code of revision 0001 writes anew with the columns that it knows: what it
# swaps in leaves these as they were.
key_custody: Final = Table(
    "key_custody",
    METADATA,
    Column("issuer", Text, nullable=False),
    Column("kid", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("sealed", LargeBinary),
    Column("held", Boolean(create_constraint=False), nullable=False),
    PrimaryKeyConstraint("issuer", "kid"),
)

nodes: Final = Table(
    "nodes",
    METADATA,
    Column("issuer", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("ring_generation", BigInteger, nullable=False),
    Column("address", Text),
    Column("certificate", LargeBinary),
    Column("modes", Text),
    Column("mac", LargeBinary),
    PrimaryKeyConstraint("issuer", "node"),
)

timings: Final = Table(
    "timings",
    METADATA,
    Column("issuer", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("document", LargeBinary, nullable=False),
    PrimaryKeyConstraint("issuer"),
)

# No index holds a column that a refresh changes, so a refresh writes one page.
sessions: Final = Table(
    "sessions",
    METADATA,
    Column("issuer", Text, nullable=False),
    Column("rid", Text, nullable=False),
    Column("sub", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("audience", Text, nullable=False),
    Column("auth_time", BigInteger, nullable=False),
    Column("amr", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("idle_until", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("rotated_at", BigInteger, nullable=False),
    Column("presented", Boolean(create_constraint=False), nullable=False),
    Column("parent", BigInteger),
    Column("parent_sealed", LargeBinary),
    Column("parent_spent_at", BigInteger),
    Column("last_exp", BigInteger, nullable=False),
    Column("last_kid", Text),
    Column("version", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("end_cause", Text),
    Column("used_at", BigInteger),
    Column("device", Text),
    Column("address", Text),
    PrimaryKeyConstraint("issuer", "rid"),
    Index(None, "issuer", "sub"),
    Index(None, "issuer", "client_id"),
    Index(None, "issuer", "created_at"),
)

log_heads: Final = Table(
    "log_heads",
    METADATA,
    Column("issuer", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("mark", LargeBinary, nullable=False),
    Column("genesis", LargeBinary, nullable=False),
    # What was revoked by time: tokens with an `iat`, and sessions with a `created_at`, up to here.
    Column("tokens_floor", BigInteger),
    Column("sessions_floor", BigInteger),
    PrimaryKeyConstraint("issuer"),
)

log_entries: Final = Table(
    "log_entries",
    METADATA,
    Column("issuer", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("mark", LargeBinary, nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("not_before", BigInteger),
    Column("expires_at", BigInteger, nullable=False),
    Column("cause", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    PrimaryKeyConstraint("issuer", "seq"),
    Index(None, "issuer", "expires_at"),
    # What a client's read asks: an index of the few entries that revoke a whole client.
    Index(
        None,
        "issuer",
        "value",
        "not_before",
        sqlite_where=text("kind = 'client'"),
        postgresql_where=text("kind = 'client'"),
    ),
    # Rows lie in the order in which they are appended and read; other databases ignore this.
    sqlite_with_rowid=False,
)

# Single tokens that were revoked, for as long as their events live: to count them, and to find one.
revoked_tokens: Final = Table(
    "revoked_tokens",
    METADATA,
    Column("issuer", Text, nullable=False),
    Column("jti", Text, nullable=False),
    Column("rid", Text),
    Column("client_id", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("issuer", "jti"),
    # With the time in them, or SQLite would look through all that live for those of one client.
    Index(None, "issuer", "rid", "expires_at"),
    Index(None, "issuer", "client_id", "expires_at"),
    Index(None, "issuer", "expires_at"),
)

# Ended sessions whose clients are still to be told (OIDC Back-Channel Logout).
logout_notices: Final = Table(
    "logout_notices",
    METADATA,
    Column("issuer", Text, nullable=False),
    Column("rid", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("sub", Text, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("claimed_by", Text),
    Column("claimed_until", BigInteger),
    Column("expires_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("issuer", "rid"),
    Index(None, "issuer", "client_id", "ended_at", "rid"),
)

users: Final = Table(
    "users",
    METADATA,
    Column("issuer", Text, nullable=False),
    Column("sub", Text, nullable=False),
    Column("username", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("password_changed_at", BigInteger, nullable=False),
    Column("disabled_at", BigInteger),
    Column("locked_until", BigInteger),
    PrimaryKeyConstraint("issuer", "sub"),
    UniqueConstraint("issuer", "username"),
)

clients: Final = Table(
    "clients",
    METADATA,
    Column("issuer", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("secret_hash", LargeBinary),
    Column("grant_types", Text, nullable=False),
    Column("audiences", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("first_party", Boolean(create_constraint=False), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("rotates_refresh", Boolean(create_constraint=False)),
    Column("origins", Text),
    Column("serves", Text),
    Column("backchannel_logout_uri", Text),
    PrimaryKeyConstraint("issuer", "client_id"),
)
