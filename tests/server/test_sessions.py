"""Log in, refresh, log out as use cases: the races that HTTP cannot stage, and what is reported."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import argon2
import pytest
from tests.http.surface import ALICE, PASSWORD, Surface, client, password_hash, surface, user

from mintmark.adapters.memory import MemoryStore
from mintmark.core import base64url
from mintmark.core.directory import Client
from mintmark.core.events import EventName
from mintmark.core.sessions import EndCause, parse
from mintmark.errors import (
    InvalidCredentials,
    InvalidGrant,
    InvalidToken,
    NotReady,
    StoreDamaged,
    StoreUnavailable,
    UnauthorizedClient,
)
from mintmark.server.issuing import AccessTokenIssued
from mintmark.server.sessions import SessionTokens, _request
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults
from mintmark.units import NumericDate, Rid, Seconds

SPA = client("spa")


class Node:
    """A node whose sessions are used directly, and the faults of its store."""

    def __init__(self, surface: Surface, faults: Faults) -> None:
        self.surface = surface
        self.faults = faults
        self.sessions = surface.services.sessions
        self.counts = surface.services.audit.counts

    async def log_in(
        self, *, username: str = "alice", password: str = PASSWORD, who: Client = SPA
    ) -> SessionTokens:
        return await self.sessions.log_in(who, username=username, password=password)

    async def pass_time(self, span: int) -> None:
        assert isinstance(self.surface.clock, FakeClock)
        self.surface.clock.advance(span)
        await self.surface.extend(self.surface.kid)
        await self.surface.services.ring.refresh()


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    clock = FakeClock()
    faults = Faults(clock=clock)
    async with surface(clock=clock, faults=faults) as running:
        yield Node(running, faults)


async def weak_user(node: Node) -> None:
    """Bob, whose password is hashed as it was long ago."""
    weak = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    await node.surface.store.directory.add_user(user(weak, name="bob"))


# --- log in --------------------------------------------------------------------------------------


async def test_weak_hash_is_renewed_by_a_log_in(node: Node):
    """After a log-in the password is hashed under today's parameters, and works as before (PW5)."""
    await weak_user(node)
    await node.log_in(username="bob")
    stored = await node.surface.store.directory.user_named(node.surface.issuer, "bob")
    assert stored is not None
    assert "m=19456" in stored.password_hash
    await node.log_in(username="bob")


@pytest.mark.parametrize("where", ["before", "after"])
async def test_old_password_opens_nothing_once_it_was_changed(node: Node, where):
    """A password that is changed while the old one is being renewed ends the log-in with the old one (R5)."""
    await weak_user(node)
    hold = node.faults.hold_before if where == "before" else node.faults.hold_after
    gate = hold("directory.rehash_password")
    logging_in = asyncio.ensure_future(node.log_in(username="bob"))
    await gate.reached()
    new = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("another password")
    bob = user("", name="bob").sub
    await node.surface.store.directory.set_password(
        node.surface.issuer, bob, new, timing=node.surface.services.timing
    )
    gate.open()
    with pytest.raises(InvalidCredentials):
        await logging_in
    assert await node.surface.store.sessions.list(node.surface.issuer) == ()


async def test_two_log_ins_that_renew_one_hash_both_succeed(node: Node):
    """Whoever renews the hash second finds it renewed, and is let in."""
    await weak_user(node)
    gate = node.faults.hold_before("directory.rehash_password")
    both = [asyncio.ensure_future(node.log_in(username="bob")) for _ in range(2)]
    await gate.reached(2)
    gate.open()
    one, two = await asyncio.gather(*both)
    assert one.rid != two.rid


@pytest.mark.parametrize("change", ["disabled", "password", "client"])
async def test_change_while_the_password_is_compared_ends_the_log_in(node: Node, change):
    """Whatever is disabled, changed or removed just before the session is written ends it (SESSION-5)."""
    gate = node.faults.hold_before("sessions.start")
    logging_in = asyncio.ensure_future(node.log_in())
    await gate.reached()
    directory, timing, issuer = (
        node.surface.store.directory,
        node.surface.services.timing,
        node.surface.issuer,
    )
    match change:
        case "disabled":
            await directory.disable_user(issuer, ALICE, timing=timing)
        case "password":
            await directory.set_password(issuer, ALICE, "other", timing=timing)
        case "client":
            await directory.remove_client(issuer, SPA.client_id, timing=timing)
    gate.open()
    with pytest.raises(InvalidCredentials):
        await logging_in
    assert node.counts[EventName.LOGIN_FAILED] == 1
    assert node.counts[EventName.SESSION_STARTED] == 0


