"""The page on keys shows the table of states, whole; tests/docs sees that it is current."""

import pytest
from scripts.reference import transitions

from mintmark.core.key import TRANSITIONS, KeyEvent, KeyState


@pytest.mark.parametrize("gone", [None, *TRANSITIONS])
def test_each_transition_is_an_arrow_and_a_row(gone):
    """Every transition of the table is drawn once and explained once, and no other is."""
    table = {pair: after for pair, after in TRANSITIONS.items() if pair != gone}
    page = transitions(table)
    lines = page.splitlines()
    assert sum(" --> " in line and ": " in line for line in lines) == len(table)
    assert sum(line.startswith("| ") for line in lines) == 1 + len(table)
    for (before, event), after in TRANSITIONS.items():
        drawn = (before, event) in table
        assert (f"    {before} --> {after}: {event}\n" in page) is drawn
        assert (f"\n| {before} | {event} | {after} | " in page) is drawn


def test_each_event_says_what_happened():
    """No row is left without an explanation, and a life begins as ``prepared`` and ends as ``retired``."""
    page = transitions(TRANSITIONS)
    assert "|  |" not in page
    assert f"    [*] --> {KeyState.PREPARED}\n" in page
    assert f"    {KeyState.RETIRED} --> [*]\n" in page
    assert all(f"| {event} | " in page for event in KeyEvent)
