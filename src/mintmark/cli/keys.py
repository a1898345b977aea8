"""``mintmark keys``: the signing keys of every node, and what to do in an emergency."""

from typing import Annotated, Final

from cyclopts import App, Parameter

from mintmark.cli.invocation import Given, Invocation, Opened
from mintmark.cli.output import distance, instant, table
from mintmark.cli.status import Failed, Misused
from mintmark.cli.switch import kind_document, switch
from mintmark.cli.timeline import ASCII, UNICODE, document, draw
from mintmark.core.events import EventName
from mintmark.core.key import Key, KeyState
from mintmark.core.keyring import InvalidTransition, KeyInUse, Ring
from mintmark.core.timing import Timing
from mintmark.errors import NotFound
from mintmark.server.emergency import hold_key, remove_key, request_rotation, revoke_key
from mintmark.server.setting import shown
from mintmark.units import Kid, NumericDate, spoken

app = App(name="keys", help="List, draw, rotate, hold, remove, switch and revoke signing keys.")

app.command(switch)

_COUNTED: Final = 10_000
_MAX_REASON: Final = 200
_NODE_SHOWN: Final = 8
_KID_SHOWN: Final = 8
_COLUMNS: Final = ("KID", "STATE", "MODE", "ALG", "NODE", "AGE", "ACTIVATION", "SIGNS UNTIL", "KEPT UNTIL")
_NARROW: Final = ("KID", "STATE", "MODE", "ALG", "NODE", "AGE", "SIGNS", "KEPT")


_Kid = Annotated[str, Parameter(help="The key's `kid`, or the beginning of it that no other has.")]


@app.command(name="list")
async def list_keys(*, given: Given) -> None:
    """List the keys of all nodes, those that were revoked included."""
    async with given.open() as opened:
        view = await opened.store.keyring.read(opened.settings.issuer)
    ring, now = view.ring, view.now
    rows = [
        (
            key.kid,
            key.state.value,
            key.mode.value,
            key.alg,
            key.node[:_NODE_SHOWN],
            spoken(max(0, now - key.prepared_at)),
            key.activation.value if key.activation is not None else "",
            ""
            if key.sign_until is None or key.state is not KeyState.ACTIVE
            else distance(key.sign_until, now),
            "held" if key.held else distance(key.publish_until, now) if key.publish_until else "",
        )
        for key in ring.keys
    ]
    listed = table(_COLUMNS, rows)
    if not given.output.fits(listed):
        # Folded, a kid could not be copied; commands take the beginning of one.
        kids = _short(ring)
        listed = table(_NARROW, [(kids[row[0]], *row[1:6], *row[7:]) for row in rows])
    live = {member.node for member in view.members if member.is_live(now)}
    given.output.answer(
        {
            "issuer": ring.issuer,
            "generation": ring.generation,
            "now": now,
            "kind": kind_document(ring.kind),
            "rotate_requested_at": ring.rotate_requested_at,
            "rejected": [{"table": row.kind.value, "name": row.name} for row in view.rejected],
            "keys": [_document(key) | {"node_live": key.node in live} for key in ring.keys],
        },
        listed if rows else "No keys: a node makes one when it starts.",
    )
    for row in view.rejected:
        given.output.note(f"mintmark: {row.kind.value} {row.name}: written without this cluster_key, ignored")


def _short(ring: Ring) -> dict[str, str]:
    """The beginning of each kid that no other has."""
    shown = _KID_SHOWN
    while len({key.kid[:shown] for key in ring.keys}) < len(ring.keys):
        shown += 1
    return {key.kid: key.kid[:shown] for key in ring.keys}


@app.command
async def timeline(*, given: Given) -> None:
    """Draw the keys over time: when each was prepared, signs, and leaves the key set.

    What lies ahead is what follows from the settings, unless a lease is not renewed or somebody steps in.
    """
    async with given.open() as opened:
        view = await opened.store.keyring.read(opened.settings.issuer)
    timing, output = opened.settings.timing, given.output
    glyphs = UNICODE if output.is_unicode else ASCII
    output.answer(
        document(view, timing),
        *(
            draw(view, timing, width=output.width, glyphs=glyphs)
            if view.ring.keys
            else ("No keys: a node makes one when it starts.",)
        ),
    )


