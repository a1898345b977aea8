"""Spans as text."""

import pytest

from mintmark.units import spoken


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59, "59s"),
        (935, "15m 35s"),
        (14_400, "4h"),
        (90_061, "1d 1h"),
        (86_405, "1d 5s"),
        (-60, "1m"),
    ],
)
def test_spans_are_read_at_a_glance(seconds, text):
    """The two largest units that are not zero."""
    assert spoken(seconds) == text
