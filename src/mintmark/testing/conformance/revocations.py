"""The clauses of :mod:`mintmark.ports.revocations`, one test each; every store runs all of them."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

import pytest

from mintmark.core.keyring import Ring
from mintmark.core.log import (
    JTI_A_CLIENT,
    JTI_A_SESSION,
    Admission,
    Cursor,
    LogPage,
    denied_by_time_until,
    denied_until,
    parse_cursor,
)
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.sessions import EndCause, Redeem, Refusal, Session, decide
from mintmark.ports.revocations import CursorGone, IssuedToken
from mintmark.ports.store import Store
from mintmark.testing.conformance.rig import ISSUER, OTHER, TIMING, Rig, read_log, redeem
from mintmark.units import ClientId, Issuer, Jti, NumericDate


async def append(store: Store, values: str, *, until: int, issuer: Issuer = ISSUER) -> None:
    """Append one event for each word of ``values``, in one transaction."""
    events = tuple(
        (RevocationEvent(kind=Kind.KID, value=value, expires_at=NumericDate(until)), "test")
        for value in values.split()
    )
    while True:
        ring = (await store.keyring.read(issuer)).ring
        if await store.keyring.swap(
            ring.generation, Ring(issuer=issuer, generation=ring.generation + 1), events=events
        ):
            return


async def _page(store: Store, after: Cursor | None, *, limit: int = 100) -> LogPage:
    page = await store.revocations.read(ISSUER, after, limit=limit)
    assert isinstance(page, LogPage)
    return page


def _values(page: LogPage) -> list[str]:
    return [entry.event.value for entry in page.entries]


def issued(
    jti: str, *, client_id: str = "shop", session: Session | None = None, exp: NumericDate
) -> IssuedToken:
    """A token of a client, and of a session where there is one."""
    rid = None if session is None else session.rid
    return IssuedToken(jti=Jti(jti), client_id=ClientId(client_id), rid=rid, exp=exp)


async def _revoke(store: Store, token: IssuedToken, *, cause: str = "revoked") -> Admission:
    return await store.revocations.revoke_token(ISSUER, token, cause=cause, timing=TIMING)


async def _race(rig: Rig, most: int, *, session: Session | None = None, exp: NumericDate) -> list[Admission]:
    """What sixteen revocations at once come to, on two stores, where one less than ``most`` were made."""
    stores = [rig.store, await rig.peer()]
    for first in range(0, most - 1, 100):
        before = [
            issued(f"before-{n}", session=session, exp=exp) for n in range(first, min(first + 100, most - 1))
        ]
        made = await asyncio.gather(*(_revoke(stores[0], token) for token in before))
        assert set(made) == {Admission.APPEND}
    racing = [issued(f"jti-{n}", session=session, exp=exp) for n in range(16)]
    return await asyncio.gather(*(_revoke(stores[n % 2], token) for n, token in enumerate(racing)))


class LogConformance:
    """LOG-1 to LOG-8."""

    async def test_followers_see_every_entry_once_and_in_order(self, rig: Rig) -> None:
        """LOG-1, V1: while two stores append, followers read each entry exactly once, without gaps."""
        stores = [rig.store, await rig.peer()]
        until = rig.clock.now() + 1_000

        async def write(store: Store, name: str) -> None:
            for n in range(10):
                await append(store, f"{name}-{n}a {name}-{n}b", until=until)

        async def follow(store: Store) -> list[str]:
            after: Cursor | None = None
            seen: list[str] = []
            while True:
                over = writing.done()
                page = await _page(store, after, limit=3)
                numbers = [entry.cursor.seq for entry in page.entries]
                assert numbers == list(range(len(seen) + 1, len(seen) + 1 + len(numbers)))
                seen += _values(page)
                after = page.cursor
                if over and page.complete:
                    return seen

        writing = asyncio.gather(*(write(stores[n % 2], str(n)) for n in range(4)))
        followed = await asyncio.gather(*(follow(store) for store in stores))
        await writing
        assert followed[0] == followed[1]
        assert sorted(followed[0]) == sorted(f"{w}-{n}{x}" for w in range(4) for n in range(10) for x in "ab")

    async def test_whatever_appends_at_once_is_followed_without_a_gap(self, rig: Rig) -> None:
        """LOG-1, V1: logouts and revocations of every kind on two stores, each with one entry, in order."""
        stores = [rig.store, await rig.peer()]
        user, client = await rig.someone()
        started = [(await rig.logged_in(user, client))[0] for _ in range(10)]
        until = started[0].last_exp
        for n in range(5):
            await rig.added_client(f"gone-{n}")
        appending: list[Awaitable[object]] = []
        for n in range(5):
            log, directory = stores[n % 2].revocations, stores[n % 2].directory
            ending = stores[n % 2].sessions.end
            appending += [
                ending(ISSUER, started[2 * n].rid, cause=EndCause.LOGOUT, timing=TIMING),
                ending(ISSUER, started[2 * n + 1].rid, cause=EndCause.THEFT, timing=TIMING),
                _revoke(stores[n % 2], issued(f"jti-{n}", exp=until)),
                log.revoke_client(ISSUER, ClientId(f"client-{n}"), cause="test", timing=TIMING),
                log.revoke_all(ISSUER, cause="test", timing=TIMING),
                directory.remove_client(ISSUER, ClientId(f"gone-{n}"), timing=TIMING),
                append(stores[n % 2], f"kid-{n}", until=until),
            ]
        writing = asyncio.gather(*appending)
        after: Cursor | None = None
        seen: list[RevocationEvent] = []
        over = False
        while not over:
            finished = writing.done()
            page = await _page(stores[0], after, limit=7)
            numbers = [entry.cursor.seq for entry in page.entries]
            assert numbers == list(range(len(seen) + 1, len(seen) + 1 + len(numbers)))
            seen += [entry.event for entry in page.entries]
            after = page.cursor
            over = finished and page.complete
        await writing
        values = {event.value for event in seen}
        named = {f"{kind}-{n}" for kind in ("jti", "client", "gone", "kid") for n in range(5)}
        assert values == {session.rid for session in started} | named | {""}
        assert len(seen) == 35

    async def test_entry_is_read_as_it_was_appended(self, rig: Rig) -> None:
        """LOG-1: kind, value, times and cause come back, with the store's time of the commit."""
        now = rig.clock.now()
        until = NumericDate(now + 10)
        events = (
            RevocationEvent(kind=Kind.JTI, value="j", expires_at=until),
            RevocationEvent(kind=Kind.CLIENT, value="c", expires_at=until, not_before=now),
            RevocationEvent(kind=Kind.ALL, value="", expires_at=until, not_before=now),
        )
        ring = Ring(issuer=ISSUER, generation=1)
        assert await rig.store.keyring.swap(0, ring, events=tuple((e, f"cause {e.kind}") for e in events))
        entries = await read_log(rig.store)
        assert tuple(entry.event for entry in entries) == events
        assert [entry.cause for entry in entries] == ["cause jti", "cause client", "cause all"]
        assert {entry.at for entry in entries} == {now}
        assert len({entry.cursor.mark for entry in entries}) == 3
        assert [parse_cursor(entry.cursor.text()) for entry in entries] == [e.cursor for e in entries]

    async def test_expired_entries_are_not_read_and_go(self, rig: Rig) -> None:
        """LOG-2: from the second of ``expires_at`` on an entry is on no page; pruning removes just those."""
        start = rig.clock.now()
        await append(rig.store, "a", until=start + 10)
        await append(rig.store, "b", until=start + 30)
        await append(rig.store, "c", until=start + 20)
        assert await rig.store.revocations.prune(ISSUER) == 0
        rig.clock.advance(20)
        page = await _page(rig.store, None)
        assert (_values(page), page.complete) == (["b"], True)
        assert await rig.store.revocations.prune(ISSUER) == 2
        assert await rig.store.revocations.prune(ISSUER) == 0
        assert await _page(rig.store, None) == page

    async def test_prune_removes_any_number(self, rig: Rig) -> None:
        """LOG-2: more entries than one transaction takes all go, and the numbers go on."""
        start = rig.clock.now()
        for n in range(3):
            await append(rig.store, " ".join(f"{n}-{m}" for m in range(800)), until=start + 1)
        rig.clock.advance(1)
        assert await rig.store.revocations.prune(ISSUER) == 2_400
        await append(rig.store, "after", until=start + 100)
        (entry,) = await read_log(rig.store)
        assert entry.cursor.seq == 2_401

    async def test_cursor_that_is_not_of_this_log_is_gone(self, rig: Rig) -> None:
        """LOG-3: neither another mark, nor a number that was never given, nor another issuer's cursor."""
        until = rig.clock.now() + 100
        await append(rig.store, "a b", until=until)
        await append(rig.store, "a b", until=until, issuer=OTHER)
        first, second = (entry.cursor for entry in await read_log(rig.store))
        (foreign, _) = await rig.store.revocations.head(OTHER)
        assert _values(await _page(rig.store, first)) == ["b"]
        strangers = [
            Cursor(first.seq, second.mark),
            Cursor(second.seq, first.mark),
            Cursor(3, second.mark),
            Cursor(0, second.mark),
            foreign,
        ]
        for stranger in strangers:
            assert await rig.store.revocations.read(ISSUER, stranger, limit=10) == CursorGone()

    async def test_cursor_whose_entry_was_pruned_is_gone_unless_it_is_the_newest(self, rig: Rig) -> None:
        """LOG-3: a reader that cannot be checked takes a snapshot; one that has read everything goes on."""
        start = rig.clock.now()
        (genesis, _) = await rig.store.revocations.head(ISSUER)
        await append(rig.store, "a b", until=start + 10)
        first, newest = (entry.cursor for entry in await read_log(rig.store))
        rig.clock.advance(10)
        assert _values(await _page(rig.store, first)) == []
        await rig.store.revocations.prune(ISSUER)
        assert await rig.store.revocations.read(ISSUER, first, limit=10) == CursorGone()
        assert (await _page(rig.store, newest)).cursor == newest
        await append(rig.store, "c", until=start + 100)
        assert await rig.store.revocations.read(ISSUER, newest, limit=10) == CursorGone()
        assert _values(await _page(rig.store, genesis)) == ["c"]

    async def test_page_says_whether_it_is_the_last(self, rig: Rig) -> None:
        """LOG-4: a full page continues behind its last entry, the last one behind the newest of all."""
        start = rig.clock.now()
        await append(rig.store, "a b c d", until=start + 100)
        await append(rig.store, "gone", until=start + 1)
        rig.clock.advance(1)
        (head, now) = await rig.store.revocations.head(ISSUER)
        assert head.seq == 5
        page = await _page(rig.store, None, limit=2)
        assert (_values(page), page.cursor, page.complete) == (["a", "b"], page.entries[-1].cursor, False)
        page = await _page(rig.store, page.cursor, limit=2)
        assert (_values(page), page.cursor, page.complete, page.now) == (["c", "d"], head, True, now)
        page = await _page(rig.store, head, limit=2)
        assert (_values(page), page.cursor, page.complete) == ([], head, True)

    async def test_empty_log_has_a_cursor_of_its_own(self, rig: Rig) -> None:
        """LOG-4, LOG-3: whoever began to follow before the first entry gets the first entry."""
        (head, _) = await rig.store.revocations.head(ISSUER)
        page = await _page(await rig.peer(), None)
        assert (page.entries, page.cursor, page.complete) == ((), head, True)
        await append(rig.store, "a", until=rig.clock.now() + 1)
        assert _values(await _page(rig.store, head)) == ["a"]

    async def test_page_without_room_is_a_mistake(self, rig: Rig) -> None:
        """LOG-4: a page of no entries could never go on."""
        with pytest.raises(ValueError, match="at least one"):
            await rig.store.revocations.read(ISSUER, None, limit=0)

    async def test_pause_of_a_caller_holds_nobody_up(self, rig: Rig) -> None:
        """LOG-5, F06: appends that nobody comes back for, or that are cancelled, block no other append."""
        peer = await rig.peer()
        until = rig.clock.now() + 100
        asleep = [asyncio.ensure_future(append(rig.store, f"asleep-{n}", until=until)) for n in range(4)]
        await asyncio.sleep(0)
        asleep[0].cancel()
        await append(peer, "awake", until=until)
        assert "awake" in {entry.event.value for entry in await read_log(peer)}
        await asyncio.gather(*asleep, return_exceptions=True)
        await append(rig.store, "again", until=until)
        log = await read_log(rig.store)
        assert [entry.cursor.seq for entry in log] == list(range(1, len(log) + 1))
        assert {f"asleep-{n}" for n in (1, 2, 3)} | {"again"} <= {entry.event.value for entry in log}

    async def test_token_is_revoked_once_and_found(self, rig: Rig) -> None:
        """LOG-6, RV3: one event for a ``jti``, with its cause, that lasts as long as the token could."""
        user, client = await rig.someone()
        session, _ = await rig.logged_in(user, client)
        token = issued("jti-1", session=session, exp=session.last_exp)
        assert not await rig.store.revocations.is_revoked(ISSUER, token.jti)
        assert await _revoke(rig.store, token, cause="asked") is Admission.APPEND
        peer = await rig.peer()
        assert await _revoke(peer, token) is Admission.NOTHING
        (entry,) = await read_log(peer)
        until = denied_until(session.last_exp, TIMING)
        assert entry.event == RevocationEvent(kind=Kind.JTI, value="jti-1", expires_at=until)
        assert (entry.cause, entry.at) == ("asked", rig.clock.now())
        assert not await peer.revocations.is_revoked(OTHER, token.jti)
        rig.clock.advance(until - 1 - rig.clock.now())
        assert await peer.revocations.is_revoked(ISSUER, token.jti)
        rig.clock.advance(1)
        assert not await peer.revocations.is_revoked(ISSUER, token.jti)
        assert await _revoke(peer, token) is Admission.NOTHING
        assert await peer.revocations.prune(ISSUER) == 1
        assert (await peer.revocations.head(ISSUER))[0].seq == 1

    async def test_token_that_two_revoke_at_once_has_one_event(self, rig: Rig) -> None:
        """LOG-6: of twenty that revoke the same token on two stores one appends."""
        stores = [rig.store, await rig.peer()]
        token = issued("jti-1", exp=NumericDate(rig.clock.now() + 100))
        outcomes = await asyncio.gather(*(_revoke(stores[n % 2], token) for n in range(20)))
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
            assert await _revoke(rig.store, issued(f"jti-{n}", session=session, exp=exp)) is Admission.APPEND
        one_more = issued("one more", session=session, exp=exp)
        assert await _revoke(rig.store, one_more) is Admission.END_SESSION
        row = (await rig.store.sessions.read(ISSUER, session.rid)).session
        assert row is not None
        assert (row.ended_at, row.end_cause) == (rig.clock.now(), EndCause.LOGOUT)
        assert await _revoke(rig.store, one_more) is Admission.END_SESSION
        assert await _revoke(rig.store, issued("other", session=other, exp=exp)) is Admission.APPEND
        kinds = [entry.event.kind for entry in await read_log(rig.store)]
        assert kinds == [Kind.JTI] * JTI_A_SESSION + [Kind.RID, Kind.JTI]

    async def test_tokens_of_an_unknown_session_count_for_their_client(self, rig: Rig) -> None:
        """LOG-6: a session that is gone cannot be ended, so no revocation is swallowed by it."""
        user, client = await rig.someone()
        session, _ = rig.new_session(user, client)
        exp = session.last_exp
        for n in range(JTI_A_SESSION + 1):
            assert await _revoke(rig.store, issued(f"jti-{n}", session=session, exp=exp)) is Admission.APPEND
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
        assert await _revoke(rig.store, one_more) is Admission.REFUSE
        assert not await rig.store.revocations.is_revoked(ISSUER, one_more.jti)
        theirs = issued("theirs", client_id="till", exp=late)
        assert await _revoke(rig.store, theirs) is Admission.APPEND
        rig.clock.advance(denied_until(early, TIMING) - rig.clock.now())
        assert await _revoke(rig.store, one_more) is Admission.APPEND

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
