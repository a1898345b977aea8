"""Refresh sessions by example: rules R1 to R7 at their edges, and the attacks that they answer."""

import contextlib
import itertools
from dataclasses import fields, replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.core.plant import planted

from mintmark.core import sealing, sessions
from mintmark.core.sealing import UNPEPPERED, Pepper, SealBroken
from mintmark.core.sessions import (
    FromTheFuture,
    Redeem,
    RefreshToken,
    Refusal,
    Session,
    SessionStart,
    Stolen,
    Verdict,
)
from mintmark.core.timing import Timing
from mintmark.units import ClientId, Issuer, Kid, NumericDate, Seconds, Sub

TIMING = Timing()
# Times are whole seconds, rounded down: the last second of the grace is a whole one.
GRACE, RETRY = TIMING.refresh_grace + 1, TIMING.refresh_retry
NOW = NumericDate(1_000_000)
CLIENT = ClientId("web")
BEGIN = SessionStart(
    issuer=Issuer("https://auth.example.com"),
    sub=Sub("usr_1"),
    client_id=CLIENT,
    scope=("read", "write"),
    audience=("orders",),
)
RID, SEED = bytes(range(16)), bytes(range(32))


def at(offset: int) -> NumericDate:
    return NumericDate(NOW + offset)


def login(timing: Timing = TIMING, *, pepper: Pepper = UNPEPPERED) -> tuple[Session, RefreshToken]:
    return sessions.start(BEGIN, rid=RID, seed=SEED, timing=timing, now=NOW, pepper=pepper)


def decide(
    session: Session | None,
    token: RefreshToken,
    offset: int,
    *,
    client: ClientId = CLIENT,
    timing: Timing = TIMING,
    pepper: Pepper = UNPEPPERED,
    rotates: bool = True,
) -> Verdict:
    return sessions.decide(
        session, token, client, timing=timing, now=at(offset), pepper=pepper, rotates=rotates
    )


def redeem(
    session: Session, token: RefreshToken, offset: int, *, timing: Timing = TIMING
) -> tuple[Session, RefreshToken]:
    verdict = decide(session, token, offset, timing=timing)
    assert isinstance(verdict, Redeem)
    return verdict.after, verdict.token


OURS, THEIRS = (Pepper(key=Pepper.derive(secret)) for secret in (b"k" * 32, b"l" * 32))


def generation(number: int) -> RefreshToken:
    """The token of any generation, as only the holder of the private half can make it."""
    private = Ed25519PrivateKey.from_private_bytes(SEED)
    rid = login()[1].rid
    message = b"mintmark refresh token 1\x00" + RID + number.to_bytes(4)
    return RefreshToken(rid, number, private.sign(message))


# --- the token ---------------------------------------------------------------------------------------


def test_a_token_is_opaque_text_of_one_length():
    """116 characters of URL-safe text with a prefix that scanners know (RFC 6749 s.1.5)."""
    token = login()[1]
    assert len(token.text()) == 116
    assert token.text().startswith("mmr_")
    assert sessions.parse(token.text()) == token
    assert token == generation(0)


@given(st.integers(0, 2**32 - 1), st.binary(min_size=64, max_size=64), st.binary(min_size=16, max_size=16))
def test_a_token_reads_back_as_itself(number: int, signature: bytes, rid: bytes):
    """Every generation up to the last has exactly one text."""
    session, _ = sessions.start(BEGIN, rid=rid, seed=SEED, timing=TIMING, now=NOW)
    token = RefreshToken(session.rid, number, signature)
    assert sessions.parse(token.text()) == token


@given(
    st.text() | st.text("mr_AZaz09-", min_size=116, max_size=116) | st.text(min_size=112).map("mmr_".__add__)
)
def test_any_other_text_is_no_token(text: str):
    """Whatever the text, the answer is a token that spells exactly it, or None."""
    token = sessions.parse(text)
    assert token is None or token.text() == text


def test_a_token_has_no_second_spelling():
    """White space, padding, another prefix or case: none of these is the token."""
    text = login()[1].text()
    for other in (text + "=", " " + text, text + "\n", text.swapcase(), text[4:], "mmr-" + text[4:], ""):
        assert sessions.parse(other) is None


