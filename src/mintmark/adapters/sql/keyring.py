"""The key ring, heartbeats and timing settings in SQL."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, delete, insert, select, update

from mintmark.adapters.sql.database import Collision, Database, insert_if_absent
from mintmark.adapters.sql.revocations import LogRows
from mintmark.adapters.sql.schema import nodes, ring_keys, rings, timings
from mintmark.core.key import Activation, Key, KeyState
from mintmark.core.keyring import Member, Ring
from mintmark.core.revocation import RevocationEvent
from mintmark.errors import StoreDamaged
from mintmark.ports.keyring import FORGOTTEN_AFTER, RingView, StoredTiming
from mintmark.units import Issuer, Kid, NodeId, NumericDate

_RING = select(rings).where(rings.c.issuer == bindparam("issuer"))
_KEYS = select(ring_keys).where(ring_keys.c.issuer == bindparam("issuer")).order_by(ring_keys.c.position)
_PUBLISHED_UNTIL = select(ring_keys.c.kid, ring_keys.c.publish_until).where(
    ring_keys.c.issuer == bindparam("issuer")
)
_MEMBERS = select(nodes).where(nodes.c.issuer == bindparam("issuer")).order_by(nodes.c.node)
_REPLACE_RING = (
    update(rings)
    .where(rings.c.issuer == bindparam("of"), rings.c.generation == bindparam("expected"))
    .values(generation=bindparam("new_generation"), rotate_requested_at=bindparam("new_request"))
)
_REMOVE_KEYS = delete(ring_keys).where(ring_keys.c.issuer == bindparam("of"))
_BEAT = (
    update(nodes)
    .where(nodes.c.issuer == bindparam("of"), nodes.c.node == bindparam("which"))
    .values(seen_at=bindparam("now"), ring_generation=bindparam("reported"))
)
_FORGET = delete(nodes).where(nodes.c.issuer == bindparam("of"), nodes.c.seen_at <= bindparam("before"))
_LEAVE = delete(nodes).where(nodes.c.issuer == bindparam("of"), nodes.c.node == bindparam("which"))
_TIMING = select(timings.c.document, timings.c.generation).where(timings.c.issuer == bindparam("issuer"))
_REPLACE_TIMING = (
    update(timings)
    .where(timings.c.issuer == bindparam("of"), timings.c.generation == bindparam("expected"))
    .values(document=bindparam("new_document"), generation=timings.c.generation + 1)
)


class RingRows:
    """The statements on the key ring and on what hangs on it."""

    def __init__(self, database: Database, log: LogRows) -> None:
        self._time = database.time
        self._log = log

    def read(self, connection: Connection, issuer: Issuer) -> RingView:
        """As the port's."""
        asked = {"issuer": issuer}
        row = connection.execute(_RING, asked).first()
        keys = tuple(_key(found) for found in connection.execute(_KEYS, asked).mappings().all())
        members = connection.execute(_MEMBERS, asked).all()
        return RingView(
            ring=Ring(
                issuer=issuer,
                generation=row.generation if row else 0,
                keys=keys,
                rotate_requested_at=row.rotate_requested_at if row else None,
            ),
            members=tuple(Member(found.node, found.seen_at, found.ring_generation) for found in members),
            now=self._time.read(connection),
        )

    def swap(
        self,
        connection: Connection,
        expected: int,
        ring: Ring,
        events: tuple[tuple[RevocationEvent, str], ...],
    ) -> bool:
        """As the port's. The ring's row is changed first, so that its lock orders those who race."""
        if not self._take(connection, expected, ring):
            return False
        published = {
            found.kid: found.publish_until
            for found in connection.execute(_PUBLISHED_UNTIL, {"issuer": ring.issuer}).all()
        }
        connection.execute(_REMOVE_KEYS, {"of": ring.issuer})
        rows = [
            _key_row(ring.issuer, position, key, published.get(key.kid, 0))
            for position, key in enumerate(ring.keys)
        ]
        if rows:
            connection.execute(insert(ring_keys), rows)
        self._log.append(connection, ring.issuer, events, at=self._time.read(connection))
        return True

    def _take(self, connection: Connection, expected: int, ring: Ring) -> bool:
        if expected == 0:
            row = {
                "issuer": ring.issuer,
                "generation": ring.generation,
                "rotate_requested_at": ring.rotate_requested_at,
            }
            connection.execute(insert(rings), row)  # Collision: somebody else was first
            return True
        replacing = {
            "of": ring.issuer,
            "expected": expected,
            "new_generation": ring.generation,
            "new_request": ring.rotate_requested_at,
        }
        return connection.execute(_REPLACE_RING, replacing).rowcount == 1

    def beat(self, connection: Connection, issuer: Issuer, node: NodeId, ring_generation: int) -> NumericDate:
        """As the port's; also forgets nodes that nobody has seen for a day."""
        now = self._time.read(connection)
        row = {"of": issuer, "which": node, "now": now, "reported": ring_generation}
        if connection.execute(_BEAT, row).rowcount == 0:
            new = {"issuer": issuer, "node": node, "seen_at": now, "ring_generation": ring_generation}
            insert_if_absent(connection, nodes, new)
            connection.execute(_FORGET, {"of": issuer, "before": now - FORGOTTEN_AFTER})
        return now

    def leave(self, connection: Connection, issuer: Issuer, node: NodeId) -> None:
        """As the port's."""
        connection.execute(_LEAVE, {"of": issuer, "which": node})

    def timing(self, connection: Connection, issuer: Issuer) -> StoredTiming | None:
        """As the port's."""
        row = connection.execute(_TIMING, {"issuer": issuer}).first()
        return None if row is None else StoredTiming(row.document, row.generation)

    def swap_timing(self, connection: Connection, issuer: Issuer, expected: int, document: bytes) -> bool:
        """As the port's."""
        if expected == 0:
            # Collision: somebody else was first.
            connection.execute(insert(timings), {"issuer": issuer, "generation": 1, "document": document})
            return True
        replacing = {"of": issuer, "expected": expected, "new_document": document}
        return connection.execute(_REPLACE_TIMING, replacing).rowcount == 1