async def test_refused_log_ins_do_the_same_work(node: Node, monkeypatch):
    """Unknown, wrong, disabled and locked: one comparison each, with whatever, and the same questions to the
    store (PW8, PW12)."""
    now = node.surface.clock.now()
    directory = node.surface.store.directory
    await directory.add_user(user(password_hash(), name="gone", disabled_at=now))
    await directory.add_user(user(password_hash(), name="locked", locked_until=NumericDate(now + 1)))
    compared = []
    verify = argon2.PasswordHasher.verify

    def count(self: argon2.PasswordHasher, stored: str, password: str) -> bool:
        compared.append(password)
        return verify(self, stored, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", count)
    for username, password in (
        ("nobody", "x"),
        ("alice", "x"),
        ("a\0", "x"),
        ("gone", PASSWORD),
        ("locked", PASSWORD),
        ("locked", "x"),
        ("alice", "\ud800"),
        ("", ""),
    ):
        before = len(compared)
        node.faults.calls.clear()
        with pytest.raises(InvalidCredentials):
            await node.log_in(username=username, password=password)
        assert len(compared) == before + 1
        asked = {name: n for name, n in node.faults.calls.items() if name[:3] in ("dir", "ses", "now")}
        assert asked == {"directory.user_named": 1, "now": 1}


async def test_third_party_client_sends_no_passwords(node: Node):
    """Only a first-party client may log users in, and is told so before anything is looked up."""
    node.faults.calls.clear()
    with pytest.raises(UnauthorizedClient):
        await node.log_in(who=client("other", first_party=False))
    assert node.faults.calls == {}


# --- refresh -------------------------------------------------------------------------------------


async def test_theft_ends_the_session_once_and_is_reported(node: Node):
    """A spent token that comes back after the grace ends the family, with one event (R2 iv)."""
    first = (await node.log_in()).refresh_token
    second = (await node.sessions.refresh(SPA, first)).refresh_token
    await node.pass_time(31)
    third = (await node.sessions.refresh(SPA, second)).refresh_token
    await node.pass_time(31)
    for token in (first, first, second, third):
        with pytest.raises(InvalidGrant):
            await node.sessions.refresh(SPA, token)
    assert node.counts[EventName.SESSION_STOLEN] == 1
    assert node.counts[EventName.SESSION_ENDED] == 1
    page = await node.surface.services.feed.page(None)
    assert [entry.cause for entry in page.entries] == ["theft"]  # type: ignore[union-attr]


async def test_forged_token_with_a_right_rid_changes_nothing(node: Node):
    """A stranger who knows a ``rid`` can neither refresh nor end its session (R3)."""
    tokens = await node.log_in()
    raw = bytearray(base64url.decode(tokens.refresh_token.removeprefix("mmr_")))
    raw[-1] ^= 1
    forgery = "mmr_" + base64url.encode(bytes(raw))
    assert parse(forgery) is not None
    with pytest.raises(InvalidGrant):
        await node.sessions.refresh(SPA, forgery)
    with pytest.raises(InvalidToken):
        await node.sessions.log_out(forgery)
    assert (await node.sessions.refresh(SPA, tokens.refresh_token)).rid == tokens.rid


async def test_store_that_went_back_is_an_alarm_and_no_theft(node: Node):
    """A genuine generation above the row's is refused and reported as such; the session is not ended (R7)."""
    store = node.surface.store
    assert isinstance(store, MemoryStore)
    first = (await node.log_in()).refresh_token
    backup = store.data.backup()
    second = (await node.sessions.refresh(SPA, first)).refresh_token
    store.data.restore(backup)
    with pytest.raises(InvalidGrant):
        await node.sessions.refresh(SPA, second)
    assert node.counts[EventName.STORE_WENT_BACK] == 1
    assert node.counts[EventName.SESSION_STOLEN] == 0
    assert (await node.sessions.refresh(SPA, first)).refresh_token == second


async def test_row_that_was_tampered_with_is_ours(node: Node):
    """A row whose sealed key does not fit its own token is our damage: 503, never ``invalid_grant``."""
    store = node.surface.store
    assert isinstance(store, MemoryStore)
    tokens = await node.log_in()
    key = (node.surface.issuer, tokens.rid)
    store.data.sessions[key] = replace(store.data.sessions[key], sealed=bytes(60))
    with pytest.raises(StoreDamaged):
        await node.sessions.refresh(SPA, tokens.refresh_token)


async def test_session_that_changes_at_each_attempt_is_unavailable(node: Node):
    """A redemption that loses again and again ends as 503, not as a refusal and not as a loop."""
    tokens = await node.log_in()

    class Losing:
        """Sessions whose redemption is always a moment late."""

        def __getattr__(self, name: str) -> object:
            return getattr(node.surface.store.sessions, name)

        async def redeem(self, change: object) -> bool:
            return False

    class Store:
        sessions = Losing()

        def __getattr__(self, name: str) -> object:
            return getattr(node.surface.store, name)

    node.sessions._store = Store()  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable):
        await node.sessions.refresh(SPA, tokens.refresh_token)


