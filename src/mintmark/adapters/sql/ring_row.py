"""How a key ring and its nodes lie in their tables: rows of every column, to values and back.

A mode or an algorithm that a later version wrote takes nothing down here. Such a key is read as one of the
cluster's that nobody here can hold, such a kind as none, and both are left in the store as they are.
"""

from collections.abc import Mapping
from typing import Any, Final

from mintmark.adapters.sql.database import decode_list, encode_list
from mintmark.core.algorithm import Algorithm
from mintmark.core.key import Activation, Key, KeyKind, KeyMode, KeyState
from mintmark.core.keyring import Member, Ring
from mintmark.core.mark import Value
from mintmark.errors import StoreDamaged
from mintmark.units import Issuer, Kid, NodeId, NumericDate

Found = Mapping[str, Any]
"""A row by the names of its columns."""

_MODES: Final = frozenset(KeyMode)


def ring_row(ring: Ring, before: Found | None) -> dict[str, Any]:
    """The row of ``ring`` in place of ``before``."""
    mode, alg = (None, None) if ring.kind is None else (ring.kind.mode.value, ring.kind.alg.value)
    if before is not None and before["kind_mode"] is not None and kind_of(before) is None:
        mode, alg = before["kind_mode"], before["kind_alg"]
    return {
        "issuer": ring.issuer,
        "generation": ring.generation,
        "rotate_requested_at": ring.rotate_requested_at,
        "kind_mode": mode,
        "kind_alg": alg,
    }


def kind_of(row: Found) -> KeyKind | None:
    """What keys are to sign; None where none was written, or one that this code does not know."""
    try:
        return KeyKind(KeyMode(row["kind_mode"]), Algorithm(row["kind_alg"]))
    except ValueError:
        return None


def key_rows(
    issuer: Issuer, position: int, key: Key, before: Found | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows of ``key`` in ``ring_keys`` and ``key_custody`` in place of ``before``."""
    published_until = 0 if before is None else before["publish_until"]
    row = {
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
    # Who holds a key never changes, so a mode that this code could not read is still the right one.
    unknown = before is not None and before["mode"] is not None and before["mode"] not in _MODES
    custody = {
        "issuer": issuer,
        "kid": key.kid,
        "mode": before["mode"] if before is not None and unknown else key.mode.value,
        "sealed": key.sealed,
        "held": key.held,
    }
    return row, custody


def key_of(row: Found) -> Key:
    """The key of a row of ``ring_keys`` with what ``key_custody`` says of it; raises StoreDamaged."""
    mode = row["mode"]
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
            # No row of its own: written by code that made no other keys than a node's own.
            mode=KeyMode.OWN if mode is None else KeyMode(mode) if mode in _MODES else KeyMode.SHARED,
            sealed=row["sealed"],
            held=bool(row["held"]),
        )
    except ValueError:
        raise StoreDamaged("a key in the database has a state that this code does not know") from None


def marked(row: Found, ring: Found | None = None) -> dict[str, Value]:
    """What the mark of ``row`` covers: every column but the mark, and with a key all of its ring's.

    So a row of an earlier generation, of another issuer or of another kind is no row of this ring.
    """
    covered: dict[str, Value] = {name: value for name, value in row.items() if name != "mac"}
    for name, value in (ring or {}).items():
        if name != "mac":
            covered[f"ring.{name}"] = value
    return covered


def member_row(issuer: Issuer, member: Member) -> dict[str, Any]:
    """The row of ``member``."""
    return {
        "issuer": issuer,
        "node": member.node,
        "seen_at": member.seen_at,
        "ring_generation": member.ring_generation,
        "address": member.address,
        "certificate": member.certificate,
        "modes": encode_list(tuple(sorted(mode.value for mode in member.modes))),
    }


def member_of(row: Found) -> Member:
    """The node of a row; what code before these columns left empty reads as what it could do."""
    modes = ("own",) if row["modes"] is None else decode_list(row["modes"])
    return Member(
        NodeId(row["node"]),
        NumericDate(row["seen_at"]),
        row["ring_generation"],
        row["address"] or "",
        row["certificate"] or b"",
        frozenset(KeyMode(mode) for mode in modes if mode in _MODES),
    )
