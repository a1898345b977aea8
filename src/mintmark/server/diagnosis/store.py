"""What the store says: whether it can be used, whose clock is off, who lives, who signs."""

from typing import Final

from mintmark.core.key import Key, KeyState
from mintmark.core.keyring import LIVE_FOR, Member
from mintmark.core.membership import can_sign
from mintmark.core.timing import CROWDED_JWKS, Timing
from mintmark.ports.keyring import RingView, StoredTiming
from mintmark.server.agreement import differences, documents
from mintmark.server.diagnosis.count import counted
from mintmark.server.diagnosis.finding import Check, Finding, failed, ok, warning
from mintmark.server.setting import shown
from mintmark.units import NumericDate, Seconds, spoken

_NODE_SHOWN: Final = 8


# --- any database --------------------------------------------------------------------------------


def of_outage(subject: str, reason: str, *, is_file: bool) -> Finding:
    """The database does not answer."""
    fix = "see who holds it (`fuser FILE`), and whether this user may read and write it"
    if not is_file:
        fix = (
            "see that the server runs and lets this machine in (`pg_isready -h HOST -p PORT`), and that "
            "`store` has the right user, password and database"
        )
    return failed(Check.STORE_REACH, subject, _after(subject, reason), fix=fix)


def of_damage(subject: str, reason: str) -> Finding:
    """The database answers, and cannot be used by this version."""
    return failed(
        Check.STORE_SCHEMA,
        subject,
        _after(subject, reason),
        fix="change `store` if this is another database; run the version that it names if it was upgraded; "
        "else restore a backup: docs/how-to/back-up-and-restore.md",
    )


def of_database(
    subject: str, product: str, *, empty: bool, older: bool, unwritable: str | None, lossy: tuple[str, ...]
) -> tuple[Finding, ...]:
    """A database that answers: its schema, and whether it takes and keeps what is written."""
    reach = ok(Check.STORE_REACH, subject, f"{product} answers")
    if lossy:
        reach = warning(
            Check.STORE_REACH,
            subject,
            f"{product} answers, with {', '.join(lossy)}: what was answered may be lost with the power",
            fix="set them to on in postgresql.conf",
        )
    schema = ok(Check.STORE_SCHEMA, subject, "usable")
    if empty:
        schema = ok(Check.STORE_SCHEMA, subject, "empty: the first start makes the tables")
    elif older:
        schema = warning(
            Check.STORE_SCHEMA,
            subject,
            "of an older version: the next start upgrades it",
            fix="make a backup first: docs/how-to/back-up-and-restore.md",
        )
    write = ok(Check.STORE_WRITE, subject, "a transaction that writes can begin")
    if unwritable is not None:
        write = failed(
            Check.STORE_WRITE,
            subject,
            _after(subject, unwritable),
            fix="end what holds the lock of a file (`fuser FILE`); of a server, use the primary, and a role "
            "that may write",
        )
    return reach, schema, write


def _after(subject: str, reason: str) -> str:
    """``reason`` without the name that it begins with, where that is the subject already."""
    return reason.removeprefix(f"{subject}: ")


def of_same_clock() -> Finding:
    """A file has no clock of its own."""
    subject = "this machine against the store"
    return ok(Check.STORE_CLOCK, subject, "one clock: whoever opens the file is on this machine")


def of_clock(*, before: NumericDate, now: NumericDate, after: NumericDate, skew: Seconds) -> Finding:
    """Whether the store's time ``now``, taken between two readings of ours, proves that a clock is off."""
    offset = max(0, before - now, now - after)
    bound = f"; the answer took less than {after - before + 1} s"
    subject = "this machine against the store"
    if offset > skew:
        side = "ahead of" if before > now else "behind"
        return failed(
            Check.STORE_CLOCK,
            subject,
            f"{spoken(offset)} {side} the store, more than clock_skew = {spoken(skew)}: a node here would "
            "not mint",
            fix="set the clocks of this machine and of the database server: see machine.clock on both",
        )
    if 2 * offset > skew:
        return warning(
            Check.STORE_CLOCK,
            subject,
            f"{spoken(offset)} apart, over half of clock_skew = {spoken(skew)}{bound}",
            fix="set the clocks of this machine and of the database server: see machine.clock on both",
        )
    return ok(Check.STORE_CLOCK, subject, f"{offset} s apart, of {spoken(skew)} allowed{bound}")


