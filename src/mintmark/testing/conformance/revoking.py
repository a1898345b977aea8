"""The clauses of :mod:`mintmark.ports.revocations` on what is revoked without ending anything else."""

import asyncio
from dataclasses import replace

from mintmark.core.log import (
    JTI_A_CLIENT,
    JTI_A_SESSION,
    Admission,
    denied_by_time_until,
    denied_until,
)
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.sessions import EndCause, Redeem, Refusal, Session, decide
from mintmark.ports.revocations import IssuedToken
from mintmark.ports.store import Store
from mintmark.testing.conformance.rig import ISSUER, OTHER, TIMING, Rig, read_log, redeem
from mintmark.units import ClientId, Jti, NumericDate, Seconds


def issued(
    jti: str, *, client_id: str = "shop", session: Session | None = None, exp: NumericDate
) -> IssuedToken:
    """A token of a client, and of a session where there is one."""
    rid = None if session is None else session.rid
    return IssuedToken(jti=Jti(jti), client_id=ClientId(client_id), rid=rid, exp=exp)


async def revoke(store: Store, token: IssuedToken, *, cause: str = "revoked") -> Admission:
    return await store.revocations.revoke_token(ISSUER, token, cause=cause, timing=TIMING)


async def _race(rig: Rig, most: int, *, session: Session | None = None, exp: NumericDate) -> list[Admission]:
    """What sixteen revocations at once come to, on two stores, where one less than ``most`` were made."""
    stores = [rig.store, await rig.peer()]
    for first in range(0, most - 1, 100):
        before = [
            issued(f"before-{n}", session=session, exp=exp) for n in range(first, min(first + 100, most - 1))
        ]
        made = await asyncio.gather(*(revoke(stores[0], token) for token in before))
        assert set(made) == {Admission.APPEND}
    racing = [issued(f"jti-{n}", session=session, exp=exp) for n in range(16)]
    return await asyncio.gather(*(revoke(stores[n % 2], token) for n, token in enumerate(racing)))