@app.command
async def rotate(*, given: Given) -> None:
    """Have every node that signs prepare a new key now.

    A new key signs once it was read back through the public URL and has been public for the lead, so that
    every verifier has it. Until then the present keys go on, and no token is refused.
    """
    async with given.open() as opened:
        await request_rotation(opened.store.keyring, opened.settings.issuer)
        view = await opened.store.keyring.read(opened.settings.issuer)
        opened.audit.record(EventName.ROTATION_REQUESTED, generation=view.ring.generation)
    active = sum(key.state is KeyState.ACTIVE for key in view.ring.keys)
    lead = opened.settings.timing.lead
    given.output.answer(
        {
            "issuer": view.ring.issuer,
            "rotate_requested_at": view.ring.rotate_requested_at,
            "active_keys": active,
            "lead": lead,
        },
        f"Asked for a successor of each active key: {active}.",
        f"A new key signs once it has been public for {spoken(lead)}; until then the present one goes on."
        if active
        else "No key is active now: the next node that starts makes one.",
    )


@app.command
async def hold(kid: _Kid, /, *, given: Given) -> None:
    """Keep a key in the key set, whatever time it is, until it is released.

    For tokens that must be verified longer than they were meant to be. It changes nothing about who signs.
    """
    await _hold(given, kid, held=True)


@app.command
async def release(kid: _Kid, /, *, given: Given) -> None:
    """Let a held key go: it leaves the key set when its time has come, which may be at once."""
    await _hold(given, kid, held=False)


async def _hold(given: Invocation, kid: str, *, held: bool) -> None:
    async with given.open() as opened:
        key = _named((await opened.store.keyring.read(opened.settings.issuer)).ring, kid)
        try:
            done = await hold_key(opened.store.keyring, opened.settings.issuer, key.kid, held=held)
        except InvalidTransition:
            raise Failed(f"key {key.kid} is not in the key set") from None
        if done:
            opened.audit.record(EventName.KEY_HELD if held else EventName.KEY_RELEASED, kid=key.kid)
    said = "stays in the key set until it is released" if held else "leaves the key set when its time comes"
    before = "" if done else "It was so before; nothing changed."
    given.output.answer(
        {"kid": key.kid, "state": key.state.value, "held": held, "changed": done},
        f"Key {key.kid} {said}.",
        *filter(None, [before]),
    )


@app.command
async def remove(kid: _Kid, /, *, given: Given) -> None:
    """Take a key out of the key set now, if nothing that it signed can be valid any more.

    Keys leave by themselves when their time has come. A key that must go sooner is revoked.
    """
    async with given.open() as opened:
        view = await opened.store.keyring.read(opened.settings.issuer)
        key = _named(view.ring, kid)
        try:
            timing = opened.settings.timing
            await remove_key(opened.store.keyring, opened.settings.issuer, key.kid, timing=timing)
        except KeyInUse as in_use:
            raise Failed(_why_kept(key, in_use, view.now)) from None
        except InvalidTransition:
            raise NotFound(f"key {key.kid} left the ring meanwhile") from None
        opened.audit.record(EventName.KEY_REMOVED, kid=key.kid)
    given.output.answer({"kid": key.kid, "removed": True}, f"Removed key {key.kid}.")


def _why_kept(key: Key, in_use: KeyInUse, now: NumericDate) -> str:
    if in_use.held:
        return f"key {key.kid} is held: `mintmark keys release` lets it go"
    latest = f"the latest exp that this could break is {instant(in_use.latest_exp)}"
    leaves = f"it may leave {distance(in_use.publish_until, now)}"
    if key.state is KeyState.REVOKED:
        return f"key {key.kid} is revoked, and stays on record; {leaves}"
    if in_use.latest_exp <= now:
        return (
            f"the last token of key {key.kid} expired {instant(in_use.latest_exp)}, and verifiers that leave "
            f"leeway for clocks may accept it yet; {leaves}"
        )
    signs = " signs, and" if key.state is KeyState.ACTIVE else ""
    return f"key {key.kid}{signs} may have tokens that are valid: {latest}; {leaves}"


