"""Relying parties are told of every session that ended, in order, at least once, by any node (RV5)."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.http.surface import ALICE, SECRET, client, password_hash, user
from tests.registry import store_rig
from tests.server.relying import World, world
from tests.server.town import town

from mintmark.core import jws
from mintmark.core.events import WARNINGS, EventName
from mintmark.core.logout_token import LOGOUT_TOKEN_TYP
from mintmark.core.peering import PeerRefusal
from mintmark.core.sessions import EndCause
from mintmark.errors import SignerUnavailable
from mintmark.ports.outbox import GIVEN_UP_AFTER, LogoutNotice, LogoutOutbox
from mintmark.ports.peer import PeerRefused
from mintmark.ports.relying_party import Answered
from mintmark.server.backchannel import CLAIM, LONGEST_PAUSE, WIDTH, Verdict, pause, verdict
from mintmark.testing.faults import Faults, FaultyStore
from mintmark.testing.origin import Fault
from mintmark.units import Issuer, NumericDate

DELIVERED = EventName.LOGOUT_NOTICE_DELIVERED
FAILED = EventName.LOGOUT_NOTICE_FAILED
REFUSED = EventName.LOGOUT_NOTICE_REFUSED
EXPIRED = EventName.LOGOUT_NOTICE_EXPIRED


# --- what is decided -----------------------------------------------------------------------------


@given(
    attempts=st.integers(0, 200),
    random=st.binary(min_size=8, max_size=8),
    retry_after=st.none() | st.integers(0, 10**7),
)
def test_pause_grows_and_stays_within_the_hour(attempts, random, retry_after):
    """An attempt follows after one second to an hour, no earlier than was asked for, and never much later
    than its turn in the doubling."""
    span = pause(attempts, random, retry_after=retry_after)
    assert 1 <= span <= LONGEST_PAUSE
    assert span >= min(retry_after or 0, LONGEST_PAUSE)
    assert span <= max(2 ** max(attempts, 1), min(retry_after or 0, LONGEST_PAUSE))


def test_pause_takes_any_length_up_to_its_most():
    """Full jitter: those that failed together come back at different times, from one second on."""
    spans = {pause(3, bytes([0] * 7 + [draw])) for draw in range(256)}
    assert spans == set(range(1, 9))


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (200, Verdict.DELIVERED),
        (204, Verdict.DELIVERED),
        (202, Verdict.DELIVERED),
        (301, Verdict.FAILED),
        (400, Verdict.REFUSED),
        (401, Verdict.FAILED),
        (404, Verdict.FAILED),
        (410, Verdict.FAILED),
        (429, Verdict.FAILED),
        (500, Verdict.FAILED),
        (503, Verdict.FAILED),
    ],
)
def test_only_a_400_is_a_refusal(status, meaning):
    """s.2.8: 400 says that the token is no good; what else is no success may be mended at the other side."""
    assert verdict(status) is meaning


# --- every cause ---------------------------------------------------------------------------------


async def by_logout(w: World, tokens: dict[str, Any]) -> None:
    assert (await w.node.log_out(tokens["access_token"])).status_code in (200, 204)


async def by_theft(w: World, tokens: dict[str, Any]) -> None:
    """The first generation comes back when the third is in use."""
    newer = tokens
    for _ in range(2):
        w.clock.advance(w.services.timing.refresh_grace + 1)
        answer = await w.node.refresh(newer["refresh_token"], client_id="shop")
        assert answer.status_code == 200, answer.text
        newer = answer.json()
    answer = await w.node.refresh(tokens["refresh_token"], client_id="shop")
    assert answer.json()["error"] == "invalid_grant"


async def by_administrator(w: World, tokens: dict[str, Any]) -> None:
    assert await w.node.store.sessions.end(
        w.node.issuer, tokens["rid"], cause=EndCause.ADMIN, timing=w.services.timing
    )


async def by_ending_all(w: World, tokens: dict[str, Any]) -> None:
    ended = await w.node.store.sessions.end_all(
        w.node.issuer, ALICE, cause=EndCause.ADMIN, timing=w.services.timing
    )
    assert tokens["rid"] in ended


async def by_password_change(w: World, _: dict[str, Any]) -> None:
    await w.node.store.directory.set_password(w.node.issuer, ALICE, "other", timing=w.services.timing)


async def by_disabling(w: World, _: dict[str, Any]) -> None:
    await w.node.store.directory.disable_user(w.node.issuer, ALICE, timing=w.services.timing)


async def by_revoking_all(w: World, _: dict[str, Any]) -> None:
    log, issuer, timing = w.node.store.revocations, w.node.issuer, w.services.timing
    await log.revoke_all(issuer, cause="admin", timing=timing, sessions=True)
    while await log.end_revoked(issuer, timing=timing):
        pass


@pytest.mark.parametrize(
    "end",
    [
        by_logout,
        by_theft,
        by_administrator,
        by_ending_all,
        by_password_change,
        by_disabling,
        by_revoking_all,
    ],
)
async def test_whatever_ends_a_session_tells_its_client_once(end: Callable[..., Any]):
    """RV5: the client hears of that session, under its ``rid``, once, and never of one that goes on."""
    async with world() as w:
        shop, other = await w.party("shop"), await w.party("other")
        await w.node.store.directory.add_user(user(password_hash(), name="bob"))
        if end is not by_revoking_all:
            await w.log_in(other, username="bob")
        tokens = await w.log_in(shop)
        await end(w, tokens)
        await w.node.bus.announce()
        teller = w.teller().start()
        await w.until(lambda: shop.taken, span=10)
        await w.quiet(CLAIM * 2)
        (claims,) = await w.read(shop)
        assert (claims["sid"], claims["sub"], claims["aud"]) == (tokens["rid"], ALICE, "shop")
        assert "s3cret" not in str(claims)
        assert other.posted == []
        assert teller.audit.counts[DELIVERED] == 1
        assert await w.pending() == 0


async def test_client_without_an_address_and_one_that_is_gone_are_told_nothing():
    """OUTBOX-5: neither leaves a notice behind that is tried for ever."""
    async with world() as w:
        gone = await w.party("gone")
        await w.log_in(gone)
        plain = await w.node.log_in()
        await by_logout(w, plain)
        await w.node.store.directory.remove_client(w.node.issuer, gone.client_id, timing=w.services.timing)
        w.teller().start()
        await w.quiet(CLAIM * 5)
        assert gone.posted == []
        assert await w.pending() == 0


# --- failures ------------------------------------------------------------------------------------


async def test_party_that_comes_back_hears_of_all_in_order():
    """At least once, OUTBOX-3: what ended while it was down is told in the order in which it ended, and each
    attempt had a token of its own."""
    async with world() as w:
        shop = await w.party()
        shop.always(500)
        teller = w.teller().start()
        rids = await w.ended(shop, 4)
        await w.until(lambda: len(shop.posted) >= 3, span=60)
        assert shop.taken == []
        tried = await w.read(shop, shop.posted)
        assert {claims["sid"] for claims in tried} == {rids[0]}
        assert len({claims["jti"] for claims in tried}) == len(tried)
        shop.always(200)
        await w.until(lambda: teller.audit.counts[DELIVERED] == 4, span=100)
        assert await w.sids(shop) == rids
        assert teller.audit.counts[FAILED] == len(tried)
        assert await w.pending() == 0


@pytest.mark.parametrize("status", [302, 401, 404, 405, 410, 429, 500, 502, 503])
async def test_answer_that_may_be_mended_is_tried_again(status):
    """Whatever is no success and no 400 leaves the notice where it is, for another attempt."""
    async with world() as w:
        shop = await w.party()
        shop.answer = lambda n: (status, {"Location": shop.uri}) if n < 2 else (200, {})
        teller = w.teller().start()
        (rid,) = await w.ended(shop, 1)
        await w.until(lambda: shop.taken, span=30)
        assert await w.sids(shop) == [rid]
        assert len(shop.posted) == 3
        assert teller.audit.counts[FAILED] == 2


async def test_retry_after_is_waited_for():
    """RFC 9110 s.10.2.3: a party that asks for a minute is left alone for a minute, and not for much more."""
    async with world() as w:
        shop = await w.party()
        shop.answer = lambda n: (503, {"Retry-After": "60"}) if n == 0 else (200, {})
        w.teller().start()
        await w.ended(shop, 1)
        await w.until(lambda: shop.posted, span=5)
        await w.until(lambda: w.tellers[0].audit.counts[FAILED], span=0)
        await w.quiet(58)
        assert len(shop.posted) == 1
        await w.until(lambda: shop.taken, span=5)


async def test_refusal_is_final_and_holds_up_nothing():
    """s.2.8: a 400 to a token of a key that everybody could know is a warning, and the next one is told."""
    async with world() as w:
        await w.prove_key()
        shop = await w.party()
        shop.answer = lambda n: (400, {}) if n == 0 else (200, {})
        teller = w.teller().start()
        rids = await w.ended(shop, 2)
        await w.until(lambda: shop.taken, span=5)
        assert await w.sids(shop) == rids[1:]
        await w.quiet(CLAIM * 2)
        assert len(shop.posted) == 2
        assert (teller.audit.counts[REFUSED], teller.audit.counts[FAILED]) == (1, 0)
        assert REFUSED in WARNINGS
        assert await w.pending() == 0


async def test_refusal_of_a_key_that_is_new_to_everybody_is_tried_again():
    """K1: the first key of a cluster signs before caches can have it, so a 400 may mean that alone."""
    async with world() as w:
        shop = await w.party()
        shop.answer = lambda n: (400, {}) if n == 0 else (200, {})
        teller = w.teller().start()
        (rid,) = await w.ended(shop, 1)
        await w.until(lambda: shop.posted, span=5)
        await w.until(lambda: teller.audit.counts[FAILED], span=0)
        await w.quiet(35)
        assert shop.taken == []
        await w.until(lambda: shop.taken, span=10)
        assert await w.sids(shop) == [rid]
        assert teller.audit.counts[REFUSED] == 0


async def test_party_that_is_silent_keeps_only_itself_waiting():
    """A party that answers nothing takes a place and its own turn; others hear of theirs at once."""
    async with world() as w:
        silent, shop = await w.party("silent"), await w.party("shop")
        silent.site.fail(Fault.HOLD)
        w.teller().start()
        (held,) = await w.ended(silent, 1)
        await w.until(lambda: silent.site.count("logout"), span=5)
        rids = await w.ended(shop, 3)
        await w.until(lambda: len(shop.taken) == 3, span=10, held=1)
        assert await w.sids(shop) == rids
        await w.until(lambda: w.tellers[0].audit.counts[FAILED])
        silent.site.recover()
        await w.until(lambda: w.tellers[0].audit.counts[DELIVERED] == 4, span=30)
        assert set(await w.sids(silent)) == {held}


async def test_more_parties_than_places_are_all_told():
    """A node tells a bounded number at a time, and the others next."""
    async with world() as w:
        shop = await w.party("shop")
        directory = w.node.store.directory
        names = [f"shop-{number}" for number in range(WIDTH + 8)]
        for name in names:
            await directory.add_client(client(name, backchannel_logout_uri=shop.uri))
        busiest = 0

        full = asyncio.Event()

        class Counting:
            under_way = 0

            async def tell(self, uri: str, logout_token: str) -> Answered:
                nonlocal busiest
                self.under_way += 1
                busiest = max(busiest, self.under_way)
                if self.under_way == WIDTH:
                    full.set()
                await full.wait()
                self.under_way -= 1
                return Answered(200)

        for name in names:
            tokens = await w.node.log_in(client_id=name)
            await by_logout(w, tokens)
        teller = w.teller(parties=Counting()).start()
        await w.until(lambda: teller.audit.counts[DELIVERED] == len(names), span=5)
        assert busiest == WIDTH


async def test_notice_that_nobody_could_deliver_is_given_up_with_an_event():
    """A party that is down for longer than notices are kept is not told; that is said, once each."""
    async with world() as w:
        shop = await w.party()
        shop.always(503)
        teller = w.teller().start()
        await w.ended(shop, 2)
        await w.until(lambda: teller.audit.counts[FAILED], span=5)
        await w.another_day(GIVEN_UP_AFTER)
        await w.until(lambda: teller.audit.counts[EXPIRED] == 2, span=120)
        assert await w.pending() == 0
        shop.always(200)
        await w.quiet(60)
        assert shop.taken == []
        assert EXPIRED in WARNINGS


async def test_log_names_the_origin_alone(capsys):
    """LG2: no line has the path or the query of an address, nor a token."""
    async with world() as w:
        shop = await w.party()
        shop.answer = lambda n: (500, {}) if n == 0 else (200, {})
        w.teller().start()
        await w.ended(shop, 1)
        await w.until(lambda: shop.taken, span=10)
        await w.until(lambda: w.tellers[0].audit.counts[DELIVERED])
        printed = "".join(capsys.readouterr())
        assert f"http://127.0.0.1:{shop.site.port}" in printed
        for secret in ("s3cret", "t0ken", *shop.posted):
            assert secret not in printed


# --- several nodes, and their ends ---------------------------------------------------------------


async def test_two_nodes_tell_each_party_once():
    """OUTBOX-2: of nodes that look at the same time one tells, however many sessions end."""
    async with world() as w:
        parties = [await w.party(f"shop-{number}") for number in range(3)]
        for name in ("node-1", "node-2", "node-3"):
            w.teller(name).start()
        rids = {party.client_id: await w.ended(party, 4) for party in parties}
        await w.until(lambda: all(len(party.taken) == 4 for party in parties), span=5)
        await w.quiet(CLAIM * 2)
        for party in parties:
            assert len(party.posted) == 4
            assert await w.sids(party) == rids[party.client_id]
        assert sum(teller.audit.counts[DELIVERED] for teller in w.tellers) == 12


@pytest.mark.parametrize("name", ["sqlite", "postgresql"])
async def test_nodes_on_one_database_tell_once_and_take_over(name, tmp_path, request):
    """OUTBOX-1 to OUTBOX-4 on real databases: three nodes tell each party once and in order; of one that dies
    while it tells, the others tell the rest, and what it had told once more."""
    async with (
        store_rig(name, tmp_path, request.getfixturevalue) as rig,
        world(store=rig.store, clock=rig.clock) as w,
    ):
        shop, till = await w.party("shop"), await w.party("till")
        till.site.fail(Fault.HOLD)
        first = w.teller("node-1").start()
        held = await w.ended(till, 2)
        await w.until(lambda: till.site.count("logout"), span=10)
        await first.stop()
        till.site.recover()
        for other in ("node-2", "node-3", "node-4"):
            w.teller(other, outbox=(await rig.peer()).outbox).start()
        rids = await w.ended(shop, 4)
        others = [teller.audit.counts for teller in w.tellers[1:]]
        await w.until(lambda: sum(counts[DELIVERED] for counts in others) == 6, span=CLAIM * 2)
        assert await w.sids(shop) == rids
        assert (await w.sids(till))[-2:] == held
        assert await w.pending() == 0


async def test_node_that_dies_while_it_tells_is_followed_by_another():
    """At least once: the claim of a dead node ends by itself, not earlier, and another one tells all."""
    async with world() as w:
        shop = await w.party()
        shop.site.fail(Fault.HOLD)
        one = w.teller("node-1").start()
        rids = await w.ended(shop, 3)
        await w.until(lambda: shop.site.count("logout"), span=5)
        await one.stop()
        shop.site.recover()
        # What it was asked while it hung is there, though nobody waits for its answer.
        await w.until(lambda: len(shop.posted) == shop.site.count("logout"))
        heard = len(shop.posted)
        two = w.teller("node-2").start()
        await w.quiet(CLAIM - 4)
        assert len(shop.posted) == heard
        await w.until(lambda: two.audit.counts[DELIVERED] == 3, span=10)
        assert (await w.sids(shop))[-3:] == rids


async def test_late_settlement_of_a_paused_node_does_nothing():
    """OUTBOX-4: a node that stood still between the answer and its note of it takes nothing from others."""
    faults = Faults(clock=None)  # type: ignore[arg-type]
    async with world() as w:
        shop = await w.party()
        gate = faults.hold_before("outbox.settle")
        one = w.teller("node-1", outbox=FaultyStore(w.node.store, faults).outbox).start()
        (rid,) = await w.ended(shop, 1)
        reached = asyncio.ensure_future(gate.reached())
        await w.until(reached.done, span=5)
        shop.always(500)
        w.clock.advance(CLAIM + 1)
        two = w.teller("node-2").start()
        await w.until(lambda: two.audit.counts[FAILED] == 1, span=0)
        gate.open()
        await w.until(lambda: not one.is_busy)
        assert one.audit.counts[DELIVERED] == 0
        assert await w.pending() == 1
        await one.stop()
        shop.always(200)
        await w.until(lambda: two.audit.counts[DELIVERED] == 1, span=10)
        assert await w.sids(shop) == [rid, rid]


async def test_node_that_stood_still_with_a_claim_tells_nobody():
    """A claim that is about to end is not begun with: another node may be telling by then."""
    async with world() as w:
        shop = await w.party()

        class Slow:
            signed = 0

            async def sign(self, kid: str, typ: str, payload: bytes) -> str:
                token = await w.node.signer.sign(kid, typ, payload)  # type: ignore[arg-type]
                if typ == LOGOUT_TOKEN_TYP:
                    self.signed += 1
                    w.clock.advance(CLAIM - 3)
                return token

        slow = Slow()
        one = w.teller("node-1", signer=slow).start()
        await w.ended(shop, 1)
        await w.until(lambda: slow.signed and not one.is_busy, span=2)
        assert shop.posted == []
        await one.stop()
        two = w.teller("node-2").start()
        await w.until(lambda: two.audit.counts[DELIVERED] == 1, span=20)


async def test_node_without_a_key_leaves_notices_to_others():
    """A node that cannot sign claims nothing, so that one that can is not kept waiting for its claim."""
    async with world() as w:
        shop = await w.party()

        class Empty:
            async def sign(self, kid: str, typ: str, payload: bytes) -> str:
                raise SignerUnavailable("no key here")

        keyless = w.teller("node-2", signer=Empty()).start()
        rids = await w.ended(shop, 2)
        await w.quiet(5)
        assert await w.pending() == 2
        claimed = await w.node.store.outbox.claim(w.node.issuer, w.services.node, span=CLAIM, limit=5)
        assert [notice.rid for notice in claimed] == rids[:1]
        assert await w.node.store.outbox.postpone(claimed[0], w.services.node, span=1)  # type: ignore[arg-type]
        w.teller("node-1").start()
        await w.until(lambda: w.tellers[1].audit.counts[DELIVERED] == 2, span=20)
        assert await w.sids(shop) == rids
        assert keyless.audit.counts.total() == 0


@pytest.mark.parametrize("operation", ["claim", "settle", "postpone", "expire"])
async def test_store_that_is_away_delays_and_loses_nothing(operation):
    """Each operation may fail: the node goes on, and once the store is back everything is told."""
    faults = Faults(clock=None)  # type: ignore[arg-type]
    async with world() as w:
        shop = await w.party()
        shop.answer = lambda n: (500, {}) if n == 0 else (200, {})
        faults.fail_before(f"outbox.{operation}", times=2)
        teller = w.teller(outbox=FaultyStore(w.node.store, faults).outbox).start()
        rids = await w.ended(shop, 2)
        await w.until(lambda: teller.audit.counts[DELIVERED] == 2, span=CLAIM * 6)
        assert list(dict.fromkeys(await w.sids(shop))) == rids
        assert teller.running is not None
        assert not teller.running.done()


async def test_defect_in_one_delivery_ends_the_loop_with_it():
    """What was not foreseen is raised to whoever keeps the loop, and not lost in a task."""
    async with world() as w:
        shop = await w.party()

        class Broken:
            async def tell(self, uri: str, logout_token: str) -> Answered:
                raise LookupError("a defect")

        teller = w.teller(parties=Broken()).start()
        await w.ended(shop, 1)
        assert teller.running is not None
        running = teller.running
        await w.until(running.done, span=5)
        with pytest.raises(LookupError):
            running.result()


async def test_backlog_that_expired_goes_part_after_part():
    """However many expire in one moment, they are gone in seconds: the first of them stands before all that
    its client is to be told since."""
    async with world() as w:
        shop = await w.party()
        await w.ended(shop, 5)
        inner, left = w.node.store.outbox, list[LogoutNotice]()

        class Parts:
            """The outbox of a store that removes one notice at once."""

            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            async def expire(self, issuer: Issuer) -> tuple[LogoutNotice, ...]:
                left.extend(await inner.expire(issuer))
                return (left.pop(),) if left else ()

        await w.another_day(GIVEN_UP_AFTER)
        teller = w.teller(outbox=cast("LogoutOutbox", Parts())).start()
        await w.until(lambda: teller.audit.counts[EXPIRED] == 5, span=30)


# --- attacks -------------------------------------------------------------------------------------


async def test_logout_token_opens_and_ends_nothing_here():
    """TC3: were it made for a session that goes on, it would end nothing: sent back to its issuer as an
    access token it is refused everywhere."""
    async with world() as w:
        shop = await w.party()
        teller = w.teller()
        mine = await w.log_in(shop)
        live = LogoutNotice(
            issuer=w.node.issuer, rid=mine["rid"], client_id=shop.client_id, sub=ALICE,
            ended_at=w.clock.now(), uri=shop.uri, attempts=0, expires_at=NumericDate(w.clock.now() + 60),
        )  # fmt: skip
        logout_token = (await teller.backchannel._sign(live)).token
        bearer = {"Authorization": f"Bearer {logout_token}"}
        for method, path in (
            ("DELETE", "/v1/sessions/current"),
            ("DELETE", "/v1/sessions"),
            ("DELETE", f"/v1/sessions/{mine['rid']}"),
            ("GET", "/v1/sessions"),
        ):
            answer = await w.node.http.request(method, path, headers=bearer)
            assert answer.status_code in {401, 404, 405}, (method, path, answer.text)
        reader = client("reader", secret=SECRET, serves=("shop", "orders"))
        await w.node.store.directory.add_client(reader)
        form = {"token": logout_token}
        asked = await w.node.http.post("/introspect", data=form, auth=("reader", SECRET))
        assert (asked.status_code, asked.json()) == (200, {"active": False})
        revoked = await w.node.http.post("/revoke", data=form | {"client_id": "shop"})
        assert revoked.status_code == 200, revoked.text
        w.clock.advance(w.services.timing.refresh_grace + 1)
        again = await w.node.refresh(mine["refresh_token"], client_id="shop")
        assert again.status_code == 200, again.text


async def test_no_node_signs_a_logout_token_for_another():
    """TC3: a node that was taken over cannot have sessions of other nodes' clients declared ended."""
    async with town() as here:
        one = await here.join("node-1", key=True)
        two = await here.join("node-2")
        await here.look()
        async with world() as w:
            shop = await w.party()
            w.teller().start()
            await w.ended(shop, 1)
            await w.until(lambda: shop.taken, span=5)
            payload = jws.parse(shop.taken[0]).payload
        for typ, reason in (
            (LOGOUT_TOKEN_TYP, PeerRefusal.WRONG_TYP),
            ("at+jwt", PeerRefusal.BAD_CLAIMS),
        ):
            with pytest.raises(PeerRefused) as refused:
                await one.peering.sign(two.member, typ, payload)
            assert refused.value.reason is reason