def test_nothing_prints_a_token_or_a_row():
    """A refresh token is a secret: logs of values that hold one do not show it."""
    session, token = login()
    verdict = decide(session, token, 1)
    for value in (token, session, verdict, [verdict], {"token": token}):
        shown = f"{value!r} {value}"
        assert token.text() not in shown
        assert repr(token.signature) not in shown
        assert repr(session.sealed) not in shown


# --- the beginning -----------------------------------------------------------------------------------


def test_a_login_starts_generation_zero_within_both_lifetimes():
    """R6: fourteen idle days, ninety in all; the row holds what the login settled."""
    session, token = login()
    assert (session.idle_until, session.expires_at) == (at(14 * 86_400), at(90 * 86_400))
    assert (session.generation, session.parent, session.version) == (0, None, 0)
    assert (session.scope, session.audience, session.auth_time) == (("read", "write"), ("orders",), NOW)
    assert session.rid == token.rid
    brief = replace(TIMING, session_ttl=Seconds(60))
    assert login(brief)[0].idle_until == login(brief)[0].expires_at == at(60)


def test_the_first_refresh_rotates_at_once():
    """R2 i: the first generation has no grace of its own; there is nothing it could be a repeat of."""
    session, first = login()
    verdict = decide(session, first, 0)
    assert isinstance(verdict, Redeem)
    assert verdict.rotated
    assert verdict.token == generation(1)
    assert (verdict.before, verdict.after.version) == (session, 1)


# --- R2: grace, retry, theft -------------------------------------------------------------------------


def test_within_the_grace_the_newest_token_answers_itself():
    """R2 i: presented in the 30 s after it was made it is repeated; at their end it rotates."""
    session, first = login()
    session, second = redeem(session, first, 0)
    repeat = decide(session, second, GRACE - 1)
    assert isinstance(repeat, Redeem)
    assert not repeat.rotated
    assert repeat.token == second
    assert redeem(session, second, GRACE)[1] == generation(2)


def test_within_the_grace_the_parent_gets_the_same_successor():
    """R2 ii, RF7: byte for byte, as often as it comes, and to the last second."""
    session, first = login()
    session, second = redeem(session, first, 100)
    for offset in (100, 101, 100 + GRACE - 1):
        verdict = decide(session, first, offset)
        assert isinstance(verdict, Redeem)
        assert (verdict.token.text(), verdict.rotated) == (second.text(), False)
        session = verdict.after


def test_grace_is_for_the_immediate_parent_alone():
    """R2 iv, RF7: a grandparent is theft even a second after it was spent."""
    session, first = login()
    session, second = redeem(session, first, 0)
    session, _ = redeem(session, second, GRACE)
    assert decide(session, first, GRACE) == Stolen(session.rid)


def test_an_answer_lost_on_the_network_logs_nobody_out():
    """R2 iii: after the grace the parent gets a replacement, until refresh_retry after it was spent."""
    session, first = login()
    session, lost = redeem(session, first, 0)
    session, replacement = redeem(session, first, GRACE)
    assert replacement == generation(2)
    # The next answer may be lost as well; the day counts from the first time, not anew.
    session, third = redeem(session, first, RETRY - 1)
    assert third == generation(3)
    assert session.parent_spent_at == NOW
    assert decide(session, first, RETRY - 1 + GRACE) == Stolen(session.rid)
    assert decide(session, lost, RETRY - 1) == Stolen(session.rid)


def test_a_replaced_token_counts_as_spent():
    """R2 iii: once the parent got a replacement, whoever holds the replaced token is the second party."""
    session, first = login()
    session, replaced = redeem(session, first, 0)
    session, _ = redeem(session, first, GRACE)
    assert decide(session, replaced, GRACE) == Stolen(session.rid)


@pytest.mark.parametrize("when", [GRACE - 1, GRACE])
def test_a_parent_is_theft_once_its_successor_was_presented(when: int):
    """R2 iii, iv: a presented successor arrived, so whoever comes with the parent later lost no answer."""
    session, first = login()
    session, second = redeem(session, first, 0)
    session, _ = redeem(session, second, when)
    assert decide(session, first, 2 * GRACE) == Stolen(session.rid)


