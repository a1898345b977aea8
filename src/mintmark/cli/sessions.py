"""``mintmark sessions``: who is logged in, and logging them out."""

from typing import Annotated

from cyclopts import App, Parameter

from mintmark.cli.invocation import Given, Invocation
from mintmark.cli.output import distance, table
from mintmark.cli.recall import DryRun, IssuedBefore, consequences, recall_document, time_of
from mintmark.cli.status import Misused
from mintmark.server.accounts import SessionListed
from mintmark.server.recall import foresee, revoke_everything
from mintmark.server.setting import shown
from mintmark.units import NumericDate

app = App(name="sessions", help="List and revoke sessions.")

_MAX_LIMIT = 10_000
_MAX_DEVICE = 40
"""Characters of a device in a table; the whole is in the JSON."""


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
            shown(one.session.device, limit=_MAX_DEVICE),
            one.session.address,
            distance(one.session.created_at, now),
            distance(one.session.used_at, now),
            distance(min(one.session.idle_until, one.session.expires_at), now),
        )
        for one in listed
    ]
    columns = (
        "RID",
        "USER",
        "CLIENT ID",
        "SCOPE",
        "DEVICE",
        "PLACE",
        "BEGAN",
        "LAST USED",
        "ENDS UNLESS USED",
    )
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
    every: Annotated[
        bool, Parameter(name="--all", help="Every session, and every token of any client, by one event.")
    ] = False,
    issued_before: IssuedBefore = None,
    dry_run: DryRun = False,
    given: Given,
) -> None:
    """Log out one session, all sessions of a user, or everybody.

    Access tokens of these sessions are refused by every verifier that follows the feed, and no refresh
    token of theirs works any more. Revoking a session twice changes nothing.

    `--all` takes as long for a million sessions as for one. Nodes mint nothing for a short while afterwards,
    unless `--issued-before` lies that far back. It alone takes `--issued-before` and `--dry-run`.
    """
    if (rid is not None) + (user is not None) + every != 1:
        raise Misused("name one session by its RID, all of a user with --user, or every one with --all")
    if every:
        await (_foresee_all if dry_run else _revoke_all)(given, time_of(issued_before))
    elif issued_before is not None or dry_run:
        raise Misused("--issued-before and --dry-run go with --all")
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


async def _revoke_all(given: Invocation, before: NumericDate | None) -> None:
    async with given.open() as opened:
        recall = await revoke_everything(
            opened.store,
            opened.settings.issuer,
            timing=opened.settings.timing,
            audit=opened.audit,
            before=before,
        )
    given.output.answer(
        {"revoked": True} | recall_document(recall),
        "Revoked every session and token.",
        *consequences(recall),
    )


async def _foresee_all(given: Invocation, before: NumericDate | None) -> None:
    async with given.open() as opened:
        listed = await opened.store.sessions.list(opened.settings.issuer, limit=_MAX_LIMIT)
        recall = await foresee(opened.store, timing=opened.settings.timing, before=before)
    count = sum(session.created_at <= min(recall.not_before, recall.at) for session in listed)
    more = len(listed) == _MAX_LIMIT
    given.output.answer(
        {"revoked": False, "dry_run": True, "sessions": count, "complete": not more}
        | recall_document(recall),
        f"Nothing was changed. Sessions that would end: {'at least ' if more else ''}{count}.",
        *consequences(recall),
    )


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
        "device": session.device,
        "address": session.address,
        "created_at": session.created_at,
        "used_at": session.used_at,
        "rotated_at": session.rotated_at,
        "idle_until": session.idle_until,
        "expires_at": session.expires_at,
        "last_exp": session.last_exp,
        "last_kid": session.last_kid,
    }
