"""R1 to R7 and the replays of F28 over HTTP: two nodes on each store, and what each is asked in turn.

The tests of one store share its nodes: each has a user, a client and sessions of its own, and counts what it
saw from its own beginning.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import pytest
from tests.dump import dump, put_back
from tests.http.pair import (
    FORM,
    GRACE,
    JSON,
    OK,
    REFUSED,
    RETRY,
    TIMING,
    Pair,
    Someone,
    claims_of,
    outcome,
    pair_on,
    refresh,
    refreshed,
)
from tests.http.surface import PASSWORD, SECRET, Surface
from tests.postgresql import empty_database
from tests.registry import STORES, store_rig

from mintmark.core import sessions
from mintmark.core.directory import LOCKED_FOR_GOOD
from mintmark.core.events import EventName
from mintmark.units import NumericDate


@pytest.fixture(scope="module", params=STORES)
async def pair(request, tmp_path_factory) -> AsyncIterator[Pair]:
    """Two nodes on one store for all tests of this module."""
    with contextlib.ExitStack() as ending:

        def fixture(name: str) -> Any:
            server = request.getfixturevalue("postgresql")
            return ending.enter_context(empty_database(server)) if name == "database" else server

        async with (
            store_rig(request.param, tmp_path_factory.mktemp("refresh"), fixture) as rig,
            pair_on(rig) as made,
        ):
            yield made


@pytest.fixture
async def town(pair) -> AsyncIterator[Pair]:
    """The two nodes, whose stores have no faults when the test ends."""
    yield pair
    pair.faults.recover()


# --- R1, R2: one successor, and its repeats ----------------------------------------------------------------


async def test_grace_answers_are_the_same_bytes_from_any_node(town: Pair):
    """R2 i, ii, RF7, I4: whichever node made the successor, at whichever path, parent and newest get it."""
    me = await town.someone()
    first = me.refresh_token
    second = await refreshed(town.one, me, first)
    answers = [
        await refreshed(node, me, token, form=form)
        for node in town.nodes
        for form in (FORM, JSON)
        for token in (first, second)
    ]
    await town.pass_time(GRACE - 1)
    answers += [await refreshed(node, me, token) for node in town.nodes for token in (first, second)]
    assert set(answers) == {second}


async def test_access_tokens_of_repeated_answers_are_new(town: Pair):
    """R2 ii, R5: each has a ``jti`` of its own and the same ``rid``; the row covers the latest of them."""
    me = await town.someone()
    answers = [(await refresh(node, me, me.refresh_token)).json() for node in town.nodes * 3]
    claims = [claims_of(answer["access_token"]) for answer in answers]
    assert len({one["jti"] for one in claims}) == len(claims)
    assert {one["rid"] for one in claims} == {me.rid}
    assert (await town.row(me)).last_exp >= max(one["exp"] for one in claims)


async def test_sixty_redemptions_at_two_nodes_have_one_successor(town: Pair):
    """R1, RF1, F27, I4: all are answered, each generation has one text, nobody is taken for a thief."""
    me, before = await town.someone(), town.counted(EventName.SESSION_STOLEN)
    token = me.refresh_token
    for generation in (1, 2, 3):
        asked = [refresh(town.nodes[n % 2], me, token, form=(FORM, JSON)[n % 3 == 0]) for n in range(20)]
        answers = await asyncio.gather(*asked)
        assert Counter(map(outcome, answers)) == {OK: 20}
        [token] = {answer.json()["refresh_token"] for answer in answers}
        assert (await town.row(me)).generation == generation
        await town.pass_time(GRACE)
    assert town.counted(EventName.SESSION_STOLEN) == before


async def test_two_tabs_keep_one_session(town: Pair):
    """F26: two tabs with one storage refresh at both nodes, one some turns of the loop behind the other."""
    me, before = await town.someone(), town.counted(EventName.SESSION_STOLEN)
    token, outcomes = me.refresh_token, Counter[tuple[int, str | None]]()
    for lead in range(0, 40, 2):

        async def late(token: str, turns: int) -> httpx2.Response:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await refresh(town.other, me, token)

        tabs = await asyncio.gather(refresh(town.one, me, token), late(token, lead))
        outcomes.update(map(outcome, tabs))
        [token] = {answer.json()["refresh_token"] for answer in tabs}
        await town.pass_time(GRACE)
    assert outcomes == {OK: 40}
    assert town.counted(EventName.SESSION_STOLEN) == before


async def test_lost_answers_log_nobody_out_for_a_day(town: Pair):
    """R2 iii: the parent gets replacements, from any node, until ``refresh_retry`` is over, and no later."""
    me = await town.someone()
    first = me.refresh_token
    lost = [await refreshed(town.one, me, first)]
    for _ in range(3):
        await town.pass_time((RETRY - 2) // 3)
        lost.append(await refreshed(town.other, me, first))
    assert len(set(lost)) == 4
    await town.pass_time(GRACE)
    newest = await refreshed(town.one, me, lost[-1])
    assert newest not in lost
    await town.pass_time(GRACE)
    assert outcome(await refresh(town.other, me, first)) == REFUSED
    await town.check_stolen(me, newest, *lost)


# --- R2 iv, F28: replays -----------------------------------------------------------------------------------


async def line(town: Pair, length: int) -> tuple[Someone, list[str]]:
    """Somebody's tokens, the oldest first; each but the last was presented, and every grace is over."""
    me = await town.someone()
    tokens = [me.refresh_token]
    for number in range(length):
        tokens.append(await refreshed(town.nodes[number % 2], me, tokens[-1]))
        await town.pass_time(GRACE)
    return me, tokens


