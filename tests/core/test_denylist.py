"""A denylist denies exactly what was revoked, for at least as long as it matters, in any order."""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.core import denylist as denylists
from mintmark.core.denylist import MAX_GROUPS, Denylist
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.units import ClientId, Jti, Kid, NumericDate, Rid, Seconds

NAMES = ["a", "b", "c"]


@dataclass(frozen=True)
class Token:
    """The facts about a token that a denylist looks at."""

    rid: Rid | None
    jti: Jti | None
    kid: Kid
    client_id: ClientId | None
    iat: NumericDate


def event(kind: Kind, value: str, expires_at: int, not_before: int | None = None) -> RevocationEvent:
    when = None if not_before is None else NumericDate(not_before)
    return RevocationEvent(kind=kind, value=value, expires_at=NumericDate(expires_at), not_before=when)


def denies(denied: RevocationEvent, token: Token) -> bool:
    """The meaning of one event, from its definition."""
    match denied.kind:
        case Kind.RID:
            return denied.value == token.rid
        case Kind.JTI:
            return denied.value == token.jti
        case Kind.KID:
            return denied.value == token.kid
        case Kind.CLIENT:
            return denied.value == token.client_id and token.iat <= (denied.not_before or 0)
        case Kind.ALL:
            return token.iat <= (denied.not_before or 0)


def asked(listed: Denylist, token: Token) -> Kind | None:
    kind = listed.covers(token.rid, token.jti, token.kid, token.client_id, token.iat)
    probe = denylists.probe(token.rid, token.jti, token.kid, token.client_id, token.iat)
    assert (listed.covers_probe(probe) is None) is (kind is None)
    return kind


TIMES = st.integers(0, 2_000)


@st.composite
def events(draw: st.DrawFn) -> RevocationEvent:
    kind = draw(st.sampled_from(Kind))
    when = draw(TIMES) if kind.by_time else None
    value = "" if kind is Kind.ALL else draw(st.sampled_from(NAMES))
    return event(kind, value, draw(TIMES), when)


tokens = st.builds(
    Token,
    rid=st.sampled_from([None, *NAMES]),
    jti=st.sampled_from([None, *NAMES]),
    kid=st.sampled_from(NAMES),
    client_id=st.sampled_from([None, *NAMES]),
    iat=TIMES,
)


@given(
    st.lists(events(), max_size=30), st.lists(tokens, min_size=1, max_size=10), st.integers(1, 700), st.data()
)
def test_v3_order_repetition_and_pruning_change_nothing_that_matters(log, judged, width, data):
    """V3: whatever the order, however often an event comes, whenever pruning runs between: an event that has
    not expired denies its tokens, and a token that no event ever named is not denied."""
    now = data.draw(TIMES)
    listed = Denylist(width=Seconds(width))
    steps = data.draw(st.permutations(log + log[: data.draw(st.integers(0, len(log)))]))
    for step in steps:
        listed.apply(step)
        if data.draw(st.booleans()):
            listed.prune(NumericDate(data.draw(st.integers(0, now))))
    listed.prune(NumericDate(now))
    for token in judged:
        kind = asked(listed, token)
        live = [e for e in log if e.expires_at > now and denies(e, token)]
        ever = [e for e in log if denies(e, token)]
        if live:
            assert kind is not None
        if kind is not None:
            assert kind in {e.kind for e in ever}


@given(st.lists(events(), max_size=20), st.lists(tokens, min_size=1, max_size=5), st.data())
def test_two_readers_of_one_log_agree(log, judged, data):
    """Two denylists that got the same events in different orders, one of them twice, say the same."""
    one, other = Denylist(), Denylist()
    for step in log:
        one.apply(step)
    for step in data.draw(st.permutations(log + log)):
        other.apply(step)
    assert len(one) == len(other)
    for token in judged:
        assert (asked(one, token) is None) is (asked(other, token) is None)