def test_thief_and_owner_do_not_both_go_on():
    """R2: the thief rotates, the owner comes later, and at the thief's next refresh the session ends."""
    session, stolen = login()
    session, thiefs = redeem(session, stolen, 0)
    session, _ = redeem(session, stolen, 100)
    assert decide(session, thiefs, 200) == Stolen(session.rid)


@given(st.integers(0, 100_000))
def test_a_clock_that_was_set_back_does_not_stretch_the_grace(back: int):
    """F14, I5: a parent whose successor was presented is theft, however far before its rotation it is now."""
    session, first = login()
    session, second = redeem(session, first, 0)
    session, _ = redeem(session, second, 1)
    verdict = decide(session, first, -back)
    assert isinstance(verdict, Redeem) is (back < GRACE)
    assert redeem(session, second, -back)[0].generation == (1 if back < GRACE else 2)


# --- a client that does without rotation ---------------------------------------------------------------


@given(st.integers(0, TIMING.session_idle - 1), st.integers(0, 3))
def test_without_rotation_the_newest_token_answers_itself_at_any_age(age: int, rotations: int):
    """RF1: whatever its generation, to the last second of its idle life; nothing is sealed anew."""
    rows, tokens = history(rotations)
    verdict = decide(rows[-1], tokens[-1], rotations * GRACE + age, rotates=False)
    if rotations * GRACE + age < rows[-1].idle_until - NOW:
        assert isinstance(verdict, Redeem)
        assert (verdict.token, verdict.rotated) == (tokens[-1], False)
        assert verdict.after.sealed == rows[-1].sealed
    else:
        assert verdict is Refusal.EXPIRED


def test_without_rotation_a_refresh_keeps_the_session_from_being_idle():
    """R6: a token that stays the same moves ``idle_until`` as any other, and never past the end."""
    session, token = login()
    for offset in (0, 1000, 2000):
        verdict = decide(session, token, offset, rotates=False)
        assert isinstance(verdict, Redeem)
        session = verdict.after
        assert session.idle_until == at(offset + TIMING.session_idle)
    # The first sight of it was a change of who may refresh, the others were none.
    assert session.version == 1


def test_an_answer_that_was_lost_before_the_switch_is_given_once_more():
    """R2 iii: the parent gets the newest token itself, for as long as it would have got a replacement."""
    session, first = login()
    session, second = redeem(session, first, 0)
    for offset in (1, GRACE, RETRY - 1):
        verdict = decide(session, first, offset, rotates=False)
        assert isinstance(verdict, Redeem)
        assert (verdict.token, verdict.rotated) == (second, False)
    assert decide(session, first, RETRY, rotates=False) == Stolen(session.rid)


def test_a_spent_token_from_before_the_switch_is_theft():
    """R2 iv: a grandparent, and a parent whose successor is in use, end the session as ever."""
    rows, tokens = history(2)
    assert decide(rows[2], tokens[0], GRACE, rotates=False) == Stolen(rows[2].rid)
    used = decide(rows[2], tokens[2], 2 * GRACE, rotates=False)
    assert isinstance(used, Redeem)
    assert decide(used.after, tokens[1], 3 * GRACE, rotates=False) == Stolen(rows[2].rid)


def test_rotation_that_is_switched_on_again_goes_on_from_the_newest_token():
    """The switch changes no row: the token that stayed the same is spent by its next refresh."""
    session, token = login()
    verdict = decide(session, token, 5000, rotates=False)
    assert isinstance(verdict, Redeem)
    session, successor = redeem(verdict.after, token, 6000)
    assert (successor, session.parent) == (generation(1), 0)


# --- R3: forgeries -----------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.binary(min_size=64, max_size=64))
def test_a_forged_token_with_the_right_rid_does_nothing(number: int, signature: bytes):
    """R3: the rid is public, so whatever carries it without the signature is no evidence of theft."""
    session, first = login()
    session, _ = redeem(session, first, 0)
    assert decide(session, RefreshToken(first.rid, number, signature), 100) is Refusal.FORGED


