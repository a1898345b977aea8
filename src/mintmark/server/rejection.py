"""Rows that somebody wrote without the cluster's key: reported, and a start beside such a writer refused."""

from mintmark.core.events import EventName
from mintmark.core.keyring import LIVE_FOR
from mintmark.errors import ConfigurationError
from mintmark.ports.keyring import RingView, RowKind
from mintmark.server.audit import Audit


class Rejections:
    """Reports each rejected row once, for as long as it stays."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._known: frozenset[tuple[RowKind, str]] = frozenset()

    def note(self, view: RingView) -> None:
        """Record what is rejected now and was not before. The name is what the row claims, and no more."""
        found = frozenset((row.kind, row.name) for row in view.rejected)
        for kind, name in sorted(found - self._known):
            self._audit.record(EventName.ROW_REJECTED, table=kind.value, row=name)
        self._known = found


def check_cluster_key(view: RingView) -> None:
    """Raise ConfigurationError where this node and those that are live do not have the same cluster key.

    One of them would ignore what the other writes, and each would begin a ring of its own. A heartbeat that
    somebody made up can keep a node from starting, as could whatever else he writes into the database.
    """
    lives = any(member.is_live(view.now) for member in view.members)
    if view.unchecked and lives:
        raise ConfigurationError(
            "cluster_key", "the other nodes have one and this node has none; give it the same"
        )
    strangers = [row for row in view.rejected if row.seen_at is not None]
    if not lives and any(abs(view.now - (row.seen_at or 0)) < LIVE_FOR for row in strangers):
        raise ConfigurationError(
            "cluster_key",
            "the live nodes have none, or another: to introduce one beside them set cluster_key_also = "
            '"unmarked", to replace theirs name it there',
        )
