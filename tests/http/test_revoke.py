"""/revoke: what a client gives back works no more, and nobody can give back what is another's (RFC 7009)."""

import asyncio
from collections import Counter

import pytest
import structlog
from tests.dump import dump
from tests.http.asking import (
    FORGERIES,
    STOCK,
    claims_of,
    events,
    forged,
    held_key,
    outcome,
    own_token,
    pass_time,
    revoke,
)
from tests.http.surface import SECRET, Surface, client, surface

from mintmark.adapters.memory import MemoryStore
from mintmark.core.events import EventName
from mintmark.core.log import JTI_A_CLIENT, JTI_A_SESSION
from mintmark.core.sessions import EndCause
from mintmark.ports.revocations import IssuedToken
from mintmark.server.emergency import revoke_key
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults
from mintmark.testing.key import SigningKey
from mintmark.units import ClientId, Jti, Kid, NumericDate, Rid

DONE = (200, b"")
FORM = "application/x-www-form-urlencoded"


# --- what is the client's own --------------------------------------------------------------------


@pytest.mark.parametrize("generation", range(4))
async def test_refresh_token_of_any_generation_ends_its_session(node: Surface, generation):
    """However old the token is, its session ends, with one ``rid`` event, and refreshes no more (RV3)."""
    tokens = await node.log_in()
    held = [tokens["refresh_token"]]
    for _ in range(3):
        await pass_time(node, 31)
        held.append((await node.refresh(held[-1])).json()["refresh_token"])
    assert outcome(await revoke(node, held[generation])) == DONE
    assert await events(node) == [("rid", tokens["rid"])]
    row = (await node.store.sessions.read(node.issuer, tokens["rid"])).session
    assert row is not None
    assert row.end_cause is EndCause.REVOKED
    assert (await node.refresh(held[-1])).json()["error"] == "invalid_grant"


async def test_access_token_is_denied_alone(node: Surface):
    """One ``jti`` event, kept for as long as any verifier could accept the token; its session goes on."""
    tokens = await node.log_in()
    claims = claims_of(tokens["access_token"])
    assert outcome(await revoke(node, tokens["access_token"])) == DONE
    [event] = (await node.http.get("/revocations")).json()["events"]
    assert (event["kind"], event["value"]) == ("jti", claims["jti"])
    assert event["expires_at"] == claims["exp"] + 300 + node.services.timing.clock_skew
    assert (await node.refresh(tokens["refresh_token"])).status_code == 200
    assert node.services.audit.counts[EventName.TOKEN_REVOKED] == 1


async def test_service_revokes_what_it_got_in_its_own_name(node: Surface):
    """A token that belongs to no session is denied by its ``jti``."""
    token = await own_token(node)
    assert outcome(await revoke(node, token, STOCK)) == DONE
    assert await events(node) == [("jti", claims_of(token)["jti"])]


async def test_revoking_twice_changes_nothing(node: Surface):
    """The second time is answered like the first, and what the store holds is the same (RV3)."""
    tokens = await node.log_in()
    for token in (tokens["access_token"], tokens["refresh_token"], tokens["access_token"]):
        first = await revoke(node, token)
        kept = await dump(node.store)
        again = await revoke(node, token)
        assert outcome(first) == outcome(again) == DONE
        assert await dump(node.store) == kept


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "id_token", "é", ""])
@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
async def test_hint_is_only_a_hint(node: Surface, kind, hint):
    """A wrong or unknown ``token_type_hint`` changes nothing about what is revoked (s.2.1)."""
    tokens = await node.log_in()
    assert outcome(await revoke(node, tokens[kind], token_type_hint=hint)) == DONE
    assert len(await events(node)) == 1


async def test_token_of_a_key_that_no_longer_signs_is_revoked(node: Surface):
    """A passive key's tokens are still good elsewhere, so they can still be revoked."""
    token = (await node.log_in())["access_token"]
    await node.add_key()
    assert outcome(await revoke(node, token)) == DONE
    assert len(await events(node)) == 1


async def test_token_of_a_key_that_this_node_has_not_read_yet_is_revoked(node: Surface):
    """A key that another node published a moment ago is found: 200 never means that it was not."""
    good = (await node.log_in())["access_token"]
    key = await held_key(node)
    assert node.services.ring.view.ring.find(Kid(key.kid)) is None
    token = key.sign({"alg": "ES256", "kid": key.kid, "typ": "at+jwt"}, claims_of(good))
    assert outcome(await revoke(node, token)) == DONE
    assert await events(node) == [("jti", claims_of(good)["jti"])]


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
async def test_readers_of_the_log_are_woken(node: Surface, kind):
    """Whoever follows the log hears of the event at once, and not when he next looks."""
    tokens = await node.log_in()
    woken = node.bus.subscribe()
    assert (await revoke(node, tokens[kind])).status_code == 200
    assert await woken.wait(0)
    assert (await revoke(node, tokens[kind])).status_code == 200
    assert not await woken.wait(0)
    woken.close()


