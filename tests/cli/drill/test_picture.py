"""What a drill shows of what it measured."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.cli.drill import picture
from mintmark.cli.drill.family import report
from mintmark.cli.drill.logout import Measured, Spans
from mintmark.cli.output import Output
from mintmark.cli.status import Status

spans = st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=50).map(tuple)


def measured(accepted: tuple[float, ...], idle: tuple[float, ...] = (0.0005,)) -> Measured:
    found = Spans(accepted)
    return Measured(
        accepted=found,
        each=found,
        refused=found,
        answered=found,
        idle=Spans(idle),
        unavailable=0,
        processes=1,
    )


def printed(found: Measured, *, within: float | None, as_json: bool = False) -> tuple[Status, str]:
    out = io.StringIO()
    output = Output(as_json=as_json, stdout=out, stderr=io.StringIO())
    status = report(
        output, found, issuer="https://a.example", verifiers=2, logouts=3, every=0.005, within=within
    )
    return status, out.getvalue()


@given(spans)
def test_a_percentile_is_one_of_the_values_and_covers_its_share(values):
    """The p99 is a value that was measured, and at least 99 in 100 are no larger; the last is the largest."""
    for share in (0.5, 0.99, 1.0):
        found = Spans(values).at(share)
        assert found in values
        assert sum(value <= found for value in values) >= share * len(values)
    assert Spans(values).at(1.0) == max(values)


def test_one_late_logout_in_a_hundred_is_beyond_the_p99_and_two_are_not():
    """99 fast ones and a slow one have a fast p99; with a second slow one it is slow."""
    assert Spans((0.01,) * 99 + (5.0,)).at(0.99) == 0.01
    assert Spans((0.01,) * 98 + (5.0,) * 2).at(0.99) == 5.0


def test_nothing_measured_has_no_percentile():
    """Without a value there is none to tell."""
    with pytest.raises(ValueError, match="nothing"):
        Spans(()).at(0.5)


@given(spans, spans)
def test_a_picture_shows_every_value_once(accepted, idle):
    """Each value is in one bar of its side, and a bar is seen wherever there is a value."""
    found = measured(accepted, idle)
    counted = picture.counts(found.accepted)
    assert sum(counted) == len(accepted)
    drawn = [line.plain for line in picture.draw(found, unicode=False)]
    assert sum("#" in line for line in drawn) >= 1
    shown = [
        bool(number) or bool(other) for number, other in zip(counted, picture.counts(found.idle), strict=True)
    ]
    first, last = shown.index(True), len(shown) - shown[::-1].index(True)
    assert len(drawn) == 1 + last - first
    assert [("#" in line) for line in drawn[1:]] == shown[first:last]


@pytest.mark.parametrize(
    ("span", "text"), [(0.0, "0.00 ms"), (0.0005, "0.50 ms"), (0.012, "12 ms"), (1.2, "1.20 s")]
)
def test_times_are_in_units_that_people_read(span, text):
    """Below ten milliseconds with two digits behind the point, from a second on in seconds."""
    assert picture.spoken(span) == text


@pytest.mark.parametrize(
    ("within", "status", "met"),
    [(None, Status.OK, None), (1.0, Status.OK, True), (0.4, Status.FAILED, False)],
)
def test_the_exit_status_says_whether_the_target_was_met(within, status, met):
    """With a target status 1 says that it was missed; without one nothing can be."""
    found = measured((0.1, 0.2, 0.5))
    ended, text = printed(found, within=within, as_json=True)
    assert ended is status
    document = json.loads(text)
    assert document["met"] is met
    assert document["last_acceptance_ms"] == {"p50": 200.0, "p99": 500.0, "max": 500.0}
    ended, text = printed(found, within=within)
    assert ended is status
    assert ("MISSED" in text) is (met is False)
    assert ("was met" in text) is (met is True)


def test_people_are_told_the_resolution_and_see_the_baseline():
    """The interval between two questions and the idle wake-up stand beside the figures."""
    _, text = printed(measured((0.1, 0.2)), within=None)
    assert "asked every 5.00 ms" in text
    assert "an idle wake-up" in text
    assert "█" in text or "#" in text