class RevokingConformance:
    """LOG-6 to LOG-8."""

    async def test_token_is_revoked_once_and_found(self, rig: Rig) -> None:
        """LOG-6, RV3: one event for a ``jti``, with its cause, that lasts as long as the token could."""
        user, client = await rig.someone()
        session, _ = await rig.logged_in(user, client)
        token = issued("jti-1", session=session, exp=session.last_exp)
        assert not await rig.store.revocations.is_revoked(ISSUER, token.jti)
        assert await revoke(rig.store, token, cause="asked") is Admission.APPEND
        peer = await rig.peer()
        assert await revoke(peer, token) is Admission.NOTHING
        (entry,) = await read_log(peer)
        until = denied_until(session.last_exp, TIMING)
        assert entry.event == RevocationEvent(kind=Kind.JTI, value="jti-1", expires_at=until)
        assert (entry.cause, entry.at) == ("asked", rig.clock.now())
        assert not await peer.revocations.is_revoked(OTHER, token.jti)
        rig.clock.advance(until - 1 - rig.clock.now())
        assert await peer.revocations.is_revoked(ISSUER, token.jti)
        rig.clock.advance(1)
        assert not await peer.revocations.is_revoked(ISSUER, token.jti)
        assert await revoke(peer, token) is Admission.NOTHING
        assert await peer.revocations.prune(ISSUER) == 1
        assert (await peer.revocations.head(ISSUER))[0].seq == 1

    async def test_token_that_two_revoke_at_once_has_one_event(self, rig: Rig) -> None:
        """LOG-6: of twenty that revoke the same token on two stores one appends."""
        stores = [rig.store, await rig.peer()]
        token = issued("jti-1", exp=NumericDate(rig.clock.now() + 100))
        outcomes = await asyncio.gather(*(revoke(stores[n % 2], token) for n in range(20)))
        assert outcomes.count(Admission.APPEND) == 1
        assert outcomes.count(Admission.NOTHING) == 19
        assert len(await read_log(rig.store)) == 1

    async def test_session_with_too_many_revoked_tokens_ends(self, rig: Rig) -> None:
        """LOG-6, V4: at the limit the session ends, with the one event that says more; others live on."""
        user, client = await rig.someone()
        session, _ = await rig.logged_in(user, client)
        other, _ = await rig.logged_in(user, client)
        exp = session.last_exp
        for n in range(JTI_A_SESSION):
            assert await revoke(rig.store, issued(f"jti-{n}", session=session, exp=exp)) is Admission.APPEND
        one_more = issued("one more", session=session, exp=exp)
        assert await revoke(rig.store, one_more) is Admission.END_SESSION
        row = (await rig.store.sessions.read(ISSUER, session.rid)).session
        assert row is not None
        assert (row.ended_at, row.end_cause) == (rig.clock.now(), EndCause.REVOKED)
        assert await revoke(rig.store, one_more) is Admission.END_SESSION
        assert await revoke(rig.store, issued("other", session=other, exp=exp)) is Admission.APPEND
        kinds = [entry.event.kind for entry in await read_log(rig.store)]
        assert kinds == [Kind.JTI] * JTI_A_SESSION + [Kind.RID, Kind.JTI]

    async def test_tokens_of_an_unknown_session_count_for_their_client(self, rig: Rig) -> None:
        """LOG-6: a session that is gone cannot be ended, so no revocation is swallowed by it."""
        user, client = await rig.someone()
        session, _ = rig.new_session(user, client)
        exp = session.last_exp
        for n in range(JTI_A_SESSION + 1):
            assert await revoke(rig.store, issued(f"jti-{n}", session=session, exp=exp)) is Admission.APPEND
        assert len(await read_log(rig.store)) == JTI_A_SESSION + 1

    async def test_no_race_passes_the_limit_of_a_session(self, rig: Rig) -> None:
        """LOG-6, V4: of sixteen revocations at once, one short of it, one has an event of its own."""
        user, client = await rig.someone()
        session, _ = await rig.logged_in(user, client)
        outcomes = await _race(rig, JTI_A_SESSION, session=session, exp=session.last_exp)
        assert outcomes.count(Admission.APPEND) == 1
        assert outcomes.count(Admission.END_SESSION) == 15
        kinds = [entry.event.kind for entry in await read_log(rig.store)]
        assert sorted(kinds) == [Kind.JTI] * JTI_A_SESSION + [Kind.RID]

    async def test_client_with_too_many_revoked_tokens_waits(self, rig: Rig) -> None:
        """LOG-6, V4: no race passes the limit; another client's are not refused, and later it may again."""
        early, late = NumericDate(rig.clock.now() + 10), NumericDate(rig.clock.now() + 100)
        outcomes = await _race(rig, JTI_A_CLIENT, exp=early)
        assert outcomes.count(Admission.APPEND) == 1
        assert outcomes.count(Admission.REFUSE) == 15
        log = await read_log(rig.store, limit=500)
        assert [entry.cursor.seq for entry in log] == list(range(1, JTI_A_CLIENT + 1))
        one_more = issued("one more", exp=late)
        assert await revoke(rig.store, one_more) is Admission.REFUSE
        assert not await rig.store.revocations.is_revoked(ISSUER, one_more.jti)
        theirs = issued("theirs", client_id="till", exp=late)
        assert await revoke(rig.store, theirs) is Admission.APPEND
        rig.clock.advance(denied_until(early, TIMING) - rig.clock.now())
        assert await revoke(rig.store, one_more) is Admission.APPEND

    async def test_client_is_revoked_by_time(self, rig: Rig) -> None:
        """LOG-7: up to the latest ``iat`` that any node can have given by then, rounded up."""
        user, client = await rig.someone()
        other = await rig.added_client("till")
        directory, log = rig.store.directory, rig.store.revocations
        now = rig.clock.now()
        denied = await log.revoke_client(ISSUER, client.client_id, cause="admin", timing=TIMING)
        assert denied == now + 1 + TIMING.clock_skew + TIMING.propagation
        (entry,) = await read_log(rig.store)
        until = denied_by_time_until(denied, TIMING)
        assert entry.event == RevocationEvent(
            kind=Kind.CLIENT, value="shop", expires_at=until, not_before=denied
        )
        assert (entry.cause, entry.at) == ("admin", now)
        revoked = replace(client, not_before=denied)
        assert await directory.client(ISSUER, client.client_id) == revoked
        assert await directory.clients(ISSUER) == (revoked, other)

        earlier = NumericDate(now - 100)
        assert (
            await log.revoke_client(ISSUER, client.client_id, cause="admin", timing=TIMING, before=earlier)
            == earlier
        )
        assert await directory.client(ISSUER, client.client_id) == revoked
        later = NumericDate(denied + 1)
        assert (
            await log.revoke_client(ISSUER, other.client_id, cause="admin", timing=TIMING, before=later)
            == denied
        )
        assert (await directory.client(ISSUER, other.client_id)) == replace(other, not_before=denied)
        # It is no revocation of the sessions, nor of anybody who logs in later.
        session, token = await rig.logged_in(user, client)
        assert isinstance(await redeem(rig.store, session, token), Redeem)

    async def test_client_that_is_added_again_is_revoked_still(self, rig: Rig) -> None:
        """LOG-7: whether it was there when its id was revoked does not matter, nor whether it was removed."""
        client = rig.client()
        log = rig.store.revocations
        denied = await log.revoke_client(ISSUER, client.client_id, cause="admin", timing=TIMING)
        await rig.store.directory.add_client(client)
        assert await rig.store.directory.client(ISSUER, client.client_id) == replace(
            client, not_before=denied
        )
        await rig.added_client(issuer=OTHER)
        assert (await rig.store.directory.clients(OTHER))[0].not_before == 0
        rig.clock.advance(5)
        await rig.store.directory.remove_client(ISSUER, client.client_id, timing=TIMING)
        await rig.store.directory.add_client(client)
        assert (await rig.store.directory.clients(ISSUER))[0].not_before == denied + 5

    async def test_client_that_is_added_meanwhile_is_revoked(self, rig: Rig) -> None:
        """LOG-7: whichever comes first, whoever reads the client once both are done sees the time."""
        peer = await rig.peer()
        for n in range(10):
            client = rig.client(f"client-{n}")
            denied, _ = await asyncio.gather(
                peer.revocations.revoke_client(ISSUER, client.client_id, cause="test", timing=TIMING),
                rig.store.directory.add_client(client),
            )
            found = await peer.directory.client(ISSUER, client.client_id)
            assert found == replace(client, not_before=denied)

    async def test_whole_issuer_is_revoked_by_time(self, rig: Rig) -> None:
        """LOG-7: every client shows the later of its own and the issuer's, which never falls."""
        client, till = await rig.added_client(), await rig.added_client("till")
        await rig.added_client(issuer=OTHER)
        directory, log = rig.store.directory, rig.store.revocations
        mine = await log.revoke_client(ISSUER, client.client_id, cause="admin", timing=TIMING)
        earlier = NumericDate(mine - 100)
        assert await log.revoke_all(ISSUER, cause="admin", timing=TIMING, before=earlier) == earlier
        assert [c.not_before for c in await directory.clients(ISSUER)] == [mine, earlier]
        assert (await directory.client(ISSUER, till.client_id)) == replace(till, not_before=earlier)
        rig.clock.advance(1)
        denied = await log.revoke_all(ISSUER, cause="key lost", timing=TIMING)
        assert denied == mine + 1
        await log.revoke_all(ISSUER, cause="admin", timing=TIMING, before=earlier)
        assert {c.not_before for c in await directory.clients(ISSUER)} == {denied}
        assert {c.not_before for c in await directory.clients(OTHER)} == {0}
        entry = (await read_log(rig.store))[2]
        assert entry.event == RevocationEvent(
            kind=Kind.ALL, value="", expires_at=denied_by_time_until(denied, TIMING), not_before=denied
        )
        assert entry.cause == "key lost"

    async def test_session_of_a_revoked_issuer_is_over_at_once(self, rig: Rig) -> None:
        """LOG-8: it reads as ended, redeems nothing, is on no list, and none begins in its time."""
        store, log = rig.store, rig.store.revocations
        user, client = await rig.someone()
        started, token = await rig.logged_in(user, client)
        unstarted, _ = rig.new_session(user, client)
        rig.clock.advance(3)
        change = decide(started, token, client.client_id, timing=TIMING, now=rig.clock.now())
        assert isinstance(change, Redeem)
        now = rig.clock.now()
        await log.revoke_all(ISSUER, cause="admin", timing=TIMING, sessions=True)
        ended = (await store.sessions.read(ISSUER, started.rid)).session
        assert ended is not None
        assert (ended.ended_at, ended.end_cause) == (now, EndCause.ADMIN)
        assert await redeem(store, started, token) is Refusal.ENDED
        assert not await store.sessions.redeem(change)
        assert await store.sessions.list(ISSUER) == await store.sessions.list(ISSUER, sub=user.sub) == ()
        assert not await store.sessions.start(unstarted, user=user)
        assert not await store.sessions.end(ISSUER, started.rid, cause=EndCause.LOGOUT, timing=TIMING)
        assert await store.sessions.end_all(ISSUER, user.sub, cause=EndCause.LOGOUT, timing=TIMING) == ()
        rig.clock.advance(1)
        later, _ = await rig.logged_in(user, client)
        assert await store.sessions.list(ISSUER) == (later,)
        await log.revoke_all(ISSUER, cause="admin", timing=TIMING)
        assert await store.sessions.list(ISSUER) == (later,)

    async def test_rows_of_a_revoked_issuer_follow(self, rig: Rig) -> None:
        """LOG-8: step by step each says that it ended, once, without an event; what began later stays."""
        store, log = rig.store, rig.store.revocations
        user, client = await rig.someone()
        mine = [await rig.logged_in(user, client) for _ in range(3)]
        assert await log.end_revoked(ISSUER, timing=TIMING) == 0
        await log.revoke_all(ISSUER, cause="admin", timing=TIMING, sessions=True)
        before = [(await store.sessions.read(ISSUER, session.rid)).session for session, _ in mine]
        rig.clock.advance(1)
        later, _ = await rig.logged_in(user, client)
        ended = 0
        while some := await (await rig.peer()).revocations.end_revoked(ISSUER, timing=TIMING):
            ended += some
        assert ended == 3
        assert await log.end_revoked(ISSUER, timing=TIMING) == 0
        after = [(await store.sessions.read(ISSUER, session.rid)).session for session, _ in mine]
        assert [row and replace(row, version=0) for row in after] == [
            row and replace(row, version=0) for row in before
        ]
        assert await store.sessions.list(ISSUER) == (later,)
        assert [entry.event.kind for entry in await read_log(store)] == [Kind.ALL]

    async def test_token_from_after_the_time_is_denied_with_its_session(self, rig: Rig) -> None:
        """LOG-8: where only what is older was revoked, a session that was used since gets its own event."""
        store, log = rig.store, rig.store.revocations
        user, client = await rig.someone()
        idle, _ = await rig.logged_in(user, client)
        used, token = await rig.logged_in(user, client)
        rig.clock.advance(200)
        before = NumericDate(rig.clock.now() - 100)
        assert isinstance(await redeem(store, used, token), Redeem)
        assert (
            await log.revoke_all(ISSUER, cause="admin", timing=TIMING, before=before, sessions=True) == before
        )
        assert await store.sessions.list(ISSUER) == ()
        while await log.end_revoked(ISSUER, timing=TIMING):
            pass
        row = (await store.sessions.read(ISSUER, idle.rid)).session
        assert row is not None
        assert row.ended_at == before
        denied = [(entry.event.kind, entry.event.value) for entry in await read_log(store)]
        assert denied == [(Kind.ALL, ""), (Kind.RID, used.rid)]

    async def test_token_of_a_clock_that_is_ahead_is_denied_with_its_session(self, rig: Rig) -> None:
        """LOG-8: an ``iat`` may lie behind the time though its session was used before, by another clock."""
        store, log = rig.store, rig.store.revocations
        timing = replace(TIMING, refresh_grace=Seconds(1))
        session, _ = await rig.logged_in(*await rig.someone(), timing=timing)
        rig.clock.advance(timing.clock_skew)
        before = NumericDate(session.used_at + timing.clock_skew - 1)
        await log.revoke_all(ISSUER, cause="admin", timing=timing, before=before, sessions=True)
        while await log.end_revoked(ISSUER, timing=timing):
            pass
        denied = [(entry.event.kind, entry.event.value) for entry in await read_log(store)]
        assert denied == [(Kind.ALL, ""), (Kind.RID, session.rid)]