# --- what changes nothing ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORGERIES)
async def test_what_is_no_token_of_ours_is_no_error_and_changes_nothing(node: Surface, kind):
    """200, whatever it is, and the store holds what it held (RV3, s.2.2)."""
    tokens = await node.log_in()
    token = forged(kind, tokens["access_token"], await held_key(node), SigningKey.generate("ES256"))
    kept = await dump(node.store)
    for one in ("spa", STOCK):
        assert outcome(await revoke(node, token, one)) == DONE
    assert await dump(node.store) == kept


async def test_forged_refresh_token_with_a_right_rid_ends_nothing(node: Surface):
    """The ``rid`` is public; without the signature it is nobody's to end (R3)."""
    token = (await node.log_in())["refresh_token"]
    other = (await node.log_in())["refresh_token"]
    kept = await dump(node.store)
    for changed in (token[:40] + other[40:], token[:-2] + ("AA" if token[-2:] != "AA" else "BA")):
        assert outcome(await revoke(node, changed)) == DONE
    assert await dump(node.store) == kept


async def test_expired_token_changes_nothing(node: Surface):
    """Once no verifier can accept it, an access token needs no event, and a dead session no end."""
    tokens, timing = await node.log_in(), node.services.timing
    await pass_time(node, timing.access_ttl + 300 + timing.clock_skew + 1)
    kept = await dump(node.store)
    assert outcome(await revoke(node, tokens["access_token"])) == DONE
    assert await dump(node.store) == kept


async def test_token_that_expired_a_moment_ago_is_still_denied(node: Surface):
    """A verifier that leaves leeway for clocks could still accept it."""
    token = (await node.log_in())["access_token"]
    await pass_time(node, node.services.timing.access_ttl + 1)
    assert outcome(await revoke(node, token)) == DONE
    assert len(await events(node)) == 1


async def test_revoked_keys_token_needs_no_event(node: Surface):
    """Its key's event denies it already."""
    token = (await node.log_in())["access_token"]
    view = await node.store.keyring.read(node.issuer)
    assert await revoke_key(
        node.store.keyring, node.issuer, view.ring.keys[0].kid, reason="test", timing=node.services.timing
    )
    assert outcome(await revoke(node, token)) == DONE
    assert [kind for kind, _ in await events(node)] == ["kid"]


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
@pytest.mark.parametrize("is_over", [False, True])
async def test_another_clients_token_is_untouched(node: Surface, kind, is_over):
    """``invalid_grant`` says that it was refused, and nothing of whether the session lives (RV3, s.2.1)."""
    tokens = await node.log_in()
    if is_over:
        await node.log_out(tokens["access_token"])
    kept = await dump(node.store)
    answer = await revoke(node, tokens[kind], STOCK)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert answer.json()["error_description"] == "the token was issued to another client"
    assert await dump(node.store) == kept
    if not is_over:
        assert (await node.refresh(tokens["refresh_token"])).status_code == 200


async def test_services_token_is_not_a_public_clients_to_revoke(node: Surface):
    """Who knows an id that proves nothing cannot end what was given to who proved a secret."""
    token = await own_token(node)
    answer = await revoke(node, token, "spa")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert await events(node) == []


async def test_token_of_another_issuer_of_the_node_is_unknown():
    """Two issuers on one store: neither revokes what is the other's, at whichever it is tried."""
    clock = FakeClock()
    store = MemoryStore(clock=clock, entropy=SYSTEM_ENTROPY)
    there = MemoryStore(clock=clock, entropy=SYSTEM_ENTROPY, data=store.data)
    async with (
        surface(clock=clock, store=store) as one,
        surface(clock=clock, store=there, issuer="https://auth.example.com/tenant") as other,
    ):
        tokens = await other.log_in()
        kept = await dump(store)
        for kind in ("access_token", "refresh_token"):
            assert outcome(await revoke(one, tokens[kind])) == DONE
        assert await dump(store) == kept