class SqlKeyRing:
    """:class:`mintmark.ports.keyring.KeyRingStore` in SQL."""

    def __init__(self, database: Database, rows: RingRows) -> None:
        self._database = database
        self._rows = rows

    async def read(self, issuer: Issuer) -> RingView:
        """The ring as it is."""
        return await self._database.read(lambda c: self._rows.read(c, issuer))

    async def swap(
        self, expected: int, ring: Ring, *, events: tuple[tuple[RevocationEvent, str], ...] = ()
    ) -> bool:
        """Whether ``ring`` was taken in place of generation ``expected``, its events with it."""
        if ring.generation <= expected:
            raise ValueError("a ring that replaces another has a later generation")
        try:
            return await self._database.write(lambda c: self._rows.swap(c, expected, ring, events))
        except Collision:
            return False

    async def beat(self, issuer: Issuer, node: NodeId, *, ring_generation: int) -> NumericDate:
        """Write the heartbeat row of ``node``; the store's time that it now carries."""
        return await self._database.write(lambda c: self._rows.beat(c, issuer, node, ring_generation))

    async def leave(self, issuer: Issuer, node: NodeId) -> None:
        """Remove the heartbeat row."""
        await self._database.write(lambda c: self._rows.leave(c, issuer, node), single=True)

    async def timing(self, issuer: Issuer) -> StoredTiming | None:
        """The timing settings that the nodes of this issuer share."""
        return await self._database.read(lambda c: self._rows.timing(c, issuer), single=True)

    async def swap_timing(self, issuer: Issuer, *, expected: int, document: bytes) -> bool:
        """Whether ``document`` was taken in place of generation ``expected`` (0: there was none)."""
        try:
            return await self._database.write(
                lambda c: self._rows.swap_timing(c, issuer, expected, document), single=True
            )
        except Collision:
            return False


def _key_row(issuer: Issuer, position: int, key: Key, published_until: int) -> Mapping[str, Any]:
    return {
        "issuer": issuer,
        "kid": key.kid,
        "position": position,
        "node": key.node,
        "alg": key.alg,
        "jwk": key.jwk,
        "state": key.state.value,
        "since": key.since,
        "prepared_at": key.prepared_at,
        "lease_until": key.lease_until,
        "proven_at": key.proven_at,
        "activated_at": key.activated_at,
        "activation": None if key.activation is None else key.activation.value,
        "sign_until": key.sign_until,
        "publish_until": max(key.publish_until, published_until),
        "revoked_at": key.revoked_at,
        "reason": key.reason,
    }


def _key(row: RowMapping) -> Key:
    try:
        return Key(
            kid=Kid(row["kid"]),
            node=NodeId(row["node"]),
            alg=row["alg"],
            jwk=row["jwk"],
            state=KeyState(row["state"]),
            since=row["since"],
            prepared_at=row["prepared_at"],
            lease_until=row["lease_until"],
            proven_at=row["proven_at"],
            activated_at=row["activated_at"],
            activation=None if row["activation"] is None else Activation(row["activation"]),
            sign_until=row["sign_until"],
            publish_until=row["publish_until"],
            revoked_at=row["revoked_at"],
            reason=row["reason"],
        )
    except ValueError:
        raise StoreDamaged("a key in the database has a state that this code does not know") from None
