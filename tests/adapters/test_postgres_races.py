"""Ten thousand refreshes race a logout, a new password or a disabled user on PostgreSQL: none survives (R5).

Hundreds are in flight at once, through two stores. A refresh that was answered is covered by the event of
its session, and one that comes later is not answered at all.
"""

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest
from tests.adapters.postgres import opened, raw

from mintmark.core.directory import User
from mintmark.core.log import denied_until
from mintmark.core.sessions import EndCause, Redeem, Session
from mintmark.ports.store import Store
from mintmark.testing.conformance.rig import ISSUER, TIMING
from mintmark.units import NumericDate, Rid, Sub

WAVES = 40
USERS = 50
OF_USER = 5
"""Sessions of each user, in a wave. They end one by one, or all with a new password or with their user."""
ROUNDS = WAVES * USERS * OF_USER

NEW_USERS = """
INSERT INTO users SELECT (jsonb_populate_record(u, jsonb_build_object(
    'sub', 'usr_' || $2 || '_' || n, 'username', $2 || '_' || n))).*
FROM users u, generate_series(1, $1::int) AS n WHERE u.username = 'alice'
"""
NEW_SESSIONS = """
INSERT INTO sessions SELECT (jsonb_populate_record(s, jsonb_build_object(
    'sub', u.sub, 'rid', u.username || '_' || n))).*
FROM sessions s, users u, generate_series(1, $1::int) AS n
WHERE s.sub = 'usr_alice' AND u.username LIKE $2 || '\\_%'
RETURNING rid, sub
"""
ALIVE = "SELECT count(*) FROM sessions WHERE ended_at IS NULL"
REFRESHED = "SELECT count(*) FROM sessions WHERE version = 2 AND generation = 1 AND last_exp = $1"
UNCOVERED = """
SELECT count(*) FROM sessions s WHERE NOT EXISTS (
    SELECT FROM log_entries e WHERE e.issuer = s.issuer AND e.value = s.rid AND e.expires_at = s.last_exp + $1
)
"""
LOG = "SELECT count(*), count(DISTINCT value), min(seq), max(seq) FROM log_entries"


async def _refresh(store: Store, session: Session) -> bool:
    last_exp = NumericDate(session.last_exp + 100)
    after = replace(session, version=1, generation=1, last_exp=last_exp)
    return await store.sessions.redeem(Redeem(before=session, after=after, token=None, rotated=True))  # type: ignore[arg-type]


async def _logout(store: Store, session: Session) -> None:
    assert await store.sessions.end(ISSUER, session.rid, cause=EndCause.LOGOUT, timing=TIMING)


async def _new_password(store: Store, user: Sub) -> None:
    assert await store.directory.set_password(ISSUER, user, "$argon2id$new", timing=TIMING) == OF_USER


async def _disable(store: Store, user: Sub) -> None:
    assert await store.directory.disable_user(ISSUER, user, timing=TIMING) == OF_USER


async def _wave(name: str, stores: list[Store], template: Session, other: Any, order: random.Random) -> int:
    """How many refreshes were answered of those that raced the end of their sessions."""
    await other.execute(NEW_USERS, USERS, name)
    rows = await other.fetch(NEW_SESSIONS, OF_USER, name)
    sessions = [replace(template, rid=Rid(row["rid"]), sub=Sub(row["sub"])) for row in rows]
    refreshing = [_refresh(order.choice(stores), session) for session in sessions]
    subs = {session.sub for session in sessions}
    if name.startswith("p"):
        ending = [_new_password(order.choice(stores), sub) for sub in subs]
    elif name.startswith("d"):
        ending = [_disable(order.choice(stores), sub) for sub in subs]
    else:
        ending = [_logout(order.choice(stores), session) for session in sessions]
    racing: list[Any] = [*refreshing, *ending]
    order.shuffle(racing)
    return (await asyncio.gather(*racing)).count(True)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_ten_thousand_refreshes_race_the_end_of_their_sessions(database):
    """R5, I6, F29: no session survives, and whatever was answered is denied while it could be used."""
    order = random.Random(7)
    async with opened(database) as rig, opened(database) as peer, raw(database) as other:
        user: User
        user, client = await rig.someone()
        template, _ = await rig.logged_in(user, client)
        stores = [rig.store, peer.store]
        answered = 0
        for wave in range(WAVES):
            name = f"{'lpd'[wave % 3]}{wave}"
            answered += await _wave(name, stores, template, other, order)
        await _logout(rig.store, template)
        assert await other.fetchval(ALIVE) == 0
        assert await other.fetchval(REFRESHED, template.last_exp + 100) == answered
        assert await other.fetchval(UNCOVERED, denied_until(NumericDate(0), TIMING)) == 0
        assert tuple(await other.fetchrow(LOG)) == (ROUNDS + 1, ROUNDS + 1, 1, ROUNDS + 1)
    # Were all refreshes first, or none of them, this would race nothing.
    assert 0 < answered < ROUNDS