@given(st.integers(0, 63), st.integers(1, 255), st.integers(0, 2))
def test_a_single_changed_byte_is_a_forgery(place: int, change: int, number: int):
    """R3: neither the signature nor the generation of a genuine token can be changed."""
    session, first = login()
    session, second = redeem(session, first, 0)
    session, _ = redeem(session, second, GRACE)
    genuine = generation(number)
    signature = bytearray(genuine.signature)
    signature[place] ^= change
    assert decide(session, replace(genuine, signature=bytes(signature)), 100) is Refusal.FORGED
    assert decide(session, replace(genuine, generation=number + 1), 100) is Refusal.FORGED


def test_a_signature_has_no_second_form():
    """RFC 8032 s.5.1.7: S plus the group's order verifies nowhere, so no token has a twin."""
    order = 2**252 + 27742317777372353535851937790883648493
    session, first = login()
    s = int.from_bytes(first.signature[32:], "little") + order
    twin = replace(first, signature=first.signature[:32] + s.to_bytes(32, "little"))
    assert decide(session, twin, 0) is Refusal.FORGED


def test_another_sessions_token_is_a_forgery_here():
    """The signature covers the rid, and each session has a key of its own."""
    session, first = login()
    other, theirs = sessions.start(BEGIN, rid=bytes(16), seed=bytes(32), timing=TIMING, now=NOW)
    assert decide(session, theirs, 0) is Refusal.FORGED
    assert decide(session, replace(theirs, rid=first.rid), 0) is Refusal.FORGED
    assert decide(other, replace(first, rid=theirs.rid), 0) is Refusal.FORGED
    assert decide(None, first, 0) is Refusal.UNKNOWN


# --- R4: a stolen database ---------------------------------------------------------------------------


def history(rotations: int, *, pepper: Pepper = UNPEPPERED) -> tuple[list[Session], list[RefreshToken]]:
    """Every row that the session ever had, and every token, oldest first."""
    session, token = login(pepper=pepper)
    rows, tokens = [session], [token]
    for number in range(rotations):
        verdict = decide(session, token, number * GRACE, pepper=pepper)
        assert isinstance(verdict, Redeem)
        session, token = verdict.after, verdict.token
        rows.append(session)
        tokens.append(token)
    return rows, tokens


def values_in(rows: list[Session]) -> set[bytes]:
    """Every secret that a thief of all ``rows`` could think of: what they hold, in pairs and in parts."""
    values = {
        value for row in rows for field in fields(row) if isinstance(value := getattr(row, field.name), bytes)
    }
    values |= {first + second for first in values for second in values}
    return values | {value[:size] for value in values for size in (16, 32, 48, 64)}


def opens(row: Session, secrets: set[bytes]) -> bool:
    """Whether one of ``secrets`` opens a seal of ``row``, in whatever generation."""
    for secret in secrets:
        for number in range(6):
            context = b"mintmark refresh token 1\x00" + RID + number.to_bytes(4)
            for sealed in filter(None, (row.sealed, row.parent_sealed)):
                with contextlib.suppress(SealBroken):
                    sealing.unseal_once(sealed, secret=secret, context=context)
                    return True
    return False


def test_every_row_that_ever_was_yields_no_token():
    """R4, RF9: with all rows of all backups and no token, no value in them opens a seal or is a signature."""
    rows, tokens = history(4)
    values = values_in(rows)
    assert not any(opens(row, values) for row in rows)
    for row in rows:
        for secret in (value for value in values if len(value) == 64):
            for number in range(6):
                assert decide(rows[-1], RefreshToken(row.rid, number, secret), 1000) is Refusal.FORGED
    stored = b"".join(values)
    assert SEED not in stored
    assert not any(token.signature in stored for token in tokens)


def test_the_attack_finds_a_seal_that_the_row_itself_opens():
    """R4 planted wrong: a private half sealed under what the row holds is found by that attack."""
    public = "Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()"
    wrong = planted(
        sessions, ("pepper.seal(seed, secret=token.signature,", f"pepper.seal(seed, secret={public},")
    )
    row, _ = wrong.start(BEGIN, rid=RID, seed=SEED, timing=TIMING, now=NOW)
    assert opens(row, values_in([row]))