@app.command
async def revoke(
    kid: _Kid,
    /,
    *,
    reason: Annotated[str, Parameter(help="Why, for the record.")],
    dry_run: Annotated[bool, Parameter(help="Say what it would mean, and change nothing.")] = False,
    given: Given,
) -> None:
    """Withdraw a key of any node, dead or alive: it leaves the key set, and all its tokens are refused.

    Sessions live on: their next refresh is signed with another key. Revoking a key twice changes nothing.
    """
    if not reason.strip() or len(reason) > _MAX_REASON or not reason.isprintable():
        raise Misused(f"--reason: 1 to {_MAX_REASON} printable characters")
    async with given.open() as opened:
        view = await opened.store.keyring.read(opened.settings.issuer)
        key = _named(view.ring, kid)
        sessions, more = await _sessions_of(opened, key) if dry_run else (0, False)
        done = False
        if not dry_run and key.state is not KeyState.REVOKED:
            done = await _revoke(opened, key, reason)
    timing = opened.settings.timing
    document: dict[str, object] = {"kid": key.kid, "state": key.state.value, "revoked": done}
    if dry_run:
        latest = timing.latest_exp(key.lease_until) if key.activated_at is not None else None
        document |= {"dry_run": True, "sessions": sessions, "latest_exp": latest}
        given.output.answer(document, *_forecast(key, sessions, more, latest, view.now))
    elif done:
        document["state"] = KeyState.REVOKED.value
        given.output.answer(document, f"Revoked key {key.kid}.", *_consequences(key, timing))
    else:
        given.output.answer(document, f"Key {key.kid} was revoked before; nothing changed.")


async def _revoke(opened: Opened, key: Key, reason: str) -> bool:
    """Whether this revoked the key; False where somebody else did so first."""
    ring, issuer = opened.store.keyring, opened.settings.issuer
    done = await revoke_key(ring, issuer, key.kid, reason=reason, timing=opened.settings.timing)
    if done:
        opened.audit.record(EventName.KEY_REVOKED, kid=key.kid, reason=reason)
    elif (await ring.read(issuer)).ring.find(key.kid) is None:
        raise NotFound(f"key {key.kid} left the ring meanwhile: nothing that it signed is valid")
    return done


async def _sessions_of(opened: Opened, key: Key) -> tuple[int, bool]:
    """How many live sessions last used ``key``, and whether there may be more than were looked at."""
    sessions = await opened.store.sessions.list(opened.settings.issuer, limit=_COUNTED)
    return sum(session.last_kid == key.kid for session in sessions), len(sessions) == _COUNTED


def _named(ring: Ring, text: str) -> Key:
    """The key whose ``kid`` is ``text``, or the one that alone begins with it."""
    exact = ring.find(Kid(text))
    found = [exact] if exact is not None else [key for key in ring.keys if text and key.kid.startswith(text)]
    if not found:
        raise NotFound(f'there is no key "{shown(text)}"; `mintmark keys list` shows those there are')
    if len(found) > 1:
        raise Misused(f'{len(found)} keys begin with "{shown(text)}": write more of the kid')
    return found[0]


def _forecast(
    key: Key, sessions: int, more: bool, latest: NumericDate | None, now: NumericDate
) -> tuple[str, ...]:
    if key.state is KeyState.REVOKED:
        return (f"Key {key.kid} was revoked before; nothing would change.",)
    if latest is None:
        return (f"Key {key.kid} never signed; revoking it refuses no token.",)
    count = f"at least {sessions}" if more else str(sessions)
    whose = "a" if key.is_of_cluster() else "its"
    return (
        f"Key {key.kid} is {key.state.value}. Nothing was changed.",
        f"Sessions that last used it: {count}. They live on; their access tokens would be refused.",
        f"The latest exp that {whose} node could sign: {instant(latest)} ({distance(latest, now)}).",
    )


def _consequences(key: Key, timing: Timing) -> tuple[str, ...]:
    others = timing.jwks_max_age + timing.verifier_cache
    stops = "every node stops" if key.is_of_cluster() else "its node stops"
    return (
        f"It is out of the key set now; {stops} signing with it in at most {spoken(timing.lease)}.",
        f"Verifiers that follow the feed refuse its tokens at once, all others within {spoken(others)}.",
        "Sessions live on: their next refresh is signed with another key.",
    )


def _document(key: Key) -> dict[str, object]:
    return {
        "kid": key.kid,
        "state": key.state.value,
        "mode": key.mode.value,
        "held": key.held,
        "sealed": key.sealed is not None,
        "alg": key.alg,
        "node": key.node,
        "since": key.since,
        "prepared_at": key.prepared_at,
        "proven_at": key.proven_at,
        "activated_at": key.activated_at,
        "activation": key.activation.value if key.activation is not None else None,
        "sign_until": key.sign_until,
        "lease_until": key.lease_until,
        "publish_until": key.publish_until or None,
        "revoked_at": key.revoked_at,
        "reason": key.reason,
    }