def test_kinds_are_separate_domains():
    """The same text as rid, jti, kid and client is four different things."""
    values = {Kind.RID: "rid", Kind.JTI: "jti", Kind.KID: "kid", Kind.CLIENT: "client"}
    token = Token(Rid("rid"), Jti("jti"), Kid("kid"), ClientId("client"), NumericDate(5))
    for kind, own in values.items():
        for value in values.values():
            listed = Denylist()
            listed.apply(event(kind, value, 100, 50 if kind.by_time else None))
            assert asked(listed, token) is (kind if own == value else None)


def test_a_domain_cannot_be_forged_by_its_value():
    """No value of one kind has the mark of another kind's value, whatever it begins with."""
    marks = {
        mark
        for text in ("", "x", "rx", "jx", "kx", "Rx", "\0", "\ud800", "x" * 10_000)
        for mark in denylists.probe(Rid(text), Jti(text), Kid(text), None, NumericDate(0)).hashes
    }
    assert len({(first, second) for _, first, second in marks}) == 27


@pytest.mark.parametrize(("iat", "denied"), [(99, True), (100, True), (101, False)])
@pytest.mark.parametrize("kind", [Kind.CLIENT, Kind.ALL])
def test_not_before_includes_its_second(kind, iat, denied):
    """``client`` and ``all`` deny iat <= not_before, and a token of the next second is good."""
    listed = Denylist()
    listed.apply(event(kind, "client" if kind is Kind.CLIENT else "", 1000, 100))
    token = Token(None, None, Kid("k"), ClientId("client"), NumericDate(iat))
    assert asked(listed, token) is (kind if denied else None)


def test_the_latest_not_before_wins_in_any_order():
    """A second, earlier event for a client takes nothing back."""
    for order in ((100, 50), (50, 100)):
        listed = Denylist()
        for when in order:
            listed.apply(event(Kind.CLIENT, "c", 1000, when))
        assert asked(listed, Token(None, None, Kid("k"), ClientId("c"), NumericDate(100))) is Kind.CLIENT
        assert len(listed) == 1


def test_an_earlier_not_before_that_lasts_longer_is_kept():
    """When the wider denial has expired, the narrower one that has not still denies its tokens."""
    for order in ([(100, 500), (50, 900)], [(50, 900), (100, 500)]):
        listed = Denylist()
        for when, expires_at in order:
            listed.apply(event(Kind.CLIENT, "c", expires_at, when))
        listed.apply(event(Kind.CLIENT, "c", 400, 40))
        assert len(listed) == 2
        assert listed.prune(NumericDate(500)) == 1
        for iat, kind in ((50, Kind.CLIENT), (51, None)):
            assert asked(listed, Token(None, None, Kid("k"), ClientId("c"), NumericDate(iat))) is kind


def test_many_times_for_one_client_cost_what_few_do():
    """Beyond 64 that each add something the earliest are one, which denies their tokens and no others."""
    listed = Denylist()
    for n in range(1_000):
        listed.apply(event(Kind.CLIENT, "c", 5_000 + n, 4_000 - n))
    assert len(listed) == 64
    assert traced(lambda: listed.apply(event(Kind.CLIENT, "c", 7_000, 1_000))) < 300
    assert len(listed) == 64
    for iat, kind in ((4_000, Kind.CLIENT), (4_001, None)):
        assert asked(listed, Token(None, None, Kid("k"), ClientId("c"), NumericDate(iat))) is kind
    listed.prune(NumericDate(6_999))
    for iat, kind in ((1_000, Kind.CLIENT), (4_001 - 64, Kind.CLIENT), (4_002 - 64, None)):
        assert asked(listed, Token(None, None, Kid("k"), ClientId("c"), NumericDate(iat))) is kind


def test_what_denies_by_time_expires_to_the_second():
    """A client's event is kept until its expires_at and no longer."""
    listed = Denylist()
    listed.apply(event(Kind.CLIENT, "c", 500, 100))
    assert (listed.prune(NumericDate(499)), len(listed)) == (0, 1)
    assert (listed.prune(NumericDate(500)), len(listed)) == (1, 0)