@pytest.mark.parametrize("age", [2, 3, 4])
async def test_spent_token_ends_the_family_everywhere(town: Pair, age: int):
    """I5, RF2, F28: two, three, four generations old: both nodes refuse every token, and it is told once."""
    me, tokens = await line(town, 4)
    before = town.counted(EventName.SESSION_STOLEN)
    assert outcome(await refresh(town.other, me, tokens[-1 - age])) == REFUSED
    await town.check_stolen(me, *tokens)
    assert town.counted(EventName.SESSION_STOLEN) == before + 1


async def test_thief_who_is_slower_than_the_victim_ends_the_family(town: Pair):
    """F28: the victim has used the successor already, so whoever brings its parent has not lost an answer."""
    me, tokens = await line(town, 1)
    newest = await refreshed(town.one, me, tokens[1])
    assert outcome(await refresh(town.other, me, tokens[0])) == REFUSED
    await town.check_stolen(me, *tokens, newest)


async def test_thief_who_is_faster_than_the_victim_is_found_when_he_goes_on(town: Pair):
    """F28: the victim comes later and gets a replacement; the thief's next refresh ends the session."""
    me = await town.someone()
    thiefs = await refreshed(town.other, me, me.refresh_token)
    await town.pass_time(GRACE)
    victims = await refreshed(town.one, me, me.refresh_token)
    assert victims != thiefs
    assert outcome(await refresh(town.other, me, thiefs)) == REFUSED
    await town.check_stolen(me, victims, thiefs, me.refresh_token)


async def test_spent_token_is_theft_in_the_second_of_its_successors_rotation(town: Pair):
    """F28: generations are compared and not times: within the grace of the newest a grandparent is theft."""
    me, tokens = await line(town, 1)
    third = await refreshed(town.one, me, tokens[1])
    row = await town.row(me)
    assert row.rotated_at == town.rig.clock.now()
    assert outcome(await refresh(town.other, me, tokens[0])) == REFUSED
    await town.check_stolen(me, *tokens, third)


async def test_thief_in_the_same_second_has_what_the_victim_has(town: Pair):
    """F28, R2: both get one token, and are not told apart until one has gone on and the other comes back."""
    me = await town.someone()
    both = await asyncio.gather(*(refresh(node, me, me.refresh_token) for node in town.nodes))
    [shared] = {answer.json()["refresh_token"] for answer in both}
    assert await town.ends(me) == []
    await town.pass_time(GRACE)
    next_one = await refreshed(town.one, me, shared)
    await town.pass_time(GRACE)
    newest = await refreshed(town.one, me, next_one)
    assert outcome(await refresh(town.other, me, shared)) == REFUSED
    await town.check_stolen(me, me.refresh_token, shared, next_one, newest)