# --- who asks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "auth"),
    [
        ({}, None),
        ({"client_id": "nobody"}, None),
        ({"client_id": "stock"}, None),
        ({"client_id": "stock", "client_secret": "wrong"}, None),
        ({"client_id": "spa", "client_secret": "secret"}, None),
        ({}, ("stock", "wrong")),
        ({}, ("spa", "")),
        ({}, ("nobody", SECRET)),
    ],
)
async def test_who_cannot_say_who_he_is_revokes_nothing(node: Surface, fields, auth):
    """401 ``invalid_client`` before the token is looked at, whatever it is (s.2.1)."""
    tokens = await node.log_in()
    kept = await dump(node.store)
    for token in (tokens["refresh_token"], tokens["access_token"], "garbage"):
        answer = await node.http.post("/revoke", data={"token": token} | fields, auth=auth)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert await dump(node.store) == kept


async def test_secret_may_come_in_the_body(node: Surface):
    """``client_secret_post`` is as good as Basic, as at the token endpoint."""
    token = await own_token(node)
    answer = await node.http.post(
        "/revoke", data={"token": token, "client_id": "stock", "client_secret": SECRET}
    )
    assert outcome(answer) == DONE
    assert len(await events(node)) == 1


@pytest.mark.parametrize("path", ["/revoke", "/introspect"])
@pytest.mark.parametrize(
    ("query", "body", "media_type", "status"),
    [
        ("?token=x", "", FORM, 400),
        ("", "", FORM, 400),
        ("", "token=", FORM, 400),
        ("", "token=a&token=b", FORM, 400),
        ("", '{"token": "a"}', "application/json", 415),
        ("", "token=" + "a" * 17_000, FORM, 413),
        ("", "token=%ff", FORM, 400),
    ],
)
async def test_what_is_no_request_is_refused(node: Surface, path, query, *, body, media_type, status):
    """A token in the URL, none, two, or in another form than a form: refused in OAuth's words, not stored."""
    headers = {"Content-Type": media_type}
    answer = await node.http.post(path + query, content=body, headers=headers, auth=STOCK)
    assert answer.status_code == status
    assert answer.headers["cache-control"] == "no-store"
    assert set(answer.json()) == {"error", "error_description"}
    assert (await node.http.get(path)).status_code == 405


async def test_no_answer_of_revoke_may_be_stored(node: Surface):
    """Every answer says no-store."""
    tokens = await node.log_in()
    answers = [
        await revoke(node, tokens["refresh_token"]),
        await revoke(node, "x"),
        await revoke(node, "x", "nobody"),
        await revoke(node, tokens["refresh_token"], STOCK),
    ]
    assert [answer.headers["cache-control"] for answer in answers] == ["no-store"] * 4


# --- bounds (V4) ---------------------------------------------------------------------------------


async def access_tokens(node: Surface, count: int) -> tuple[str, list[str]]:
    """A session and ``count`` of its access tokens."""
    tokens = await node.log_in()
    answers = [await node.refresh(tokens["refresh_token"]) for _ in range(count - 1)]
    return tokens["rid"], [tokens["access_token"], *(answer.json()["access_token"] for answer in answers)]


async def test_session_ends_instead_of_having_a_seventeenth_event(node: Surface):
    """Sixteen tokens of a session are listed; one more ends it, with one event, and is refused with all."""
    rid, tokens = await access_tokens(node, JTI_A_SESSION + 3)
    for token in tokens[:JTI_A_SESSION]:
        assert outcome(await revoke(node, token)) == DONE
    assert Counter(kind for kind, _ in await events(node)) == {"jti": JTI_A_SESSION}
    for token in tokens[JTI_A_SESSION:]:
        assert outcome(await revoke(node, token)) == DONE
    assert Counter(kind for kind, _ in await events(node)) == {"jti": JTI_A_SESSION, "rid": 1}
    assert ("rid", rid) in await events(node)
    row = (await node.store.sessions.read(node.issuer, Rid(rid))).session
    assert row is not None
    assert row.end_cause is EndCause.REVOKED


async def fill(node: Surface, client_id: str, count: int) -> None:
    """That many revoked tokens of a client, of no session."""
    exp = NumericDate(node.clock.now() + node.services.timing.access_ttl)
    for number in range(count):
        token = IssuedToken(jti=Jti(f"{number:022}"), client_id=ClientId(client_id), rid=None, exp=exp)
        await node.store.revocations.revoke_token(
            node.issuer, token, cause="revoked", timing=node.services.timing
        )