def test_the_value_of_all_means_nothing():
    """An ``all`` event denies whatever text its value holds."""
    listed = Denylist()
    listed.apply(event(Kind.ALL, "anything", 1000, 100))
    assert asked(listed, Token(None, None, Kid("k"), None, NumericDate(100))) is Kind.ALL


def test_pruning_drops_what_has_expired_and_nothing_else():
    """An entry goes with its group, never before it expires and at most one width after it."""
    listed = Denylist(width=Seconds(60))
    token = Token(Rid("r"), None, Kid("k"), None, NumericDate(0))
    listed.apply(event(Kind.RID, "r", 100))
    assert listed.prune(NumericDate(99)) == 0
    assert asked(listed, token) is Kind.RID
    assert listed.prune(NumericDate(160)) == 1
    assert asked(listed, token) is None
    assert len(listed) == 0
    listed.apply(event(Kind.RID, "r", 1000))
    assert asked(listed, token) is Kind.RID


def test_the_expired_are_not_denied_beside_the_living():
    """A group that is gone denies nothing, also while its entries still lie in the table."""
    listed = Denylist(width=Seconds(10))
    for number in range(100):
        listed.apply(event(Kind.RID, f"long{number}", 10_000))
    listed.apply(event(Kind.RID, "short", 100))
    before = listed.nbytes
    assert listed.prune(NumericDate(100)) == 1
    assert listed.nbytes == before, "nothing was rebuilt"
    assert asked(listed, Token(Rid("short"), None, Kid("k"), None, NumericDate(0))) is None
    assert asked(listed, Token(Rid("long5"), None, Kid("k"), None, NumericDate(0))) is Kind.RID
    listed.apply(event(Kind.RID, "short", 10_000))
    assert asked(listed, Token(Rid("short"), None, Kid("k"), None, NumericDate(0))) is Kind.RID
    assert len(listed) == 101


def test_both_hashes_count():
    """An entry is found by its two hashes together: one that agrees without the other is a stranger."""
    listed = Denylist()
    listed.apply(event(Kind.RID, "r", 100))
    table = listed._table
    ((_, mark, other),) = (
        entry
        for entry in denylists.probe(Rid("r"), None, Kid("k"), None, NumericDate(0)).hashes
        if entry[0] is Kind.RID
    )
    assert denylists._find(table, mark, other)
    assert not denylists._find(table, mark, other ^ 1)
    assert not denylists._find(table, mark + table.size, other)


def test_memory_is_given_back():
    """When most of what a table holds has expired, it becomes small again."""
    listed = Denylist()
    for number in range(5_000):
        listed.apply(event(Kind.RID, f"r{number}", 1_000 if number else 100_000))
    listed.prune(NumericDate(2_000))
    assert len(listed) == 1
    assert listed.nbytes < 1_024


def test_an_event_that_comes_again_later_lives_longer():
    """Renewed with a later expiry, an entry outlives its first group."""
    listed = Denylist(width=Seconds(10))
    token = Token(Rid("r"), None, Kid("k"), None, NumericDate(0))
    listed.apply(event(Kind.RID, "r", 100))
    listed.apply(event(Kind.RID, "r", 500))
    listed.prune(NumericDate(200))
    assert asked(listed, token) is Kind.RID


def test_groups_are_bounded_and_sharing_them_loses_nothing():
    """A thousand different expiries make at most 255 groups, and every entry is denied until it expires."""
    listed = Denylist(width=Seconds(1))
    expiries = {f"t{number}": 10_000 + number * 7919 % 1_000 for number in range(1_000)}
    for name, expires_at in expiries.items():
        listed.apply(event(Kind.JTI, name, expires_at))
    assert len(listed._ends) <= MAX_GROUPS
    assert len(listed) == 1_000
    for now in range(9_999, 11_000, 111):
        listed.prune(NumericDate(now))
        for name, expires_at in expiries.items():
            if expires_at > now:
                assert asked(listed, Token(None, Jti(name), Kid("k"), None, NumericDate(0))) is Kind.JTI
    listed.prune(NumericDate(11_000))
    assert len(listed) == 0


