"""Cursors of the revocation log, and how long an entry must stay."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.core import base64url
from mintmark.core.log import (
    MARK_BYTES,
    Admission,
    Cursor,
    admit,
    denied_by_time_until,
    denied_until,
    not_before,
    parse_cursor,
)
from mintmark.core.minting import BACKDATED
from mintmark.core.timing import MAX_LEEWAY, Timing
from mintmark.units import NumericDate, Seconds

TIMING = Timing()
cursors = st.builds(Cursor, st.integers(0, 2**63 - 1), st.binary(min_size=MARK_BYTES, max_size=MARK_BYTES))


@given(cursors)
def test_a_cursor_reads_back_as_itself(cursor: Cursor):
    """What a reader is given it can hand in again: 22 characters that need no escape in a URL."""
    assert parse_cursor(cursor.text()) == cursor
    assert len(cursor.text()) == 22


@given(st.text() | st.binary(max_size=32).map(base64url.encode) | st.text("AZaz09-_", max_size=24))
def test_any_other_text_is_no_cursor(text: str):
    """Whatever the text, the answer is a cursor that spells exactly it, or None."""
    cursor = parse_cursor(text)
    assert cursor is None or cursor.text() == text


def test_a_cursor_that_no_store_can_hold_is_none():
    """A ``seq`` from 2^63 on would break the store's query, whoever invents it; the last below is fine."""
    mark = bytes(MARK_BYTES)
    assert parse_cursor(base64url.encode((2**63).to_bytes(8) + mark)) is None
    assert parse_cursor(base64url.encode(b"\xff" * 8 + mark)) is None
    assert parse_cursor(Cursor(2**63 - 1, mark).text()) == Cursor(2**63 - 1, mark)


def test_an_entry_outlives_the_largest_leeway_and_skew():
    """R5: an event lasts until exp + 300 s + s, when no verifier accepts the token any more."""
    timing = Timing(clock_skew=Seconds(7))
    assert denied_until(NumericDate(1_000), timing) == 1_000 + MAX_LEEWAY + 7


@pytest.mark.parametrize(
    ("left", "live_in_session", "live_of_client", "admission"),
    [
        (60, 0, 0, Admission.APPEND),
        (60, 15, 999, Admission.APPEND),
        (60, 16, 0, Admission.END_SESSION),
        (60, 16, 1_000, Admission.END_SESSION),
        (60, 15, 1_000, Admission.REFUSE),
        (60, None, 999, Admission.APPEND),
        (60, None, 1_000, Admission.REFUSE),
        (-TIMING.clock_skew - MAX_LEEWAY + 1, 0, 0, Admission.APPEND),
        (-TIMING.clock_skew - MAX_LEEWAY, 99, 9_999, Admission.NOTHING),
    ],
)
def test_single_tokens_cannot_fill_the_log(left, live_in_session, live_of_client, admission):
    """V4: sixteen events a session, then it ends; a thousand a client, then it waits; none when expired."""
    now = NumericDate(1_000_000)
    found = admit(
        NumericDate(now + left),
        live_in_session=live_in_session,
        live_of_client=live_of_client,
        timing=TIMING,
        now=now,
    )
    assert found is admission


@given(
    at=st.floats(1_000, 2_000),
    off=st.floats(-1, 1),
    late=st.floats(0, 1),
    ttl=st.integers(1, 900),
)
def test_revocation_by_time_reaches_all_that_any_node_issued_before_it(at, off, late, ttl):
    """V4: whatever a node's clock and however late it hears, within skew and propagation: what it gave is
    denied, and stays so until nobody accepts it any more."""
    timing = Timing(clock_skew=Seconds(30), propagation=Seconds(5), access_ttl=Seconds(900))
    denied = not_before(NumericDate(int(at)), timing)
    minted_at = int(at + late * timing.propagation + off * timing.clock_skew)
    iat, exp = minted_at - BACKDATED, NumericDate(minted_at + ttl)
    assert iat <= denied
    assert denied_by_time_until(denied, timing) >= denied_until(exp, timing)


def test_revocation_by_time_may_reach_less_far_but_never_further():
    """V4: a time in the past is taken as it is, one past what nodes wait for is not; and a node that has not
    changed its timing yet counts too."""
    timing = Timing(clock_skew=Seconds(30), propagation=Seconds(5))
    now = NumericDate(1_000)
    assert not_before(now, timing, before=NumericDate(10)) == 10
    assert not_before(now, timing, before=NumericDate(5_000)) == not_before(now, timing) == 1_036
    wide = replace(timing, bounds=Timing(clock_skew=Seconds(60), propagation=Seconds(5)))
    assert not_before(now, wide) == 1_066
    longer = replace(timing, bounds=Timing(access_ttl=Seconds(1_800)))
    assert denied_by_time_until(now, longer) == 1_000 + BACKDATED + 1_800 + MAX_LEEWAY + 30
