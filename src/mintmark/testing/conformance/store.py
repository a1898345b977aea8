"""The clauses of :mod:`mintmark.ports.store`, one test each; every store runs all of them.

A test class for an implementation inherits the suite and gives it a fixture ``rig``.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from mintmark.core.keyring import Ring
from mintmark.core.sessions import EndCause, Redeem
from mintmark.errors import StoreUnavailable
from mintmark.ports.budget import Budget, charged
from mintmark.ports.outbox import LogoutNotice
from mintmark.ports.revocations import IssuedToken
from mintmark.ports.store import Store
from mintmark.testing.clock import FakeClock
from mintmark.testing.conformance.rig import ISSUER, OTHER, PASSWORD_HASH, TIMING, Rig, read_log
from mintmark.units import ClientId, Jti, NodeId, NumericDate, Rid, Seconds, Sub

_SUB, _CLIENT, _RID, _NODE = Sub("usr_alice"), ClientId("shop"), Rid("rid"), NodeId("node")


def _operations(rig: Rig, store: Store) -> dict[str, Callable[[], Awaitable[object]]]:
    """Every operation of a store, ready to be called."""
    session, token = rig.new_session(rig.user(), rig.client())
    change = Redeem(before=session, after=session, token=token, rotated=False)
    ring, logs, users = store.keyring, store.revocations, store.directory
    kept, outbox = store.sessions, store.outbox
    issued = IssuedToken(jti=Jti("jti"), client_id=_CLIENT, rid=_RID, exp=session.last_exp)
    notice = LogoutNotice(
        issuer=ISSUER,
        rid=_RID,
        client_id=_CLIENT,
        sub=_SUB,
        ended_at=NumericDate(0),
        uri="https://shop.example.com/out",
        attempts=0,
        expires_at=NumericDate(0),
    )
    return {
        "now": store.now,
        "ring.read": lambda: ring.read(ISSUER),
        "ring.swap": lambda: ring.swap(0, Ring(issuer=ISSUER, generation=1)),
        "ring.beat": lambda: ring.beat(ISSUER, _NODE, ring_generation=0),
        "ring.leave": lambda: ring.leave(ISSUER, _NODE),
        "ring.timing": lambda: ring.timing(ISSUER),
        "ring.swap_timing": lambda: ring.swap_timing(ISSUER, expected=0, document=b"{}"),
        "sessions.start": lambda: kept.start(session, user=rig.user()),
        "sessions.read": lambda: kept.read(ISSUER, _RID),
        "sessions.redeem": lambda: kept.redeem(change),
        "sessions.end": lambda: kept.end(ISSUER, _RID, cause=EndCause.LOGOUT, timing=TIMING),
        "sessions.end_all": lambda: kept.end_all(ISSUER, _SUB, cause=EndCause.LOGOUT, timing=TIMING),
        "sessions.list": lambda: kept.list(ISSUER),
        "sessions.prune": lambda: kept.prune(ISSUER),
        "log.read": lambda: logs.read(ISSUER, None, limit=1),
        "log.head": lambda: logs.head(ISSUER),
        "log.prune": lambda: logs.prune(ISSUER),
        "log.revoke_token": lambda: logs.revoke_token(ISSUER, issued, cause="test", timing=TIMING),
        "log.is_revoked": lambda: logs.is_revoked(ISSUER, issued.jti),
        "log.revoke_client": lambda: logs.revoke_client(ISSUER, _CLIENT, cause="test", timing=TIMING),
        "log.revoke_all": lambda: logs.revoke_all(ISSUER, cause="test", timing=TIMING),
        "log.end_revoked": lambda: logs.end_revoked(ISSUER, timing=TIMING),
        "outbox.claim": lambda: outbox.claim(ISSUER, _NODE, span=Seconds(1), limit=1),
        "outbox.settle": lambda: outbox.settle(notice, _NODE),
        "outbox.postpone": lambda: outbox.postpone(notice, _NODE, span=Seconds(1)),
        "outbox.expire": lambda: outbox.expire(ISSUER),
        "outbox.pending": lambda: outbox.pending(ISSUER),
        "directory.add_user": lambda: users.add_user(rig.user()),
        "directory.user_named": lambda: users.user_named(ISSUER, "alice"),
        "directory.user": lambda: users.user(ISSUER, _SUB),
        "directory.users": lambda: users.users(ISSUER),
        "directory.disable_user": lambda: users.disable_user(ISSUER, _SUB, timing=TIMING),
        "directory.remove_user": lambda: users.remove_user(ISSUER, _SUB),
        "directory.set_password": lambda: users.set_password(ISSUER, _SUB, PASSWORD_HASH, timing=TIMING),
        "directory.lock_user": lambda: users.lock_user(ISSUER, _SUB, None),
        "directory.rehash_password": lambda: users.rehash_password(rig.user(), PASSWORD_HASH),
        "directory.add_client": lambda: users.add_client(rig.client()),
        "directory.client": lambda: users.client(ISSUER, _CLIENT),
        "directory.clients": lambda: users.clients(ISSUER),
        "directory.set_client_secret": lambda: users.set_client_secret(ISSUER, _CLIENT, bytes(32)),
        "directory.set_backchannel_logout_uri": lambda: users.set_backchannel_logout_uri(
            ISSUER, _CLIENT, None
        ),
        "directory.remove_client": lambda: users.remove_client(ISSUER, _CLIENT, timing=TIMING),
    }


class StoreConformance:
    """STORE-1 to STORE-7."""

    async def test_what_returned_is_there_for_every_store_afterwards(self, rig: Rig) -> None:
        """STORE-1: what one store answered, another one reads, and so does one that opens after a close."""
        user, client = await rig.someone()
        session, _ = await rig.logged_in(user, client)
        peer = await rig.peer()
        await rig.store.close()
        for store in (peer, await rig.peer()):
            assert (await store.sessions.read(ISSUER, session.rid)).session == session
            assert await store.directory.user(ISSUER, user.sub) == user
            assert await store.directory.client(ISSUER, client.client_id) == client

    async def test_operation_that_raises_leaves_nothing_half_done(self, rig: Rig) -> None:
        """STORE-1: a store that is closed in the middle of logouts has done each of them whole or not."""
        user, client = await rig.someone()
        started = [await rig.logged_in(user, client) for _ in range(20)]
        peer = await rig.peer()
        ending = [
            asyncio.ensure_future(
                rig.store.sessions.end(ISSUER, session.rid, cause=EndCause.LOGOUT, timing=TIMING)
            )
            for session, _ in started
        ]
        await asyncio.sleep(0)
        await rig.store.close()
        answers = await asyncio.gather(*ending, return_exceptions=True)
        assert all(answer is True or isinstance(answer, StoreUnavailable) for answer in answers)
        ended = set()
        for (session, _), answer in zip(started, answers, strict=True):
            row = (await peer.sessions.read(ISSUER, session.rid)).session
            assert row is not None
            assert row.ended_at is not None or answer is not True
            ended |= {session.rid} if row.ended_at is not None else set()
        assert {entry.event.value for entry in await read_log(peer)} == ended

    async def test_store_that_is_not_open_is_unavailable_for_every_operation(self, rig: Rig) -> None:
        """STORE-2: before open and after close each operation raises StoreUnavailable and nothing else."""
        unopened = rig.closed()
        await rig.store.close()
        await rig.store.close()
        for store in (unopened, rig.store):
            for name, operation in _operations(rig, store).items():
                (outcome,) = await asyncio.gather(operation(), return_exceptions=True)
                assert isinstance(outcome, StoreUnavailable), name

    async def test_request_without_time_is_refused_every_operation(self, rig: Rig) -> None:
        """STORE-7: once its seconds are spent each operation raises StoreUnavailable, and nothing is done."""
        clock = FakeClock()
        for name, operation in _operations(rig, rig.store).items():
            budget = Budget(clock, 1)
            with budget.covering():
                with charged(1):
                    clock.advance(1)
                (outcome,) = await asyncio.gather(operation(), return_exceptions=True)
            assert isinstance(outcome, StoreUnavailable), name
        view = await rig.store.keyring.read(ISSUER)
        assert (view.ring, view.members) == (Ring(issuer=ISSUER), ())
        assert await rig.store.directory.users(ISSUER) == ()
        assert await rig.store.directory.clients(ISSUER) == ()

    async def test_all_nodes_have_one_clock(self, rig: Rig) -> None:
        """STORE-3: two stores give one time, also as part of what they read and write."""
        peer = await rig.peer()
        first = await rig.store.now()
        rig.clock.advance(1_000)
        assert await rig.store.now() == await peer.now() == first + 1_000
        assert await rig.store.keyring.beat(ISSUER, _NODE, ring_generation=0) == first + 1_000
        view = await peer.keyring.read(ISSUER)
        assert view.now == view.members[0].seen_at == first + 1_000
        assert (await peer.sessions.read(ISSUER, _RID)).now == first + 1_000
        assert (await peer.revocations.head(ISSUER))[1] == first + 1_000

    async def test_issuers_do_not_see_each_other(self, rig: Rig) -> None:
        """STORE-4: nothing of one issuer is read, changed or ended under another's name."""
        store = rig.store
        user = await rig.added_user()
        client = replace(rig.client(), backchannel_logout_uri="https://shop.example.com/out")
        await store.directory.add_client(client)
        session, _ = await rig.logged_in(user, client)
        ended, _ = await rig.logged_in(user, client)
        await store.sessions.end(ISSUER, ended.rid, cause=EndCause.LOGOUT, timing=TIMING)
        await store.keyring.swap(0, Ring(issuer=ISSUER, generation=1, keys=(rig.key("kid"),)))
        await store.keyring.beat(ISSUER, _NODE, ring_generation=1)
        await store.keyring.swap_timing(ISSUER, expected=0, document=b"{}")

        view = await store.keyring.read(OTHER)
        assert (view.ring, view.members) == (Ring(issuer=OTHER), ())
        assert await store.keyring.timing(OTHER) is None
        assert (await store.sessions.read(OTHER, session.rid)).session is None
        assert await store.sessions.list(OTHER) == ()
        assert await read_log(store, OTHER) == ()
        assert await store.directory.users(OTHER) == ()
        assert await store.directory.clients(OTHER) == ()
        assert await store.directory.user(OTHER, user.sub) is None
        assert await store.directory.user_named(OTHER, user.username) is None
        assert await store.directory.client(OTHER, client.client_id) is None

        cause = EndCause.ADMIN
        assert not await store.sessions.end(OTHER, session.rid, cause=cause, timing=TIMING)
        assert await store.sessions.end_all(OTHER, user.sub, cause=cause, timing=TIMING) == ()
        assert await store.outbox.pending(OTHER) == 0
        assert await store.outbox.claim(OTHER, _NODE, span=Seconds(1), limit=1) == ()
        await store.revocations.revoke_all(OTHER, cause="admin", timing=TIMING, sessions=True)
        await store.revocations.revoke_client(OTHER, client.client_id, cause="admin", timing=TIMING)
        assert await store.revocations.end_revoked(OTHER, timing=TIMING) == 0
        await store.keyring.leave(OTHER, _NODE)
        namesake = await rig.added_user(issuer=OTHER)
        shop = await rig.added_client(issuer=OTHER)
        await store.directory.disable_user(OTHER, namesake.sub, timing=TIMING)
        await store.directory.remove_client(OTHER, shop.client_id, timing=TIMING)
        rig.clock.advance(TIMING.access_ttl)
        assert await store.revocations.prune(OTHER) == await store.sessions.prune(OTHER) == 0

        assert (await store.sessions.read(ISSUER, session.rid)).session == session
        assert await store.directory.user(ISSUER, user.sub) == user
        assert await store.directory.clients(ISSUER) == (client,)
        assert [entry.event.value for entry in await read_log(store)] == [ended.rid]
        assert [
            notice.rid for notice in await store.outbox.claim(ISSUER, _NODE, span=Seconds(1), limit=9)
        ] == [ended.rid]
        assert len((await store.keyring.read(ISSUER)).members) == 1

    async def test_cursor_of_one_issuer_is_none_of_another(self, rig: Rig) -> None:
        """STORE-4, LOG-3: logs that are as long as each other are told apart."""
        (here, _), (there, _) = (
            await rig.store.revocations.head(ISSUER),
            await rig.store.revocations.head(OTHER),
        )
        assert here.seq == there.seq == 0
        assert here.mark != there.mark

    async def test_many_may_open_at_once(self, rig: Rig) -> None:
        """STORE-5: ten stores that open together, and one that opens twice, all work on the same data."""
        stores = [rig.closed() for _ in range(10)]
        try:
            await asyncio.gather(*(store.open() for store in stores))
            await stores[0].open()
            await stores[0].directory.add_user(rig.user())
            for store in stores:
                assert await store.directory.user(ISSUER, rig.user().sub) == rig.user()
        finally:
            await asyncio.gather(*(store.close() for store in stores))

    async def test_name_that_no_database_holds_is_absent(self, rig: Rig) -> None:
        """STORE-6: text that is no text to a database is the name of nothing, and no failure of the store."""
        store = rig.store
        for name in ("a\0b", "\ud800", "\udcff"):
            assert await store.directory.user_named(ISSUER, name) is None
            assert await store.directory.user(ISSUER, Sub(name)) is None
            assert await store.directory.client(ISSUER, ClientId(name)) is None
            view = await store.sessions.read(ISSUER, Rid(name))
            assert view.session is None
            assert view.now == rig.clock.now()
            assert not await store.revocations.is_revoked(ISSUER, Jti(name))
            ended = await store.sessions.end(ISSUER, Rid(name), cause=EndCause.ADMIN, timing=TIMING)
            assert ended is False