async def test_spent_token_is_known_to_nodes_that_never_saw_it(town: Pair):
    """F28, I5: two other nodes start on the store; what was spent is in it, and no node has to remember."""
    me, tokens = await line(town, 3)
    async with pair_on(town.rig, beside=town.one) as fresh:
        assert outcome(await refresh(fresh.one, me, tokens[0])) == REFUSED
        await fresh.check_stolen(me, *tokens)


async def test_theft_that_many_report_is_one_event(town: Pair):
    """R2 iv: of twenty that bring a spent token to both nodes one ends the session; the newest is refused."""
    me, tokens = await line(town, 3)
    told = EventName.SESSION_STOLEN, EventName.SESSION_ENDED
    before = [town.counted(name) for name in told]
    answers = await asyncio.gather(*(refresh(town.nodes[n % 2], me, tokens[0]) for n in range(20)))
    assert Counter(map(outcome, answers)) == {REFUSED: 20}
    await town.check_stolen(me, *tokens)
    assert [town.counted(name) for name in told] == [count + 1 for count in before]


# --- R3: forgeries -----------------------------------------------------------------------------------------


def forgeries(genuine: list[str], stranger: str) -> list[str]:
    """Tokens with the ``rid`` of ``genuine`` that its session did not make."""
    parsed = [token for text in genuine if (token := sessions.parse(text)) is not None]
    newest, theirs = parsed[-1], sessions.parse(stranger)
    assert theirs is not None
    made = [sessions.RefreshToken(newest.rid, number, newest.signature) for number in (0, 3, 2**32 - 1)]
    made += [
        sessions.RefreshToken(newest.rid, newest.generation, other) for other in (bytes(64), b"\xff" * 64)
    ]
    made += [sessions.RefreshToken(newest.rid, theirs.generation, theirs.signature)]
    for one in parsed:
        changed = one.signature[:-1] + bytes([one.signature[-1] ^ 1])
        made.append(sessions.RefreshToken(one.rid, one.generation, changed))
    assert not set(made) & set(parsed)
    return [token.text() for token in made]


async def test_forged_tokens_change_no_byte(town: Pair):
    """R3: what carries a right ``rid`` and is not genuine is refused, and the store holds what it held."""
    me, tokens = await line(town, 2)
    _, others = await line(town, 1)
    kept = await dump(town.rig.store)
    for node in town.nodes:
        for token in forgeries(tokens, others[-1]):
            assert outcome(await refresh(node, me, token)) == REFUSED
            assert outcome(await refresh(node, me, token, form=JSON)) == REFUSED
            left = await node.http.request("DELETE", "/v1/sessions/current", json={"refresh_token": token})
            assert left.status_code == 401
    assert await dump(town.rig.store) == kept
    assert outcome(await refresh(town.other, me, tokens[-1])) == OK


# --- R5: nothing in flight survives ------------------------------------------------------------------------

End = Callable[[Pair, Someone], Awaitable[object]]


async def log_out(town: Pair, who: Someone) -> None:
    assert (await town.other.log_out(who.access_token)).status_code == 204


def disable(town: Pair, who: Someone) -> Awaitable[object]:
    return town.other.store.directory.disable_user(town.one.issuer, who.sub, timing=TIMING)


def new_password(town: Pair, who: Someone) -> Awaitable[object]:
    return town.other.store.directory.set_password(town.one.issuer, who.sub, "$argon2id$x", timing=TIMING)


def remove_client(town: Pair, who: Someone) -> Awaitable[object]:
    return town.other.store.directory.remove_client(town.one.issuer, who.client_id, timing=TIMING)


each_end = pytest.mark.parametrize("end", [log_out, disable, new_password, remove_client])


@each_end
async def test_refresh_that_was_decided_before_the_end_mints_nothing(town: Pair, end: End):
    """R5, I6, F29: read and decided at one node, ended at the other, then asked of the store: refused."""
    me = await town.someone()
    gate = town.faults.hold_before("sessions.redeem")
    racing = asyncio.ensure_future(refresh(town.one, me, me.refresh_token))
    await gate.reached()
    await end(town, me)
    gate.open()
    assert outcome(await racing) == REFUSED
    assert len(await town.ends(me)) == 1