def test_numbers_of_dead_groups_are_used_again():
    """A verifier that runs for months, with a new group every few minutes, never runs out of groups."""
    listed = Denylist(width=Seconds(1))
    for now in range(3_000):
        listed.apply(event(Kind.RID, f"r{now}", now + 10))
        listed.apply(event(Kind.RID, "always", now + 10))
        listed.prune(NumericDate(now))
        assert asked(listed, Token(Rid("always"), None, Kid("k"), None, NumericDate(0))) is Kind.RID
        assert len(listed) <= 12
    assert listed.nbytes < 4_096


def test_numbers_of_dead_groups_are_used_again_in_a_full_table():
    """Groups come and go beside a large living one without running out of numbers."""
    listed = Denylist(width=Seconds(1))
    for number in range(2_000):
        listed.apply(event(Kind.RID, f"long{number}", 10**6))
    for now in range(600):
        listed.apply(event(Kind.JTI, f"j{now}", now + 1))
        assert asked(listed, Token(None, Jti(f"j{now}"), Kid("k"), None, NumericDate(0))) is Kind.JTI
        assert listed.prune(NumericDate(now + 1)) == 1
    assert len(listed) == 2_000


def traced(work: Callable[[], object]) -> int:
    """How many lines of Python ``work`` runs."""
    lines = 0

    def tracer(_frame, kind, _arg):
        nonlocal lines
        lines += kind == "line"
        return tracer

    sys.settrace(tracer)
    try:
        work()
    finally:
        sys.settrace(None)
    return lines


def test_memory_and_work_at_a_hundred_thousand_entries():
    """At most 64 bytes an entry, a handful of lines a lookup, and pruning a group touches no entry."""
    listed = Denylist()
    for number in range(100_000):
        listed.apply(event(Kind.RID, f"r{number}", 1_000 + number % 1_200))
        if number % 9_973 == 0:
            assert listed.nbytes <= 64 * len(listed) + 512
    assert listed.nbytes <= 64 * 100_000
    strangers = [Rid(f"x{number}") for number in range(500)]

    def ask() -> None:
        for rid in strangers:
            listed.covers(rid, Jti("j"), Kid("k"), ClientId("c"), NumericDate(5))

    assert traced(ask) < 25 * len(strangers)
    assert traced(lambda: listed.prune(NumericDate(1_200))) < 300
    assert len(listed) < 90_000


def test_a_question_costs_only_for_kinds_that_are_there():
    """With nothing revoked a question is a few lines, and each kind that is there adds a few: no more."""

    def cost() -> int:
        # Hashes are keyed anew in each process: one question in a hundred or so looks at a stranger's entry.
        questions = [(Rid(f"r{n}"), Jti(f"j{n}"), Kid(f"k{n}"), ClientId(f"c{n}")) for n in range(20)]
        return min(traced(lambda: listed.covers(*asked, NumericDate(5))) for asked in questions)  # noqa: B023

    listed = Denylist()
    nothing = cost()
    listed.apply(event(Kind.RID, "another", 100))
    one = cost()
    listed.apply(event(Kind.JTI, "another", 100))
    two = cost()
    assert nothing < one < two
    listed.prune(NumericDate(10_000))
    assert cost() == nothing


def test_a_reader_beside_the_writer_sees_every_entry():
    """While entries come, groups die and the table grows, an entry once applied is found at every moment."""
    listed = Denylist(width=Seconds(1))
    listed.apply(event(Kind.RID, "there", 10**9))
    missed, stop = [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            if listed.covers(Rid("there"), None, Kid("k"), None, NumericDate(0)) is None:
                missed.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(20_000):
            listed.apply(event(Kind.RID, f"r{number}", number // 100 + 5))
            if number % 100 == 0:
                listed.prune(NumericDate(number // 100))
    finally:
        stop.set()
        reader.join()
    assert not missed


def test_a_group_spans_some_time():
    """A width of nothing is refused."""
    with pytest.raises(ValueError, match="second"):
        Denylist(width=Seconds(0))