def of_timing(stored: StoredTiming | None, timing: Timing, *, live: int) -> Finding:
    """Whether a node with this configuration may start beside the ``live`` ones."""
    subject = "timing settings"
    if stored is None:
        return ok(Check.STORE_TIMING, subject, "none yet: the first node writes its own")
    written = documents(stored)
    differing = [differences(timing, one) for one in written]
    if () in differing:
        changing = ", while it changes: finish that with `mintmark timing finish`" if len(written) > 1 else ""
        return ok(Check.STORE_TIMING, subject, f"as in the store (generation {stored.generation}){changing}")
    found = ", ".join(differing[0])
    if live:
        return failed(
            Check.STORE_TIMING,
            subject,
            f"{found}: a node with these does not start while {live} with others live",
            fix="copy the settings of the others, or change them with `mintmark timing change`",
        )
    return ok(Check.STORE_TIMING, subject, f"{found}; the next node to start writes its own")


def of_unreadable_key(reason: str) -> Finding:
    """``cluster_key`` or ``cluster_key_also`` cannot be read, so no node starts."""
    return failed(
        Check.STORE_ROWS,
        "rows of the ring",
        reason,
        fix="put the secret where `cluster_key` says, readable for the node's user",
    )


def of_rows(view: RingView, *, keyed: bool, replacing: bool, is_file: bool) -> Finding:
    """Who wrote the rows: with a ``cluster_key`` here, with a second one taken too, or with none."""
    subject = "rows of the ring"
    if view.rejected:
        named = ", ".join(f"{row.kind.value} {shown(row.name)}" for row in view.rejected[:3])
        more = f" and {len(view.rejected) - 3} more" if len(view.rejected) > 3 else ""
        return failed(
            Check.STORE_ROWS,
            subject,
            f"{counted(len(view.rejected), 'row')} written without this cluster_key: {named}{more}",
            fix="give all nodes one cluster_key; where they have it, somebody else writes the database: "
            "docs/how-to/protect-the-key-ring.md",
        )
    if view.unchecked:
        return warning(
            Check.STORE_ROWS,
            subject,
            "marked by nodes with a cluster_key, and there is none here to check them by",
            fix="give this node the cluster_key of the others",
        )
    if keyed and replacing:
        return warning(
            Check.STORE_ROWS,
            subject,
            "written with this cluster_key, or with what cluster_key_also takes",
            fix="remove cluster_key_also once every node has the same cluster_key",
        )
    if keyed:
        return ok(Check.STORE_ROWS, subject, "written with this cluster_key")
    if is_file and live_nodes(view) < 2:
        return ok(Check.STORE_ROWS, subject, "one node's, in a file of its own")
    return warning(
        Check.STORE_ROWS,
        subject,
        "no cluster_key: whoever can write the database can add a signing key of his own",
        fix="set `cluster_key` on every node: docs/how-to/protect-the-key-ring.md",
    )


def of_nodes(view: RingView) -> Finding:
    """Who lives by the store's clock, and who died without leaving."""
    live, dead = _split(view)
    found = f"{len(live)} live" + (f" ({_names(live)})" if live else "")
    if dead:
        last = max(dead, key=lambda member: member.seen_at)
        found += f"; {len(dead)} ended without leaving, the last {spoken(view.now - last.seen_at)} ago"
    behind = [member for member in live if member.ring_generation < view.ring.generation]
    if behind:
        found += f"; {len(behind)} on an older ring than {view.ring.generation}"
    return ok(Check.STORE_NODES, "nodes", found)