@each_end
async def test_refresh_that_was_committed_before_the_end_is_denied(town: Pair, end: End):
    """R5, I6: committed at one node, ended at the other, then signed: its event outlasts its access token,
    and its refresh token is refused."""
    me = await town.someone()
    gate = town.faults.hold_after("sessions.redeem")
    racing = asyncio.ensure_future(refresh(town.one, me, me.refresh_token))
    await gate.reached()
    await end(town, me)
    gate.open()
    given = (await racing).json()
    [end_of_it] = await town.ends(me)
    claims = claims_of(given["access_token"])
    assert end_of_it.event.expires_at >= claims["exp"] + 300 + TIMING.clock_skew
    assert claims["iat"] <= (end_of_it.event.not_before or claims["iat"])
    again = await refresh(town.other, me, given["refresh_token"])
    assert again.status_code == (401 if end is remove_client else 400)


# --- R6: lifetimes, scope, client --------------------------------------------------------------------------


async def test_session_that_is_not_used_ends(town: Pair):
    """R6, RF4: refused at the very second; each refresh moves that second."""
    used, unused = await town.someone(), await town.someone()
    await town.pass_time(TIMING.session_idle - 1)
    token = await refreshed(town.other, used, used.refresh_token)
    await town.pass_time(1)
    await town.check_refused(unused, unused.refresh_token)
    await town.pass_time(TIMING.session_idle - 2)
    assert await refreshed(town.one, used, token) != token
    assert await town.ends(unused) == []


async def test_session_ends_however_much_it_is_used(town: Pair):
    """R6, RF3: its last access token ends with it, and at that second its newest token is refused."""
    me = await town.someone()
    token, ends_at = me.refresh_token, town.rig.clock.now() + TIMING.session_ttl
    step = TIMING.session_idle - 1
    while town.rig.clock.now() + step < ends_at:
        await town.pass_time(step)
        token = await refreshed(town.one, me, token)
    await town.pass_time(ends_at - town.rig.clock.now() - 1)
    last = (await refresh(town.other, me, token)).json()
    assert claims_of(last["access_token"])["exp"] <= ends_at
    await town.pass_time(1)
    await town.check_refused(me, token, last["refresh_token"])


async def test_session_keeps_what_its_log_in_settled(town: Pair):
    """R6, RF5, RF6: no more scope, no other audience, no other client; and asking for it changes nothing."""
    me = await town.someone(scope="orders:read")
    kept = await dump(town.rig.store)

    async def error(node: Surface, **more: str) -> str | None:
        return outcome(await refresh(node, me, me.refresh_token, **more))[1]

    for node in town.nodes:
        assert await error(node, scope="orders:write") == "invalid_scope"
        assert await error(node, resource="https://stock.example.com") == "invalid_target"
        assert await error(node, client_id="spa") == "invalid_grant"
        assert await error(node, client_id="stock", client_secret=SECRET) == "invalid_grant"
    assert await dump(town.rig.store) == kept
    answer = (await refresh(town.other, me, me.refresh_token)).json()
    assert claims_of(answer["access_token"])["scope"] == "orders:read"


async def test_user_who_is_locked_gets_nothing_while_it_lasts(town: Pair):
    """RF8, PW12: no refresh and no log-in, at either node, to the last second; nothing ends, no row changes,
    and the token that was refused goes on afterwards. A log-in is answered as with a wrong password."""
    me = await town.someone()
    directory, now = town.rig.store.directory, town.rig.clock.now()
    body = {"username": me.username, "password": PASSWORD, "client_id": me.client_id}
    await directory.lock_user(town.one.issuer, me.sub, NumericDate(now + 60))
    kept = await dump(town.rig.store)
    for span in (0, 59):
        await town.pass_time(span)
        await town.check_refused(me, me.refresh_token)
        for node in town.nodes:
            wrong = await node.http.post("/v1/sessions", json=body | {"password": "x"})
            locked = await node.http.post("/v1/sessions", json=body)
            assert (locked.status_code, locked.content) == (401, wrong.content)
            assert sorted(locked.headers.items()) == sorted(wrong.headers.items())
    assert await dump(town.rig.store) == kept
    await town.pass_time(1)
    assert await refreshed(town.one, me, me.refresh_token) != me.refresh_token
    assert (await town.other.http.post("/v1/sessions", json=body)).status_code == 201
    await directory.lock_user(town.one.issuer, me.sub, LOCKED_FOR_GOOD)
    await town.check_refused(me, me.refresh_token)
    await directory.lock_user(town.one.issuer, me.sub, None)
    assert outcome(await refresh(town.other, me, me.refresh_token)) == OK
    assert await town.ends(me) == []