async def test_scope_shrinks_with_the_client_and_the_user(node: Node):
    """A scope that the client lost since the log-in is not in the next token (R6)."""
    tokens = await node.log_in()
    narrowed = client("spa", scopes=("orders:read",))
    refreshed = await node.sessions.refresh(narrowed, tokens.refresh_token)
    assert refreshed.access.scope == ("orders:read",)


async def test_client_that_lost_every_audience_gets_no_token(node: Node):
    """A session for an audience that its client has no more is refused, whatever else the client has."""
    tokens = await node.log_in()
    with pytest.raises(InvalidGrant):
        await node.sessions.refresh(client("spa", audiences=("other",)), tokens.refresh_token)


async def test_access_token_never_outlives_its_session(node: Node):
    """Near the absolute end of a session its tokens get shorter (RF3)."""
    tokens = await node.log_in()
    session = (await node.surface.store.sessions.read(node.surface.issuer, tokens.rid)).session
    assert session is not None
    end = NumericDate(node.surface.clock.now() + 60)
    planned = node.sessions._issuing.plan(_request(session, (), ("orders",)), not_after=end)
    assert planned.minting.exp <= end


# --- log out -------------------------------------------------------------------------------------


async def test_log_out_tells_whether_it_ended_the_session(node: Node):
    """True once, False for a session that had ended, InvalidToken for a token that is none."""
    tokens = await node.log_in()
    assert await node.sessions.log_out(tokens.refresh_token) is True
    assert await node.sessions.log_out(tokens.refresh_token) is False
    assert await node.sessions.end(tokens.rid, EndCause.ADMIN) is False
    for token in ("", "mmr_", "mmr_" + "A" * 112):
        with pytest.raises(InvalidToken):
            await node.sessions.log_out(token)


@pytest.mark.parametrize("jump", [3_600, 20 * 86_400, -3_600])
async def test_clock_of_the_store_that_jumped_logs_nobody_out(node: Node, monkeypatch, jump):
    """I8, F14: while the clocks disagree, refreshes and logouts are answered «later», and change nothing."""
    tokens = await node.log_in()
    store = node.surface.clock
    assert isinstance(store, FakeClock)
    machine = FakeClock(store.now())
    store.step(jump)
    with monkeypatch.context() as patch:
        patch.setattr(node.surface.services.sessions._issuing, "_clock", machine)
        with pytest.raises(NotReady):
            await node.sessions.refresh(SPA, tokens.refresh_token)
        with pytest.raises(NotReady):
            await node.sessions.log_out(tokens.refresh_token)
    store.step(-jump)
    assert (await node.sessions.refresh(SPA, tokens.refresh_token)).rid == tokens.rid
    assert node.counts[EventName.SESSION_ENDED] == 0


async def test_every_generation_can_log_out(node: Node):
    """Also a token that was spent days ago is genuine, and may end the session it belongs to."""
    tokens = await node.log_in()
    newest = tokens.refresh_token
    for _ in range(3):
        newest = (await node.sessions.refresh(SPA, newest)).refresh_token
        await node.pass_time(31)
    assert await node.sessions.log_out(tokens.refresh_token) is True
    with pytest.raises(InvalidGrant):
        await node.sessions.refresh(SPA, newest)


def test_tokens_do_not_print_themselves():
    """No token is in the repr of an answer."""
    issued = SessionTokens(
        AccessTokenIssued("secret-a", Seconds(1), ()), "secret-b", Rid("r"), lasts=Seconds(1)
    )
    assert "secret" not in repr(issued)
