"""A page in its compact form: small, read whole or not at all, and the same events as in JSON."""

import contextlib
import struct
import tracemalloc
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mintmark.core import base64url
from mintmark.core.feed import FeedPolicy, Malformed, Page
from mintmark.core.feed_table import (
    RECORD_BYTES,
    parse_table,
    write_event,
    write_page,
    write_records,
    write_table,
)
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.units import Issuer, NumericDate

T0 = NumericDate(1_800_000_000)
ISSUER = Issuer("https://auth.example.com")
POLICY = FeedPolicy()

IDS = st.binary(min_size=16, max_size=16).map(base64url.encode)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
TIMES = st.one_of(
    st.integers(T0 - 10, T0 + 100_000), st.integers(-(2**63), 2**63 - 1), st.just(T0 + 2**32)
).map(NumericDate)


@st.composite
def events(draw) -> RevocationEvent:
    """Any event that a log can hold."""
    kind = draw(st.sampled_from(Kind))
    return RevocationEvent(
        kind=kind,
        value=draw(st.one_of(IDS, TEXTS)),
        expires_at=draw(TIMES),
        not_before=draw(TIMES) if kind.by_time else None,
    )


def table(of: list[RevocationEvent], *, base: int = T0, complete: bool = True) -> bytes:
    """The events as an issuer writes them."""
    records, others = write_records(of, base=NumericDate(base))
    page = write_page(
        issuer=ISSUER, cursor="c1", complete=complete, at=T0, events=[write_event(event) for event in others]
    )
    return write_table(page, records, base=NumericDate(base))


def parsed(body: bytes, policy: FeedPolicy = POLICY) -> Page:
    """What a follower reads."""
    return parse_table(body, issuer=ISSUER, policy=policy)


def rid(number: int, span: int = 900) -> RevocationEvent:
    """A session that was logged out."""
    return RevocationEvent(
        kind=Kind.RID, value=base64url.encode(number.to_bytes(16)), expires_at=NumericDate(T0 + span)
    )


@given(st.lists(events(), max_size=20), st.booleans(), TIMES.filter(lambda base: base <= 2**63 - 2**32))
def test_what_is_written_is_read(of, complete, base):
    """Every event of every kind comes out as it went in, once; nothing else does."""
    page = parsed(table(of, base=base, complete=complete))
    assert Counter(page.events) == Counter(of)
    assert (page.cursor, page.complete, page.ignored, page.at) == ("c1", complete, 0, T0)


@given(st.lists(events(), max_size=20), st.integers(-25, 25), st.integers(-25, 25), st.integers(-3, 3))
def test_any_slice_of_the_events_is_that_of_their_list(of, begin, end, step):
    """The events are a sequence: taking some makes those and no others."""
    lazy = parsed(table(of)).events
    whole = list(lazy)
    assert len(lazy) == len(whole) == len(of)
    assert list(lazy[begin : end : step or None]) == whole[begin : end : step or None]
    if -len(of) <= begin < len(of):
        assert lazy[begin] == whole[begin]


def test_a_session_takes_21_bytes():
    """A million of them are 21 megabytes, whenever they expire; a token takes as much."""
    sessions = [rid(number, number * 7) for number in range(1_000)]
    tokens = [
        RevocationEvent(kind=Kind.JTI, value=event.value, expires_at=event.expires_at) for event in sessions
    ]
    empty = len(table([]))
    assert len(table(sessions)) == len(table(tokens)) == empty + 21_000


@given(st.binary(max_size=300))
@example(b"")
@example(b"MMR1")
@example(struct.pack(">4sIq", b"MMR1", 2**32 - 1, 0))
def test_no_bytes_raise_anything_but_malformed(body):
    """Whatever comes, a page comes out, or malformed."""
    with contextlib.suppress(Malformed):
        list(parsed(body).events)


@given(st.lists(events(), max_size=5), st.data())
def test_no_damage_raises_anything_but_malformed(of, data):
    """A page with any octets changed, cut or put in is read or refused."""
    body = bytearray(table(of))
    at = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(at, len(body)))
    body[at:end] = data.draw(st.binary(max_size=30))
    with contextlib.suppress(Malformed):
        page = parsed(bytes(body))
        assert len(list(page.events)) == len(page.events)
        assert all(-(2**63) <= event.expires_at < 2**63 for event in page.events)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda body: body[:15], "ends in its head"),
        (lambda body: b"MMR2" + body[4:], "no such head"),
        (lambda body: body[:4] + (len(body)).to_bytes(4) + body[8:], "no such head"),
        (lambda body: body[:8] + (2**63 - 2**32 + 1).to_bytes(8) + body[16:], "no such head"),
        (lambda body: body[:-1], "ends in a record"),
        (lambda body: body + b"\1", "ends in a record"),
        (lambda body: body[:16] + b"[" + body[17:], "not as agreed"),
        (lambda body: body.replace(b"auth.example.com", b"evil.example.com"), "another issuer"),
    ],
)
def test_a_table_that_breaks_the_format_is_refused_whole(damage, reason):
    """Half of a log is worse than an old one: nothing of such a page is taken."""
    with pytest.raises(Malformed, match=reason):
        parsed(damage(table([rid(1), rid(2)])))


def test_a_table_is_bounded():
    """Its bytes and its events, records and others counted together, have the limits of a page in JSON."""
    body = table([rid(1), rid(2), RevocationEvent(kind=Kind.KID, value="k", expires_at=T0)])
    with pytest.raises(Malformed, match="too large"):
        parsed(body, FeedPolicy(page_size=len(body) - 1))
    with pytest.raises(Malformed, match="too many"):
        parsed(body, FeedPolicy(page_events=2))
    assert len(parsed(body, FeedPolicy(page_size=len(body), page_events=3)).events) == 3


def test_unknown_records_are_ignored_and_counted():
    """A newer issuer's records do not break an older follower, and hide none of the others."""
    body = bytearray(table([rid(1), rid(2), rid(3)]))
    body[-2 * RECORD_BYTES] = 9
    page = parsed(bytes(body))
    assert (list(page.events), page.ignored) == ([rid(1), rid(3)], 1)


def test_an_id_with_a_second_spelling_is_written_out():
    """What is no canonical base64url of 128 bits is denied as it is spelt, and as nothing else."""
    odd = RevocationEvent(kind=Kind.RID, value="A" * 21 + "B", expires_at=T0)
    records, others = write_records([odd], base=T0)
    assert (records, others) == (b"", [odd])


def test_reading_a_page_takes_no_more_memory_than_its_bytes_once_more():
    """What a hostile page costs is bounded by its size, which is bounded; its events cost what is taken."""
    body = table([rid(number) for number in range(10_000)])
    tracemalloc.start()
    try:
        lazy = parsed(body).events
        _, read = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for start in range(0, len(lazy), 500):
            lazy[start : start + 500]
        _, taken = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read < 1.5 * len(body)
    assert taken < 1.5 * len(body) + 500 * 1_000


def test_taking_a_slice_makes_nothing_else():
    """A page of twenty thousand events costs its bytes until its events are taken, a few at a time."""
    lazy = parsed(table([rid(number) for number in range(20_000)])).events
    assert lazy[19_999] == rid(19_999)
    assert list(lazy[10_000:10_002]) == [rid(10_000), rid(10_001)]
