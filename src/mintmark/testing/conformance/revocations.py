"""The clauses of :mod:`mintmark.ports.revocations`, one test each; every store runs all of them."""

import asyncio
from collections.abc import Awaitable

import pytest

from mintmark.core.keyring import Ring
from mintmark.core.log import (
    Cursor,
    LogPage,
    parse_cursor,
)
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.sessions import EndCause
from mintmark.ports.revocations import CursorGone
from mintmark.ports.store import Store
from mintmark.testing.conformance.revoking import issued, revoke
from mintmark.testing.conformance.rig import ISSUER, OTHER, TIMING, Rig, read_log
from mintmark.units import ClientId, Issuer, NumericDate


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


class LogConformance:
    """LOG-1 to LOG-5."""

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
                revoke(stores[n % 2], issued(f"jti-{n}", exp=until)),
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
