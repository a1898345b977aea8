"""A denylist denies exactly what was revoked, for at least as long as it matters, in any order."""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.core.denylist import Denylist
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.units import ClientId, Jti, Kid, NumericDate, Rid, Seconds

NAMES = ["a", "b", "c", "ab", "", "\n", "a\n", "\ra", "é", "\ud800", "!!!!", 'a\r!!!"\nb']


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
    return listed.covers(token.rid, token.jti, token.kid, token.client_id, token.iat)


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


TRICKY = [
    "", "a", "aa", "aaa", " ", "\0", "\n", "\r", "\na", "a\r", "a\n", "\ra", "\na\r", "é", "\u0100", "\ud800",
    "x" * 300,
]  # fmt: skip
"""Values that are parts of each other, or look like what a denylist writes between them."""


@pytest.mark.parametrize("count", [0, 100])
def test_no_value_passes_for_another(count):
    """With every tricky value but one revoked, and others around them, that one alone is not denied."""
    digits = {chr(33 + n) for n in range(94)}
    for absent in TRICKY:
        listed = Denylist()
        for number in range(count):
            listed.apply(event(Kind.RID, f"r{number}", 100))
        for value in TRICKY:
            if value != absent:
                listed.apply(event(Kind.RID, value, 100))
        for value in {*TRICKY, "r", "r1" if not count else "r100", "r1r1", "\r", *digits, "!!!!", '!!!"'}:
            rid = Rid(value)
            known = value in TRICKY and value != absent
            assert (asked(listed, Token(rid, None, Kid("k"), None, NumericDate(0))) is Kind.RID) is known


def test_the_time_beside_a_value_is_no_value():
    """Whatever is written beside the values, and all that spans two of them, denies nothing."""
    listed = Denylist()
    for name in ("a", "b"):
        listed.apply(event(Kind.RID, name, 100))
    (text,) = listed._rids.buckets.texts
    assert text is not None
    # The filter would send most of them away, by luck.
    listed._rids.buckets.absent[:] = bytes(len(listed._rids.buckets.absent))
    parts = {text[begin:end] for begin in range(len(text)) for end in range(begin + 1, len(text) + 1)}
    denied = {part for part in parts if asked(listed, Token(Rid(part), None, Kid("k"), None, NumericDate(0)))}
    assert denied == {"a", "b"}


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


def test_groups_go_one_by_one():
    """A group that is gone counts no more, while others live on; and what comes again is denied again."""
    listed = Denylist(width=Seconds(10))
    for number in range(100):
        listed.apply(event(Kind.RID, f"long{number}", 10_000))
    listed.apply(event(Kind.RID, "short", 100))
    assert listed.prune(NumericDate(100)) == 1
    assert len(listed) == 100
    assert asked(listed, Token(Rid("long5"), None, Kid("k"), None, NumericDate(0))) is Kind.RID
    listed.apply(event(Kind.RID, "short", 10_000))
    assert asked(listed, Token(Rid("short"), None, Kid("k"), None, NumericDate(0))) is Kind.RID
    assert len(listed) == 101


def test_memory_is_given_back():
    """When most of what a table holds has expired, it becomes small again."""
    listed = Denylist()
    for number in range(5_000):
        listed.apply(event(Kind.RID, f"r{number}", 1_000 if number else 100_000))
    listed.prune(NumericDate(2_000))
    assert len(listed) == 1
    assert listed.nbytes < 8_192


def test_an_event_that_comes_again_later_lives_longer():
    """Renewed with a later expiry, an entry outlives its first group."""
    listed = Denylist(width=Seconds(10))
    token = Token(Rid("r"), None, Kid("k"), None, NumericDate(0))
    listed.apply(event(Kind.RID, "r", 100))
    listed.apply(event(Kind.RID, "r", 500))
    listed.prune(NumericDate(200))
    assert asked(listed, token) is Kind.RID


def test_every_entry_is_denied_until_it_expires():
    """A thousand entries with as many ends: each is denied until its own, and none is left after the last."""
    listed = Denylist(width=Seconds(1))
    expiries = {f"t{number}": 10_000 + number * 7919 % 1_000 for number in range(1_000)}
    for name, expires_at in expiries.items():
        listed.apply(event(Kind.JTI, name, expires_at))
    assert len(listed) == 1_000
    for now in range(9_999, 11_000, 111):
        listed.prune(NumericDate(now))
        assert len(listed) == sum(expires_at > now for expires_at in expiries.values())
        for name, expires_at in expiries.items():
            if expires_at > now:
                assert asked(listed, Token(None, Jti(name), Kid("k"), None, NumericDate(0))) is Kind.JTI
    listed.prune(NumericDate(11_000))
    assert len(listed) == 0


