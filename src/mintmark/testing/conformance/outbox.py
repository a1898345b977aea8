"""The clauses of :mod:`mintmark.ports.outbox`, one test each; every store runs all of them."""

import asyncio
from dataclasses import replace

import pytest

from mintmark.core.directory import Client, User
from mintmark.core.sessions import EndCause, Session
from mintmark.ports.outbox import GIVEN_UP_AFTER, LogoutNotice
from mintmark.ports.revocations import IssuedToken
from mintmark.ports.store import Store
from mintmark.testing.conformance.rig import ISSUER, OTHER, TIMING, Rig
from mintmark.units import Issuer, Jti, NodeId, NumericDate, Seconds

_ONE, _TWO = NodeId("node-1"), NodeId("node-2")
_SPAN = Seconds(30)
URI = "https://shop.example.com/backchannel-logout"


async def listening(rig: Rig, client_id: str = "shop", *, issuer: Issuer = ISSUER) -> Client:
    """A client that wants to be told."""
    client = replace(rig.client(client_id, issuer=issuer), backchannel_logout_uri=f"{URI}?{client_id}")
    await rig.store.directory.add_client(client)
    return client


async def claimed(store: Store, node: NodeId = _ONE, *, limit: int = 100) -> tuple[LogoutNotice, ...]:
    return await store.outbox.claim(ISSUER, node, span=_SPAN, limit=limit)


async def _ended(rig: Rig, user: User, client: Client) -> Session:
    session, _ = await rig.logged_in(user, client)
    assert await rig.store.sessions.end(session.issuer, session.rid, cause=EndCause.LOGOUT, timing=TIMING)
    return session


