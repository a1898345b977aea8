"""Ten thousand refreshes race a logout, a new password or a disabled user on SQLite: none survives (R5)."""

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest
from tests.registry import store_rig

from mintmark.core.directory import User
from mintmark.core.log import denied_until
from mintmark.core.sessions import EndCause, Redeem, Session
from mintmark.ports.revocations import CursorGone
from mintmark.ports.store import Store
from mintmark.testing.conformance.rig import ISSUER, TIMING, Rig
from mintmark.units import NumericDate, Rid, Sub

WAVES = 100
USERS = 20
"""Few, since what is asked at once waits in one line, and no longer than a store may take."""
OF_USER = 5
"""Sessions of each user, in a wave. They end one by one, or all with a new password or with their user."""
ROUNDS = WAVES * USERS * OF_USER


async def _refresh(store: Store, session: Session) -> NumericDate | None:
    """The ``exp`` of the token that was answered, if one was."""
    last_exp = NumericDate(session.last_exp + 100)
    after = replace(session, version=1, generation=1, last_exp=last_exp)
    change = Redeem(before=session, after=after, token=None, rotated=True)  # type: ignore[arg-type]
    return last_exp if await store.sessions.redeem(change) else None


async def _logout(store: Store, session: Session) -> None:
    assert await store.sessions.end(ISSUER, session.rid, cause=EndCause.LOGOUT, timing=TIMING)


async def _new_password(store: Store, user: User) -> None:
    assert await store.directory.set_password(ISSUER, user.sub, "$argon2id$new", timing=TIMING) == OF_USER


async def _disable(store: Store, user: User) -> None:
    assert await store.directory.disable_user(ISSUER, user.sub, timing=TIMING) == OF_USER


async def _wave(
    name: str, stores: list[Store], user: User, template: Session, order: random.Random
) -> dict[Rid, NumericDate | None]:
    """For each session the ``exp`` that its refresh was answered with, or None where its end came first."""
    users = [replace(user, sub=Sub(f"usr_{name}_{n}"), username=f"{name}_{n}") for n in range(USERS)]
    await asyncio.gather(*(stores[0].directory.add_user(each) for each in users))
    sessions = [
        replace(template, rid=Rid(f"{each.username}_{n}"), sub=each.sub)
        for each in users
        for n in range(OF_USER)
    ]
    owners = {each.sub: each for each in users}
    begun = [stores[0].sessions.start(session, user=owners[session.sub]) for session in sessions]
    assert all(await asyncio.gather(*begun))
    answers: dict[Rid, NumericDate | None] = {}

    async def refresh(session: Session) -> None:
        answers[session.rid] = await _refresh(order.choice(stores), session)

    racing: list[Any] = [refresh(session) for session in sessions]
    if name.startswith("p"):
        racing += [_new_password(order.choice(stores), each) for each in users]
    elif name.startswith("d"):
        racing += [_disable(order.choice(stores), each) for each in users]
    else:
        racing += [_logout(order.choice(stores), session) for session in sessions]
    order.shuffle(racing)
    await asyncio.gather(*racing)
    return answers


async def _denied(rig: Rig) -> dict[str, int]:
    """Until when the log denies each session; every entry once, and without gaps."""
    found: dict[str, int] = {}
    seq, cursor = 0, None
    while True:
        page = await rig.store.revocations.read(ISSUER, cursor, limit=1_000)
        assert not isinstance(page, CursorGone)
        for entry in page.entries:
            seq += 1
            assert entry.cursor.seq == seq
            assert entry.event.value not in found
            found[entry.event.value] = entry.event.expires_at
        if page.complete:
            return found
        cursor = page.cursor


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_ten_thousand_refreshes_race_the_end_of_their_sessions(tmp_path, request):
    """R5, I6, F29: no session survives, and whatever was answered is denied while it could be used."""
    order = random.Random(7)
    async with store_rig("sqlite", tmp_path, request.getfixturevalue) as rig:
        user, client = await rig.someone()
        template, _ = await rig.logged_in(user, client)
        stores = [rig.store, await rig.peer()]
        answers: dict[Rid, NumericDate | None] = {}
        for wave in range(WAVES):
            name = f"{'lpd'[wave % 3]}{wave}"
            answers |= await _wave(name, stores, user, template, order)
        assert len(answers) == ROUNDS
        assert [session.rid for session in await rig.store.sessions.list(ISSUER)] == [template.rid]
        covered = {rid: denied_until(exp or template.last_exp, TIMING) for rid, exp in answers.items()}
        assert await _denied(rig) == covered
    # Were all refreshes first, or none of them, this would race nothing.
    assert 0 < sum(exp is not None for exp in answers.values()) < ROUNDS
