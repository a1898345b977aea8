"""Refreshes that race a logout, a new password, a disabled user or a removed client: nothing survives.

Each round lets several clients redeem through two stores while the session is ended through one of them, at
another moment each time. Afterwards the session is over, whatever was answered is covered by its event, and
no token redeems anything.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.registry import STORES, store_rig

from mintmark.core.log import denied_until
from mintmark.core.sessions import EndCause, Redeem, RefreshToken, Refusal, Session, Verdict
from mintmark.ports.store import Store
from mintmark.testing.conformance.rig import ISSUER, TIMING, Rig, read_log, redeem

ROUNDS = 100
End = Callable[[Store, Session], Awaitable[object]]


@pytest.fixture(params=STORES)
async def rig(request, tmp_path) -> AsyncIterator[Rig]:
    async with store_rig(request.param, tmp_path, request.getfixturevalue) as rig:
        yield rig


def logout(store: Store, session: Session) -> Awaitable[object]:
    return store.sessions.end(ISSUER, session.rid, cause=EndCause.LOGOUT, timing=TIMING)


def logout_everywhere(store: Store, session: Session) -> Awaitable[object]:
    return store.sessions.end_all(ISSUER, session.sub, cause=EndCause.LOGOUT, timing=TIMING)


def new_password(store: Store, session: Session) -> Awaitable[object]:
    return store.directory.set_password(ISSUER, session.sub, "$argon2id$new", timing=TIMING)


def disable(store: Store, session: Session) -> Awaitable[object]:
    return store.directory.disable_user(ISSUER, session.sub, timing=TIMING)


def remove_client(store: Store, session: Session) -> Awaitable[object]:
    return store.directory.remove_client(ISSUER, session.client_id, timing=TIMING)


async def race(
    stores: list[Store], session: Session, token: RefreshToken, end: End, *, refreshes: int, lead: int
) -> list[Verdict]:
    """What ``refreshes`` redemptions come to, with the end asked for once ``lead`` of them are answered.

    A negative ``lead`` lets the end go first by that many turns of the event loop.
    """
    answered = asyncio.Semaphore(0)

    async def refresh(store: Store) -> Verdict:
        for _ in range(-lead):
            await asyncio.sleep(0)
        verdict = await redeem(store, session, token)
        answered.release()
        return verdict

    async def ending() -> None:
        for _ in range(lead):
            await answered.acquire()
        await end(stores[1], session)

    both = asyncio.gather(*(refresh(stores[n % 2]) for n in range(refreshes)))
    await asyncio.gather(both, ending())
    return both.result()


async def check_over(rig: Rig, session: Session, answers: list[Verdict]) -> None:
    """The session is over and denied for longer than any token that was answered."""
    row = (await rig.store.sessions.read(ISSUER, session.rid)).session
    assert row is not None
    assert row.ended_at is not None
    # With a client goes all that it was ever given, by one event of its own.
    names = {session.rid, session.client_id}
    (event,) = [e.event for e in await read_log(rig.store) if e.event.value in names]
    for answer in answers:
        assert isinstance(answer, Redeem) or answer is Refusal.ENDED
        if isinstance(answer, Redeem):
            assert event.expires_at >= denied_until(answer.after.last_exp, TIMING)
            again = await redeem(rig.store, session, answer.token)
            assert again is Refusal.ENDED


@pytest.mark.parametrize("end", [logout, logout_everywhere, new_password, disable, remove_client])
async def test_no_refresh_in_flight_survives(rig, end):
    """R5, I6, F29: in a hundred rounds, from before the first refresh to after the last, nobody survives."""
    stores = [rig.store, await rig.peer()]
    answered = 0
    for number in range(ROUNDS):
        user, client = await rig.added_user(f"user-{number}"), await rig.added_client(f"client-{number}")
        session, token = await rig.logged_in(user, client)
        verdicts = await race(stores, session, token, end, refreshes=4, lead=number % 25 - 20)
        await check_over(rig, session, verdicts)
        answered += sum(isinstance(verdict, Redeem) for verdict in verdicts)
        rig.clock.advance(TIMING.access_ttl + 400)
        await rig.store.revocations.prune(ISSUER)
    # Where the end comes last all are answered; were it so in each round, this would race nothing.
    assert 0 < answered < 4 * ROUNDS


@pytest.mark.parametrize("lead", [-8, -2, 0, 1, 3, 10, 30, 60, 99])
async def test_logout_against_a_hundred_refreshes(rig, lead):
    """R5, I6, F27: those answered before the logout are denied with all the others."""
    session, token = await rig.logged_in(*await rig.someone())
    stores = [rig.store, await rig.peer()]
    verdicts = await race(stores, session, token, logout, refreshes=100, lead=lead)
    await check_over(rig, session, verdicts)
    assert len({v.token.text() for v in verdicts if isinstance(v, Redeem)}) <= 1


async def test_theft_is_told_once(rig):
    """R2 iv, I5, F28: of twenty who present a spent token at once one ends the session, with one event."""
    stores = [rig.store, await rig.peer()]
    session, spent = await rig.logged_in(*await rig.someone())
    token = spent
    for _ in range(3):
        rig.clock.advance(TIMING.refresh_grace)
        answer = await redeem(rig.store, session, token)
        assert isinstance(answer, Redeem)
        token = answer.token

    async def present(store: Store) -> bool:
        verdict = await redeem(store, session, spent)
        if verdict is Refusal.ENDED:
            return False
        assert not isinstance(verdict, Redeem | Refusal)
        return await store.sessions.end(ISSUER, session.rid, cause=EndCause.THEFT, timing=TIMING)

    ended = await asyncio.gather(*(present(stores[n % 2]) for n in range(20)))
    assert ended.count(True) == 1
    assert [(e.event.value, e.cause) for e in await read_log(rig.store)] == [(session.rid, "theft")]
    assert await redeem(rig.store, session, token) is Refusal.ENDED