async def test_lock_that_comes_during_a_log_in_or_a_refresh_keeps_it_from_the_store(town: Pair):
    """PW12: locked after the password was compared, no session begins; a refresh that has read nothing yet is
    refused."""
    me = await town.someone()
    directory, later = town.rig.store.directory, NumericDate(town.rig.clock.now() + 60)
    body = {"username": me.username, "password": PASSWORD, "client_id": me.client_id}
    for name, asked in (
        ("sessions.start", lambda: town.one.http.post("/v1/sessions", json=body)),
        ("sessions.read", lambda: refresh(town.one, me, me.refresh_token)),
    ):
        gate = town.faults.hold_before(name)
        racing = asyncio.ensure_future(asked())
        await gate.reached()
        await directory.lock_user(town.one.issuer, me.sub, later)
        town.faults.recover()
        answer = await racing
        assert outcome(answer) in (REFUSED, (401, "invalid_credentials"))
        await directory.lock_user(town.one.issuer, me.sub, None)
    assert [s.rid for s in await town.rig.store.sessions.list(town.one.issuer, sub=me.sub)] == [me.rid]


# --- a client that does without rotation -------------------------------------------------------------------


async def test_client_that_does_without_rotation_keeps_its_token(town: Pair):
    """RF1, FAPI 2.0 s.5.3.2.1: at any age, from either node, the answer has the token that was presented;
    without the client's secret it is worth nothing, and a logout ends it."""
    me = await town.someone(secret=SECRET, rotates_refresh=False)
    before = town.counted(EventName.SESSION_STOLEN)
    for number, span in enumerate((0, 1, GRACE, RETRY, TIMING.session_idle - 1)):
        await town.pass_time(span)
        again = await refreshed(town.nodes[number % 2], me, me.refresh_token, client_secret=SECRET)
        assert again == me.refresh_token
    assert (await town.row(me)).generation == 0
    thief = await refresh(town.other, me, me.refresh_token, client_secret="his")
    assert outcome(thief) == (401, "invalid_client")
    assert town.counted(EventName.SESSION_STOLEN) == before
    left = {"refresh_token": me.refresh_token}
    assert (await town.one.http.request("DELETE", "/v1/sessions/current", json=left)).status_code == 204
    assert outcome(await refresh(town.other, me, me.refresh_token, client_secret=SECRET)) == REFUSED


async def test_public_client_rotates_whatever_its_row_says(town: Pair):
    """RF1: without a secret beside it, a token that stays the same would be its thief's until the end."""
    me = await town.someone(rotates_refresh=False)
    assert await refreshed(town.one, me, me.refresh_token) != me.refresh_token


# --- R7: a store that went back ----------------------------------------------------------------------------


async def test_store_that_went_back_is_an_alarm_and_no_theft(town: Pair):
    """R7, F38: a newer token is refused, with an alarm each time, and the older one goes on where it was."""
    me = await town.someone()
    told = EventName.STORE_WENT_BACK, EventName.SESSION_STOLEN
    before = [town.counted(name) for name in told]
    backup = await dump(town.rig.store)
    second = await refreshed(town.one, me, me.refresh_token)
    await town.pass_time(GRACE)
    third = await refreshed(town.one, me, second)
    await put_back(town.rig.store, backup, me.rid)
    for token in (second, third):
        assert outcome(await refresh(town.other, me, token)) == REFUSED
    assert [town.counted(name) for name in told] == [before[0] + 2, before[1]]
    assert await refreshed(town.one, me, me.refresh_token) == second