class OutboxConformance:
    """OUTBOX-1 to OUTBOX-5."""

    @pytest.mark.parametrize(
        "end", ["logout", "theft", "admin", "all", "disabled", "password", "revoked", "tokens"]
    )
    async def test_whatever_ends_a_session_leaves_one_notice(self, rig: Rig, end: str) -> None:
        """OUTBOX-1: each of its causes does, and ending it again by another does not make a second one."""
        store, user, client = rig.store, await rig.added_user(), await listening(rig)
        quiet = await rig.added_client("quiet")
        session, _ = await rig.logged_in(user, client)
        await rig.logged_in(user, quiet)
        now = rig.clock.now()
        match end:
            case "logout" | "theft" | "admin":
                await store.sessions.end(ISSUER, session.rid, cause=EndCause(end), timing=TIMING)
            case "all":
                await store.sessions.end_all(ISSUER, user.sub, cause=EndCause.LOGOUT, timing=TIMING)
            case "disabled":
                await store.directory.disable_user(ISSUER, user.sub, timing=TIMING)
            case "password":
                await store.directory.set_password(ISSUER, user.sub, "$argon2id$new", timing=TIMING)
            case "revoked":
                await store.revocations.revoke_all(ISSUER, cause="admin", timing=TIMING, sessions=True)
                while await store.revocations.end_revoked(ISSUER, timing=TIMING):
                    pass
            case _:
                for n in range(17):
                    token = IssuedToken(
                        jti=Jti(f"jti-{n}"), client_id=client.client_id, rid=session.rid, exp=session.last_exp
                    )
                    await store.revocations.revoke_token(ISSUER, token, cause="revoked", timing=TIMING)
        expected = LogoutNotice(
            issuer=ISSUER,
            rid=session.rid,
            client_id=client.client_id,
            sub=user.sub,
            ended_at=now,
            uri=str(client.backchannel_logout_uri),
            attempts=0,
            expires_at=NumericDate(now + GIVEN_UP_AFTER),
        )
        await store.sessions.end_all(ISSUER, user.sub, cause=EndCause.ADMIN, timing=TIMING)
        assert await store.outbox.pending(ISSUER) == 1
        assert await claimed(store) == (expected,)

    async def test_session_that_nobody_held_is_nobodys_news(self, rig: Rig) -> None:
        """OUTBOX-1: a log-in that could not be signed, and a client that is removed, leave no notice."""
        store, user, client = rig.store, await rig.added_user(), await listening(rig)
        session, _ = await rig.logged_in(user, client)
        await store.sessions.end(ISSUER, session.rid, cause=EndCause.UNSIGNED, timing=TIMING)
        assert await store.outbox.pending(ISSUER) == 0
        await _ended(rig, user, client)
        await rig.logged_in(user, client)
        await store.directory.remove_client(ISSUER, client.client_id, timing=TIMING)
        assert await store.outbox.pending(ISSUER) == 0
        assert await claimed(store) == ()

    async def test_of_claims_that_race_one_gets_a_notice(self, rig: Rig) -> None:
        """OUTBOX-2: of twenty claims on two stores each notice is given out once."""
        user = await rig.added_user()
        stores = [rig.store, await rig.peer()]
        sessions = [await _ended(rig, user, await listening(rig, f"client-{n}")) for n in range(5)]
        claims = await asyncio.gather(
            *(claimed(stores[n % 2], NodeId(f"node-{n}"), limit=3) for n in range(20))
        )
        given = [notice.rid for claim in claims for notice in claim]
        assert sorted(given) == sorted(session.rid for session in sessions)
        assert max(map(len, claims)) <= 3

    async def test_each_client_is_told_at_its_own_address(self, rig: Rig) -> None:
        """OUTBOX-2: a notice names the address of its own client, beside others' and one that has none; so
        does one that has expired."""
        user = await rig.added_user()
        await rig.added_client("a-quiet-one")
        told = {name: await listening(rig, name) for name in ("till", "shop", "web")}
        for client in told.values():
            await _ended(rig, user, client)
        addresses = {name: client.backchannel_logout_uri for name, client in told.items()}
        assert {notice.client_id: notice.uri for notice in await claimed(rig.store)} == addresses
        rig.clock.advance(GIVEN_UP_AFTER)
        expired = await rig.store.outbox.expire(ISSUER)
        assert {notice.client_id: notice.uri for notice in expired} == addresses

    async def test_claim_ends_with_its_time(self, rig: Rig) -> None:
        """OUTBOX-2: nobody else gets it a second earlier, and then another node does."""
        user, client = await rig.added_user(), await listening(rig)
        await _ended(rig, user, client)
        (notice,) = await claimed(rig.store)
        rig.clock.advance(_SPAN - 1)
        assert await claimed(rig.store, _TWO) == ()
        rig.clock.advance(1)
        assert await claimed(rig.store, _TWO) == (notice,)
        assert await claimed(rig.store) == ()

    async def test_notices_of_one_client_go_out_in_order_and_alone(self, rig: Rig) -> None:
        """OUTBOX-3: the second waits while the first is claimed or not due; another client's does not."""
        store, user = rig.store, await rig.added_user()
        client, other = await listening(rig), await listening(rig, "till")
        ended = []
        for _ in range(3):
            ended.append(await _ended(rig, user, client))
            rig.clock.advance(1)
        theirs = await _ended(rig, user, other)
        first, second = await claimed(store)
        assert {first.rid, second.rid} == {ended[0].rid, theirs.rid}
        mine, its = (first, second) if first.rid == ended[0].rid else (second, first)
        assert await claimed(store, _TWO) == ()
        assert await store.outbox.settle(its, _ONE)
        assert await store.outbox.postpone(mine, _ONE, span=Seconds(10))
        rig.clock.advance(9)
        assert await claimed(store, _TWO) == ()
        rig.clock.advance(1)
        for session in ended:
            (notice,) = await claimed(store, _TWO)
            assert notice.rid == session.rid
            assert notice.attempts == (session is ended[0])
            assert await store.outbox.settle(notice, _TWO)
        assert await store.outbox.pending(ISSUER) == 0

    async def test_lost_claim_settles_nothing(self, rig: Rig) -> None:
        """OUTBOX-4: a node that was paused past its claim takes nothing from the one that has it now."""
        store, user, client = rig.store, await rig.added_user(), await listening(rig)
        await _ended(rig, user, client)
        (notice,) = await claimed(store)
        assert not await store.outbox.settle(notice, _TWO)
        rig.clock.advance(_SPAN)
        (again,) = await claimed(store, _TWO)
        assert not await store.outbox.settle(notice, _ONE)
        assert not await store.outbox.postpone(notice, _ONE, span=Seconds(10))
        assert await store.outbox.settle(again, _TWO)
        assert not await store.outbox.settle(again, _TWO)
        assert not await store.outbox.postpone(again, _TWO, span=Seconds(10))

    async def test_notice_is_kept_until_it_expires(self, rig: Rig) -> None:
        """OUTBOX-5: from the second of ``expires_at`` on it is claimed by nobody, and then it is removed."""
        store, user, client = rig.store, await rig.added_user(), await listening(rig)
        session = await _ended(rig, user, client)
        await _ended(rig, await rig.added_user(issuer=OTHER), await listening(rig, issuer=OTHER))
        rig.clock.advance(GIVEN_UP_AFTER - 1)
        assert await store.outbox.expire(ISSUER) == ()
        (notice,) = await claimed(store)
        assert await store.outbox.postpone(notice, _ONE, span=Seconds(0))
        rig.clock.advance(1)
        assert await claimed(store) == ()
        (gone,) = await store.outbox.expire(ISSUER)
        assert (gone.rid, gone.attempts) == (session.rid, 1)
        assert await store.outbox.pending(ISSUER) == 0
        assert await store.outbox.pending(OTHER) == 1

    async def test_notice_that_is_being_delivered_does_not_expire(self, rig: Rig) -> None:
        """OUTBOX-5: who claimed it in time says what became of it."""
        store, user, client = rig.store, await rig.added_user(), await listening(rig)
        await _ended(rig, user, client)
        rig.clock.advance(GIVEN_UP_AFTER - 1)
        (notice,) = await claimed(store)
        rig.clock.advance(1)
        assert await store.outbox.expire(ISSUER) == ()
        assert await store.outbox.settle(notice, _ONE)