async def test_client_with_a_thousand_events_has_to_wait(node: Surface):
    """The next is 429 with Retry-After, appends nothing, and is taken once others have expired."""
    await fill(node, "stock", JTI_A_CLIENT)
    token = await own_token(node)
    answer = await revoke(node, token, STOCK)
    assert (answer.status_code, answer.json()["error"]) == (429, "temporarily_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert len(await events(node)) == JTI_A_CLIENT
    timing = node.services.timing
    await pass_time(node, timing.access_ttl + 300 + timing.clock_skew)
    await node.extend(node.kid)
    assert outcome(await revoke(node, "x", STOCK)) == DONE
    assert outcome(await revoke(node, token, STOCK)) == DONE


async def test_full_client_can_still_end_sessions(node: Surface):
    """What takes fewer events than tokens is always taken: its refresh tokens."""
    tokens = await node.log_in()
    await fill(node, "spa", JTI_A_CLIENT)
    assert (await revoke(node, tokens["access_token"])).status_code == 429
    assert outcome(await revoke(node, tokens["refresh_token"])) == DONE
    assert ("rid", tokens["rid"]) in await events(node)


async def test_parallel_revocations_pass_no_limit(node: Surface):
    """Forty tokens of one session: sixteen events and its end; twenty of a client with room for five."""
    _, tokens = await access_tokens(node, 40)
    answers = await asyncio.gather(*(revoke(node, token) for token in tokens))
    assert {outcome(answer) for answer in answers} == {DONE}
    assert Counter(kind for kind, _ in await events(node)) == {"jti": JTI_A_SESSION, "rid": 1}
    await fill(node, "stock", JTI_A_CLIENT - 5)
    own = [await own_token(node) for _ in range(20)]
    again = await asyncio.gather(*(revoke(node, token, STOCK) for token in own))
    assert Counter(answer.status_code for answer in again) == {200: 5, 429: 15}
    assert len(await events(node)) == JTI_A_SESSION + 1 + JTI_A_CLIENT


async def test_other_clients_are_not_kept_waiting(node: Surface):
    """A client at its limit takes nothing from another's."""
    await fill(node, "stock", JTI_A_CLIENT)
    assert outcome(await revoke(node, (await node.log_in())["access_token"])) == DONE


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
async def test_outage_is_never_called_done(kind):
    """Whatever of the store fails: 503 with Retry-After, and later the token is revoked (s.2.2.1)."""
    faults = Faults(clock=FakeClock())
    async with surface(faults=faults) as node:
        tokens = await node.log_in()
        # One that nobody asks for would prove nothing.
        asked = Counter[str]()
        faults.calls.clear()
        await revoke(node, tokens[kind])
        asked.update(faults.calls)
        assert asked
        for name in asked:
            tokens = await node.log_in()
            faults.fail_before(name)
            answer = await revoke(node, tokens[kind])
            assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable"), name
            assert "retry-after" in answer.headers
            faults.recover()
            await node.services.ring.refresh()
            assert outcome(await revoke(node, tokens[kind])) == DONE


async def test_answer_that_was_lost_can_be_asked_for_again():
    """A revocation that was committed before its answer was lost is 503, and then 200, with one event."""
    faults = Faults(clock=FakeClock())
    async with surface(faults=faults) as node:
        tokens = await node.log_in()
        faults.fail_after("revocations.revoke_token", "sessions.end", times=1)
        for token in (tokens["access_token"], tokens["refresh_token"]):
            assert (await revoke(node, token)).status_code == 503
            assert outcome(await revoke(node, token)) == DONE
        assert [kind for kind, _ in await events(node)] == ["jti", "rid"]


async def test_store_that_is_ahead_of_time_does_not_swallow_a_revocation():
    """By its clock the token has expired everywhere; that is no reason to say 200 and append nothing."""
    clock, faults = FakeClock(), Faults(clock=FakeClock())
    ahead = FakeClock(clock.now())
    store = MemoryStore(clock=ahead, entropy=SYSTEM_ENTROPY)
    async with surface(clock=clock, store=store, faults=faults) as node:
        tokens = await node.log_in()
        ahead.advance(100_000)
        for token in (tokens["access_token"], tokens["refresh_token"]):
            assert (await revoke(node, token)).status_code == 503
        ahead.advance(0)


async def test_no_token_is_in_any_log(node: Surface):
    """What was revoked, what was refused and what failed are logged without the token."""
    tokens = await node.log_in()
    await node.store.directory.add_client(client("other", secret=SECRET))
    held = [tokens["access_token"], tokens["refresh_token"], "mmr_" + "A" * 112]
    with structlog.testing.capture_logs() as logged:
        for token in held:
            for one in ("spa", ("other", SECRET), "nobody"):
                await revoke(node, token, one)
                await node.http.post("/introspect", data={"token": token}, auth=("other", SECRET))
        await node.store.close()
        for token in held:
            await revoke(node, token)
        await node.store.open()
    assert logged
    text = repr(logged)
    assert not any(part in text for token in held for part in (token, token[20:60], token.split(".")[-1]))
    assert SECRET not in text
