"""Cursors of the revocation log, and how long an entry must stay."""

from hypothesis import given
from hypothesis import strategies as st

from mintmark.core import base64url
from mintmark.core.log import MARK_BYTES, Cursor, denied_until, parse_cursor
from mintmark.core.timing import MAX_LEEWAY, Timing
from mintmark.units import NumericDate, Seconds

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
