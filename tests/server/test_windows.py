"""Two addresses in one grace window are noticed, and nothing else is (R2, residual)."""

from mintmark.server.windows import Windows
from mintmark.units import Rid

RID = Rid("A" * 22)


def test_another_address_in_one_window_is_noticed_once_each_time_it_changes():
    """The same generation from another address is shared; a new generation begins anew."""
    windows = Windows()
    seen = [(1, "a"), (1, "a"), (1, "b"), (1, "b"), (2, "a"), (2, "a"), (2, "b")]
    assert [windows.is_shared(RID, *one) for one in seen] == [False, False, True, False, False, False, True]


def test_memory_of_windows_is_bounded():
    """However many sessions are refreshed, the oldest are forgotten."""
    windows = Windows()
    windows.is_shared(RID, 1, "a")
    for number in range(10_000):
        windows.is_shared(Rid(str(number)), 1, "a")
    assert not windows.is_shared(RID, 1, "b")