@pytest.mark.parametrize("expires_at", [2**33 - 1, 2**33, 2**40, 2**63 - 1])
def test_what_ends_very_late_is_kept(expires_at):
    """An entry that ends in centuries, or never, is denied for as long."""
    listed = Denylist(width=Seconds(1))
    listed.apply(event(Kind.KID, "k", expires_at))
    assert listed.prune(NumericDate(2**33 - 2)) == 0
    assert asked(listed, Token(None, None, Kid("k"), None, NumericDate(0))) is Kind.KID


def test_what_has_ended_already_is_kept_for_a_while():
    """An event that comes after its end counts until the next group ends: our clock may go back."""
    listed = Denylist(width=Seconds(10))
    listed.apply(event(Kind.RID, "other", 10_000))
    listed.prune(NumericDate(1_000))
    listed.apply(event(Kind.RID, "r", 500))
    listed.apply(event(Kind.RID, "never", -(2**63)))
    for rid in ("r", "never"):
        assert asked(listed, Token(Rid(rid), None, Kid("k"), None, NumericDate(0))) is Kind.RID
    assert listed.prune(NumericDate(1_009)) == 0
    assert listed.prune(NumericDate(1_010)) == 2


def test_months_of_groups_take_no_more_memory_than_one():
    """A verifier that runs for months, with ever new groups, holds what lives and little else."""
    listed = Denylist(width=Seconds(1))
    for now in range(3_000):
        listed.apply(event(Kind.RID, f"r{now}", now + 10))
        listed.apply(event(Kind.RID, "always", now + 10))
        listed.prune(NumericDate(now))
        assert asked(listed, Token(Rid("always"), None, Kid("k"), None, NumericDate(0))) is Kind.RID
        assert len(listed) <= 12
        assert listed.nbytes < 6_000


def test_groups_come_and_go_beside_a_large_one():
    """What lives for long is denied throughout, and what came and went takes no memory for long."""
    listed = Denylist(width=Seconds(1))
    for number in range(2_000):
        listed.apply(event(Kind.RID, f"long{number}", 10**6))
    before = listed.nbytes
    for now in range(6_000):
        listed.apply(event(Kind.RID, f"j{now}", now + 1))
        assert listed.prune(NumericDate(now + 1)) == 1
    assert len(listed) == 2_000
    assert listed.nbytes < 3 * before
    for number in range(2_000):
        rid = Rid(f"long{number}")
        assert asked(listed, Token(rid, None, Kid("k"), None, NumericDate(0))) is Kind.RID


def test_a_table_that_moves_denies_all_the_while():
    """While a table grows, loses most of what it holds and shrinks, in steps, nothing live is missed."""
    listed = Denylist(width=Seconds(1))
    for number in range(3_000):
        listed.apply(event(Kind.RID, f"r{number}", 10 if number % 10 else 100))
        newest, some = Rid(f"r{number}"), Rid(f"r{number * 7919 % (number + 1)}")
        for rid in (newest, some):
            assert asked(listed, Token(rid, None, Kid("k"), None, NumericDate(0))) is Kind.RID
    assert asked(listed, Token(Rid("stranger"), None, Kid("k"), None, NumericDate(0))) is None
    largest = listed.nbytes
    assert listed.prune(NumericDate(10)) == 2_700
    for now in range(11, 100):
        listed.prune(NumericDate(now))
        for number in range(0, 3_000, 10):
            rid = Rid(f"r{number}")
            assert asked(listed, Token(rid, None, Kid("k"), None, NumericDate(0))) is Kind.RID
    assert listed.nbytes < largest / 4


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
    """At most 64 bytes an entry, a handful of lines a lookup, and neither an entry nor a call to prune does
    more than a bounded piece of whatever must be done to all."""
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
    more = [event(Kind.RID, f"m{number}", 5_000) for number in range(70_000)]
    worst = 0
    for number, one in enumerate(more):
        if number % 500 and not listed._rids.live > 10 * len(listed._rids.buckets.texts) - 3:
            listed.apply(one)
        else:
            worst = max(worst, traced(lambda: listed.apply(one)))  # noqa: B023
    assert 0 < worst < 1_000
    assert traced(lambda: listed.prune(NumericDate(2_400))) < 150_000
    assert len(listed) == 70_000


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
