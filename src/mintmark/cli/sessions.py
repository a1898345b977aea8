"""``mintmark sessions``: who is logged in, and logging them out."""

from typing import Annotated

from cyclopts import App, Parameter

from mintmark.cli.invocation import Given
from mintmark.cli.output import distance, table
from mintmark.cli.status import Misused
from mintmark.server.accounts import SessionListed

app = App(name="sessions", help="List and revoke sessions.")

_MAX_LIMIT = 10_000


@app.command(name="list")
async def list_sessions(
    *,
    user: Annotated[str | None, Parameter(help="Those of this user alone.")] = None,
    limit: Annotated[
        int,
        Parameter(help=f"The most to list, 1 to {_MAX_LIMIT:,}; the newest come first. Else 100."),
    ] = 100,
    given: Given,
) -> None:
    """List the sessions that have neither ended nor expired."""
    if not 1 <= limit <= _MAX_LIMIT:
        raise Misused(f"--limit: must be from 1 to {_MAX_LIMIT}")
    async with given.open() as opened:
        listed, now = await opened.accounts.sessions(user=user, limit=limit), await opened.store.now()
    rows = [
        (
            one.session.rid,
            one.username if one.username is not None else one.session.sub,
            one.session.client_id,
            " ".join(one.session.scope),
            distance(one.session.created_at, now),
            distance(one.session.rotated_at, now),
            distance(min(one.session.idle_until, one.session.expires_at), now),
        )
        for one in listed
    ]
    columns = ("RID", "USER", "CLIENT ID", "SCOPE", "BEGAN", "REFRESHED", "ENDS UNLESS REFRESHED")
    given.output.answer(
        {"sessions": [_document(one) for one in listed], "complete": len(listed) < limit},
        table(columns, rows) if rows else "No sessions.",
    )
    if len(listed) == limit:
        given.output.note(f"mintmark: there may be more than these {limit}; --limit shows more")


@app.command
async def revoke(
    rid: Annotated[str | None, Parameter(help="The session's `rid`.")] = None,
    /,
    *,
    user: Annotated[str | None, Parameter(help="All sessions of this user instead of one.")] = None,
    given: Given,
) -> None:
    """Log out one session, or all sessions of a user.

    Access tokens of these sessions are refused by every verifier that follows the feed, and no refresh
    token of theirs works any more. Revoking a session twice changes nothing.
    """
    if (rid is None) is (user is None):
        raise Misused("name one session by its RID, or all of a user with --user")
    if rid is not None:
        async with given.open() as opened:
            ended = await opened.accounts.end_session(rid)
        given.output.answer(
            {"rid": rid, "revoked": ended},
            f"Revoked session {rid}." if ended else f"Session {rid} had ended before; nothing changed.",
        )
    if user is not None:
        async with given.open() as opened:
            rids = await opened.accounts.end_sessions(user)
        given.output.answer({"rids": list(rids)}, f"Revoked sessions: {len(rids)}.", *rids)


def _document(one: SessionListed) -> dict[str, object]:
    session = one.session
    return {
        "rid": session.rid,
        "sub": session.sub,
        "username": one.username,
        "client_id": session.client_id,
        "scope": " ".join(session.scope),
        "aud": list(session.audience),
        "auth_time": session.auth_time,
        "amr": list(session.amr),
        "created_at": session.created_at,
        "rotated_at": session.rotated_at,
        "idle_until": session.idle_until,
        "expires_at": session.expires_at,
        "last_exp": session.last_exp,
        "last_kid": session.last_kid,
    }
