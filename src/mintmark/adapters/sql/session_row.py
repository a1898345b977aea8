"""A session as a row of its table, and back."""

from collections.abc import Mapping
from typing import Any

from mintmark.adapters.sql.database import decode_list, encode_list
from mintmark.core.sessions import EndCause, Session


def row_of(session: Session) -> Mapping[str, Any]:
    """The columns of ``session``."""
    return {
        "issuer": session.issuer,
        "rid": session.rid,
        "sub": session.sub,
        "client_id": session.client_id,
        "scope": encode_list(session.scope),
        "audience": encode_list(session.audience),
        "auth_time": session.auth_time,
        "amr": encode_list(session.amr),
        "created_at": session.created_at,
        "idle_until": session.idle_until,
        "expires_at": session.expires_at,
        "public_key": session.public_key,
        "generation": session.generation,
        "sealed": session.sealed,
        "rotated_at": session.rotated_at,
        "presented": session.presented,
        "parent": session.parent,
        "parent_sealed": session.parent_sealed,
        "parent_spent_at": session.parent_spent_at,
        "last_exp": session.last_exp,
        "last_kid": session.last_kid,
        "version": session.version,
        "ended_at": session.ended_at,
        "end_cause": None if session.end_cause is None else session.end_cause.value,
        "used_at": session.used_at,
        "device": session.device,
        "address": session.address,
    }


def session_of(row: Mapping[Any, Any]) -> Session:
    """What :func:`row_of` wrote; raises StoreDamaged for what it never does.

    The row may have ``sessions_floor`` beside its own columns: a session that began until then is ended.
    """
    values = dict(row)
    floor = values.pop("sessions_floor", None)
    for name in ("scope", "audience", "amr"):
        values[name] = decode_list(values[name])
    if values["end_cause"] is not None:
        try:
            values["end_cause"] = EndCause(values["end_cause"])
        except ValueError:
            # Newer code wrote it, in a rolling upgrade. That the session has ended is what matters.
            values["end_cause"] = None
    if floor is not None and values["ended_at"] is None and values["created_at"] <= floor:
        values["ended_at"], values["end_cause"] = floor, EndCause.ADMIN
    # Empty where code of an earlier revision wrote the row; what that refreshes leaves these as they were.
    values["used_at"] = max(values["used_at"] or 0, values["rotated_at"])
    for name in ("device", "address"):
        values[name] = values[name] or ""
    return Session(**values)