def test_no_two_seals_of_a_session_share_a_key():
    """R4: each generation's seal has a key of its own, or two would reveal each other (one nonce)."""
    rows, tokens = history(6)
    assert len({row.sealed for row in rows}) == len(rows)
    for row, token in zip(rows, tokens, strict=True):
        for other in tokens:
            fits = other in (token, *tokens[token.generation - 1 : token.generation])
            if not fits:
                with pytest.raises(SealBroken):
                    steal(row, other)
        assert steal(row, token) == SEED


def steal(row: Session, token: RefreshToken, *, pepper: Pepper = UNPEPPERED) -> bytes:
    """What a thief with a row and a token makes of them: the seed of every generation, or SealBroken."""
    context = b"mintmark refresh token 1\x00" + RID + token.generation.to_bytes(4)
    for sealed in filter(None, (row.sealed, row.parent_sealed)):
        try:
            return pepper.unseal(sealed, secret=token.signature, context=context)
        except SealBroken:
            pass
    raise SealBroken


def test_residual_a_backup_and_a_spent_token_of_its_time_make_every_later_token():
    """R4, the residual: without a cluster key both together are the session, until it ends."""
    rows, tokens = history(4)
    assert steal(rows[1], tokens[1]) == steal(rows[1], tokens[0]) == SEED
    assert isinstance(decide(rows[4], generation(4), 4 * GRACE), Redeem)


def test_with_a_cluster_key_a_backup_and_a_spent_token_of_its_time_are_nothing():
    """R4: what the store never held is mixed into each seal, so both together open none."""
    rows, tokens = history(4, pepper=OURS)
    for row in rows:
        for token in tokens:
            with pytest.raises(SealBroken):
                steal(row, token)
    assert steal(rows[1], tokens[1], pepper=OURS) == SEED


def test_a_cluster_key_can_be_set_while_sessions_live():
    """A row sealed before it was set opens, and its next refresh is sealed with it."""
    session, first = login()
    verdict = decide(session, first, 0, pepper=OURS)
    assert isinstance(verdict, Redeem)
    with pytest.raises(SealBroken):
        decide(verdict.after, verdict.token, GRACE)
    assert isinstance(decide(verdict.after, verdict.token, GRACE, pepper=OURS), Redeem)
    # The parent's seal is still the old one, and serves a repeat all the same.
    assert isinstance(decide(verdict.after, first, 1, pepper=OURS), Redeem)


def test_a_cluster_key_can_be_replaced_while_sessions_live():
    """Each step of a rolling replacement opens what the step before and the one after seal."""
    steps = [
        OURS,
        Pepper(key=OURS.key, also=(THEIRS.key,)),
        Pepper(key=THEIRS.key, also=(OURS.key,)),
        THEIRS,
    ]
    for before, after in itertools.pairwise(steps):
        for first, second in ((before, after), (after, before)):
            session, token = login(pepper=first)
            verdict = decide(session, token, 0, pepper=second)
            assert isinstance(verdict, Redeem)
            assert isinstance(decide(verdict.after, token, 1, pepper=first), Redeem)
    with pytest.raises(SealBroken):
        decide(*login(pepper=OURS), 0, pepper=THEIRS)


def test_a_session_from_before_the_cluster_key_keeps_the_residual_of_its_old_backups():
    """R4, the residual: its seed is the same for its whole life, and an old seal was made without the key."""
    rows, tokens = history(1)
    verdict = decide(rows[1], tokens[1], 2 * GRACE, pepper=OURS)
    assert isinstance(verdict, Redeem)
    assert steal(rows[1], tokens[1]) == SEED
    with pytest.raises(SealBroken):
        steal(replace(verdict.after, parent_sealed=None), verdict.token)


def test_a_row_that_does_not_fit_its_token_is_damage_and_no_verdict():
    """A genuine token whose seal does not open is no theft and no forgery: the row was changed."""
    session, first = login()
    broken = replace(session, sealed=bytes(len(session.sealed)))
    with pytest.raises(SealBroken):
        decide(broken, first, 0)
    session, _ = redeem(session, first, 0)
    with pytest.raises(SealBroken):
        decide(replace(session, parent_sealed=None), first, 0)