def of_keys(view: RingView) -> Finding:
    """Whether somebody signs, where somebody lives."""
    live = _split(view)[0]
    active = [key for key in view.ring.keys if key.state is KeyState.ACTIVE and _has(live, key)]
    signing = [key for key in active if key.lease_until > view.now]
    subject = "signing keys"
    if signing:
        least = min(key.lease_until for key in signing) - view.now
        found = f"{len(signing)} active, the next lease ends in {spoken(least)}"
        without = sum(not any(can_sign(member, key) for key in signing) for member in live)
        if without:
            found += f"; {counted(without, 'live node')} without one, for which others sign or which wait"
        return ok(Check.STORE_KEYS, subject, found)
    if live:
        ended = " (their leases have ended)" if active else ""
        return failed(
            Check.STORE_KEYS,
            subject,
            f"no live node has a key that may sign{ended}: nobody gets a token",
            fix="a start takes seconds; after that see the nodes' logs for proof.failed and store.failed",
        )
    kept = len(view.ring.published())
    found = f"none signs, as no node is live; {kept} stay public for the tokens that they signed"
    return ok(Check.STORE_KEYS, subject, found if kept else "none: a node makes one when it starts")


def of_rotation(view: RingView, timing: Timing) -> Finding:
    """Whether a successor is late, and why that may be."""
    now, live = view.now, _split(view)[0]
    keys = [key for key in view.ring.keys if _has(live, key)]
    active = [key for key in keys if key.state is KeyState.ACTIVE and key.sign_until is not None]
    # One that resigned is on its way out, and has no successor.
    overdue = [key for key in active if (key.sign_until or now) < now and not key.is_resigned()]
    patience = timing.jwks_max_age + timing.propagation + LIVE_FOR
    unproven = [
        key
        for key in keys
        if key.state is KeyState.PREPARED and key.proven_at is None and now - key.prepared_at > patience
    ]
    subject = "rotation"
    fix = "see publication.keys for each URL, and the nodes' logs for proof.failed"
    if overdue:
        late = spoken(now - min(key.sign_until or now for key in overdue))
        return warning(
            Check.STORE_ROTATION,
            subject,
            f"overdue by {late}: {_kids(overdue)} signs on, as its successor was not proven",
            fix=fix,
        )
    if unproven:
        oldest = spoken(now - min(key.prepared_at for key in unproven))
        return warning(
            Check.STORE_ROTATION,
            subject,
            f"{_kids(unproven)} is prepared for {oldest} and was not yet read back through every URL",
            fix=fix,
        )
    if not active:
        return ok(Check.STORE_ROTATION, subject, "no key signs now")
    due = min(key.sign_until or now for key in active) - now
    return ok(Check.STORE_ROTATION, subject, f"nothing is late; the next key is to follow in {spoken(due)}")


def of_jwks(view: RingView, timing: Timing) -> Finding:
    """How full the key set is."""
    count = len(view.ring.published())
    subject, found = "key set", f"{counted(count, 'public key')}, of {timing.jwks_limit} (jwks_limit)"
    if count >= timing.jwks_limit:
        return failed(
            Check.STORE_JWKS,
            subject,
            f"{found}: no further key is prepared until one has left",
            fix="raise `jwks_limit` on every node, or let fewer sign (`signers`)",
        )
    if count >= CROWDED_JWKS:
        return warning(
            Check.STORE_JWKS,
            subject,
            f"{found}: some gateways refuse sets of {CROWDED_JWKS} keys or more",
            fix="let fewer nodes sign (`signers`), unless all your gateways take more",
        )
    return ok(Check.STORE_JWKS, subject, found)


def live_nodes(view: RingView) -> int:
    """How many nodes live by the store's clock."""
    return len(_split(view)[0])


def _has(live: list[Member], key: Key) -> bool:
    return any(can_sign(member, key) for member in live)


def _split(view: RingView) -> tuple[list[Member], list[Member]]:
    live = [member for member in view.members if member.is_live(view.now)]
    return live, [member for member in view.members if member not in live]


def _names(members: list[Member]) -> str:
    named = ", ".join(member.node[:_NODE_SHOWN] for member in members[:5])
    return named + (" …" if len(members) > 5 else "")


def _kids(keys: list[Key]) -> str:
    return ", ".join(key.kid for key in keys[:2]) + (f" and {len(keys) - 2} more" if len(keys) > 2 else "")
