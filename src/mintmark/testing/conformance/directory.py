"""The clauses of :mod:`mintmark.ports.directory`, one test each; every store runs all of them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from mintmark.core.revocation import Kind
from mintmark.core.sessions import EndCause
from mintmark.errors import Conflict, NotFound
from mintmark.testing.conformance.rig import ISSUER, OTHER, TIMING, Rig, read_log
from mintmark.units import ClientId, NumericDate, Sub

NEW_HASH = "$argon2id$second"


class DirectoryConformance:
    """DIRECTORY-1 to DIRECTORY-5."""

    async def test_name_and_subject_are_unique_in_their_issuer(self, rig: Rig) -> None:
        """DIRECTORY-1: a second user of a name or of a subject is Conflict, also one who was disabled."""
        directory = rig.store.directory
        user = await rig.added_user()
        with pytest.raises(Conflict):
            await directory.add_user(replace(user, sub=Sub("usr_2")))
        await directory.disable_user(ISSUER, user.sub, timing=TIMING)
        with pytest.raises(Conflict):
            await directory.add_user(replace(user, username="alice2"))
        await rig.added_user(issuer=OTHER)
        assert len(await directory.users(ISSUER)) == 1

    async def test_client_id_is_unique_in_its_issuer(self, rig: Rig) -> None:
        """DIRECTORY-1: a second client of an id is Conflict; once it was removed the id is free."""
        directory = rig.store.directory
        client = await rig.added_client()
        with pytest.raises(Conflict):
            await directory.add_client(replace(client, name="Other"))
        assert await directory.client(ISSUER, client.client_id) == client
        await directory.remove_client(ISSUER, client.client_id, timing=TIMING)
        await directory.add_client(replace(client, name="Other"))

    async def test_of_two_that_add_one_name_one_wins(self, rig: Rig) -> None:
        """DIRECTORY-1: ten nodes that add the same user at once make one; so with a client."""
        stores = [rig.store, await rig.peer()]
        users = (
            stores[n % 2].directory.add_user(replace(rig.user(), sub=Sub(f"usr_{n}"))) for n in range(10)
        )
        clients = (
            stores[n % 2].directory.add_client(replace(rig.client(), name=f"Shop {n}")) for n in range(10)
        )
        for adding in (users, clients):
            outcomes = await asyncio.gather(*adding, return_exceptions=True)
            assert outcomes.count(None) == 1
            assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 9
        assert len(await rig.store.directory.users(ISSUER)) == 1
        assert len(await rig.store.directory.clients(ISSUER)) == 1

    async def test_disabled_user_has_no_session(self, rig: Rig) -> None:
        """DIRECTORY-2, RF8: every session ends with its event; disabling twice changes nothing."""
        user, client = await rig.someone()
        mine = [await rig.logged_in(user, client) for _ in range(3)]
        await rig.store.sessions.end(ISSUER, mine[0][0].rid, cause=EndCause.LOGOUT, timing=TIMING)
        now = rig.clock.now()
        assert await rig.store.directory.disable_user(ISSUER, user.sub, timing=TIMING) == 2
        rig.clock.advance(1)
        assert await rig.store.directory.disable_user(ISSUER, user.sub, timing=TIMING) == 0
        assert await rig.store.directory.user(ISSUER, user.sub) == replace(user, disabled_at=now)
        assert await rig.store.sessions.list(ISSUER) == ()
        causes = {entry.event.value: entry.cause for entry in await read_log(rig.store)}
        assert causes == {mine[0][0].rid: "logout"} | {s.rid: "user_disabled" for s, _ in mine[1:]}

    async def test_disabled_user_can_be_removed(self, rig: Rig) -> None:
        """DIRECTORY-5: who is not disabled stays; who is goes, at this issuer alone, and frees the name."""
        user, client = await rig.someone()
        bob = await rig.added_user("bob")
        session, _ = await rig.logged_in(user, client)
        directory = rig.store.directory
        with pytest.raises(NotFound):
            await directory.remove_user(ISSUER, user.sub)
        assert await rig.store.sessions.list(ISSUER) == (session,)
        await directory.disable_user(ISSUER, user.sub, timing=TIMING)
        with pytest.raises(NotFound):
            await directory.remove_user(OTHER, user.sub)
        await directory.remove_user(ISSUER, user.sub)
        assert await directory.users(ISSUER) == (bob,)
        assert await directory.user(ISSUER, user.sub) is None
        with pytest.raises(NotFound):
            await directory.remove_user(ISSUER, user.sub)
        await directory.add_user(user)
        assert await directory.user_named(ISSUER, user.username) == user

    async def test_new_password_ends_every_session(self, rig: Rig) -> None:
        """DIRECTORY-2, I6: a changed password logs everyone out; storing the same one anew does not."""
        user, client = await rig.someone()
        bob = await rig.added_user("bob")
        session, _ = await rig.logged_in(user, client)
        other, _ = await rig.logged_in(bob, client)
        rig.clock.advance(5)
        assert await rig.store.directory.rehash_password(user, "$argon2id$stronger")
        assert not await rig.store.directory.rehash_password(user, "$argon2id$late")
        rehashed = replace(user, password_hash="$argon2id$stronger")  # noqa: S106 - nobody's
        assert await rig.store.directory.user(ISSUER, user.sub) == rehashed
        assert await read_log(rig.store) == ()

        assert await rig.store.directory.set_password(ISSUER, user.sub, NEW_HASH, timing=TIMING) == 1
        changed = replace(user, password_hash=NEW_HASH, password_changed_at=rig.clock.now())
        assert await rig.store.directory.user_named(ISSUER, user.username) == changed
        (entry,) = await read_log(rig.store)
        assert (entry.event.value, entry.cause) == (session.rid, "password_changed")
        assert await rig.store.sessions.list(ISSUER) == (other,)

    async def test_removed_client_has_no_session(self, rig: Rig) -> None:
        """DIRECTORY-2, DIRECTORY-4: its sessions end, with one event for all that it had; others' live on."""
        user, client = await rig.someone()
        other = await rig.added_client("till")
        session, _ = await rig.logged_in(user, client)
        kept, _ = await rig.logged_in(user, other)
        assert await rig.store.directory.remove_client(ISSUER, client.client_id, timing=TIMING) == 1
        assert await rig.store.directory.clients(ISSUER) == (other,)
        (entry,) = await read_log(rig.store)
        assert (entry.event.kind, entry.event.value) == (Kind.CLIENT, client.client_id)
        assert entry.cause == "client_removed"
        assert entry.event.not_before == rig.clock.now() + 1 + TIMING.clock_skew + TIMING.propagation
        row = (await rig.store.sessions.read(ISSUER, session.rid)).session
        assert row is not None
        assert (row.ended_at, row.end_cause) == (rig.clock.now(), EndCause.CLIENT_REMOVED)
        assert await rig.store.sessions.list(ISSUER) == (kept,)

    async def test_client_without_sessions_is_denied_too(self, rig: Rig) -> None:
        """DIRECTORY-4: what it was given in its own name is no session's, and no good after it is gone."""
        client = await rig.added_client()
        assert await rig.store.directory.remove_client(ISSUER, client.client_id, timing=TIMING) == 0
        (entry,) = await read_log(rig.store)
        assert (entry.event.kind, entry.event.value) == (Kind.CLIENT, client.client_id)

    @pytest.mark.parametrize("change", ["disable", "password", "client"])
    async def test_session_started_meanwhile_does_not_survive(self, rig: Rig, change: str) -> None:
        """DIRECTORY-2, SESSION-5, F29: of logins that race the change none is live once both are done."""
        peer = await rig.peer()
        for _ in range(15):
            user = await rig.added_user(f"user-{rig.entropy.token_bytes(8).hex()}")
            client = await rig.added_client(f"client-{rig.entropy.token_bytes(8).hex()}")
            news = [rig.new_session(user, client) for _ in range(4)]
            directory = peer.directory
            changes: dict[str, Callable[[], Awaitable[int]]] = {
                "disable": lambda d=directory, u=user: d.disable_user(ISSUER, u.sub, timing=TIMING),  # type: ignore[misc]
                "password": lambda d=directory, u=user: d.set_password(
                    ISSUER, u.sub, NEW_HASH, timing=TIMING
                ),  # type: ignore[misc]
                "client": lambda d=directory, c=client: d.remove_client(ISSUER, c.client_id, timing=TIMING),  # type: ignore[misc]
            }
            started = [rig.store.sessions.start(session, user=user) for session, _ in news]
            *answers, ended = await asyncio.gather(*started[:2], changes[change](), *started[2:])
            del answers, ended
            assert await rig.store.sessions.list(ISSUER, sub=user.sub) == ()

    async def test_rows_are_read_as_they_were_written(self, rig: Rig) -> None:
        """DIRECTORY-3: by each key they have, in order, and None where there is nothing."""
        directory = rig.store.directory
        bob, alice = await rig.added_user("bob"), await rig.added_user("alice")
        till, shop = await rig.added_client("till"), await rig.added_client("shop")
        public = replace(
            rig.client("app"),
            secret_hash=None,
            first_party=False,
            audiences=("a", 'b"ü'),
            rotates_refresh=False,
            origins=("https://app.example.com",),
            serves=("orders", "stock"),
            backchannel_logout_uri="https://app.example.com/out",
        )
        await directory.add_client(public)
        assert await directory.users(ISSUER) == (alice, bob)
        assert await directory.user(ISSUER, bob.sub) == await directory.user_named(ISSUER, "bob") == bob
        assert await directory.clients(ISSUER) == (public, shop, till)
        assert await directory.client(ISSUER, public.client_id) == public
        await directory.set_client_secret(ISSUER, shop.client_id, bytes(range(32)))
        assert await directory.client(ISSUER, shop.client_id) == replace(shop, secret_hash=bytes(range(32)))
        assert await directory.client(ISSUER, till.client_id) == till
        uri = "https://till.example.com/logout"
        await directory.set_backchannel_logout_uri(ISSUER, till.client_id, uri)
        assert await directory.client(ISSUER, till.client_id) == replace(till, backchannel_logout_uri=uri)
        await directory.set_backchannel_logout_uri(ISSUER, till.client_id, None)
        assert await directory.client(ISSUER, till.client_id) == replace(till, backchannel_logout_uri=None)
        until = NumericDate(rig.clock.now() + 60)
        await directory.lock_user(ISSUER, bob.sub, until)
        assert await directory.user(ISSUER, bob.sub) == replace(bob, locked_until=until)
        await directory.lock_user(ISSUER, bob.sub, None)
        assert await directory.users(ISSUER) == (alice, bob)
        assert await directory.user(ISSUER, Sub("usr_nobody")) is None
        assert await directory.user_named(ISSUER, "nobody") is None
        assert await directory.client(ISSUER, ClientId("nobody")) is None

    async def test_what_is_not_there_cannot_be_changed(self, rig: Rig) -> None:
        """DIRECTORY-3: each change of nobody is NotFound, and makes nobody."""
        directory, nobody, nothing = rig.store.directory, Sub("usr_nobody"), ClientId("nothing")
        changes: list[Callable[[], Awaitable[object]]] = [
            lambda: directory.disable_user(ISSUER, nobody, timing=TIMING),
            lambda: directory.set_password(ISSUER, nobody, NEW_HASH, timing=TIMING),
            lambda: directory.lock_user(ISSUER, nobody, NumericDate(1)),
            lambda: directory.lock_user(ISSUER, nobody, None),
            lambda: directory.set_client_secret(ISSUER, nothing, bytes(32)),
            lambda: directory.set_backchannel_logout_uri(ISSUER, nothing, None),
            lambda: directory.remove_client(ISSUER, nothing, timing=TIMING),
        ]
        for change in changes:
            with pytest.raises(NotFound):
                await change()
        assert not await directory.rehash_password(rig.user("nobody"), NEW_HASH)
        assert await directory.users(ISSUER) == ()
        assert await directory.clients(ISSUER) == ()
        assert await read_log(rig.store) == ()
