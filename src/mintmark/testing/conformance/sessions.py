"""The clauses of :mod:`mintmark.ports.sessions`, one test each; every store runs all of them."""

import asyncio
from dataclasses import replace

import pytest

from mintmark.core.log import denied_until
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.sessions import EndCause, Redeem, RefreshToken, Session, decide, seen
from mintmark.ports.sessions import KEPT_FOR
from mintmark.ports.store import Store
from mintmark.testing.conformance.rig import ISSUER, TIMING, Rig, read_log, redeem
from mintmark.units import Kid, NumericDate, Rid


async def _decided(store: Store, session: Session, token: RefreshToken) -> Redeem:
    view = await store.sessions.read(session.issuer, session.rid)
    verdict = decide(view.session, token, session.client_id, timing=TIMING, now=view.now)
    assert isinstance(verdict, Redeem)
    return verdict


async def _row(store: Store, rid: Rid) -> Session:
    found = (await store.sessions.read(ISSUER, rid)).session
    assert found is not None
    return found


def _ending_at(session: Session, limit: str, end: NumericDate) -> Session:
    return replace(session, idle_until=end) if limit == "idle_until" else replace(session, expires_at=end)


class SessionConformance:
    """SESSION-1 to SESSION-9."""

    async def test_session_is_read_with_its_user(self, rig: Rig) -> None:
        """SESSION-9: the user as he is then, disabled too; none once he is gone, none without a session."""
        user, client = await rig.someone()
        await rig.added_user("bob")
        session, _ = await rig.logged_in(user, client)
        kept, directory = rig.store.sessions, rig.store.directory
        assert (await kept.read(ISSUER, session.rid)).user == user
        await directory.disable_user(ISSUER, user.sub, timing=TIMING)
        view = await kept.read(ISSUER, session.rid)
        assert view.user == await directory.user(ISSUER, user.sub) == replace(user, disabled_at=view.now)
        await directory.remove_user(ISSUER, user.sub)
        view = await kept.read(ISSUER, session.rid)
        assert (view.user, view.session is not None) == (None, True)
        assert (await kept.read(ISSUER, Rid("nobody"))).user is None

    async def test_of_redemptions_of_one_version_one_is_taken(self, rig: Rig) -> None:
        """SESSION-1, R1, F27: of twenty rotations decided on one row one is taken, whole."""
        user, client = await rig.someone()
        session, token = await rig.logged_in(user, client)
        stores = [rig.store, await rig.peer()]
        changes = []
        for n in range(20):
            change = await _decided(stores[n % 2], session, token)
            changes.append(replace(change, after=replace(change.after, last_kid=Kid(f"kid-{n}"))))
        taken = await asyncio.gather(
            *(stores[n % 2].sessions.redeem(change) for n, change in enumerate(changes))
        )
        assert taken.count(True) == 1
        assert await _row(rig.store, session.rid) == changes[taken.index(True)].after

    async def test_everybody_who_asks_again_gets_the_one_successor(self, rig: Rig) -> None:
        """SESSION-1, I4: a hundred redemptions of one token give one refresh token."""
        user, client = await rig.someone()
        session, token = await rig.logged_in(user, client)
        stores = [rig.store, await rig.peer()]
        answers = await asyncio.gather(
            *(redeem(stores[n % 2], session, token, kid=f"kid-{n}") for n in range(100))
        )
        assert all(isinstance(answer, Redeem) for answer in answers)
        assert len({answer.token.text() for answer in answers if isinstance(answer, Redeem)}) == 1
        assert sum(answer.rotated for answer in answers if isinstance(answer, Redeem)) == 1
        assert (await _row(rig.store, session.rid)).generation == 1

    async def test_redemption_of_an_ended_session_is_not_taken(self, rig: Rig) -> None:
        """SESSION-2, R5, I6: what was decided before the logout is refused after it and changes nothing."""
        user, client = await rig.someone()
        session, token = await rig.logged_in(user, client)
        change = await _decided(rig.store, session, token)
        await rig.store.sessions.end(ISSUER, session.rid, cause=EndCause.LOGOUT, timing=TIMING)
        ended = await _row(rig.store, session.rid)
        assert not await rig.store.sessions.redeem(change)
        assert not await rig.store.sessions.redeem(replace(change, before=ended))
        assert await _row(rig.store, session.rid) == ended

    @pytest.mark.parametrize("limit", ["idle_until", "expires_at"])
    async def test_redemption_counts_by_the_stores_clock(self, rig: Rig, limit: str) -> None:
        """SESSION-2, R6: what was decided in time is refused from the very second in which it is over."""
        user, client = await rig.someone()
        session, token = rig.new_session(user, client)
        end = NumericDate(rig.clock.now() + 100)
        session = _ending_at(session, limit, end)
        assert await rig.store.sessions.start(session, user=user)
        rig.clock.advance(99)
        change = await _decided(rig.store, session, token)
        repeat = replace(change, after=replace(change.before, last_exp=end))
        assert await rig.store.sessions.redeem(repeat)
        rig.clock.advance(1)
        assert not await rig.store.sessions.redeem(change)

    async def test_unknown_session_is_not_redeemed(self, rig: Rig) -> None:
        """SESSION-2, R3: what the store never had wins nothing and is not made."""
        user, client = await rig.someone()
        session, token = rig.new_session(user, client)
        assert not await rig.store.sessions.redeem(
            Redeem(before=session, after=session, token=token, rotated=False)
        )
        assert (await rig.store.sessions.read(ISSUER, session.rid)).session is None

    async def test_last_exp_and_idle_until_only_rise(self, rig: Rig) -> None:
        """SESSION-3: of two tokens minted side by side the row covers the longer, whichever comes last."""
        user, client = await rig.someone()
        session, token = await rig.logged_in(user, client)
        rig.clock.advance(10)
        rotation = await _decided(rig.store, session, token)
        late, early = NumericDate(session.last_exp + 500), NumericDate(session.last_exp + 100)
        assert await rig.store.sessions.redeem(
            replace(rotation, after=replace(rotation.after, last_exp=late))
        )
        repeat = await _decided(rig.store, session, token)
        older = replace(repeat.after, last_exp=early, idle_until=session.idle_until)
        assert await rig.store.sessions.redeem(replace(repeat, after=older))
        row = await _row(rig.store, session.rid)
        assert (row.last_exp, row.idle_until) == (late, rotation.after.idle_until)

    async def test_ending_appends_one_event_that_lasts_as_long_as_a_token_could(self, rig: Rig) -> None:
        """SESSION-4: the first end counts, with its cause; a second one appends nothing."""
        user, client = await rig.someone()
        session, _ = await rig.logged_in(user, client)
        end = rig.store.sessions.end
        now = rig.clock.now()
        assert await end(ISSUER, session.rid, cause=EndCause.THEFT, timing=TIMING)
        rig.clock.advance(1)
        assert not await end(ISSUER, session.rid, cause=EndCause.LOGOUT, timing=TIMING)
        (entry,) = await read_log(rig.store)
        until = denied_until(session.last_exp, TIMING)
        assert entry.event == RevocationEvent(kind=Kind.RID, value=session.rid, expires_at=until)
        assert (entry.cause, entry.at) == ("theft", now)
        row = await _row(rig.store, session.rid)
        assert (row.ended_at, row.end_cause) == (now, EndCause.THEFT)
        assert row.version > session.version

    async def test_of_logouts_at_once_one_ends_the_session(self, rig: Rig) -> None:
        """SESSION-4: twenty logouts of one session are one end and one event."""
        user, client = await rig.someone()
        session, _ = await rig.logged_in(user, client)
        stores = [rig.store, await rig.peer()]
        ends = (
            stores[n % 2].sessions.end(ISSUER, session.rid, cause=EndCause.LOGOUT, timing=TIMING)
            for n in range(20)
        )
        assert (await asyncio.gather(*ends)).count(True) == 1
        assert len(await read_log(rig.store)) == 1

    async def test_session_whose_tokens_have_all_expired_ends_without_an_event(self, rig: Rig) -> None:
        """SESSION-4, V4: the log holds nothing that could not be accepted anyway."""
        user, client = await rig.someone()
        session, _ = await rig.logged_in(user, client)
        rig.clock.advance(denied_until(session.last_exp, TIMING) - rig.clock.now())
        assert await rig.store.sessions.end(ISSUER, session.rid, cause=EndCause.LOGOUT, timing=TIMING)
        assert (await rig.store.revocations.head(ISSUER))[0].seq == 0

    async def test_unknown_session_ends_as_nothing(self, rig: Rig) -> None:
        """SESSION-4, RV3: ending what never was is False, and no event."""
        ended = await rig.store.sessions.end(ISSUER, Rid("nobody"), cause=EndCause.LOGOUT, timing=TIMING)
        assert not ended
        assert await read_log(rig.store) == ()

    async def test_all_sessions_of_a_user_end_together(self, rig: Rig) -> None:
        """SESSION-4, RV2: each live one once, with an event each; those of others stay."""
        user, client = await rig.someone()
        other = await rig.added_user("bob")
        mine = [await rig.logged_in(user, client) for _ in range(3)]
        theirs, _ = await rig.logged_in(other, client)
        await rig.store.sessions.end(ISSUER, mine[0][0].rid, cause=EndCause.LOGOUT, timing=TIMING)
        ended = await rig.store.sessions.end_all(ISSUER, user.sub, cause=EndCause.ADMIN, timing=TIMING)
        assert set(ended) == {session.rid for session, _ in mine[1:]}
        assert {entry.event.value for entry in await read_log(rig.store)} == {s.rid for s, _ in mine}
        assert await _row(rig.store, theirs.rid) == theirs
        again = await rig.store.sessions.end_all(ISSUER, user.sub, cause=EndCause.ADMIN, timing=TIMING)
        assert again == ()

    async def test_session_starts_only_for_the_user_that_was_checked(self, rig: Rig) -> None:
        """SESSION-5, RF8: not for one who is gone, was disabled or got another password meanwhile."""
        user, client = await rig.someone()
        bob, carol = await rig.added_user("bob"), await rig.added_user("carol")
        await rig.store.directory.disable_user(ISSUER, bob.sub, timing=TIMING)
        await rig.store.directory.set_password(ISSUER, carol.sub, "$argon2id$new", timing=TIMING)
        for checked in (rig.user("nobody"), bob, carol):
            session, _ = rig.new_session(checked, client)
            assert not await rig.store.sessions.start(session, user=checked)
            assert (await rig.store.sessions.read(ISSUER, session.rid)).session is None
        session, _ = rig.new_session(user, client)
        assert await rig.store.sessions.start(session, user=user)
        assert await _row(rig.store, session.rid) == session

    async def test_session_does_not_start_for_a_user_who_is_locked(self, rig: Rig) -> None:
        """SESSION-5: not before the very second until which he is; his sessions live on."""
        user, client = await rig.someone()
        kept, token = await rig.logged_in(user, client)
        until = NumericDate(rig.clock.now() + 60)
        await rig.store.directory.lock_user(ISSUER, user.sub, until)
        rig.clock.advance(59)
        session, _ = rig.new_session(user, client)
        assert not await rig.store.sessions.start(session, user=user)
        assert isinstance(await redeem(rig.store, kept, token), Redeem)
        rig.clock.advance(1)
        assert await rig.store.sessions.start(session, user=user)
        await rig.store.directory.lock_user(ISSUER, user.sub, NumericDate(until + 60))
        await rig.store.directory.lock_user(ISSUER, user.sub, None)
        await rig.logged_in(user, client)

    async def test_redemption_notes_where_it_came_from(self, rig: Rig) -> None:
        """SESSION-1: device, address and time are those of the last redemption that was taken."""
        user, client = await rig.someone()
        session, token = await rig.logged_in(user, client)
        rig.clock.advance(5)
        change = seen(await _decided(rig.store, session, token), device="Firefox", address="2001:db8::1")
        assert await rig.store.sessions.redeem(change)
        row = await _row(rig.store, session.rid)
        assert (row.device, row.address, row.used_at) == ("Firefox", "2001:db8::1", rig.clock.now())

    async def test_session_starts_only_for_a_client_that_is_there(self, rig: Rig) -> None:
        """SESSION-5: a client that was removed while its user typed the password gets nothing."""
        user, client = await rig.someone()
        session, _ = rig.new_session(user, client)
        await rig.store.directory.remove_client(ISSUER, client.client_id, timing=TIMING)
        assert not await rig.store.sessions.start(session, user=user)

    async def test_session_is_started_once(self, rig: Rig) -> None:
        """SESSION-5: one ``rid`` names one session; a second start under it changes nothing."""
        user, client = await rig.someone()
        session, _ = await rig.logged_in(user, client)
        assert not await rig.store.sessions.start(replace(session, generation=7), user=user)
        assert await _row(rig.store, session.rid) == session

    async def test_repeated_answers_do_not_make_each_other_lose(self, rig: Rig) -> None:
        """SESSION-6, F26: many tabs that ask for the same successor are all answered at the first try."""
        user, client = await rig.someone()
        session, token = await rig.logged_in(user, client)
        assert isinstance(await redeem(rig.store, session, token), Redeem)
        repeats = [await _decided(rig.store, session, token) for _ in range(20)]
        assert not any(repeat.rotated for repeat in repeats)
        assert all(await asyncio.gather(*(rig.store.sessions.redeem(repeat) for repeat in repeats)))

    async def test_list_shows_live_sessions_newest_first(self, rig: Rig) -> None:
        """SESSION-7: neither ended nor expired ones, nor those of others where a user is asked for."""
        user, client = await rig.someone()
        bob = await rig.added_user("bob")
        short = replace(TIMING, session_idle=TIMING.access_ttl)
        await rig.logged_in(user, client, timing=short)
        ended, _ = await rig.logged_in(user, client)
        await rig.store.sessions.end(ISSUER, ended.rid, cause=EndCause.LOGOUT, timing=TIMING)
        first, _ = await rig.logged_in(user, client)
        rig.clock.advance(TIMING.access_ttl)
        second, _ = await rig.logged_in(bob, client)
        rig.clock.advance(1)
        third, _ = await rig.logged_in(user, client)
        assert await rig.store.sessions.list(ISSUER) == (third, second, first)
        assert await rig.store.sessions.list(ISSUER, sub=user.sub) == (third, first)
        assert await rig.store.sessions.list(ISSUER, limit=1) == (third,)

    @pytest.mark.parametrize("end", ["idle_until", "expires_at", "logout"])
    async def test_prune_keeps_a_row_while_it_could_matter(self, rig: Rig, end: str) -> None:
        """SESSION-8: it goes KEPT_FOR after the session was over and its last token expired, not before."""
        user, client = await rig.someone()
        alive, _ = await rig.logged_in(user, client, timing=replace(TIMING, session_idle=TIMING.session_ttl))
        session, _ = rig.new_session(user, client)
        over = NumericDate(rig.clock.now() + 50)
        if end != "logout":
            session = _ending_at(session, end, over)
        assert await rig.store.sessions.start(session, user=user)
        if end == "logout":
            await rig.store.sessions.end(ISSUER, session.rid, cause=EndCause.LOGOUT, timing=TIMING)
        rig.clock.advance(session.last_exp + KEPT_FOR - 1 - rig.clock.now())
        assert await rig.store.sessions.prune(ISSUER) == 0
        rig.clock.advance(1)
        assert await rig.store.sessions.prune(ISSUER) == 1
        assert (await rig.store.sessions.read(ISSUER, session.rid)).session is None
        assert await _row(rig.store, alive.rid) == alive

    async def test_prune_removes_any_number(self, rig: Rig) -> None:
        """SESSION-8: more rows than one transaction takes all go."""
        user, client = await rig.someone()
        await asyncio.gather(*(rig.logged_in(user, client) for _ in range(1_201)))
        rig.clock.advance(TIMING.session_ttl + KEPT_FOR)
        assert await rig.store.sessions.prune(ISSUER) == 1_201
        assert await rig.store.sessions.prune(ISSUER) == 0