# --- R5, R6, R7 --------------------------------------------------------------------------------------


def test_an_ended_session_redeems_nothing():
    """R5: newest, parent, spent and future tokens are all refused after the end."""
    session, first = login()
    session, second = redeem(session, first, 0)
    ended = replace(session, ended_at=NOW)
    for token in (first, second, generation(7)):
        assert decide(ended, token, 1) is Refusal.ENDED


def test_a_session_ends_by_idleness_and_by_age():
    """R6, RF3, RF4: refused at the very second; each refresh moves the first bound, none the second."""
    session, first = login()
    idle, total = TIMING.session_idle, TIMING.session_ttl
    assert decide(session, first, idle) is Refusal.EXPIRED
    token, offset = first, 0
    while offset + idle - 1 < total:
        offset += idle - 1
        session, token = redeem(session, token, offset)
        assert session.idle_until == min(at(offset + idle), session.expires_at)
    assert session.expires_at == session.idle_until == at(total)
    assert isinstance(decide(session, token, total - 1), Redeem)
    assert decide(session, token, total) is Refusal.EXPIRED


def test_a_shorter_idle_limit_does_not_cut_a_session_that_was_promised_more():
    """A refresh moves ``idle_until`` forward, never back."""
    session, first = login()
    session, _ = redeem(session, first, 0, timing=replace(TIMING, session_idle=Seconds(1000)))
    assert session.idle_until == at(TIMING.session_idle)


def test_a_session_is_bound_to_its_client():
    """R6, RF6: another client's request is refused and ends nothing."""
    session, first = login()
    assert decide(session, first, 0, client=ClientId("other")) is Refusal.OTHER_CLIENT
    assert decide(session, first, 0, client=ClientId("WEB")) is Refusal.OTHER_CLIENT


def test_a_refresh_changes_nothing_that_the_login_settled():
    """R6, RF5: scope, audience, subject, client and the absolute bound are the login's for ever."""
    rows, _ = history(5)
    settled = ("issuer", "rid", "sub", "client_id", "scope", "audience", "auth_time", "amr", "expires_at")
    for name in settled:
        assert len({getattr(row, name) for row in rows}) == 1


def test_a_genuine_token_from_the_future_is_a_restore_and_no_theft():
    """R7: a generation above the row's proves that the store went back in time."""
    rows, tokens = history(3)
    for row in rows[:3]:
        assert decide(row, tokens[3], 200) == FromTheFuture(row.rid)


def test_the_row_remembers_the_latest_access_token():
    """R5: ``last_exp`` only rises, whatever is minted; ``last_kid`` is the key of the last one."""
    session, first = login()
    verdict = decide(session, first, 0)
    assert isinstance(verdict, Redeem)
    noted = sessions.with_access_token(verdict, exp=at(900), kid=Kid("k1")).after
    assert (noted.last_exp, noted.last_kid) == (at(900), "k1")
    shorter = sessions.covering(noted, exp=at(60), kid=Kid("k2"))
    assert (shorter.last_exp, shorter.last_kid) == (at(900), "k2")


def test_the_last_generation_that_a_token_can_name_ends_the_session():
    """A count that is used up is an expired session, not an error (2^32 refreshes)."""
    session, _ = login()
    last = generation(2**32 - 1)
    context = b"mintmark refresh token 1\x00" + RID + (2**32 - 1).to_bytes(4)
    sealed = sealing.seal_once(SEED, secret=last.signature, context=context)
    session = replace(session, generation=2**32 - 1, sealed=sealed, parent=2**32 - 2)
    assert decide(session, last, 100) is Refusal.EXPIRED


# --- what the store is asked to change -----------------------------------------------------------------


def test_only_a_change_of_who_may_refresh_counts_the_version_up():
    """SESSION-6: a repeat lets no other redemption lose, but the first sight of a token is a change."""
    session, first = login()
    session, second = redeem(session, first, 0)
    again, _ = redeem(session, first, 1)
    assert again.version == session.version
    seen, _ = redeem(session, second, 1)
    assert (seen.version, seen.presented) == (session.version + 1, True)
    assert redeem(seen, second, 2)[0].version == seen.version
